"""The live feed under failures of every part: every event once per cursor, in order."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from jobledger import EmbeddedServer, JetStreamLog, LogUnavailable, OutcomeUnknown
from jobledger.store.log import Appended, PendingEvent
from jobledger.store.model.events import JobCreated, JobStateChanged
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import named_job_id
from tests.support.histories import draft, spec_data, state_data
from tests.support.logs import eventually
from tests.support.proxy import Proxy
from tests.support.service_process import running_service
from tests.support.sse import feed

EVENTS = 10_000
JOBS = 50
READERS = 4
RATE = 500  # events per second, so that all failures happen during the load


def history() -> list[tuple[PendingEvent, int]]:
    """Each event with the sequence of the job's previous event; 0 for the first."""
    found = []
    for number in range(1, EVENTS + 1):
        name = f"job-{number % JOBS}"
        job_id = named_job_id("default", name)
        if number <= JOBS:
            found.append((draft(JobCreated, job_id, spec_data(name), number), 0))
        else:
            state = (StateType.QUEUED, StateType.RUNNING)[number // JOBS % 2]
            data = state_data(state, f"no {number}")
            found.append((draft(JobStateChanged, job_id, data, number), number - JOBS))
    return found


async def write(log: JetStreamLog, written: Callable[[int], None]) -> None:
    """Append all drafts, each until it succeeds."""
    for number, (item, expect) in enumerate(history(), start=1):
        while True:
            with contextlib.suppress(LogUnavailable, OutcomeUnknown):
                assert await log.append(item, expect=expect) == Appended(number)
                break
        written(number)
        await asyncio.sleep(1 / RATE)


async def follow(url: Callable[[], str]) -> tuple[list[tuple[int, int]], int]:
    """Follow to the end, reconnecting after every error; returns sequence and revision of each event."""
    found: list[tuple[int, int]] = []
    last_id, connections = "", 0
    async with httpx.AsyncClient(timeout=30) as client:
        while len(found) < EVENTS:
            client.base_url = httpx.URL(url())
            with contextlib.suppress(httpx.HTTPError, AssertionError):
                async with feed(client, last_id, after="0") as reader:
                    connections += 1
                    try:
                        while len(found) < EVENTS and (message := await reader.next()) is not None:
                            if message.event != "close":
                                found.append((message.sequence, message.data["revision"]))
                    finally:
                        last_id = reader.last_id or last_id
            await asyncio.sleep(0.05)
    return found, connections


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_event_once_per_cursor_whatever_breaks(tmp_path: Path) -> None:
    """Killed connections, a restarted service and a restarted server, during 10,000 events."""
    nats = EmbeddedServer(tmp_path / "nats")
    await nats.start()
    log = await JetStreamLog.connect(nats.url)
    count = 0

    def written(number: int) -> None:
        nonlocal count
        count = number

    with ExitStack() as stack:
        service = await asyncio.to_thread(
            stack.enter_context, running_service(tmp_path, "--nats-url", nats.url)
        )
        port = service.url.rpartition(":")[2]
        async with Proxy(f"http://@127.0.0.1:{port}") as proxy:
            address = f"http://127.0.0.1:{proxy.url.rpartition(':')[2]}"
            writing = asyncio.create_task(write(log, written))
            readers = [asyncio.create_task(follow(lambda: address)) for _ in range(READERS)]

            async def reached(number: int) -> None:
                await eventually(lambda: count >= number or writing.done(), within_seconds=120)

            for number in (1_000, 2_000, 3_000):
                await reached(number)
                proxy.cut()
            await reached(4_000)
            await asyncio.to_thread(stack.close)
            service = await asyncio.to_thread(
                stack.enter_context, running_service(tmp_path, "--nats-url", nats.url, "--port", port)
            )
            await reached(6_000)
            os.kill(nats.pid, signal.SIGKILL)  # the supervisor restarts it
            await reached(8_000)
            proxy.cut()
            await writing
            for found, connections in await asyncio.gather(*readers):
                assert connections >= 6
                expected = [(number, (number - 1) // JOBS + 1) for number in range(1, EVENTS + 1)]
                assert found == expected
    await log.close()
    await nats.stop()
