"""The background check of a view, which finds damaged pages and wrong rows before a reader does.

    periodically: SQLite's quick_check of each table ──► refold a sample of jobs ──► rebuild if a row is wrong

A row counts as wrong only if the view's Merkle tree confirms that the log still has the records that the view
folded, from the job's first event to its last, including those of other jobs. A log that was changed or lost
an event is reported by `audit verify`, which needs the view unchanged.
"""

import asyncio
import logging
import random
from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.database import Reader
from jobledger.projections.errors import ViewDamaged, ViewError
from jobledger.projections.limits import VIEW_CHECK_EVENTS, VIEW_CHECK_ROWS
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.projections.merkle.tree import TILE_WIDTH, split_hashes
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.projections.rows import STATUS_COLUMNS, job_of
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobledgerError
from jobledger.store.model.events import Record, Recorded, read_record
from jobledger.store.model.fold import fold_job_on, last_read, spec_head
from jobledger.store.model.job import Job
from jobledger.store.model.subjects import job_subject

_TABLES: Final = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
)
_JOB_AFTER: Final = (
    f"SELECT {', '.join(f'j.{column}' for column in STATUS_COLUMNS)}, s.spec,"
    # In the same statement, so that the projector cannot write between reading the job and its labels.
    " (SELECT json_group_array(json_array(l.key, l.value)) FROM labels AS l"
    " WHERE l.created_sequence = j.created_sequence)"
    " FROM jobs AS j JOIN specs AS s ON s.sequence = j.spec_sequence"
    " WHERE j.created_sequence > ? ORDER BY j.created_sequence LIMIT 1"
)
# One statement is one snapshot: a hash that moves from the tail to a tile is in exactly one of them.
_LEAVES: Final = (
    f"SELECT position * {TILE_WIDTH}, hashes FROM tree_tiles WHERE level = 0 AND position BETWEEN ?1 AND ?2"
    f" UNION ALL SELECT start, hashes FROM tree_tail WHERE start < (?2 + 1) * {TILE_WIDTH}"
)

_log = logging.getLogger("jobledger.view")


class SelfCheck:
    """Checks a view periodically, and reports damage to its projector.

    Args:
        log: of the view.
        projector: of the view.
        path: the view's file.
        every_seconds: interval between checks; 0 disables them.

    Attributes:
        checks: number of finished checks.
        problem: a problem found by the last check that a rebuild does not solve; empty if none.
    """

    def __init__(self, log: EventLog, projector: Projector, path: Path, *, every_seconds: float) -> None:
        self.checks = 0
        self.problem = ""
        self._log = log
        self._projector = projector
        self._path = path
        self._every_seconds = every_seconds
        self._random = random.Random()  # noqa: S311 - chooses samples, not secrets
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start, unless checks are disabled."""
        if self._every_seconds and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            if self._projector.state is ProjectorState.REBUILDING:
                continue
            rebuilds = self._projector.rebuilds
            try:
                await self.check()
            except ViewDamaged as error:
                if self._projector.rebuilds == rebuilds:  # otherwise the damaged file is already replaced
                    self._projector.report_damage(error)
            except JobledgerError as error:  # reported elsewhere
                _log.info("the check of the view did not finish: %s", error)
            except Exception:  # noqa: BLE001 - a bug must not end the checks
                _log.exception("the check of the view failed")

    async def check(self) -> None:
        """Check once."""
        reader = await Reader.open(self._path)
        try:
            for (table,) in await reader.rows(_TABLES):
                # Table by table: one long read would keep the write-ahead log from being truncated.
                found = await _first(reader, f"PRAGMA quick_check('{table}')")
                if found != "ok":
                    # SQLite 3.40's quick_check reports NULL values in a healthy table WITHOUT ROWID whose key
                    # order differs from its column order; integrity_check does not.
                    found = await _first(reader, f"PRAGMA integrity_check('{table}')")
                if found != "ok":
                    raise ViewDamaged(f"the table {table} of the view {self._path} is damaged: {found:.200}")
            [(last,)] = await reader.rows("SELECT sequence FROM checkpoint")
            self.problem = ""
            for after in self._random.sample(range(last), min(VIEW_CHECK_ROWS, last)):
                await self._check_job(reader, after)
        finally:
            await reader.close()
        self.checks += 1

    async def _check_job(self, reader: Reader, after: int) -> None:
        rows = await reader.rows(_JOB_AFTER, (after,))
        if not rows:
            return
        try:
            job = job_of(rows[0])
            labels = {(key, value) for key, value in msgspec.json.decode(rows[0][-1])}
            expected = set(spec_head(job.spec).labels.items())
        except ViewError:
            raise
        except Exception as error:  # a damaged row can raise anything
            raise ViewDamaged(
                f"the view {self._path} has a row after event {after} that cannot be decoded: {error!r}"
            ) from error
        records = await self._events_of(job)
        if not records:
            return
        folded: Job | None = None
        for record in records:
            folded = fold_job_on(folded, read_record(record))
        if folded == job and labels == expected:
            return
        changed = await self._changed_event(reader, job.status.created_sequence, records[-1].sequence)
        if changed:
            self.problem = (
                f"the log and the view differ in job {job.status.id}, and event {changed} of the log is not"
                " the one that the view folded: run `jobledger audit verify`"
            )
            _log.error("%s", self.problem)
            return
        raise ViewDamaged(f"the rows of job {job.status.id} in the view {self._path} differ from its events")

    async def _events_of(self, job: Job) -> list[Record]:
        """The job's records up to the last one in its row; empty if one is missing or too many."""
        status = job.status
        found: list[Record] = []
        async for record in records_between(
            self._log,
            job_subject(status.namespace, status.id),
            after=status.created_sequence - 1,
            up_to=last_read(status),
        ):
            recorded = read_record(record)
            previous = recorded.event.previous if isinstance(recorded, Recorded) else ""
            if previous.isdecimal() and found and int(previous) > found[-1].sequence:
                return []  # the log lost one
            found.append(record)
            if len(found) > VIEW_CHECK_EVENTS:
                return []
        return found if found and found[-1].sequence == last_read(status) else []

    async def _changed_event(self, reader: Reader, first: int, last: int) -> int:
        """The first sequence in a range whose record is not the one that the view folded; 0 if all are.

        All records of the range are read, not only the job's: the log may have lost one of the job's events,
        or have it on another subject now. This is cheaper than the rebuild that would follow. Without a tree,
        or after its end, no change can be detected.
        """
        log_reader = await self._log.follow(after=first - 1)
        try:
            after = first - 1
            while after < last:
                records = {record.sequence: record for record in await log_reader.take(TILE_WIDTH)}
                up_to = min(last, max(records))
                for sequence, expected in (await _leaves(reader, after + 1, up_to)).items():
                    record = records.get(sequence)
                    if record is None or leaf_hash(record) != expected:
                        return sequence
                after = up_to
        finally:
            await log_reader.close()
        return 0


async def _leaves(reader: Reader, first: int, last: int) -> dict[int, bytes]:
    """The leaves of the view's tree for a range of sequences."""
    rows = await reader.rows(_LEAVES, ((first - 1) // TILE_WIDTH, (last - 1) // TILE_WIDTH))
    leaves = {start + at: leaf for start, hashes in rows for at, leaf in enumerate(split_hashes(hashes), 1)}
    return {sequence: leaves[sequence] for sequence in range(first, last + 1) if sequence in leaves}


async def _first(reader: Reader, pragma: str) -> str:
    return str((await reader.rows(pragma))[0][0])
