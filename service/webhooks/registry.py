"""The webhooks of a log: added, changed and removed, each as one record that every replica reads.

A record is written on the condition that it is as it was read, so of two admins one is told of the other.
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
from jobledger.service.webhooks.message import read_secret, secret_of
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
"""Records of webhooks have keys that begin with this and a dot."""


class NewWebhook(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody asks for.

    Attributes:
        url: where events are to be sent.
        after: the sequence behind which it begins.
        name: of it; empty: made of the host's.
        secret: to sign with; empty: one is made.
        types: only these, by their full names.
        states: only events that leave the job in one of these.
        namespace: only of its jobs.
        labels: selectors that the job must meet.
        created_by: who asks.
    """

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
        """Without what must stay secret."""
        return f"NewWebhook({self.name!r})"


class Written(NamedTuple):
    """A webhook that was added, or has a new secret.

    Attributes:
        webhook: as it is now.
        secret: the one that was made for it; empty if somebody brought one. This is when it is told.
        warnings: what may not be as it was meant.
    """

    webhook: Webhook
    secret: str = ""
    warnings: Sequence[str] = ()

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Written({self.webhook!r})"


class Webhooks:
    """All webhooks of one log.

    Args:
        records: where they are kept.
        targets: where they may be sent.
        keys: that their secrets are encrypted with.
        clock: Unix nanoseconds.

    Attributes:
        changed: set whenever one was changed here.
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
        """All there are, by name.

        Raises:
            LogUnavailable: if the records can't be read.
            LogUnfit: if one of them is not understood.
        """
        entries = await self._entries()
        return [decode_webhook(entry.value, self._keys) for _, entry in sorted(entries.items())]

    async def get(self, name: str) -> Webhook:
        """The one of this name.

        Raises:
            WebhookNotFound: if there is none.
            LogUnavailable: if the records can't be read.
        """
        return (await self._one(name))[0]

    async def refuse_if_delivered(self, subscription: str) -> None:
        """Refuse to delete the subscription of a webhook: it would be made again, and begin anew.

        Raises:
            WebhookExists: if there is a webhook that this subscription is of.
            LogUnavailable: if the records can't be read.
        """
        name = subscription.removeprefix(SUBSCRIPTION_PREFIX)
        if name == subscription:
            return
        with suppress(WebhookNotFound):
            await self._one(name)
            raise WebhookExists(
                f"the subscription {subscription} is of the webhook {name}; to be rid of both:"
                f" `jobledger webhook delete {name}`"
            )

    async def add(self, new: NewWebhook) -> Written:
        """Add one.

        Raises:
            InvalidInput: if name, URL or secret is none.
            TargetRefused: if events may not be sent there.
            WebhookExists: if there is one of that name, or there are too many.
            LogUnavailable: if it can't be written.
        """
        target = parse_url(new.url)
        secret = read_secret(new.secret) if new.secret else _new_secret()
        if new.name:
            check_name(new.name)
        warnings = await self._look_at(target)
        taken = (await self._entries()).keys()
        if len(taken) >= WEBHOOKS_MAX_COUNT:
            raise WebhookExists(f"there are {len(taken)} webhooks, and no more can be; delete one first")
        name = new.name or _free(name_of(target), taken)
        if name in taken:
            raise WebhookExists(
                f"there is a webhook {name!r} already; delete it, or give this one another name"
            )
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
        """Encrypt secrets that are in clear, or by an older key, with the newest; returns how many records.

        Raises:
            LogUnavailable: if the records can't be read or written.
            LogUnfit: if one of them is not understood.
            InvalidSettings: if the file of keys can't be read.
        """
        written = 0
        for _, entry in sorted((await self._entries()).items()):
            if is_encrypted(entry.value, self._keys):
                continue
            with suppress(WebhookExists):  # changed meanwhile: the next look sees to it
                await self._write(decode_webhook(entry.value, self._keys), entry.revision)
                written += 1
        return written

    async def remove(self, name: str) -> Webhook:
        """Remove one; its subscription is its deliverers' to end.

        Raises:
            WebhookNotFound: if there is none.
            WebhookExists: if somebody else changed it just now.
            LogUnavailable: if that can't be written.
        """
        webhook, revision = await self._one(name)
        if not await self._records.delete(_key(name), expect=revision):
            raise _changed_meanwhile(name)
        self.changed.set()
        return webhook

    async def rotate(
        self, name: str, secret: str = "", *, overlap_seconds: float = WEBHOOK_OVERLAP_SECONDS
    ) -> Written:
        """Sign with a new secret, and for a while with the present ones, too.

        Args:
            name: of the webhook.
            secret: the new one; empty: one is made.
            overlap_seconds: for how long the present ones still sign.

        Raises:
            InvalidInput: if the secret is none, or the overlap too long.
            WebhookNotFound: if there is none of that name.
            WebhookExists: if too many secrets sign, or somebody else changed it just now.
            LogUnavailable: if that can't be written.
        """
        text = read_secret(secret) if secret else _new_secret()
        webhook, revision = await self._one(name)
        rotated = with_secret(webhook, text, overlap_seconds=overlap_seconds, now=self._clock())
        await self._write(rotated, revision)
        return Written(rotated, "" if secret else text)

    async def set_state(
        self, name: str, state: WebhookState, reason: str = "", *, of: Webhook | None = None
    ) -> Webhook:
        """Send events, or send none and keep the place.

        Args:
            name: of the webhook.
            state: the new one.
            reason: why nothing is sent.
            of: only if it still is this webhook: one that was added later under the name stays as it is.

        Raises:
            WebhookNotFound: if there is none of that name.
            WebhookExists: if somebody else changed it just now.
            LogUnavailable: if that can't be written.
        """
        webhook, revision = await self._one(name)
        if webhook.state is state or (of is not None and webhook.created != of.created):
            return webhook
        changed = replace(webhook, state=state, reason=reason)
        await self._write(changed, revision)
        return changed

    async def _look_at(self, target: Target) -> Sequence[str]:
        """Refuse at once what each delivery would be refused for; a name may come to mean something later."""
        try:
            async with asyncio.timeout(WEBHOOK_CONNECT_TIMEOUT_SECONDS):
                await self._targets.addresses(target)
        except (OSError, TimeoutError):
            return (f"{target.host} can't be resolved just now; events wait until it can",)
        return ()

    async def _entries(self) -> dict[str, Entry]:
        """What stands under every name."""
        changes, _ = await self._records.changes(PREFIX)
        return {change.key.removeprefix(f"{PREFIX}."): change.entry for change in changes}

    async def _one(self, name: str) -> tuple[Webhook, int]:
        is_name = NAME.fullmatch(name) is not None  # nothing else is looked up: it becomes part of a subject
        entry = await self._records.get(_key(name)) if is_name else None
        if entry is None:
            raise WebhookNotFound(f"there is no webhook {name!r:.80}")
        return decode_webhook(entry.value, self._keys), entry.revision

    async def _write(self, webhook: Webhook, expect: int) -> None:
        value = encode_webhook(webhook, self._keys)
        entry = await self._records.put(_key(webhook.name), value, expect=expect)
        if entry is None or entry.value != value:
            raise _changed_meanwhile(webhook.name)
        self.changed.set()


def _key(name: str) -> str:
    return f"{PREFIX}.{name}"


def _changed_meanwhile(name: str) -> WebhookExists:
    return WebhookExists(
        f"somebody else changed the webhook {name!r} just now; nothing was written: look at it again"
    )


def _free(name: str, taken: Collection[str]) -> str:
    """The name, or the name with the first number that makes it another one."""
    if name not in taken:
        return name
    numbered = (f"{name[:-4].rstrip('-') if len(name) > 40 else name}-{number}" for number in range(2, 1_000))
    return next(each for each in numbered if each not in taken)


def _new_secret() -> str:
    return secret_of(secrets.token_bytes(WEBHOOK_SECRET_BYTES))
