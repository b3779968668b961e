"""Folding a batch of records into what is to be written: pure, no database in sight.

A batch starts from the statuses that it needs, folds every record in order, and ends as rows: one per job
that changed, however often it changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from jobledger.projections.merkle.tree import TreeStep
from jobledger.store.model.events import JobEvent, Read, Record, Recorded, SpecData, job_named, read_record
from jobledger.store.model.fold import Anomaly, SpecHead, after_anomaly, fold, spec_head
from jobledger.store.model.job import JobStatus

SpecRow = tuple[int, int, int, int, bytes]  # sequence, created_sequence, version, time, spec
LabelRow = tuple[int, str, str]  # created_sequence, key, value


class Folded(NamedTuple):
    """One event that changed a job, with what the job became by it."""

    record: Record
    event: JobEvent
    status: JobStatus


class Hole(NamedTuple):
    """Sequences that the log no longer holds."""

    first: int
    last: int


class StepBack(NamedTuple):
    """An event whose stream time is before that of the event before it: a server's clock was set back."""

    sequence: int
    nanoseconds: int  # by how much


class Batch(msgspec.Struct):
    """What a run of records comes to.

    Attributes:
        lost: the jobs of which no creating event can be read, as they are now, by `lost_key`.
        found: those of them that are created now, by `lost_key`.
        thawed: jobs that are no longer frozen, with a spec that came before this batch, and whether they are
            new; see `resolve_thawed`.
        created: jobs that are new, with the head of their current spec.
        respecified: jobs that were there and have a new spec, with its head.
        restated: jobs that were there and have a new state or a new tag only.
        specs: every spec that came, of every version.
        anomalies: events that made no sense.
        statuses: the last status of every job touched.
        last_sequence: of the last record.
        last_time: the stream's time of that record; 0 if it was not told.
        folded: every event that changed a job, in order; None unless somebody asked for them.
        holes: sequences that were missing between the records.
        tree: what the records add to the Merkle tree; None if none is kept.
    """

    created: dict[str, tuple[JobStatus, SpecHead]]
    spec_changed: dict[str, tuple[JobStatus, SpecHead]]
    state_changed: dict[str, JobStatus]
    specs: list[SpecRow]
    anomalies: list[Anomaly]
    statuses: dict[str, JobStatus]
    last_sequence: int
    last_time: int = 0
    folded: list[Folded] | None = None
    tree: TreeStep | None = None
    lost: dict[str, JobStatus] = {}
    found: set[str] = msgspec.field(default_factory=set)
    thawed: dict[str, tuple[JobStatus, bool]] = {}
    holes: list[Hole] = []


def read_all(records: Iterable[Record]) -> list[Read]:
    """The events of records, or what else they are."""
    return [read_record(record) for record in records]


def holes_in(records: Sequence[Record], after: int) -> list[Hole]:
    """The sequences that are missing between a sequence and records, and between the records."""
    if records[-1].sequence == after + len(records):  # sequences only rise
        return []
    holes: list[Hole] = []
    for record in records:
        if record.sequence != after + 1:
            holes.append(Hole(after + 1, record.sequence - 1))
        after = record.sequence
    return holes


def steps_back(records: Iterable[Record], time: int) -> list[StepBack]:
    """The records whose stream time is before that of the one before them, after a record of this time."""
    found: list[StepBack] = []
    for record in records:
        if record.time < time:
            found.append(StepBack(record.sequence, time - record.time))
        time = record.time
    return found


def jobs_named(events: Iterable[Read]) -> set[str]:
    """The ids of the jobs on whose subjects these records are, whose statuses the batch will need."""
    return {job_named(event) for event in events} - {""}


def lost_key(namespace: str, job_id: str) -> str:
    """Under what the status of a lost job is kept among statuses by id.

    Several namespaces may have lost a job of one id, and none of them holds up the job that is created.
    """
    return f"{namespace}\0{job_id}"


def fold_batch(
    events: Sequence[Read],
    known: Mapping[str, JobStatus],
    records: Sequence[Record] = (),
    *,
    onto: Batch | None = None,
) -> Batch:
    """Fold events, in the order of the stream, on top of the statuses that were known before.

    Args:
        events: what is folded.
        known: the statuses of their jobs before; those in `onto` need not be there.
        records: those that the events were read from, if the batch is to tell what each event did.
        onto: a batch that is not written yet, to go on with; None: begin a new one.
    """
    batch = onto if onto is not None else Batch({}, {}, {}, [], [], {}, 0)
    batch.last_sequence = events[-1].sequence
    folded: list[Folded] = []
    for index, recorded in enumerate(events):
        before, after = _fold_one(batch, known, recorded)
        if after is None or after is before:
            continue
        if records and isinstance(recorded, Recorded) and after.sequence == recorded.sequence:
            folded.append(Folded(records[index], recorded.event, after))
    if records:
        batch.folded = folded
    return batch


def label_rows(jobs: Iterable[tuple[JobStatus, SpecHead]]) -> list[LabelRow]:
    """The labels of jobs' current specs."""
    return [
        (status.created_sequence, key, value)
        for status, head in jobs
        for key, value in sorted(head.labels.items())
    ]


def _fold_one(
    batch: Batch, known: Mapping[str, JobStatus], recorded: Read
) -> tuple[JobStatus | None, JobStatus | None]:
    """Fold one record on top of a batch; the job before and after it."""
    statuses, job_id = batch.statuses, job_named(recorded)
    before = statuses.get(job_id) or known.get(job_id)
    lost_before: JobStatus | None = None
    if before is None:
        key = lost_key(_namespace_of(recorded), job_id)
        lost_before = statuses.get(key) or known.get(key)
    folded = fold(before or lost_before, recorded)
    if isinstance(folded, Anomaly):
        batch.anomalies.append(folded)
        after = after_anomaly(before or lost_before, recorded)
    else:
        after = folded
    if after is None or after is (before or lost_before):
        return after, after
    _note_spec(batch, recorded, after)
    if after.is_lost:
        statuses[key] = batch.lost[key] = after
        return lost_before, after
    if lost_before is not None:
        batch.found.add(key)
        batch.lost.pop(key, None)
        statuses.pop(key, None)
    statuses[job_id] = after
    _note(batch, before, after)
    return before, after


def _namespace_of(recorded: Read) -> str:
    return recorded.event.namespace if isinstance(recorded, Recorded) else recorded.namespace


def resolve_thawed(batch: Batch, specs: Mapping[int, bytes]) -> None:
    """Enter jobs that are no longer frozen under the kind of write that they need.

    Args:
        batch: with jobs in `thawed`.
        specs: theirs, by the sequence that set them.
    """
    for job_id, (status, is_new) in batch.thawed.items():
        head = spec_head(specs[status.spec_sequence])
        if is_new or job_id in batch.created:
            batch.created[job_id] = (status, head)
        else:
            batch.state_changed.pop(job_id, None)
            batch.spec_changed[job_id] = (status, head)
    batch.thawed.clear()


def _note_spec(batch: Batch, recorded: Read, status: JobStatus) -> None:
    """Keep the spec that an event brought, also one that a frozen job only has beyond its quarantine."""
    if not (isinstance(recorded, Recorded) and isinstance(recorded.event.data, SpecData)):
        return
    real = status.quarantine.beyond if status.quarantine is not None else status
    if real is not None and real.spec_sequence == recorded.sequence:
        spec = bytes(recorded.event.data.spec)
        batch.specs.append((recorded.sequence, real.created_sequence, real.version, recorded.time, spec))


def _note(batch: Batch, before: JobStatus | None, status: JobStatus) -> None:
    """Enter a changed status under the kind of write that it needs."""
    job_id = status.id
    if before is None or before.spec_sequence != status.spec_sequence:
        is_new = before is None or job_id in batch.created or batch.thawed.pop(job_id, (None, False))[1]
        at = status.spec_sequence
        spec = next((row[-1] for row in reversed(batch.specs) if row[0] == at), None)
        if spec is None:  # of a job that is no longer frozen, brought before this batch
            batch.thawed[job_id] = (status, is_new)
        elif is_new:
            batch.created[job_id] = (status, spec_head(spec))
        else:
            batch.state_changed.pop(job_id, None)
            batch.spec_changed[job_id] = (status, spec_head(spec))
    elif job_id in batch.thawed:
        batch.thawed[job_id] = (status, batch.thawed[job_id][1])
    elif job_id in batch.created:
        batch.created[job_id] = (status, batch.created[job_id][1])
    elif job_id in batch.spec_changed:
        batch.spec_changed[job_id] = (status, batch.spec_changed[job_id][1])
    else:
        batch.state_changed[job_id] = status
