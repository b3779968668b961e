"""The webhooks of a log: added, changed and deleted, each as one record that every replica reads.

A write is conditional on the revision that was read, so of two admins who change a webhook one gets an error.
"""

import asyncio
import secrets
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from jobledger.service.errors import WebhookExists, WebhookNotFound
from jobledger.service.limits import (
    WEBHOOK_CONNECT_TIMEOUT_SECONDS,
    WEBHOOK_OVERLAP_SECONDS,
    WEBHOOK_SECRET_BYTES,
    WEBHOOKS_MAX_COUNT,
)
from jobledger.service.webhooks.message import format_secret, parse_secret
from jobledger.service.webhooks.records import (
    NAME,
    SUBSCRIPTION_PREFIX,
    Secret,
    Webhook,
    WebhookState,
    check_name,
    decode_webhook,
    encode_webhook,
    is_encrypted,
    name_of,
    with_secret,
)
from jobledger.service.webhooks.secret_keys import WebhookKeys
from jobledger.service.webhooks.targets import Target, Targets, parse_url
from jobledger.store.kv import NO_ENTRY, Entry, KeyValue

PREFIX: Final = "webhooks"
"""The keys of webhook records start with this and a dot."""


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """A webhook to add. An empty name is made from the host; an empty secret is generated."""

    url: str
    after: int
    name: str = ""
    secret: str = ""
    types: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    namespace: str = ""
    labels: tuple[str, ...] = ()
    created_by: str = ""

    def __repr__(self) -> str:
        """Without secrets."""
        return f"NewWebhook({self.name!r})"


class Written(NamedTuple):
    """A webhook that was added, or got a new secret.

    Attributes:
        webhook: the webhook.
        secret: the generated secret, which is shown only once; empty if the caller provided one.
        warnings: possible mistakes.
    """

    webhook: Webhook
    secret: str = ""
    warnings: Sequence[str] = ()

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Written({self.webhook!r})"


class Webhooks:
    """All webhooks of one log.

    Every method raises LogUnavailable if the records cannot be read or written.

    Args:
        records: storage of the records.
        targets: the allowed targets.
        keys: encrypt their secrets.
        clock: Unix nanoseconds.

    Attributes:
        changed: set when a webhook is changed here.
    """

    def __init__(
        self,
        records: KeyValue,
        targets: Targets,
        keys: WebhookKeys,
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._records = records
        self._targets = targets
        self._keys = keys
        self._clock = clock
        self.changed = asyncio.Event()

    async def all(self) -> list[Webhook]:
        """All webhooks, by name.

        Raises:
            LogUnfit: if this release cannot read one of them.
        """
        entries = await self._entries()
        return [decode_webhook(entry.value, self._keys) for _, entry in sorted(entries.items())]

    async def get(self, name: str) -> Webhook:
        """The webhook of a name.

        Raises:
            WebhookNotFound: if it does not exist.
        """
        return (await self._one(name))[0]

    async def refuse_if_delivered(self, subscription: str) -> None:
        """Refuse to delete the subscription of a webhook: it would be created again, and start over.

        Raises:
            WebhookExists: if the subscription belongs to a webhook.
        """
        name = subscription.removeprefix(SUBSCRIPTION_PREFIX)
        if name == subscription:
            return
        with suppress(WebhookNotFound):
            await self._one(name)
            raise WebhookExists(
                f"the subscription {subscription} belongs to the webhook {name}: delete both with"
                f" `jobledger webhook delete {name}`"
            )

    async def add(self, new: NewWebhook) -> Written:
        """Add a webhook.

        Raises:
            InvalidInput: if name, URL or secret is invalid.
            TargetRefused: if the target is not allowed.
            WebhookExists: if one of that name exists, or there are too many.
        """
        target = parse_url(new.url)
        secret = parse_secret(new.secret) if new.secret else _new_secret()
        if new.name:
            check_name(new.name)
        warnings = await self._check_target(target)
        taken = (await self._entries()).keys()
        if len(taken) >= WEBHOOKS_MAX_COUNT:
            raise WebhookExists(f"there are {len(taken)} webhooks, the most there can be: delete one first")
        name = new.name or _free(name_of(target), taken)
        if name in taken:
            raise WebhookExists(f"the webhook {name!r} exists: delete it, or use another name")
        webhook = Webhook(
            name=name,
            url=new.url,
            secrets=(Secret(secret),),
            after=new.after,
            types=new.types,
            states=new.states,
            namespace=new.namespace,
            labels=new.labels,
            created=self._clock(),
            created_by=new.created_by,
        )
        await self._write(webhook, NO_ENTRY)
        return Written(webhook, "" if new.secret else secret, warnings)

    async def encrypt(self) -> int:
        """Encrypt secrets in clear text, or of an older key, with the newest; returns the record count.

        Raises:
            LogUnfit: if this release cannot read one of them.
            InvalidSettings: if the file of keys cannot be read.
        """
        written = 0
        for _, entry in sorted((await self._entries()).items()):
            if is_encrypted(entry.value, self._keys):
                continue
            with suppress(WebhookExists):  # changed in the meantime: done the next time
                await self._write(decode_webhook(entry.value, self._keys), entry.revision)
                written += 1
        return written

    async def remove(self, name: str) -> Webhook:
        """Delete a webhook; the deliverers delete its subscription.

        Raises:
            WebhookNotFound: if it does not exist.
            WebhookExists: if it was changed in the meantime.
        """
        webhook, revision = await self._one(name)
        if not await self._records.delete(_key(name), expect=revision):
            raise _changed_concurrently(name)
        self.changed.set()
        return webhook

    async def rotate(
        self, name: str, secret: str = "", *, overlap_seconds: float = WEBHOOK_OVERLAP_SECONDS
    ) -> Written:
        """Sign with a new secret; the current ones continue to sign for a while.

        Args:
            name: name of the webhook.
            secret: the new secret; empty: generated.
            overlap_seconds: how long the current ones continue to sign.

        Raises:
            InvalidInput: if the secret is invalid, or the overlap too long.
            WebhookNotFound: if it does not exist.
            WebhookExists: if too many secrets would sign, or it was changed in the meantime.
        """
        text = parse_secret(secret) if secret else _new_secret()
        webhook, revision = await self._one(name)
        rotated = with_secret(webhook, text, overlap_seconds=overlap_seconds, now=self._clock())
        await self._write(rotated, revision)
        return Written(rotated, "" if secret else text)

    async def set_state(
        self, name: str, state: WebhookState, reason: str = "", *, of: Webhook | None = None
    ) -> Webhook:
        """Start or stop sending events; the position is kept.

        Args:
            name: name of the webhook.
            state: the new state.
            reason: why events are not sent.
            of: change only this webhook, not one that was added later under its name.

        Raises:
            WebhookNotFound: if it does not exist.
            WebhookExists: if it was changed in the meantime.
        """
        webhook, revision = await self._one(name)
        if webhook.state is state or (of is not None and webhook.created != of.created):
            return webhook
        changed = replace(webhook, state=state, reason=reason)
        await self._write(changed, revision)
        return changed

    async def _check_target(self, target: Target) -> Sequence[str]:
        """Refuse a target that every delivery would refuse; a name that does not resolve is a warning."""
        try:
            async with asyncio.timeout(WEBHOOK_CONNECT_TIMEOUT_SECONDS):
                await self._targets.addresses(target)
        except (OSError, TimeoutError):
            return (f"{target.host} cannot be resolved now: events wait until it can",)
        return ()

    async def _entries(self) -> dict[str, Entry]:
        """The record of every name."""
        changes, _ = await self._records.changes(PREFIX)
        return {change.key.removeprefix(f"{PREFIX}."): change.entry for change in changes}

    async def _one(self, name: str) -> tuple[Webhook, int]:
        is_name = NAME.fullmatch(name) is not None  # only names are looked up: they become part of a subject
        entry = await self._records.get(_key(name)) if is_name else None
        if entry is None:
            raise WebhookNotFound(f"webhook {name!r:.80} does not exist")
        return decode_webhook(entry.value, self._keys), entry.revision

    async def _write(self, webhook: Webhook, expect: int) -> None:
        value = encode_webhook(webhook, self._keys)
        entry = await self._records.put(_key(webhook.name), value, expect=expect)
        if entry is None or entry.value != value:
            raise _changed_concurrently(webhook.name)
        self.changed.set()


def _key(name: str) -> str:
    return f"{PREFIX}.{name}"


def _changed_concurrently(name: str) -> WebhookExists:
    return WebhookExists(
        f"the webhook {name!r} was changed in the meantime; nothing was written: check it and try again"
    )


def _free(name: str, taken: Collection[str]) -> str:
    """The name, with the first number that makes it unique if it is taken."""
    if name not in taken:
        return name
    numbered = (f"{name[:-4].rstrip('-') if len(name) > 40 else name}-{number}" for number in range(2, 1_000))
    return next(each for each in numbered if each not in taken)


def _new_secret() -> str:
    return format_secret(secrets.token_bytes(WEBHOOK_SECRET_BYTES))
