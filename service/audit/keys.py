"""The keys that seals are signed with: a file of mode 600, made at the first start, rotated with an overlap.

    signs ──► retires at a set time: until then it signs beside its successor ──► is listed, and signs no more

Whoever has the new key alone can check seals from the rotation on; whoever has the old one alone can until
its end. Of a key that has retired only the public half is kept, so that old seals can be checked for ever.
"""

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from jobledger.service.audit.note import SEED_BYTES, Signer, VerifierKey, new_seed
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import (
    AUDIT_CHECK_KEY_FILE_MAX_BYTES,
    AUDIT_CHECK_KEYS_MAX,
    AUDIT_KEY_NAME_MAX_CHARACTERS,
    AUDIT_KEYS_MAX,
    KEY_OVERLAP_MAX_DAYS,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.private_files import FileMark, file_mark, read_trusted, replace_file
from jobledger.store.timestamps import format_rfc3339, parse_rfc3339

FORMAT: Final = 1
_SECOND: Final = 1_000_000_000
_DAY_SECONDS: Final = 86_400


class AuditKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One key of the file.

    Attributes:
        key: the public half, as a vkey.
        seed: the private half; None once it has retired.
        distrusted: whether its seals count no more, because somebody else may have it.
        created: RFC 3339.
        retires: RFC 3339, when it stops to sign; None: it signs until it is rotated.
    """

    key: str
    created: str
    retires: str | None = None
    seed: bytes | None = None
    distrusted: bool = False

    def __repr__(self) -> str:
        """Without the seed, for logs and tracebacks."""
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
    """The file of keys; every method looks at it again, so that a rotation counts at once.

    Args:
        path: of the file.
        clock: Unix nanoseconds.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._mark: FileMark | None = None
        self._keys: tuple[AuditKey, ...] = ()

    def records(self) -> tuple[AuditKey, ...]:
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
            raise InvalidSettings(f"the file of audit keys {self.path} {error}") from None
        return self._keys

    def signers(self) -> list[Signer]:
        """The keys that sign now, the newest first.

        Raises:
            InvalidSettings: as `records`; or if there is none.
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
                " `jobledger audit key create` makes one"
            )
        return found

    def ensure(self, name: str) -> None:
        """Make the file, with a first key, if it is missing.

        Raises:
            InvalidSettings: as `records`; or if it can't be written.
        """
        if not self.records():
            self._change(lambda keys: keys or (self._new(name),))

    def create(self, name: str) -> AuditKey:
        """Make the first key.

        Raises:
            InvalidInput: if the file has keys already, or for a name that can be none.
            InvalidSettings: as `records`; or if it can't be written.
        """
        new = self._new(name)

        def first(keys: tuple[AuditKey, ...]) -> tuple[AuditKey, ...]:
            if keys:
                raise InvalidInput(
                    f"{self.path} has keys already; `jobledger audit key rotate` makes a new one"
                )
            return (new,)

        self._change(first)
        return new

    def trusted(self) -> tuple[VerifierKey, ...]:
        """The public keys whose seals count, also those that sign no more.

        Raises:
            InvalidSettings: as `records`.
        """
        return tuple(each.public for each in self.records() if not each.distrusted)

    def rotate(self, overlap_seconds: float, name: str = "", *, distrust: bool = False) -> AuditKey:
        """Make a new key; those that sign now retire when the overlap is over.

        Args:
            overlap_seconds: how long both sign; 0: the old ones stop at once.
            name: of the new key; empty: that of the newest.
            distrust: the old keys sign no more from now on, and their seals count no more: one was stolen.

        Raises:
            InvalidInput: if there is no key yet, or an argument is wrong.
            InvalidSettings: as `records`; or if it can't be written.
        """
        if not 0 <= overlap_seconds <= KEY_OVERLAP_MAX_DAYS * _DAY_SECONDS:
            raise InvalidInput(f"an overlap is 0 to {KEY_OVERLAP_MAX_DAYS} days, not {overlap_seconds:g} s")
        if distrust and overlap_seconds:
            raise InvalidInput("a key that is not trusted any more can't sign for an overlap: use overlap 0")
        now = self._clock()
        end = format_rfc3339(now + int(overlap_seconds * _SECOND))
        new: list[AuditKey] = []

        def turn(keys: tuple[AuditKey, ...]) -> tuple[AuditKey, ...]:
            if not keys:
                raise InvalidInput(
                    f"{self.path} has no key to rotate; `jobledger audit key create` makes one"
                )
            if len(keys) >= AUDIT_KEYS_MAX:
                raise InvalidInput(f"{self.path} has {len(keys)} keys, and no more are taken")
            new[:] = [self._new(name or keys[-1].public.name)]
            ended = (each if each.retires else msgspec.structs.replace(each, retires=end) for each in keys)
            kept = (_without_seed(each, now) for each in ended)
            if distrust:
                kept = (msgspec.structs.replace(each, distrusted=True) for each in kept)
            return (*kept, *new)

        self._change(turn)
        return new[0]

    def forget_retired(self) -> None:
        """Drop the private halves of keys that have retired, if there are any.

        Raises:
            InvalidSettings: as `records`; or if it can't be written.
        """
        now = self._clock()
        if any(each.seed is not None and not each.signs_at(now) for each in self.records()):
            self._change(lambda keys: tuple(_without_seed(each, now) for each in keys))

    def _new(self, name: str) -> AuditKey:
        if len(name) > AUDIT_KEY_NAME_MAX_CHARACTERS:
            raise InvalidInput(
                f"the key's name has {len(name)} characters, more than {AUDIT_KEY_NAME_MAX_CHARACTERS}"
            )
        signer = Signer.of(name, new_seed())
        return AuditKey(key=str(signer.key), seed=signer.seed, created=format_rfc3339(self._clock()))

    def _change(self, change: Callable[[tuple[AuditKey, ...]], tuple[AuditKey, ...]]) -> None:
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
        return InvalidSettings(f"the file of audit keys {self.path} {what}: {reason}")


def _read(path: Path) -> tuple[AuditKey, ...]:
    """The keys of a file.

    Raises:
        ValueError: what is wrong with it, to be read after its path.
        OSError: if it can't be read.
    """
    content = read_trusted(path, secret=True)
    try:
        document = msgspec.json.decode(content, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ValueError("is damaged: restore it from a backup") from None  # the content is never told
    if document.format != FORMAT:
        raise ValueError(f"has format {document.format}, and this release knows {FORMAT}: upgrade")
    for each in document.keys:
        _check(each)
    return document.keys


def _check(each: AuditKey) -> None:
    try:
        public = each.public
        for told in (each.created, each.retires or each.created):
            _nanoseconds(told)
        if each.seed is not None and len(each.seed) != SEED_BYTES:
            raise ValueError(f"is damaged: the private key of {public.short} has {len(each.seed)} bytes")
        if each.seed is not None and Signer.of(public.name, each.seed).key != public:
            raise ValueError(f"is damaged: the private key of {public.short} is another one's")
    except InvalidInput as error:
        raise ValueError(f"is damaged: {error}") from None


def _without_seed(each: AuditKey, now: int) -> AuditKey:
    return each if each.signs_at(now) else msgspec.structs.replace(each, seed=None)


def _nanoseconds(text: str) -> int:
    """Unix nanoseconds of an RFC 3339 time that we wrote.

    Raises:
        ValueError: if it is none.
    """
    time_ns = parse_rfc3339(text)
    if time_ns is None:
        raise ValueError(f"is damaged: {text!r:.40} is no time with a zone")
    return time_ns


def read_keys(given: Iterable[str]) -> tuple[VerifierKey, ...]:
    """Keys, each of them a vkey, or the path of a file with one on each line.

    Lines that are empty or begin with `#` are passed over, so that a file can say whose keys they are.

    Raises:
        InvalidInput: if one is neither, a file can't be read or has no key, or there are too many.
    """
    keys: dict[VerifierKey, None] = {}
    for each in given:
        path = Path(each)
        # A vkey may hold slashes, and no file of ours a plus: what is there counts as a file.
        for text in _lines(path) if "+" not in each or path.exists() else [each]:
            keys[VerifierKey.parse(text)] = None
    if len(keys) > AUDIT_CHECK_KEYS_MAX:
        raise InvalidInput(f"{len(keys)} keys were given, and at most {AUDIT_CHECK_KEYS_MAX} are taken")
    return tuple(keys)


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(AUDIT_CHECK_KEY_FILE_MAX_BYTES + 1)
        text = content.decode()
    except OSError as error:
        raise InvalidInput(
            f"the key {str(path)!r:.200} is neither a vkey nor a file that can be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError:
        raise InvalidInput(f"the file of keys {path} is no text") from None
    if len(content) > AUDIT_CHECK_KEY_FILE_MAX_BYTES:
        raise InvalidInput(f"the file of keys {path} has more than {AUDIT_CHECK_KEY_FILE_MAX_BYTES} bytes")
    found = [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]
    if not found:
        raise InvalidInput(f"the file of keys {path} has none")
    return found
