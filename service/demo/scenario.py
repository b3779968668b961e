"""What the demo does, in order. It judges nothing: what it saw goes into the evidence."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec

from jobledger.service.demo.environment import RUNNING, Stage
from jobledger.service.demo.evidence import Evidence, Kill
from jobledger.service.demo.inputs import Planned
from jobledger.service.demo.load import EVENTS, Load
from jobledger.store.command import Receipt
from jobledger.store.embedded import EmbeddedServer
from jobledger.store.jetstream import JetStreamLog
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job, State, StateType

UPDATES = 2  # of the job that is updated on purpose
VIEW_FILE = "view.sqlite"
NATS_FOLDER = "nats"
_PRIORITY_MAX = 100  # raised up to here, lowered from there: both are new specs

Steps = Callable[[str], AbstractContextManager[Callable[[str], None]]]
"""Tells that a step is under way, until it is left; what it yields tells how far the step is."""

_ENDS = (  # how jobs end, in turn; the last does not
    State(state_type=StateType.COMPLETED, message="exit code 0"),
    State(state_type=StateType.FAILED, message="exit code 137: out of memory"),
    State(state_type=StateType.STOPPED),
    RUNNING,
)


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """The demo, done: what to show, and what to judge.

    Attributes:
        jobs: of the user's specs, as the view has them, in the order of creation.
        counts: of all jobs in the view, by state.
        hero: the most eventful of the user's jobs.
        timeline: its events.
        evidence: for the checks.
    """

    jobs: tuple[Job, ...]
    counts: dict[StateType, int]
    hero: Job
    timeline: tuple[HistoryItem, ...]
    evidence: Evidence


async def tell(plan: Sequence[Planned], directory: Path, steps: Steps) -> DemoResult:
    """Do it all in a directory, on a server of its own; nothing runs any more when this returns or raises.

    Raises:
        EmbeddedServerError: if the server is missing or does not start.
        JobledgerError: whatever else can go wrong.
    """
    stack = AsyncExitStack()
    try:
        with steps("start a nats-server, connect two writers, start a projector"):
            stage = await _start(stack, directory)
        return await _Story(plan, stage, steps).tell()
    except BaseExceptionGroup as group:
        raise _first(group) from group
    finally:
        await _finish(stack.aclose())


async def _start(stack: AsyncExitStack, directory: Path) -> Stage:
    """Start all that runs; the stack ends it, also if this is cancelled half-way."""
    server = EmbeddedServer(directory / NATS_FOLDER)
    stack.push_async_callback(server.stop)
    await server.start()
    logs: list[JetStreamLog] = []
    for _ in range(2):
        logs.append(await JetStreamLog.connect(server.url))
        stack.push_async_callback(logs[-1].close)
    stage = Stage(server.url, directory / VIEW_FILE, logs)
    stack.push_async_callback(stage.close)
    await stage.open()
    return stage


async def _finish(ending: Coroutine[Any, Any, None]) -> None:
    """Await this to its end even if we are cancelled meanwhile: what it does not end would outlive us."""
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


class _Story:
    """The chapters; `tell` is the order."""

    def __init__(self, plan: Sequence[Planned], stage: Stage, steps: Steps) -> None:
        self._plan = plan
        self._stage = stage
        self._steps = steps
        # The job with the most specs shows the most; max takes the first of equals.
        self._hero = max(range(len(plan)), key=lambda index: len(plan[index].updates))
        self._jobs: list[Receipt] = []

    async def tell(self) -> DemoResult:
        stage = self._stage
        glimpses = []
        with self._steps(f"submit {_count(len(self._plan), 'job')}"):
            self._jobs = [await stage.submit(planned.first) for planned in self._plan]
            await stage.caught_up()
            glimpses.append(await stage.glimpse())
        with self._steps("race two writers for one job"):
            race = await stage.race(self._jobs[self._hero])
        with self._steps("walk the jobs through their states"):
            await self._walk()
            await stage.caught_up()
            glimpses.append(await stage.glimpse())
        with self._steps(f"write {EVENTS:,} more events; meanwhile kill -9 the projector") as progress:
            kill = await self._kill(progress)
        with self._steps("start the projector again and let it catch up"):
            glimpses.append(await stage.glimpse())
            await stage.start_projector()
            await stage.caught_up()
        with self._steps("read the log and the view"):
            records, viewed = await stage.read_log(), await stage.viewed()
            counts, checkpoint = await stage.view.counts(), await stage.view.checkpoint()
            digest = await stage.view.digest()
        with self._steps("delete the view and rebuild it from the log"):
            await stage.rebuild()
            rebuilt_digest = await stage.view.digest()
        wanted = {job.job_id for job in self._jobs}
        jobs = tuple(each.job for each in viewed if each.job.status.id in wanted)
        hero = max(jobs, key=lambda job: job.status.revision)
        history = stage.ledgers[0].history(hero.status.id, namespace=hero.status.namespace)
        evidence = Evidence(
            records=records,
            receipts=tuple(stage.receipts),
            race=race,
            kill=kill,
            checkpoint=checkpoint,
            viewed=viewed,
            glimpses=tuple(glimpses),
            digest=digest,
            rebuilt_digest=rebuilt_digest,
        )
        timeline = tuple([item async for item in history])
        return DemoResult(jobs=jobs, counts=counts, hero=hero, timeline=timeline, evidence=evidence)

    async def _walk(self) -> None:
        """The raced job is Queued already and stays Running; the others each come to an end of their own."""
        hero = self._jobs[self._hero]
        await self._stage.run(hero)
        others = [job for job in self._jobs if job is not hero]
        for index, job in enumerate(others):
            await self._stage.queue(job)
            await self._stage.run(job)
            await self._stage.end(job, _ENDS[index % len(_ENDS)])

    async def _kill(self, progress: Callable[[str], None]) -> Kill:
        """Kill the projector in the middle of a load; the user's jobs change while there is none."""
        stage = self._stage
        before = await stage.last_sequence()
        load = Load(stage.ledgers, stage.keep, lambda written: progress(f"{written:,} of {EVENTS:,}"))
        async with asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await load.half()
            await stage.projected(before + 1)
            acknowledged = load.acknowledged
            exit_code = await stage.kill_projector()
            view_sequence = (await stage.view.checkpoint()).sequence
            load.let_end()
            await self._update()
        return Kill(
            exit_code=exit_code,
            acknowledged=acknowledged,
            events=EVENTS,
            view_sequence=view_sequence,
            log_sequence=await stage.last_sequence(),
        )

    async def _update(self) -> None:
        """Give jobs their later specs, and the hero more of them until it was updated often enough."""
        for index, (planned, job) in enumerate(zip(self._plan, self._jobs, strict=True)):
            updates = 0
            spec = planned.first.spec
            for file in planned.updates:
                spec = file.spec
                updates += await self._stage.update(job, spec, file.label)
            while index == self._hero and updates < UPDATES:
                priority = spec.priority + (1 if spec.priority < _PRIORITY_MAX else -1)
                spec = msgspec.structs.replace(spec, priority=priority)
                updates += await self._stage.update(job, spec, f"priority {priority}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What went wrong first: a task group wraps it, and the doors translate only the thing itself."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
