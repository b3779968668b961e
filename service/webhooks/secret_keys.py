"""The keys that webhook secrets are encrypted with: a file of mode 600, made at the first start.

The newest key encrypts; all of them decrypt. Secrets are kept on a NATS stream, so a reader of that stream,
its files or its backups gets nothing without this file. Every replica needs the same file.

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
from jobledger.store.private_files import FileMark, file_mark, read_trusted, replace_file
from jobledger.store.timestamps import format_rfc3339

if TYPE_CHECKING:
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
        """What encrypted secrets name it by: 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(self.key).hexdigest()[:_ID_DIGITS]


class _Document(msgspec.Struct, frozen=True):
    format: int
    keys: tuple[WebhookKey, ...]


class WebhookKeys:
    """The file of keys; every method looks at it again, so that a rotation counts at once.

    Args:
        path: of the file.
        clock: Unix nanoseconds.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._mark: FileMark | None = None
        self._keys: tuple[WebhookKey, ...] = ()

    def records(self) -> tuple[WebhookKey, ...]:
        """All keys, oldest first; empty if there is no file.

        Raises:
            InvalidSettings: if the file can't be read, is not ours alone, or is damaged.
        """
        try:
            mark = file_mark(self.path)
            if mark is None:
                return ()
            if mark != self._mark:
                self._keys = _read(self.path)
                self._mark = mark
        except OSError as error:
            raise self._failed("can't be read", error) from error
        except ValueError as error:
            raise InvalidSettings(f"the file of webhook keys {self.path} {error}") from None
        return self._keys

    def ensure(self) -> None:
        """Make the file, with a first key, if it is missing.

        Raises:
            InvalidSettings: as `records`; or if it can't be written.
        """
        if not self.records():
            self._change(lambda keys: keys or (self._new(),))

    def rotate(self) -> WebhookKey:
        """Add a key, which encrypts from now on; of more than WEBHOOK_KEYS_MAX_COUNT the oldest is dropped.

        Raises:
            InvalidSettings: as `ensure`.
        """
        new = self._new()
        self._change(lambda keys: (*keys, new)[-WEBHOOK_KEYS_MAX_COUNT:])
        return new

    def encrypt(self, secret: str, name: str) -> str:
        """A secret as it is kept.

        Args:
            secret: `whsec_…`.
            name: of the webhook; it can be decrypted for this one only.

        Raises:
            InvalidSettings: if there is no key, or the file can't be read.
        """
        keys = self.records()
        if not keys:
            raise InvalidSettings(
                f"the file of webhook keys {self.path} is missing: restart the service, or copy it from"
                " a replica"
            )
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + _cipher(keys[-1]).encrypt(nonce, secret.encode(), name.encode())
        return f"{_VERSION}.{keys[-1].id}.{base64.b64encode(sealed).decode()}"

    def decrypt(self, sealed: str, name: str) -> str | None:
        """The secret that `encrypt` wrote; None if no key of the file opens it.

        Raises:
            InvalidSettings: if the file can't be read.
        """
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
        """Whether the newest key encrypted it."""
        keys = self.records()
        return bool(keys) and sealed.startswith(f"{_VERSION}.{keys[-1].id}.")

    def _new(self) -> WebhookKey:
        return WebhookKey(key=os.urandom(_KEY_BYTES), created=format_rfc3339(self._clock()))

    def _change(self, change: Callable[[tuple[WebhookKey, ...]], tuple[WebhookKey, ...]]) -> None:
        def write() -> bytes:
            self._mark = None
            document = msgspec.json.encode(_Document(FORMAT, change(self.records())))
            return msgspec.json.format(document, indent=1) + b"\n"

        try:
            replace_file(self.path, write)
        except OSError as error:
            raise self._failed("can't be written", error) from error

    def _failed(self, what: str, error: OSError) -> InvalidSettings:
        reason = error.strerror or type(error).__name__
        return InvalidSettings(f"the file of webhook keys {self.path} {what}: {reason}")


def key_id_of(sealed: str) -> str:
    """The id of the key that encrypted a secret, for messages."""
    return sealed.split(".", 2)[1] if sealed.count(".") == 2 else "?"


def _cipher(key: WebhookKey) -> "AESGCM":
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key.key)


def _read(path: Path) -> tuple[WebhookKey, ...]:
    """The keys of a file.

    Raises:
        ValueError: what is wrong with it, to be read after its path.
        OSError: if it can't be read.
    """
    content = read_trusted(path, secret=True)
    try:
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError("is damaged: restore it from a backup") from None  # the content is never shown
    if document.format != FORMAT:
        raise ValueError(f"has format {document.format}, and this release knows {FORMAT}: upgrade")
    if any(len(each.key) != _KEY_BYTES for each in document.keys):
        raise ValueError(f"is damaged: a key is not of {_KEY_BYTES} bytes; restore it from a backup")
    return document.keys
