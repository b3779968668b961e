"""The keys that sign seals: in a private file, created at the first start, rotated with an overlap.

    signs ──► retires at a set time; until then both it and its successor sign ──► is listed, no longer signs

A holder of only the new key can verify seals from the rotation on; a holder of only the old one, until it
retires. The public half of a retired key is kept, so that old seals can always be verified.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from jobledger.service.audit.model.note import SEED_BYTES, Signer, VerifierKey, new_seed
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import (
    AUDIT_CHECK_KEY_FILE_MAX_BYTES,
    AUDIT_CHECK_KEYS_MAX,
    AUDIT_KEY_NAME_MAX_CHARACTERS,
    AUDIT_KEYS_MAX,
    KEY_OVERLAP_MAX_DAYS,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.private_files import PrivateDocument
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339, parse_rfc3339

FORMAT: Final = 1
_DAY_SECONDS: Final = 86_400


class AuditKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key of the file.

    Attributes:
        key: the public half, as a vkey.
        seed: the private half; None after it retired.
        distrusted: whether its seals no longer count, because the key may have been stolen.
        created: RFC 3339.
        retires: RFC 3339, when it stops signing; None until it is rotated.
    """

    key: str
    created: str
    retires: str | None = None
    seed: bytes | None = None
    distrusted: bool = False

    def __repr__(self) -> str:
        """Omit the seed from logs and tracebacks."""
        return f"AuditKey({self.key})"

    @property
    def public(self) -> VerifierKey:
        """The public half."""
        return VerifierKey.parse(self.key)

    def signs_at(self, now: int) -> bool:
        """Whether it signs at a time (Unix nanoseconds)."""
        return self.seed is not None and (self.retires is None or _nanoseconds(self.retires) > now)


class _Document(msgspec.Struct, frozen=True):
    format: int
    keys: tuple[AuditKey, ...]


class KeyFile:
    """The file of keys; changes by other processes take effect immediately.

    Every method raises InvalidSettings if the file can't be read or written, others can read it, or it is
    damaged.

    Args:
        path: of the file.
        clock: Unix nanoseconds.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._file = PrivateDocument(
            path,
            _Document,
            title="file of audit keys",
            error=InvalidSettings,
            secret=True,
            formats=(FORMAT,),
            check=_check,
        )

    def records(self) -> tuple[AuditKey, ...]:
        """Return all keys, oldest first; none if there is no file."""
        return _keys(self._file.read())

    def signers(self) -> list[Signer]:
        """Return the keys that sign now, the newest first.

        Raises:
            InvalidSettings: also if there is none.
        """
        now = self._clock()
        found = [
            Signer(each.public, each.seed)
            for each in reversed(self.records())
            if each.signs_at(now) and each.seed is not None
        ]
        if not found:
            raise InvalidSettings(
                f"the file of audit keys {self.path} has no key that signs:"
                " create one with `jobledger audit key create`"
            )
        return found

    def ensure(self, name: str) -> None:
        """Create the file with a first key if it does not exist."""
        if not self.records():
            self._change(lambda keys: keys or (self._new(name),))

    def create(self, name: str) -> AuditKey:
        """Create the first key.

        Raises:
            InvalidInput: the file already has keys, or the name is not valid.
        """
        new = self._new(name)

        def first(keys: tuple[AuditKey, ...]) -> tuple[AuditKey, ...]:
            if keys:
                raise InvalidInput(
                    f"{self.path} already has keys; replace them with `jobledger audit key rotate`"
                )
            return (new,)

        self._change(first)
        return new

    def trusted(self) -> tuple[VerifierKey, ...]:
        """Return the public keys whose seals count, including those that no longer sign."""
        return tuple(each.public for each in self.records() if not each.distrusted)

    def rotate(self, overlap_seconds: float, name: str = "", *, distrust: bool = False) -> AuditKey:
        """Create a new key; those that sign now retire after the overlap.

        Args:
            overlap_seconds: how long both sign; 0: the old ones stop immediately.
            name: of the new key; empty: that of the newest one.
            distrust: the old keys stop signing and their seals no longer count, because one was stolen.

        Raises:
            InvalidInput: there is no key yet, or an argument is not valid.
        """
        if not 0 <= overlap_seconds <= KEY_OVERLAP_MAX_DAYS * _DAY_SECONDS:
            raise InvalidInput(f"overlap must be 0..{KEY_OVERLAP_MAX_DAYS} days, got {overlap_seconds:g} s")
        if distrust and overlap_seconds:
            raise InvalidInput(
                f"a distrusted key can't sign for an overlap of {overlap_seconds:g} s: use overlap 0"
            )
        now = self._clock()
        end = format_rfc3339(now + int(overlap_seconds * NANOSECONDS_PER_SECOND))
        new: list[AuditKey] = []

        def turn(keys: tuple[AuditKey, ...]) -> tuple[AuditKey, ...]:
            if not keys:
                raise InvalidInput(
                    f"{self.path} has no key to rotate: create one with `jobledger audit key create`"
                )
            if len(keys) >= AUDIT_KEYS_MAX:
                raise InvalidInput(f"{self.path} has {len(keys)} keys, the maximum")
            new[:] = [self._new(name or keys[-1].public.name)]
            ended = (each if each.retires else msgspec.structs.replace(each, retires=end) for each in keys)
            kept = (_without_seed(each, now) for each in ended)
            if distrust:
                kept = (msgspec.structs.replace(each, distrusted=True) for each in kept)
            return (*kept, *new)

        self._change(turn)
        return new[0]

    def drop_retired_seeds(self) -> None:
        """Delete the private halves of retired keys, if there are any."""
        now = self._clock()
        if any(each.seed is not None and not each.signs_at(now) for each in self.records()):
            self._change(lambda keys: tuple(_without_seed(each, now) for each in keys))

    def _new(self, name: str) -> AuditKey:
        if len(name) > AUDIT_KEY_NAME_MAX_CHARACTERS:
            raise InvalidInput(
                f"the key's name must have at most {AUDIT_KEY_NAME_MAX_CHARACTERS} characters, got"
                f" {len(name)}"
            )
        signer = Signer.of(name, new_seed())
        return AuditKey(key=str(signer.key), seed=signer.seed, created=format_rfc3339(self._clock()))

    def _change(self, change: Callable[[tuple[AuditKey, ...]], tuple[AuditKey, ...]]) -> None:
        self._file.update(lambda document: _Document(FORMAT, change(_keys(document))))


def _keys(document: _Document | None) -> tuple[AuditKey, ...]:
    return document.keys if document is not None else ()


def _check(document: _Document) -> None:
    """Validate keys; the text of the ValueError continues a sentence that starts with the file's path."""
    for each in document.keys:
        try:
            public = each.public
            for time_text in (each.created, each.retires or each.created):
                _nanoseconds(time_text)
            if each.seed is not None and len(each.seed) != SEED_BYTES:
                raise ValueError(f"is damaged: the private key of {public.short} has {len(each.seed)} bytes")
            if each.seed is not None and Signer.of(public.name, each.seed).key != public:
                raise ValueError(f"is damaged: the private key of {public.short} belongs to another key")
        except InvalidInput as error:
            raise ValueError(f"is damaged: {error}") from None


def _without_seed(each: AuditKey, now: int) -> AuditKey:
    return each if each.signs_at(now) else msgspec.structs.replace(each, seed=None)


def _nanoseconds(text: str) -> int:
    time_ns = parse_rfc3339(text)
    if time_ns is None:
        raise ValueError(f"is damaged: {text!r:.40} is not a time with a zone")
    return time_ns


def read_keys(given: Iterable[str]) -> tuple[VerifierKey, ...]:
    """Return trusted keys, each given as a vkey or as the path of a file with one per line.

    Empty lines and lines that start with `#` are skipped, so that a file can name the owners.

    Raises:
        InvalidInput: one is neither, a file can't be read or has no key, or there are too many.
    """
    keys: dict[VerifierKey, None] = {}
    for each in given:
        path = Path(each)
        # A vkey may contain slashes, and a path rarely a plus: an existing path counts as a file.
        for text in _key_lines(path) if "+" not in each or path.exists() else [each]:
            keys[VerifierKey.parse(text)] = None
    if len(keys) > AUDIT_CHECK_KEYS_MAX:
        raise InvalidInput(f"at most {AUDIT_CHECK_KEYS_MAX} keys are allowed, got {len(keys)}")
    return tuple(keys)


def _key_lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(AUDIT_CHECK_KEY_FILE_MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise InvalidInput(
            f"the key {str(path)!r:.200} is neither a vkey nor a readable file: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        raise InvalidInput(f"the key file {path} is not UTF-8 text") from None
    if len(content) > AUDIT_CHECK_KEY_FILE_MAX_BYTES:
        raise InvalidInput(f"the key file {path} has more than {AUDIT_CHECK_KEY_FILE_MAX_BYTES} bytes")
    found = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not found:
        raise InvalidInput(f"the key file {path} contains no key")
    return found
