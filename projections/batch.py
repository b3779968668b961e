"""Folding a batch of records into the rows to write: one per job that changed, however often. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from jobledger.projections.merkle.tree import TreeStep
from jobledger.store.model.events import JobEvent, Read, Record, Recorded, SpecData, job_named, read_record
from jobledger.store.model.fold import Anomaly, SpecHead, after_anomaly, fold, spec_head
from jobledger.store.model.job import JobStatus

SpecRow = tuple[int, int, int, int, bytes]  # sequence, created_sequence, version, time, spec
LabelRow = tuple[int, str, str]  # created_sequence, key, value


class NumberedEvent(msgspec.Struct, frozen=True, gc=False):
    """One event that changed a job, with the job's numbers after it.

    Attributes:
        record: the record.
        event: its event.
        name: of the job.
        revision: of the job after the event.
        version: of the job after the event.
        is_exact: whether the payload is known to be `encode_event` of the event.
    """

    record: Record
    event: JobEvent
    name: str
    revision: int
    version: int
    is_exact: bool = False


class Folded(NamedTuple):
    """An event that changed a job, with the status after it."""

    record: Record
    event: JobEvent
    status: JobStatus


class Hole(NamedTuple):
    """A range of sequences that the log no longer holds."""

    first: int
    last: int


class ClockStep(NamedTuple):
    """An event whose stream time is earlier than that of the previous event: a server clock was set back."""

    sequence: int
    nanoseconds: int  # size of the step


class Batch(msgspec.Struct):
    """The changes that a run of records makes to the view.

    Attributes:
        created: new jobs, with the head of their current spec.
        spec_changed: existing jobs with a new spec, with its head.
        state_changed: existing jobs with a new state or tag only.
        specs: all new specs, of every version.
        anomalies: events that contradict the state of their job.
        statuses: the last status of every job touched; lost jobs by `lost_key`.
        last_sequence: of the last record.
        last_time: stream time of that record; 0 if unknown.
        clock_steps: number of records whose stream time is earlier than that of the record before.
        folded: the events that changed a job, in order; None if not requested.
        tree: the step of the Merkle tree; None if the view keeps no tree.
        lost: jobs whose creating event cannot be read, by `lost_key`.
        recovered: keys of lost jobs that have been created since.
        released: jobs that left quarantine whose spec was set before this batch, and whether the job is new;
            `resolve_released` moves them to `created` or `spec_changed`.
        holes: sequences missing between the records.
    """

    created: dict[str, tuple[JobStatus, SpecHead]] = {}
    spec_changed: dict[str, tuple[JobStatus, SpecHead]] = {}
    state_changed: dict[str, JobStatus] = {}
    specs: list[SpecRow] = []
    anomalies: list[Anomaly] = []
    statuses: dict[str, JobStatus] = {}
    last_sequence: int = 0
    last_time: int = 0
    clock_steps: int = 0
    folded: list[Folded] | None = None
    tree: TreeStep | None = None
    lost: dict[str, JobStatus] = {}
    recovered: set[str] = msgspec.field(default_factory=set)
    released: dict[str, tuple[JobStatus, bool]] = {}
    holes: list[Hole] = []


def read_events(records: Iterable[Record]) -> list[Read]:
    """Decode records."""
    return [read_record(record) for record in records]


def find_holes(records: Sequence[Record], after: int) -> list[Hole]:
    """The sequences missing between `after` and the last record."""
    if records[-1].sequence == after + len(records):  # sequences only increase
        return []
    holes: list[Hole] = []
    for record in records:
        if record.sequence != after + 1:
            holes.append(Hole(after + 1, record.sequence - 1))
        after = record.sequence
    return holes


def find_clock_steps(records: Iterable[Record], time: int) -> list[ClockStep]:
    """The records whose stream time is earlier than that of the previous record, which had `time`."""
    found: list[ClockStep] = []
    for record in records:
        if record.time < time:
            found.append(ClockStep(record.sequence, time - record.time))
        time = record.time
    return found


def job_ids_in(events: Iterable[Read]) -> set[str]:
    """The ids of the jobs whose statuses are needed to fold these events."""
    return {event.event.subject if type(event) is Recorded else job_named(event) for event in events} - {""}


def lost_key(namespace: str, job_id: str) -> str:
    """The key of a lost job among statuses by id.

    Jobs of several namespaces can be lost under the same id; none of them may block the job that is created.
    """
    return f"{namespace}\0{job_id}"


def fold_batch(
    events: Sequence[Read],
    known: Mapping[str, JobStatus],
    records: Sequence[Record] = (),
    *,
    onto: Batch | None = None,
) -> Batch:
    """Fold events in stream order.

    Args:
        events: to fold.
        known: the statuses of their jobs before the batch, unless `onto` has them.
        records: the records of the events; if given, `Batch.folded` is filled.
        onto: an unwritten batch to extend; None for a new one.
    """
    batch = onto if onto is not None else Batch()
    batch.last_sequence = events[-1].sequence
    folded: list[Folded] = []
    statuses = batch.statuses
    for index, recorded in enumerate(events):
        job_id = job_named(recorded)
        before = statuses.get(job_id) or known.get(job_id)
        after = fold(before, recorded) if before is not None else None
        if before is not None and type(after) is JobStatus:  # the usual case
            if after is before:
                continue
            if after.spec_sequence != before.spec_sequence or after.quarantine is not None:
                _record_spec(batch, recorded, after)
            statuses[job_id] = after
            _record_change(batch, before, after)
        else:
            before, after = _fold_other(batch, known, recorded, before, after)
            if after is None or after is before:
                continue
        if records and isinstance(recorded, Recorded) and after.sequence == recorded.sequence:
            folded.append(Folded(records[index], recorded.event, after))
    if records:
        batch.folded = folded
    return batch


def label_rows(jobs: Iterable[tuple[JobStatus, SpecHead]]) -> list[LabelRow]:
    """The rows of the table `labels` for jobs' current specs."""
    return [
        (status.created_sequence, key, value)
        for status, head in jobs
        for key, value in sorted(head.labels.items())
    ]


def resolve_released(batch: Batch, specs: Mapping[int, bytes]) -> None:
    """Move jobs in `released` to the kind of write that they need."""
    for job_id, (status, is_new) in batch.released.items():
        head = spec_head(specs[status.spec_sequence])
        if is_new or job_id in batch.created:
            batch.created[job_id] = (status, head)
        else:
            batch.state_changed.pop(job_id, None)
            batch.spec_changed[job_id] = (status, head)
    batch.released.clear()


def _fold_other(
    batch: Batch,
    known: Mapping[str, JobStatus],
    recorded: Read,
    before: JobStatus | None,
    folded: JobStatus | Anomaly | None,
) -> tuple[JobStatus | None, JobStatus | None]:
    """Finish an event that is an anomaly, or fold one whose job is unknown or lost.

    Returns the status before and after it.
    """
    statuses, job_id = batch.statuses, job_named(recorded)
    lost_before: JobStatus | None = None
    if before is None:
        key = lost_key(_namespace_of(recorded), job_id)
        lost_before = statuses.get(key) or known.get(key)
        folded = fold(lost_before, recorded)
    if isinstance(folded, Anomaly):
        batch.anomalies.append(folded)
        after = after_anomaly(before or lost_before, recorded)
    else:
        after = folded
    if after is None or after is (before or lost_before):
        return after, after
    _record_spec(batch, recorded, after)
    if after.is_lost:
        statuses[key] = batch.lost[key] = after
        return lost_before, after
    if lost_before is not None:
        batch.recovered.add(key)
        batch.lost.pop(key, None)
        statuses.pop(key, None)
    statuses[job_id] = after
    _record_change(batch, before, after)
    return before, after


def _namespace_of(recorded: Read) -> str:
    return recorded.event.namespace if isinstance(recorded, Recorded) else recorded.namespace


def _record_spec(batch: Batch, recorded: Read, status: JobStatus) -> None:
    """Keep the spec of an event, including one that a job in quarantine has only beyond its quarantine."""
    if not (isinstance(recorded, Recorded) and isinstance(recorded.event.data, SpecData)):
        return
    real = status.quarantine.beyond if status.quarantine is not None else status
    if real is not None and real.spec_sequence == recorded.sequence:
        spec = bytes(recorded.event.data.spec)
        batch.specs.append((recorded.sequence, real.created_sequence, real.version, recorded.time, spec))


def _record_change(batch: Batch, before: JobStatus | None, status: JobStatus) -> None:
    """File a changed status under the kind of write that it needs."""
    job_id = status.id
    if (
        before is not None
        and before.spec_sequence == status.spec_sequence
        and not (batch.created or batch.spec_changed or batch.released)
    ):
        batch.state_changed[job_id] = status
    elif before is None or before.spec_sequence != status.spec_sequence:
        is_new = before is None or job_id in batch.created or batch.released.pop(job_id, (None, False))[1]
        at = status.spec_sequence
        spec = next((row[-1] for row in reversed(batch.specs) if row[0] == at), None)
        if spec is None:  # a job that left quarantine; its spec was set before this batch
            batch.released[job_id] = (status, is_new)
        elif is_new:
            batch.created[job_id] = (status, spec_head(spec))
        else:
            batch.state_changed.pop(job_id, None)
            batch.spec_changed[job_id] = (status, spec_head(spec))
    elif job_id in batch.released:
        batch.released[job_id] = (status, batch.released[job_id][1])
    elif job_id in batch.created:
        batch.created[job_id] = (status, batch.created[job_id][1])
    elif job_id in batch.spec_changed:
        batch.spec_changed[job_id] = (status, batch.spec_changed[job_id][1])
    else:
        batch.state_changed[job_id] = status
