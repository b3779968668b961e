"""Bundles made without a server, and the RFC's definition of the Merkle tree."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import msgspec

from jobledger.projections.merkle.hashing import hash_leaf, leaf_hash
from jobledger.projections.merkle.proofs import inclusion_path
from jobledger.service.audit.model.bundle import Bundle, ProvenRecord, make_bundle
from jobledger.service.audit.model.checkpoint import make_seal
from jobledger.service.audit.model.note import Signer
from jobledger.store.ledger import Ledger
from jobledger.store.memory_log import MemoryLog
from jobledger.store.model.events import Record
from jobledger.store.model.job import State, StateType
from jobledger.store.model.subjects import job_subject, named_job_id
from tests.conftest import make_spec
from tests.support.histories import records_of

ORIGIN = "jobledger/0123456789ab"
SIGNER = Signer.of(ORIGIN, bytes(range(32)))
OTHER_SIGNER = Signer.of(ORIGIN, bytes(range(1, 33)))
ETL, REPORT = named_job_id("default", "etl"), named_job_id("default", "report")


async def two_jobs() -> list[Record]:
    """Return the log of two jobs that change alternately: five events of `etl`, three of `report`."""
    log = MemoryLog()
    ledger = Ledger(log)
    for name in ("etl", "report"):
        await ledger.create(make_spec(name), actor="alice", reason="first")
    for state in (StateType.QUEUED, StateType.RUNNING):
        for job_id in (ETL, REPORT):
            await ledger.set_state(job_id, State(state), actor="scheduler")
    await ledger.set_state(ETL, State(StateType.FAILED, "exit code 1"), actor="scheduler")
    await ledger.update(ETL, make_spec("etl", image="busybox:2"), actor="alice", reason="mended")
    records = await records_of(log)
    await log.close()
    return records


def prove(
    log: Sequence[Record],
    job_id: str = ETL,
    *,
    signers: Sequence[Signer] = (SIGNER,),
    size: int | None = None,
    **changes: Any,
) -> Bundle:
    """Return the bundle of a job in a log.

    Args:
        log: all of its records.
        job_id: which job.
        signers: of the seal.
        size: of the seal; None: the whole log.
        changes: fields to replace.
    """
    size = len(log) if size is None else size
    leaves = [leaf_hash(record) for record in log[:size]]
    subject = job_subject("default", job_id)
    proven = tuple(
        ProvenRecord(
            sequence=record.sequence,
            time=record.time,
            subject=record.subject,
            payload=record.payload,
            leaf=leaves[record.sequence - 1],
            proof=tuple(
                mth(leaves[part.start : part.end]) for part in inclusion_path(record.sequence - 1, size)
            ),
        )
        for record in log[:size]
        if record.subject == subject
    )
    seal = make_seal(ORIGIN, size, mth(leaves), signers).note
    bundle = make_bundle(origin=ORIGIN, namespace="default", job=job_id, seal=seal, records=proven)
    return msgspec.structs.replace(bundle, **changes)


def mth(leaves: Sequence[bytes]) -> bytes:
    """Return the Merkle Tree Hash as defined in RFC 6962, section 2.1."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def numbered(count: int) -> list[bytes]:
    """Return distinct leaves."""
    return [hash_leaf(number.to_bytes(4, "big")) for number in range(count)]
