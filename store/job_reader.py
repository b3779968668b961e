"""Jobs read from the log: what is cached, what is fresh, and a job's whole story. Only reads and folds."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from jobledger.store.command import Receipt, receipt_of
from jobledger.store.job_cache import CachedJob, HistoryPlace, HistoryPlaces, JobCache
from jobledger.store.log import EventLog
from jobledger.store.model.errors import (
    InvalidInput,
    LogBroken,
    LogDamaged,
    LogError,
    LogRefused,
    LogUnavailable,
)
from jobledger.store.model.events import JobEvent, Record, Recorded, read_record
from jobledger.store.model.fold import Anomaly, fold, fold_job, fold_job_on
from jobledger.store.model.history import HistoryItem, build_history_item
from jobledger.store.model.job import Job
from jobledger.store.model.limits import FIND_JOB_MAX_EVENTS, READ_MAX_TRIES, RETRY_WAIT_SECONDS
from jobledger.store.model.subjects import NAMELESS_JOB_ID, job_subject, job_subject_anywhere
from jobledger.store.yield_point import yield_point


class JobReader:
    """Folds jobs from the log, starting from what the cache remembers."""

    def __init__(self, log: EventLog, cache: JobCache) -> None:
        self._log = log
        self._cache = cache
        self._places = HistoryPlaces()
        self._session = log.session

    def cached(self, job_id: str, namespace: str | None) -> CachedJob | None:
        """The job as it was last seen; None if it is not remembered."""
        if self._session != self._log.session:
            # The log was out of reach, and may be another one now, at the same address and sequences.
            self._session = self._log.session
            self._cache.clear()
        known = self._cache.get(job_id)
        if known is None:
            return None
        if namespace is None:
            # A nameless job's id says nothing of its namespace, so another one may have events for it, too:
            # which of them is the job, only the log tells.
            return known if _is_of_a_name(job_id) else None
        return known if known.subject == job_subject(namespace, job_id) else None

    async def fresh(self, job_id: str, namespace: str | None) -> CachedJob:
        """The job as the log's leader has it now.

        Raises:
            LogUnavailable: if the log can't be read; `LogBehind` if its answer lacks what is remembered.
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
            # Either the answer is of a server that is behind, or the log was made again or lost its end.
            with suppress(LogBroken):
                await self._log.continues(epoch=None, after=before.sequence)
                last = await self._log.read_last(before.subject)
            if last is None or last.sequence < before.sequence:
                self._cache.forget(job_id)
        if last is None:
            return CachedJob(job_subject(namespace or "", job_id))
        known = self._cache.get(job_id)
        if known is None or known.subject != last.subject:
            known = CachedJob(last.subject)
        found = await self._fold_on(known.base or known, last)
        if found is None:  # not the records that were folded before: begin anew
            self._cache.forget(job_id)
            found = await self._fold_on(CachedJob(last.subject), last)
        assert found is not None
        self._cache.put(job_id, found)
        return found

    async def _fold_on(self, known: CachedJob, last: Record) -> CachedJob | None:
        """Fold what came after; None if the log does not hold the record that was last before."""
        if known.sequence == last.sequence:
            return known if known.time == last.time else None
        after = max(0, known.sequence - 1)  # the last one again: it must still be the same
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

    async def story(self, *, after: CachedJob, up_to: CachedJob) -> AsyncIterator[HistoryItem]:
        """What happened on a job's subject from one moment to another, oldest first."""
        status = after.status
        async for record in records_between(
            self._log, up_to.subject, after=after.sequence, up_to=up_to.sequence
        ):
            item, status = build_history_item(record, status)
            yield item

    async def history(self, known: CachedJob, *, after: int) -> AsyncIterator[HistoryItem]:
        """What happened to a job after a sequence, up to what is known.

        Who reads page by page goes on from the status at the end of the page before, if that is remembered
        and the log still has that event; else the history is folded from its beginning.
        """
        place = self._places.get(known.subject, after)
        if place is not None:
            record = await self._log.read_at(after)
            if record is None or (record.subject, record.time) != (known.subject, place.time):
                place = None
        status = place.status if place is not None else None
        begin, placed = after if place is not None else 0, 0
        last: HistoryPlace | None = None
        async for record in records_between(self._log, known.subject, after=begin, up_to=known.sequence):
            item, following = build_history_item(record, status)
            if record.sequence > after:
                if last is not None:
                    self._places.put(known.subject, last, instead_of=placed)
                    placed = last.sequence
                yield item
            status = following
            last = HistoryPlace(record.sequence, record.time, status) if record.sequence >= after else None
        if last is not None:
            self._places.put(known.subject, last, instead_of=placed)

    async def find_event(self, event_id: str, *, after: CachedJob, up_to: CachedJob) -> HistoryItem | None:
        """The event of this id among those from one moment to another."""
        async for item in self.story(after=after, up_to=up_to):
            if item.event_id == event_id:
                return item
        return None

    async def event_at(self, subject: str, sequence: int) -> tuple[Job | None, JobEvent]:
        """The event at a sequence of a job's subject, with the job as it was before that event."""
        job: Job | None = None
        async for record in records_between(self._log, subject, after=0, up_to=sequence):
            recorded = read_record(record)
            if record.sequence == sequence and isinstance(recorded, Recorded):
                return job, recorded.event
            job = fold_job_on(job, recorded)
        raise LogUnavailable(f"event {sequence} could not be read again; try again")

    def appended(self, known: CachedJob, event: JobEvent, sequence: int) -> Receipt:
        """Fold an event that was just appended, so that the next command can build on it."""
        job = fold_job(known.job or known.lost, Recorded(sequence, 0, event), trusted=True)
        assert isinstance(job, Job)  # the decider never makes an event that the fold takes for an anomaly
        if job.status.is_lost:
            return receipt_of(job.status, event.id, changed=True, sequence=sequence)
        self._cache.put(event.subject, CachedJob(known.subject, job, sequence, known.base or known))
        return receipt_of(job.status, event.id, changed=True, sequence=sequence)

    async def _find_last(self, job_id: str) -> Record | None:
        """The last record of a job of which only the id is known; None if there is no job of it.

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
        """Whether a job without a name belongs to another namespace than that of this record of it."""
        if _is_of_a_name(job_id):
            return False
        first = await self._log.read_next(job_subject_anywhere(job_id), after=0)
        if first is None or (first.subject == last.subject and _creates(first)):
            return False
        try:
            home = await self._home_of(job_id, up_to=last.sequence)
        except InvalidInput:
            return False  # the caller was asked to say the namespace, and did
        return home is not None and home != last.subject

    async def _home_of(self, job_id: str, *, up_to: int) -> str | None:
        """The subject on which an event first created a job of this id; None if none did.

        Writers of other namespaces may put events for the id of a job without a name on subjects of their
        own. The job is where an event first created one, as in the view. How many of their events are read
        for that is bounded: else such a writer could make every load by id alone slow.

        Raises:
            InvalidInput: if none of the first FIND_JOB_MAX_EVENTS events creates a job.
        """
        read, lost = 0, None
        async for record in records_between(self._log, job_subject_anywhere(job_id), after=0, up_to=up_to):
            read += 1
            if read > FIND_JOB_MAX_EVENTS:
                raise InvalidInput(
                    f"job_id {job_id}: its first {FIND_JOB_MAX_EVENTS:,} events, of any namespace, create no"
                    " job; pass the job's namespace"
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
    """Records of a subject (or a filter) after a sequence, up to one that the leader gave as its last.

    A replica may answer that does not have them all yet, or that is damaged: then another one is asked.

    Raises:
        LogDamaged: if no replica has the last one, and the leader does not have it either.
        LogUnavailable: if the log can't be read, or the replica does not catch up within READ_MAX_TRIES.
    """
    tries = 0
    while after < up_to:
        page = await log.read(subject, after=after, up_to=up_to)
        for record in page:
            await yield_point()  # what is done with a record may take long, and a page has many
            yield record
        if page:
            after, tries = page[-1].sequence, 0
            continue
        tries += 1
        if tries > READ_MAX_TRIES:
            raise await _why_missing(log, up_to)
        await asyncio.sleep(RETRY_WAIT_SECONDS * tries)


async def _why_missing(log: EventLog, sequence: int) -> LogError:
    """The error for an event that is in the log, and that no replica has given."""
    with suppress(LogRefused):  # the leader can't read it
        if await log.read_at(sequence) is not None or (await log.info()).last_sequence < sequence:
            return LogUnavailable(
                f"a replica of the log lags: it does not have event {sequence} yet; try again"
            )
    return LogDamaged(
        f"event {sequence} can't be read from the log, and it was there: a stored block is damaged or"
        " missing; run `jobledger audit verify`, and on a cluster `jobledger audit scrub`",
        sequence=sequence,
    )


def _is_of_a_name(job_id: str) -> bool:
    """Whether the fold takes this id for one namespace and name only (`is_identity`)."""
    return NAMELESS_JOB_ID.fullmatch(job_id) is None


def _creates(record: Record) -> bool:
    """Whether a record creates a job, if nothing is before it."""
    folded = fold(None, read_record(record))
    return not isinstance(folded, Anomaly) and not folded.is_lost
