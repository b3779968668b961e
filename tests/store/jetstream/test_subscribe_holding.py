"""One process at a time holds a subscription, in order, whatever happens to it or to the server."""

import asyncio
import os
import signal

import pytest

from jobledger import (
    EmbeddedServer,
    JetStreamLog,
    LogBroken,
    SubscriptionDeleted,
    SubscriptionState,
    subscribe,
)
from jobledger.store.embedded import server as embedded
from jobledger.store.jetstream.consumer.holder import JetStreamConsumer
from jobledger.store.jetstream.pull_session import PinnedSession
from jobledger.store.lease import lease_clock
from jobledger.store.model.limits import HOLD_CHECK_SECONDS, PIN_MARGIN_SECONDS, PIN_SECONDS
from tests.support.log_writer import Writer
from tests.support.logs import ask, eventually
from tests.support.proxy import Proxy
from tests.support.readers import (
    finish,
    other_process,
    reading,
    sequences,
    source_of,
    take,
    take_later,
    take_to,
)

pytestmark = pytest.mark.slow  # takeovers take seconds

TAKEN_OVER_WITHIN_SECONDS = 10.0


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """Four rounds of five jobs."""
    writer = Writer(jetstream_log, 5)
    for _ in range(4):
        await writer.round()
    return writer


# --- taking over --------------------------------------------------------------------------------------------


async def test_one_process_reads_and_the_others_wait(
    server: EmbeddedServer, jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """The second process gets nothing while the first one holds it, and continues when that one leaves."""
    async with other_process(server) as other, reading(subscribe(other, "pair")) as second:
        async with reading(subscribe(jetstream_log, "pair")) as first:
            await eventually(lambda: len(first.found) + len(second.found) == 20, within_seconds=30)
            at_work, idle = (first, second) if first.found else (second, first)
            await idle.events.wait_state(SubscriptionState.STANDBY, timeout_seconds=30)
            assert sequences(at_work.found) == list(range(1, 21))
            assert idle.found == []
        await writer.round()
        await second.until(25)
        assert sequences(second.found)[-5:] == list(range(21, 26))


async def test_dead_process_is_replaced(
    server: EmbeddedServer, jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """If a process dies, the other one soon continues at the first unacknowledged event."""
    del writer
    async with other_process(server) as victim:
        events = await subscribe(victim, "replaced").__aenter__()
        await take(events, 6)
        await finish(events)
        await take(events, 3)
        async with subscribe(jetstream_log, "replaced") as heir:
            await heir.wait_state(SubscriptionState.STANDBY, timeout_seconds=30)
            await victim._connection.close()
            started = lease_clock()
            found = await take(heir, 1)
            assert lease_clock() - started < TAKEN_OVER_WITHIN_SECONDS
            found += await take_to(heir, 20)
            # 7 and 8 may be acknowledged: that was in flight.
            assert sequences(found) == list(range(found[0].sequence, 21))
            assert 7 <= found[0].sequence <= 9
        await events.__aexit__(None, None, None)


async def test_process_that_dies_with_all_events_in_its_buffer_is_replaced(
    server: EmbeddedServer, jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """If a process dies after it received all events and handled none, the next one gets all again."""
    del writer
    async with other_process(server) as victim:
        events = await subscribe(victim, "greedy").__aenter__()
        await take(events, 1)
        await eventually(lambda: source_of(events).pending == 0)
        await victim._connection.close()
        async with subscribe(jetstream_log, "greedy") as heir:
            assert sequences(await take(heir, 20)) == list(range(1, 21))
        await events.__aexit__(None, None, None)


async def test_leaving_releases_the_subscription_at_once(server: EmbeddedServer, writer: Writer) -> None:
    """The next process does not wait for the pin to expire."""
    del writer
    for first in range(1, 20, 4):
        async with other_process(server) as log, subscribe(log, "baton") as events:
            started = lease_clock()
            assert sequences(await take(events, 4)) == list(range(first, first + 4))
            assert lease_clock() - started < PIN_SECONDS - 1


async def test_an_operator_can_take_it_away(
    server: EmbeddedServer, jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """A process that loses the pin to another one handles no more events of its buffer."""
    del writer
    async with other_process(server) as log, subscribe(log, "unpinned") as events:
        await take(events, 3)
        async with subscribe(jetstream_log, "unpinned") as heir:
            await heir.wait_state(SubscriptionState.STANDBY, timeout_seconds=30)
            assert (await ask(log, "CONSUMER.UNPIN.JOBS.unpinned", {"group": "m"})).get("error") is None
            found = await take_to(heir, 20)
            assert sequences(found) == list(range(found[0].sequence, 21))
            assert found[0].sequence <= 3
            await eventually(lambda: not source_of(events).held, within_seconds=30)
            waiting = take_later(events, 1)
            await events.wait_state(SubscriptionState.STANDBY, timeout_seconds=30)
            assert not waiting.done()
            waiting.cancel()


async def test_lease_expires_before_the_pin(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """The lease is shorter than the server's timeout, and starts when the request is sent."""
    del writer
    async with subscribe(jetstream_log, "lease") as events:
        await take(events, 1)
        source = source_of(events)
        assert source.lease_expires_at <= lease_clock() + PIN_SECONDS - PIN_MARGIN_SECONDS
        before = source.lease_expires_at
        await eventually(lambda: source.lease_expires_at > before, within_seconds=30)
        assert source.lease_expires_at <= lease_clock() + PIN_SECONDS - PIN_MARGIN_SECONDS
        info = await ask(jetstream_log, "CONSUMER.INFO.JOBS.lease")
        assert info["config"]["priority_timeout"] == PIN_SECONDS * 1e9
        assert 3 * HOLD_CHECK_SECONDS < PIN_SECONDS - PIN_MARGIN_SECONDS


async def test_process_that_was_asleep_handles_nothing_from_its_buffer(
    jetstream_log: JetStreamLog, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the lease has expired nothing is handed out until the pin is proven again."""
    del writer
    async with subscribe(jetstream_log, "slept") as events:
        await take(events, 2)
        source = source_of(events)
        proofs: list[float] = []
        prove = JetStreamConsumer._prove

        async def proving(self: JetStreamConsumer, session: PinnedSession) -> object:
            state = await prove(self, session)
            proofs.append(lease_clock())
            return state

        monkeypatch.setattr(JetStreamConsumer, "_prove", proving)
        source.lease_expires_at = lease_clock() - 1  # like after a sleep of the machine
        assert events._partitions[0]._ready  # it has more
        (event,) = await take(events, 1)
        assert proofs
        assert event.sequence == 3


# --- the connection and the server --------------------------------------------------------------------------


async def test_connection_lost_for_a_moment_loses_nothing(server: EmbeddedServer) -> None:
    """If the connection is cut and returns, every event arrives once, in order; the state shows it."""
    async with Proxy(server.url) as proxy, other_process(server) as log:
        writer = Writer(log, 50)
        await writer.round()
        mine = await JetStreamLog.connect(proxy.url)
        async with reading(subscribe(mine, "cut")) as reader:
            for part in range(1, 4):
                await reader.until(50 * part)
                proxy.refuse()
                proxy.cut()
                await reader.events.wait_state(SubscriptionState.RECONNECTING, timeout_seconds=30)
                await writer.round()
                await proxy.listen()
            await reader.until(200)
            assert sequences(reader.found) == list(range(1, 201))
            await reader.events.wait_state(SubscriptionState.LIVE, timeout_seconds=30)
        await mine.close()


async def test_a_connection_cut_in_a_handler(server: EmbeddedServer) -> None:
    """The event that is being handled is finished, and not delivered again; all others arrive in order."""
    async with Proxy(server.url) as proxy, other_process(server) as log:
        writer = Writer(log, 5)
        for _ in range(8):
            await writer.round()
        mine = await JetStreamLog.connect(proxy.url)
        found: list[int] = []
        async with subscribe(mine, "within") as events:
            async with asyncio.timeout(30):
                async for event in events:
                    found.append(event.sequence)
                    if event.sequence in (3, 17, 18, 33):
                        before = proxy.connections
                        proxy.cut()
                        await eventually(lambda: proxy.connections > before and mine._connection.is_up)  # noqa: B023
                    if event.sequence == 40:
                        break
        assert found == list(range(1, 41))
        await mine.close()


async def test_nothing_is_handled_without_a_connection(server: EmbeddedServer) -> None:
    """While the connection is lost nothing is handed out: another process may hold the subscription."""
    async with Proxy(server.url) as proxy, other_process(server) as log:
        writer = Writer(log, 5)
        for _ in range(4):
            await writer.round()
        mine = await JetStreamLog.connect(proxy.url)
        async with subscribe(mine, "touch") as events:
            await take(events, 2)
            proxy.refuse()
            proxy.cut()
            await eventually(lambda: not mine._connection.is_up)
            assert events._partitions[0]._ready
            waiting = take_later(events, 1)
            await events.wait_state(SubscriptionState.RECONNECTING, timeout_seconds=30)
            assert not waiting.done()
            await proxy.listen()
            assert sequences(await waiting) == [3]
        await mine.close()


async def test_a_killed_server_loses_nothing(
    server: EmbeddedServer, jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the server is killed repeatedly every event arrives, in order, and none is skipped."""
    monkeypatch.setattr(embedded, "RESTART_WAIT_SECONDS", 0.01)
    writer = Writer(jetstream_log, 40)
    await writer.round()
    async with reading(subscribe(jetstream_log, "killed")) as reader:
        for part in range(1, 4):
            await reader.until(40 * part)
            os.kill(server.pid, signal.SIGKILL)
            await writer.round()
        await reader.until(160)
    found = sequences(reader.found)
    assert sorted(set(found)) == list(range(1, 161))
    place = 0
    for sequence in found:  # each is the next one, or a repeated one: none is ever skipped
        assert sequence <= place + 1
        place = sequence


async def test_deleted_subscription_is_reported(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """Deleting it while it is read is a clear error, now and later; opened again it starts over."""
    del writer
    async with subscribe(jetstream_log, "deleted") as events:
        await take(events, 20)
        waiting = take_later(events, 1)
        assert (await ask(jetstream_log, "CONSUMER.DELETE.JOBS.deleted"))["success"]
        for _ in range(2):
            with pytest.raises(SubscriptionDeleted, match=r"the consumer deleted .* was deleted.* open"):
                await waiting
            waiting = take_later(events, 1)
        assert events.state is SubscriptionState.STOPPED
        await asyncio.gather(waiting, return_exceptions=True)
    async with subscribe(jetstream_log, "deleted") as events:
        assert sequences(await take(events, 1)) == [1]


async def test_stream_created_again_is_reported(
    server: EmbeddedServer, jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """A log that is created again is an error, and its events are delivered only after opening it again."""
    del writer
    async with subscribe(jetstream_log, "replaced") as events:
        await take(events, 12)
        await ask(jetstream_log, "STREAM.DELETE.JOBS")
        async with other_process(server, accept_loss=True) as log:
            await Writer(log, 3).round()
        with pytest.raises(LogBroken, match="created again"):
            await take(events, 20)
    async with subscribe(jetstream_log, "replaced") as events:
        assert sequences(await take(events, 3)) == [1, 2, 3]
