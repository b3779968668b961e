"""Signatures as Standard Webhooks has them (www.standardwebhooks.com), and the secrets they take. Pure.

A secret is `whsec_` and the base64 of 24 to 64 random bytes. Signed is `<id>.<timestamp>.<body>`, with
HMAC-SHA256; a header carries one signature per secret, so that a receiver may know the old or the new one.
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from jobledger.service.limits import WEBHOOK_SECRET_MAX_BYTES, WEBHOOK_SECRET_MIN_BYTES
from jobledger.store.model.errors import InvalidInput

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
