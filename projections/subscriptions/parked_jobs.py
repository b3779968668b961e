"""The jobs that one subscription has set aside, as this process knows them, and writing that down."""

import time
from collections.abc import Iterator

from jobledger.projections.limits import SET_ASIDE_MAX_JOBS
from jobledger.projections.subscriptions.definition import parked_key, parked_prefix
from jobledger.projections.subscriptions.retry import ParkedJob, ParkedState, decode_parked
from jobledger.store.keys import NO_ENTRY
from jobledger.store.lease import lease_clock
from jobledger.store.model.limits import RECORD_REMOVED_SECONDS
from jobledger.store.parking import Records


class SetAside:
    """Jobs set aside, by id.

    Args:
        records: where they are written.
        name: of the subscription.
        epoch: of the stream; what was written about another one counts for nothing.
    """

    def __init__(self, records: Records, name: str, epoch: str) -> None:
        self._records = records
        self._name = name
        self._epoch = epoch
        self._seen = 0  # the revision up to which changes were looked at
        self._seen_at = lease_clock()
        self._revisions: dict[str, int] = {}  # of each job's record
        self.jobs: dict[str, ParkedJob] = {}

    @property
    def is_full(self) -> bool:
        """Whether no more jobs may be set aside."""
        return len(self.jobs) >= SET_ASIDE_MAX_JOBS

    def count(self, state: ParkedState) -> int:
        """How many are in a state."""
        return sum(1 for parked in self.jobs.values() if parked.state is state)

    def due(self, now: int) -> Iterator[ParkedJob]:
        """Those to be tried now (Unix nanoseconds)."""
        return (parked for parked in self.jobs.values() if parked.is_due(now))

    def next_try(self) -> int | None:
        """When the next one is to be tried, Unix nanoseconds; None: none is."""
        tries = [parked.next_try for parked in self.jobs.values() if parked.state is ParkedState.RETRYING]
        return min(tries, default=None)

    def revision_of(self, job_id: str) -> int:
        """Names the record of a job as it was last seen; 0: there is none."""
        return self._revisions.get(job_id, NO_ENTRY)

    async def refresh(self) -> None:
        """Hear of what others wrote.

        Raises:
            LogUnavailable: if the records can't be read.
        """
        began = lease_clock()
        # That a record was removed can't be seen for ever: after a long sleep all of them are read.
        anew = began - self._seen_at > RECORD_REMOVED_SECONDS / 2
        after = 0 if anew else self._seen
        changes, seen = await self._records.changes(parked_prefix(self._name), after=after)
        self._seen, self._seen_at = max(self._seen, seen), began
        if anew:
            self._keep({change.key for change in changes})
        for change in changes:
            parked = decode_parked(change.entry.value) if not change.removed else None
            job_id = parked.job_id if parked is not None else self._job_of(change.key)
            if job_id is not None and change.entry.revision >= self._revisions.get(job_id, 0):
                self._adopt(job_id, parked, change.entry.revision)

    async def put(self, parked: ParkedJob) -> ParkedJob | None:
        """Write a job's record down; what stands there now: this one, or what somebody else wrote meanwhile.

        Raises:
            LogUnavailable: if it could not be written.
        """
        job_id, value = parked.job_id, parked.encode()
        expect = self._revisions.get(job_id, NO_ENTRY)
        entry = await self._records.put(parked_key(self._name, job_id), value, expect=expect)
        if entry is None:  # it was removed under us: begin anew
            entry = await self._records.put(parked_key(self._name, job_id), value, expect=NO_ENTRY)
        if entry is None:
            self._forget(job_id)
            return None
        found = parked if entry.value == value else decode_parked(entry.value)
        if found is None or found.epoch != self._epoch:  # of a stream that is gone, or no record of ours
            self._revisions[job_id] = entry.revision
            return await self.put(parked)
        self._adopt(job_id, found, entry.revision)
        return found

    async def remove(self, job_id: str) -> bool:
        """The job flows on; False if somebody wrote something else meanwhile, which is known then.

        Raises:
            LogUnavailable: if it could not be written.
        """
        expect = self._revisions.get(job_id, NO_ENTRY)
        if await self._records.remove(parked_key(self._name, job_id), expect=expect):
            self._forget(job_id)
            return True
        await self.refresh()
        return False

    def _keep(self, keys: set[str]) -> None:
        """Forget the jobs whose records are not among all that there are."""
        for job_id, revision in [*self._revisions.items()]:
            if revision <= self._seen and parked_key(self._name, job_id) not in keys:
                self._forget(job_id)

    def _adopt(self, job_id: str, parked: ParkedJob | None, revision: int) -> None:
        if parked is None:
            self._forget(job_id)
            return
        self._revisions[job_id] = revision
        if parked.epoch == self._epoch:
            self.jobs[job_id] = parked

    def _forget(self, job_id: str) -> None:
        self.jobs.pop(job_id, None)
        self._revisions.pop(job_id, None)

    def _job_of(self, key: str) -> str | None:
        """The job whose record has this key; a record that was removed no longer tells."""
        return next((job_id for job_id in self._revisions if parked_key(self._name, job_id) == key), None)


def now_ns() -> int:
    """The wall clock, which the times in records are of."""
    return time.time_ns()
