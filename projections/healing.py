"""Refolding the jobs in quarantine after an upgrade or a repair of the log.

    quarantined jobs, page by page ─► read the job's subject up to the checkpoint ─► fold
        ─► replace the job's rows if they differ, in one transaction per job

Only the histories of these jobs are read. Afterwards the view equals one that this release rebuilds from the
same log.
"""

import hashlib
import logging
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from jobledger.projections.batch import Batch, fold_batch, lost_key, read_events
from jobledger.projections.limits import HEAL_PAGE_JOBS, QUARANTINE_LOG_LINES
from jobledger.projections.writer import ViewWriter
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog
from jobledger.store.model.errors import LogDamaged
from jobledger.store.model.events import EVENT_TYPES, Record, event_type
from jobledger.store.model.job import JobStatus
from jobledger.store.model.limits import READ_PAGE_EVENTS
from jobledger.store.model.subjects import job_subject

VOCABULARY: Final = hashlib.sha256(
    "\n".join(sorted(event_type(kind) for kind in EVENT_TYPES)).encode()
).hexdigest()[:16]
"""Identifies the event types of this release; a view folded with other event types is healed when opened."""

_log = logging.getLogger("jobledger.projector")


class Healed(NamedTuple):
    """The result of healing a view.

    Attributes:
        jobs: refolded jobs.
        changed: jobs whose rows changed.
        quarantined: jobs that are still in quarantine.
    """

    jobs: int = 0
    changed: int = 0
    quarantined: int = 0


async def heal_view(log: EventLog, writer: ViewWriter) -> Healed:
    """Refold every quarantined job of a view up to its checkpoint. The writer must be idle."""
    jobs = changed = quarantined = 0
    async for status in _quarantined(writer):
        jobs += 1
        try:
            batch, sequences = await _refold(log, status, writer.sequence)
        except LogDamaged as error:
            _log.warning("job %s cannot be refolded: %s", status.id, error)
            quarantined += 1
            continue
        key = lost_key(status.namespace, status.id)
        after = batch.statuses.get(status.id) or batch.statuses.get(key)
        if after == status:
            quarantined += 1
            continue
        await writer.replace_job(status, batch, sequences)
        changed += 1
        quarantined += after is not None and after.quarantine is not None
        if changed <= QUARANTINE_LOG_LINES:
            _log.info("job %s in namespace %s was refolded", status.id, status.namespace)
    return Healed(jobs, changed, quarantined)


async def _quarantined(writer: ViewWriter) -> AsyncIterator[JobStatus]:
    after = 0
    while page := await writer.quarantined(after, HEAL_PAGE_JOBS):
        for status in page:
            yield status
        after = page[-1].created_sequence
    last = ("", "")
    while lost := await writer.lost_jobs(last, HEAL_PAGE_JOBS):
        for status in lost:
            yield status
        last = (lost[-1].id, lost[-1].namespace)


async def _refold(log: EventLog, status: JobStatus, up_to: int) -> tuple[Batch, list[int]]:
    """Fold all of a job's events up to a sequence from scratch; returns their sequences, too."""
    batch = Batch()
    subject = job_subject(status.namespace, status.id)
    last = await log.read_last(subject)
    page: list[Record] = []
    sequences: list[int] = []
    if last is not None:
        async for record in records_between(log, subject, after=0, up_to=min(last.sequence, up_to)):
            page.append(record)
            sequences.append(record.sequence)
            if len(page) == READ_PAGE_EVENTS:
                fold_batch(read_events(page), {}, onto=batch)
                page = []
    if page:
        fold_batch(read_events(page), {}, onto=batch)
    return batch, sequences
