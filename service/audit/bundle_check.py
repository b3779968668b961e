"""Verifies a proof bundle with nothing but keys: no NATS, no SQLite, no service. Pure.

A known key signed, through the tree, everything that the verdict states; the other fields of the bundle are
compared with that.
"""

from collections.abc import Sequence

import msgspec

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.projections.merkle.proofs import verify_inclusion
from jobledger.service.audit.model.bundle import Bundle
from jobledger.service.audit.model.checkpoint import Seal, open_seal
from jobledger.service.audit.model.event_chain import EventChain, build_event_chain
from jobledger.service.audit.model.note import VerifierKey
from jobledger.store.model.events import Record
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import job_subject


class Check(msgspec.Struct, frozen=True):
    """The result of one check.

    Attributes:
        name: of the check; docs/AUDIT.md describes each.
        ok: whether it passed.
        text: the result, in one sentence.
    """

    name: str
    ok: bool
    text: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle proves.

    Attributes:
        ok: whether all checks passed; if not, nothing else here is proven.
        checks: in the order of execution.
        origin: of the log.
        signers: the known keys that signed the seal, by name.
        size: the number of events that the seal covers.
        job: the job's id.
        namespace: of the job.
        events: the number of the job's events in the bundle.
        last_sequence: of the newest of them.
        last_time: its stream time, Unix nanoseconds.
        status: the job after it; None if it can't be determined.
        unlinked: the number of events that name no predecessor, so that the bundle does not show whether one
            was omitted before them.
    """

    ok: bool
    checks: tuple[Check, ...]
    origin: str
    signers: tuple[str, ...]
    size: int
    job: str
    namespace: str
    events: int
    last_sequence: int
    last_time: int
    status: JobStatus | None
    unlinked: int


def check_bundle(bundle: Bundle, keys: Sequence[VerifierKey], *, job: str = "", origin: str = "") -> Verdict:
    """Verify a bundle.

    Args:
        bundle: from `read_bundle`.
        keys: trusted; at least one of them must have signed the seal.
        job: the id of the expected job; empty: any.
        origin: of the expected log; empty: any.
    """
    seal, seal_check = _open(bundle.seal, keys)
    records = [proven.record for proven in bundle.records]
    checks = [seal_check, _origin(bundle, seal, origin), _about(bundle, job), _order(bundle, seal)]
    checks.append(_inclusion(bundle, seal))
    chain, chain_check = _event_chain(bundle, records)
    checks.append(chain_check)
    ok = all(check.ok for check in checks)
    return Verdict(
        ok=ok,
        checks=tuple(checks),
        origin=bundle.origin,
        signers=seal.signers if seal is not None else (),
        size=seal.size if seal is not None else 0,
        job=bundle.job,
        namespace=bundle.namespace,
        events=len(records),
        last_sequence=records[-1].sequence,
        last_time=records[-1].time,
        status=chain.status,
        unlinked=chain.unlinked,
    )


def _open(note: str, keys: Sequence[VerifierKey]) -> tuple[Seal | None, Check]:
    try:
        seal = open_seal(note, keys)
    except ProofError as error:
        return None, Check("seal", ok=False, text=str(error))
    signers = ", ".join(seal.signers)
    return seal, Check("seal", ok=True, text=f"signed by {signers}; it covers {seal.size} events")


def _origin(bundle: Bundle, seal: Seal | None, expected: str) -> Check:
    if seal is None:
        return Check("origin", ok=False, text="not checked: the seal is not valid")
    if seal.origin != bundle.origin:
        text = f"the bundle states the log {bundle.origin!r:.200}, but its seal is of {seal.origin!r:.200}"
        return Check("origin", ok=False, text=text)
    if expected and seal.origin != expected:
        text = f"the bundle is of the log {seal.origin!r:.200}, expected {expected!r:.200}"
        return Check("origin", ok=False, text=text)
    return Check("origin", ok=True, text=f"bundle and seal are of the log {seal.origin}")


def _about(bundle: Bundle, job: str) -> Check:
    """Check that all records are on the subject of the expected job."""
    if job and bundle.job != job:
        text = f"the bundle is about the job {bundle.job!r:.200}, expected {job!r:.200}"
        return Check("job", ok=False, text=text)
    subject = job_subject(bundle.namespace, bundle.job)
    for proven in bundle.records:
        if proven.subject != subject:
            text = (
                f"event {proven.sequence} is on the subject {proven.subject!r:.300}, which is not that of"
                f" the job {bundle.job!r:.200} in namespace {bundle.namespace!r:.200}"
            )
            return Check("job", ok=False, text=text)
    return Check("job", ok=True, text=f"all records are on the job's subject {subject}")


def _order(bundle: Bundle, seal: Seal | None) -> Check:
    before = 0
    for proven in bundle.records:
        if proven.sequence <= before:
            text = f"event {proven.sequence} comes after event {before}: sequences must increase"
            return Check("order", ok=False, text=text)
        before = proven.sequence
    if seal is not None and before > seal.size:
        text = f"event {before} is beyond the seal, which covers {seal.size} events"
        return Check("order", ok=False, text=text)
    return Check("order", ok=True, text=f"sequences increase from {bundle.records[0].sequence} to {before}")


def _inclusion(bundle: Bundle, seal: Seal | None) -> Check:
    if seal is None:
        return Check("inclusion", ok=False, text="not checked: the seal is not valid")
    for proven in bundle.records:
        try:
            leaf = leaf_hash(proven.record)
            if leaf != proven.leaf:
                text = (
                    f"event {proven.sequence} has the hash {leaf.hex()}, but the bundle states"
                    f" {proven.leaf.hex()}"
                )
                return Check("inclusion", ok=False, text=text)
            verify_inclusion(leaf, proven.sequence - 1, seal.size, proven.proof, seal.root)
        except ProofError as error:
            return Check(
                "inclusion", ok=False, text=f"event {proven.sequence} is not in the sealed tree: {error}"
            )
    count = len(bundle.records)
    what = "the record is" if count == 1 else f"all {count} records are"
    return Check("inclusion", ok=True, text=f"{what} in the sealed tree of {seal.size} events")


def _event_chain(bundle: Bundle, records: Sequence[Record]) -> tuple[EventChain, Check]:
    chain = build_event_chain(records)
    status = chain.status
    if chain.problem:
        return chain, Check("story", ok=False, text=chain.problem)
    if status is not None and status.quarantine is not None:
        return chain, Check("story", ok=False, text=f"the job is quarantined: {status.quarantine.reason}")
    if status is None:
        return chain, Check("story", ok=False, text="no record creates the job")
    if status.id != bundle.job or status.namespace != bundle.namespace:
        text = f"the records are of the job {status.id} in namespace {status.namespace!r:.200}"
        return chain, Check("story", ok=False, text=text)
    text = f"revisions 1 to {status.revision} without a gap; the job is {status.state.state_type} at the end"
    if chain.anomalies:
        text += f"; invalid records, which changed nothing: {chain.anomalies}"
    if chain.unlinked:
        text += f"; records that name no predecessor: {chain.unlinked}"
    return chain, Check("story", ok=True, text=text)
