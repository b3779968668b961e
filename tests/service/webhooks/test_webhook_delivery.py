"""An event that a target does not take is retried, held, or raised as failed; 410 ends the webhook."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from jobledger.service import limits
from jobledger.service.metrics import Metrics
from jobledger.service.webhooks import delivery as delivery_module
from jobledger.service.webhooks.delivery import Delivery, Endpoint
from jobledger.service.webhooks.message import format_secret
from jobledger.service.webhooks.records import Secret, Webhook
from jobledger.service.webhooks.sender import DeliveryFailed, Sender
from jobledger.service.webhooks.targets import Targets
from tests.support.http_servers import Message, Receiver, answer, receiving
from tests.support.metrics import figures
from tests.support.webhooks import LOCAL, SECRET, make_webhook, message, running


async def _nothing(_: Webhook, __: str) -> None:
    raise AssertionError("no target answered 410")


@asynccontextmanager
async def delivering(
    gone: Callable[[Webhook, str], Awaitable[None]] = _nothing, **fields: Any
) -> AsyncIterator[tuple[Delivery, Receiver, Metrics]]:
    """A delivery to a receiver of this test."""
    sender, metrics = Sender(Targets(LOCAL)), Metrics()
    async with receiving() as receiver:
        try:
            yield (
                Delivery(make_webhook(receiver.url(), **fields), sender, metrics.webhooks, gone),
                receiver,
                metrics,
            )
        finally:
            await sender.close()


async def test_an_event_arrives_as_a_signed_cloudevent() -> None:
    """The reference library verifies it; the event's id is the message's."""
    async with delivering() as (delivery, receiver, metrics):
        await delivery.deliver(message(7))
        (got,) = await receiver.wait_for(1)
        assert Verifier(SECRET).verify(got.body, got.headers) == {"number": 7}
        assert got.headers["content-type"] == "application/cloudevents+json"
        assert got.headers["webhook-id"] == "id-7"
        samples = figures(metrics.text().decode())
        assert samples['jobledger_webhook_tries_total{outcome="taken",webhook="hook"}'] == 1
        assert samples['jobledger_webhook_seconds_count{webhook="hook"}'] == 1
        assert samples['jobledger_webhook_down{webhook="hook"}'] == 0


async def test_while_a_secret_is_replaced_the_receiver_may_know_either() -> None:
    """An expired secret no longer signs."""
    new, expired = format_secret(b"n" * 32), format_secret(b"e" * 32)
    secrets = (Secret(new), Secret(SECRET, 2**62), Secret(expired, 1))
    async with delivering(secrets=secrets) as (delivery, receiver, _):
        await delivery.deliver(message())
        (got,) = await receiver.wait_for(1)
        for secret in (new, SECRET):
            Verifier(secret).verify(got.body, got.headers)
        assert got.headers["webhook-signature"].count("v1,") == 2


async def test_an_event_that_is_not_taken_is_raised_as_failed() -> None:
    """For any other answer: the subscription retries it, and parks the job in the end."""
    async with delivering() as (delivery, receiver, metrics):
        for status in (301, 400, 404, 422, 500):
            receiver.say(answer(status))
            with pytest.raises(DeliveryFailed, match=str(status)):
                await delivery.deliver(message(1, "one job"))
        assert len(receiver.got) == 5
        assert not delivery.endpoint.is_down  # one job alone never makes a target count as down
        samples = figures(metrics.text().decode())
        assert samples['jobledger_webhook_tries_total{outcome="refused",webhook="hook"}'] == 5


async def test_errors_contain_no_secret_and_no_address() -> None:
    """They are written to records, logs and lists."""
    async with delivering() as (delivery, receiver, _):
        receiver.say(answer(500, body="secret of the receiver"))
        with pytest.raises(DeliveryFailed) as caught:
            await delivery.deliver(message())
        hook = delivery.webhook
        said = f"{caught.value} {hook!r} {hook.secrets!r}"
        for hidden in (SECRET, SECRET.removeprefix("whsec_"), "/hook", "secret of the receiver"):
            assert hidden not in said


async def test_a_target_that_takes_nothing_holds_events_instead_of_failing_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a few jobs in a row the next event waits, and is delivered when the target is back."""
    monkeypatch.setattr("jobledger.service.webhooks.delivery.WEBHOOK_OUTAGE_WAIT_SECONDS", 0.01)
    async with delivering() as (delivery, receiver, metrics):
        receiver.say(answer(500))
        for number in range(1, limits.WEBHOOK_OUTAGE_JOBS):
            with pytest.raises(DeliveryFailed):
                await delivery.deliver(message(number))
        assert figures(metrics.text().decode())['jobledger_webhook_down{webhook="hook"}'] == 0
        async with running(asyncio.create_task(delivery.deliver(message(99)))) as held:
            await receiver.wait_until(
                lambda got: sum(each.headers["webhook-id"] == "id-99" for each in got) >= 3
            )
            assert not held.done()
            assert figures(metrics.text().decode())['jobledger_webhook_down{webhook="hook"}'] == 1
            receiver.say(answer(200))
            await asyncio.wait_for(held, 60)
        assert figures(metrics.text().decode())['jobledger_webhook_down{webhook="hook"}'] == 0


async def test_an_event_is_not_held_forever(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the reason; then the next one is tried."""
    monkeypatch.setattr(delivery_module, "WEBHOOK_HOLD_MAX_SECONDS", 0.0)
    async with delivering() as (delivery, receiver, _):
        receiver.say(answer(503, "Retry-After: 1000"))
        with pytest.raises(DeliveryFailed):
            await delivery.deliver(message())


async def test_a_target_that_asks_for_a_pause_gets_it() -> None:
    """The event waits that long, and does not count as failed."""
    asked = 1

    def once(_: Message) -> bytes:
        return answer(429, f"Retry-After: {asked}") if len(receiver.got) == 1 else answer(204)

    async with delivering() as (delivery, receiver, _):
        receiver.answering = once
        clock = asyncio.get_running_loop().time
        began = clock()
        await delivery.deliver(message())
        assert clock() - began >= asked
        assert [each.headers["webhook-id"] for each in receiver.got] == ["id-1", "id-1"]


async def test_a_target_that_is_gone_ends_the_webhook() -> None:
    """Nothing more is sent, and the event stays unhandled."""
    reasons: list[tuple[str, str]] = []
    done = asyncio.Event()

    async def gone(webhook: Webhook, problem: str) -> None:
        reasons.append((webhook.name, problem))
        done.set()

    async with delivering(gone) as (delivery, receiver, _):
        receiver.say(answer(410))
        async with running(asyncio.create_task(delivery.deliver(message()))) as task:
            await asyncio.wait_for(done.wait(), 60)
            assert reasons == [("hook", "it answered 410")]
            assert not task.done()
        assert len(receiver.got) == 1


async def test_finish_waits_for_the_attempt_in_progress_and_starts_none() -> None:
    """An event that was not sent yet is left to the next replica."""
    async with delivering() as (delivery, receiver, _):
        receiver.say(None)
        async with running(asyncio.create_task(delivery.deliver(message(1)))) as task:
            await receiver.wait_for(1)
            finishing = asyncio.create_task(delivery.finish())
            done, _ = await asyncio.wait((finishing,), timeout=0.05)
            assert not done  # no answer yet
            task.cancel()
            await asyncio.wait_for(finishing, 60)
        async with running(asyncio.create_task(delivery.deliver(message(2)))) as task:
            done, _ = await asyncio.wait((task,), timeout=0.05)
            assert not done
        assert len(receiver.got) == 1


class Clock:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_waits_for_a_target_that_is_down_grow_up_to_the_limit() -> None:
    """They start over once the target took an event."""
    clock = Clock()
    endpoint = Endpoint(clock)
    waits = []
    for number in range(20):
        endpoint.failed(f"job-{number}", "it answered 500")
        waits.append(endpoint.wait_seconds)
        clock.now += endpoint.wait_seconds
    quiet = limits.WEBHOOK_OUTAGE_JOBS - 1
    assert waits[:quiet] == [0.0] * quiet
    for wait_seconds, longest in zip(waits[quiet : quiet + 3], (1.0, 2.0, 4.0), strict=True):
        assert longest / 2 <= wait_seconds <= longest
    longest = limits.WEBHOOK_OUTAGE_MAX_WAIT_SECONDS
    assert longest / 2 <= waits[-1] <= longest
    endpoint.taken()
    assert (endpoint.wait_seconds, endpoint.is_down, endpoint.problem) == (0.0, False, "")


def test_one_job_that_fails_repeatedly_is_not_an_outage() -> None:
    """The event may be the reason."""
    endpoint = Endpoint(Clock())
    for _ in range(100):
        endpoint.failed("job", "it answered 500")
    assert not endpoint.holds
    endpoint.failed("job", "it answered 503", pause_seconds=5.0)
    assert (endpoint.holds, endpoint.wait_seconds) == (True, 5.0)
    endpoint.failed("job", "it answered 500")
    assert not endpoint.holds
