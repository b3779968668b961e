"""Delivers every webhook of a log, as long as the service runs.

    records ──► wanted (enabled) ──► one delivery each, on its own durable subscription
                  │ a secret or state changed: the delivery is told, or ended
                  │ removed: the delivery is ended, then its subscription deleted
                  └ on every replica; the server lets one of them have a subscription, the others stand by

A delivery that breaks (the log is away, its subscription was deleted) begins again after a wait. The end of
the service begins no new tries, waits a little for those under way, and drops the rest: what was not
acknowledged is delivered again by the next one.
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
    WEBHOOKS_LOOK_SECONDS,
)
from jobledger.service.webhooks.delivery import Delivery, Message
from jobledger.service.webhooks.message import message_id
from jobledger.service.webhooks.metrics import WebhookFigures
from jobledger.service.webhooks.records import Webhook, WebhookState
from jobledger.service.webhooks.registry import Webhooks
from jobledger.service.webhooks.sender import Sender
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.errors import InvalidInput, JobledgerError

_log: Final = logging.getLogger("jobledger.webhooks")

Handle = Callable[[Message], Awaitable[None]]


class Source(Protocol):
    """Where the events of webhooks come from; `source.SubscribedSource` in a service."""

    async def run(self, webhook: Webhook, handle: Handle) -> None:
        """Hand over its events, one after another, for ever; an exception of `handle` is that event's."""
        ...

    async def forget(self, webhook: Webhook) -> None:
        """Delete its place and all that is kept for it."""
        ...


class Deliverer:
    """Delivers; `start` begins and `close` ends it.

    Args:
        webhooks: what there is.
        source: their events.
        sender: sends.
        figures: counts.
        draining: set once the service is to end.
    """

    def __init__(
        self,
        webhooks: Webhooks,
        source: Source,
        sender: Sender,
        figures: WebhookFigures,
        draining: asyncio.Event,
    ) -> None:
        self._webhooks = webhooks
        self._source = source
        self._sender = sender
        self._figures = figures
        self._draining = draining
        self._running: dict[str, tuple[Delivery, asyncio.Task[None]]] = {}
        self._known: dict[str, Webhook] = {}
        self._watching: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self._problem = ""

    @property
    def deliveries(self) -> Mapping[str, Delivery]:
        """Those that run here, by the webhook's name; not all of them have the subscription."""
        return {name: delivery for name, (delivery, _) in self._running.items()}

    def start(self) -> None:
        """Begin to look at the records, and to deliver."""
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End all deliveries, within WEBHOOK_DRAIN_SECONDS and what ending a subscription takes."""
        self._closing.set()
        if self._watching is not None:
            await self._watching
        await self._sender.close()

    # --- the records --------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Look at the records until the service ends, then end all deliveries."""
        ending = [asyncio.create_task(event.wait()) for event in (self._draining, self._closing)]
        try:
            while not any(each.done() for each in ending):
                self._webhooks.changed.clear()
                await _unless(ending, asyncio.create_task(self._look()))
                changed = asyncio.create_task(self._webhooks.changed.wait())
                await _unless(ending, changed, timeout_seconds=WEBHOOKS_LOOK_SECONDS)
        finally:
            for each in ending:
                each.cancel()
        await self._stop(*self._running)

    async def _look(self) -> None:
        """Make what runs what is wanted; whatever goes wrong, what runs goes on."""
        try:
            await self._webhooks.encrypt()
            found = {webhook.name: webhook for webhook in await self._webhooks.all()}
            await self._match(found)
        except JobledgerError as error:
            self._say(f"the webhooks can't be looked at: {error}")
        except Exception:  # noqa: BLE001 - a mistake of ours must not end all deliveries for good
            _log.exception("the webhooks can't be looked at")
        else:
            locked = [
                f"webhook {each.name} is not delivered: {each.locked}"
                for each in found.values()
                if each.locked
            ]
            self._say("; ".join(locked))

    async def _match(self, found: Mapping[str, Webhook]) -> None:
        enabled = {name: each for name, each in found.items() if each.state is WebhookState.ENABLED}
        wanted = {name: each for name, each in enabled.items() if not each.locked}
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
                self._running[name][0].webhook = webhook
            else:
                self._begin(webhook)

    def _say(self, problem: str) -> None:
        if problem != self._problem:
            _log.warning("%s", problem or "the webhooks can be looked at again")
        self._problem = problem

    # --- deliveries ---------------------------------------------------------------------------------------

    def _begin(self, webhook: Webhook) -> None:
        delivery = Delivery(webhook, self._sender, self._figures, self._disable)
        self._running[webhook.name] = delivery, asyncio.create_task(self._deliver(delivery))

    async def _deliver(self, delivery: Delivery) -> None:
        """Deliver until cancelled; what breaks begins again, with growing waits."""
        loop, wait_seconds = asyncio.get_running_loop(), WEBHOOK_RESTART_SECONDS
        name = delivery.webhook.name
        while True:
            began = loop.time()
            try:
                await self._source.run(delivery.webhook, delivery.deliver)
                _log.warning("webhook %s: its events ended; it begins again", name)
            except JobledgerError as error:
                _log.warning("webhook %s: %s; it begins again", name, error)
            except Exception:  # noqa: BLE001 - as above
                _log.exception("webhook %s broke; it begins again", name)
            if loop.time() - began > WEBHOOK_RESTART_MAX_SECONDS:
                wait_seconds = WEBHOOK_RESTART_SECONDS
            await asyncio.sleep(wait_seconds)
            wait_seconds = min(2 * wait_seconds, WEBHOOK_RESTART_MAX_SECONDS)

    async def _stop(self, *names: str) -> None:
        """End deliveries: no new tries, those under way within the bound, then the subscriptions."""
        ending = {name: self._running[name] for name in names}
        if not ending:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(WEBHOOK_DRAIN_SECONDS):
                await asyncio.gather(*(delivery.finish() for delivery, _ in ending.values()))
        for _, task in ending.values():
            task.cancel()
        await asyncio.gather(*(task for _, task in ending.values()), return_exceptions=True)
        for name in ending:  # not before: a look that is cancelled here must leave them to the next one
            del self._running[name]
            self._figures.ended(name)

    async def _disable(self, webhook: Webhook, problem: str) -> None:
        _log.warning("webhook %s: its target says that it is gone (410); nothing more is sent", webhook.name)
        while True:
            try:
                await self._webhooks.set_state(webhook.name, WebhookState.DISABLED, problem, of=webhook)
            except WebhookNotFound:  # it was deleted meanwhile
                return
            except JobledgerError as error:
                self._say(f"the webhook {webhook.name} can't be disabled: {error}")
                await asyncio.sleep(WEBHOOK_RESTART_SECONDS)
            else:
                return


async def _unless(
    ending: Iterable[asyncio.Task[Any]], task: asyncio.Task[Any], timeout_seconds: float | None = None
) -> None:
    """Wait for a task, unless an end or the timeout comes first; then it is cancelled."""
    await asyncio.wait({task, *ending}, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
    if not task.done():
        task.cancel()
    await asyncio.gather(task, return_exceptions=True)


class SubscribedSource:
    """The events of webhooks, from the log.

    Args:
        log: of the service.
        subscriptions: of that log.
        source: the CloudEvents source of what is sent.
    """

    def __init__(self, log: JetStreamLog, subscriptions: Subscriptions, source: str) -> None:
        self._log = log
        self._subscriptions = subscriptions
        self._source = source

    async def run(self, webhook: Webhook, handle: Handle) -> None:
        """See `deliverer.Source.run`."""

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
            # A subscription of this name is another one: of a webhook that was deleted, and whose deliverer
            # died before it could delete that, too.
            await self.forget(webhook)
            raise

    async def forget(self, webhook: Webhook) -> None:
        """See `deliverer.Source.forget`."""
        with suppress(SubscriptionNotFound):
            await self._subscriptions.delete(webhook.subscription)


def _message(event: SubscribedEvent, source: str) -> Message:
    body = deliverable_event(
        event.payload, event.sequence, event.time, event.status, source=source, matches=event.matches
    )
    return Message(message_id(event.id, event.sequence), event.job_id, body)
