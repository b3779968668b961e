"""A sealer on a log, with its keys and files."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobledger import JetStreamLog, Projector, View
from jobledger.projections.tree_reader import TreeReader
from jobledger.service.audit.accepted_logs import ACCEPTED_FILE, AcceptedFile
from jobledger.service.audit.keys import KeyFile
from jobledger.service.audit.seal_scan import SCAN_FILE
from jobledger.service.audit.sealer import SEALS_FILE, Sealer
from jobledger.service.audit.seals import SealFile
from jobledger.store.jetstream.kv import JetStreamKeyHistory
from tests.support.histories import append_all, random_drafts

ORIGIN = "jobledger/test"
MARK = "test"


@dataclass
class Sealing:
    """A sealing replica; its sealer is not started."""

    log: JetStreamLog
    projector: Projector
    tree: TreeReader
    sealer: Sealer
    seals: JetStreamKeyHistory
    keys: KeyFile
    file: SealFile

    async def caught_up(self) -> int:
        """Wait until the tree has the whole log; returns its size."""
        last = (await self.log.info()).last_sequence
        await self.projector.wait_for(last, 30)
        return last


@asynccontextmanager
async def sealing(
    log: JetStreamLog, directory: Path, *, mark: str = MARK, **how: Any
) -> AsyncIterator[Sealing]:
    """Run a replica in this directory; reusing the directory restarts the same replica."""
    directory.mkdir(exist_ok=True)
    path = directory / "view.db"
    keys, file = KeyFile(directory / "audit" / "keys.json"), SealFile(directory / SEALS_FILE)
    keys.ensure(ORIGIN)
    how = {
        "every_events": 0,
        "every_seconds": 0.0,
        "origin": ORIGIN,
        "accepted": AcceptedFile(directory / ACCEPTED_FILE),
        "scan_file": directory / SCAN_FILE,
        **how,
    }
    async with Projector(log, path) as projector, await View.open(path) as view:
        tree, seals = TreeReader(view), await log.seals(mark)
        sealer = Sealer(log, projector, tree, seals, keys=keys, file=file, **how)
        yield Sealing(log, projector, tree, sealer, seals, keys, file)
        await sealer.close()


async def more(log: JetStreamLog, upto: int, *, seed: int = 1) -> None:
    """Append events of one long history up to this number."""
    done = (await log.info()).last_sequence
    await append_all(log, random_drafts(random.Random(seed), 6, upto)[done:])
