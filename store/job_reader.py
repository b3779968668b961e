"""Jobs read from the log: cached, fresh, and with their history. Only reads and folds."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress
from typing import Protocol

from jobledger.store.backoff import Backoff
from jobledger.store.command import Receipt, receipt_of
from jobledger.store.job_cache import CachedJob, HistoryPosition, JobCache
from jobledger.store.log import EventLog
from jobledger.store.lru import LRUCache
from jobledger.store.model.errors import (
    InvalidInput,
    LogBroken,
    LogDamaged,
    LogError,
    LogRefused,
    LogUnavailable,
)
from jobledger.store.model.events import JobEvent, Record, Recorded, read_record
from jobledger.store.model.fold import Anomaly, fold, fold_appended, fold_job_on, last_read
from jobledger.store.model.history import HistoryItem, build_history_item
from jobledger.store.model.job import Job
from jobledger.store.model.limits import (
    FIND_JOB_MAX_EVENTS,
    HISTORY_POSITIONS_MAX_BYTES,
    READ_MAX_TRIES,
    RETRY_MAX_WAIT_SECONDS,
    RETRY_WAIT_SECONDS,
)
from jobledger.store.model.subjects import NAMELESS_JOB_ID, job_subject, job_subject_anywhere
from jobledger.store.yield_point import yield_point


class KnownJobs(Protocol):
    """Jobs of an earlier point of the log, for example those of a view: found faster than in the log."""

    async def find(self, job_id: str) -> Job | None:
        """Return the job with this id; None: read the log.

        It must be the result of all events of this log on the job's subject up to the one that its status
        names as the last. It can lack later ones. It raises nothing and takes a limited time.
        """
        ...


class JobReader:
    """Folds jobs from the log, starting from the cache.

    Args:
        log: of the events.
        cache: of the jobs that were read or changed.
        known: jobs that `last_seen` finds without reading the log; None: none.
    """

    def __init__(self, log: EventLog, cache: JobCache, known: KnownJobs | None = None) -> None:
        self._log = log
        self._cache = cache
        self._known = known
        # Positions of readers of histories, by subject and sequence, so that a later page costs one page.
        self._positions = LRUCache[tuple[str, int], HistoryPosition](
            HISTORY_POSITIONS_MAX_BYTES, HistoryPosition.size_bytes
        )
        self._session = log.session

    def cached(self, job_id: str, namespace: str | None) -> CachedJob | None:
        """Return a job as last seen; None if it is not cached."""
        if self._session != self._log.session:
            # The log was unreachable, and can be another one now, with the same address and sequences.
            self._session = self._log.session
            self._cache.clear()
        known = self._cache.get(job_id)
        if known is None:
            return None
        if namespace is None:
            # The id of a nameless job does not determine its namespace: another namespace can have events for
            # it too, and only the log decides which of them is the job.
            return known if _is_of_named_job(job_id) else None
        return known if known.subject == job_subject(namespace, job_id) else None

    async def last_seen(self, job_id: str, namespace: str | None) -> CachedJob | None:
        """Return a job from the cache or, without reading the log, from the known jobs; None if none has it.

        A known job is good enough to decide on, as one after our own append: `fresh` reads the log from
        the start of the subject. One in quarantine is left to `fresh`: what it becomes is not all known.
        """
        cached = self.cached(job_id, namespace)
        if cached is not None or self._known is None:
            return cached
        job = await self._known.find(job_id)
        if job is None or job.status.quarantine is not None:
            return None
        if namespace not in (None, job.status.namespace):
            return None
        subject = job_subject(job.status.namespace, job_id)
        return CachedJob(subject, job, last_read(job.status), base=CachedJob(subject))

    async def fresh(self, job_id: str, namespace: str | None) -> CachedJob:
        """Return a job as the leader of the log has it now.

        Raises:
            LogUnavailable: if the log can't be read; `LogBehind` if its answer lacks cached events.
        """
        before = self.cached(job_id, namespace)
        if namespace is not None:
            last = await self._log.read_last(job_subject(namespace, job_id))
            if last is not None and before is None and await self._is_elsewhere(job_id, last):
                last = None
        elif before is not None:
            last = await self._log.read_last(before.subject)
        else:
            last = await self._find_last(job_id)
        if before is not None and (last is None or last.sequence < before.sequence):
            # Either the server lags, or the log was created again or lost its end.
            with suppress(LogBroken):
                await self._log.continues(epoch=None, after=before.sequence)
                last = await self._log.read_last(before.subject)
            if last is None or last.sequence < before.sequence:
                self._cache.pop(job_id)
        if last is None:
            return CachedJob(job_subject(namespace or "", job_id))
        known = self._cache.get(job_id)
        if known is None or known.subject != last.subject:
            known = CachedJob(last.subject)
        found = await self._fold_on(known.base or known, last)
        if found is None:  # other records than those in the cache
            self._cache.pop(job_id)
            found = await self._fold_on(CachedJob(last.subject), last)
        assert found is not None
        self._cache.put(job_id, found)
        return found

    async def _fold_on(self, known: CachedJob, last: Record) -> CachedJob | None:
        """Fold the records after a cached job; None if the log does not have its last record."""
        if known.sequence == last.sequence:
            return known if known.time == last.time else None
        after = max(0, known.sequence - 1)  # including the last known record, which must be the same
        async for record in records_between(self._log, last.subject, after=after, up_to=last.sequence):
            if record.sequence <= known.sequence:
                if (record.sequence, record.time) != (known.sequence, known.time):
                    return None
                continue
            job = fold_job_on(known.job or known.lost, read_record(record))
            lost = job if job is not None and job.status.is_lost else None
            known = CachedJob(
                known.subject, None if lost else job, record.sequence, time=record.time, lost=lost
            )
        return known

    async def history_between(self, after: CachedJob, up_to: CachedJob) -> AsyncIterator[HistoryItem]:
        """Iterate over the events on a job's subject between two points, oldest first."""
        status = after.status
        async for record in records_between(
            self._log, up_to.subject, after=after.sequence, up_to=up_to.sequence
        ):
            item, status = build_history_item(record, status)
            yield item

    async def history(self, known: CachedJob, *, after: int) -> AsyncIterator[HistoryItem]:
        """Iterate over the events of a job after a sequence.

        The next page continues from the status at the end of the page before, if that is cached and the log
        still has that event; otherwise the history is folded from its start.
        """
        position = self._positions.get((known.subject, after))
        if position is not None:
            record = await self._log.read_at(after)
            if record is None or (record.subject, record.time) != (known.subject, position.time):
                position = None
        status = position.status if position is not None else None
        start = after if position is not None else 0
        last: HistoryPosition | None = None
        kept: HistoryPosition | None = None  # of this reader: it needs only its latest position
        async for record in records_between(self._log, known.subject, after=start, up_to=known.sequence):
            item, following = build_history_item(record, status)
            if record.sequence > after:
                if last is not None:
                    self._keep_position(known.subject, last, replaces=kept)
                    kept = last
                yield item
            status = following
            last = HistoryPosition(record.sequence, record.time, status) if record.sequence >= after else None
        if last is not None:
            self._keep_position(known.subject, last, replaces=kept)

    def _keep_position(
        self, subject: str, position: HistoryPosition, *, replaces: HistoryPosition | None
    ) -> None:
        if replaces is not None:
            self._positions.pop((subject, replaces.sequence))
        self._positions.put((subject, position.sequence), position)

    async def find_event(self, event_id: str, after: CachedJob, up_to: CachedJob) -> HistoryItem | None:
        """Return the event with this id between two points of a job's subject."""
        async for item in self.history_between(after, up_to):
            if item.event_id == event_id:
                return item
        return None

    async def event_at(self, subject: str, sequence: int) -> tuple[Job | None, JobEvent]:
        """Return the event at a sequence of a job's subject, with the job before that event."""
        job: Job | None = None
        async for record in records_between(self._log, subject, after=0, up_to=sequence):
            recorded = read_record(record)
            if record.sequence == sequence and isinstance(recorded, Recorded):
                return job, recorded.event
            job = fold_job_on(job, recorded)
        raise LogUnavailable(f"event {sequence} could not be read again; try again")

    def appended(self, known: CachedJob, event: JobEvent, sequence: int) -> Receipt:
        """Fold an event that was just appended, so that the next command can decide on the cached job."""
        job = fold_appended(known.job or known.lost, event, sequence)
        assert isinstance(job, Job)  # no decision is an anomaly for the fold
        if job.status.is_lost:
            return receipt_of(job.status, event.id, changed=True, sequence=sequence)
        self._cache.put(event.subject, CachedJob(known.subject, job, sequence, known.base or known))
        return receipt_of(job.status, event.id, changed=True, sequence=sequence)

    async def _find_last(self, job_id: str) -> Record | None:
        """Return the last record of the job with this id in any namespace; None if it does not exist.

        Raises:
            InvalidInput: as `_home_of`.
        """
        last = await self._log.read_last(job_subject_anywhere(job_id))
        if last is None:
            return None
        home = await self._home_of(job_id, up_to=last.sequence)
        if home is None or home == last.subject:
            return last if home else None
        return await self._log.read_last(home)

    async def _is_elsewhere(self, job_id: str, last: Record) -> bool:
        """Return whether a nameless job belongs to another namespace than that of this record."""
        if _is_of_named_job(job_id):
            return False
        first = await self._log.read_next(job_subject_anywhere(job_id), after=0)
        if first is None or (first.subject == last.subject and _creates(first)):
            return False
        try:
            home = await self._home_of(job_id, up_to=last.sequence)
        except InvalidInput:
            return False  # the remedy is to pass the namespace, which the caller did
        return home is not None and home != last.subject

    async def _home_of(self, job_id: str, *, up_to: int) -> str | None:
        """Return the subject on which the job with this id was created first; None if there is none.

        Writers of other namespaces can append events for the id of a nameless job to subjects of their own.
        As in the view, the job is where it was created first. The number of events that are read for this is
        limited, so that such a writer can't make every load by id slow.

        Raises:
            InvalidInput: if none of the first FIND_JOB_MAX_EVENTS events creates a job.
        """
        read, lost = 0, None
        async for record in records_between(self._log, job_subject_anywhere(job_id), after=0, up_to=up_to):
            read += 1
            if read > FIND_JOB_MAX_EVENTS:
                raise InvalidInput(
                    f"job_id {job_id}: none of its first {FIND_JOB_MAX_EVENTS:,} events, of any namespace,"
                    " creates a job; pass the job's namespace"
                )
            folded = fold(None, read_record(record))
            if not isinstance(folded, Anomaly):
                if not folded.is_lost:
                    return record.subject
                lost = lost or record.subject
        return lost


async def records_between(
    log: EventLog, subject: str, *, after: int, up_to: int
) -> AsyncGenerator[Record, None]:
    """Iterate over the records of a subject or filter after a sequence, up to the leader's last sequence.

    A replica that lags or is damaged can answer with fewer records; then another one is asked.

    Raises:
        LogDamaged: if neither a replica nor the leader has the last one.
        LogUnavailable: if the log can't be read, or the replica does not catch up within READ_MAX_TRIES.
    """
    backoff = Backoff(RETRY_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS)
    while after < up_to:
        page = await log.read(subject, after=after, up_to=up_to)
        for record in page:
            await yield_point()  # the caller can take long per record, and a page has many
            yield record
        if page:
            after = page[-1].sequence
            backoff.reset()
            continue
        if backoff.attempts == READ_MAX_TRIES:
            raise await _why_missing(log, up_to)
        await backoff.sleep()


async def _why_missing(log: EventLog, sequence: int) -> LogError:
    """Return the error for an event that is in the log and that no replica returned."""
    with suppress(LogRefused):  # the leader can't read it either
        if await log.read_at(sequence) is not None or (await log.info()).last_sequence < sequence:
            return LogUnavailable(
                f"a replica of the log lags: it does not have event {sequence} yet; try again"
            )
    return LogDamaged(
        f"event {sequence} was in the log and can't be read: a stored block is damaged or missing; run"
        " `jobledger audit verify`, and on a cluster `jobledger audit scrub`",
        sequence=sequence,
    )


def _is_of_named_job(job_id: str) -> bool:
    """Return whether the id determines one namespace and name (`is_identity`)."""
    return NAMELESS_JOB_ID.fullmatch(job_id) is None


def _creates(record: Record) -> bool:
    """Return whether a record, as the first of its subject, creates a job."""
    folded = fold(None, read_record(record))
    return not isinstance(folded, Anomaly) and not folded.is_lost
