"""The read side's public face: asks a view's SQLite file, and never writes to it.

Every answer but the digest is one statement: one snapshot, and at most one trip to a thread.
"""

import asyncio
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Self

import msgspec

from jobledger.projections.batch import Hole
from jobledger.projections.database import Reader
from jobledger.projections.errors import AmbiguousId, VersionNotFound, ViewDamaged, WaitTimeout
from jobledger.projections.limits import (
    CANDIDATES_SHOWN,
    LIST_DEFAULT_LIMIT,
    PAGE_MAX_BYTES,
    READERS_MAX,
    SHORT_ID_MIN_CHARACTERS,
    WAIT_DEFAULT_SECONDS,
    WAIT_MAX_SECONDS,
    WAIT_POLL_MAX_SECONDS,
    WAIT_POLL_SECONDS,
)
from jobledger.projections.pool import ReaderPool
from jobledger.projections.query.planner import choose_driver, count_statement, drivers_of, page_statement
from jobledger.projections.query.query import ListQuery, Order, Position, check_limit, encode_cursor
from jobledger.projections.results import Checkpoint, JobVersion, Page, Troubles, page_of, size_of_job
from jobledger.projections.rows import STATUS_COLUMNS, Row, job_of, lost_status_of, status_of
from jobledger.projections.view_diff import digest_of
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.fold import Anomaly
from jobledger.store.model.job import Job, JobStatus, StateType
from jobledger.store.model.limits import INT_MAX
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.values import is_utf8
from jobledger.store.yield_point import yield_point

_ID_PREFIX: Final = "j-"
_FULL_ID_CHARACTERS: Final = 38  # the prefix and a UUID

_JOB: Final = (
    f"SELECT {', '.join(f'j.{column}' for column in STATUS_COLUMNS)}, s.spec"
    " FROM jobs AS j JOIN specs AS s ON s.sequence = j.spec_sequence"
)
_BY_ID: Final = f"{_JOB} WHERE j.id = ?"
# The first id if a job has it, else the second. A third cheaper than `IN (?, ?)`, and it says which one wins.
_BY_EITHER_ID: Final = f"{_JOB} WHERE j.id = coalesce((SELECT id FROM jobs WHERE id = ?), ?)"
# The same among the jobs of some namespaces: others' rows and specs are not even read.
_BY_EITHER_ID_WITHIN: Final = (
    f"{_JOB} WHERE j.id = coalesce((SELECT id FROM jobs WHERE id = ?1 AND namespace IN ({{names}})), ?2)"
    " AND +j.namespace IN ({names})"
)
_BY_PREFIX: Final = (
    f"{_JOB} WHERE j.id >= ? AND j.id < ?{{within}} ORDER BY j.id LIMIT {CANDIDATES_SHOWN + 1}"
)
_VERSION: Final = (
    "SELECT v.version, v.sequence, v.time, v.spec FROM jobs AS j LEFT JOIN specs AS v"
    " ON v.created_sequence = j.created_sequence AND v.version = ? AND v.version <= j.version WHERE j.id = ?"
)
_VERSIONS: Final = (
    "SELECT v.version, v.sequence, v.time, v.spec FROM jobs AS j LEFT JOIN specs AS v"
    " ON v.created_sequence = j.created_sequence AND v.version > ? AND v.version <= j.version"
    " WHERE j.id = ? ORDER BY v.version LIMIT ?"
)
_STATUSES: Final = (
    f"SELECT {', '.join(STATUS_COLUMNS)} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
)
_LOST: Final = (
    "SELECT namespace, id, sequence, passed, quarantine FROM lost_jobs"
    " WHERE id IN (SELECT value FROM json_each(?))"
)
_QUARANTINED: Final = (
    f"SELECT {', '.join(STATUS_COLUMNS)} FROM jobs WHERE quarantine != '' AND created_sequence > ?"
    " ORDER BY created_sequence LIMIT ?"
)
_LOST_PAGE: Final = (
    "SELECT namespace, id, sequence, passed, quarantine FROM lost_jobs"
    " WHERE sequence > 0 AND (id, namespace) > (?, ?) ORDER BY id, namespace LIMIT ?"
)
_UNREAD_IN: Final = (
    "EXISTS (SELECT 1 FROM json_each(quarantine, '$.unread') AS u"
    " WHERE json_extract(u.value, '$.Sequence') BETWEEN ?1 AND ?2) LIMIT ?3"
)
_MISSING: Final = f"SELECT {', '.join(STATUS_COLUMNS)} FROM jobs WHERE quarantine != '' AND {_UNREAD_IN}"
_LOST_MISSING: Final = (
    f"SELECT namespace, id, sequence, passed, quarantine FROM lost_jobs WHERE sequence > 0 AND {_UNREAD_IN}"
)
_DAMAGE: Final = "SELECT first, last FROM damage WHERE first > ? ORDER BY first LIMIT ?"
_TROUBLES: Final = (
    "SELECT (SELECT count(*) FROM jobs WHERE quarantine != '')"
    " + (SELECT count(*) FROM lost_jobs WHERE sequence > 0),"
    " coalesce(sum(last - first + 1), 0), count(*), coalesce(min(first), 0), coalesce(max(last), 0)"
    " FROM damage"
)
_SPECS_AT: Final = "SELECT sequence, spec FROM specs WHERE sequence IN (SELECT value FROM json_each(?))"
_SPECS_BEFORE: Final = (
    "SELECT s.sequence, p.spec FROM specs AS s"
    " JOIN specs AS p ON p.created_sequence = s.created_sequence AND p.version = s.version - 1"
    " WHERE s.sequence IN (SELECT value FROM json_each(?))"
)
_COUNTS: Final = "SELECT state, count(*) FROM jobs GROUP BY state"
_COUNTS_IN: Final = "SELECT state, count(*) FROM jobs WHERE namespace = ? GROUP BY state"
_raw_decoder = msgspec.json.Decoder(msgspec.Raw)
_CHECKPOINT: Final = "SELECT epoch, sequence, anomalies FROM checkpoint"
_ANOMALIES: Final = (
    "SELECT sequence, job_id, reason FROM anomalies WHERE sequence > ? ORDER BY sequence LIMIT ?"
)


class View:
    """Reads of one view; `async with await View.open(path) as view`. Calls may run at the same time."""

    def __init__(self, pool: ReaderPool) -> None:
        self.path = pool.path
        self.pool = pool
        self._point_rows = pool.point_rows
        self._rows = pool.rows
        self._long_rows = pool.long_rows
        self._pool_page = pool.page_rows

    @classmethod
    async def open(cls, path: Path, *, readers: int = READERS_MAX, live: Path | None = None) -> Self:
        """Open a view that a projector made.

        Args:
            path: its file.
            readers: connections, each a thread: how many statements run at once.
            live: of a copy (`asof`), which has no specs: the view that has them.

        Raises:
            ViewMissing: if no projector has made it yet.
            ViewFromNewerRelease: if its schema is newer than this release.
            ViewError: if its schema is older, or the file can't be used.
            InvalidInput: for more readers than `READERS_MAX`, or none.
        """
        return cls(await ReaderPool.open(path, readers, live))

    async def close(self) -> None:
        """Answer what was asked, and close. Closing twice is harmless."""
        await self.pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- one job ------------------------------------------------------------------------------------------

    async def get(
        self, ref: str, *, namespace: str | None = None, visible: Collection[str] | None = None
    ) -> Job:
        """The job that a person means by a reference: the first of these that exists.

        1. The job of this exact name in the namespace: a name wins over an equal id, as in Bacalhau.
        2. The job of this exact id, in whatever namespace. An exact id is never taken for a prefix.
        3. The only job whose id begins with it, `j-` included, in whatever namespace.

        Args:
            ref: name, id or short id.
            namespace: where the name is looked up; None for the default namespace.
            visible: the namespaces that the asker may see; jobs of others are as if they were not there.
                None: all.

        Raises:
            JobNotFound: if there is none.
            AmbiguousId: if it is the beginning of several ids.
        """
        where = namespace or DEFAULT_NAMESPACE
        if _is_key(ref) and _is_key(where):
            # A job's id is a function of its name, or is its name: two probes of one index cover both rules.
            sql, within = _BY_EITHER_ID, tuple(visible or ())
            if visible is not None:
                sql = _BY_EITHER_ID_WITHIN.format(names=", ".join(f"?{3 + at}" for at in range(len(within))))
            rows = await self._point_rows(sql, (named_job_id(where, ref), ref, *within))
            found = self._job(rows[0]) if rows else await self._by_prefix(ref, visible)
            if found is not None:
                return found
        raise JobNotFound(
            f"no job has the id, the short id, or (in namespace {where!r:.80}) the name {ref!r:.80};"
            " list the jobs to see what there is"
        )

    async def get_by_id(self, job_id: str) -> Job:
        """The job of this exact id.

        Raises:
            JobNotFound: if there is none.
        """
        rows = await self._point_rows(_BY_ID, (job_id,)) if _is_key(job_id) else []
        if not rows:
            raise _no_such_id(job_id)
        return self._job(rows[0])

    async def get_by_name(self, namespace: str, name: str) -> Job:
        """The job of this exact namespace and name; an empty namespace is the default one.

        A job that was submitted without a name has its id as its name.

        Raises:
            JobNotFound: if there is none.
        """
        where = namespace or DEFAULT_NAMESPACE
        if _is_key(where) and _is_key(name):
            for job in map(
                self._job, await self._point_rows(_BY_EITHER_ID, (named_job_id(where, name), name))
            ):
                if job.status.namespace == where and job.status.name == name:
                    return job
        raise JobNotFound(f"no job in namespace {where!r:.80} has the name {name!r:.80}")

    async def version(self, job_id: str, version: int) -> JobVersion:
        """One version of a job's spec.

        Args:
            job_id: the job's exact id.
            version: from 1.

        Raises:
            JobNotFound: if there is no such job.
            VersionNotFound: if the job has no such version.
        """
        number = version if 1 <= version <= INT_MAX else 0  # none has version 0, and SQLite no number beyond
        rows = await self._point_rows(_VERSION, (number, job_id)) if _is_key(job_id) else []
        if not rows:
            raise _no_such_id(job_id)
        if rows[0][0] is None:
            raise VersionNotFound(
                f"job {job_id} has no version {version!r:.40}; list them with `jobledger job versions`"
            )
        return JobVersion(*rows[0])

    async def versions(
        self, job_id: str, *, after: int = 0, limit: int = LIST_DEFAULT_LIMIT
    ) -> tuple[JobVersion, ...]:
        """The versions of a job's spec, ascending; fewer than the limit also if their specs are large.

        Args:
            job_id: the job's exact id.
            after: only versions above this one: the last of the page before.
            limit: how many at most.

        Raises:
            JobNotFound: if there is no such job.
            InvalidInput: for a limit not within 1 and `LIST_MAX_LIMIT`.
        """
        check_limit(limit)
        number = max(0, min(after, INT_MAX))
        rows = await self._rows(_VERSIONS, (number, job_id, limit)) if _is_key(job_id) else []
        if not rows:
            raise _no_such_id(job_id)
        return page_of(
            tuple(JobVersion(*row) for row in rows if row[0] is not None), lambda version: len(version.spec)
        )

    # --- many jobs ----------------------------------------------------------------------------------------

    async def list(self, query: ListQuery | None = None) -> Page:
        """One page of jobs, each with its spec; of all jobs, oldest first, if nothing else is asked.

        It holds fewer than the limit if their specs or states are large; `next_cursor` says whether there
        are more.
        """
        query = query or ListQuery()
        drivers = drivers_of(query)
        driver = None
        if drivers:
            # A snapshot of its own: it chooses the way to the page, and the page is right on either.
            [counted] = await self._long_rows(*count_statement(query, drivers))
            driver = choose_driver(query, drivers, counted)
        rows, is_whole = await self._pool_page(*page_statement(query, driver), max_bytes=PAGE_MAX_BYTES)
        found: list[Job] = []
        for row in rows[: query.limit]:
            if row[1] is not None:
                await yield_point()
                found.append(self._job(row[1:]))
        jobs = page_of(tuple(found), size_of_job)
        more = not is_whole or len(rows) > query.limit or len(jobs) < len(found)
        return Page(
            jobs=jobs,
            next_cursor=_cursor_at(query, jobs[-1]) if more else None,
            sequence=rows[0][0],
        )

    async def statuses(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The statuses of those of these jobs that there are; the caller bounds how many it asks for."""
        rows = await self._long_rows(_STATUSES, (msgspec.json.encode(tuple(job_ids)).decode(),))
        return {row[0]: status_of(row) for row in rows}

    async def lost(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The statuses of those of these jobs of which no creating event can be read."""
        rows = await self._long_rows(_LOST, (msgspec.json.encode(tuple(job_ids)).decode(),))
        return {row[1]: lost_status_of(row) for row in rows}

    async def quarantined(self, *, after: int = 0, limit: int = LIST_DEFAULT_LIMIT) -> tuple[JobStatus, ...]:
        """Jobs in quarantine, in the order in which they were created; without those that are lost.

        Args:
            after: only those created after this sequence: `created_sequence` of the last of the page before.
            limit: how many at most.

        Raises:
            InvalidInput: for a limit not within 1 and `LIST_MAX_LIMIT`.
        """
        check_limit(limit)
        rows = await self._rows(_QUARANTINED, (max(0, min(after, INT_MAX)), limit))
        return tuple(status_of(row) for row in rows)

    async def lost_jobs(
        self, *, after: tuple[str, str] = ("", ""), limit: int = LIST_DEFAULT_LIMIT
    ) -> tuple[JobStatus, ...]:
        """Jobs in quarantine of which no creating event can be read, by id and namespace.

        Args:
            after: id and namespace of the last of the page before.
            limit: how many at most.

        Raises:
            InvalidInput: for a limit not within 1 and `LIST_MAX_LIMIT`.
        """
        check_limit(limit)
        return tuple(lost_status_of(row) for row in await self._rows(_LOST_PAGE, (*after, limit)))

    async def damage(self, *, after: int = 0, limit: int = LIST_DEFAULT_LIMIT) -> tuple[Hole, ...]:
        """Sequences that the log no longer held when this view read on, oldest first.

        Args:
            after: only those after this sequence.
            limit: how many at most.

        Raises:
            InvalidInput: for a limit not within 1 and `LIST_MAX_LIMIT`.
        """
        check_limit(limit)
        return tuple(Hole(*row) for row in await self._rows(_DAMAGE, (max(0, min(after, INT_MAX)), limit)))

    async def missing_events(self, hole: Hole, limit: int = LIST_DEFAULT_LIMIT) -> tuple[JobStatus, ...]:
        """Jobs that are known to miss an event of a hole: they are in quarantine for it.

        Args:
            hole: the range.
            limit: how many at most.
        """
        check_limit(limit)
        bounds = (hole.first, hole.last, limit)
        jobs = [status_of(row) for row in await self._long_rows(_MISSING, bounds)]
        lost = await self._long_rows(_LOST_MISSING, (hole.first, hole.last, limit - len(jobs)))
        return (*jobs, *(lost_status_of(row) for row in lost))

    async def troubles(self) -> Troubles:
        """How many jobs are in quarantine, and how many events are missing from the log."""
        [row] = await self._rows(_TROUBLES)
        return Troubles(*row)

    async def specs_at(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """The specs that the events at these sequences set; the caller bounds how many it asks for."""
        rows = await self._long_rows(_SPECS_AT, (msgspec.json.encode(tuple(sequences)).decode(),))
        return dict(rows)

    async def specs_before(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """The specs that the jobs had before these events set theirs; none for a job's first spec."""
        rows = await self._long_rows(_SPECS_BEFORE, (msgspec.json.encode(tuple(sequences)).decode(),))
        return dict(rows)

    async def counts(self, namespace: str | None = None) -> dict[StateType, int]:
        """How many jobs are in each of the six states; of all namespaces if none is named."""
        if namespace is None:
            rows = await self._long_rows(_COUNTS)
        else:
            rows = await self._long_rows(_COUNTS_IN, (namespace,)) if _is_key(namespace) else []
        return dict.fromkeys(StateType, 0) | {StateType(state): count for state, count in rows}

    # --- the view itself ----------------------------------------------------------------------------------

    async def checkpoint(self) -> Checkpoint:
        """How far the view is."""
        return Checkpoint(*(await self._point_rows(_CHECKPOINT))[0])

    async def anomalies(self, *, after: int = 0, limit: int = LIST_DEFAULT_LIMIT) -> tuple[Anomaly, ...]:
        """Events that made no sense where they stand, oldest first; the view keeps a bounded number of them.

        Args:
            after: only those behind this sequence: the last of the page before.
            limit: how many at most.

        Raises:
            InvalidInput: for a limit not within 1 and `LIST_MAX_LIMIT`.
        """
        check_limit(limit)
        rows = await self._rows(_ANOMALIES, (max(0, min(after, INT_MAX)), limit))
        return tuple(Anomaly(*row) for row in rows)

    async def wait_for(self, sequence: int, timeout_seconds: float = WAIT_DEFAULT_SECONDS) -> None:
        """Wait until the view reflects a sequence. It looks again and again: for a process with no projector.

        Args:
            sequence: what an append returned.
            timeout_seconds: 0 looks once.

        Raises:
            WaitTimeout: if it does not in time.
            InvalidInput: for a negative sequence, or a timeout not within 0 and `WAIT_MAX_SECONDS`.
        """
        if sequence < 0:
            raise InvalidInput(f"sequence is {sequence!r:.40}; pass one that an append returned")
        if not 0 <= timeout_seconds <= WAIT_MAX_SECONDS:
            raise InvalidInput(f"timeout_seconds is {timeout_seconds!r:.40}; use 0 to {WAIT_MAX_SECONDS:g}")
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        pause = WAIT_POLL_SECONDS
        while (reached := (await self.checkpoint()).sequence) < sequence:
            left = deadline - clock()
            if left <= 0:
                raise WaitTimeout(
                    f"the view is at {reached} and did not reach {sequence} within"
                    f" {timeout_seconds:g} s; wait longer, or see whether its projector runs"
                )
            await asyncio.sleep(min(pause, left))
            pause = min(2 * pause, WAIT_POLL_MAX_SECONDS)

    async def digest(self) -> str:
        """One hash over all rows: two views at the same sequence are equal if, and only if, these are.

        It reads the whole view, in a snapshot on a connection of its own, so that it holds up nobody.
        """
        reader = await Reader.open(self.path)
        try:
            return await digest_of(reader)
        finally:
            await reader.close()

    def _job(self, row: Row) -> Job:
        """The job of a row that SQLite could read; a damaged page may hold anything.

        Raises:
            ViewDamaged: if the spec is not valid JSON; the view is then rebuilt.
        """
        job = job_of(row)
        try:
            _raw_decoder.decode(job.spec)
        except msgspec.DecodeError as error:
            damage = ViewDamaged(f"the view {self.path} has a damaged spec of job {job.status.id}: {error}")
            self.pool.report_damage(damage)
            raise damage from error
        return job

    async def _by_prefix(self, ref: str, visible: Collection[str] | None) -> Job | None:
        """The job whose id this text shortens, if it can be a short id and one has it."""
        if not is_short_id(ref):
            return None
        # The first text behind all that begin with it: a range, which the index of ids can search.
        behind = ref[:-1] + chr(ord(ref[-1]) + 1)
        within, names = ("", ()) if visible is None else (_within(len(visible)), tuple(visible))
        rows = await self._rows(_BY_PREFIX.format(within=within), (ref, behind, *names))
        if len(rows) <= 1:
            return self._job(rows[0]) if rows else None
        candidates = [row[0] for row in rows[:CANDIDATES_SHOWN]]
        more = ", …" if len(rows) > CANDIDATES_SHOWN else ""
        raise AmbiguousId(
            f"several jobs have ids that begin with {ref}: {', '.join(candidates)}{more}; write more of it",
            candidates=candidates,
        )


def is_short_id(ref: str) -> bool:
    """Whether a reference can be the beginning of a job's id."""
    is_id = ref.startswith(_ID_PREFIX) and ref.isascii()
    return is_id and SHORT_ID_MIN_CHARACTERS <= len(ref) < _FULL_ID_CHARACTERS


def _within(count: int) -> str:
    # `+`: the few rows that the index of ids finds are looked at, rather than all of a namespace.
    return f" AND +j.namespace IN ({', '.join('?' * count)})"


def _is_key(text: str) -> bool:
    """Whether a job may have this as id, name or namespace; SQLite can't even be asked for some texts."""
    return "\0" not in text and is_utf8(text)


def _no_such_id(job_id: str) -> JobNotFound:
    return JobNotFound(f"no job has the id {job_id!r:.80}; `get` also takes names and short ids")


def _cursor_at(query: ListQuery, job: Job) -> str:
    status = job.status
    time = status.create_time if query.order == Order.CREATED else status.modify_time
    return encode_cursor(query.order, Position(time, status.created_sequence), descending=query.descending)
