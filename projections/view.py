"""`View`: queries on a view's SQLite file. It never writes.

Every query except the digest is one statement: one snapshot, and at most one trip to a thread.
"""

import asyncio
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final, Self

import msgspec

from jobledger.projections.batch import Hole
from jobledger.projections.database import Reader
from jobledger.projections.errors import AmbiguousId, VersionNotFound, ViewDamaged, ViewError, WaitTimeout
from jobledger.projections.limits import (
    CANDIDATES_SHOWN,
    COUNT_MAX_JOBS,
    CREATED_COUNT_MAX_JOBS,
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
from jobledger.projections.query.planner import (
    choose_driver,
    count_statement,
    created_counts_statement,
    drivers_of,
    edge_statement,
    existing_statement,
    first_created_statement,
    page_statement,
    state_counts_statement,
)
from jobledger.projections.query.query import ListQuery, Order, Position, check_limit, encode_cursor
from jobledger.projections.results import (
    Checkpoint,
    JobVersion,
    Page,
    StateCount,
    Troubles,
    fit_page,
    size_of_job,
)
from jobledger.projections.rows import (
    LOST_COLUMNS,
    SELECT_LOST,
    SELECT_LOST_PAGE,
    SELECT_QUARANTINED,
    SELECT_SPECS,
    SELECT_STATUSES,
    STATUS_COLUMNS,
    Row,
    job_of,
    lost_status_of,
    status_of,
)
from jobledger.projections.view_diff import digest_of
from jobledger.store.backoff import Backoff
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.fold import Anomaly
from jobledger.store.model.job import Job, JobStatus, StateType
from jobledger.store.model.limits import INT_MAX
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.values import is_utf8
from jobledger.store.yield_point import yield_hook, yield_point

_ID_PREFIX: Final = "j-"
_FULL_ID_CHARACTERS: Final = 38  # the prefix and a UUID

_JOB: Final = (
    f"SELECT {', '.join(f'j.{column}' for column in STATUS_COLUMNS)}, s.spec"
    " FROM jobs AS j JOIN specs AS s ON s.sequence = j.spec_sequence"
)
_BY_ID: Final = f"{_JOB} WHERE j.id = ?"
# The first id if a job has it, else the second. A third cheaper than `IN (?, ?)`, with explicit precedence.
_BY_EITHER_ID: Final = f"{_JOB} WHERE j.id = coalesce((SELECT id FROM jobs WHERE id = ?), ?)"
# The same, restricted to some namespaces: rows and specs of others are not read.
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
_UNREAD_IN: Final = (
    "EXISTS (SELECT 1 FROM json_each(quarantine, '$.unread') AS u"
    " WHERE json_extract(u.value, '$.Sequence') BETWEEN ?1 AND ?2) LIMIT ?3"
)
_MISSING: Final = f"SELECT {', '.join(STATUS_COLUMNS)} FROM jobs WHERE quarantine != '' AND {_UNREAD_IN}"
_LOST_MISSING: Final = f"SELECT {', '.join(LOST_COLUMNS)} FROM lost_jobs WHERE sequence > 0 AND {_UNREAD_IN}"
_DAMAGE: Final = "SELECT first, last FROM damage WHERE first > ? ORDER BY first LIMIT ?"
_TROUBLES: Final = (
    "SELECT (SELECT count(*) FROM jobs WHERE quarantine != '')"
    " + (SELECT count(*) FROM lost_jobs WHERE sequence > 0),"
    " coalesce(sum(last - first + 1), 0), count(*), coalesce(min(first), 0), coalesce(max(last), 0)"
    " FROM damage"
)
_SPECS_BEFORE: Final = (
    "SELECT s.sequence, p.spec FROM specs AS s"
    " JOIN specs AS p ON p.created_sequence = s.created_sequence AND p.version = s.version - 1"
    " WHERE s.sequence IN (SELECT value FROM json_each(?))"
)
_COUNTS: Final = "SELECT state, count(*) FROM jobs GROUP BY state"
_COUNTS_IN: Final = "SELECT state, count(*) FROM jobs WHERE namespace = ? GROUP BY state"
_raw_decoder = msgspec.json.Decoder(msgspec.Raw)
_IS_STEADY: Final = "SELECT clock_steps IS 0 AND NOT EXISTS (SELECT 1 FROM damage) FROM checkpoint"
_CHECKPOINT: Final = "SELECT epoch, sequence, anomalies, time FROM checkpoint"
_ANOMALIES: Final = (
    "SELECT sequence, job_id, reason FROM anomalies WHERE sequence > ? ORDER BY sequence LIMIT ?"
)


def _by_either_id(
    ref: str, namespace: str, visible: Collection[str] | None, *, by_name: bool
) -> tuple[str, tuple[str, ...]]:
    """The lookup of a job by its name in the namespace, or by its exact id in any.

    A job's id is a function of its name, or is its name: two lookups in one index cover two rules.
    """
    first = named_job_id(namespace, ref) if by_name else ref
    if visible is None:
        return _BY_EITHER_ID, (first, ref)
    names = ", ".join(f"?{3 + at}" for at in range(len(visible)))
    return _BY_EITHER_ID_WITHIN.format(names=names), (first, ref, *visible)


class View:
    """Reads of one view: `async with await View.open(path) as view`. Calls may run concurrently.

    They raise `JobNotFound` or `VersionNotFound` for a missing job or version, `InvalidInput` for a `limit`
    that is not within 1 and `LIST_MAX_LIMIT`, and `ViewError` if the file cannot be read. `after` is the key
    of the last item of the previous page.
    """

    def __init__(self, pool: ReaderPool) -> None:
        self.path = pool.path
        self.pool = pool
        self._point_rows = pool.point_rows
        self._rows = pool.rows
        self._long_rows = pool.long_rows
        self._pool_page = pool.page_rows

    @classmethod
    async def open(cls, path: Path, *, readers: int = READERS_MAX, live: Path | None = None) -> Self:
        """Open a view that a projector created.

        Args:
            path: the view's file.
            readers: connections, each with a thread; this many statements run concurrently.
            live: for a snapshot (`as_of`), which has no specs: the view that has them.

        Raises:
            ViewMissing: if no projector has created the view yet.
            ViewFromNewerRelease: if its schema is newer than this release.
            ViewError: if its schema is older, or the file cannot be used.
            InvalidInput: if `readers` is not within 1 and `READERS_MAX`.
        """
        return cls(await ReaderPool.open(path, readers, live))

    async def close(self) -> None:
        """Finish pending reads and close. Idempotent."""
        await self.pool.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- one job ------------------------------------------------------------------------------------------

    async def get(
        self,
        ref: str,
        *,
        namespace: str | None = None,
        visible: Collection[str] | None = None,
        by_name: bool = True,
    ) -> Job:
        """Resolve a reference to a job: the first of these that exists.

        1. The job with this exact name in the namespace; a name takes precedence over an equal id, as in
        Bacalhau.
        2. The job with this exact id, in any namespace. An exact id is never treated as a prefix.
        3. The only job whose id starts with `ref`, including `j-`, in any namespace.

        Args:
            ref: name, id or short id.
            namespace: where the name is looked up; None for the default namespace.
            visible: the namespaces that the caller may see; jobs of others are not found. None: all.
            by_name: whether the first rule applies.

        Raises:
            JobNotFound: if no job matches.
            AmbiguousId: if several ids start with `ref`.
        """
        where = namespace or DEFAULT_NAMESPACE
        if _is_key(ref) and _is_key(where):
            rows = await self._point_rows(*_by_either_id(ref, where, visible, by_name=by_name))
            found = self._job(rows[0]) if rows else await self._by_prefix(ref, visible)
            if found is not None:
                return found
        raise JobNotFound(
            f"no job with the id, short id or, in namespace {where!r:.80}, the name {ref!r:.80};"
            " list the jobs to see what exists"
        )

    def get_now(
        self,
        ref: str,
        *,
        namespace: str | None = None,
        visible: Collection[str] | None = None,
        by_name: bool = True,
    ) -> Job | None:
        """What `get` returns, if it can without waiting; None: `get` has to decide."""
        where = namespace or DEFAULT_NAMESPACE
        if not (_is_key(ref) and _is_key(where)):
            return None
        return self._job_now(*_by_either_id(ref, where, visible, by_name=by_name))

    def get_by_id_now(self, job_id: str) -> Job | None:
        """What `get_by_id` returns, if it can without waiting; None: `get_by_id` has to decide."""
        return self._job_now(_BY_ID, (job_id,)) if _is_key(job_id) else None

    def _job_now(self, sql: str, parameters: tuple[str, ...]) -> Job | None:
        rows = self.pool.point_rows_now(sql, parameters)
        try:
            return self._job(rows[0]) if rows else None
        except ViewError:  # a damaged row; the other path reads the log
            return None

    async def get_by_id(self, job_id: str) -> Job:
        """The job with this exact id."""
        rows = await self._point_rows(_BY_ID, (job_id,)) if _is_key(job_id) else []
        if not rows:
            raise _no_such_id(job_id)
        return self._job(rows[0])

    async def get_by_name(self, namespace: str, name: str) -> Job:
        """The job with this exact name; an empty namespace is the default one.

        A job that was submitted without a name has its id as its name.
        """
        where = namespace or DEFAULT_NAMESPACE
        if _is_key(where) and _is_key(name):
            for job in map(
                self._job, await self._point_rows(_BY_EITHER_ID, (named_job_id(where, name), name))
            ):
                if job.status.namespace == where and job.status.name == name:
                    return job
        raise JobNotFound(f"no job in namespace {where!r:.80} with the name {name!r:.80}")

    async def version(self, job_id: str, version: int) -> JobVersion:
        """One version of a job's spec, by exact job id."""
        number = version if 1 <= version <= INT_MAX else 0  # no version is 0; SQLite has no larger integers
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
        """The versions of a job's spec after `after`, ascending; fewer than `limit` if specs are large."""
        check_limit(limit)
        number = max(0, min(after, INT_MAX))
        rows = await self._rows(_VERSIONS, (number, job_id, limit)) if _is_key(job_id) else []
        if not rows:
            raise _no_such_id(job_id)
        return fit_page(
            tuple(JobVersion(*row) for row in rows if row[0] is not None), lambda version: len(version.spec)
        )

    # --- many jobs ----------------------------------------------------------------------------------------

    async def list(self, query: ListQuery | None = None) -> Page:
        """One page of jobs with their specs; by default of all jobs, oldest first.

        A page has fewer jobs than the limit if their specs or states are large, or if a bounded search tested
        LIST_SCAN_MAX_ROWS jobs; `next_cursor` is None on the last page.
        """
        query = query or ListQuery()
        drivers = drivers_of(query)
        driver = None
        if drivers:
            # A separate snapshot: it only chooses the plan, and the page is correct with any plan.
            [counted] = await self._long_rows(*count_statement(query, drivers))
            driver = choose_driver(query, drivers, counted)
        is_cut = driver is None and query.may_end_early()
        edge = await self._long_rows(*edge_statement(query)) if is_cut else []
        if edge:
            query = query.until(edge[0][0])
        rows, is_whole = await self._pool_page(*page_statement(query, driver), max_bytes=PAGE_MAX_BYTES)
        found: list[Job] = []
        yields = yield_hook.get() is not None
        for row in rows[: query.limit]:
            if row[1] is not None:
                if yields:
                    await yield_point()
                found.append(self._job(row[1:]))
        jobs = fit_page(tuple(found), size_of_job)
        more = not is_whole or len(rows) > query.limit or len(jobs) < len(found)
        next_cursor = _cursor_at(query, jobs[-1]) if more else None
        return Page(
            jobs=jobs,
            next_cursor=_cursor_after(query, edge[0][0]) if edge and not more else next_cursor,
            sequence=rows[0][0],
        )

    async def existing(
        self, query: ListQuery, sequence: int, time: int, *, limit: int
    ) -> tuple[JobStatus, ...]:
        """The present statuses of the jobs that existed as of a sequence, in the order of creation.

        Of a query, only namespaces, times of creation, direction and cursor matter.

        Args:
            query: in the order of creation.
            sequence: the point.
            time: of the event at this sequence; the stream's time must never have gone back.
            limit: maximum number of jobs.
        """
        rows = await self._long_rows(*existing_statement(query, sequence, time, limit=limit))
        return tuple(status_of(row) for row in rows)

    async def state_counts(self, query: ListQuery) -> dict[StateType, StateCount]:
        """How many jobs that match a query are in each state, whatever states the query names.

        Counting ends at `COUNT_MAX_JOBS` per state, and tests at most `COUNT_SCAN_MAX_ROWS` jobs of a state.
        """
        query = msgspec.structs.replace(query, states=(), order=Order.CREATED, descending=True, cursor=None)
        drivers = drivers_of(query)
        driver = None
        if drivers:
            [counted] = await self._long_rows(*count_statement(query, drivers))
            driver = choose_driver(query, drivers, counted)
        rows = await self._long_rows(*state_counts_statement(query, driver))
        found = {StateType(state): (count, bool(is_whole)) for state, count, is_whole in rows}
        return {
            state: StateCount(min(count, COUNT_MAX_JOBS), is_whole and count <= COUNT_MAX_JOBS)
            for state in StateType
            for count, is_whole in [found.get(state, (0, True))]
        }

    async def first_created(self, namespaces: tuple[str, ...] | None) -> int | None:
        """When the first job was created in some namespaces, or in all; None without one."""
        if namespaces is not None and not namespaces:
            return None
        [[found]] = await self._long_rows(*first_created_statement(namespaces))
        return None if found is None else int(found)

    async def created_counts(
        self, namespaces: tuple[str, ...] | None, edges: tuple[int, ...]
    ) -> tuple[StateCount, ...]:
        """How many jobs were created between each two of some times, in some namespaces or in all.

        Counting ends at `CREATED_COUNT_MAX_JOBS` per interval.
        """
        [row] = await self._long_rows(*created_counts_statement(namespaces, edges))
        most = CREATED_COUNT_MAX_JOBS
        return tuple(StateCount(min(count, most), is_exact=count <= most) for count in row)

    async def statuses(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The statuses of these jobs, without those that do not exist; the caller bounds the number."""
        rows = await self._long_rows(SELECT_STATUSES, (msgspec.json.encode(tuple(job_ids)).decode(),))
        return {status.id: status for status in map(status_of, rows)}

    async def lost(self, job_ids: Iterable[str]) -> dict[str, JobStatus]:
        """The statuses of those of these jobs whose creating event cannot be read."""
        rows = await self._long_rows(SELECT_LOST, (msgspec.json.encode(tuple(job_ids)).decode(),))
        return {row[1]: lost_status_of(row) for row in rows}

    async def quarantined(self, *, after: int = 0, limit: int = LIST_DEFAULT_LIMIT) -> tuple[JobStatus, ...]:
        """Jobs in quarantine in the order of creation, without lost jobs."""
        check_limit(limit)
        rows = await self._rows(SELECT_QUARANTINED, (max(0, min(after, INT_MAX)), limit))
        return tuple(status_of(row) for row in rows)

    async def lost_jobs(
        self, *, after: tuple[str, str] = ("", ""), limit: int = LIST_DEFAULT_LIMIT
    ) -> tuple[JobStatus, ...]:
        """Jobs in quarantine whose creating event cannot be read, by id and namespace."""
        check_limit(limit)
        return tuple(lost_status_of(row) for row in await self._rows(SELECT_LOST_PAGE, (*after, limit)))

    async def damage(self, *, after: int = 0, limit: int = LIST_DEFAULT_LIMIT) -> tuple[Hole, ...]:
        """Ranges of sequences that the log had lost when this view read it, oldest first, after `after`."""
        check_limit(limit)
        return tuple(Hole(*row) for row in await self._rows(_DAMAGE, (max(0, min(after, INT_MAX)), limit)))

    async def missing_events(self, hole: Hole, limit: int = LIST_DEFAULT_LIMIT) -> tuple[JobStatus, ...]:
        """Jobs in quarantine because an event in this range is missing."""
        check_limit(limit)
        bounds = (hole.first, hole.last, limit)
        jobs = [status_of(row) for row in await self._long_rows(_MISSING, bounds)]
        lost = await self._long_rows(_LOST_MISSING, (hole.first, hole.last, limit - len(jobs)))
        return (*jobs, *(lost_status_of(row) for row in lost))

    async def troubles(self) -> Troubles:
        """Counts of jobs in quarantine and of events missing from the log."""
        [row] = await self._rows(_TROUBLES)
        return Troubles(*row)

    async def has_steady_clock(self) -> bool:
        """Whether no event of the log is missing, or has an earlier stream time than the event before it."""
        [(is_steady,)] = await self._rows(_IS_STEADY)
        return bool(is_steady)

    async def specs_at(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """The specs set by the events at these sequences; the caller bounds the number."""
        rows = await self._long_rows(SELECT_SPECS, (msgspec.json.encode(tuple(sequences)).decode(),))
        return dict(rows)

    async def specs_before(self, sequences: Iterable[int]) -> dict[int, bytes]:
        """The specs that the jobs had before the events at these sequences; none for a first spec."""
        rows = await self._long_rows(_SPECS_BEFORE, (msgspec.json.encode(tuple(sequences)).decode(),))
        return dict(rows)

    async def counts(self, namespace: str | None = None) -> dict[StateType, int]:
        """The number of jobs in each of the six states, in one namespace or in all."""
        if namespace is None:
            rows = await self._long_rows(_COUNTS)
        else:
            rows = await self._long_rows(_COUNTS_IN, (namespace,)) if _is_key(namespace) else []
        return dict.fromkeys(StateType, 0) | {StateType(state): count for state, count in rows}

    # --- the view itself ----------------------------------------------------------------------------------

    async def checkpoint(self) -> Checkpoint:
        """The log of this view, and the last event applied."""
        return Checkpoint(*(await self._point_rows(_CHECKPOINT))[0])

    async def anomalies(self, *, after: int = 0, limit: int = LIST_DEFAULT_LIMIT) -> tuple[Anomaly, ...]:
        """Events that contradict the state of their job, oldest first; the view keeps a bounded number."""
        check_limit(limit)
        rows = await self._rows(_ANOMALIES, (max(0, min(after, INT_MAX)), limit))
        return tuple(Anomaly(*row) for row in rows)

    async def wait_for(self, sequence: int, timeout_seconds: float = WAIT_DEFAULT_SECONDS) -> None:
        """Wait until the view reflects a sequence, by polling: for a process without a projector.

        Args:
            sequence: as returned by an append.
            timeout_seconds: 0 checks once.

        Raises:
            WaitTimeout: if the view does not reach the sequence in time.
            InvalidInput: if `sequence` is negative, or `timeout_seconds` is not within 0 and
                `WAIT_MAX_SECONDS`.
        """
        if sequence < 0:
            raise InvalidInput(
                f"sequence must not be negative, got {sequence!r:.40}; pass one that an append returned"
            )
        if not 0 <= timeout_seconds <= WAIT_MAX_SECONDS:
            raise InvalidInput(
                f"timeout_seconds must be 0..{WAIT_MAX_SECONDS:g}, got {timeout_seconds!r:.40}"
            )
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout_seconds
        backoff = Backoff(WAIT_POLL_SECONDS, WAIT_POLL_MAX_SECONDS)
        while (reached := (await self.checkpoint()).sequence) < sequence:
            left = deadline - clock()
            if left <= 0:
                raise WaitTimeout(
                    f"the view is at {reached} and did not reach {sequence} within"
                    f" {timeout_seconds:g} s; wait longer, or check that its projector is running"
                )
            await asyncio.sleep(min(backoff.next_seconds(), left))

    async def digest(self) -> str:
        """A hash over all rows: two views at the same sequence are equal if and only if their digests are.

        It reads the whole view in one snapshot on a separate connection, so that it does not delay other
        reads.
        """
        reader = await Reader.open(self.path)
        try:
            return await digest_of(reader)
        finally:
            await reader.close()

    def _job(self, row: Row) -> Job:
        """Decode a row; a damaged page that SQLite can read may contain anything."""
        job = job_of(row)
        try:
            _raw_decoder.decode(job.spec)
        except msgspec.DecodeError as error:
            damage = ViewDamaged(
                f"the spec of job {job.status.id} in the view {self.path} is damaged: {error}"
            )
            self.pool.report_damage(damage)
            raise damage from error
        return job

    async def _by_prefix(self, ref: str, visible: Collection[str] | None) -> Job | None:
        """The job whose id starts with `ref`, if `ref` can be a short id."""
        if not is_short_id(ref):
            return None
        # The first text after all that start with `ref`: a range, which the index of ids can search.
        end = ref[:-1] + chr(ord(ref[-1]) + 1)
        within, names = ("", ()) if visible is None else (_within(len(visible)), tuple(visible))
        rows = await self._rows(_BY_PREFIX.format(within=within), (ref, end, *names))
        if len(rows) <= 1:
            return self._job(rows[0]) if rows else None
        candidates = [status_of(row).id for row in rows[:CANDIDATES_SHOWN]]
        more = ", …" if len(rows) > CANDIDATES_SHOWN else ""
        raise AmbiguousId(
            f"several job ids start with {ref}: {', '.join(candidates)}{more}; use a longer prefix",
            candidates=candidates,
        )


def is_full_id(ref: str) -> bool:
    """Whether a reference has the form of a job's id; it can also be a name."""
    return ref.startswith(_ID_PREFIX) and len(ref) == _FULL_ID_CHARACTERS


def is_short_id(ref: str) -> bool:
    """Whether a reference can be the prefix of a job's id."""
    is_id = ref.startswith(_ID_PREFIX) and ref.isascii()
    return is_id and SHORT_ID_MIN_CHARACTERS <= len(ref) < _FULL_ID_CHARACTERS


def _within(count: int) -> str:
    # `+` keeps SQLite on the index of ids: the few rows found there are tested, not all rows of a namespace.
    return f" AND +j.namespace IN ({', '.join('?' * count)})"


def _is_key(text: str) -> bool:
    """Whether a job can have this id, name or namespace; SQLite rejects some texts as parameters."""
    return "\0" not in text and is_utf8(text)


def _no_such_id(job_id: str) -> JobNotFound:
    return JobNotFound(f"no job with the id {job_id!r:.80}; `get` also accepts names and short ids")


def _cursor_after(query: ListQuery, time: int) -> str:
    """The cursor after all jobs with a time: of those, it is before the first key or after the last."""
    return encode_cursor(
        query.order, Position(time, 1 if query.descending else INT_MAX), descending=query.descending
    )


def _cursor_at(query: ListQuery, job: Job) -> str:
    status = job.status
    time = status.create_time if query.order == Order.CREATED else status.modify_time
    return encode_cursor(query.order, Position(time, status.created_sequence), descending=query.descending)
