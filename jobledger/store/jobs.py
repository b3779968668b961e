"""Jobs read from the log: what is cached, what is fresh, and a job's whole story. Only reads and folds."""

import asyncio
from collections.abc import AsyncIterator

from jobledger.store.cache import JobCache, Known
from jobledger.store.command import Receipt
from jobledger.store.errors import LogUnavailable
from jobledger.store.events import Record, read_record
from jobledger.store.fold import Anomaly, fold_job
from jobledger.store.history import HistoryItem, tell
from jobledger.store.job import Job, JobStatus
from jobledger.store.limits import READ_MAX_TRIES, RETRY_WAIT_SECONDS
from jobledger.store.log import Draft, EventLog
from jobledger.store.subjects import job_subject, job_subject_anywhere


class JobReader:
    """Folds jobs from the log, starting from what the cache remembers."""

    def __init__(self, log: EventLog, cache: JobCache) -> None:
        self._log = log
        self._cache = cache

    def cached(self, job_id: str, namespace: str | None) -> Known | None:
        """The job as it was last seen; None if it is not remembered."""
        known = self._cache.get(job_id)
        if known is None or (namespace is not None and known.subject != job_subject(namespace, job_id)):
            return None
        return known

    async def fresh(self, job_id: str, namespace: str | None) -> Known:
        """The job as the log's leader has it now.

        Raises:
            LogUnavailable: if the log can't be read.
            UnknownEventType: if a newer release wrote to this job.
        """
        last = await self._last(job_id, namespace)
        if last is None:
            return Known(job_subject(namespace or "", job_id))
        known = self.cached(job_id, namespace)
        if known is None or known.subject != last.subject:
            known = Known(last.subject)
        known = known.base or known
        async for record in self._records(last, after=known.sequence):
            job = fold_job(known.job, read_record(record))
            known = Known(known.subject, known.job if isinstance(job, Anomaly) else job, record.sequence)
        self._cache.put(job_id, known)
        return known

    async def history(self, job_id: str, namespace: str | None) -> AsyncIterator[HistoryItem]:
        """A job's story, from its first event to the one that is last now; nothing if there is none."""
        last = await self._last(job_id, namespace)
        status: JobStatus | None = None
        if last is not None:
            async for record in self._records(last, after=0):
                for item, status in tell((record,), status):  # noqa: B020 - each step continues the last one's status
                    yield item

    async def find_event(self, job_id: str, namespace: str | None, event_id: str) -> HistoryItem | None:
        """The event of this id among the job's events."""
        async for item in self.history(job_id, namespace):
            if item.event_id == event_id:
                return item
        return None

    def appended(self, job_id: str, known: Known, draft: Draft, sequence: int) -> Receipt:
        """Fold an event that was just appended, so that the next command can build on it."""
        job = fold_job(known.job, read_record(Record(sequence, 0, draft.subject, draft.payload)))
        assert isinstance(job, Job)  # the decider never makes an event that the fold takes for an anomaly
        self._cache.put(job_id, Known(known.subject, job, sequence, known.base or known))
        status = job.status
        return Receipt(
            job_id=job_id,
            namespace=status.namespace,
            event_id=draft.event_id,
            sequence=sequence,
            revision=status.revision,
            version=status.version,
            changed=True,
        )

    async def _last(self, job_id: str, namespace: str | None) -> Record | None:
        subject = job_subject_anywhere(job_id) if namespace is None else job_subject(namespace, job_id)
        return await self._log.read_last(subject)

    async def _records(self, last: Record, *, after: int) -> AsyncIterator[Record]:
        """A subject's records after a sequence, up to `last`, which the leader gave.

        A replica may answer that does not have them all yet: then it is asked again.
        """
        tries = 0
        while after < last.sequence:
            page = await self._log.read(last.subject, after=after, up_to=last.sequence)
            for record in page:
                yield record
            if page:
                after, tries = page[-1].sequence, 0
                continue
            tries += 1
            if tries > READ_MAX_TRIES:
                raise LogUnavailable(
                    f"a replica of the log lags: it does not have event {last.sequence} yet; try again"
                )
            await asyncio.sleep(RETRY_WAIT_SECONDS * tries)
