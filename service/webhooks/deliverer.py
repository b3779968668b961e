"""Delivers every webhook of a log while the service runs.

    records ──► enabled webhooks ──► one delivery each, on its own durable subscription
                  │ a secret or state changed: the delivery is updated, or ended
                  │ deleted: the delivery is ended, then its subscription deleted
                  └ on every replica; the server gives one of them the subscription, the others stand by

A delivery that fails (the log is unreachable, its subscription was deleted) starts again after a wait. When
the service ends, no new attempt starts, those in progress get a little time, and the rest is dropped: events
that were not acknowledged are delivered again by the next replica.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

from jobledger.projections.errors import SubscriptionNotFound
from jobledger.projections.subscriptions.admin import Subscriptions
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.subscribe import subscribe
from jobledger.service.errors import WebhookNotFound
from jobledger.service.feed.events import deliverable_event
from jobledger.service.limits import (
    WEBHOOK_DRAIN_SECONDS,
    WEBHOOK_RESTART_MAX_SECONDS,
    WEBHOOK_RESTART_SECONDS,
    WEBHOOK_RETRIES,
    WEBHOOKS_POLL_SECONDS,
)
from jobledger.service.webhooks.delivery import Delivery
from jobledger.service.webhooks.message import Message, message_id
from jobledger.service.webhooks.metrics import WebhookMetrics
from jobledger.service.webhooks.records import Webhook, WebhookState
from jobledger.service.webhooks.registry import Webhooks
from jobledger.service.webhooks.sender import Sender
from jobledger.store.backoff import Backoff
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.errors import InvalidInput, JobledgerError

_log: Final = logging.getLogger("jobledger.webhooks")

Handle = Callable[[Message], Awaitable[None]]


class Source(Protocol):
    """Where the events of webhooks come from: `SubscribedSource` in a service."""

    async def run(self, webhook: Webhook, handle: Handle) -> None:
        """Pass a webhook's events to `handle`, one after another; does not return.

        An exception of `handle` is a failure of that event.
        """
        ...

    async def forget(self, webhook: Webhook) -> None:
        """Delete the webhook's position, and everything that is stored for it."""
        ...


class SubscribedSource:
    """The events of webhooks from the log: a durable subscription each, which one replica at a time reads.

    Args:
        log: the log.
        subscriptions: the subscriptions of the log.
        source: the CloudEvents source of delivered events.
    """

    def __init__(self, log: JetStreamLog, subscriptions: Subscriptions, source: str) -> None:
        self._log = log
        self._subscriptions = subscriptions
        self._source = source

    async def run(self, webhook: Webhook, handle: Handle) -> None:
        """See `Source.run`."""

        async def deliver(event: SubscribedEvent) -> None:
            await handle(_message(event, self._source))

        try:
            async with subscribe(
                self._log,
                webhook.subscription,
                namespace=webhook.namespace or None,
                types=webhook.types,
                states=webhook.states,
                labels=",".join(webhook.labels),
                start=webhook.after,
                retries=WEBHOOK_RETRIES,
            ) as events:
                await events.run(deliver)
        except InvalidInput:
            # The subscription of this name differs: it is that of a deleted webhook whose deliverer died
            # before it could delete the subscription too.
            await self.forget(webhook)
            raise

    async def forget(self, webhook: Webhook) -> None:
        """See `Source.forget`."""
        with suppress(SubscriptionNotFound):
            await self._subscriptions.delete(webhook.subscription)


def _message(event: SubscribedEvent, source: str) -> Message:
    body = deliverable_event(
        event.payload, event.sequence, event.time, event.status, source=source, matches=event.matches
    )
    return Message(message_id(event.id, event.sequence), event.job_id, body, event.sequence)


class Deliverer:
    """Delivers the enabled webhooks between `start` and `close`.

    Args:
        webhooks: the registry.
        source: their events.
        sender: sends the messages.
        metrics: counts the attempts.
        draining: set when the service starts to end.
    """

    def __init__(
        self,
        webhooks: Webhooks,
        source: Source,
        sender: Sender,
        metrics: WebhookMetrics,
        draining: asyncio.Event,
    ) -> None:
        self._webhooks = webhooks
        self._source = source
        self._sender = sender
        self._metrics = metrics
        self._draining = draining
        self._running: dict[str, tuple[Delivery, asyncio.Task[None]]] = {}
        self._known: dict[str, Webhook] = {}
        self._watching: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._problem = ""

    @property
    def deliveries(self) -> Mapping[str, Delivery]:
        """The deliveries of this replica by webhook name; another replica may hold their subscriptions."""
        return {name: delivery for name, (delivery, _) in self._running.items()}

    def start(self) -> None:
        """Start to watch the records, and to deliver."""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End all deliveries, within WEBHOOK_DRAIN_SECONDS plus the time to close their subscriptions."""
        self._closing.set()
        if self._watching is not None:
            await self._watching
        await self._sender.close()

    # --- the records ----------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Follow the records until the service ends, then end all deliveries."""
        ending = [asyncio.create_task(event.wait()) for event in (self._draining, self._closing)]
        try:
            while not any(each.done() for each in ending):
                self._webhooks.changed.clear()
                await _run_until(ending, asyncio.create_task(self._refresh()))
                changed = asyncio.create_task(self._webhooks.changed.wait())
                await _run_until(ending, changed, timeout_seconds=WEBHOOKS_POLL_SECONDS)
        finally:
            for each in ending:
                each.cancel()
        await self._stop(*self._running)

    async def _refresh(self) -> None:
        """Start, update and end deliveries as the records require; an error changes nothing."""
        try:
            await self._webhooks.encrypt()
            await self._reconcile({webhook.name: webhook for webhook in await self._webhooks.all()})
        except JobledgerError as error:
            self._report(f"the webhooks cannot be read: {error}")
        except Exception:  # noqa: BLE001 - a bug here must not end all deliveries permanently
            _log.exception("the webhooks cannot be read")
        else:
            locked = [
                f"webhook {each.name} is not delivered: {each.locked}"
                for each in self._known.values()
                if each.locked
            ]
            self._report("; ".join(locked))

    async def _reconcile(self, found: Mapping[str, Webhook]) -> None:
        wanted = {
            name: each
            for name, each in found.items()
            if each.state is WebhookState.ENABLED and not each.locked
        }
        stale = [
            name
            for name, (delivery, _) in self._running.items()
            if name not in wanted or delivery.webhook.created != wanted[name].created
        ]
        await self._stop(*stale)
        for name, known in self._known.items():
            if name not in found or found[name].created != known.created:
                await self._source.forget(known)
        self._known = {**found}
        for name, webhook in wanted.items():
            if name in self._running:
                self._running[name][0].update(webhook)
            else:
                self._start(webhook)

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("%s", problem or "the webhooks can be read and delivered again")
        self._problem = problem

    # --- deliveries -----------------------------------------------------------------------------------------

    def _start(self, webhook: Webhook) -> None:
        delivery = Delivery(webhook, self._sender, self._metrics, self._disable)
        self._running[webhook.name] = delivery, asyncio.create_task(self._deliver(delivery))

    async def _deliver(self, delivery: Delivery) -> None:
        """Deliver until cancelled; starts again after an error."""
        clock = asyncio.get_running_loop().time
        backoff = Backoff(WEBHOOK_RESTART_SECONDS, WEBHOOK_RESTART_MAX_SECONDS)
        name = delivery.webhook.name
        while True:
            began = clock()
            try:
                await self._source.run(delivery.webhook, delivery.deliver)
                _log.warning("webhook %s: its events ended; starting again", name)
            except JobledgerError as error:
                _log.warning("webhook %s: %s; starting again", name, error)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("webhook %s failed; starting again", name)
            if clock() - began > WEBHOOK_RESTART_MAX_SECONDS:
                backoff.reset()
            await backoff.sleep()

    async def _stop(self, *names: str) -> None:
        """End deliveries: no new attempts, those in progress within the limit, then the subscriptions."""
        ending = {name: self._running[name] for name in names}
        if not ending:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(WEBHOOK_DRAIN_SECONDS):
                await asyncio.gather(*(delivery.finish() for delivery, _ in ending.values()))
        for _, task in ending.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in ending.values()), return_exceptions=True)
        for name in ending:  # not earlier: a refresh that is cancelled here leaves them to the next one
            del self._running[name]
            self._metrics.forget(name)

    async def _disable(self, webhook: Webhook, problem: str) -> None:
        _log.warning("webhook %s: its target is gone (410); disabling it", webhook.name)
        backoff = Backoff(WEBHOOK_RESTART_SECONDS, WEBHOOK_RESTART_MAX_SECONDS)
        while True:
            try:
                await self._webhooks.set_state(webhook.name, WebhookState.DISABLED, problem, of=webhook)
            except WebhookNotFound:  # deleted in the meantime
                return
            except JobledgerError as error:
                self._report(f"the webhook {webhook.name} cannot be disabled: {error}")
                await backoff.sleep()
            else:
                return


async def _run_until(
    ending: Iterable[asyncio.Task[Any]], task: asyncio.Task[Any], timeout_seconds: float | None = None
) -> None:
    """Wait for a task until it is done, the service ends, or the timeout; then cancel it."""
    await asyncio.wait({task, *ending}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)
