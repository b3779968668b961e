"""The deliverer runs exactly the deliveries that the records require, through failures of either."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from jobledger import JetStreamLog
from jobledger.service.metrics import Metrics
from jobledger.service.webhooks import deliverer as deliverer_module
from jobledger.service.webhooks.deliverer import Deliverer
from jobledger.service.webhooks.records import WebhookState
from jobledger.service.webhooks.registry import NewWebhook, Webhooks
from jobledger.service.webhooks.sender import Sender
from jobledger.service.webhooks.targets import Targets
from jobledger.store.model.errors import LogUnavailable
from tests.support.http_servers import Receiver, answer, receiving
from tests.support.logs import eventually
from tests.support.webhooks import LOCAL, SECRET, Hand, message, registry

WITHIN_SECONDS = 60.0


@pytest.fixture(autouse=True)
def _quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes made on another replica are noticed sooner."""
    monkeypatch.setattr(deliverer_module, "WEBHOOKS_POLL_SECONDS", 0.1)


class Stage:
    """A log's webhooks, a deliverer of them, and a receiver."""

    def __init__(self, webhooks: Webhooks, receiver: Receiver, hand: Hand, deliverer: Deliverer) -> None:
        self.webhooks = webhooks
        self.receiver = receiver
        self.hand = hand
        self.deliverer = deliverer

    async def add(self, name: str = "hook", webhooks: Webhooks | None = None) -> None:
        """Add a webhook to the receiver."""
        new = NewWebhook(url=self.receiver.url(f"/{name}"), after=0, name=name, secret=SECRET)
        await (webhooks or self.webhooks).add(new)

    async def until(self, *names: str) -> None:
        """Wait until exactly these are delivered."""
        await eventually(lambda: {*self.deliverer.deliveries} == {*names}, within_seconds=WITHIN_SECONDS)


@asynccontextmanager
async def stage(log: JetStreamLog, draining: asyncio.Event | None = None) -> AsyncIterator[Stage]:
    """All of it, running."""
    webhooks, hand = await registry(log), Hand()
    deliverer = Deliverer(
        webhooks,
        hand,
        Sender(Targets(LOCAL)),
        Metrics().webhooks,
        asyncio.Event() if draining is None else draining,
    )
    async with receiving() as receiver:
        deliverer.start()
        try:
            yield Stage(webhooks, receiver, hand, deliverer)
        finally:
            await deliverer.close()


async def test_an_added_webhook_is_delivered_and_a_deleted_one_is_forgotten(
    jetstream_log: JetStreamLog,
) -> None:
    """At once on this replica, and soon on every other one."""
    async with stage(jetstream_log) as play:
        await play.add("one")
        other = await registry(jetstream_log)
        await play.add("two", other)
        await play.until("one", "two")
        play.hand.give("one", message(1))
        play.hand.give("two", message(2))
        got = await play.receiver.wait_for(2)
        assert {each.path for each in got} == {"/one", "/two"}
        await other.remove("one")
        await play.until("two")
        await eventually(lambda: play.hand.forgotten == ["one"], within_seconds=WITHIN_SECONDS)


async def test_a_paused_webhook_keeps_its_position(jetstream_log: JetStreamLog) -> None:
    """Nothing is sent or deleted; after `resume` it continues."""
    async with stage(jetstream_log) as play:
        await play.add()
        await play.until("hook")
        await play.webhooks.set_state("hook", WebhookState.PAUSED)
        await play.until()
        play.hand.give("hook", message())
        await play.webhooks.set_state("hook", WebhookState.ENABLED)
        await play.receiver.wait_for(1)
        assert play.hand.forgotten == []


async def test_a_webhook_of_the_same_name_is_another_one(jetstream_log: JetStreamLog) -> None:
    """Deleted and added again between two reads, the old position is deleted first."""
    async with stage(jetstream_log) as play:
        await play.add()
        await play.hand.wait_opened(1)
        other = await registry(jetstream_log)
        await other.remove("hook")
        await play.add(webhooks=other)
        await play.hand.wait_opened(2)
        assert play.hand.forgotten == ["hook"]


async def test_a_new_secret_is_used_without_a_restart(jetstream_log: JetStreamLog) -> None:
    """The delivery continues at its position."""
    async with stage(jetstream_log) as play:
        await play.add()
        await play.until("hook")
        await play.webhooks.rotate("hook")
        await eventually(
            lambda: len(play.deliverer.deliveries["hook"].webhook.secrets) == 2, within_seconds=WITHIN_SECONDS
        )
        play.hand.give("hook", message())
        (got,) = await play.receiver.wait_for(1)
        assert got.headers["webhook-signature"].count("v1,") == 2
        assert play.hand.opened == 1


async def test_a_410_disables_the_webhook_on_every_replica(jetstream_log: JetStreamLog) -> None:
    """And keeps its position: an operator may resume it."""
    async with stage(jetstream_log) as play:
        await play.add()
        play.receiver.say(answer(410))
        play.hand.give("hook", message())
        await play.receiver.wait_for(1)
        await play.until()
        found = await (await registry(jetstream_log)).get("hook")
        assert (found.state, found.reason) == (WebhookState.DISABLED, "it answered 410")
        play.receiver.say(answer(204))
        await play.webhooks.set_state("hook", WebhookState.ENABLED)
        await play.receiver.wait_for(2)
        assert (len(play.receiver.got), play.hand.forgotten) == (2, [])


async def test_a_late_410_leaves_a_webhook_that_was_added_again_as_it_is(jetstream_log: JetStreamLog) -> None:
    """The answer was for the deleted webhook; if none exists, nothing is left to do."""
    async with stage(jetstream_log) as play:
        await play.add()
        old = await play.webhooks.get("hook")
        await play.webhooks.remove("hook")
        await play.deliverer._disable(old, "it answered 410")  # it does not exist: nothing to do, no loop
        await play.add()
        await play.deliverer._disable(old, "it answered 410")
        found = await play.webhooks.get("hook")
        assert (found.state, found.reason) == (WebhookState.ENABLED, "")
        await play.deliverer._disable(found, "it answered 410")
        assert (await play.webhooks.get("hook")).state is WebhookState.DISABLED


@pytest.mark.parametrize("error", [LogUnavailable("the log is unreachable"), ValueError("a bug")])
async def test_a_delivery_that_fails_is_restarted(
    jetstream_log: JetStreamLog, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a wait; the others are not affected."""
    monkeypatch.setattr(deliverer_module, "WEBHOOK_RESTART_SECONDS", 0.01)
    async with stage(jetstream_log) as play:
        play.hand.breaks = error
        await play.add()
        play.hand.give("hook", message())
        await play.receiver.wait_for(1)
        assert play.hand.opened == 2


async def test_a_failed_read_of_the_records_ends_no_delivery(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Running deliveries continue, and the records are read again."""
    async with stage(jetstream_log) as play:
        await play.add()
        await play.until("hook")
        failed = asyncio.Event()

        async def fail() -> None:
            failed.set()
            raise LogUnavailable("the log is unreachable")

        with monkeypatch.context() as broken:
            broken.setattr(play.webhooks, "all", fail)
            play.webhooks.changed.set()
            await asyncio.wait_for(failed.wait(), WITHIN_SECONDS)
            play.hand.give("hook", message())
            await play.receiver.wait_for(1)
        await play.add("other")
        await play.until("hook", "other")


async def test_the_drain_finishes_the_attempt_in_progress(jetstream_log: JetStreamLog) -> None:
    """Its event is not sent twice; the next event is not started."""
    draining = asyncio.Event()
    async with stage(jetstream_log, draining) as play:
        await play.add()
        asked, go_on = asyncio.Event(), asyncio.Event()
        sender = play.deliverer._sender
        post = sender.post

        async def slowly(*args: object) -> object:
            asked.set()
            await go_on.wait()
            return await post(*args)  # type: ignore[arg-type]

        sender.post = slowly  # type: ignore[assignment, method-assign]
        play.hand.give("hook", message(1), message(2))
        await asyncio.wait_for(asked.wait(), WITHIN_SECONDS)
        draining.set()
        delivery = play.deliverer.deliveries["hook"]
        await eventually(lambda: delivery._stopping, within_seconds=WITHIN_SECONDS)
        go_on.set()
        await play.deliverer.close()
        assert [each.headers["webhook-id"] for each in play.receiver.got] == ["id-1"]
        assert play.hand.failed == []


async def test_the_drain_does_not_wait_for_a_target_that_does_not_answer(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is dropped after the limit, and its event stays unhandled."""
    monkeypatch.setattr(deliverer_module, "WEBHOOK_DRAIN_SECONDS", 0.05)
    async with stage(jetstream_log) as play:
        await play.add()
        play.receiver.say(None)
        play.hand.give("hook", message(1))
        await play.receiver.wait_for(1)
        await asyncio.wait_for(play.deliverer.close(), WITHIN_SECONDS)
        assert play.hand._events["hook"].qsize() == 1
