"""Makes a proof bundle: the newest seal, the job's records from the log, and their inclusion proofs."""

from collections.abc import Sequence

import msgspec

from jobledger.projections.errors import ProofError, TreeUnavailable
from jobledger.projections.merkle.hashing import leaf_hashes
from jobledger.projections.tree_reader import TreeReader
from jobledger.service.audit.model.bundle import ProvenRecord, make_bundle, too_many_records, write_bundle
from jobledger.service.audit.model.checkpoint import Seal, open_seal, read_seal
from jobledger.service.audit.model.event_chain import names_previous
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.audit.seals import newest_seals
from jobledger.service.errors import AuditFailed, NotSealed
from jobledger.service.limits import BUNDLE_MAX_BYTES, BUNDLE_MAX_RECORDS, PROOF_SEALS_MAX
from jobledger.store.job_reader import records_between
from jobledger.store.kv import KeyHistory
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogBroken
from jobledger.store.model.events import Record
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import job_subject


class Proof(msgspec.Struct, frozen=True):
    """A bundle.

    Attributes:
        text: the document.
        size: the number of events that its seal covers.
        uncovered: the number of the job's events after that, which are not in it.
    """

    text: bytes
    size: int
    uncovered: int


class _Covered(msgspec.Struct, frozen=True):
    records: list[Record]
    uncovered: int


async def make_proof(
    log: EventLog,
    tree: TreeReader,
    seals: KeyHistory,
    job: JobStatus,
    *,
    origin: str = "",
    keys: Sequence[VerifierKey] = (),
    last: Seal | None = None,
) -> Proof:
    """Prove the events of a job that the newest seal covers.

    Args:
        log: with the records.
        tree: over it, at least as large as the newest seal.
        seals: of the log.
        job: to prove.
        origin: of the log; empty: not known.
        keys: trusted; the newest seal by one of them that fits the tree is used. Without any, the newest seal
            by any key.
        last: the last known seal by a trusted key, used if too many other notes follow it; None: not known.

    Raises:
        NotSealed: no seal covers an event of the job.
        AuditFailed: the newest note is not a seal, or does not fit this tree.
        PayloadTooLarge: the job is too large for a bundle.
        LogUnavailable: the log does not answer.
        TreeUnavailable: the view's tree is smaller than the seal.
    """
    seal = await _seal_for(tree, seals, origin, keys, last)
    covered = await _covered(log, job, seal.size)
    if not covered.records:
        raise NotSealed(
            f"the newest seal covers {seal.size} events, but the first of job {job.id} came later"
        )
    if await tree.root(seal.size) != seal.root:
        raise AuditFailed(
            f"the newest seal, of {seal.size} events, does not fit the tree of this service: the log was"
            " changed, or another log was sealed; find the place with `jobledger audit verify`"
        )
    leaves = leaf_hashes(covered.records)
    paths = await tree.inclusion([record.sequence - 1 for record in covered.records], seal.size)
    bundle = make_bundle(
        origin=seal.origin,
        namespace=job.namespace,
        job=job.id,
        seal=seal.note,
        records=tuple(
            ProvenRecord(
                sequence=record.sequence,
                time=record.time,
                subject=record.subject,
                payload=record.payload,
                leaf=leaf,
                proof=tuple(path),
            )
            for record, leaf, path in zip(covered.records, leaves, paths, strict=True)
        ),
    )
    return Proof(write_bundle(bundle), seal.size, covered.uncovered)


async def _seal_for(
    tree: TreeReader, seals: KeyHistory, origin: str, keys: Sequence[VerifierKey], last: Seal | None
) -> Seal:
    """Return the seal to prove up to; see `make_proof`."""
    if not keys:
        published = await seals.last()
        if published is None:
            raise NotSealed("nothing was sealed yet, so nothing can be proven")
        return read_seal(published.payload)
    for record in await newest_seals(seals, before=0, limit=PROOF_SEALS_MAX):
        try:
            seal = open_seal(record.payload, keys)
            if seal.origin == origin and await tree.root(seal.size) == seal.root:
                return seal
        except (ProofError, TreeUnavailable):
            continue
    if last is None:
        raise NotSealed("no key that this service trusts has sealed anything yet, so nothing can be proven")
    return last


async def _covered(log: EventLog, job: JobStatus, size: int) -> _Covered:
    """Return the records of a job up to the size of a seal, and the number of later ones."""
    subject = job_subject(job.namespace, job.id)
    last = await log.read_last(subject)
    if last is None:
        raise LogBroken(
            f"the view has the job {job.id}, but the log has no event of it: find the damage with `jobledger"
            " audit verify`"
        )
    # Finding the first record of a subject is the most expensive part of the read, and the view knows it.
    covered = await _between(log, job, subject, size, after=job.created_sequence - 1, up_to=last.sequence)
    if covered.records and names_previous(covered.records[0]):
        # Another program wrote on the subject before the job was created; these records belong to the chain.
        covered = await _between(log, job, subject, size, after=0, up_to=last.sequence)
    return covered


async def _between(
    log: EventLog, job: JobStatus, subject: str, size: int, *, after: int, up_to: int
) -> _Covered:
    records: list[Record] = []
    uncovered = size_bytes = 0
    async for record in records_between(log, subject, after=after, up_to=up_to):
        if record.sequence > size:
            uncovered += 1
            continue
        records.append(record)
        size_bytes += len(record.payload)
        if len(records) > BUNDLE_MAX_RECORDS or size_bytes > BUNDLE_MAX_BYTES:
            raise too_many_records(job.id)
    return _Covered(records, uncovered)
