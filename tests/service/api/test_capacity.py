"""Capacity: a client that waits, sends slowly or requests a lot does not slow down others."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from jobledger.projections.fair_queue import FairQueue
from jobledger.service import limits
from jobledger.service.access.principal import Role
from jobledger.service.api.capacity import Capacity, queued, waiting
from jobledger.service.errors import TooManyRequests
from jobledger.store.yield_point import yield_point
from tests.support.middleware import JSON, Answer, Guarded

TIMEOUT_SECONDS = 20.0
BOUNDS = {
    "REQUESTS_MAX_IN_FLIGHT": 8,
    "REQUESTS_KEPT_FOR_WRITES": 3,
    "REQUESTS_MAX_PER_CLIENT": 4,
    "REQUESTS_KEPT_FOR_WRITES_PER_CLIENT": 1,
    "WAITS_MAX": 6,
    "WAITS_MAX_PER_CLIENT": 2,
    "UPLOADS_MAX": 6,
    "UPLOADS_MAX_PER_CLIENT": 2,
}


class Slow:
    """An app whose requests work, or wait, until they may end."""

    def __init__(self) -> None:
        self.entered: asyncio.Queue[None] = asyncio.Queue()
        self.go = asyncio.Event()

    async def __call__(self, scope: Any, _: Any, send: Any) -> None:
        if scope["path"] == "/work":
            self.entered.put_nowait(None)
            await self.go.wait()
        elif scope["path"] == "/wait":
            with waiting():
                self.entered.put_nowait(None)
                await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


class Tried:
    """A middleware with small limits, and requests in flight."""

    def __init__(self, directory: Path) -> None:
        self.app = Slow()
        self.guarded = Guarded(directory, app=self.app)
        self.tasks: list[asyncio.Task[Answer]] = []

    def token(self, role: Role = Role.ADMIN) -> dict[str, str]:
        """The header of another client."""
        return {"authorization": f"Bearer {self.guarded.tokens.create('ci', role)[1]}"}

    async def begin(self, path: str, headers: dict[str, str], count: int, method: str = "GET") -> None:
        """Begin so many requests, and wait until the app has them."""
        for _ in range(count):
            self.tasks.append(asyncio.create_task(self.ask(path, headers, method)))
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self.app.entered.get()

    async def ask(self, path: str, headers: dict[str, str], method: str = "GET") -> Answer:
        """Ask."""
        body = {"body": b"{}", "headers": headers | JSON} if method == "PUT" else {"headers": headers}
        return await self.guarded.ask(path, method=method, **body)

    async def end(self) -> list[int]:
        """Let all end; their statuses."""
        self.app.go.set()
        return [answer.status for answer in await asyncio.gather(*self.tasks)]


@asynccontextmanager
async def tried(directory: Path) -> AsyncIterator[Tried]:
    """A middleware whose requests all end."""
    made = Tried(directory)
    yield made
    await made.end()
    for budget in (made.guarded.gate.capacity.work, made.guarded.gate.capacity.waits):
        assert budget.count == 0


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in BOUNDS.items():
        monkeypatch.setattr(limits, name, value)


@pytest.mark.usefixtures("small")
async def test_waits_of_two_tokens_leave_all_work_slots_to_others(tmp_path: Path) -> None:
    """Each token may wait a limited number of times; others are not affected."""
    async with tried(tmp_path) as made:
        tokens = [made.token(Role.READER) for _ in range(2)]
        for header in tokens:
            await made.begin("/wait", header, 2)
            refused = await made.ask("/wait", header)
            assert (refused.status, refused.headers["retry-after"]) == (429, "1")
            assert "requests are waiting of this client" in refused.problem["detail"]
            assert (await made.ask("/plain", header)).status == 200
        assert made.guarded.gate.capacity.work.count == 0
        await made.begin("/work", made.token(), 3)
        assert set(await made.end()) == {200}


@pytest.mark.usefixtures("small")
async def test_all_waits_together_are_limited(tmp_path: Path) -> None:
    """Independently of the limit on work."""
    async with tried(tmp_path) as made:
        for _ in range(3):
            await made.begin("/wait", made.token(), 2)
        other = made.token()
        refused = await made.ask("/wait", other)
        assert (refused.status, "6 requests are waiting;" in refused.problem["detail"]) == (429, True)
        assert (await made.ask("/plain", other)).status == 200


@pytest.mark.usefixtures("small")
async def test_reads_leave_slots_to_writes(tmp_path: Path) -> None:
    """Per client and in total; health, metrics and feeds need none."""
    async with tried(tmp_path) as made:
        one, other, third = made.token(), made.token(), made.token()
        await made.begin("/work", one, 3)
        refused = await made.ask("/plain", one)
        assert (refused.status, "of this client" in refused.problem["detail"]) == (429, True)
        await made.begin("/work", one, 1, "PUT")
        assert (await made.ask("/plain", one, "PUT")).status == 429
        await made.begin("/work", other, 1)
        assert (await made.ask("/plain", third)).status == 429
        await made.begin("/work", other, 3, "PUT")
        assert (await made.ask("/plain", third, "PUT")).status == 429
        for path in ("/livez", "/readyz", "/metrics", "/api/v1/events"):
            assert (await made.ask(path, third)).status == 200
        made.tasks[0].cancel()  # a client that disconnects frees a slot
        await asyncio.wait(made.tasks[:1])
        del made.tasks[0]
        assert (await made.ask("/plain", third, "PUT")).status == 200


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("path", ["/plain", "/api/v1/auth/clientkey"])
async def test_a_body_that_trickles_holds_no_work_slot(tmp_path: Path, path: str) -> None:
    """With a token or without; those of one client are limited, and those of others arrive."""
    async with tried(tmp_path) as made:
        made.guarded.silent = asyncio.Event()
        header = made.token() if path == "/plain" else {}
        other = made.token()

        def trickle() -> asyncio.Task[Answer]:
            asked = made.guarded.ask(path, header | JSON, method="PUT", body=[b"{"], ends=False)
            return asyncio.create_task(asked)

        slow = [trickle() for _ in range(2)]
        while made.guarded.gate.capacity.uploads.count < 2:  # noqa: ASYNC110 - the gate has no event for it
            await asyncio.sleep(0)
        assert made.guarded.gate.capacity.work.count == 0
        refused = await made.guarded.ask(path, header | JSON, method="PUT", body=b"{}")
        assert refused.status == 429
        assert "request bodies are arriving of this client" in refused.problem["detail"]
        assert (await made.ask("/plain", other, "PUT")).status == 200
        made.guarded.silent.set()
        await asyncio.gather(*slow)
        assert made.guarded.gate.capacity.uploads.count == 0


@pytest.mark.usefixtures("small")
async def test_anonymous_clients_are_bounded_by_address() -> None:
    """A caller without a token does not use a token's slots."""
    capacity = Capacity()
    for _ in range(4):
        capacity.work.take("@192.0.2.1")
    with pytest.raises(TooManyRequests, match="4 requests are in flight of this client"):
        capacity.work.take("@192.0.2.1")
    capacity.work.take("@192.0.2.2")


async def test_one_clients_share_is_far_below_the_whole() -> None:
    """Two clients together cannot use up the slots of all others."""
    for total, per_client in (
        (limits.REQUESTS_MAX_IN_FLIGHT, limits.REQUESTS_MAX_PER_CLIENT),
        (limits.WAITS_MAX, limits.WAITS_MAX_PER_CLIENT),
        (limits.UPLOADS_MAX, limits.UPLOADS_MAX_PER_CLIENT),
        (limits.FEEDS_MAX, limits.FEEDS_MAX_PER_CLIENT),
        (limits.BODIES_MAX_BYTES, limits.BODIES_MAX_BYTES_PER_CLIENT),
        (limits.RESPONSES_MAX_BYTES, limits.RESPONSES_MAX_BYTES_PER_CLIENT),
    ):
        assert per_client * 4 <= total
    parts = limits.REQUESTS_MAX_IN_FLIGHT + limits.WAITS_MAX + limits.UPLOADS_MAX + limits.FEEDS_MAX
    assert parts < limits.CONNECTIONS_MAX < limits.OPEN_FILES_TARGET


# --- long reads -------------------------------------------------------------------------------------------


class Long:
    """A read that takes one step after the other until it is stopped."""

    def __init__(
        self, capacity: Capacity, client: str, *, is_write: bool = False, slice_seconds: float = 0
    ) -> None:
        self.steps = 0
        self.slice_seconds = slice_seconds
        self.stopped = False
        self.task = asyncio.create_task(self._work(capacity, client, is_write=is_write))

    async def _work(self, capacity: Capacity, client: str, *, is_write: bool) -> None:
        with capacity.working(client, is_write=is_write):
            while not self.stopped and self.steps < 1_000:
                await yield_point()
                self.steps += 1
                end = perf_counter() + self.slice_seconds
                while perf_counter() < end:
                    pass

    async def end(self) -> None:
        self.stopped = True
        await self.task


async def turns_of_the_loop(count: int = 100) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.fixture
def slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step is a slice, and the pauses outlast the test."""
    monkeypatch.setattr(limits, "LONG_READ_SLICE_SECONDS", 0.0)
    monkeypatch.setattr(limits, "LONG_READ_POLL_SECONDS", 0.0)
    monkeypatch.setattr(limits, "LONG_READ_PAUSE_FACTOR", 1e9)


@pytest.mark.usefixtures("slices")
async def test_long_reads_pause_while_a_write_is_in_flight() -> None:
    """Regardless of their number; another read does not pause them."""
    capacity = Capacity()
    reads = [Long(capacity, client) for client in ("noisy", "noisy", "other")]
    with capacity.working("quiet", is_write=False):
        await turns_of_the_loop()
    assert min(read.steps for read in reads) > 10
    with capacity.working("quiet", is_write=True):
        await turns_of_the_loop(2)
        before = [read.steps for read in reads]
        await turns_of_the_loop()
        assert [read.steps for read in reads] == before
    await turns_of_the_loop()
    assert all(read.steps > steps + 10 for read, steps in zip(reads, before, strict=True))
    for read in reads:
        await read.end()


@pytest.mark.usefixtures("slices")
async def test_a_write_that_waits_does_not_pause_long_reads() -> None:
    """And a write never pauses itself."""
    capacity = Capacity()
    read = Long(capacity, "noisy")
    with capacity.working("quiet", is_write=True), waiting():
        await turns_of_the_loop()
        assert read.steps > 10
    write = Long(capacity, "noisy", is_write=True)
    await write.task
    assert write.steps == 1_000
    await read.end()


async def test_many_long_reads_pause_as_much_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them together get one share of the event loop while a write is in flight."""
    monkeypatch.setattr(limits, "LONG_READ_SLICE_SECONDS", 0.0)
    capacity = Capacity()
    with capacity.working("quiet", is_write=True):
        reads = [Long(capacity, client, slice_seconds=0.002) for client in "abcdefgh" for _ in range(4)]
        start = perf_counter()
        await asyncio.sleep(0.5)
        elapsed = perf_counter() - start
        busy = sum(read.steps for read in reads) * 0.002
    assert busy < 0.35 * elapsed
    for read in reads:
        await read.end()


async def test_long_reads_always_finish(monkeypatch: pytest.MonkeyPatch) -> None:
    """Continuous writes delay one by a few times its own duration."""
    monkeypatch.setattr(limits, "LONG_READ_SLICE_SECONDS", 0.0)
    capacity = Capacity()
    with capacity.working("quiet", is_write=True):
        reads = [Long(capacity, client) for client in ("noisy", "other")]
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while min(read.steps for read in reads) < 20:  # noqa: ASYNC110 - steps have no event
                await asyncio.sleep(limits.LONG_READ_POLL_SECONDS)
    for read in reads:
        await read.end()


@pytest.mark.usefixtures("slices")
async def test_work_that_outlives_its_request_pauses_as_well() -> None:
    """A snapshot that is built for a point outlives the request that started it."""
    capacity, steps, stop = Capacity(), 0, asyncio.Event()

    async def build() -> None:
        nonlocal steps
        while not stop.is_set():
            await yield_point()
            steps += 1

    with capacity.working("first", is_write=False):
        task = asyncio.create_task(build())
    await turns_of_the_loop()
    assert steps > 10
    with capacity.working("quiet", is_write=True):
        await turns_of_the_loop(2)
        before = steps
        await turns_of_the_loop()
        assert steps == before
    stop.set()
    await task


# --- turns ------------------------------------------------------------------------------------------------


def queue_of(slots: int = 1, per_client: int = 1, waiting_per_client: int = 2) -> FairQueue:
    """A queue with small bounds."""
    return FairQueue(
        slots,
        per_client=per_client,
        waiting_per_client=waiting_per_client,
        refusal=lambda count: TooManyRequests(f"{count} wait"),
    )


async def test_clients_take_turns_regardless_of_their_number_of_requests() -> None:
    """A single request waits for one turn of each other client, not for all earlier requests."""
    queue, order = queue_of(waiting_per_client=9), []

    async def take(client: str) -> None:
        async with queue.turn(client):
            order.append(client)

    await queue.enter("held")
    tasks = [asyncio.create_task(take(client)) for client in "aaaaabbc"]
    await asyncio.sleep(0)
    assert queue.waiting == len(tasks)
    queue.leave("held")
    await asyncio.gather(*tasks)
    assert "".join(order) == "abcabaaa"
    assert queue.waiting == 0


async def test_one_client_leaves_a_slot_to_others() -> None:
    """Its concurrent turns are limited, and so are its waiting requests."""
    queue = queue_of(slots=2)
    await queue.enter("a")
    tasks = [asyncio.create_task(queue.enter("a")) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TooManyRequests, match="2 wait"):
        await queue.enter("a")
    assert queue.try_enter("b")
    assert not queue.try_enter("c")
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert queue.waiting == 0
    queue.leave("a")
    queue.leave("b")
    assert queue.try_enter("a")
    assert queue.try_enter("b")


async def test_a_turn_granted_to_a_cancelled_request_goes_to_the_next() -> None:
    """Cancelled at the same moment: the slot is not lost."""
    queue = queue_of()
    await queue.enter("a")
    gone = asyncio.create_task(queue.enter("b"))
    await asyncio.sleep(0)
    queue.leave("a")
    gone.cancel()
    await asyncio.wait([gone])
    assert queue.try_enter("c")


async def test_waiting_for_a_turn_takes_no_work_slot() -> None:
    """And taking it up again does."""
    capacity, queue, seen = Capacity(), queue_of(), []

    async def request(client: str) -> None:
        with capacity.working(client, is_write=False):
            async with queued(queue):
                seen.append((capacity.work.count, capacity.waits.count))

    await queue.enter("held")
    tasks = [asyncio.create_task(request(client)) for client in "ab"]
    await asyncio.sleep(0)
    assert (capacity.work.count, capacity.waits.count) == (0, 2)
    queue.leave("held")
    await asyncio.gather(*tasks)
    assert seen == [(1, 1), (1, 0)]
    assert (capacity.work.count, capacity.waits.count) == (0, 0)
