"""The position of a subscription survives acknowledgments, resets and losses by other processes."""

import asyncio
from collections.abc import Callable

import pytest

from jobledger import (
    EmbeddedServer,
    JetStreamLog,
    subscribe,
)
from jobledger.store.jetstream.consumer.holder import AckTracker
from jobledger.store.jetstream.pull_session import PinnedSession
from tests.support.log_writer import Writer
from tests.support.logs import ask, eventually
from tests.support.readers import (
    finish,
    other_process,
    sequences,
    source_of,
    take,
    take_later,
    take_to,
    the_info,
)

pytestmark = pytest.mark.usefixtures("both_paths")

NOTE = "parked.wish.%reset-wish"  # records a completed reset
TAKEN_OVER_WITHIN_SECONDS = 10.0


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """Four rounds of five jobs."""
    writer = Writer(jetstream_log, 5)
    for _ in range(4):
        await writer.round()
    return writer


def test_position_moved_by_another_process_is_detected() -> None:
    """Ahead of what was handled here: at once; behind what was acknowledged: when seen twice."""
    tracker = AckTracker()
    tracker.begin(10)
    assert not tracker.has_diverged(10, sent=10)
    assert tracker.has_diverged(11, sent=10)
    assert not tracker.has_diverged(9, sent=10)
    assert tracker.has_diverged(9, sent=10)


async def test_lost_delivery_is_delivered_again(
    jetstream_log: JetStreamLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a gap in the numbers of deliveries no event is missing and none is repeated."""
    del writer
    dropped = {4, 11}
    receive = PinnedSession._receive

    def lossy(self: PinnedSession, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        fields = reply.split(".")
        if len(fields) == 9 and int(fields[5]) in dropped:
            dropped.discard(int(fields[5]))
            return
        receive(self, subject, reply, payload, header)

    monkeypatch.setattr(PinnedSession, "_receive", lossy)
    async with subscribe(jetstream_log, "lossy") as events:
        assert sequences(await take(events, 20)) == list(range(1, 21))
    assert not dropped


def _with_number(token: str, number: int) -> str:
    fields = token.split(".")
    fields[6] = str(number)
    return ".".join(fields)


@pytest.mark.slow
async def test_late_acknowledgment_of_a_former_holder_is_undone(
    server: EmbeddedServer, jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """If the present holder dies later, its successor continues after what it really handled."""
    del writer
    async with other_process(server) as log:
        events = await subscribe(log, "late").__aenter__()
        (*_, last) = await take(events, 15)
        late = last.delivery
        await events._close()  # only the events before the last one are acknowledged
    async with other_process(server) as log:
        await log.consumers().reset("late", after=4, note="parked.late.%reset-late")
        events = await subscribe(log, "late").__aenter__()
        assert sequences(await take(events, 3)) == [5, 6, 7]
        token = _with_number(late.token, 900)  # type: ignore[attr-defined]
        await log._connection.publish(token, b"")

        async def healed(place: Callable[[int], bool]) -> bool:
            return place((await the_info(log, "late")).acknowledged)

        await eventually(lambda: healed(lambda place: place == 15))
        await eventually(lambda: healed(lambda place: place == 6), within_seconds=30)
        found = await take(events, 5)
        assert sequences(found) == [8, 9, 10, 11, 12]
        await log._connection.close()
        await events.__aexit__(None, None, None)
    async with subscribe(jetstream_log, "late") as events:
        (first,) = await take(events, 1)
        assert 7 <= first.sequence <= 12


async def test_reset_with_the_nats_tool_is_followed(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """After `nats consumer reset` to an earlier sequence all events from there arrive again, in order."""
    del writer
    async with subscribe(jetstream_log, "by-hand") as events:
        await take_to(events, 20)
        waiting = take_later(events, 16)
        source = source_of(events)
        await eventually(lambda: source._acks.seen == 20, within_seconds=30)
        assert "error" not in await ask(jetstream_log, "CONSUMER.RESET.JOBS.by-hand", {"seq": 5})
        assert sequences(await waiting) == list(range(5, 21))


@pytest.mark.slow
async def test_requested_reset_moves_backward_and_forward(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """The process that holds the subscription does a `Consumers.reset` in either direction."""
    del writer
    consumers = jetstream_log.consumers()
    async with subscribe(jetstream_log, "wish") as events:
        await take(events, 10)
        await asyncio.gather(consumers.reset("wish", after=2, note=NOTE), finish(events))
        assert sequences(await take(events, 3)) == [3, 4, 5]
        await consumers.reset("wish", after=16, note=NOTE)
        assert sequences(await take(events, 4)) == [17, 18, 19, 20]
    await consumers.reset("wish", after=18, note=NOTE)  # without a holder the caller does it
    assert (await the_info(jetstream_log, "wish")).reset_to is None
    async with subscribe(jetstream_log, "wish") as events:
        assert sequences(await take(events, 2)) == [19, 20]


async def test_reset_by_a_process_without_the_pin_loses_nothing(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """A process that wrongly takes itself for the holder resets the consumer: the holder continues."""
    del writer
    found: list[int] = []
    async with subscribe(jetstream_log, "stranger") as events:
        for _ in range(4):
            found += sequences(await take(events, 5))
            await ask(jetstream_log, "CONSUMER.RESET.JOBS.stranger", {})
    assert found == list(range(1, 21))
