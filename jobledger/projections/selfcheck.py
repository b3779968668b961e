"""The background check of a view: finds damaged pages and wrong rows before a reader does.

    every so often: each table by SQLite's quick_check ──► some jobs, folded again ──► rebuild if one is wrong

A job counts as wrong only if the view's own Merkle tree confirms that the log still has the events that the
view folded: a log that was changed is found by `audit verify`, which needs the view as it is.
"""

import asyncio
import logging
import random
from pathlib import Path
from typing import Final

from jobledger.projections.database import Reader
from jobledger.projections.errors import ViewDamaged, ViewError
from jobledger.projections.limits import VIEW_CHECK_EVENTS, VIEW_CHECK_ROWS
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.projections.merkle.tiles import TILE_WIDTH
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.projections.rows import STATUS_COLUMNS, job_of
from jobledger.store.errors import JobledgerError
from jobledger.store.events import Record, Recorded, read_record
from jobledger.store.fold import fold_job_on, last_read, spec_head
from jobledger.store.job import Job
from jobledger.store.jobs import records_between
from jobledger.store.log import EventLog
from jobledger.store.subjects import job_subject

_TABLES: Final = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
)
_JOB_AFTER: Final = (
    f"SELECT {', '.join(f'j.{column}' for column in STATUS_COLUMNS)}, s.spec"
    " FROM jobs AS j JOIN specs AS s ON s.sequence = j.spec_sequence"
    " WHERE j.created_sequence > ? ORDER BY j.created_sequence LIMIT 1"
)
_LABELS: Final = "SELECT key, value FROM labels WHERE created_sequence = ?"
_TILE: Final = "SELECT hashes FROM tree_tiles WHERE level = 0 AND position = ?"
_HASH_BYTES: Final = 32

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
            except Exception:  # noqa: BLE001 - a mistake of ours must not end the checks
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
            for _ in range(min(VIEW_CHECK_ROWS, last)):
                await self._check_job(reader, self._random.randrange(last))
        finally:
            await reader.close()
        self.checks += 1

    async def _check_job(self, reader: Reader, after: int) -> None:
        rows = await reader.rows(_JOB_AFTER, (after,))
        if not rows:
            return
        try:
            job = job_of(rows[0])
            labels = set(await reader.rows(_LABELS, (job.status.created_sequence,)))
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
        for record in records:
            if not await self._is_in_tree(reader, record):
                self.problem = (
                    f"the log and the view differ in job {job.status.id}, and event {record.sequence} is not"
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

    async def _is_in_tree(self, reader: Reader, record: Record) -> bool:
        """Whether the view's tree has this very record at its place; a view without a tree can't deny it."""
        position, at = divmod(record.sequence - 1, TILE_WIDTH)
        tiles = await reader.rows(_TILE, (position,))
        if not tiles:
            return True
        hashes = bytes(tiles[0][0])[at * _HASH_BYTES : (at + 1) * _HASH_BYTES]
        return not hashes or hashes == leaf_hash(record)


async def _first(reader: Reader, pragma: str) -> str:
    return str((await reader.rows(pragma))[0][0])
