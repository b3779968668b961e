"""The record of a webhook: a storage format, so new fields have defaults and none is removed.

The record is stored by name in a bucket next to the log. The webhook's position is that of its subscription.
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
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

SUBSCRIPTION_PREFIX: Final = "webhook-"
NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?", re.ASCII)


class WebhookState(StrEnum):
    """Whether events are sent."""

    ENABLED = "enabled"
    PAUSED = "paused"  # by an admin; its position is kept
    DISABLED = "disabled"  # its target answered 410; its position is kept


class Secret(msgspec.Struct, frozen=True, omit_defaults=True):
    """A secret that signs deliveries.

    Attributes:
        text: `whsec_…`; empty if it cannot be decrypted. Records of earlier releases contain it in clear
            text.
        expires: Unix nanoseconds; 0 for never.
        sealed: the encrypted text (`secret_keys`).
    """

    text: str = ""
    expires: int = 0
    sealed: str = ""

    def __repr__(self) -> str:
        """Without the secret."""
        return f"Secret(expires={self.expires})"


class Webhook(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One webhook.

    Attributes:
        name: name of the webhook.
        url: target URL.
        secrets: the secrets that sign, newest first.
        after: the sequence to start after.
        types: only these CloudEvents types; empty: all.
        states: only events after which the job is in one of these states; empty: all.
        namespace: only events of this namespace; empty: of all.
        labels: label selectors that the job must match.
        created: Unix nanoseconds.
        created_by: who created it; empty if not known.
        state: whether events are sent.
        reason: why they are not sent.
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
        """Without secrets, and without the part of the URL that may be secret."""
        return f"Webhook({self.name!r}, {self.target.shown!r}, {self.state})"

    @property
    def target(self) -> Target:
        """The parsed URL."""
        return parse_url(self.url)

    @property
    def subscription(self) -> str:
        """The name of its durable subscription."""
        return SUBSCRIPTION_PREFIX + self.name

    def signing(self, now: int) -> list[str]:
        """The secrets that sign now (Unix nanoseconds), newest first."""
        return [each.text for each in self.secrets if each.text and (not each.expires or each.expires > now)]

    @property
    def locked(self) -> str:
        """Why nothing can be signed; empty if something can."""
        newest = self.secrets[0] if self.secrets else Secret()
        if newest.text:
            return ""
        return (
            f"its secret is encrypted with the key {key_id_of(newest.sealed)}, which is not in this service's"
            " webhook_keys_file: copy that file from the replica that has it, or rotate the secret"
        )


_decoder: Final = msgspec.json.Decoder(Webhook)


def encode_webhook(webhook: Webhook, keys: WebhookKeys) -> bytes:
    """Encode a record, with all secrets encrypted by the newest key; unreadable ones stay as they are.

    Raises:
        InvalidSettings: if there is no key.
    """
    kept = tuple(
        Secret("", each.expires, keys.encrypt(each.text, webhook.name)) if each.text else each
        for each in webhook.secrets
    )
    return msgspec.json.encode(replace(webhook, secrets=kept))


def is_encrypted(record: bytes, keys: WebhookKeys) -> bool:
    """Whether the newest key encrypted every secret of a record that can be read."""
    webhook = decode_webhook(record, keys)
    written = _decoder.decode(record)
    return all(
        keys.is_current(sealed.sealed) or not read.text
        for sealed, read in zip(written.secrets, webhook.secrets, strict=True)
    )


def decode_webhook(record: bytes, keys: WebhookKeys) -> Webhook:
    """Decode a record; a secret that no key can decrypt has an empty text (`Webhook.locked`).

    Raises:
        LogUnfit: if this release cannot read it; the message does not contain the record.
    """
    try:
        webhook = _decoder.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise LogUnfit(
            "a webhook record cannot be read: if a newer release of Jobledger wrote it, upgrade this one"
        ) from None
    opened = tuple(
        Secret(text, each.expires) if (text := keys.decrypt(each.sealed, webhook.name)) else each
        for each in webhook.secrets
    )
    return replace(webhook, secrets=opened)


def check_name(name: str) -> str:
    """Check a webhook's name, and return it.

    Raises:
        InvalidInput: if it is invalid.
    """
    if len(name) > WEBHOOK_NAME_MAX_CHARACTERS or not NAME.fullmatch(name):
        raise InvalidInput(
            f"invalid Name {name!r:.80}: use 1 to {WEBHOOK_NAME_MAX_CHARACTERS} lower-case letters, digits"
            " and hyphens, without a hyphen at either end"
        )
    check_subscription_name(SUBSCRIPTION_PREFIX + name)
    return name


def name_of(target: Target) -> str:
    """The default name of a webhook: made from its host."""
    text = re.sub(r"[^a-z0-9]+", "-", target.host)[:WEBHOOK_NAME_MAX_CHARACTERS].strip("-")
    try:
        return check_name(text)
    except InvalidInput:
        return "webhook"


def with_secret(webhook: Webhook, text: str, *, overlap_seconds: float, now: int) -> Webhook:
    """The webhook with a new secret; the current ones continue to sign for a while.

    Args:
        webhook: the webhook.
        text: the new secret.
        overlap_seconds: how long the current secrets continue to sign.
        now: Unix nanoseconds.

    Raises:
        InvalidInput: if the overlap is too long.
        WebhookExists: if too many secrets would sign at once.
    """
    if not 0 <= overlap_seconds <= WEBHOOK_OVERLAP_MAX_SECONDS:
        raise InvalidInput(
            f"the overlap must be 0..{WEBHOOK_OVERLAP_MAX_SECONDS:g} s, got {overlap_seconds:g} s"
        )
    until = now + int(overlap_seconds * NANOSECONDS_PER_SECOND)
    kept = [
        replace(secret, expires=min(until, secret.expires or until))
        for secret in webhook.secrets
        if (not secret.expires or secret.expires > now) and until > now and secret.text != text
    ]
    if len(kept) >= WEBHOOK_SECRETS_MAX_COUNT:
        raise WebhookExists(
            f"the webhook {webhook.name!r} has {len(kept)} secrets, the most it can have: wait until one"
            " expires, or end all of them with an overlap of 0"
        )
    return replace(webhook, secrets=(Secret(text), *kept))
