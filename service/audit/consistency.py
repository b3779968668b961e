"""Whether one seal extends another: the later tree begins with all events of the earlier one. Pure."""

from collections.abc import Sequence

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.proofs import verify_consistency
from jobledger.service.audit.checkpoint import Seal
from jobledger.service.audit.findings import Finding, Kind
from jobledger.store.model.errors import InvalidInput


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
