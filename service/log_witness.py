"""Compares the files of the embedded log with the Merkle tree of the view at each start.

    blocks, newest first ──► hashes of their records ──► equal to the leaves of the view's tree?
        ├── yes: the next block, for up to LOG_PROOF_SECONDS
        ├── no, and the tree confirms its leaves: the log is not the one that the view was made from
        └── no, and it does not: the view is damaged, and is rebuilt

nats-server verifies the checksum of each record, which proves that the record is complete, not that it is the
original: files of another log, an older copy of a block, or reordered records pass. Equal leaves up to the
checkpoint imply an equal root.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.errors import ProofError, ViewError
from jobledger.projections.merkle.hashing import HASH_BYTES, leaf_hashes
from jobledger.projections.merkle.tree import TILE_WIDTH, split_hashes
from jobledger.projections.tree_reader import TreeHead, TreeReader
from jobledger.projections.view import View
from jobledger.service.limits import LOG_PROOF_SECONDS
from jobledger.store.embedded.proof import Damage, Range, StreamFiles, block_file
from jobledger.store.model.events import Record

_log = logging.getLogger("jobledger.service")

_PROBLEM: Final = "contains other events than the view {path} was made from"


class ViewWitness:
    """Compares the log with the tree of a view; a `Witness` of the embedded server.

    Args:
        path: of the view; nothing is compared if it is missing or can't be read.
        stream: the name of the log's stream.

    Attributes:
        problem: why the view, not the log, is damaged; empty if it is not.
        compared: the number of events compared by the last call.
    """

    def __init__(self, path: Path, stream: str) -> None:
        self.problem = ""
        self.compared = 0
        self._path = path
        self._stream = stream

    async def __call__(
        self, stream: StreamFiles, read: Callable[[int], Sequence[Record]]
    ) -> Sequence[Damage]:
        """See `Witness`."""
        if stream.name != self._stream or not stream.keeps_all:
            return ()
        self.problem, self.compared = "", 0
        try:
            async with await View.open(self._path, readers=1) as view:
                tree = TreeReader(view)
                head = await tree.head()
                if not head.size or head.epoch != stream.created:
                    return ()
                return await self._compare(stream, read, tree, head)
        except ViewError:  # the projector reports it and rebuilds the file
            return ()
        except Exception:  # noqa: BLE001 - a bug must stop neither the log nor the restarts of nats-server
            _log.exception("the log could not be compared with the tree of the view %s", self._path)
            return ()

    async def _compare(
        self, stream: StreamFiles, read: Callable[[int], Sequence[Record]], tree: TreeReader, head: TreeHead
    ) -> Sequence[Damage]:
        clock = asyncio.get_running_loop().time
        deadline = clock() + LOG_PROOF_SECONDS
        found: list[Damage] = []
        is_other_end = False
        for block in reversed(stream.blocks):
            if block.first > head.size:
                continue
            if clock() >= deadline:
                _log.info(
                    "compared the log with the view's tree from event %d on within %g s; `jobledger audit"
                    " verify`"
                    " compares all events",
                    head.size - self.compared + 1,
                    LOG_PROOF_SECONDS,
                )
                break
            held = await asyncio.to_thread(read, block.number)
            records = [each for each in held if each.sequence <= head.size]
            is_other_end |= any(each.sequence == head.sequence and each.time != head.time for each in records)
            if other := await self._differing(records, tree, is_other_end=is_other_end):
                what = _PROBLEM.format(path=self._path)
                file = block_file(stream, block.number)
                damage = Damage(stream.name, what, file, lost=Range(other[0], other[-1]), in_pieces=False)
                found.append(msgspec.structs.replace(damage, witness=str(self._path)))
            self.compared += len(records)
        return found[::-1]

    async def _differing(
        self, records: Sequence[Record], tree: TreeReader, *, is_other_end: bool
    ) -> list[int]:
        """Return the sequences of the records that differ from the leaves of the tree."""
        try:
            hashes = await asyncio.to_thread(leaf_hashes, records)
        except ProofError:  # not a valid record of this log
            return [each.sequence for each in records]
        by_tile: dict[int, list[tuple[int, bytes]]] = {}
        for record, found in zip(records, hashes, strict=True):
            by_tile.setdefault((record.sequence - 1) // TILE_WIDTH, []).append((record.sequence, found))
        differing: list[int] = []
        for position, leaves in by_tile.items():
            kept, is_confirmed = await tree.tile(position)
            expected = split_hashes(kept)
            if len(kept) % HASH_BYTES or len(expected) < max(leaves)[0] - position * TILE_WIDTH:
                self.problem = f"the tree in the view {self._path} lacks leaves of tile {position}"
                continue
            other = [at for at, leaf in leaves if expected[at - 1 - position * TILE_WIDTH] != leaf]
            # Only the checkpoint's time of the last record confirms the last, incomplete tile.
            if other and not (is_other_end if is_confirmed is None else is_confirmed):
                self.problem = f"the tree in the view {self._path} has damaged leaves in tile {position}"
            else:
                differing += other
        return differing
