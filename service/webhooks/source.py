"""Where webhooks get their events from: a durable subscription each, which one replica at a time has."""

from contextlib import suppress

from jobledger.projections.errors import SubscriptionNotFound
from jobledger.projections.subscriptions.admin import Subscriptions
from jobledger.projections.subscriptions.event import SubscribedEvent
from jobledger.projections.subscriptions.subscribe import subscribe
from jobledger.service.feed.events import placed_event
from jobledger.service.limits import WEBHOOK_RETRIES
from jobledger.service.webhooks.deliverer import Handle
from jobledger.service.webhooks.delivery import Message
from jobledger.service.webhooks.message import message_id
from jobledger.service.webhooks.records import Webhook
from jobledger.store.jetstream.adapter import JetStreamLog
from jobledger.store.model.errors import InvalidInput


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
    body = placed_event(
        event.payload, event.sequence, event.time, event.status, source=source, matches=event.matches
    )
    return Message(message_id(event.id, event.sequence), event.job_id, body)
