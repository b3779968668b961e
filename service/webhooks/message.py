"""What is sent to a webhook: a CloudEvent in structured mode, and the headers that say who sent it. Pure."""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

import msgspec

from jobledger import __version__
from jobledger.service.limits import WEBHOOK_SECRET_MAX_BYTES, WEBHOOK_SECRET_MIN_BYTES
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import format_rfc3339

SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # what secrets begin with, no secret
MASK: Final = f"{SECRET_PREFIX}********"


def secret_of(random: bytes) -> str:
    """The secret made of these random bytes."""
    return SECRET_PREFIX + base64.b64encode(random).decode()


def read_secret(text: str, where: str = "Secret") -> str:
    """A secret that somebody brings, in its one spelling.

    Args:
        text: as it was given.
        where: what to call it in the error, which never shows it.

    Raises:
        InvalidInput: if it is none.
    """
    stripped = text.strip()
    wrong = InvalidInput(
        f"{where} is no secret of a webhook; pass {SECRET_PREFIX} and the base64 of"
        f" {WEBHOOK_SECRET_MIN_BYTES} to {WEBHOOK_SECRET_MAX_BYTES} random bytes, or none, and one is made"
    )
    if not stripped.startswith(SECRET_PREFIX):
        raise wrong
    encoded = stripped.removeprefix(SECRET_PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise wrong from None
    if not WEBHOOK_SECRET_MIN_BYTES <= len(key) <= WEBHOOK_SECRET_MAX_BYTES:
        raise wrong
    return secret_of(key)


def signature(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`.

    Args:
        secrets: in their one spelling; a signature by each.
        message_id: the header `webhook-id`.
        timestamp: the header `webhook-timestamp`: Unix seconds.
        body: as it is sent.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(_key(secret), signed, hashlib.sha256)).decode()
        for secret in secrets
    )


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))


TEST_TYPE: Final = "jobledger.webhook.test.v1"
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)
_NANOSECONDS: Final = 1_000_000_000


def message_headers(
    secrets: Iterable[str], message_id: str, now: int, body: bytes
) -> list[tuple[bytes, bytes]]:
    """The headers of a delivery.

    Args:
        secrets: to sign with.
        message_id: the same for each try of one event.
        now: Unix nanoseconds, of this try: receivers refuse what is old.
        body: what is sent.
    """
    timestamp = now // _NANOSECONDS
    return [
        (b"content-type", b"application/cloudevents+json"),
        (b"user-agent", f"jobledger/{__version__}".encode()),
        (b"webhook-id", message_id.encode()),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"webhook-signature", signature(secrets, message_id, timestamp, body).encode()),
    ]


def message_id(event_id: str, sequence: int) -> str:
    """What a receiver knows a delivery by: the event's id.

    Any writer to the log may have chosen that. One that would not do in a header, or in what is signed, is
    replaced by the event's place.
    """
    return event_id if _PLAIN_ID.fullmatch(event_id) else f"sequence-{sequence}"


def test_event(name: str, event_id: str, now: int, source: str) -> bytes:
    """An event that says nothing but that it arrives.

    Args:
        name: of the webhook.
        event_id: a new one.
        now: Unix nanoseconds.
        source: the CloudEvents source of this installation.
    """
    return msgspec.json.encode(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": source,
            "type": TEST_TYPE,
            "subject": name,
            "time": format_rfc3339(now),
            "datacontenttype": "application/json",
            "data": {"Webhook": name},
        }
    )
