"""The channel between the owner and a worker: order, replies, and its bounds."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from jobledger.projections.errors import ViewRebuilding
from jobledger.service.errors import TooManyRequests, error_kind
from jobledger.service.workers import channel as module
from jobledger.service.workers.channel import AnswerFailed, Channel, ChannelClosed
from jobledger.service.workers.messages import (
    Advanced,
    Collect,
    Collected,
    Damaged,
    Done,
    Failure,
    Message,
    Resume,
    Started,
    Suspend,
    decode,
    encode,
)
from jobledger.store.model.errors import JobledgerError


class Other:
    """The other end: keeps what it receives, and answers calls when it is released."""

    def __init__(self) -> None:
        self.received: list[Message] = []
        self.released = asyncio.Event()

    def handle(self, message: Message) -> Awaitable[Message] | None:
        self.received.append(message)
        return self._answer() if isinstance(message, Collect | Suspend) else None

    async def _answer(self) -> Message:
        await self.released.wait()
        return Done()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel, Other]]:
    """Two ends."""
    one, two = socket.socketpair()
    other = Other()
    near, far = await Channel.open(one, lambda _: None), await Channel.open(two, other.handle)
    try:
        yield near, far, other
    finally:
        other.released.set()
        await near.close()
        await far.close()


async def test_messages_arrive_in_order_and_calls_get_their_replies() -> None:
    """However the replies are ordered."""
    async with pair() as (near, _, other):
        calls = [asyncio.create_task(near.call(Collect(), 10)) for _ in range(3)]
        for number in range(100):
            near.post(Started(number))
        other.released.set()
        assert await asyncio.gather(*calls) == [Done()] * 3
        await near.call(Collect(), 10)
        started = [each.sequence for each in other.received if isinstance(each, Started)]
        assert started == list(range(100))


async def test_calls_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the limit is refused, and a reply makes room."""
    monkeypatch.setattr(module, "CHANNEL_CALLS_MAX", 2)
    async with pair() as (near, _, other):
        calls = [asyncio.create_task(near.call(Collect(), 10, is_request=True)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests, match="2 requests wait"):
            await near.call(Collect(), 10, is_request=True)
        own = asyncio.create_task(near.call(Collect(), 10))  # such as the report that shows a living worker
        other.released.set()
        assert await own == Done()
        await asyncio.gather(*calls)
        assert await near.call(Collect(), 10, is_request=True) == Done()


async def test_a_call_ends_at_its_timeout_and_with_the_other_process() -> None:
    """It never waits longer than that."""
    async with pair() as (near, far, _):
        with pytest.raises(ChannelClosed, match=r"within 0\.01 s"):
            await near.call(Collect(), 0.01)
        waiting = asyncio.create_task(near.call(Collect(), 10))
        await asyncio.sleep(0)
        await far.close()
        with pytest.raises(ChannelClosed, match="has ended"):
            await waiting
        assert near.closed.is_set()
        with pytest.raises(ChannelClosed, match="has ended"):
            await near.call(Collect(), 10)
        near.post(Resume())  # nobody reads it


async def test_a_frame_has_a_maximum_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte more is not sent as a call, and closes the connection if it arrives."""
    message = Suspend(Failure("ViewError", "x" * 1_000))
    size = len(encode(message))
    async with pair() as (near, _, other):
        other.released.set()
        monkeypatch.setattr(module, "CHANNEL_FRAME_MAX_BYTES", size)
        assert await near.call(message, 10) == Done()
        monkeypatch.setattr(module, "CHANNEL_FRAME_MAX_BYTES", size - 1)
        with pytest.raises(ChannelClosed, match="too many"):
            await near.call(message, 10)
        near.post(message)
        await asyncio.wait_for(near.closed.wait(), 10)


async def test_an_answer_that_fails_ends_the_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that cannot be sent; the connection remains."""
    monkeypatch.setattr(module._log, "disabled", True)  # reports of parallel tests cannot contain a surrogate
    broken, long = Failure("ViewError", "\ud800"), Failure("ViewError", "x" * 2_000)

    async def answer(message: Message) -> Message:
        if isinstance(message, Collect):
            raise RuntimeError("a defect \ud800")  # noqa: TRY004
        assert isinstance(message, Suspend)
        return Suspend(broken) if message.why.text == "broken" else Suspend(long)

    one, two = socket.socketpair()
    near, far = await Channel.open(one, lambda _: None), await Channel.open(two, answer)
    try:
        with pytest.raises(AnswerFailed, match="a defect"):
            await near.call(Collect(), 60)
        with pytest.raises(AnswerFailed, match="surrogates"):
            await near.call(Suspend(Failure("ViewError", "broken")), 60)
        monkeypatch.setattr(module, "CHANNEL_FRAME_MAX_BYTES", len(encode(Suspend(long))) - 1)
        with pytest.raises(AnswerFailed, match="bytes, more than"):
            await near.call(Suspend(Failure("ViewError", "long")), 60)
        monkeypatch.setattr(module, "CHANNEL_FRAME_MAX_BYTES", len(encode(Suspend(long))))
        assert await near.call(Suspend(Failure("ViewError", "long")), 60) == Suspend(long)
        assert error_kind(AnswerFailed).status == 500
    finally:
        await near.close()
        await far.close()


async def test_a_reader_that_stops_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """`is_congested` is set at the limit of the buffer, and `on_writable` called when there is room again."""
    monkeypatch.setattr(module, "CHANNEL_BUFFER_BYTES", 10_000)
    async with pair() as (near, far, other):
        writable = asyncio.Event()
        near.on_writable = writable.set
        assert far._transport is not None
        far._transport.pause_reading()
        sent = 0
        while not near.is_congested:
            near.post(Damaged("x" * 1_000))
            sent += 1
            assert sent < 100_000
        far._transport.resume_reading()
        await asyncio.wait_for(writable.wait(), 10)
        other.released.set()
        await near.call(Collect(), 10)
        assert len(other.received) == sent + 1


def test_an_error_keeps_its_class_and_message() -> None:
    """One that needs more than a text becomes the root of all errors."""
    rebuilt = Failure.of(ViewRebuilding("soon")).error()
    assert isinstance(rebuilt, ViewRebuilding)
    assert str(rebuilt) == "soon"
    for kind in ("Conflict", "TypeError", "no such class"):
        assert isinstance(Failure(kind, "text").error(), JobledgerError)


def test_messages_survive_their_encoding() -> None:
    """Batches without events, and families of metrics."""
    for message in (Advanced(1, 2, None), Collected([]), Started(7)):
        assert decode(encode(message)) == message
