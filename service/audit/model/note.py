"""Signed notes (c2sp.org/signed-note), with Ed25519 signatures (RFC 8032): a text and its signatures. Pure.

    text, ends with a newline
                                                     an empty line
    — <key name> base64(4 bytes key id, signature)   one line per key

Signatures by unknown keys are ignored, so that keys can rotate and others can cosign. A wrong signature that
names a known key makes the whole note invalid.
"""

import binascii
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from types import ModuleType
from typing import Final, Self

import msgspec

from jobledger.projections.errors import ProofError
from jobledger.service.limits import NOTE_MAX_BYTES, NOTE_MAX_SIGNATURES
from jobledger.store.model.errors import InvalidInput

SEED_BYTES = 32
PUBLIC_BYTES = 32


def new_seed() -> bytes:
    """Return a new private key."""
    return bytes(_library().Ed25519PrivateKey.generate().private_bytes_raw())


def public_of(seed: bytes) -> bytes:
    """Return the public key of a private key."""
    return bytes(_library().Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def sign(seed: bytes, message: bytes) -> bytes:
    """Return the signature of a message."""
    return bytes(_library().Ed25519PrivateKey.from_private_bytes(seed).sign(message))


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature of a message is valid for a public key."""
    library = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        library.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _library() -> ModuleType:
    """Import `cryptography` on first use: the store, the view and most commands do not need it.

    Raises:
        InvalidInput: it is not installed.
    """
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise InvalidInput(
            "signatures need the package `cryptography`: install it with `pip install 'jobledger[audit]'`"
        ) from error
    return ed25519


_TYPE: Final = b"\x01"  # Ed25519
_ID_BYTES: Final = 4
_DASH: Final = "\N{EM DASH}"


class VerifierKey(msgspec.Struct, frozen=True):
    """A public key and its name.

    Attributes:
        name: of the owner.
        public: the Ed25519 public key.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        """Validate name and key.

        Raises:
            InvalidInput: one of them is not valid.
        """
        check_name(self.name)
        if len(self.public) != PUBLIC_BYTES:
            raise InvalidInput(
                f"an Ed25519 public key must have {PUBLIC_BYTES} bytes, got {len(self.public)}"
            )

    @property
    def id(self) -> bytes:
        """The four bytes that identify the key in signatures."""
        return sha256(self.name.encode() + b"\n" + _TYPE + self.public).digest()[:_ID_BYTES]

    @property
    def short(self) -> str:
        """`<name>+<id>`, for messages."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        """The vkey: `<name>+<id>+<base64>`."""
        return f"{self.short}+{b64encode(_TYPE + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a vkey.

        Raises:
            InvalidInput: it is not a vkey, or not an Ed25519 key.
        """
        name, _, rest = text.strip().partition("+")
        stated_id, _, encoded = rest.partition("+")
        kind_and_key = _decoded(encoded)
        if kind_and_key is None or kind_and_key[:1] != _TYPE:
            raise InvalidInput(
                f"invalid Ed25519 verifier key {text!r:.120}: use the output of `jobledger audit key show`,"
                " <name>+<8 hex digits>+<base64>"
            )
        key = cls(name, kind_and_key[1:])
        if key.id.hex() != stated_id:
            raise InvalidInput(
                f"the key {text!r:.120} does not match its id {key.id.hex()}: it contains a typo"
            )
        return key


class Signer(msgspec.Struct, frozen=True):
    """A key pair; `seed` is the private key."""

    key: VerifierKey
    seed: bytes

    @classmethod
    def of(cls, name: str, seed: bytes) -> Self:
        """Return the signer of a name and a seed.

        Raises:
            InvalidInput: the name is not valid.
        """
        return cls(VerifierKey(name, public_of(seed)), seed)

    def __repr__(self) -> str:
        """Omit the seed from logs and tracebacks."""
        return f"Signer({self.key.short})"


class Signature(msgspec.Struct, frozen=True):
    """One signature line of a note."""

    name: str
    id: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True):
    """A parsed note with unverified signatures; `text` is the signed text with its last newline."""

    text: str
    signatures: tuple[Signature, ...]


def sign_note(text: str, signers: Sequence[Signer]) -> str:
    """Return the note of a text, signed by every signer.

    Raises:
        InvalidInput: the text is not valid, or the number of signers is out of range.
    """
    if not text.endswith("\n") or not _is_clean(text):
        raise InvalidInput(
            f"can't sign {text!r:.80}: it must end with a newline and contain no other control characters"
        )
    if not 1 <= len(signers) <= NOTE_MAX_SIGNATURES:
        raise InvalidInput(f"signers must be 1..{NOTE_MAX_SIGNATURES}, got {len(signers)}")
    message = text.encode()
    lines = (
        f"{_DASH} {signer.key.name} {b64encode(signer.key.id + sign(signer.seed, message)).decode()}\n"
        for signer in signers
    )
    return f"{text}\n{''.join(lines)}"


def parse_note(note: str | bytes) -> Note:
    """Parse a note.

    Raises:
        ProofError: it is not a signed note.
    """
    try:
        whole = note.encode() if isinstance(note, str) else note
        decoded = whole.decode()
    except UnicodeError:
        raise ProofError("not a signed note: it is not UTF-8") from None
    if len(whole) > NOTE_MAX_BYTES:
        raise ProofError(f"this note has {len(whole)} bytes, more than {NOTE_MAX_BYTES}")
    if not _is_clean(decoded):
        raise ProofError("not a signed note: it contains control characters")
    text, separator, signed = decoded.rpartition("\n\n")
    lines = signed.split("\n")
    if not separator or not text or lines.pop() or not lines:
        raise ProofError(
            "not a signed note: it must have a text, an empty line, and signature lines, each with a newline"
        )
    if len(lines) > NOTE_MAX_SIGNATURES:
        raise ProofError(f"this note has {len(lines)} signatures, more than {NOTE_MAX_SIGNATURES}")
    return Note(f"{text}\n", tuple(_parse_signature(line) for line in lines))


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """Return the known keys that signed a note, in the order of its lines.

    Raises:
        ProofError: no known key signed it, or a signature that names a known key is wrong.
    """
    known = {(key.name, key.id): key for key in keys}
    message = note.text.encode()
    signers: list[VerifierKey] = []
    for each in note.signatures:
        key = known.get((each.name, each.id))
        if key is None or key in signers:
            continue
        if not is_signed(key.public, each.signature, message):
            raise ProofError(f"the signature by {key.short} is wrong for this text")
        signers.append(key)
    if not signers:
        named = ", ".join(f"{each.name}+{each.id.hex()}" for each in note.signatures)
        raise ProofError(f"no known key signed this note; its signers: {named:.300}")
    return tuple(signers)


def check_name(name: str) -> None:
    """Validate the name of a key.

    Raises:
        InvalidInput: it is empty, or contains spaces, `+` or control characters.
    """
    # With a name that readers reject, every seal signed under it would stay unreadable.
    if not name or "+" in name or any(each.isspace() or not each.isprintable() for each in name):
        raise InvalidInput(
            f"invalid key name {name!a:.80}: use a name such as example.com/jobs, without spaces and `+`"
        )


def _parse_signature(line: str) -> Signature:
    parts = line.split(" ")
    decoded = _decoded(parts[-1])
    if len(parts) != 3 or parts[0] != _DASH or decoded is None or len(decoded) <= _ID_BYTES:
        raise ProofError(f"not a signed note: {line!r:.120} is not a signature line")
    try:
        check_name(parts[1])
    except InvalidInput as error:
        raise ProofError(f"not a signed note: {error}") from None
    return Signature(parts[1], decoded[:_ID_BYTES], decoded[_ID_BYTES:])


def _decoded(encoded: str) -> bytes | None:
    """Decode canonical base64; None for any other spelling, which would give one note several texts."""
    try:
        decoded = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if b64encode(decoded).decode() == encoded else None


def _is_clean(text: str) -> bool:
    return all(character >= " " or character == "\n" for character in text)
