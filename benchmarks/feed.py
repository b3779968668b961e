"""`feed`: the delay from a report to a thousand feeds, next to that of a bare broadcaster."""

import asyncio
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, cast

import msgspec

from benchmarks.harness import Output, judge, percentile
from benchmarks.http import JOBS, fill
from benchmarks.http_load import request
from benchmarks.http_server import FEED_PATH, PUBLISH_PATH, serving
from benchmarks.sizes import Sizes
from benchmarks.workload import job_key, state_payload
from jobledger.service.server.http_server import allow_many_files
from jobledger.store.model.job import StateType

EVENTS: Final = "/api/v1/events"
_WRITERS: Final = 16  # connections that report; each waits for the response
_JOBS: Final = 100
_LATE_SECONDS: Final = 30.0  # from the last report until every reader has it
_MARK: Final = re.compile(rb'"Message":"no (\d+)"')

Sent = dict[int, float]
Report = Callable[[int], bytes]
"""Returns the request that reports the event of this number."""


async def run(sizes: Sizes, output: Output) -> None:
    """Report events at a steady rate over HTTP; measure from the start of each request to each reader."""
    allow_many_files()  # each reader is one, here and in the servers, which inherit the limit
    figures: dict[str, list[tuple[float, float]]] = {"broadcaster": [], "feed": []}
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        await fill(Path(directory), _JOBS)
        async with serving(data_dir=directory) as port, serving(broadcast="yes") as bare_port:
            sides = {
                "broadcaster": (bare_port, FEED_PATH, _bare(bare_port)),
                "feed": (port, EVENTS, _ours(port)),
            }
            for turn in range(sizes.rounds):
                for name, side in sides.items():
                    seconds = await _round(*side, sizes, turn)
                    figures[name].append((1e3 * percentile(seconds, 0.5), 1e3 * percentile(seconds, 0.99)))
    medians = {}
    for name, rounds in figures.items():
        output.say(f"feed: {name}: p50/p99 ms by round: " + ", ".join(f"{a:.2f}/{b:.1f}" for a, b in rounds))
        medians[name] = [statistics.median(column) for column in zip(*rounds, strict=True)]
    bare, ours = medians["broadcaster"], medians["feed"]
    what = (
        f"reported to read at {sizes.feed_rate} events/s by {sizes.feed_readers} readers, p99"
        f" (p50 {ours[0]:.1f}; a bare broadcaster: p50 {bare[0]:.1f}, p99 {bare[1]:.1f})"
    )
    output.report(judge("feed/p99", what, ours[1], "ms"))


def _ours(port: int) -> Report:
    def report(number: int) -> bytes:
        key = job_key(number % _JOBS)
        body = msgspec.json.encode({"StateType": StateType.RUNNING, "Message": f"no {number}"})
        return request("PUT", f"{JOBS}/{key.job_id}/state", body, port=port)

    return report


def _bare(port: int) -> Report:
    payload = state_payload(0, "0" * 36, StateType.RUNNING)

    def report(number: int) -> bytes:
        body = payload.replace(b'"StateType":"Running"', b'"StateType":"Running","Message":"no %d"' % number)
        return request("POST", PUBLISH_PATH, body, port=port)

    return report


async def _round(port: int, path: str, report: Report, sizes: Sizes, turn: int) -> list[float]:
    """Return the seconds from report to reader, for every event and reader."""
    loop = asyncio.get_running_loop()
    sent: Sent = {}
    total = int(sizes.feed_rate * sizes.feed_round_seconds)
    numbers = range(turn * total, (turn + 1) * total)  # an unchanged state would not be an event
    readers = []
    try:
        for _ in range(sizes.feed_readers):
            _, reader = await loop.create_connection(lambda: _Reader(sent, total), "127.0.0.1", port)
            readers.append(reader)
            reader.begin(request("GET", path, port=port))
        await asyncio.gather(*(reader.started for reader in readers))
        await _report_all(port, report, sent, numbers, sizes.feed_rate)
        async with asyncio.timeout(_LATE_SECONDS):
            await asyncio.gather(*(reader.done for reader in readers))
    finally:
        for reader in readers:
            reader.close()
    return [took for reader in readers for took in reader.seconds]


async def _report_all(port: int, report: Report, sent: Sent, numbers: range, rate: int) -> None:
    """Report these events, each at its scheduled time, however long the responses take."""
    due: asyncio.Queue[int | None] = asyncio.Queue()

    async def writer() -> None:
        reading, writing = await asyncio.open_connection("127.0.0.1", port)
        while (number := await due.get()) is not None:
            writing.write(report(number))
            head = (await reading.readuntil(b"\r\n\r\n")).lower()
            if b" 200 " not in head[:16]:
                raise RuntimeError(f"not a 200: {head!r}")
            length = head.partition(b"content-length: ")[2].partition(b"\r")[0]
            await reading.readexactly(int(length))
        writing.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(_WRITERS):
            group.create_task(writer())
        started = time.perf_counter()
        for place, number in enumerate(numbers):
            early = started + place / rate - time.perf_counter()
            if early > 0:
                await asyncio.sleep(early)
            sent[number] = time.perf_counter()
            due.put_nowait(number)
        for _ in range(_WRITERS):
            due.put_nowait(None)


class _Reader(asyncio.Protocol):
    """One feed, which records when each event arrived."""

    def __init__(self, sent: Sent, total: int) -> None:
        loop = asyncio.get_running_loop()
        self.started: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self.seconds: list[float] = []
        self._sent = sent
        self._total = total
        self._rest = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has the methods, not the class

    def begin(self, ask: bytes) -> None:
        """Open the feed."""
        self._transport.write(ask)

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        whole, end, rest = (self._rest + data).rpartition(b"\n\n")
        self._rest = rest
        if not end:
            return
        if not self.started.done():  # the first heartbeat
            self.started.set_result(None)
        self.seconds += [now - self._sent[int(found)] for found in _MARK.findall(whole)]
        if len(self.seconds) == self._total and not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.started, self.done):
            if not future.done():
                future.set_exception(RuntimeError(f"a feed was lost: {exc}, {self._rest[:600]!r}"))

    def close(self) -> None:
        """Abort the connection."""
        self.done.cancel()
        self.started.cancel()
        self._transport.abort()
