"""A history on a log, and its export."""

import random
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from jobledger.service.export.exporter import Export
from jobledger.service.export.query import ExportQuery
from jobledger.service.export.sources import LogSource
from jobledger.store.log import EventLog
from tests.support.histories import append_all, random_drafts


async def write_history(log: EventLog, *, seed: int = 0, jobs: int = 8, events: int = 200) -> None:
    """Append random events of some jobs; some are invalid."""
    await append_all(log, random_drafts(random.Random(seed), jobs, events))


class Kept:
    """An export format that keeps the events."""

    def __init__(self) -> None:
        self.documents: list[bytes] = []

    def write(self, documents: Sequence[bytes]) -> None:
        """Keep the events."""
        self.documents += documents

    def finish(self) -> None:
        """Finish."""


async def exported(log: EventLog, **asked: Any) -> tuple[list[dict[str, Any]], Export]:
    """Return the decoded events of an export, and the export."""
    replay = await LogSource.open(log, ExportQuery(**asked), now=time.time_ns())
    kept = Kept()
    export = Export(replay.range, kept, lambda _: None)
    await export.run(replay.chunks())
    return [msgspec.json.decode(each) for each in kept.documents], export
