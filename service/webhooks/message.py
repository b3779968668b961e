"""What is sent to a webhook: a CloudEvent in structured mode, and the headers that say who sent it. Pure."""

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from jobledger import __version__
from jobledger.service.webhooks.signing import signature
from jobledger.store.spec.values import rfc3339

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
            "time": rfc3339(now),
            "datacontenttype": "application/json",
            "data": {"Webhook": name},
        }
    )
