"""Writing the view: each batch is one transaction that also moves the checkpoint."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from jobledger.projections.batch import Batch, label_rows, lost_key, resolve_released
from jobledger.projections.database import PointReader, Reader, Row, Work, Writer
from jobledger.projections.errors import ViewDamaged, ViewError, ViewFromNewerRelease
from jobledger.projections.limits import (
    ANOMALIES_KEPT,
    FOLD_CACHE_JOBS,
    FOLD_CACHE_MESSAGE_CHARACTERS,
    FOLD_CACHE_TAGS,
    LOOKUP_CHUNK,
    LOOKUP_ON_LOOP_MAX,
)
from jobledger.projections.merkle.hashing import HASH_BYTES
from jobledger.projections.merkle.tree import (
    NO_STEP,
    NO_TREE,
    TILE_LEVELS,
    TILE_WIDTH,
    TREE_TABLES,
    TileEdge,
    TreeExtent,
    TreeKeeper,
    TreeStep,
    split_hashes,
)
from jobledger.projections.migrations import migrate
from jobledger.projections.rows import (
    JOB_ROW_COLUMNS,
    LOST_COLUMNS,
    SELECT_LOST,
    SELECT_LOST_PAGE,
    SELECT_QUARANTINED,
    SELECT_SPECS,
    SELECT_STATUSES,
    SPEC_CHANGE_COLUMNS,
    STATE_CHANGE_COLUMNS,
    job_row,
    lost_row,
    lost_status_of,
    spec_change_row,
    state_change_row,
    status_of,
)
from jobledger.store.model.errors import JobledgerError
from jobledger.store.model.events import Record
from jobledger.store.model.job import JobStatus

PROJECTION_VERSION = 3
"""Increment it when the meaning of the fold or of the rows changes: older files are then rebuilt."""


def _update(columns: Sequence[str]) -> str:
    """An UPDATE of many jobs; the first column is the key."""
    key, *changed = columns
    changes = ", ".join(f"{column} = new.{column}" for column in changed)
    return (
        f"WITH new ({', '.join(columns)}) AS (VALUES {{values}})"
        f" UPDATE jobs SET {changes} FROM new WHERE jobs.{key} = new.{key}"
    )


_INSERT_JOB = f"INSERT INTO jobs ({', '.join(JOB_ROW_COLUMNS)}) VALUES {{values}}"
_UPDATE_SPEC = _update(SPEC_CHANGE_COLUMNS)
_UPDATE_STATE = _update(STATE_CHANGE_COLUMNS)
_INSERT_SPEC = "INSERT INTO specs (sequence, created_sequence, version, time, spec) VALUES {values}"
_DELETE_LABELS = "DELETE FROM labels WHERE created_sequence IN (VALUES {values})"
_INSERT_LABEL = "INSERT INTO labels (created_sequence, key, value) VALUES {values}"
_INSERT_ANOMALY = "INSERT INTO anomalies (sequence, job_id, reason) VALUES {values}"
_MOVE_CHECKPOINT = (
    "UPDATE checkpoint SET sequence = ?, time = ?, anomalies = ?, clock_steps = clock_steps + ?,"
    " tree_size = ?, tree_missing = ?, tree_tail = ?"
    " WHERE only_row = 1 AND sequence = ? AND epoch = ? AND projection = ? AND tree_size = ?"
)
_UPSERT_LOST = f"INSERT OR REPLACE INTO lost_jobs ({', '.join(LOST_COLUMNS)}) VALUES {{values}}"
_DELETE_LOST = "DELETE FROM lost_jobs WHERE (namespace, id) IN (VALUES {values})"
_DELETE_ANOMALIES = "DELETE FROM anomalies WHERE job_id = ? AND sequence IN (SELECT value FROM json_each(?))"
_SET_ANOMALY_COUNT = (
    "UPDATE checkpoint SET anomalies = ? WHERE only_row = 1 AND sequence = ? AND epoch = ? AND projection = ?"
)
_INSERT_DAMAGE = "INSERT OR IGNORE INTO damage (first, last) VALUES {values}"
_SELECT_TAIL = "SELECT hashes FROM tree_tail ORDER BY start"
_SELECT_TILE = "SELECT hashes FROM tree_tiles WHERE level = ? AND position = ?"
_TABLES = ("jobs", "lost_jobs", "specs", "labels", "anomalies", "damage", *TREE_TABLES)


class CheckpointMoved(JobledgerError):
    """Another projector moved this file's checkpoint; the transaction was rolled back."""


class ViewWriter:
    """Write access to a view for one projector; created by `open`.

    Methods raise `CheckpointMoved` if another projector changed the checkpoint, and `ViewError` if the file
    cannot be used; nothing is written then.
    """

    def __init__(self, writer: Writer, *, specs: bool = True, tree: bool = False) -> None:
        self._writer = writer
        # Statuses are looked up on a connection of their own, if the file allows it: the next batch is folded
        # while the thread of the writing connection is busy with this one.
        self._lookups: Reader = writer
        self._point: PointReader | None = None  # for a few statuses: on the event loop, without a thread
        self._keeps_specs = specs
        self._keeps_tree = tree
        self._tree: TreeKeeper | None = None
        self._tree_extent = NO_TREE  # as committed
        self._statuses: dict[str, JobStatus] = {}  # bounded cache, least recently used first
        self._newest: dict[str, JobStatus] = {}  # of the last batch, which may not be committed yet
        self.sequence = 0
        self.time = 0  # stream time of the record at that sequence; 0 if unknown
        self.epoch: str | None = None
        self._anomalies = 0
        self._has_lost = False  # whether any job is lost, committed or not

    @classmethod
    async def open(cls, path: Path, *, tree: bool = False) -> "ViewWriter":
        """Open a view's file, migrate its schema, and empty it if its rows have an older meaning.

        Args:
            path: the file.
            tree: whether the view keeps the Merkle tree; a view that was created without one is emptied.
        """
        view = await cls.from_connection(await Writer.open(path), tree=tree)
        try:
            view._lookups = await Reader.open(path)  # noqa: SLF001 - of this class
            view._point = PointReader.open(path)  # noqa: SLF001 - of this class
        except BaseException:
            await view.close()
            raise
        return view

    @classmethod
    async def from_connection(cls, writer: Writer, *, specs: bool = True, tree: bool = False) -> "ViewWriter":
        """Like `open`, over an open connection, which `close` closes.

        Args:
            writer: the connection.
            specs: whether specs are written; a snapshot (`as_of`) uses those of the live view.
            tree: whether the view keeps the Merkle tree.
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

    async def set_catching_up(self, is_catching_up: bool) -> None:
        """See `Writer.set_catching_up`."""
        await self._writer.set_catching_up(is_catching_up)

    async def trim_log(self) -> bool:
        """See `Writer.trim_log`."""
        return await self._writer.trim_log()

    async def close(self) -> None:
        """Close the file."""
        if self._point is not None:
            self._point.close()
        if self._lookups is not self._writer:
            await self._lookups.close()
        await self._writer.close()

    async def reload(self) -> int:
        """Read the checkpoint and drop all cached state; returns the checkpoint's sequence."""
        self._statuses.clear()
        self._newest = {}
        path = self._writer.path
        async with self._writer.transaction():  # checkpoint and tree must be consistent
            row = await self._writer.row(
                "SELECT epoch, sequence, time, anomalies, projection, tree_size, tree_missing FROM checkpoint"
            )
            assert row is not None
            epoch, self.sequence, self.time, self._anomalies, projection, *extent = row
            if projection != PROJECTION_VERSION:
                raise ViewFromNewerRelease(
                    f"another release started to rebuild {path} while it was open; run one release per file"
                )
            self.epoch = epoch or None
            self._tree_extent = TreeExtent(*extent)
            if (
                _lacks_tree(self._tree_extent, self.sequence)
                if self._keeps_tree
                else self._tree_extent != NO_TREE
            ):
                raise ViewError(
                    f"another projector maintains {path} {'without' if self._keeps_tree else 'with'} a Merkle"
                    " tree: start all projectors of one file with the same `tree`"
                )
            [(lost,)] = await self._writer.rows("SELECT EXISTS (SELECT 1 FROM lost_jobs)")
            self._has_lost = bool(lost)
            self._tree = await _load_tree(self._writer, self._tree_extent) if self._keeps_tree else None
        return self.sequence

    async def adopt(self, epoch: str) -> None:
        """Bind an empty view to the log with this epoch."""
        if self.epoch is None:
            sql = "UPDATE checkpoint SET epoch = ? WHERE only_row = 1 AND epoch IN ('', ?)"
            if await self._writer.execute(sql, (epoch, epoch)) != 1:
                raise CheckpointMoved(f"another projector bound {self._writer.path} to another log")
            self.epoch = epoch

    async def statuses(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The statuses of these jobs, without unknown ones, by id; lost jobs by `lost_key`.

        The file may still lack the batch that is being written; `remember` has its statuses.
        """
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
            for row in await self._read(SELECT_STATUSES, chunk, len(missing)):
                status = status_of(row)
                found[status.id] = status
        if self._has_lost:
            for start in range(0, len(missing), LOOKUP_CHUNK):
                chunk = msgspec.json.encode(missing[start : start + LOOKUP_CHUNK]).decode()
                for row in await self._read(SELECT_LOST, chunk, len(missing)):
                    status = lost_status_of(row)
                    found[lost_key(status.namespace, status.id)] = status
            found |= {key: status for key, status in self._newest.items() if status.is_lost}
        return found

    async def _read(self, sql: str, ids: str, count: int) -> list[Row]:
        if self._point is not None and count <= LOOKUP_ON_LOOP_MAX:
            rows = self._point.rows(sql, (ids,))
            if rows is not None:
                return rows
        return await self._lookups.rows(sql, (ids,))

    def remember(self, statuses: dict[str, JobStatus]) -> None:
        """Cache statuses before they are committed: the next batch is folded while this one is written.

        If the write fails, `reload` drops them.
        """
        self._newest = statuses
        self._has_lost = self._has_lost or any(status.is_lost for status in statuses.values())
        known = self._statuses
        for job_id, status in statuses.items():
            known.pop(job_id, None)
            if is_cacheable(status):
                known[job_id] = status
        for job_id in list(islice(known, max(0, len(known) - FOLD_CACHE_JOBS))):
            del known[job_id]

    def append_to_tree(self, records: Sequence[Record], up_to: int = 0) -> TreeStep | None:
        """Append records to the tree in memory; returns the step to write, or None without a tree.

        If the write fails, `reload` discards the step.

        Args:
            records: all records after those appended before.
            up_to: without records, the end of the log, whose last events cannot be read; the tree ends there.
        """
        return self._tree.step(records, up_to) if self._tree is not None else None

    async def write(self, batch: Batch) -> None:
        """Write the rows and move the checkpoint in one transaction.

        Raises:
            CheckpointMoved: if the checkpoint is not where this projector left it; nothing is written.
            ViewError: if SQLite cannot write; nothing is written.
        """
        writer, tree = self._writer, batch.tree or NO_STEP
        if batch.released:
            resolve_released(
                batch, await self._specs_at(status.spec_sequence for status, _ in batch.released.values())
            )
        anomalies = self._anomalies + len(batch.anomalies)
        kept = batch.anomalies[: max(0, ANOMALIES_KEPT - self._anomalies)]
        work: Work = [
            (_INSERT_JOB, [job_row(status, head) for status, head in batch.created.values()]),
            (_UPDATE_SPEC, [spec_change_row(status, head) for status, head in batch.spec_changed.values()]),
            (_UPDATE_STATE, [state_change_row(status) for status in batch.state_changed.values()]),
            (_INSERT_SPEC, batch.specs if self._keeps_specs else ()),
            (_DELETE_LABELS, [(status.created_sequence,) for status, _ in batch.spec_changed.values()]),
            (_INSERT_LABEL, label_rows(batch.created.values()) + label_rows(batch.spec_changed.values())),
            (_INSERT_ANOMALY, [(anomaly.sequence, anomaly.job_id, anomaly.reason) for anomaly in kept]),
            (_UPSERT_LOST, [lost_row(status) for status in batch.lost.values()]),
            (_DELETE_LOST, [tuple(key.split("\0", 1)) for key in batch.recovered]),
            (_INSERT_DAMAGE, batch.holes),
            *tree.work,
        ]
        before = (self.sequence, self.epoch, PROJECTION_VERSION, self._tree_extent.size)
        after = (
            batch.last_sequence,
            batch.last_time,
            anomalies,
            batch.clock_steps,
            *tree.extent,
            tree.tail,
        )
        if not await writer.commit((_MOVE_CHECKPOINT, (*after, *before)), work):
            raise CheckpointMoved(f"another projector moved the checkpoint of {writer.path}")
        self.sequence, self.time = batch.last_sequence, batch.last_time
        self._anomalies, self._tree_extent = anomalies, tree.extent

    async def quarantined(self, after: int, limit: int) -> list[JobStatus]:
        """Jobs in quarantine that were created after a sequence, in order of creation."""
        return [status_of(row) for row in await self._writer.rows(SELECT_QUARANTINED, (after, limit))]

    async def lost_jobs(self, after: tuple[str, str], limit: int) -> list[JobStatus]:
        """Jobs whose creating event cannot be read, after an id and namespace, in that order."""
        rows = await self._writer.rows(SELECT_LOST_PAGE, (*after, limit))
        return [lost_status_of(row) for row in rows]

    async def replace_job(self, before: JobStatus, batch: Batch, sequences: Sequence[int]) -> None:
        """Replace the rows of a job in quarantine, refolded from all its events up to the checkpoint.

        Args:
            before: the job in the view.
            batch: the job alone, folded from its first event.
            sequences: of the records on its subject.
        """
        writer = self._writer
        own = msgspec.json.encode(sequences).decode()
        created = {row[1] for row in batch.specs} | {before.created_sequence}
        async with writer.transaction():
            others = self._anomalies - await writer.execute(_DELETE_ANOMALIES, (before.id, own))
            count = others + len(batch.anomalies)
            kept = batch.anomalies[: max(0, ANOMALIES_KEPT - others)]
            guard = (self.sequence, self.epoch, PROJECTION_VERSION)
            if await writer.execute(_SET_ANOMALY_COUNT, (count, *guard)) != 1:
                raise CheckpointMoved(f"another projector moved the checkpoint of {writer.path}")
            for sequence in sorted(created):
                for table in ("jobs", "labels", "specs"):
                    await writer.execute(f"DELETE FROM {table} WHERE created_sequence = ?", (sequence,))
            await writer.write_all(
                [
                    (_DELETE_LOST, [(before.namespace, before.id)]),
                    (_INSERT_JOB, [job_row(status, head) for status, head in batch.created.values()]),
                    (_INSERT_SPEC, batch.specs),
                    (_INSERT_LABEL, label_rows(batch.created.values())),
                    (_UPSERT_LOST, [lost_row(status) for status in batch.lost.values()]),
                    (_INSERT_ANOMALY, [(each.sequence, each.job_id, each.reason) for each in kept]),
                ]
            )
        self._anomalies = count
        self._has_lost = self._has_lost or bool(batch.lost)
        self._statuses.pop(before.id, None)
        self._newest = {}

    async def has_vocabulary(self, vocabulary: str) -> bool:
        """Whether the view was folded by a release that knows the same event types."""
        row = await self._writer.row("SELECT vocabulary FROM checkpoint")
        return row is not None and row[0] == vocabulary

    async def set_vocabulary(self, vocabulary: str) -> None:
        """Record that all rows are folded by a release that knows these event types."""
        await self._writer.execute("UPDATE checkpoint SET vocabulary = ?", (vocabulary,))

    async def _specs_at(self, sequences: Iterable[int]) -> dict[int, bytes]:
        wanted = msgspec.json.encode(tuple(sequences)).decode()
        return dict(await self._writer.rows(SELECT_SPECS, (wanted,)))

    async def _reset_if_older(self) -> None:
        """Create the checkpoint row; empty a file whose rows have an older meaning or that lacks the tree."""
        writer = self._writer
        async with writer.transaction():
            row = await writer.row("SELECT projection, sequence, tree_size, tree_missing FROM checkpoint")
            if row is not None and row[0] == PROJECTION_VERSION:
                extent = TreeExtent(*row[2:])
                if not self._keeps_tree and extent != NO_TREE:
                    await self._drop_tree()
                if not self._keeps_tree or not _lacks_tree(extent, row[1]):
                    return
            if row is not None and row[0] > PROJECTION_VERSION:
                raise ViewFromNewerRelease(
                    f"the rows of {writer.path} have projection version {row[0]}, newer than"
                    f" {PROJECTION_VERSION} of this release: upgrade this Jobledger, or use another file"
                )
            for table in _TABLES:
                await writer.execute(f"DELETE FROM {table}")
            await writer.execute(
                "INSERT OR REPLACE INTO checkpoint"
                " (only_row, epoch, sequence, anomalies, projection, clock_steps) VALUES (1, '', 0, 0, ?, 0)",
                (PROJECTION_VERSION,),
            )

    async def _drop_tree(self) -> None:
        """Delete the tree from a view that does not maintain one: without new leaves it becomes wrong."""
        for table in TREE_TABLES:
            await self._writer.execute(f"DELETE FROM {table}")
        await self._writer.execute("UPDATE checkpoint SET tree_size = 0, tree_missing = 0")


def _lacks_tree(extent: TreeExtent, sequence: int) -> bool:
    """Whether a view at this sequence was folded, at least partly, without a tree."""
    return extent.size < sequence and not extent.missing


async def _load_tree(writer: Writer, extent: TreeExtent) -> TreeKeeper:
    """Load the right edge of the tree, inside the transaction that read its extent."""
    rows = [b"".join([row[0] for row in await writer.rows(_SELECT_TAIL)])]
    above = extent.size >> TILE_LEVELS
    while above:
        tile = (
            await writer.row(_SELECT_TILE, (len(rows), above >> TILE_LEVELS)) if above % TILE_WIDTH else None
        )
        rows.append(tile[0] if tile else b"")
        above >>= TILE_LEVELS
    for level, hashes in enumerate(rows):
        count = (extent.size >> (TILE_LEVELS * level)) % TILE_WIDTH
        if len(hashes) != count * HASH_BYTES:
            raise ViewDamaged(
                f"the Merkle tree in the view {writer.path} has {len(hashes) // HASH_BYTES} hashes in the"
                f" last tile of level {level}, expected {count}; delete the file to rebuild it from the log"
            )
    return TreeKeeper(TileEdge(extent.size, tuple(tuple(split_hashes(row)) for row in rows)), extent.missing)


def is_cacheable(status: JobStatus) -> bool:
    """Whether a status is small enough to cache; others are read from the view when needed."""
    state = status.state
    return (
        len(state.message) <= FOLD_CACHE_MESSAGE_CHARACTERS
        and status.quarantine is None
        and not status.is_lost
        and not state.details
        and len(status.tags) <= FOLD_CACHE_TAGS
    )
