"""Durable subscriptions for operators: create, list, show, retry, skip, reset, delete.

Everything is read from and written to the NATS server; no process that reads a subscription is asked. Those
processes see a changed record within `RETRY_QUEUE_REFRESH_SECONDS`, and a reset within `HOLD_CHECK_SECONDS`.
"""

import asyncio
import enum
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from jobledger.projections.errors import AmbiguousId, SubscriptionNotFound
from jobledger.projections.limits import (
    ADMIN_CALLS,
    ADMIN_LIVE_SECONDS,
    ADMIN_WRITE_TRIES,
    CANDIDATES_SHOWN,
)
from jobledger.projections.subscriptions.creation import (
    Start,
    ensure_consumers,
    ensure_definition,
    format_start,
)
from jobledger.projections.subscriptions.definition import (
    LABEL,
    Definition,
    check_name,
    decode_definition,
    define,
    definition_key,
    parked_key,
    parked_prefix,
)
from jobledger.projections.subscriptions.parking import (
    ParkedJob,
    ParkedState,
    decode_parked,
    retry_now,
    skipped,
)
from jobledger.store.consumer import ConsumerInfo
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.kv import Entry, KeyValue
from jobledger.store.model.errors import InvalidInput, JobNotFound, LogUnavailable
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

_DEFINITIONS: Final = "definition"
_PARKED: Final = "parked"


class Attendance(enum.StrEnum):
    """State of a subscription as the server knows it: the first of these that applies."""

    NO_CONSUMER = "unattended"  # no process reads some of its parts
    CATCHING_UP = "catching_up"  # every part is read, and it is behind
    PARKED = "parked"  # live, with jobs that wait for an operator
    LIVE = "live"  # every part is read, and no event waits for long


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a subscription that one process at a time reads.

    Attributes:
        name: name of its consumer.
        position: the sequence up to which every event is handled or in the retry queue.
        gap: events not handled yet; an upper bound for filters that the server does not apply.
        lag_seconds: age of the oldest of them.
        held: whether a process reads it.
        waiting: upper bound of the processes that wait to read it.
    """

    name: str
    position: int = 0
    gap: int = 0
    lag_seconds: float = 0.0
    held: bool = False
    waiting: int = 0

    @property
    def attended(self) -> bool:
        """Whether a process reads it or waits: the server assigns it with its next event."""
        return self.held or self.waiting > 0


class SubscriptionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A durable subscription as operators see it.

    Attributes:
        definition: its definition.
        parts: one, or one per member or partition.
        retrying: jobs that are retried by themselves.
        parked: jobs that wait for an operator.
    """

    definition: Definition
    parts: tuple[Part, ...]
    retrying: int = 0
    parked: int = 0

    @property
    def name(self) -> str:
        """The subscription's name."""
        return self.definition.name

    @property
    def position(self) -> int:
        """The sequence up to which every event is handled or in the retry queue."""
        return min(part.position for part in self.parts)

    @property
    def gap(self) -> int:
        """Events not handled yet; an upper bound for filters that the server does not apply."""
        gaps = [part.gap for part in self.parts]
        return max(gaps) if self.definition.members else sum(gaps)  # each member reads the events of all

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest event not handled yet; 0 if there is none."""
        return max(part.lag_seconds for part in self.parts)

    @property
    def state(self) -> Attendance:
        """State as the server knows it."""
        if not all(part.attended for part in self.parts):
            return Attendance.NO_CONSUMER
        if self.lag_seconds >= ADMIN_LIVE_SECONDS:
            return Attendance.CATCHING_UP
        return Attendance.PARKED if self.parked else Attendance.LIVE


class Subscriptions:
    """The durable subscriptions of a log.

    Every method raises LogUnavailable if the server does not answer; call it again to continue.

    Args:
        log: the log.
        clock: Unix nanoseconds.
    """

    def __init__(self, log: JetStreamLog, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._log = log
        self._clock = clock
        self._consumers = log.consumers()
        self._calls = asyncio.Semaphore(ADMIN_CALLS)
        self._opened: KeyValue | None = None

    async def list(self) -> Sequence[SubscriptionInfo]:
        """All subscriptions, by name."""
        definitions, parked = await self._definitions(), await self._counts()
        consumers = {info.name: info for info in await self._consumers.list()} if definitions else {}
        return await asyncio.gather(
            *(self._info(each, consumers, parked[name]) for name, each in sorted(definitions.items()))
        )

    async def show(self, name: str) -> SubscriptionInfo:
        """One subscription.

        Raises:
            SubscriptionNotFound: if it does not exist.
        """
        definition = await self._definition(name)
        counts = Counter(job.state for job in await self._parked(name))
        found = await asyncio.gather(*map(self._consumers.info, definition.consumer_names))
        return await self._info(definition, {info.name: info for info in found if info}, counts)

    async def parked(self, name: str) -> Sequence[ParkedJob]:
        """The jobs in its retry queue, retrying and parked, in the order in which they first failed.

        Raises:
            SubscriptionNotFound: if it does not exist.
        """
        await self._definition(name)
        return sorted(await self._parked(name), key=lambda job: (job.since, job.sequence))

    async def create(
        self,
        name: str,
        *,
        namespace: str | None = None,
        job: str | None = None,
        types: Iterable[str] = (),
        states: Iterable[str] = (),
        labels: str = "",
        start: Start = "beginning",
        members: int = 0,
        partitions: int = 0,
        plain: bool = False,
    ) -> SubscriptionInfo:
        """Create a subscription, with all its consumers, for a program that lacks the rights to do so.

        The arguments are those of `subscribe`, except `partitions`, which makes an elastic group of that many
        (usually SUBSCRIPTION_PARTITIONS), and `plain`: for a program in another language. Calling it again
        changes nothing.

        Raises:
            InvalidInput: naming the invalid argument, or the one that differs from the existing subscription.
            LogUnfit: if a consumer of its name belongs to another subscription.
            LogNotPermitted: if the credentials do not allow creating it.
        """
        if members and partitions:
            raise InvalidInput("members excludes partitions: omit one of them")
        requested = define(
            name=name,
            namespace=namespace,
            job=job,
            types=tuple(types),
            states=tuple(states),
            labels=labels,
            start=format_start(start),
            members=members,
            partitions=partitions,
            plain=plain,
        )
        definition = await ensure_definition(self._log, await self._records(), self._consumers, requested)
        await ensure_consumers(self._consumers, definition, range(definition.parts))
        return await self.show(name)

    async def retry(self, name: str, job: str = "", *, namespace: str = "") -> int:
        """Have a job's failed event handled again now, with all its retries, and then its later events.

        Args:
            name: name of the subscription.
            job: name, id or unique id prefix of the job; empty: every job in the retry queue.
            namespace: where a job's name is looked up; empty: the default namespace.

        Returns:
            The number of jobs.

        Raises:
            SubscriptionNotFound: if the subscription does not exist.
            JobNotFound: if the job is not in its retry queue.
            AmbiguousId: if several jobs in the retry queue have this id prefix.
        """
        jobs = await self._jobs(name, job, namespace)
        await self._rewrite(jobs, retry_now)
        return len(jobs)

    async def skip(self, name: str, job: str, *, namespace: str = "") -> int:
        """Give up a job's failed event, and have its later events handled.

        Raises:
            InvalidInput: if no job is given: there is no way to skip every job at once.
            SubscriptionNotFound: and the other errors of `retry`.
        """
        if not job:
            raise InvalidInput("job is missing: name the job whose event to skip")
        jobs = await self._jobs(name, job, namespace)
        await self._rewrite(jobs, skipped)
        return len(jobs)

    async def reset(self, name: str, *, after: int) -> SubscriptionInfo:
        """Have a subscription, and the jobs in its retry queue, start again after a sequence.

        Raises:
            SubscriptionNotFound: if it does not exist.
            LogUnavailable: if the server does not answer, or its reader did not start again in time.
        """
        if after < 0:
            raise InvalidInput(f"after must be a sequence from 0, got {after}")
        definition = await self._definition(name)
        # Events of a job in the retry queue are not delivered with the others: its record has its position.
        # Whether that is written before the reset or after it, every event after the sequence is handled.
        await self._rewrite(
            await self._parked(name), lambda job: msgspec.structs.replace(retry_now(job), after=after)
        )
        await asyncio.gather(*(self._reset_part(definition, part, after) for part in range(definition.parts)))
        return await self.show(name)

    async def delete(self, name: str) -> int:
        """Delete a subscription: its position and its retry queue. A process that reads it gets an error.

        Returns:
            The number of jobs that were in its retry queue.

        Raises:
            SubscriptionNotFound: if it does not exist.
        """
        records = await self._records()
        try:
            definition = await self._definition(name)
        except SubscriptionNotFound:
            if not await self._delete_left(name):
                raise
            return 0
        jobs = await self._parked(name)
        await self._delete_consumers(definition)
        for job in jobs:
            await _delete_record(records, parked_key(name, job.job_id))
        for part in range(definition.parts):
            await _delete_record(records, definition.note(part))
        await _delete_record(records, definition.key)
        await self._delete_consumers(definition)  # a process that opened it meanwhile created them again
        return len(jobs)

    # --- reading --------------------------------------------------------------------------------------------

    async def _records(self) -> KeyValue:
        if self._opened is None:
            self._opened = await self._log.key_value("SUBSCRIPTIONS")
        return self._opened

    async def _definitions(self) -> dict[str, Definition]:
        changes, _ = await (await self._records()).changes(_DEFINITIONS)
        found = (decode_definition(change.entry.value) for change in changes)
        return {definition.name: definition for definition in found if definition is not None}

    async def _definition(self, name: str) -> Definition:
        found = None
        with suppress(InvalidInput):  # nothing has an invalid name
            check_name(name)
            entry = await (await self._records()).get(definition_key(name))
            found = decode_definition(entry.value) if entry is not None else None
        if found is None:
            raise SubscriptionNotFound(f"durable subscription {name!r:.80} does not exist")
        return found

    async def _parked(self, name: str) -> Sequence[ParkedJob]:
        changes, _ = await (await self._records()).changes(parked_prefix(name))
        found = (decode_parked(change.entry.value) for change in changes)
        return [job for job in found if job is not None]

    async def _counts(self) -> Mapping[str, Counter[ParkedState]]:
        counts: dict[str, Counter[ParkedState]] = defaultdict(Counter)
        changes, _ = await (await self._records()).changes(_PARKED)
        for change in changes:
            if (job := decode_parked(change.entry.value)) is not None:
                counts[job.subscription][job.state] += 1
        return counts

    async def _jobs(self, name: str, ref: str, namespace: str) -> Sequence[ParkedJob]:
        """The job that a reference names, or all of them without one."""
        await self._definition(name)
        if not ref:
            return await self._parked(name)
        # A job's id is a function of its name, or is its name; as elsewhere, a name precedes an equal id.
        for job_id in (named_job_id(namespace or DEFAULT_NAMESPACE, ref), ref):
            job = _decode(await (await self._records()).get(parked_key(name, job_id)))
            if job is not None:
                return [job]
        found = [job for job in await self._parked(name) if job.job_id.startswith(ref)]
        if not found:
            raise JobNotFound(
                f"job {ref!r:.80} is not in the retry queue of {name}: list those that are with"
                f" `jobledger subscriptions parked {name}`"
            )
        if len(found) > 1:
            raise AmbiguousId(
                f"{len(found)} jobs in the retry queue of {name} have ids that start with {ref!r:.80}",
                candidates=[job.job_id for job in found[:CANDIDATES_SHOWN]],
            )
        return found

    async def _info(
        self, definition: Definition, consumers: Mapping[str, ConsumerInfo], counts: Counter[ParkedState]
    ) -> SubscriptionInfo:
        numbered = enumerate(definition.consumer_names)
        parts = await asyncio.gather(
            *(self._part(name, definition.note(part), consumers.get(name)) for part, name in numbered)
        )
        return SubscriptionInfo(
            definition=definition,
            parts=tuple(parts),
            retrying=counts[ParkedState.RETRYING],
            parked=counts[ParkedState.PARKED],
        )

    async def _part(self, name: str, note: str, info: ConsumerInfo | None) -> Part:
        if info is not None and info.reset_to is not None:
            # A reset was requested and interrupted: it may have been done since.
            info = await self._consumers.reconcile(name, note=note)
        if info is None:  # not created yet, or being deleted
            return Part(name=name)
        gap = info.pending + info.unacknowledged
        return Part(
            name=name,
            position=info.acknowledged if info.reset_to is None else info.reset_to,
            gap=gap,
            lag_seconds=await self._lag_seconds(info) if gap else 0.0,
            held=bool(info.holder),
            waiting=max(0, info.waiting - 1) if info.holder else info.waiting,
        )

    async def _lag_seconds(self, info: ConsumerInfo) -> float:
        """Age of the consumer's first event after its position."""
        times = await asyncio.gather(
            *(self._first_time(subject, info.acknowledged) for subject in info.subjects)
        )
        oldest = min((at for at in times if at), default=self._clock())
        return max(0.0, (self._clock() - oldest) / NANOSECONDS_PER_SECOND)

    async def _first_time(self, subject: str, after: int) -> int:
        async with self._calls:
            record = await self._log.read_next(subject, after=after)
        return record.time if record is not None else 0

    # --- writing --------------------------------------------------------------------------------------------

    async def _rewrite(self, jobs: Iterable[ParkedJob], change: Callable[[ParkedJob], ParkedJob]) -> None:
        async def write(job: ParkedJob) -> None:
            async with self._calls:
                await _rewrite_one(records, job, change)

        records = await self._records()
        await asyncio.gather(*map(write, jobs))

    async def _reset_part(self, definition: Definition, part: int, after: int) -> None:
        note = definition.note(part)
        await self._consumers.create(
            definition.consumer(part), note=note
        )  # its member may not have started yet
        await self._consumers.reset(definition.consumer_name(part), after=after, note=note)

    async def _delete_left(self, name: str) -> bool:
        """Delete the consumers of a subscription that lost its definition; False if there are none."""
        left = []
        for info in await self._consumers.list():
            definition = decode_definition(info.labels.get(LABEL, ""))
            if definition is not None and definition.name == name:
                left.append(info.name)
        await asyncio.gather(*map(self._consumers.delete, left))
        return bool(left)

    async def _delete_consumers(self, definition: Definition) -> None:
        await asyncio.gather(*map(self._consumers.delete, definition.consumer_names))


async def _rewrite_one(records: KeyValue, job: ParkedJob, change: Callable[[ParkedJob], ParkedJob]) -> None:
    """Change a record that the subscription's reader may write at the same time."""
    key = parked_key(job.subscription, job.job_id)
    for _ in range(ADMIN_WRITE_TRIES):
        entry = await records.get(key)
        found = _decode(entry)
        if entry is None or found is None:
            return  # handled in the meantime, or written by a newer release
        value = change(found).encode()
        now = await records.put(key, value, expect=entry.revision)
        if now is not None and now.value == value:
            return
    raise LogUnavailable(f"the record of job {job.job_id} keeps changing: try again")


async def _delete_record(records: KeyValue, key: str) -> None:
    for _ in range(ADMIN_WRITE_TRIES):
        entry = await records.get(key)
        if entry is None or await records.delete(key, expect=entry.revision):
            return
    raise LogUnavailable(f"the record {key} keeps changing: try again")


def _decode(entry: Entry | None) -> ParkedJob | None:
    return decode_parked(entry.value) if entry is not None else None
