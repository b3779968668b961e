"""The background check of a view: finds damaged pages and wrong rows before a reader does.

    every so often: each table by SQLite's quick_check ──► some jobs, folded again ──► rebuild if one is wrong

A job counts as wrong only if the view's own Merkle tree confirms that the log still has the events that the
view folded, from the job's first one to its last one, whatever jobs they are of: a log that was changed, or
lost an event, is found by `audit verify`, which needs the view as it is.
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
    # In the same statement, so that the projector can't write between the job and its labels.
    " (SELECT json_group_array(json_array(l.key, l.value)) FROM labels AS l"
    " WHERE l.created_sequence = j.created_sequence)"
    " FROM jobs AS j JOIN specs AS s ON s.sequence = j.spec_sequence"
    " WHERE j.created_sequence > ? ORDER BY j.created_sequence LIMIT 1"
)
# One statement is one snapshot: hashes that move from the tail to a tile are in exactly one of them.
_LEAVES: Final = (
    f"SELECT position * {TILE_WIDTH}, hashes FROM tree_tiles WHERE level = 0 AND position BETWEEN ?1 AND ?2"
    f" UNION ALL SELECT start, hashes FROM tree_tail WHERE start < (?2 + 1) * {TILE_WIDTH}"
)

_log = logging.getLogger("jobledger.view")


class SelfCheck:
    """Checks the file of one projector, and has it rebuilt if it is damaged.

    Args:
        log: of the view.
        projector: of the file; hears of damage.
        path: the file.
        every_seconds: between two checks; 0: never.

    Attributes:
        checks: how many were finished.
        problem: what the last one found that a rebuild does not solve; empty if nothing.
    """

    def __init__(self, log: EventLog, projector: Projector, path: Path, *, every_seconds: float) -> None:
        self.checks = 0
        self.problem = ""
        self._log = log
        self._projector = projector
        self._path = path
        self._every_seconds = every_seconds
        self._random = random.Random()  # noqa: S311 - chooses samples; nothing secret
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, unless it is never to check."""
        if self._every_seconds and self._task is None:
            self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
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
                if self._projector.rebuilds == rebuilds:  # else it was the file before
                    self._projector.report_damage(error)
            except JobledgerError as error:  # the log or the file can't be read now: others report that
                _log.info("the check of the view was not finished: %s", error)
            except Exception:  # noqa: BLE001 - a bug must not end the checks
                _log.exception("the check of the view broke")

    async def check(self) -> None:
        """Check once.

        Raises:
            ViewDamaged: what is wrong.
            ViewError: if the file can't be read now.
            LogError: if the log can't be read now.
        """
        reader = await Reader.open(self._path)
        try:
            for (table,) in await reader.rows(_TABLES):
                # Table by table: a read of all of it would keep the write-ahead log from being cut.
                found = await _first(reader, f"PRAGMA quick_check('{table}')")
                if found != "ok":
                    # SQLite 3.40 reports NULL values in a healthy table WITHOUT ROWID whose key has another
                    # order than its columns; its slower check does not.
                    found = await _first(reader, f"PRAGMA integrity_check('{table}')")
                if found != "ok":
                    raise ViewDamaged(f"the view {self._path} is damaged, in the table {table}: {found:.200}")
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
            wanted = set(spec_head(job.spec).labels.items())
        except ViewError:
            raise
        except Exception as error:  # whatever a damaged row makes of its decoder
            raise ViewDamaged(
                f"the view {self._path} has a row that can't be read, after event {after}: {error!r}"
            ) from error
        records = await self._events_of(job)
        if not records:
            return
        folded: Job | None = None
        for record in records:
            folded = fold_job_on(folded, read_record(record))
        if folded == job and labels == wanted:
            return
        changed = await self._changed_event(reader, job.status.created_sequence, records[-1].sequence)
        if changed:
            self.problem = (
                f"the log and the view differ in job {job.status.id}, and event {changed} is not"
                " the one that the view folded: run `jobledger audit verify`"
            )
            _log.error("%s", self.problem)
            return
        raise ViewDamaged(f"the view {self._path} has other rows of job {job.status.id} than its events give")

    async def _events_of(self, job: Job) -> list[Record]:
        """The job's events up to the one that its row is at; empty if the log can't give them all."""
        status = job.status
        found: list[Record] = []
        async for record in records_between(
            self._log,
            job_subject(status.namespace, status.id),
            after=status.created_sequence - 1,
            up_to=last_read(status),
        ):
            recorded = read_record(record)
            named = recorded.event.previous if isinstance(recorded, Recorded) else ""
            if named.isdecimal() and found and int(named) > found[-1].sequence:
                return []  # one is missing: damage of the log
            found.append(record)
            if len(found) > VIEW_CHECK_EVENTS:
                return []
        return found if found and found[-1].sequence == last_read(status) else []

    async def _changed_event(self, reader: Reader, first: int, last: int) -> int:
        """The first sequence in a range at which the log hasn't the record that the view folded; 0 if none.

        All of the range is read, not only the job's own events: the log may have lost one of them, or have it
        on the subject of another job now. That takes less than the rebuild that would follow. A view without
        a tree, or whose tree ends at a hole in the log, knows no better.
        """
        feed = await self._log.follow(after=first - 1)
        try:
            after = first - 1
            while after < last:
                records = {record.sequence: record for record in await feed.take(TILE_WIDTH)}
                up_to = min(last, max(records))
                for sequence, wanted in (await _leaves(reader, after + 1, up_to)).items():
                    record = records.get(sequence)
                    if record is None or leaf_hash(record) != wanted:
                        return sequence
                after = up_to
        finally:
            await feed.close()
        return 0


async def _leaves(reader: Reader, first: int, last: int) -> dict[int, bytes]:
    """The hashes that the view's tree has of the records in a range of sequences."""
    rows = await reader.rows(_LEAVES, ((first - 1) // TILE_WIDTH, (last - 1) // TILE_WIDTH))
    leaves = {start + at: leaf for start, hashes in rows for at, leaf in enumerate(split_hashes(hashes), 1)}
    return {sequence: leaves[sequence] for sequence in range(first, last + 1) if sequence in leaves}


async def _first(reader: Reader, pragma: str) -> str:
    return str((await reader.rows(pragma))[0][0])
