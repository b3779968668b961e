"""What the tests of replays share: a history on a log, and a telling of it."""

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
    """Random events of some jobs; some make no sense."""
    await append_all(log, random_drafts(random.Random(seed), jobs, events))


class Kept:
    """A form that keeps what it is told."""

    def __init__(self) -> None:
        self.documents: list[bytes] = []

    def write(self, documents: Sequence[bytes]) -> None:
        """Keep them."""
        self.documents += documents

    def finish(self) -> None:
        """Nothing is left to do."""


async def told(log: EventLog, **asked: Any) -> tuple[list[dict[str, Any]], Export]:
    """The events that a replay tells, decoded, and how far it came."""
    replay = await LogSource.open(log, ExportQuery(**asked), now=time.time_ns())
    kept = Kept()
    telling = Export(replay.range, kept, lambda _: None)
    await telling.run(replay.chunks())
    return [msgspec.json.decode(each) for each in kept.documents], telling
