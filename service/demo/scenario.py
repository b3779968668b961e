"""The steps of the demo, in order, and its load. It judges nothing: it records evidence."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from jobledger.service.demo.checks import Evidence, Kill
from jobledger.service.demo.environment import RUNNING, Environment, PlannedJob
from jobledger.store.command import Receipt
from jobledger.store.embedded import EmbeddedServer
from jobledger.store.jetstream import JetStreamLog
from jobledger.store.ledger import Ledger
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job, State, StateType
from jobledger.store.spec.spec import JobSpec, SpecConfig, Task

JOBS = 300
EVENTS_PER_JOB = 5
EVENTS = JOBS * EVENTS_PER_JOB
_HALF = EVENTS // 2

_SPEC = JobSpec(type="batch", count=1, tasks=(Task(name="main", engine=SpecConfig(type="noop")),))
_BEFORE = (
    State(state_type=StateType.QUEUED),
    State(state_type=StateType.RUNNING),
    State(state_type=StateType.RUNNING, message="half done"),
)
_FINAL_STATES = (
    State(state_type=StateType.COMPLETED),
    State(state_type=StateType.COMPLETED),
    State(state_type=StateType.COMPLETED),
    State(state_type=StateType.FAILED, message="exit code 1"),
    State(state_type=StateType.STOPPED, message="no longer needed"),
)

Keep = Callable[[Awaitable[Receipt]], Awaitable[Receipt]]
"""Awaits a command and keeps its receipt."""


class Load:
    """Many small unnamed jobs, so that the projector can be killed in the middle."""

    def __init__(self, ledgers: Sequence[Ledger], keep: Keep, on_written: Callable[[int], None]) -> None:
        self._ledgers = ledgers
        self._keep = keep
        self._on_written = on_written
        self._acknowledged = 0
        self._half = asyncio.Event()
        self._may_finish = asyncio.Event()

    @property
    def acknowledged(self) -> int:
        """Number of acknowledged events, of `EVENTS`."""
        return self._acknowledged

    async def wait_for_half(self) -> None:
        """Wait until half of it is written."""
        await self._half.wait()

    def finish(self) -> None:
        """Let the jobs finish; until then each job waits before its last event."""
        self._may_finish.set()

    async def run(self) -> None:
        """Write all jobs concurrently."""
        async with asyncio.TaskGroup() as group:
            for index in range(JOBS):
                ledger = self._ledgers[index % len(self._ledgers)]
                group.create_task(self._job(ledger, _FINAL_STATES[index % len(_FINAL_STATES)]))

    async def _job(self, ledger: Ledger, end: State) -> None:
        created = await self._written(ledger.create(_SPEC, actor="load", reason="a job of the demo's load"))
        for state in (*_BEFORE, end):
            if state is end:
                await self._may_finish.wait()
            await self._written(
                ledger.set_state(created.job_id, state, namespace=created.namespace, actor="load")
            )

    async def _written(self, command: Awaitable[Receipt]) -> Receipt:
        receipt = await self._keep(command)
        self._acknowledged += 1
        self._on_written(self._acknowledged)
        if self._acknowledged >= _HALF:
            self._half.set()
        return receipt


UPDATES = 2  # at least, of the sample job
VIEW_FILE = "view.sqlite"
NATS_FOLDER = "nats"
_PRIORITY_MAX = 100  # raised up to here, then lowered: each is a new spec

Steps = Callable[[str], AbstractContextManager[Callable[[str], None]]]
"""Reports a step while its context is active; the yielded function reports the progress of the step."""

_ENDS = (  # final states, in rotation; the last job keeps running
    State(state_type=StateType.COMPLETED, message="exit code 0"),
    State(state_type=StateType.FAILED, message="exit code 137: out of memory"),
    State(state_type=StateType.STOPPED),
    RUNNING,
)


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of the demo.

    Attributes:
        jobs: the user's jobs in the view, in the order of creation.
        counts: of all jobs in the view, by state.
        sample_job: the user's job with the most events.
        timeline: its events.
        evidence: for the checks.
    """

    jobs: tuple[Job, ...]
    counts: dict[StateType, int]
    sample_job: Job
    timeline: tuple[HistoryItem, ...]
    evidence: Evidence


async def run_scenario(plan: Sequence[PlannedJob], directory: Path, steps: Steps) -> DemoResult:
    """Run the demo in a directory with its own nats-server; stops everything before it returns or raises."""
    stack = AsyncExitStack()
    try:
        with steps("start a nats-server, connect two writers, start a projector"):
            environment = await _start(stack, directory)
        return await _Scenario(plan, environment, steps).run()
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        await _finish(stack.aclose())


async def _start(stack: AsyncExitStack, directory: Path) -> Environment:
    """Start everything; the stack stops it, even if this is cancelled midway."""
    server = EmbeddedServer(directory / NATS_FOLDER)
    stack.push_async_callback(server.stop)
    await server.start()
    logs: list[JetStreamLog] = []
    for _ in range(2):
        logs.append(await JetStreamLog.connect(server.url))
        stack.push_async_callback(logs[-1].close)
    environment = Environment(server.url, directory / VIEW_FILE, logs)
    stack.push_async_callback(environment.close)
    await environment.open()
    return environment


async def _finish(ending: Coroutine[Any, Any, None]) -> None:
    """Await the cleanup even if cancelled: processes that it does not stop would outlive this one."""
    task = asyncio.create_task(ending)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    task.result()
    if cancelled is not None:
        raise cancelled


class _Scenario:
    """The steps, in the order of `run`."""

    def __init__(self, plan: Sequence[PlannedJob], environment: Environment, steps: Steps) -> None:
        self._plan = plan
        self._environment = environment
        self._steps = steps
        # The job with the most specs; max returns the first of equals.
        self._sample_index = max(range(len(plan)), key=lambda index: len(plan[index].updates))
        self._jobs: list[Receipt] = []

    async def run(self) -> DemoResult:
        environment = self._environment
        snapshots = []
        with self._steps(f"submit {_count(len(self._plan), 'job')}"):
            self._jobs = [await environment.submit(planned.first) for planned in self._plan]
            await environment.catch_up()
            snapshots.append(await environment.snapshot())
        with self._steps("race two writers for one job"):
            race = await environment.race(self._jobs[self._sample_index])
        with self._steps("walk the jobs through their states"):
            await self._walk()
            await environment.catch_up()
            snapshots.append(await environment.snapshot())
        with self._steps(f"write {EVENTS:,} more events; meanwhile kill -9 the projector") as progress:
            kill = await self._kill(progress)
        with self._steps("start the projector again and let it catch up"):
            snapshots.append(await environment.snapshot())
            await environment.start_projector()
            await environment.catch_up()
        with self._steps("read the log and the view"):
            records, viewed = await environment.read_log(), await environment.viewed()
            counts, checkpoint = await environment.view.counts(), await environment.view.checkpoint()
            digest = await environment.view.digest()
        with self._steps("delete the view and rebuild it from the log"):
            await environment.rebuild()
            rebuilt_digest = await environment.view.digest()
        wanted = {job.job_id for job in self._jobs}
        jobs = tuple(each.job for each in viewed if each.job.status.id in wanted)
        sample_job = max(jobs, key=lambda job: job.status.revision)
        history = environment.ledgers[0].history(sample_job.status.id, namespace=sample_job.status.namespace)
        evidence = Evidence(
            records=records,
            receipts=tuple(environment.receipts),
            race=race,
            kill=kill,
            checkpoint=checkpoint,
            viewed=viewed,
            snapshots=tuple(snapshots),
            digest=digest,
            rebuilt_digest=rebuilt_digest,
        )
        timeline = tuple([item async for item in history])
        return DemoResult(
            jobs=jobs, counts=counts, sample_job=sample_job, timeline=timeline, evidence=evidence
        )

    async def _walk(self) -> None:
        """The raced job is already Queued and stays Running; the others reach different final states."""
        sample_job = self._jobs[self._sample_index]
        await self._environment.run(sample_job)
        others = [job for job in self._jobs if job is not sample_job]
        for index, job in enumerate(others):
            await self._environment.queue(job)
            await self._environment.run(job)
            await self._environment.end(job, _ENDS[index % len(_ENDS)])

    async def _kill(self, progress: Callable[[str], None]) -> Kill:
        """Kill the projector in the middle of a load, and update the user's jobs without a projector."""
        environment = self._environment
        before = await environment.last_sequence()
        load = Load(
            environment.ledgers, environment.keep, lambda written: progress(f"{written:,} of {EVENTS:,}")
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await load.wait_for_half()
            await environment.wait_for(before + 1)
            acknowledged = load.acknowledged
            exit_code = await environment.kill_projector()
            view_sequence = (await environment.view.checkpoint()).sequence
            load.finish()
            await self._update()
        return Kill(
            exit_code=exit_code,
            acknowledged=acknowledged,
            events=EVENTS,
            view_sequence=view_sequence,
            log_sequence=await environment.last_sequence(),
        )

    async def _update(self) -> None:
        """Apply later specs, and update the sample job until it has enough updates."""
        for index, (planned, job) in enumerate(zip(self._plan, self._jobs, strict=True)):
            updates = 0
            spec = planned.first.spec
            for file in planned.updates:
                spec = file.spec
                updates += await self._environment.update(job, spec, file.label)
            while index == self._sample_index and updates < UPDATES:
                priority = spec.priority + (1 if spec.priority < _PRIORITY_MAX else -1)
                spec = msgspec.structs.replace(spec, priority=priority)
                updates += await self._environment.update(job, spec, f"priority {priority}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error: task groups wrap it, and callers only translate plain errors."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
