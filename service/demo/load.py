"""A load, so that there is a middle in which a projector can be killed: many small jobs without a name."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from jobledger.store.command import Receipt
from jobledger.store.ledger import Ledger
from jobledger.store.model.job import State, StateType
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
_ENDS = (
    State(state_type=StateType.COMPLETED),
    State(state_type=StateType.COMPLETED),
    State(state_type=StateType.COMPLETED),
    State(state_type=StateType.FAILED, message="exit code 1"),
    State(state_type=StateType.STOPPED, message="no longer needed"),
)

Keep = Callable[[Awaitable[Receipt]], Awaitable[Receipt]]
"""Awaits a command and keeps its receipt."""


class Load:
    """The load, and the moments in it that others wait for.

    Args:
        ledgers: the jobs are shared out among these.
        keep: sees every receipt.
        on_written: told how many events are acknowledged so far.
    """

    def __init__(self, ledgers: Sequence[Ledger], keep: Keep, on_written: Callable[[int], None]) -> None:
        self._ledgers = ledgers
        self._keep = keep
        self._on_written = on_written
        self._acknowledged = 0
        self._half = asyncio.Event()
        self._may_end = asyncio.Event()

    @property
    def acknowledged(self) -> int:
        """Events that are acknowledged so far, of `EVENTS`."""
        return self._acknowledged

    async def half(self) -> None:
        """Wait until half of it is written."""
        await self._half.wait()

    def let_end(self) -> None:
        """Let the jobs end; until then each holds its last event back, so that there is a middle."""
        self._may_end.set()

    async def run(self) -> None:
        """Write it, all jobs at once."""
        async with asyncio.TaskGroup() as group:
            for index in range(JOBS):
                ledger = self._ledgers[index % len(self._ledgers)]
                group.create_task(self._job(ledger, _ENDS[index % len(_ENDS)]))

    async def _job(self, ledger: Ledger, end: State) -> None:
        created = await self._written(ledger.create(_SPEC, actor="load", reason="a job of the demo's load"))
        for state in (*_BEFORE, end):
            if state is end:
                await self._may_end.wait()
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
