"""Every process dies repeatedly: each event is handled, in order per job, and parked jobs wait."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from itertools import cycle
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Subscriptions
from jobledger.store.embedded import server as embedded
from jobledger.store.model.errors import EmbeddedServerError
from tests.support.log_writer import Writer
from tests.support.logs import eventually
from tests.support.proxy import Proxy
from tests.support.subscriber_group import Group, group, out_of_order
from tests.support.subscriber_process import Plan

JOBS = 200
EVENTS = 20_000
MEMBERS = 4
KILL_POINTS = 20
NAME = "chaos"
AHEAD_EVENTS = 8_000  # of the writer before the members, so that they read both old and new events
POISONED = (2_001, 2_002, 2_003)  # sequences of one round: events of three jobs
RETRIES = 3  # after 1, 2 and 4 s


class Chaos:
    """Four members, each with a proxy of its own, and the ways to disturb them."""

    def __init__(self, server: EmbeddedServer, members: Group, proxies: list[Proxy], plan: Plan) -> None:
        self._server = server
        self._members = members
        self._proxies = proxies
        self._plan = plan
        self._cut = cycle(proxies)
        self._place: dict[int, Proxy] = {}  # by pid

    async def start(self) -> None:
        """Start all members."""
        for proxy in self._proxies:
            self._place[await self._members.start(proxy.url, self._plan)] = proxy

    async def kill_process(self) -> None:
        """Kill the member with the latest output, in its handler, and start another one."""
        pid = self._members.in_handler()
        await self._members.kill(pid)
        proxy = self._place.pop(pid)
        self._place[await self._members.start(proxy.url, self._plan)] = proxy

    async def kill_server(self) -> None:
        """Kill the server; it restarts on the same files."""
        with contextlib.suppress(ProcessLookupError, EmbeddedServerError):
            os.kill(self._server.pid, signal.SIGKILL)

    async def cut_connection(self) -> None:
        """Cut the connections of a member in the middle of a message."""
        next(self._cut).cut()


@asynccontextmanager
async def chaos(server: EmbeddedServer, plan: Plan) -> AsyncIterator[tuple[Chaos, Group]]:
    """Members that run until the block ends."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(server.url)) for _ in range(MEMBERS)]
        members = await stack.enter_async_context(group())
        yield Chaos(server, members, proxies, plan), members


def kill_points() -> list[int]:
    """The numbers of events after which something is killed."""
    return [EVENTS * point // (KILL_POINTS + 1) for point in range(1, KILL_POINTS + 1)]


def failing_handlers() -> list[int]:
    """The sequences whose handler fails once: every fourth kill point."""
    return kill_points()[::4]


def has_handled(members: Group, events: int) -> bool:
    """Whether the members have handled this many events."""
    return len(members.handled) >= events


async def disturb(chaos: Chaos, members: Group) -> None:
    """The kill points in order, each when the members have reached it."""
    ways = cycle((None, chaos.kill_process, chaos.kill_server, chaos.cut_connection))
    for events, way in zip(kill_points(), ways, strict=False):
        await members.until(partial(has_handled, members, events))
        if way is not None:  # a handler fails by itself
            await way()


async def write_ahead(writer: Writer, members: Group) -> None:
    """Write all events, a limited number ahead of the members."""
    for number in range(EVENTS // JOBS):
        await members.until(partial(has_handled, members, number * JOBS - AHEAD_EVENTS))
        await writer.round()


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_event_is_handled_in_order_whatever_dies(
    server: EmbeddedServer, jetstream_log: JetStreamLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty kills of handlers, processes, server and connections: nothing is lost or out of order.

    Three jobs fail: their events wait for an operator, and are then handled in order as well.
    """
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    plan = Plan(
        name=NAME,
        how={"elastic": True, "start": "beginning", "retries": RETRIES},
        fails_once=failing_handlers(),
        fails_always=[*POISONED],
        marks=str(tmp_path),
    )
    writer = Writer(jetstream_log, JOBS)
    async with chaos(server, plan) as (disturbing, members):
        await disturbing.start()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write_ahead(writer, members))
            tasks.create_task(disturb(disturbing, members))
        waiting = {
            sequence
            for poison in POISONED
            for sequence in writer.of_job[writer.job_at[poison]]
            if sequence >= poison
        }
        await members.until_handled(set(writer.job_at) - waiting)
        assert not waiting & members.handled
        assert {line.sequence for line in members.lines if line.sequence in waiting} <= {*POISONED}
        await retry_all(jetstream_log, [writer.job_at[poison] for poison in POISONED], tmp_path)
        await members.until_handled(writer.job_at)
        assert members.handled == set(range(1, EVENTS + 1))
        assert out_of_order(members.lines) == []
        assert {line.sequence: line.revision for line in members.lines} == writer.revisions


async def retry_all(log: JetStreamLog, job_ids: list[str], marks: Path) -> None:
    """Retry, as an operator does once the cause is fixed."""
    subscriptions = Subscriptions(log)

    async def all_parked() -> bool:
        return {parked.job_id for parked in await subscriptions.parked(NAME)} == set(job_ids)

    await eventually(all_parked, within_seconds=30)
    (marks / "fixed").touch()
    for job_id in job_ids:
        await subscriptions.retry(NAME, job_id)
