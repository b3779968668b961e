"""Checking a proof bundle with nothing but keys: no NATS, no SQLite, no service. Pure.

Everything that the verdict tells was signed by a known key, through the tree: of the bundle's other words
each is held against that.
"""

from collections.abc import Sequence

import msgspec

from jobledger.projections.errors import ProofError
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.projections.merkle.proofs import verify_inclusion
from jobledger.service.audit.bundle import Bundle
from jobledger.service.audit.checkpoint import Seal, open_seal
from jobledger.service.audit.event_chain import EventChain, tell_story
from jobledger.service.audit.note import VerifierKey
from jobledger.store.model.events import Record
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import job_subject


class Check(msgspec.Struct, frozen=True):
    """One question, and its answer.

    Attributes:
        name: a word for it; docs/AUDIT.md tells what each shows.
        ok: whether it is as it must be.
        text: what was found, in one sentence.
    """

    name: str
    ok: bool
    text: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle proves.

    Attributes:
        ok: whether all checks are good; nothing else here counts if they are not.
        checks: in the order in which they were made.
        origin: of the log.
        signers: the known keys that signed the seal, by name.
        size: how many events the seal covers.
        job: the job's id.
        namespace: of the job.
        events: how many of the job's the bundle has.
        last_sequence: of the newest of them.
        last_time: its stream time, Unix nanoseconds.
        status: the job after it; None if it can't be told.
        unlinked: how many events do not name the one before them, so that nobody can tell from the bundle
            whether one was left out there.
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
    """Hold a bundle against keys.

    Args:
        bundle: as it was read.
        keys: those that are trusted; the seal must be signed by one of them at least.
        job: the id of the job that it should be about; empty: whichever it says.
        origin: of the log that it should be of; empty: whichever it says.
    """
    seal, seal_check = _open(bundle.seal, keys)
    records = [proven.record for proven in bundle.records]
    checks = [seal_check, _origin(bundle, seal, origin), _about(bundle, job), _order(bundle, seal)]
    checks.append(_inclusion(bundle, seal))
    story, story_check = _story(bundle, records)
    checks.append(story_check)
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
        status=story.status,
        unlinked=story.unlinked,
    )


def _open(note: str, keys: Sequence[VerifierKey]) -> tuple[Seal | None, Check]:
    try:
        seal = open_seal(note, keys)
    except ProofError as error:
        return None, Check("seal", ok=False, text=str(error))
    signers = ", ".join(seal.signers)
    return seal, Check("seal", ok=True, text=f"signed by {signers}; it covers {seal.size} events")


def _origin(bundle: Bundle, seal: Seal | None, wanted: str) -> Check:
    if seal is None:
        return Check("origin", ok=False, text="not checked: the seal tells nothing")
    if seal.origin != bundle.origin:
        text = f"the bundle says it is of {bundle.origin!r:.200}, and its seal is of {seal.origin!r:.200}"
        return Check("origin", ok=False, text=text)
    if wanted and seal.origin != wanted:
        text = f"the bundle is of the log {seal.origin!r:.200}, and {wanted!r:.200} was asked for"
        return Check("origin", ok=False, text=text)
    return Check("origin", ok=True, text=f"bundle and seal are of the log {seal.origin}")


def _about(bundle: Bundle, job: str) -> Check:
    """All records are on the one subject of the one job, and it is the job that was asked for."""
    if job and bundle.job != job:
        text = f"the bundle is about the job {bundle.job!r:.200}, and {job!r:.200} was asked for"
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
            text = f"event {proven.sequence} comes after event {before}: sequences must rise"
            return Check("order", ok=False, text=text)
        before = proven.sequence
    if seal is not None and before > seal.size:
        text = f"event {before} is beyond the seal, which covers {seal.size} events"
        return Check("order", ok=False, text=text)
    return Check("order", ok=True, text=f"sequences rise from {bundle.records[0].sequence} to {before}")


def _inclusion(bundle: Bundle, seal: Seal | None) -> Check:
    if seal is None:
        return Check("inclusion", ok=False, text="not checked: the seal tells nothing")
    for proven in bundle.records:
        try:
            leaf = leaf_hash(proven.record)
            if leaf != proven.leaf:
                text = f"event {proven.sequence} has the hash {leaf.hex()}, and {proven.leaf.hex()} is stated"
                return Check("inclusion", ok=False, text=text)
            verify_inclusion(leaf, proven.sequence - 1, seal.size, proven.proof, seal.root)
        except ProofError as error:
            return Check(
                "inclusion", ok=False, text=f"event {proven.sequence} is not in the sealed tree: {error}"
            )
    count = len(bundle.records)
    what = "the record is" if count == 1 else f"all {count} records are"
    return Check("inclusion", ok=True, text=f"{what} in the sealed tree of {seal.size} events")


def _story(bundle: Bundle, records: Sequence[Record]) -> tuple[EventChain, Check]:
    story = tell_story(records)
    status = story.status
    if story.problem:
        return story, Check("story", ok=False, text=story.problem)
    if status is not None and status.quarantine is not None:
        return story, Check("story", ok=False, text=f"the job is quarantined: {status.quarantine.reason}")
    if status is None:
        return story, Check("story", ok=False, text="the records make no job: none of them creates it")
    if status.id != bundle.job or status.namespace != bundle.namespace:
        text = f"the records are those of the job {status.id} in namespace {status.namespace!r:.200}"
        return story, Check("story", ok=False, text=text)
    text = f"revisions 1 to {status.revision} without a gap; the job is {status.state.state_type} at the end"
    if story.anomalies:
        text += f"; records that made no sense, and changed nothing: {story.anomalies}"
    if story.unlinked:
        text += f"; records that do not name the one before them: {story.unlinked}"
    return story, Check("story", ok=True, text=text)
