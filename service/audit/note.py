"""Signed notes as C2SP defines them (c2sp.org/signed-note): a text, and signatures that name their keys.

    text, ends with a newline
                                                     an empty line
    — <key name> base64(4 bytes key id, signature)   one line for each key

A signature by a key that is not known tells nothing, so it is passed over: that is what lets keys rotate, and
others sign along. One that says it is by a known key and is not makes the whole note worthless. Pure.
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
    """A new private key."""
    return bytes(_library().Ed25519PrivateKey.generate().private_bytes_raw())


def public_of(seed: bytes) -> bytes:
    """The public key of a private one."""
    return bytes(_library().Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def sign(seed: bytes, message: bytes) -> bytes:
    """The signature of a message."""
    return bytes(_library().Ed25519PrivateKey.from_private_bytes(seed).sign(message))


def is_signed(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether this is the signature of a message by the private key of a public one."""
    library = _library()
    from cryptography.exceptions import InvalidSignature

    try:
        library.Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _library() -> ModuleType:
    """The library, imported late: the store, the view and most commands do without it.

    Raises:
        InvalidInput: if it is not installed, with how to install it.
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
    """A public key with the name under which it signs.

    Attributes:
        name: says whose it is; together with the key's id it tells the key.
        public: the Ed25519 public key.
    """

    name: str
    public: bytes

    def __post_init__(self) -> None:
        """Hold it to the rules.

        Raises:
            InvalidInput: for a name or a key that can be none.
        """
        check_name(self.name)
        if len(self.public) != PUBLIC_BYTES:
            raise InvalidInput(f"an Ed25519 public key has {PUBLIC_BYTES} bytes, not {len(self.public)}")

    @property
    def id(self) -> bytes:
        """The four bytes by which signatures name the key."""
        return sha256(self.name.encode() + b"\n" + _TYPE + self.public).digest()[:_ID_BYTES]

    @property
    def short(self) -> str:
        """Name and id, as people are told: `<name>+<id>`."""
        return f"{self.name}+{self.id.hex()}"

    def __str__(self) -> str:
        """The key as it is handed on: `<name>+<id>+<base64>`, a vkey."""
        return f"{self.short}+{b64encode(_TYPE + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key that a vkey is the text of.

        Raises:
            InvalidInput: if it is none, or not of the one kind that is known, Ed25519.
        """
        name, _, rest = text.strip().partition("+")
        told_id, _, encoded = rest.partition("+")
        kind_and_key = _decoded(encoded)
        if kind_and_key is None or kind_and_key[:1] != _TYPE:
            raise InvalidInput(
                f"{text!r:.120} is no Ed25519 verifier key; write it as `jobledger audit key show` tells it:"
                " <name>+<8 hex digits>+<base64>"
            )
        key = cls(name, kind_and_key[1:])
        if key.id.hex() != told_id:
            raise InvalidInput(f"the key {text!r:.120} has the id {key.id.hex()}: a character of it is wrong")
        return key


class Signer(msgspec.Struct, frozen=True):
    """A private key.

    Attributes:
        key: the public half.
        seed: the private half; it is never shown.
    """

    key: VerifierKey
    seed: bytes

    @classmethod
    def of(cls, name: str, seed: bytes) -> Self:
        """The key of a name and a seed.

        Raises:
            InvalidInput: for a name that can be none.
        """
        return cls(VerifierKey(name, public_of(seed)), seed)

    def __repr__(self) -> str:
        """Without the seed, for logs and tracebacks."""
        return f"Signer({self.key.short})"


class Signature(msgspec.Struct, frozen=True):
    """One line under a note."""

    name: str
    id: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True):
    """A note that was taken apart; whether its signatures are good is not said.

    Attributes:
        text: what is signed, with its last newline.
        signatures: in the order of the lines.
    """

    text: str
    signatures: tuple[Signature, ...]


def sign_note(text: str, signers: Sequence[Signer]) -> str:
    """The note of a text, signed by each of these.

    Raises:
        InvalidInput: if there is nothing to sign, or nobody to do it.
    """
    if not text.endswith("\n") or not _is_clean(text):
        raise InvalidInput(
            f"{text!r:.80} can't be signed: it needs a newline at its end and no other controls"
        )
    if not 1 <= len(signers) <= NOTE_MAX_SIGNATURES:
        raise InvalidInput(f"{len(signers)} keys can't sign a note; use 1 to {NOTE_MAX_SIGNATURES}")
    message = text.encode()
    lines = (
        f"{_DASH} {signer.key.name} {b64encode(signer.key.id + sign(signer.seed, message)).decode()}\n"
        for signer in signers
    )
    return f"{text}\n{''.join(lines)}"


def parse_note(note: str | bytes) -> Note:
    """Take a note apart.

    Raises:
        ProofError: if it is none.
    """
    try:
        whole = note.encode() if isinstance(note, str) else note
        decoded = whole.decode()
    except UnicodeError:
        raise ProofError("this is no signed note: it is not UTF-8") from None
    if len(whole) > NOTE_MAX_BYTES:
        raise ProofError(f"this note has {len(whole)} bytes, more than {NOTE_MAX_BYTES}")
    if not _is_clean(decoded):
        raise ProofError("this is no signed note: it holds control characters")
    text, separator, signed = decoded.rpartition("\n\n")
    lines = signed.split("\n")
    if not separator or not text or lines.pop() or not lines:
        raise ProofError(
            "this is no signed note: it needs a text, an empty line, and lines with signatures, each with its"
            " newline"
        )
    if len(lines) > NOTE_MAX_SIGNATURES:
        raise ProofError(f"this note has {len(lines)} signatures, more than {NOTE_MAX_SIGNATURES}")
    return Note(f"{text}\n", tuple(_parse_signature(line) for line in lines))


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[VerifierKey, ...]:
    """The known keys that signed a note, in the order of its lines.

    Raises:
        ProofError: if none of them did, or a signature that says it is by one of them is not.
    """
    known = {(key.name, key.id): key for key in keys}
    message = note.text.encode()
    signers: list[VerifierKey] = []
    for each in note.signatures:
        key = known.get((each.name, each.id))
        if key is None or key in signers:
            continue
        if not is_signed(key.public, each.signature, message):
            raise ProofError(f"the signature by {key.short} is not that key's over this text")
        signers.append(key)
    if not signers:
        named = ", ".join(f"{each.name}+{each.id.hex()}" for each in note.signatures)
        raise ProofError(f"no known key signed this note; those that did: {named:.300}")
    return tuple(signers)


def check_name(name: str) -> None:
    """Refuse what can be no key's name.

    Raises:
        InvalidInput: with the rule.
    """
    # A name that no reader takes would make each seal under it one that nobody can read, for good.
    if not name or "+" in name or any(each.isspace() or not each.isprintable() for each in name):
        raise InvalidInput(
            f"{name!a:.80} is no name for a key; use something like example.com/jobs, without spaces and `+`"
        )


def _parse_signature(line: str) -> Signature:
    parts = line.split(" ")
    decoded = _decoded(parts[-1])
    if len(parts) != 3 or parts[0] != _DASH or decoded is None or len(decoded) <= _ID_BYTES:
        raise ProofError(f"this is no signed note: {line!r:.120} is no line of a signature")
    try:
        check_name(parts[1])
    except InvalidInput as error:
        raise ProofError(f"this is no signed note: {error}") from None
    return Signature(parts[1], decoded[:_ID_BYTES], decoded[_ID_BYTES:])


def _decoded(encoded: str) -> bytes | None:
    """What stands in base64, if it is written as an encoder writes it; else two notes could be one."""
    try:
        decoded = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return decoded if b64encode(decoded).decode() == encoded else None


def _is_clean(text: str) -> bool:
    return all(character >= " " or character == "\n" for character in text)
