"""Seals: signed checkpoints of the log's Merkle tree (c2sp.org/tlog-checkpoint), and their consistency. Pure.

jobledger/3f9c0a7b51de          the origin: identifies the log
20852163                        its size, in events
CsUYapGGPo4dkMgIAUqom/…=        the root of the tree over them, in base64

— jobledger/3f9c0a7b51de Az3grlgtzPIC…=
"""

import binascii
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.hashing import HASH_BYTES
from jobledger.projections.merkle.proofs import verify_consistency
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.model.note import Note, Signer, VerifierKey, parse_note, sign_note, verify_note
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.limits import INT_MAX

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
SUCCEEDS: Final = "succeeds"  # an extension line: `succeeds <origin> <size> <root> <time> <actor> <reason>`
_ROOT: Final = re.compile(r"[A-Za-z0-9+/]{43}=", re.ASCII)


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a seal.

    Attributes:
        origin: of the log.
        size: the number of events covered: those at the sequences 1 to `size`.
        root: of the tree over them.
        signers: the known keys that signed it, as `<name>+<id>`; empty if not verified.
        note: the whole note, as published.
        more: the lines after the root: extensions, such as `SUCCEEDS`.
    """

    origin: str
    size: int
    root: bytes
    signers: tuple[str, ...] = ()
    note: str = ""
    more: tuple[str, ...] = ()

    @property
    def succeeds(self) -> tuple[str, ...]:
        """The origins of the earlier logs that this one replaces; see `succession`."""
        return tuple(line.split(" ")[1] for line in self.more if line.startswith(f"{SUCCEEDS} "))


def origin_of(stream_tag: str) -> str:
    """Return the origin of a log from the tag of its stream; it is the same on every replica."""
    return f"jobledger/{stream_tag}"


def make_seal(
    origin: str, size: int, root: bytes, signers: Sequence[Signer], more: Sequence[str] = ()
) -> Seal:
    """Sign a tree, with extension lines after it.

    Raises:
        InvalidInput: an argument is not valid in a seal, or there is no signer.
    """
    if not origin or "\n" in origin or not 0 <= size <= INT_MAX or len(root) != HASH_BYTES:
        raise InvalidInput(f"invalid seal: origin {origin!r:.80}, size {size!r:.40}, root {root.hex():.80}")
    lines = (origin, str(size), b64encode(root).decode(), *more)
    if any(not line or "\n" in line for line in more):
        raise InvalidInput("an extension line of a seal must not be empty or contain a newline")
    note = sign_note("".join(f"{line}\n" for line in lines), signers)
    names = tuple(signer.key.short for signer in signers)
    return Seal(origin=origin, size=size, root=root, signers=names, note=note, more=tuple(more))


def succession(before: Seal, accepted: str, actor: str, reason: str) -> str:
    """Return the extension line that records who confirmed that this log replaces an earlier one, and why.

    Args:
        before: the last seal of the earlier log.
        accepted: the time of the confirmation, RFC 3339.
        actor: who confirmed it.
        reason: one line.
    """
    root = b64encode(before.root).decode()
    return f"{SUCCEEDS} {before.origin} {before.size} {root} {accepted} {actor} {reason}"


def read_seal(note: str | bytes) -> Seal:
    """Parse a seal without verifying its signatures.

    Raises:
        ProofError: it is not a seal.
    """
    return _seal_of(parse_note(note), note)


def open_seal(note: str | bytes, keys: Iterable[VerifierKey]) -> Seal:
    """Parse a seal and verify that a known key signed it.

    Raises:
        ProofError: it is not a seal, no known key signed it, or a signature by a known key is wrong.
    """
    parsed = parse_note(note)
    signers = tuple(key.short for key in verify_note(parsed, keys))
    return msgspec.structs.replace(_seal_of(parsed, note), signers=signers)


def named_keys(note: str | bytes) -> tuple[str, ...]:
    """Return the keys that a note names as its signers, as `<name>+<id>`, unverified.

    Raises:
        ProofError: it is not a note.
    """
    return tuple(f"{each.name}+{each.id.hex()}" for each in parse_note(note).signatures)


def _seal_of(parsed: Note, note: str | bytes) -> Seal:
    lines = parsed.text.removesuffix("\n").split("\n")
    # Lines after the third are extensions, and ignored here.
    if len(lines) < 3 or not all(lines):
        raise ProofError(
            "this note is not a seal: it must have lines with origin, size and root, and no empty ones"
        )
    origin, size, root = lines[:3]
    if _SIZE.fullmatch(size) is None or int(size) > INT_MAX:
        raise ProofError(f"this note is not a seal: its second line must be a size, got {size!r:.80}")
    decoded = _root_of(root)
    if decoded is None:
        raise ProofError(
            f"this note is not a seal: its third line must be a root in base64, got {root!r:.80}"
        )
    text = note if isinstance(note, str) else note.decode()
    return Seal(origin=origin, size=int(size), root=decoded, note=text, more=tuple(lines[3:]))


def _root_of(text: str) -> bytes | None:
    if _ROOT.fullmatch(text) is None:
        return None
    decoded = binascii.a2b_base64(text)
    return decoded if b64encode(decoded).decode() == text else None


def check_order(old: Seal, new: Seal) -> Finding | None:
    """Compare two seals without a proof; returns a fork if they have the same size and different roots.

    Raises:
        InvalidInput: they are of different logs, or in the wrong order.
    """
    if old.origin != new.origin:
        raise InvalidInput(
            f"the seals are of different logs, {old.origin!r:.200} and {new.origin!r:.200}: neither can"
            " extend the other"
        )
    if old.size > new.size:
        raise InvalidInput(
            f"the first seal covers {old.size} events and the second {new.size}: pass the older one first"
        )
    if old.size == new.size and old.root != new.root:
        return Finding(
            Kind.FORK,
            f"both seals cover {old.size} events, but their roots are {old.root.hex()} and {new.root.hex()}:"
            " the signer sealed two different histories",
            sequence=old.size,
        )
    return None


def check_extends(
    old: Seal, new: Seal, proof: Sequence[bytes], *, old_root: bytes, new_root: bytes
) -> Finding | None:
    """Verify a proof that one seal extends another: its tree starts with all events of the earlier one.

    Args:
        old: the earlier seal, verified with a known key.
        new: the later one, likewise.
        proof: from a server that need not be trusted.
        old_root: the root of that server's tree at the size of the earlier seal.
        new_root: the root of that server's tree at the size of the later seal.
    """
    try:
        verify_consistency(old.size, old.root, new.size, new.root, proof)
    except ProofError as error:
        wrong = [
            f"the root at {seal.size} is {root.hex()} in the server's tree and {seal.root.hex()} in the seal"
            for seal, root in ((old, old_root), (new, new_root))
            if root != seal.root
        ]
        why = "; ".join(wrong) or str(error)
        return Finding(
            Kind.FORK,
            f"the seal of {new.size} events does not provably extend the one of {old.size}: {why}. Either two"
            " different histories were sealed, or the server that made the proof has another log",
            sequence=old.size,
        )
    return None
