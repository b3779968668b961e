"""The chain of a job's events: each names its predecessor in `previous`, so an omitted one shows. Pure.

`build_event_chain` folds and checks the records of a proof bundle. `LinkChecker` checks all jobs of a log.
"""

from collections.abc import Sequence

import msgspec

from jobledger.service.limits import AUDIT_LINKS_MAX
from jobledger.store.model.events import Record, Recorded, read_record
from jobledger.store.model.fold import Anomaly, after_anomaly, fold
from jobledger.store.model.job import JobStatus
from jobledger.store.model.limits import INT_MAX
from jobledger.store.model.subjects import parse_subject


class EventChain(msgspec.Struct, frozen=True, kw_only=True):
    """The result of folding a job's records.

    Attributes:
        status: the job after them; None if they never create one. `quarantine` is set if it is frozen.
        anomalies: the number of records that were invalid for the state of the job, and changed nothing.
        problem: why the records can't be complete; empty if they can.
        unlinked: the number of records that name no predecessor: other programs, or old releases, wrote them.
            The bundle does not show whether a record was omitted before these.
    """

    status: JobStatus | None
    anomalies: int
    problem: str
    unlinked: int


def build_event_chain(records: Sequence[Record]) -> EventChain:
    """Fold the records of one subject, oldest first, and follow the predecessors that they name."""
    status: JobStatus | None = None
    anomalies = unlinked = revision = before = 0
    problem = ""
    for record in records:
        recorded = read_record(record)
        named = _predecessor(recorded.event.previous) if isinstance(recorded, Recorded) else None
        if named is None or (named == 0 and before):
            unlinked += 1
        elif named != before and not problem:
            problem = _gap(record.sequence, named, before)
        folded = fold(status, recorded)
        if isinstance(folded, Anomaly):
            anomalies += 1
            status = after_anomaly(status, recorded)
        else:
            # A tag keeps the revision; every other event raises it by one at most. While a job is in
            # quarantine, its revision continues in `beyond`, which an accepted event makes current.
            beyond = _beyond(folded)
            if beyond is not None and beyond.revision not in {revision, revision + 1} and not problem:
                problem = f"event {record.sequence} leads from revision {revision} to {beyond.revision}"
            status, revision = folded, beyond.revision if beyond is not None else revision
        before = record.sequence
    status = None if status is not None and status.is_lost and status.quarantine is None else status
    return EventChain(status=status, anomalies=anomalies, problem=problem, unlinked=unlinked)


def names_previous(record: Record) -> bool:
    """Whether a record names a predecessor."""
    recorded = read_record(record)
    return isinstance(recorded, Recorded) and bool(recorded.event.previous)


def _beyond(status: JobStatus) -> JobStatus | None:
    return status.quarantine.beyond if status.quarantine is not None else status


def _gap(sequence: int, named: int, before: int) -> str:
    had = f"the record before it in the bundle is {before}" if before else "it is the first in the bundle"
    return f"event {sequence} names event {named} as its predecessor, but {had}: events were omitted"


def _predecessor(text: str) -> int | None:
    """The sequence in `previous`; 0 if it is empty (the first event), None if it is not a sequence."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or text[0] == "0" or len(text) > len(str(INT_MAX)):
        return None
    return int(text)


class _Link(msgspec.Struct, gc=False):
    previous: str = ""


_decoder = msgspec.json.Decoder(_Link)


class BrokenLink(msgspec.Struct, frozen=True):
    """An event that names another predecessor than the log has.

    Attributes:
        sequence: of the event.
        named: the sequence it names.
        had: the job's last event before it; 0 if there is none.
        job_id: of the job; empty if the subject is not a job's.
    """

    sequence: int
    named: int
    had: int
    job_id: str


class LinkChecker:
    """Checks the predecessor of every event of a log.

    Remembers the last event of AUDIT_LINKS_MAX jobs. Beyond that it forgets the jobs without events for the
    longest time, and does not check the next event of such a job.

    Attributes:
        unchecked: the number of events that were not checked for that reason.
    """

    def __init__(self) -> None:
        self.unchecked = 0
        self._last: dict[str, int] = {}
        self._forgot = False

    def read(self, records: Sequence[Record]) -> list[BrokenLink]:
        """Check the next records of the log, and return the broken links."""
        broken: list[BrokenLink] = []
        last = self._last
        for record in records:
            had = last.pop(record.subject, None)
            last[record.subject] = record.sequence
            if len(last) > AUDIT_LINKS_MAX:
                del last[next(iter(last))]
                self._forgot = True
            named = _named_by(record.payload)
            if not named or named == had:
                continue  # events of old releases and of other programs name none
            if had is None and self._forgot:
                self.unchecked += 1
                continue
            parts = parse_subject(record.subject)
            job_id = parts.job_id if parts is not None else ""
            broken.append(BrokenLink(record.sequence, named, had or 0, job_id))
        return broken


def _named_by(payload: bytes) -> int:
    """The sequence that an event names; 0 if none, or if the payload is not an event."""
    try:
        return _predecessor(_decoder.decode(payload).previous) or 0
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
