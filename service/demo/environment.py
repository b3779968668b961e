"""The environment of the demo: the specs, two writers, a projector in its own process, and its view.

Every receipt is kept, to be compared with the log at the end.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from jobledger.projections.database import remove_view
from jobledger.projections.limits import LIST_MAX_LIMIT
from jobledger.projections.query.query import ListQuery
from jobledger.projections.view import View
from jobledger.service.demo.checks import Race, RaceAttempt, ViewedJob
from jobledger.service.demo.projector_process import ProjectorProcess
from jobledger.store.command import Receipt
from jobledger.store.ledger import Ledger, new_event_id
from jobledger.store.log import EventLog
from jobledger.store.model.errors import RevisionMismatch
from jobledger.store.model.events import Record
from jobledger.store.model.job import Job, JobStatus, State, StateType
from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.spec.reader import load_spec
from jobledger.store.spec.spec import JobSpec


class NamedSpec(msgspec.Struct, frozen=True):
    """A valid spec, and the name of its file."""

    label: str
    spec: JobSpec


class PlannedJob(msgspec.Struct, frozen=True):
    """A job to submit: its first spec, and later specs with the same namespace and name."""

    first: NamedSpec
    updates: tuple[NamedSpec, ...] = ()


def example_files() -> list[Traversable]:
    """The example specs; a wheel has them in the package, a checkout next to it."""
    package = files("jobledger")
    folder = package.joinpath("examples")
    if not folder.is_dir():
        folder = Path(str(package)).parent / "examples"
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name)


def read_examples() -> list[NamedSpec]:
    """Read the example specs."""
    return [NamedSpec(file.name, load_spec(file.read_bytes()).spec) for file in example_files()]


def plan_jobs(specs: Sequence[NamedSpec]) -> list[PlannedJob]:
    """One job per namespace and name, in order of first occurrence; an unnamed spec is a separate job."""
    groups: dict[object, list[NamedSpec]] = {}
    for index, named in enumerate(specs):
        name, namespace = named.spec.name, named.spec.namespace or DEFAULT_NAMESPACE
        groups.setdefault((namespace, name) if name else index, []).append(named)
    return [PlannedJob(group[0], tuple(group[1:])) for group in groups.values()]


QUEUED = State(state_type=StateType.QUEUED)
RUNNING = State(state_type=StateType.RUNNING)
_SCHEDULERS = ("scheduler-1", "scheduler-2")
_READ_RECORDS = 1_000


class Environment:
    """Two ledgers, a projector process and its view. Users and nodes write with the first ledger."""

    def __init__(self, url: str, path: Path, logs: Sequence[EventLog]) -> None:
        self._url = url
        self._path = path
        self._log = logs[0]
        self._projector: ProjectorProcess | None = None
        self._view: View | None = None
        self.ledgers = [Ledger(log) for log in logs]
        self.receipts: list[Receipt] = []

    @property
    def view(self) -> View:
        """The projector's view."""
        assert self._view is not None  # set between `open` and `close`
        return self._view

    async def keep(self, command: Awaitable[Receipt]) -> Receipt:
        """Await a command, and keep the receipt if an event was appended."""
        receipt = await command
        if receipt.changed:
            self.receipts.append(receipt)
        return receipt

    # --- commands -----------------------------------------------------------------------------------------

    async def submit(self, file: NamedSpec) -> Receipt:
        """Create a job from a spec."""
        return await self.keep(self.ledgers[0].create(file.spec, actor="alice", reason=file.label))

    async def update(self, job: Receipt, spec: JobSpec, reason: str) -> bool:
        """Update a job's spec and run it again; False if the spec did not change."""
        update = self.ledgers[0].update(
            job.job_id, spec, namespace=job.namespace, actor="alice", reason=reason
        )
        receipt = await self.keep(update)
        if receipt.changed:
            await self.queue(job)
            await self.run(job)
        return receipt.changed

    async def queue(self, job: Receipt) -> None:
        """Pending → Queued."""
        await self._set(job, QUEUED, _SCHEDULERS[0], "waits for a node")

    async def run(self, job: Receipt) -> None:
        """Queued → Running."""
        await self._set(job, RUNNING, "node-1", "has capacity")

    async def end(self, job: Receipt, end: State) -> None:
        """Running → a final state."""
        if end.state_type is not StateType.STOPPED:
            await self._set(job, end, "node-1", "its process ended")
            return
        stop = self.ledgers[0].stop(job.job_id, namespace=job.namespace, actor="bob", reason="costs too much")
        await self.keep(stop)

    async def _set(self, job: Receipt, state: State, actor: str, reason: str) -> None:
        ledger = self.ledgers[0]
        await self.keep(
            ledger.set_state(job.job_id, state, namespace=job.namespace, actor=actor, reason=reason)
        )

    async def race(self, job: Receipt) -> Race:
        """Let two writers queue the same job concurrently, both expecting the same revision."""
        read = [await ledger.load(job.job_id, namespace=job.namespace) for ledger in self.ledgers]
        revision = read[0].status.revision
        attempts = await asyncio.gather(
            *(
                self._try_to_queue(ledger, writer, job, revision)
                for ledger, writer in zip(self.ledgers, _SCHEDULERS, strict=True)
            )
        )
        return Race(job_id=job.job_id, revision=revision, attempts=tuple(attempts))

    async def _try_to_queue(self, ledger: Ledger, writer: str, job: Receipt, revision: int) -> RaceAttempt:
        event_id = new_event_id()
        command = ledger.set_state(
            job.job_id,
            State(state_type=StateType.QUEUED, message=f"by {writer}"),
            namespace=job.namespace,
            actor=writer,
            reason="races for the job",
            expected_revision=revision,
            event_id=event_id,
        )
        try:
            return RaceAttempt(writer=writer, event_id=event_id, won=await self.keep(command))
        except RevisionMismatch as lost:
            missed = tuple(item.event_id for item in lost.missed)
            return RaceAttempt(
                writer=writer, event_id=event_id, seen_revision=lost.revision, seen_missed=missed
            )

    # --- the projector and its view -----------------------------------------------------------------------

    async def start_projector(self) -> None:
        """Start or restart the projector."""
        self._projector = await ProjectorProcess.start(self._url, self._path)

    async def wait_for(self, sequence: int) -> None:
        """Wait until the view reflects a sequence."""
        assert self._projector is not None
        await self._projector.wait_for(self.view, sequence)

    async def catch_up(self) -> None:
        """Wait until the view has reached the end of the log."""
        await self.wait_for(await self.last_sequence())

    async def kill_projector(self) -> int:
        """`kill -9` the projector; returns the exit code."""
        assert self._projector is not None
        return await self._projector.kill()

    async def snapshot(self) -> dict[str, JobStatus]:
        """All statuses in the view."""
        return {job.status.id: job.status async for job in self._jobs()}

    async def viewed(self) -> tuple[ViewedJob, ...]:
        """All jobs in the view with every version of their specs."""
        view = self.view
        return tuple(
            [
                ViewedJob(job, await view.versions(job.status.id, limit=LIST_MAX_LIMIT))
                async for job in self._jobs()
            ]
        )

    async def rebuild(self) -> None:
        """Delete the view, and rebuild it from the log."""
        assert self._projector is not None
        await self._projector.stop()
        await self.view.close()
        remove_view(self._path)
        await self.start_projector()
        self._view = await View.open(self._path)
        await self.catch_up()

    async def read_log(self) -> tuple[Record, ...]:
        """All records in the log."""
        last_sequence = await self.last_sequence()
        log_reader = await self._log.follow(after=0)
        records: list[Record] = []
        try:
            while not records or records[-1].sequence < last_sequence:
                records += await log_reader.take(_READ_RECORDS)
        finally:
            await log_reader.close()
        return tuple(records)

    async def last_sequence(self) -> int:
        """The last sequence of the log."""
        return (await self._log.info()).last_sequence

    async def _jobs(self) -> AsyncIterator[Job]:
        cursor: str | None = None
        while True:
            page = await self.view.list(ListQuery(limit=LIST_MAX_LIMIT, cursor=cursor))
            for job in page.jobs:
                yield job
            cursor = page.next_cursor
            if cursor is None:
                return

    async def open(self) -> None:
        """Start the projector and open its view."""
        await self.start_projector()
        self._view = await View.open(self._path)

    async def close(self) -> None:
        """Stop the projector and close the view."""
        if self._view is not None:
            await self._view.close()
        # The writer closes last, so that SQLite merges the write-ahead log into the file.
        if self._projector is not None:
            await self._projector.stop()
