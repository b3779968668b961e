"""A webhook registry on a real server, events, and records."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from jobledger import JetStreamLog
from jobledger.service.webhooks.deliverer import Handle
from jobledger.service.webhooks.message import Message, format_secret
from jobledger.service.webhooks.records import Secret, Webhook
from jobledger.service.webhooks.registry import Webhooks
from jobledger.service.webhooks.secret_keys import WebhookKeys
from jobledger.service.webhooks.targets import Targets

LOCAL = ("127.0.0.0/8",)
SECRET = format_secret(bytes(range(32)))


async def registry(log: JetStreamLog, *allowed: str) -> Webhooks:
    """Open the webhook registry of a log."""
    return Webhooks(await log.key_value("SUBSCRIPTIONS"), Targets(allowed or LOCAL), shared_keys())


@cache
def _keys_folder() -> tempfile.TemporaryDirectory[str]:
    """The folder of the session's keys, removed at its end."""
    return tempfile.TemporaryDirectory(prefix="jobledger-test-", ignore_cleanup_errors=True)


def shared_keys() -> WebhookKeys:
    """Keys shared by all registries of a test session, like by replicas."""
    keys = WebhookKeys(Path(_keys_folder().name) / "webhook-keys.json")
    keys.ensure()
    return keys


def make_webhook(url: str, name: str = "hook", **fields: Any) -> Webhook:
    """Return a webhook with these fields."""
    values = {"name": name, "url": url, "secrets": (Secret(SECRET),), "after": 0, "created": 1, **fields}
    return Webhook(**values)


def message(number: int = 1, job_id: str = "") -> Message:
    """Return an event, by default of a new job."""
    return Message(f"id-{number}", job_id or f"job-{number}", b'{"number":%d}' % number)


class Hand:
    """A source of events that the test provides.

    Attributes:
        forgotten: webhooks whose positions were deleted.
        opened: how often the events of a webhook were requested.
        failed: errors of handlers.
    """

    def __init__(self) -> None:
        self.forgotten: list[str] = []
        self.opened = 0
        self.failed: list[Exception] = []
        self.breaks: Exception | None = None
        self._events: dict[str, asyncio.Queue[Message]] = {}
        self._opening = asyncio.Condition()

    def give(self, name: str, *messages: Message) -> None:
        """Provide the next events of a webhook."""
        for each in messages:
            self._events.setdefault(name, asyncio.Queue()).put_nowait(each)

    async def wait_opened(self, count: int) -> None:
        """Wait until events were requested this often."""
        async with asyncio.timeout(60), self._opening:
            await self._opening.wait_for(lambda: self.opened >= count)

    async def run(self, webhook: Webhook, handle: Handle) -> None:
        """See `Source.run`; an unhandled event is delivered again at the next opening."""
        async with self._opening:
            self.opened += 1
            self._opening.notify_all()
        if self.breaks is not None:
            error, self.breaks = self.breaks, None
            raise error
        queue = self._events.setdefault(webhook.name, asyncio.Queue())
        while True:
            each = await queue.get()
            try:
                await handle(each)
            except asyncio.CancelledError:
                rest = [each]
                with suppress(asyncio.QueueEmpty):
                    while True:
                        rest.append(queue.get_nowait())
                self.give(webhook.name, *rest)
                raise
            except Exception as error:  # noqa: BLE001 - the subscription's part: it takes them all
                self.failed.append(error)

    async def forget(self, webhook: Webhook) -> None:
        """See `Source.forget`."""
        self.forgotten.append(webhook.name)


@asynccontextmanager
async def running(task: asyncio.Task[None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run a task until the end of the block."""
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
