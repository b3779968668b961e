"""What is sent to a webhook: a CloudEvent in structured mode, and its headers, with the signature. Pure.

Signatures follow Standard Webhooks (www.standardwebhooks.com): a secret is `whsec_` and the base64 of 24 to
64 random bytes; HMAC-SHA256 signs `<id>.<timestamp>.<body>`; the header has one signature per secret, so that
a receiver may know the old or the new one.

Decision: the package `standardwebhooks` verifies in our tests, and does not sign here. It signs text, so it
would refuse a body with bytes that are not UTF-8, which another writer of the log may have put into a spec;
and its conversions of body and time cost more than the HMAC, for a function of one line.
"""

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from jobledger import __version__
from jobledger.service.limits import WEBHOOK_SECRET_MAX_BYTES, WEBHOOK_SECRET_MIN_BYTES
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339

TEST_TYPE: Final = "jobledger.webhook.test.v1"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105  # the prefix of secrets, not a secret
MASK: Final = f"{SECRET_PREFIX}********"
_PLAIN_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}", re.ASCII)


class Message(NamedTuple):
    """An event to deliver to a webhook.

    Attributes:
        id: identifies the event to the receiver; the same for every attempt.
        job_id: id of the event's job.
        body: the bytes to send.
        sequence: of the event; 0 for an event that is not in the log.
    """

    id: str
    job_id: str
    body: bytes
    sequence: int = 0


def message_id(event_id: str, sequence: int) -> str:
    """The id of an event's message: the event's id.

    Any writer to the log may have chosen that id. One that is not allowed in a header, or in what is signed,
    is replaced by the event's sequence.
    """
    return event_id if _PLAIN_ID.fullmatch(event_id) else f"sequence-{sequence}"


def message_headers(
    secrets: Iterable[str], message_id: str, now: int, body: bytes
) -> list[tuple[bytes, bytes]]:
    """The headers of one attempt.

    Args:
        secrets: sign with each of them.
        message_id: id of the message.
        now: Unix nanoseconds; receivers refuse an old timestamp.
        body: the bytes to send.
    """
    timestamp = now // NANOSECONDS_PER_SECOND
    return [
        (b"content-type", b"application/cloudevents+json"),
        (b"user-agent", f"jobledger/{__version__}".encode()),
        (b"webhook-id", message_id.encode()),
        (b"webhook-timestamp", b"%d" % timestamp),
        (b"webhook-signature", sign(secrets, message_id, timestamp, body).encode()),
    ]


def test_event(name: str, event_id: str, now: int, source: str) -> bytes:
    """An event that tests a webhook.

    Args:
        name: name of the webhook.
        event_id: a new id.
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


# --- secrets and signatures ---------------------------------------------------------------------------------


def format_secret(key: bytes) -> str:
    """The secret of a key."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def parse_secret(text: str, where: str = "Secret") -> str:
    """Check a secret, and return it in its canonical spelling.

    Args:
        text: the secret.
        where: its name in the error, which never contains the secret.

    Raises:
        InvalidInput: if it is invalid.
    """
    stripped = text.strip()
    wrong = InvalidInput(
        f"{where} is not a webhook secret: use {SECRET_PREFIX} and the base64 of"
        f" {WEBHOOK_SECRET_MIN_BYTES} to {WEBHOOK_SECRET_MAX_BYTES} random bytes, or omit it to have one"
        " generated"
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
    return format_secret(key)


def sign(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> str:
    """The header `webhook-signature`: one signature per secret.

    Args:
        secrets: in canonical spelling.
        message_id: the header `webhook-id`.
        timestamp: the header `webhook-timestamp`, Unix seconds.
        body: the bytes to send.
    """
    signed = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(_key_of(secret), signed, hashlib.sha256)).decode()
        for secret in secrets
    )


def _key_of(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))
