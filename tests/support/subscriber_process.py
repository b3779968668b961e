"""A subscription member in its own process, for tests that kill it.

`NATS_URL=… python -m tests.support.subscriber_process '{"name": …}'` writes a line at the start and at the
end of each event, with the machine's monotonic clock in nanoseconds, by which tests judge the order.
"""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from jobledger import JobledgerError, SubscribedEvent, subscribe


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The task of the process.

    Attributes:
        how: more arguments of `subscribe`.
        run: use `run`, so that failures are retried and parked; else `async for`.
        fails_once: sequences whose handler fails the first time, in any process.
        fails_always: sequences whose handler fails until there is a file `fixed`.
        hangs_at: the sequence whose handler never ends; 0: none.
        pauses_at: the sequence whose handler waits for a file `awake`, the first time; 0: none.
        marks: a directory shared by the processes.
    """

    name: str
    how: dict[str, Any] = {}
    run: bool = True
    fails_once: list[int] = []
    fails_always: list[int] = []
    hangs_at: int = 0
    pauses_at: int = 0
    marks: str = ""


class Handler:
    """A handler that prints events."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._marks = Path(plan.marks)

    async def __call__(self, event: SubscribedEvent) -> None:
        """Handle an event; fails and hangs as configured."""
        say("begin", event)
        if event.sequence == self._plan.hangs_at:
            await asyncio.Event().wait()
        if event.sequence == self._plan.pauses_at and self._is_first("paused"):
            while not (self._marks / "awake").exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.005)
        if self._fails(event.sequence):
            say("fail", event)
            raise RuntimeError(f"the plan says that {event.sequence} fails")
        await asyncio.sleep(0)
        say("end", event)

    def _fails(self, sequence: int) -> bool:
        if sequence in self._plan.fails_always:
            return not (self._marks / "fixed").exists()
        return sequence in self._plan.fails_once and self._is_first(str(sequence))

    def _is_first(self, mark: str) -> bool:
        """Whether no process was here before."""
        try:
            (self._marks / mark).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def say(word: str, event: SubscribedEvent) -> None:
    """Write a line in one call, so that a kill never truncates it."""
    now = time.monotonic_ns()
    os.write(1, f"{word} {event.sequence} {event.job_id} {event.revision} {now}\n".encode())


async def main(plan: Plan) -> None:
    """Handle events until killed, reopening after every error."""
    handle = Handler(plan)
    while True:
        try:
            async with subscribe(os.environ["NATS_URL"], plan.name, **plan.how) as events:
                os.write(1, b"open\n")
                if plan.run:
                    await events.run(handle)
                else:
                    async for event in events:
                        await handle(event)
        except (JobledgerError, RuntimeError) as error:
            os.write(1, f"trouble {error}\n".encode())
            await asyncio.sleep(0.1)


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Plan)))
