"""The data of the benchmarks: a real job spec, events of numbered jobs, and logs filled with them.

Everything about a job is a function of its number, so runs differ only in event ids.
"""

import asyncio
import sys
import time
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import nats
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig

from benchmarks.harness import Output
from jobledger.store.embedded import EmbeddedServer
from jobledger.store.jetstream import JetStreamLog
from jobledger.store.ledger import new_event_id
from jobledger.store.log import Appended, EventLog, PendingEvent
from jobledger.store.model.events import (
    SOURCE,
    JobCreated,
    JobEvent,
    JobStateChanged,
    Record,
    SpecData,
    StateData,
    encode_event,
)
from jobledger.store.model.job import State, StateType
from jobledger.store.model.subjects import job_subject, named_job_id
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.reader import load_spec
from jobledger.store.spec.spec import JobSpec, encode_spec

NAMESPACES: Final = 10
SWEEP_JOBS: Final = 500  # jobs that share a value of the label `sweep`, whatever the number of jobs
FILL_CALLERS: Final = 1_000  # the size of an atomic batch: the fastest way to fill a log
_PULL_EXPIRES_NANOSECONDS: Final = 30_000_000_000
ACTOR: Final = "scheduler"
REASON: Final = "nightly"
STATES: Final = tuple(StateType)
AFTER_CREATION: Final = (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED)

Item = TypeVar("Item")

_SPEC_TEXT: Final = """
Name: nightly
Type: batch
Namespace: default
Count: 1
Tasks:
  - Name: main
    Engine:
      Type: docker
      Params:
        Image: ghcr.io/bacalhau-project/ffmpeg:7.1
        Entrypoint: [/bin/sh]
        Parameters: [-c, "cd /input; for f in *.mp4; do ffmpeg -i $f -vf scale=640:-2 /outputs/$f; done"]
    Env:
      TZ: UTC
    InputSources:
      - Alias: input
        Target: /input
        Source:
          Type: s3
          Params:
            Bucket: bacalhau-test-datasets
            Key: videos/raw/
            Region: eu-west-1
    Resources:
      CPU: 500m
      Memory: 1gb
"""

SPEC: Final = load_spec(_SPEC_TEXT).spec
"""The spec as a user submits it: decoded, not normalized."""

_NORMAL: Final = normalize(SPEC)


class JobKey(NamedTuple):
    """A job's identity and the subject of its events."""

    namespace: str
    name: str
    job_id: str
    subject: str


def job_key(number: int) -> JobKey:
    """Return the identity of a numbered job."""
    namespace, name = namespace_of(number), f"job-{number:07d}"
    job_id = named_job_id(namespace, name)
    return JobKey(namespace, name, job_id, job_subject(namespace, job_id))


def namespace_of(number: int) -> str:
    """Return the namespace of a numbered job."""
    return f"team{number % NAMESPACES}"


def labels_of(number: int) -> dict[str, str]:
    """Return labels: one of every other job, one of every thousandth, and one of `SWEEP_JOBS` jobs."""
    return {
        "env": ("prod", "dev")[number // NAMESPACES % 2],
        "owner": f"user{number // 7 % 1000:03d}",
        "sweep": f"s{number // SWEEP_JOBS:05d}",
    }


def named_spec(number: int) -> JobSpec:
    """Return the spec of a numbered job, not yet normalized or validated."""
    return replace(SPEC, name=f"job-{number:07d}", namespace=namespace_of(number), labels=labels_of(number))


def created_payload(number: int, event_id: str) -> bytes:
    """Return the creation event of a numbered job: about 900 bytes."""
    key = job_key(number)
    spec = encode_spec(replace(_NORMAL, name=key.name, namespace=key.namespace, labels=labels_of(number)))
    return _encoded(JobCreated, key, event_id, SpecData(msgspec.Raw(spec)), reason=REASON)


def state_payload(number: int, event_id: str, state: StateType) -> bytes:
    """Return a state event of a numbered job: about 320 bytes, most of them its envelope."""
    return _encoded(JobStateChanged, job_key(number), event_id, StateData(State(state)))


def records(jobs: int, state_of: Callable[[int], StateType]) -> Iterator[Record]:
    """Yield the records of a log of these jobs, each created and then set to its state, without a server."""
    sequence = 0
    started = 1_700_000_000_000_000_000
    for number in range(jobs):
        subject = job_key(number).subject
        sequence += 1
        event_id = f"{sequence:032x}"  # it is not read, and UUIDs take time
        yield Record(sequence, started + sequence * 1_000_000, subject, created_payload(number, event_id))
        state = state_of(number)
        if state is not StateType.PENDING:
            sequence += 1
            payload = state_payload(number, f"{sequence:032x}", state)
            yield Record(sequence, started + sequence * 1_000_000, subject, payload)


class JobLog:
    """Fills a log with numbered jobs, and knows the last sequence of each.

    Args:
        log: an empty log.
        jobs: how many jobs there may be.
    """

    def __init__(self, log: EventLog, jobs: int) -> None:
        self._log = log
        self._last = array("q", bytes(8 * jobs))
        self.last_sequence = 0

    async def create(self, numbers: Iterable[int]) -> None:
        """Append the first event of each job."""
        await self._append_all(numbers, created_payload)

    async def change(self, numbers: Iterable[int], state: StateType) -> None:
        """Append a change of state of each job."""
        await self._append_all(numbers, partial(state_payload, state=state))

    async def create_one(self, number: int) -> int:
        """Append the first event of a job; returns its sequence."""
        return await self._append(number, created_payload)

    async def change_one(self, number: int, state: StateType) -> int:
        """Append a change of state of a job; returns its sequence."""
        return await self._append(number, partial(state_payload, state=state))

    async def _append_all(self, numbers: Iterable[int], payload_of: Callable[[int, str], bytes]) -> None:
        waiting = iter(numbers)

        async def caller() -> None:
            for number in waiting:
                await self._append(number, payload_of)

        await _in_parallel(FILL_CALLERS, caller)

    async def _append(self, number: int, payload_of: Callable[[int, str], bytes]) -> int:
        event_id = new_event_id()
        draft = PendingEvent(job_key(number).subject, event_id, payload_of(number, event_id))
        appended = await self._log.append(draft, expect=self._last[number])
        assert isinstance(appended, Appended)
        self._last[number] = appended.sequence
        self.last_sequence = max(self.last_sequence, appended.sequence)
        return appended.sequence


class Bench(NamedTuple):
    """A server with a log, and a connection of the client library to it."""

    directory: Path
    url: str
    log: JetStreamLog
    jetstream: JetStreamContext


@asynccontextmanager
async def served(sync: str) -> AsyncIterator[Bench]:
    """Run a server on a temporary directory that is removed at the end."""
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        async with EmbeddedServer(Path(directory) / "nats", sync=sync) as server:
            log = await JetStreamLog.connect(server.url)
            await server.stage()  # as `serve` does
            try:
                connection = await nats.connect(server.url)
                try:
                    yield Bench(Path(directory), server.url, log, connection.jetstream())
                finally:
                    await connection.close()
            finally:
                await log.close()


class Child(NamedTuple):
    """A program in its own process, and its pipes."""

    process: asyncio.subprocess.Process
    stdin: asyncio.StreamWriter
    stdout: asyncio.StreamReader

    async def send(self, task: object) -> None:
        """Write a task as one line of JSON.

        Not as an argument: URLs contain a password, and arguments are visible to other users.
        """
        self.stdin.write(msgspec.json.encode(task) + b"\n")
        await self.stdin.drain()


@asynccontextmanager
async def child(module: str) -> AsyncIterator[Child]:
    """Run a module as a program, which is killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=Path(__file__).parents[1],
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield Child(process, process.stdin, process.stdout)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def fill_log(bench: Bench, jobs: int, output: Output, name: str) -> int:
    """Append four events of each job to an empty log; returns the last sequence.

    One state after the other, so that the events of a job are far apart.
    """
    output.say(f"{name}: filling a log with {4 * jobs:,} events")
    filler = JobLog(bench.log, jobs)
    await filler.create(range(jobs))
    for state in AFTER_CREATION:
        await filler.change(range(jobs), state)
    return filler.last_sequence


async def read_whole(log: EventLog, events: int) -> list[Record]:
    """Return all records of a log that has this many."""
    found: list[Record] = []
    feed = await log.follow(after=0)
    try:
        while len(found) < events:
            found += await feed.take(events)
    finally:
        await feed.close()
    return found


def new_drafts(count: int, payload: bytes = b"") -> list[PendingEvent]:
    """Return first events of new jobs, all with one payload, so that only sending is measured."""
    payload = payload or created_payload(0, new_event_id())
    event_ids = [new_event_id() for _ in range(count)]
    return [PendingEvent(job_subject("bench", event_id), event_id, payload) for event_id in event_ids]


async def publish(jetstream: JetStreamContext, draft: PendingEvent) -> None:
    """Publish a job's first event with the client library: the baseline of appending."""
    headers = {"Nats-Msg-Id": draft.event_id, "Nats-Expected-Last-Subject-Sequence": "0"}
    await jetstream.publish(draft.subject, draft.payload, headers=headers)


async def rate_of(items: Sequence[Item], callers: int, send: Callable[[Item], Awaitable[None]]) -> float:
    """Return items per second when callers share them, each sending the next after a response to the last."""
    waiting = iter(items)

    async def caller() -> None:
        for item in waiting:
            await send(item)

    started = time.perf_counter()
    await _in_parallel(callers, caller)
    return len(items) / (time.perf_counter() - started)


async def _in_parallel(callers: int, caller: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())


def _encoded(
    kind: type[JobEvent], key: JobKey, event_id: str, data: SpecData | StateData, *, reason: str = ""
) -> bytes:
    return encode_event(
        kind(
            specversion="1.0",
            id=event_id,
            source=SOURCE,
            subject=key.job_id,
            time="2026-01-01T00:00:00.000Z",
            datacontenttype="application/json",
            namespace=key.namespace,
            actor=ACTOR,
            reason=reason,
            data=data,  # type: ignore[arg-type]  # callers pair kind and data; mypy sees two unions
        )
    )


async def pull_all(
    bench: Bench,
    config: ConsumerConfig,
    batch: int,
    events: int,
    handle: Callable[[Msg], Awaitable[None]] | None = None,
) -> float:
    """Seconds until a hand-written pull loop has received and handled this many events.

    Two pull requests are in flight. The consumer stays, for the caller to look at and to delete.
    """
    connection, name = bench.jetstream._nc, config.durable_name
    request = msgspec.json.encode({"batch": batch, "expires": _PULL_EXPIRES_NANOSECONDS})
    inbox = connection.new_inbox()
    done = asyncio.get_running_loop().create_future()
    received = 0

    async def receive(message: Msg) -> None:
        nonlocal received
        if handle is not None:
            await handle(message)
        received += 1
        if received % batch == 0:
            await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{name}", request, inbox)
        if received == events:
            done.set_result(None)

    started = time.perf_counter()
    await bench.jetstream.add_consumer("JOBS", config)
    subscription = await connection.subscribe(inbox, cb=receive, pending_msgs_limit=0, pending_bytes_limit=0)
    for _ in range(2):
        await connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.JOBS.{name}", request, inbox)
    await done
    if handle is not None:  # it may have sent acknowledgements
        await connection.flush()
    seconds = time.perf_counter() - started
    await subscription.unsubscribe()
    return seconds
