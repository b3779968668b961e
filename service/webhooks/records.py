"""A webhook as it is kept: a storage format, so fields are only added, and have defaults.

What it says is kept under its name beside the log; where it stands in the log is its subscription's matter.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from jobledger.projections.subscriptions.definition import check_name as check_subscription_name
from jobledger.service.errors import WebhookExists
from jobledger.service.limits import (
    WEBHOOK_NAME_MAX_CHARACTERS,
    WEBHOOK_OVERLAP_MAX_SECONDS,
    WEBHOOK_SECRETS_MAX_COUNT,
)
from jobledger.service.webhooks.secret_keys import WebhookKeys, key_id_of
from jobledger.service.webhooks.targets import Target, parse_url
from jobledger.store.model.errors import InvalidInput, LogUnfit

SUBSCRIPTION_PREFIX: Final = "webhook-"
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)
_NANOSECONDS: Final = 1_000_000_000


class WebhookState(StrEnum):
    """Whether events are sent."""

    ENABLED = "enabled"
    PAUSED = "paused"  # somebody said so; its place is kept
    DISABLED = "disabled"  # its target said that it is gone (410); its place is kept


class Secret(msgspec.Struct, frozen=True, omit_defaults=True):
    """What deliveries are signed with.

    Attributes:
        text: `whsec_…`; empty if it can't be decrypted. Records of earlier releases have it in clear.
        expires: until when, Unix nanoseconds; 0: for ever.
        sealed: the same, encrypted (`secretkeys`).
    """

    text: str = ""
    expires: int = 0
    sealed: str = ""

    def __repr__(self) -> str:
        """Without it."""
        return f"Secret(expires={self.expires})"


class Webhook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One webhook.

    Attributes:
        name: of it.
        url: where events are sent.
        secrets: what they are signed with; the newest first.
        after: the sequence behind which it begins.
        types: only these event types, by their full names; empty: all.
        states: only events that leave the job in one of these; empty: all.
        namespace: only of its jobs; empty: of all.
        labels: selectors that the job must meet.
        created: when, Unix nanoseconds.
        created_by: who made it; empty if nobody said.
        state: whether events are sent.
        reason: why they are not.
    """

    name: str
    url: str
    secrets: tuple[Secret, ...]
    after: int
    types: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    namespace: str = ""
    labels: tuple[str, ...] = ()
    created: int = 0
    created_by: str = ""
    state: WebhookState = WebhookState.ENABLED
    reason: str = ""

    def __repr__(self) -> str:
        """Without secrets, and without the part of the URL that may be one."""
        return f"Webhook({self.name!r}, {self.target.shown!r}, {self.state})"

    @property
    def target(self) -> Target:
        """Where events are sent, in parts."""
        return parse_url(self.url)

    @property
    def subscription(self) -> str:
        """The name of its durable subscription."""
        return SUBSCRIPTION_PREFIX + self.name

    def signing(self, now: int) -> list[str]:
        """The secrets that count now (Unix nanoseconds), the newest first."""
        return [each.text for each in self.secrets if each.text and (not each.expires or each.expires > now)]

    @property
    def locked(self) -> str:
        """Why nothing can be signed; empty if it can."""
        newest = self.secrets[0] if self.secrets else Secret()
        if newest.text:
            return ""
        return (
            f"its secret is encrypted with the key {key_id_of(newest.sealed)}, which is not in this service's"
            " webhook_keys_file: copy that file from the replica that has it, or rotate the secret"
        )


_decoder: Final = msgspec.json.Decoder(Webhook)


def encode_webhook(webhook: Webhook, keys: WebhookKeys) -> bytes:
    """The record, with all secrets encrypted by the newest key; those that can't be read stay as they are.

    Raises:
        InvalidSettings: if there is no key.
    """
    kept = tuple(
        Secret("", each.expires, keys.encrypt(each.text, webhook.name)) if each.text else each
        for each in webhook.secrets
    )
    return msgspec.json.encode(replace(webhook, secrets=kept))


def is_encrypted(record: bytes, keys: WebhookKeys) -> bool:
    """Whether the newest key encrypted each secret of a record; one that can't be read counts as if."""
    webhook = decode_webhook(record, keys)
    written = _decoder.decode(record)
    return all(
        keys.is_current(sealed.sealed) or not read.text
        for sealed, read in zip(written.secrets, webhook.secrets, strict=True)
    )


def decode_webhook(record: bytes, keys: WebhookKeys) -> Webhook:
    """The webhook of a record; a secret that no key opens has an empty text (`Webhook.locked`).

    Raises:
        LogUnfit: if it is none that this release understands; what it says is not in the message.
    """
    try:
        webhook = _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise LogUnfit(
            "a webhook's record is not understood; if a newer Jobledger wrote it, upgrade this one"
        ) from None
    opened = tuple(
        Secret(text, each.expires) if (text := keys.decrypt(each.sealed, webhook.name)) else each
        for each in webhook.secrets
    )
    return replace(webhook, secrets=opened)


def check_name(name: str) -> str:
    """A webhook's name.

    Raises:
        InvalidInput: if it is none.
    """
    if len(name) > WEBHOOK_NAME_MAX_CHARACTERS or not NAME.fullmatch(name):
        raise InvalidInput(
            f"Name {name!r:.80} is no name of a webhook: use up to {WEBHOOK_NAME_MAX_CHARACTERS} small"
            " letters, digits and hyphens, with no hyphen at either end"
        )
    check_subscription_name(SUBSCRIPTION_PREFIX + name)
    return name


def name_of(target: Target) -> str:
    """The name of a webhook that was given none: its host's, as far as that can be one."""
    text = re.sub(r"[^a-z0-9]+", "-", target.host)[:WEBHOOK_NAME_MAX_CHARACTERS].strip("-")
    try:
        return check_name(text)
    except InvalidInput:
        return "webhook"


def with_secret(webhook: Webhook, text: str, *, overlap_seconds: float, now: int) -> Webhook:
    """A webhook whose new secret signs from now on, and the present ones beside it for a while.

    Args:
        webhook: as it is.
        text: the new secret.
        overlap_seconds: for how long the present ones still sign.
        now: Unix nanoseconds.

    Raises:
        InvalidInput: if that is too long.
        WebhookExists: if too many of them would sign at once.
    """
    if not 0 <= overlap_seconds <= WEBHOOK_OVERLAP_MAX_SECONDS:
        raise InvalidInput(
            f"the overlap is {overlap_seconds:g} s; it may be up to {WEBHOOK_OVERLAP_MAX_SECONDS:g} s"
        )
    until = now + int(overlap_seconds * _NANOSECONDS)
    kept = [
        replace(secret, expires=min(until, secret.expires or until))
        for secret in webhook.secrets
        if (not secret.expires or secret.expires > now) and until > now and secret.text != text
    ]
    if len(kept) >= WEBHOOK_SECRETS_MAX_COUNT:
        raise WebhookExists(
            f"{len(kept)} secrets sign for the webhook {webhook.name!r}, and no more can: wait until one has"
            " expired, or end all of them with an overlap of 0"
        )
    return replace(webhook, secrets=(Secret(text), *kept))
