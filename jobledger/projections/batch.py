"""Folding a batch of records into what is to be written: pure, no database in sight.

A batch starts from the statuses that it needs, folds every record in order, and ends as rows: one per job
that changed, however often it changed.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from jobledger.projections.tree import TreeStep
from jobledger.store.events import JobEvent, Record, Recorded, SpecData, Unreadable, read_record
from jobledger.store.fold import Anomaly, SpecHead, fold, spec_head
from jobledger.store.job import JobStatus

SpecRow = tuple[int, int, int, int, bytes]  # sequence, created_sequence, version, time, spec
LabelRow = tuple[int, str, str]  # created_sequence, key, value


class Folded(NamedTuple):
    """One event that changed a job, with what the job became by it."""

    record: Record
    event: JobEvent
    status: JobStatus


class Batch(msgspec.Struct):
    """What a run of records comes to.

    Attributes:
        created: jobs that are new, with the head of their current spec.
        respecified: jobs that were there and have a new spec, with its head.
        restated: jobs that were there and have a new state or a new tag only.
        specs: every spec that came, of every version.
        anomalies: events that made no sense.
        statuses: the last status of every job touched.
        last_sequence: of the last record.
        last_time: the stream's time of that record; 0 if it was not told.
        folded: every event that changed a job, in order; None unless somebody asked for them.
        tree: what the records add to the Merkle tree; None if none is kept.
    """

    created: dict[str, tuple[JobStatus, SpecHead]]
    respecified: dict[str, tuple[JobStatus, SpecHead]]
    restated: dict[str, JobStatus]
    specs: list[SpecRow]
    anomalies: list[Anomaly]
    statuses: dict[str, JobStatus]
    last_sequence: int
    last_time: int = 0
    folded: list[Folded] | None = None
    tree: TreeStep | None = None


def read_all(records: Iterable[Record]) -> list[Recorded | Unreadable]:
    """The events of records.

    Raises:
        UnknownEventType: if a newer release wrote one of them.
    """
    return [read_record(record) for record in records]


def jobs_named(events: Iterable[Recorded | Unreadable]) -> set[str]:
    """The ids of the jobs that these events are about, whose statuses the batch will need."""
    return {event.event.subject for event in events if isinstance(event, Recorded)}


def fold_batch(
    events: Sequence[Recorded | Unreadable],
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
    statuses = batch.statuses
    for index, recorded in enumerate(events):
        if isinstance(recorded, Unreadable):
            batch.anomalies.append(Anomaly(recorded.sequence, recorded.job_id, recorded.reason))
            continue
        job_id = recorded.event.subject
        before = statuses.get(job_id) or known.get(job_id)
        status = fold(before, recorded)
        if isinstance(status, Anomaly):
            batch.anomalies.append(status)
        elif status is not before:
            statuses[job_id] = status
            _note(batch, recorded, status, is_new=before is None)
            if records:
                folded.append(Folded(records[index], recorded.event, status))
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


def _note(batch: Batch, recorded: Recorded, status: JobStatus, *, is_new: bool) -> None:
    """Enter a changed status under the kind of write that it needs."""
    job_id = status.id
    data = recorded.event.data
    if not isinstance(data, SpecData):
        if job_id in batch.created:
            batch.created[job_id] = (status, batch.created[job_id][1])
        elif job_id in batch.respecified:
            batch.respecified[job_id] = (status, batch.respecified[job_id][1])
        else:
            batch.restated[job_id] = status
        return
    spec = data.spec
    batch.specs.append(
        (recorded.sequence, status.created_sequence, status.version, recorded.time, bytes(spec))
    )
    head = spec_head(spec)
    if is_new or job_id in batch.created:
        batch.created[job_id] = (status, head)
    else:
        batch.restated.pop(job_id, None)
        batch.respecified[job_id] = (status, head)
