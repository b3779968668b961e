"""The jobs that one subscription has set aside, as this process knows them, and writing that down."""

import enum
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from jobledger.projections.limits import (
    RETRY_FIRST_SECONDS,
    RETRY_LAST_SECONDS,
    SET_ASIDE_ERROR_CHARACTERS,
    SET_ASIDE_MAX_JOBS,
)
from jobledger.projections.subscriptions.definition import parked_key, parked_prefix
from jobledger.store.kv import NO_ENTRY, KeyValue
from jobledger.store.lease import lease_clock
from jobledger.store.model.limits import RECORD_REMOVED_SECONDS

_NANOSECONDS: Final = 1_000_000_000


class ParkedState(enum.StrEnum):
    """What becomes of a job that was set aside."""

    RETRYING = "retrying"  # is tried again at `next_try`; its later events wait
    PARKED = "parked"  # waits for an operator: retry or skip


class ParkedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A job that was set aside in one subscription.

    Attributes:
        subscription: its name.
        job_id: the job.
        subject: where its events are.
        state: whether it is tried again by itself.
        sequence: of the event that failed.
        type: its CloudEvents type.
        after: the job's events up to here are done; the next one to be handled has a higher sequence.
        attempts: how often that event failed.
        next_try: when it is tried again, Unix nanoseconds; 0: at once.
        error: what the handler said last.
        since: when it failed first, Unix nanoseconds.
        epoch: of the stream.
    """

    subscription: str
    job_id: str
    subject: str
    state: ParkedState
    sequence: int
    type: str = ""
    after: int
    attempts: int = 0
    next_try: int = 0
    error: str = ""
    since: int = 0
    epoch: str = ""

    def encode(self) -> bytes:
        """As it is kept."""
        return _encoder.encode(self)

    def is_due(self, now: int) -> bool:
        """Whether it is to be tried now (Unix nanoseconds)."""
        return self.state is ParkedState.RETRYING and self.next_try <= now


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(ParkedJob)


def decode_parked(value: bytes) -> ParkedJob | None:
    """What `ParkedJob.encode` wrote; None if it did not."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def retry_wait_seconds(attempts: int) -> float:
    """How long to wait after so many failures in a row."""
    return min(RETRY_FIRST_SECONDS * 2.0 ** min(attempts - 1, 60), RETRY_LAST_SECONDS)


def failed_again(parked: ParkedJob, error: BaseException, *, retries: int, now: int) -> ParkedJob:
    """The record after one more failure of its event.

    Args:
        parked: before.
        error: what the handler raised.
        retries: after so many retries it is parked.
        now: Unix nanoseconds.
    """
    attempts = parked.attempts + 1
    is_parked = attempts > retries
    return msgspec.structs.replace(
        parked,
        state=ParkedState.PARKED if is_parked else ParkedState.RETRYING,
        attempts=attempts,
        next_try=0 if is_parked else now + int(retry_wait_seconds(attempts) * _NANOSECONDS),
        error=_said(error),
    )


def retry_now(parked: ParkedJob) -> ParkedJob:
    """The record, as an operator writes it to have the event tried again at once, with all its retries."""
    return msgspec.structs.replace(parked, state=ParkedState.RETRYING, attempts=0, next_try=0)


def skipped(parked: ParkedJob) -> ParkedJob:
    """The record, as an operator writes it to leave the event out and have the job's later ones handled."""
    return msgspec.structs.replace(retry_now(parked), after=max(parked.after, parked.sequence))


def _said(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
    return text if len(text) <= SET_ASIDE_ERROR_CHARACTERS else f"{text[: SET_ASIDE_ERROR_CHARACTERS - 1]}…"


class SetAside:
    """Jobs set aside, by id.

    Args:
        records: where they are written.
        name: of the subscription.
        epoch: of the stream; what was written about another one counts for nothing.
    """

    def __init__(self, records: KeyValue, name: str, epoch: str) -> None:
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
            parked = decode_parked(change.entry.value) if not change.is_deleted else None
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
        if await self._records.delete(parked_key(self._name, job_id), expect=expect):
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
