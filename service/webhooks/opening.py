"""The webhooks of a service, put together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from jobledger.projections.subscriptions.admin import Subscriptions
from jobledger.service.webhooks.deliverer import Deliverer
from jobledger.service.webhooks.metrics import WebhookFigures
from jobledger.service.webhooks.registry import Webhooks
from jobledger.service.webhooks.secret_keys import WebhookKeys
from jobledger.service.webhooks.sending import Sender
from jobledger.service.webhooks.source import SubscribedSource
from jobledger.service.webhooks.targets import Targets
from jobledger.store.jetstream.adapter import JetStreamLog


class OpenWebhooks(NamedTuple):
    """The webhooks of a service that runs.

    Attributes:
        registry: what is sent where.
        sender: sends.
        deliverer: delivers what is enabled.
    """

    registry: Webhooks
    sender: Sender
    deliverer: Deliverer


@asynccontextmanager
async def open_webhooks(
    log: JetStreamLog,
    subscriptions: Subscriptions,
    targets: Targets,
    figures: WebhookFigures,
    draining: asyncio.Event,
    *,
    keys: WebhookKeys,
    source: str,
) -> AsyncIterator[OpenWebhooks]:
    """Deliver until the block ends.

    Raises:
        LogUnavailable: if the log does not answer.
        InvalidSettings: if the file of webhook keys can't be read or made.
        LogUnfit: if the stream of the records can't keep the promises.
    """
    keys.ensure()
    # Apart from the subscriptions' records: who subscribes may read those, and there are secrets in these.
    registry, sender = Webhooks(await log.records("WEBHOOKS"), targets, keys), Sender(targets)
    deliverer = Deliverer(registry, SubscribedSource(log, subscriptions, source), sender, figures, draining)
    deliverer.start()
    try:
        yield OpenWebhooks(registry, sender, deliverer)
    finally:
        await deliverer.close()
