"""The one place that writes rows: a batch becomes one transaction, with the checkpoint in it."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.batch import Batch, label_rows, lost_key, resolve_thawed
from jobledger.projections.database import Writer
from jobledger.projections.errors import ViewDamaged, ViewError, ViewFromNewerRelease
from jobledger.projections.limits import (
    ANOMALIES_KEPT,
    FOLD_CACHE_JOBS,
    FOLD_CACHE_MESSAGE_CHARACTERS,
    FOLD_CACHE_TAGS,
    LOOKUP_CHUNK,
)
from jobledger.projections.merkle.hashing import HASH_BYTES
from jobledger.projections.merkle.tree import (
    NO_STEP,
    NO_TREE,
    TILE_LEVELS,
    TILE_WIDTH,
    TREE_TABLES,
    TileEdge,
    TreeKeeper,
    TreeMark,
    TreeStep,
    split_hashes,
)
from jobledger.projections.migrations import migrate
from jobledger.projections.rows import (
    JOB_COLUMNS,
    RESPECIFIED_COLUMNS,
    RESTATED_COLUMNS,
    STATUS_COLUMNS,
    lost_row,
    lost_status_of,
    respecified_row,
    restated_row,
    row_of,
    status_of,
)
from jobledger.store.model.errors import JobledgerError
from jobledger.store.model.events import Record
from jobledger.store.model.job import JobStatus

_TAIL: Final = "SELECT hashes FROM tree_tail ORDER BY start"
_TILE: Final = "SELECT hashes FROM tree_tiles WHERE level = ? AND position = ?"


async def load_tree(writer: Writer, mark: TreeMark) -> TreeKeeper:
    """The tree that a view's file holds, to go on from; inside the transaction that read its mark.

    Raises:
        ViewDamaged: if it does not hold what its checkpoint says.
    """
    rows = [b"".join([row[0] for row in await writer.rows(_TAIL)])]
    above = mark.size >> TILE_LEVELS
    while above:
        tile = await writer.row(_TILE, (len(rows), above >> TILE_LEVELS)) if above % TILE_WIDTH else None
        rows.append(tile[0] if tile else b"")
        above >>= TILE_LEVELS
    for level, hashes in enumerate(rows):
        count = (mark.size >> (TILE_LEVELS * level)) % TILE_WIDTH
        if len(hashes) != count * HASH_BYTES:
            raise ViewDamaged(
                f"the Merkle tree in the view {writer.path} has {len(hashes) // HASH_BYTES} hashes where its"
                f" checkpoint says {count}; delete the file: it is rebuilt from the log"
            )
    return TreeKeeper(TileEdge(mark.size, tuple(tuple(split_hashes(row)) for row in rows)), mark.missing)


PROJECTION_VERSION = 3
"""Raise it when the fold or the rows come to mean something else: older files then rebuild themselves."""


def _update(columns: Sequence[str]) -> str:
    """An UPDATE of many jobs at once; the first column is the key."""
    key, *changed = columns
    changes = ", ".join(f"{column} = new.{column}" for column in changed)
    return (
        f"WITH new ({', '.join(columns)}) AS (VALUES {{values}})"
        f" UPDATE jobs SET {changes} FROM new WHERE jobs.{key} = new.{key}"
    )


_INSERT_JOB = f"INSERT INTO jobs ({', '.join(JOB_COLUMNS)}) VALUES {{values}}"
_RESPECIFY = _update(RESPECIFIED_COLUMNS)
_RESTATE = _update(RESTATED_COLUMNS)
_INSERT_SPEC = "INSERT INTO specs (sequence, created_sequence, version, time, spec) VALUES {values}"
_DELETE_LABELS = "DELETE FROM labels WHERE created_sequence IN (VALUES {values})"
_INSERT_LABEL = "INSERT INTO labels (created_sequence, key, value) VALUES {values}"
_INSERT_ANOMALY = "INSERT INTO anomalies (sequence, job_id, reason) VALUES {values}"
_MOVE_CHECKPOINT = (
    "UPDATE checkpoint SET sequence = ?, time = ?, anomalies = ?,"
    " tree_size = ?, tree_missing = ?, tree_tail = ?"
    " WHERE only_row = 1 AND sequence = ? AND epoch = ? AND projection = ? AND tree_size = ?"
)
_STATUSES = f"SELECT {', '.join(STATUS_COLUMNS)} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
_LOST = (
    "SELECT namespace, id, sequence, passed, quarantine FROM lost_jobs"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_PUT_LOST = "INSERT OR REPLACE INTO lost_jobs (namespace, id, sequence, passed, quarantine) VALUES {values}"
_DROP_LOST = "DELETE FROM lost_jobs WHERE (namespace, id) IN (VALUES {values})"
_QUARANTINED = (
    f"SELECT {', '.join(STATUS_COLUMNS)} FROM jobs WHERE quarantine != '' AND created_sequence > ?"
    " ORDER BY created_sequence LIMIT ?"
)
_LOST_PAGE = (
    "SELECT namespace, id, sequence, passed, quarantine FROM lost_jobs"
    " WHERE sequence > 0 AND (id, namespace) > (?, ?) ORDER BY id, namespace LIMIT ?"
)
_DROP_ANOMALIES = "DELETE FROM anomalies WHERE job_id = ? AND sequence IN (SELECT value FROM json_each(?))"
_RECOUNT = (
    "UPDATE checkpoint SET anomalies = ? WHERE only_row = 1 AND sequence = ? AND epoch = ? AND projection = ?"
)
_SPECS_AT = "SELECT sequence, spec FROM specs WHERE sequence IN (SELECT value FROM json_each(?))"
_PUT_DAMAGE = "INSERT OR IGNORE INTO damage (first, last) VALUES {values}"
_TABLES = ("jobs", "lost_jobs", "specs", "labels", "anomalies", "damage", *TREE_TABLES)


class CheckpointMoved(JobledgerError):
    """Another projector moved this file's checkpoint; nothing of ours was written."""


class ViewWriter:
    """The view, as its projector sees it; made by `open`."""

    def __init__(self, writer: Writer, *, specs: bool = True, tree: bool = False) -> None:
        self._writer = writer
        self._keeps_specs = specs
        self._keeps_tree = tree
        self._tree: TreeKeeper | None = None
        self._mark = NO_TREE  # as the file has it
        self._statuses: dict[str, JobStatus] = {}  # in the order of use, oldest first; bounded
        self._newest: dict[str, JobStatus] = {}  # of the last batch, which the file may not have yet
        self.sequence = 0
        self.time = 0  # the stream's, of the record at that sequence; 0: not known
        self.epoch: str | None = None
        self._anomalies = 0
        self._has_lost = False  # whether there is any lost job, written or not

    @classmethod
    async def open(cls, path: Path, *, tree: bool = False) -> "ViewWriter":
        """Open a view's file, bring its schema up to date, and empty it if its rows mean something else.

        Args:
            path: the file.
            tree: whether it shall hold the Merkle tree; a view that was begun without one is emptied too.

        Raises:
            ViewError: if the file can't be used.
        """
        return await cls.over(await Writer.open(path), tree=tree)

    @classmethod
    async def over(cls, writer: Writer, *, specs: bool = True, tree: bool = False) -> "ViewWriter":
        """The same over a connection of the caller's, which is closed with it.

        Args:
            writer: to the file.
            specs: whether the specs are kept; a copy as of a point (`asof`) reads those of the live view.
            tree: whether the Merkle tree is kept.

        Raises:
            ViewError: if the file can't be used.
        """
        view = cls(writer, specs=specs, tree=tree)
        try:
            await migrate(view._writer)
            await view._reset_if_older()
            await view.reload()
        except BaseException:
            await view._writer.close()
            raise
        return view

    def check_files(self) -> None:
        """See `Writer.check_files`."""
        self._writer.check_files()

    async def trim_log(self) -> bool:
        """See `Writer.trim_log`."""
        return await self._writer.trim_log()

    async def close(self) -> None:
        """Close the file."""
        await self._writer.close()

    async def reload(self) -> int:
        """Read the checkpoint again and forget what was remembered; returns its sequence."""
        self._statuses.clear()
        self._newest = {}
        path = self._writer.path
        async with self._writer.transaction():  # the tree must be the one that the checkpoint speaks of
            row = await self._writer.row(
                "SELECT epoch, sequence, time, anomalies, projection, tree_size, tree_missing FROM checkpoint"
            )
            assert row is not None
            epoch, self.sequence, self.time, self._anomalies, projection, *mark = row
            if projection != PROJECTION_VERSION:
                raise ViewFromNewerRelease(
                    f"another release has begun to rebuild {path} while it was open; use one release"
                )
            self.epoch = epoch or None
            self._mark = TreeMark(*mark)
            if _lacks_tree(self._mark, self.sequence) if self._keeps_tree else self._mark != NO_TREE:
                raise ViewError(
                    f"another projector keeps {path} {'without' if self._keeps_tree else 'with'} a Merkle"
                    " tree: start all projectors of one file with the same `tree`"
                )
            [(lost,)] = await self._writer.rows("SELECT EXISTS (SELECT 1 FROM lost_jobs)")
            self._has_lost = bool(lost)
            self._tree = await load_tree(self._writer, self._mark) if self._keeps_tree else None
        return self.sequence

    async def adopt(self, epoch: str) -> None:
        """Tie an empty view to the log that it is about to be made from.

        Raises:
            Overtaken: if another projector tied it to another log meanwhile.
        """
        if self.epoch is None:
            sql = "UPDATE checkpoint SET epoch = ? WHERE only_row = 1 AND epoch IN ('', ?)"
            if await self._writer.execute(sql, (epoch, epoch)) != 1:
                raise CheckpointMoved(f"another projector has just tied {self._writer.path} to another log")
            self.epoch = epoch

    async def statuses(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The statuses of those of these jobs that the view has, by id; those of lost jobs by `lost_key`."""
        found: dict[str, JobStatus] = {}
        missing: list[str] = []
        for job_id in job_ids:
            status = self._newest.get(job_id) or self._statuses.get(job_id)
            if status is None:
                missing.append(job_id)
            else:
                found[job_id] = status
        for start in range(0, len(missing), LOOKUP_CHUNK):
            chunk = msgspec.json.encode(missing[start : start + LOOKUP_CHUNK]).decode()
            for row in await self._writer.rows(_STATUSES, (chunk,)):
                status = status_of(row)
                found[status.id] = status
        if self._has_lost:
            for start in range(0, len(missing), LOOKUP_CHUNK):
                chunk = msgspec.json.encode(missing[start : start + LOOKUP_CHUNK]).decode()
                for row in await self._writer.rows(_LOST, (chunk,)):
                    status = lost_status_of(row)
                    found[lost_key(status.namespace, status.id)] = status
            found |= {key: status for key, status in self._newest.items() if status.is_lost}
        return found

    def remember(self, statuses: dict[str, JobStatus]) -> None:
        """Know these from now on, written or not: the next batch is folded while this one is being written.

        If writing fails, `reload` forgets them.
        """
        self._newest = statuses
        self._has_lost = self._has_lost or any(status.is_lost for status in statuses.values())
        known = self._statuses
        for job_id in statuses:
            known.pop(job_id, None)
        known.update({job_id: status for job_id, status in statuses.items() if is_small(status)})
        for job_id in list(islice(known, max(0, len(known) - FOLD_CACHE_JOBS))):
            del known[job_id]

    def grow(self, records: Sequence[Record], up_to: int = 0) -> TreeStep | None:
        """Append records to the tree, if one is kept, for the batch that they become.

        If writing fails, `reload` forgets it.

        Args:
            records: all that follow what was appended before.
            up_to: without any, the end of the log, whose last events can't be read; the tree ends there.
        """
        return self._tree.step(records, up_to) if self._tree is not None else None

    async def write(self, batch: Batch) -> None:
        """Rows and checkpoint, in one transaction.

        Raises:
            Overtaken: if the checkpoint is not where this projector left it; nothing is written then.
            ViewError: if SQLite can't write; nothing is written then.
        """
        writer, tree = self._writer, batch.tree or NO_STEP
        if batch.thawed:
            resolve_thawed(
                batch, await self._specs_at(status.spec_sequence for status, _ in batch.thawed.values())
            )
        anomalies = self._anomalies + len(batch.anomalies)
        kept = batch.anomalies[: max(0, ANOMALIES_KEPT - self._anomalies)]
        work: list[tuple[str, Sequence[Sequence[object]]]] = [
            (_INSERT_JOB, [row_of(status, head) for status, head in batch.created.values()]),
            (_RESPECIFY, [respecified_row(status, head) for status, head in batch.spec_changed.values()]),
            (_RESTATE, [restated_row(status) for status in batch.state_changed.values()]),
            (_INSERT_SPEC, batch.specs if self._keeps_specs else ()),
            (_DELETE_LABELS, [(status.created_sequence,) for status, _ in batch.spec_changed.values()]),
            (_INSERT_LABEL, label_rows(batch.created.values()) + label_rows(batch.spec_changed.values())),
            (_INSERT_ANOMALY, [(anomaly.sequence, anomaly.job_id, anomaly.reason) for anomaly in kept]),
            (_PUT_LOST, [lost_row(status) for status in batch.lost.values()]),
            (_DROP_LOST, [tuple(key.split("\0", 1)) for key in batch.found]),
            (_PUT_DAMAGE, batch.holes),
            *tree.work,
        ]
        async with writer.transaction():
            place = (self.sequence, self.epoch, PROJECTION_VERSION, self._mark.size)
            moved = await writer.execute(
                _MOVE_CHECKPOINT,
                (batch.last_sequence, batch.last_time, anomalies, *tree.mark, tree.tail, *place),
            )
            if moved != 1:
                raise CheckpointMoved(f"another projector moved the checkpoint of {writer.path}")
            await writer.write_all(work)
        self.sequence, self.time = batch.last_sequence, batch.last_time
        self._anomalies, self._mark = anomalies, tree.mark

    async def quarantined(self, after: int, limit: int) -> list[JobStatus]:
        """Jobs in quarantine that were created after a sequence, in that order."""
        return [status_of(row) for row in await self._writer.rows(_QUARANTINED, (after, limit))]

    async def lost_jobs(self, after: tuple[str, str], limit: int) -> list[JobStatus]:
        """Jobs of which no creating event can be read, by id and namespace, after one of them."""
        rows = await self._writer.rows(_LOST_PAGE, (*after, limit))
        return [lost_status_of(row) for row in rows]

    async def replace(self, before: JobStatus, batch: Batch, sequences: Sequence[int]) -> None:
        """Write a job again that was in quarantine, folded from all its events up to the checkpoint.

        Args:
            before: the job as the view has it.
            batch: the job alone, folded from nothing.
            sequences: of the records on its subject.

        Raises:
            Overtaken: if another projector moved the checkpoint; nothing is written then.
        """
        writer = self._writer
        mine = msgspec.json.encode(sequences).decode()
        created = {row[1] for row in batch.specs} | {before.created_sequence}
        async with writer.transaction():
            others = self._anomalies - await writer.execute(_DROP_ANOMALIES, (before.id, mine))
            count = others + len(batch.anomalies)
            kept = batch.anomalies[: max(0, ANOMALIES_KEPT - others)]
            place = (self.sequence, self.epoch, PROJECTION_VERSION)
            if await writer.execute(_RECOUNT, (count, *place)) != 1:
                raise CheckpointMoved(f"another projector moved the checkpoint of {writer.path}")
            for sequence in sorted(created):
                for table in ("jobs", "labels", "specs"):
                    await writer.execute(f"DELETE FROM {table} WHERE created_sequence = ?", (sequence,))
            await writer.write_all(
                [
                    (_DROP_LOST, [(before.namespace, before.id)]),
                    (_INSERT_JOB, [row_of(status, head) for status, head in batch.created.values()]),
                    (_INSERT_SPEC, batch.specs),
                    (_INSERT_LABEL, label_rows(batch.created.values())),
                    (_PUT_LOST, [lost_row(status) for status in batch.lost.values()]),
                    (_INSERT_ANOMALY, [(each.sequence, each.job_id, each.reason) for each in kept]),
                ]
            )
        self._anomalies = count
        self._has_lost = self._has_lost or bool(batch.lost)
        self._statuses.pop(before.id, None)
        self._newest = {}

    async def knows(self, vocabulary: str) -> bool:
        """Whether the view was folded by a release with these types of events."""
        row = await self._writer.row("SELECT vocabulary FROM checkpoint")
        return row is not None and row[0] == vocabulary

    async def learn(self, vocabulary: str) -> None:
        """Note that all rows are what a release with these types of events makes of the log."""
        await self._writer.execute("UPDATE checkpoint SET vocabulary = ?", (vocabulary,))

    async def _specs_at(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """The specs that the events at these sequences set."""
        wanted = msgspec.json.encode(tuple(sequences)).decode()
        return dict(await self._writer.rows(_SPECS_AT, (wanted,)))

    async def _reset_if_older(self) -> None:
        """Make the checkpoint row, or empty a file whose rows mean something else, or that lacks the tree."""
        writer = self._writer
        async with writer.transaction():
            row = await writer.row("SELECT projection, sequence, tree_size, tree_missing FROM checkpoint")
            if row is not None and row[0] == PROJECTION_VERSION:
                mark = TreeMark(*row[2:])
                if not self._keeps_tree and mark != NO_TREE:
                    await self._drop_tree()
                if not self._keeps_tree or not _lacks_tree(mark, row[1]):
                    return
            if row is not None and row[0] > PROJECTION_VERSION:
                raise ViewFromNewerRelease(
                    f"the rows of {writer.path} have projection version {row[0]}, and this release makes"
                    f" {PROJECTION_VERSION}: upgrade this Jobledger, or use another file"
                )
            for table in _TABLES:
                await writer.execute(f"DELETE FROM {table}")
            await writer.execute(
                "INSERT OR REPLACE INTO checkpoint (only_row, epoch, sequence, anomalies, projection)"
                " VALUES (1, '', 0, 0, ?)",
                (PROJECTION_VERSION,),
            )

    async def _drop_tree(self) -> None:
        """Take the tree out of a file that shall have none: one that stands still would be a wrong one."""
        for table in TREE_TABLES:
            await self._writer.execute(f"DELETE FROM {table}")
        await self._writer.execute("UPDATE checkpoint SET tree_size = 0, tree_missing = 0")


def _lacks_tree(mark: TreeMark, sequence: int) -> bool:
    """Whether a view at this sequence was folded, all or in part, without a tree."""
    return mark.size < sequence and not mark.missing


def is_small(status: JobStatus) -> bool:
    """Whether a status is worth its memory; one with a long message is read back when it is needed."""
    state = status.state
    return (
        len(state.message) <= FOLD_CACHE_MESSAGE_CHARACTERS
        and status.quarantine is None
        and not status.is_lost
        and not state.details
        and len(status.tags) <= FOLD_CACHE_TAGS
    )
