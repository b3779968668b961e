"""The keys that encrypt webhook secrets: a private file, created at the first start.

The newest key encrypts; each of them decrypts. Secrets are stored in a NATS bucket, so the files, backups and
readers of that bucket reveal nothing without this file. Every replica needs the same file.

    v1.<key id>.<base64 of nonce and AES-256-GCM ciphertext>, bound to the webhook's name
"""

import base64
import binascii
import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import WEBHOOK_KEYS_MAX_COUNT
from jobledger.store.private_files import PrivateDocument
from jobledger.store.timestamps import format_rfc3339

if TYPE_CHECKING:  # imported when a secret is encrypted: the command line starts without it
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

FORMAT: Final = 1
_VERSION: Final = "v1"
_KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12
_ID_DIGITS: Final = 16


class WebhookKey(msgspec.Struct, frozen=True, kw_only=True):
    """One key of the file.

    Attributes:
        key: 32 random bytes.
        created: RFC 3339.
    """

    key: bytes
    created: str

    def __repr__(self) -> str:
        """Without the key, for logs and tracebacks."""
        return f"WebhookKey({self.id})"

    @property
    def id(self) -> str:
        """The key's name in encrypted secrets: 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(self.key).hexdigest()[:_ID_DIGITS]


class _Document(msgspec.Struct, frozen=True):
    format: int
    keys: tuple[WebhookKey, ...]


class WebhookKeys:
    """The file of keys. Every call checks the file, so a rotation takes effect at once.

    Every method raises InvalidSettings if the file cannot be read or written, other users have rights to it,
    or it is damaged.

    Args:
        path: path of the file.
        clock: Unix nanoseconds.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._file = PrivateDocument(
            path,
            _Document,
            title="file of webhook keys",
            error=InvalidSettings,
            secret=True,
            formats=(FORMAT,),
            check=_check,
        )

    def records(self) -> tuple[WebhookKey, ...]:
        """All keys, oldest first; empty if there is no file."""
        return _keys_of(self._file.read())

    def ensure(self) -> None:
        """Create the file with a first key if it does not exist."""
        if not self.records():
            self._change(lambda keys: keys or (self._new(),))

    def rotate(self) -> WebhookKey:
        """Add a key, which encrypts from now on; beyond WEBHOOK_KEYS_MAX_COUNT the oldest key is deleted."""
        new = self._new()
        self._change(lambda keys: (*keys, new)[-WEBHOOK_KEYS_MAX_COUNT:])
        return new

    def encrypt(self, secret: str, name: str) -> str:
        """Encrypt the secret of a webhook; it can be decrypted for a webhook of this name only."""
        keys = self.records()
        if not keys:
            raise InvalidSettings(
                f"the file of webhook keys {self.path} is missing: restart the service, or copy the file from"
                " a replica"
            )
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + _cipher(keys[-1]).encrypt(nonce, secret.encode(), name.encode())
        return f"{_VERSION}.{keys[-1].id}.{base64.b64encode(sealed).decode()}"

    def decrypt(self, sealed: str, name: str) -> str | None:
        """Decrypt the result of `encrypt`; None if no key of the file can."""
        from cryptography.exceptions import InvalidTag

        version, key_id, encoded = [*sealed.split(".", 2), "", ""][:3]
        if version != _VERSION:
            return None
        try:
            content = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return None
        if len(content) <= _NONCE_BYTES:
            return None
        for key in self.records():
            if key.id == key_id:
                try:
                    plain = _cipher(key).decrypt(
                        content[:_NONCE_BYTES], content[_NONCE_BYTES:], name.encode()
                    )
                    return bytes(plain).decode()
                except (InvalidTag, UnicodeDecodeError):
                    return None
        return None

    def is_current(self, sealed: str) -> bool:
        """Whether the newest key encrypted the secret."""
        keys = self.records()
        return bool(keys) and sealed.startswith(f"{_VERSION}.{keys[-1].id}.")

    def _new(self) -> WebhookKey:
        return WebhookKey(key=os.urandom(_KEY_BYTES), created=format_rfc3339(self._clock()))

    def _change(self, change: Callable[[tuple[WebhookKey, ...]], tuple[WebhookKey, ...]]) -> None:
        self._file.update(lambda document: _Document(FORMAT, change(_keys_of(document))))


def key_id_of(sealed: str) -> str:
    """The id of the key that encrypted a secret, for messages."""
    return sealed.split(".", 2)[1] if sealed.count(".") == 2 else "?"


def _keys_of(document: _Document | None) -> tuple[WebhookKey, ...]:
    return document.keys if document is not None else ()


def _check(document: _Document) -> None:
    if any(len(each.key) != _KEY_BYTES for each in document.keys):
        raise ValueError(f"is damaged: a key does not have {_KEY_BYTES} bytes; restore it from a backup")


def _cipher(key: WebhookKey) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key.key)
