"""The retry queue of a subscription: jobs that have a failed event, and their redelivery.

One record per job, `parked.<subscription>.<job>`:

                  fails, retries left              fails, no retry left
                 ┌─────────┐                 ┌──────────────────────────────┐
                 │         ▼                 │                              ▼
    no record ──fails──► RETRYING ──due──► redelivery                    PARKED
        ▲                  ▲                 │                              │
        │                  └── operator: retry, skip ───────────────────────┤
        └── every event up to the partition's position is handled ──┘       (waits for an operator)

The job's later events wait while its record exists; all other jobs continue. Each write is conditional on the
record's revision, so what an operator wrote in the meantime is never overwritten: it wins.
"""

import enum
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Final

import msgspec

from jobledger.projections.limits import (
    PARKED_ERROR_MAX_CHARACTERS,
    REDELIVERY_SAVE_EVENTS,
    RETRIES_DEFAULT,
    RETRY_FIRST_SECONDS,
    RETRY_LAST_SECONDS,
    RETRY_QUEUE_MAX_JOBS,
)
from jobledger.projections.subscriptions.definition import parked_key, parked_prefix
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.store.backoff import exponential_seconds
from jobledger.store.kv import NO_ENTRY, KeyValue
from jobledger.store.lease import lease_clock
from jobledger.store.model.limits import RECORD_REMOVED_SECONDS
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

# --- records ------------------------------------------------------------------------------------------------


class ParkedState(enum.StrEnum):
    """Whether a job in the retry queue is retried by itself."""

    RETRYING = "retrying"  # retried at `next_try`
    PARKED = "parked"  # waits for an operator: retry or skip


class ParkedJob(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record of a job in the retry queue.

    Attributes:
        subscription: name of the subscription.
        job_id: id of the job.
        subject: subject of the job's events.
        state: retrying or parked.
        sequence: sequence of the failed event.
        type: CloudEvents type of the failed event.
        after: the job's events up to this sequence are handled.
        attempts: failed attempts at the event.
        next_try: time of the next attempt, Unix nanoseconds; 0 means at once.
        error: the handler's last error.
        since: time of the first failure, Unix nanoseconds.
        epoch: epoch of the stream.
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
        """Encode the record for storage."""
        return _encoder.encode(self)

    def is_due(self, now: int) -> bool:
        """Whether the job is to be retried now (Unix nanoseconds)."""
        return self.state is ParkedState.RETRYING and self.next_try <= now


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(ParkedJob)


def decode_parked(value: bytes) -> ParkedJob | None:
    """Decode a record; None if the value is not one."""
    try:
        return _decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def retry_wait_seconds(attempts: int) -> float:
    """How long to wait before the next attempt, after this many failures in a row."""
    return exponential_seconds(attempts, RETRY_FIRST_SECONDS, RETRY_LAST_SECONDS)


def failed_again(parked: ParkedJob, error: BaseException, *, retries: int, now: int) -> ParkedJob:
    """The record after one more failure of its event; parked after `retries` retries."""
    attempts = parked.attempts + 1
    is_parked = attempts > retries
    return msgspec.structs.replace(
        parked,
        state=ParkedState.PARKED if is_parked else ParkedState.RETRYING,
        attempts=attempts,
        next_try=0 if is_parked else now + int(retry_wait_seconds(attempts) * NANOSECONDS_PER_SECOND),
        error=_describe(error),
    )


def retry_now(parked: ParkedJob) -> ParkedJob:
    """The record with which an operator has the event retried at once, with all its retries."""
    return msgspec.structs.replace(parked, state=ParkedState.RETRYING, attempts=0, next_try=0)


def skipped(parked: ParkedJob) -> ParkedJob:
    """The record with which an operator gives up the event and has the job's later events handled."""
    return msgspec.structs.replace(retry_now(parked), after=max(parked.after, parked.sequence))


def _describe(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
    return text if len(text) <= PARKED_ERROR_MAX_CHARACTERS else f"{text[: PARKED_ERROR_MAX_CHARACTERS - 1]}…"


# --- the retry queue ----------------------------------------------------------------------------------------


class RetryQueue:
    """The retrying and parked jobs of one subscription, as this process knows them.

    Its coroutines raise LogUnavailable if the records cannot be read or written.

    Args:
        records: storage of the records.
        name: name of the subscription.
        epoch: epoch of the stream; records of another epoch are ignored.
        retries: retries of an event before its job is parked.
    """

    def __init__(self, records: KeyValue, name: str, epoch: str, *, retries: int = RETRIES_DEFAULT) -> None:
        self._records = records
        self._name = name
        self._epoch = epoch
        self._retries = retries
        self._jobs: dict[str, ParkedJob] = {}
        self._revisions: dict[str, int] = {}  # of each job's record
        self._refreshed_up_to = 0  # revision
        self._refreshed_at = lease_clock()

    @property
    def jobs(self) -> Mapping[str, ParkedJob]:
        """The records, by job id; a live mapping."""
        return self._jobs

    @property
    def is_full(self) -> bool:
        """Whether no further job can be added."""
        return len(self._jobs) >= RETRY_QUEUE_MAX_JOBS

    def count(self, state: ParkedState) -> int:
        """Number of jobs in a state."""
        return sum(1 for parked in self._jobs.values() if parked.state is state)

    def due(self, now: int) -> Iterator[ParkedJob]:
        """The jobs to be retried now (Unix nanoseconds)."""
        return (parked for parked in self._jobs.values() if parked.is_due(now))

    def next_try(self) -> int | None:
        """Time of the earliest retry, Unix nanoseconds; None if there is none."""
        tries = [parked.next_try for parked in self._jobs.values() if parked.state is ParkedState.RETRYING]
        return min(tries, default=None)

    def revision_of(self, job_id: str) -> int:
        """The revision of a job's record as last seen; `NO_ENTRY` without one."""
        return self._revisions.get(job_id, NO_ENTRY)

    def after_failure(
        self, event: SubscribedEvent, error: BaseException, parked: ParkedJob | None
    ) -> ParkedJob:
        """The record to write after an event failed.

        Args:
            event: the event.
            error: what its handler raised.
            parked: the job's record if the event was redelivered.
        """
        now = time.time_ns()
        if parked is None or parked.sequence != event.sequence:  # a later event has its own retries
            parked = ParkedJob(
                subscription=self._name,
                job_id=event.job_id,
                subject=event.delivery.subject,
                state=ParkedState.RETRYING,
                sequence=event.sequence,
                type=event.type,
                after=event.sequence - 1,
                since=now,
                epoch=self._epoch,
            )
        return failed_again(parked, error, retries=self._retries, now=now)

    async def refresh(self) -> None:
        """Read what operators and other processes wrote."""
        began = lease_clock()
        # Removals are visible for a limited time only: after a long sleep all records are read again.
        is_complete = began - self._refreshed_at > RECORD_REMOVED_SECONDS / 2
        after = 0 if is_complete else self._refreshed_up_to
        changes, last = await self._records.changes(parked_prefix(self._name), after=after)
        self._refreshed_up_to, self._refreshed_at = max(self._refreshed_up_to, last), began
        if is_complete:
            self._forget_all_but({change.key for change in changes})
        for change in changes:
            parked = decode_parked(change.entry.value) if not change.is_deleted else None
            job_id = parked.job_id if parked is not None else self._job_with_key(change.key)
            if job_id is not None and change.entry.revision >= self._revisions.get(job_id, 0):
                self._adopt(job_id, parked, change.entry.revision)

    async def put(self, parked: ParkedJob) -> ParkedJob | None:
        """Write a job's record; returns the stored one: this one, or what another writer stored meanwhile."""
        job_id, value = parked.job_id, parked.encode()
        key = parked_key(self._name, job_id)
        entry = await self._records.put(key, value, expect=self.revision_of(job_id))
        if entry is None:  # the expected record was removed
            entry = await self._records.put(key, value, expect=NO_ENTRY)
        if entry is None:
            self._forget(job_id)
            return None
        found = parked if entry.value == value else decode_parked(entry.value)
        if found is None or found.epoch != self._epoch:  # of an earlier stream, or unreadable: overwrite it
            self._revisions[job_id] = entry.revision
            return await self.put(parked)
        self._adopt(job_id, found, entry.revision)
        return found

    async def remove(self, job_id: str) -> bool:
        """Remove a job from the queue; False if another writer changed its record, which is read again."""
        if await self._records.delete(parked_key(self._name, job_id), expect=self.revision_of(job_id)):
            self._forget(job_id)
            return True
        await self.refresh()
        return False

    def _forget_all_but(self, keys: set[str]) -> None:
        for job_id, revision in [*self._revisions.items()]:
            if revision <= self._refreshed_up_to and parked_key(self._name, job_id) not in keys:
                self._forget(job_id)

    def _adopt(self, job_id: str, parked: ParkedJob | None, revision: int) -> None:
        if parked is None:
            self._forget(job_id)
            return
        self._revisions[job_id] = revision
        if parked.epoch == self._epoch:
            self._jobs[job_id] = parked

    def _forget(self, job_id: str) -> None:
        self._jobs.pop(job_id, None)
        self._revisions.pop(job_id, None)

    def _job_with_key(self, key: str) -> str | None:
        """The job whose record has this key: a removed record does not name its job."""
        return next((job_id for job_id in self._revisions if parked_key(self._name, job_id) == key), None)


# --- redelivery ---------------------------------------------------------------------------------------------


class Redelivery:
    """Hands out the events of one job again, from the failed one up to its partition's position.

    Its coroutines raise LogUnavailable if log or records cannot be read or written.

    Args:
        queue: the retry queue.
        parked: the job's record.
        events: the job's events after `parked.after`, in order; ends at the partition's position.
    """

    def __init__(self, queue: RetryQueue, parked: ParkedJob, events: AsyncIterator[SubscribedEvent]) -> None:
        self._queue = queue
        self._parked = parked
        self._events = events
        self._revision = queue.revision_of(parked.job_id)
        self._unsaved = 0  # events handled since the record was written

    @property
    def parked(self) -> ParkedJob:
        """The record, with what has been handled since it was written."""
        return self._parked

    @property
    def is_current(self) -> bool:
        """False after an operator or another process wrote the record: what they wrote wins."""
        return self._queue.revision_of(self._parked.job_id) == self._revision

    async def next(self) -> SubscribedEvent | None:
        """The next event; None if the job has reached its partition's position, or is not current.

        Raises:
            LogUnavailable: if the log cannot be read; create a new redelivery to try again.
        """
        if self._unsaved >= REDELIVERY_SAVE_EVENTS:
            await self.save()
        if not self.is_current:
            return None
        event = await anext(self._events, None)
        if event is not None and event.sequence == self._parked.sequence:
            event.attempt = self._parked.attempts + 1
        return event

    def handled(self, event: SubscribedEvent) -> None:
        """Note that an event was handled."""
        self._parked = msgspec.structs.replace(self._parked, after=event.sequence)
        self._unsaved += 1

    async def save(self) -> None:
        """Write the progress to the record."""
        if not self._unsaved or not self.is_current:
            return
        self._unsaved = 0
        if await self._queue.put(self._parked) == self._parked:
            self._revision = self._queue.revision_of(self._parked.job_id)

    async def finish(self) -> None:
        """Remove the record: the job's next events are delivered by its partition."""
        if self.is_current:
            await self._queue.remove(self._parked.job_id)
