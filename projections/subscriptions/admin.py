"""What operators see of durable subscriptions, and what they can do: list, show, retry, skip, reset, delete.

Everything is read from the server and written there: no process that reads a subscription is asked. Those who
read it see a changed record within `RECORDS_LOOK_SECONDS`, and a reset within `HOLD_CHECK_SECONDS`.
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
from jobledger.projections.subscriptions.creation import Start, agree, make_consumers, said
from jobledger.projections.subscriptions.definition import (
    LABEL,
    Definition,
    check_name,
    decode_definition,
    define,
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


class Attendance(enum.StrEnum):
    """What a subscription is doing, as the server knows it: the first of these that is so."""

    NO_CONSUMER = "unattended"  # nobody is there for some of it
    CATCHING_UP = "catching_up"  # all of it is read, and it is behind
    PARKED = "parked"  # live, but for jobs that wait for an operator
    LIVE = "live"  # all of it is read, and nothing waits for long


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What one process at a time reads of a subscription.

    Attributes:
        name: of its consumer.
        position: the sequence up to which all is handled or set aside.
        gap: events that are not handled yet; with filters that the server does not know, at most.
        lag_seconds: age of the oldest of them.
        held: whether a process reads it.
        waiting: processes that wait to read it, at most.
    """

    name: str
    position: int = 0
    gap: int = 0
    lag_seconds: float = 0.0
    held: bool = False
    waiting: int = 0

    @property
    def attended(self) -> bool:
        """Whether a process is there for it: the server gives it to one only once it has an event for it."""
        return self.held or self.waiting > 0


class SubscriptionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A durable subscription as operators see it.

    Attributes:
        definition: what it is.
        parts: one, or one for each member or partition.
        retrying: jobs set aside that are tried again by themselves.
        parked: jobs set aside that wait for an operator.
    """

    definition: Definition
    parts: tuple[Part, ...]
    retrying: int = 0
    parked: int = 0

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.name

    @property
    def position(self) -> int:
        """The sequence up to which all is handled or set aside."""
        return min(part.position for part in self.parts)

    @property
    def gap(self) -> int:
        """Events that are not handled yet; with filters that the server does not know, at most."""
        gaps = [part.gap for part in self.parts]
        return max(gaps) if self.definition.members else sum(gaps)  # each member reads those of all

    @property
    def lag_seconds(self) -> float:
        """Age of the oldest event that is not handled yet; 0 without any."""
        return max(part.lag_seconds for part in self.parts)

    @property
    def state(self) -> Attendance:
        """What it is doing."""
        if not all(part.attended for part in self.parts):
            return Attendance.NO_CONSUMER
        if self.lag_seconds >= ADMIN_LIVE_SECONDS:
            return Attendance.CATCHING_UP
        return Attendance.PARKED if self.parked else Attendance.LIVE


_NANOSECONDS: Final = 1_000_000_000
_DEFINITIONS: Final = "definition"
_PARKED: Final = "parked"


class Subscriptions:
    """The durable subscriptions of a log.

    Args:
        log: whose they are.
        clock: Unix nanoseconds.
    """

    def __init__(self, log: JetStreamLog, *, clock: Callable[[], int] = time.time_ns) -> None:
        self._log = log
        self._clock = clock
        self._consumers = log.consumers()
        self._calls = asyncio.Semaphore(ADMIN_CALLS)
        self._opened: KeyValue | None = None

    async def list(self) -> Sequence[SubscriptionInfo]:
        """All there are, by name.

        Raises:
            LogUnavailable: if the server does not answer.
        """
        definitions, parked = await self._definitions(), await self._counts()
        consumers = {info.name: info for info in await self._consumers.list()} if definitions else {}
        told = (self._told(each, consumers, parked[name]) for name, each in sorted(definitions.items()))
        return await asyncio.gather(*told)

    async def show(self, name: str) -> SubscriptionInfo:
        """One of them.

        Raises:
            SubscriptionNotFound: if there is none of that name.
            LogUnavailable: if the server does not answer.
        """
        definition = await self._definition(name)
        counts = Counter(job.state for job in await self._parked(name))
        found = await asyncio.gather(*map(self._consumers.info, _parts(definition)))
        return await self._told(definition, {info.name: info for info in found if info}, counts)

    async def parked(self, name: str) -> Sequence[ParkedJob]:
        """The jobs that it has set aside, those that failed first first; those that are tried again, too.

        Raises:
            SubscriptionNotFound: if there is none of that name.
            LogUnavailable: if the server does not answer.
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
        """Create a subscription for a program that may not do it: its definition, and all its consumers.

        The same again changes nothing.

        Args:
            name: of the subscription.
            namespace: as of `subscribe`.
            job: as of `subscribe`.
            types: as of `subscribe`.
            states: as of `subscribe`.
            labels: as of `subscribe`.
            start: as of `subscribe`.
            members: how many processes share it, each with its own part; 0: it is not shared in this way.
            partitions: of an elastic group, usually SUBSCRIPTION_PARTITIONS; 0: it is not shared in this way.
            plain: for a program in another language, without `subscribe`.

        Raises:
            InvalidInput: naming what is wrong, also if it exists and is another one.
            LogUnfit: if a consumer of its name is another one's.
            LogNotPermitted: if these credentials may not create it.
            LogUnavailable: if the server does not answer; the same again goes on with it.
        """
        if members and partitions:
            raise InvalidInput("members and partitions exclude each other: leave one out")
        wanted = define(
            name=name,
            namespace=namespace,
            job=job,
            types=tuple(types),
            states=tuple(states),
            labels=labels,
            start=said(start),
            members=members,
            partitions=partitions,
            plain=plain,
        )
        definition = await agree(self._log, await self._records(), self._consumers, wanted)
        await make_consumers(self._consumers, definition, range(definition.parts))
        return await self.show(name)

    async def retry(self, name: str, job: str = "", *, namespace: str = "") -> int:
        """Have a job's failed event handled again at once, then its later ones.

        Args:
            name: of the subscription.
            job: its name, its id, or the beginning of its id that no other one has; empty: all that are set
                aside.
            namespace: where a name is looked up; empty: the default namespace.

        Returns:
            How many jobs that are.

        Raises:
            SubscriptionNotFound: if there is none of that name.
            JobNotFound: if it has not set that job aside.
            AmbiguousId: if it has set aside several jobs whose ids begin so.
            LogUnavailable: if that can't be written.
        """
        jobs = await self._jobs(name, job, namespace)
        await self._rewrite(jobs, retry_now)
        return len(jobs)

    async def skip(self, name: str, job: str, *, namespace: str = "") -> int:
        """Give up a job's failed event, and have its later ones handled.

        Raises:
            As `retry`.
            InvalidInput: if no job is named: nobody gives up all of them in one go.
        """
        if not job:
            raise InvalidInput("no job is named; say whose event is to be given up")
        jobs = await self._jobs(name, job, namespace)
        await self._rewrite(jobs, skipped)
        return len(jobs)

    async def reset(self, name: str, *, after: int) -> SubscriptionInfo:
        """Make it begin anew behind a sequence, and so do the jobs that it has set aside.

        Raises:
            SubscriptionNotFound: if there is none of that name.
            LogUnavailable: if the server does not answer, or who reads it did not begin anew in time.
        """
        if after < 0:
            raise InvalidInput(f"after is {after}; use a sequence from 0")
        definition = await self._definition(name)
        # A job that is set aside is not read with the others: its own record says where it goes on. Written
        # before the reset or after it, all its events behind that place are handled.
        await self._rewrite(
            await self._parked(name), lambda job: msgspec.structs.replace(retry_now(job), after=after)
        )
        await asyncio.gather(*(self._reset_part(definition, part, after) for part in range(definition.parts)))
        return await self.show(name)

    async def delete(self, name: str) -> int:
        """Delete it: its place, and the jobs that it has set aside. Who reads it is told so by an error.

        Returns:
            How many jobs it had set aside.

        Raises:
            SubscriptionNotFound: if there is none of that name.
            LogUnavailable: if the server does not answer; the same again goes on with it.
        """
        records = await self._records()
        try:
            definition = await self._definition(name)
        except SubscriptionNotFound:
            if not await self._delete_left(name):
                raise
            return 0
        jobs = await self._parked(name)
        await self._delete_parts(definition)
        for job in jobs:
            await _remove(records, parked_key(name, job.job_id))
        for part in range(definition.parts):
            await _remove(records, definition.note(part))
        await _remove(records, definition.key)
        await self._delete_parts(definition)  # who opened it meanwhile made them again
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
        with suppress(InvalidInput):  # what can't name one names none
            check_name(name)
            entry = await (await self._records()).get(f"{_DEFINITIONS}.{name}")
            found = decode_definition(entry.value) if entry is not None else None
        if found is None:
            raise SubscriptionNotFound(f"there is no durable subscription {name!r:.80}")
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
        """All that are set aside, or the one that is meant."""
        await self._definition(name)
        if not ref:
            return await self._parked(name)
        # A job's id is a function of its name, or is its name; as elsewhere, a name wins over an equal id.
        for job_id in (named_job_id(namespace or DEFAULT_NAMESPACE, ref), ref):
            job = _decoded(await (await self._records()).get(parked_key(name, job_id)))
            if job is not None:
                return [job]
        found = [job for job in await self._parked(name) if job.job_id.startswith(ref)]
        if not found:
            raise JobNotFound(
                f"the subscription {name} has set aside no job {ref!r:.80}; `jobledger subscriptions parked"
                f" {name}` lists those that it has"
            )
        if len(found) > 1:
            raise AmbiguousId(
                f"the ids of {len(found)} jobs that {name} has set aside begin with {ref!r:.80}",
                candidates=[job.job_id for job in found[:CANDIDATES_SHOWN]],
            )
        return found

    async def _told(
        self, definition: Definition, consumers: Mapping[str, ConsumerInfo], counts: Counter[ParkedState]
    ) -> SubscriptionInfo:
        numbered = enumerate(_parts(definition))
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
            # The request of a reset that was interrupted: it may have been done since.
            info = await self._consumers.reconcile(name, note=note)
        if info is None:  # it was made by nobody yet, or is being deleted
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
        """Age of the first event behind a consumer's place that it is for."""
        times = await asyncio.gather(
            *(self._first_time(subject, info.acknowledged) for subject in info.subjects)
        )
        oldest = min((at for at in times if at), default=self._clock())
        return max(0.0, (self._clock() - oldest) / _NANOSECONDS)

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
        await self._consumers.create(definition.consumer(part), note=note)  # a member may not have come yet
        await self._consumers.reset(definition.consumer_name(part), after=after, note=note)

    async def _delete_left(self, name: str) -> bool:
        """Delete consumers that a subscription without a definition left; False if there are none."""
        left = []
        for info in await self._consumers.list():
            definition = decode_definition(info.labels.get(LABEL, ""))
            if definition is not None and definition.name == name:
                left.append(info.name)
        await asyncio.gather(*map(self._consumers.delete, left))
        return bool(left)

    async def _delete_parts(self, definition: Definition) -> None:
        await asyncio.gather(*map(self._consumers.delete, _parts(definition)))


def _parts(definition: Definition) -> list[str]:
    return [definition.consumer_name(part) for part in range(definition.parts)]


async def _rewrite_one(records: KeyValue, job: ParkedJob, change: Callable[[ParkedJob], ParkedJob]) -> None:
    """Change a record; who reads the subscription may write it at the same time."""
    key = parked_key(job.subscription, job.job_id)
    for _ in range(ADMIN_WRITE_TRIES):
        entry = await records.get(key)
        found = _decoded(entry)
        if entry is None or found is None:
            return  # it was handled meanwhile, or is not ours to understand
        value = change(found).encode()
        now = await records.put(key, value, expect=entry.revision)
        if now is not None and now.value == value:
            return
    raise LogUnavailable(f"the record of the job {job.job_id} changes all the time; try again")


def _decoded(entry: Entry | None) -> ParkedJob | None:
    return decode_parked(entry.value) if entry is not None else None


async def _remove(records: KeyValue, key: str) -> None:
    for _ in range(ADMIN_WRITE_TRIES):
        entry = await records.get(key)
        if entry is None or await records.delete(key, expect=entry.revision):
            return
    raise LogUnavailable(f"the record {key} changes all the time; try again")
