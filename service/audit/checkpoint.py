"""Seals: signed checkpoints of the log's tree, as C2SP defines them (c2sp.org/tlog-checkpoint). Pure.

jobledger/3f9c0a7b51de          the origin: which log
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
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.note import Note, Signer, VerifierKey, parse_note, sign_note, verify_note
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.limits import INT_MAX

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
SUCCEEDS: Final = "succeeds"  # an extension line: `succeeds <origin> <size> <root> <time> <actor> <reason>`
_ROOT: Final = re.compile(r"[A-Za-z0-9+/]{43}=", re.ASCII)


class Seal(msgspec.Struct, frozen=True, kw_only=True):
    """What a seal says.

    Attributes:
        origin: of the log.
        size: how many events it covers: those at the sequences 1 to `size`.
        root: of the tree over them.
        signers: known keys that signed it, as `<name>+<id>`; empty if that was not looked at.
        note: all of it, as it is published.
        more: the lines after the root, as they are: extensions, such as `SUCCEEDS`.
    """

    origin: str
    size: int
    root: bytes
    signers: tuple[str, ...] = ()
    note: str = ""
    more: tuple[str, ...] = ()

    @property
    def succeeds(self) -> tuple[str, ...]:
        """The origins of earlier logs that this one replaces, as an operator confirmed; see `succession`."""
        return tuple(line.split(" ")[1] for line in self.more if line.startswith(f"{SUCCEEDS} "))


def origin_of(mark: str) -> str:
    """The origin of a log, from the mark of its stream: the same on every replica."""
    return f"jobledger/{mark}"


def make_seal(
    origin: str, size: int, root: bytes, signers: Sequence[Signer], more: Sequence[str] = ()
) -> Seal:
    """Sign a tree, and extension lines after it.

    Raises:
        InvalidInput: if these words can't be a seal's, or nobody signs.
    """
    if not origin or "\n" in origin or not 0 <= size <= INT_MAX or len(root) != HASH_BYTES:
        raise InvalidInput(f"no seal can say origin {origin!r:.80}, size {size!r:.40}, root {root.hex():.80}")
    lines = (origin, str(size), b64encode(root).decode(), *more)
    if any(not line or "\n" in line for line in more):
        raise InvalidInput("an extension line of a seal must not be empty or contain a newline")
    note = sign_note("".join(f"{line}\n" for line in lines), signers)
    names = tuple(signer.key.short for signer in signers)
    return Seal(origin=origin, size=size, root=root, signers=names, note=note, more=tuple(more))


def succession(before: Seal, accepted: str, actor: str, reason: str) -> str:
    """The extension line that records who confirmed that this log replaces an earlier one, and why.

    Args:
        before: the last seal of the earlier log.
        accepted: when, RFC 3339.
        actor: who.
        reason: why, on one line.
    """
    root = b64encode(before.root).decode()
    return f"{SUCCEEDS} {before.origin} {before.size} {root} {accepted} {actor} {reason}"


def read_seal(note: str | bytes) -> Seal:
    """What a note says, if it is a seal; who signed it is not looked at.

    Raises:
        ProofError: if it is none.
    """
    return _seal_of(parse_note(note), note)


def open_seal(note: str | bytes, keys: Iterable[VerifierKey]) -> Seal:
    """What a seal says, once a known key has vouched for it.

    Raises:
        ProofError: if it is none, no known key signed it, or a signature by one of them is wrong.
    """
    parsed = parse_note(note)
    signers = tuple(key.short for key in verify_note(parsed, keys))
    return msgspec.structs.replace(_seal_of(parsed, note), signers=signers)


def named_keys(note: str | bytes) -> tuple[str, ...]:
    """The keys that a note says have signed it, as `<name>+<id>`, whether they did or not.

    Raises:
        ProofError: if it is no note.
    """
    return tuple(f"{each.name}+{each.id.hex()}" for each in parse_note(note).signatures)


def _seal_of(parsed: Note, note: str | bytes) -> Seal:
    lines = parsed.text.removesuffix("\n").split("\n")
    # Lines behind the third are for extensions; what they say is nothing to us.
    if len(lines) < 3 or not all(lines):
        raise ProofError("this note is no seal: it needs lines with origin, size and root, and no empty ones")
    origin, size, root = lines[:3]
    if _SIZE.fullmatch(size) is None or int(size) > INT_MAX:
        raise ProofError(f"this note is no seal: its second line is {size!r:.80}, not a size")
    decoded = _root_of(root)
    if decoded is None:
        raise ProofError(f"this note is no seal: its third line is {root!r:.80}, not a root in base64")
    text = note if isinstance(note, str) else note.decode()
    return Seal(origin=origin, size=int(size), root=decoded, note=text, more=tuple(lines[3:]))


def _root_of(text: str) -> bytes | None:
    if _ROOT.fullmatch(text) is None:
        return None
    decoded = binascii.a2b_base64(text)
    return decoded if b64encode(decoded).decode() == text else None


def check_order(old: Seal, new: Seal) -> Finding | None:
    """What two seals say by themselves, before there is any proof.

    Raises:
        InvalidInput: if they are of different logs, or in the wrong order.
    """
    if old.origin != new.origin:
        raise InvalidInput(
            f"the seals are of different logs, {old.origin!r:.200} and {new.origin!r:.200}: neither can"
            " extend the other"
        )
    if old.size > new.size:
        raise InvalidInput(
            f"the first seal covers {old.size} events and the second {new.size}: name the older one first"
        )
    if old.size == new.size and old.root != new.root:
        return Finding(
            Kind.FORK,
            f"both seals cover {old.size} events, and their roots are {old.root.hex()} and {new.root.hex()}:"
            " whoever signed them has told two different pasts",
            sequence=old.size,
        )
    return None


def check_extends(
    old: Seal, new: Seal, proof: Sequence[bytes], *, old_root: bytes, new_root: bytes
) -> Finding | None:
    """Whether a proof shows that one seal extends another.

    Args:
        old: the earlier seal, opened with a known key.
        new: the later one, likewise.
        proof: by somebody who need not be trusted.
        old_root: what that somebody's own tree comes to at the size of the earlier seal.
        new_root: the same at that of the later one.
    """
    try:
        verify_consistency(old.size, old.root, new.size, new.root, proof)
    except ProofError as error:
        wrong = [
            f"the root at {seal.size} is {root.hex()} in its tree and {seal.root.hex()} in the seal"
            for seal, root in ((old, old_root), (new, new_root))
            if root != seal.root
        ]
        why = "; ".join(wrong) or str(error)
        return Finding(
            Kind.FORK,
            f"it was not shown that the seal of {new.size} events extends the one of {old.size}: {why}."
            " Either two different pasts were sealed, or whoever was asked for the proof has another log",
            sequence=old.size,
        )
    return None
