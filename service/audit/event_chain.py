"""What the records of a bundle say together: whether one was left out, what the job was then. Pure."""

from collections.abc import Sequence

import msgspec

from jobledger.service.limits import AUDIT_LINKS_MAX
from jobledger.store.model.events import Record, Recorded, read_record
from jobledger.store.model.fold import Anomaly, after_anomaly, fold
from jobledger.store.model.job import JobStatus
from jobledger.store.model.limits import INT_MAX
from jobledger.store.model.subjects import parse_subject


class EventChain(msgspec.Struct, frozen=True, kw_only=True):
    """What records fold to.

    Attributes:
        status: the job at their end; None if they never made one. `quarantine` says whether it is frozen.
        anomalies: how many of them made no sense where they stand, and so changed nothing.
        problem: why they can't be the whole story up to the last of them; empty if nothing speaks against it.
        unlinked: how many do not say which record came before them: written by other programs, or by releases
            before this was kept. Whether one was left out before these, their bundle does not show.
    """

    status: JobStatus | None
    anomalies: int
    problem: str
    unlinked: int


def tell_story(records: Sequence[Record]) -> EventChain:
    """Fold records, and follow the chain that they name.

    Args:
        records: of one subject, oldest first.

    """
    status: JobStatus | None = None
    anomalies = unlinked = revision = before = 0
    problem = ""
    for record in records:
        recorded = read_record(record)
        named = _previous(recorded.event.previous) if isinstance(recorded, Recorded) else None
        if named is None or (named == 0 and before):
            unlinked += 1
        elif named != before and not problem:
            problem = _gap(record.sequence, named, before)
        folded = fold(status, recorded)
        if isinstance(folded, Anomaly):
            anomalies += 1
            status = after_anomaly(status, recorded)
        else:
            # A tag leaves the revision as it is; no event of ours takes it further than to the next. That of
            # a job in quarantine goes on beyond it, and an accepted event brings it to light.
            beyond = _beyond(folded)
            if beyond is not None and beyond.revision not in {revision, revision + 1} and not problem:
                problem = f"event {record.sequence} leads from revision {revision} to {beyond.revision}"
            status, revision = folded, beyond.revision if beyond is not None else revision
        before = record.sequence
    status = None if status is not None and status.is_lost and status.quarantine is None else status
    return EventChain(status=status, anomalies=anomalies, problem=problem, unlinked=unlinked)


def _beyond(status: JobStatus) -> JobStatus | None:
    return status.quarantine.beyond if status.quarantine is not None else status


def names_previous(record: Record) -> bool:
    """Whether a record says that another one of its subject came before it."""
    recorded = read_record(record)
    return isinstance(recorded, Recorded) and bool(recorded.event.previous)


def _previous(text: str) -> int | None:
    """The sequence that an event names; 0: it says that there is none; None: it names none that could be."""
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or text[0] == "0" or len(text) > len(str(INT_MAX)):
        return None
    return int(text)


def _gap(sequence: int, named: int, before: int) -> str:
    had = f"the record before it here is {before}" if before else "it is the first one here"
    return f"event {sequence} says that the job's event before it is {named}, and {had}: events were left out"


class _Named(msgspec.Struct, gc=False):
    previous: str = ""


_decoder = msgspec.json.Decoder(_Named)


class BrokenLink(msgspec.Struct, frozen=True):
    """An event that names another one than the log has before it.

    Attributes:
        sequence: of the event.
        named: what it names.
        had: the last event of the job that was read before it; 0: none.
        job_id: of the job; empty if the subject names none.
    """

    sequence: int
    named: int
    had: int
    job_id: str


class Links:
    """Follows the events of every job.

    Of more than AUDIT_LINKS_MAX jobs, those that were quiet longest are forgotten, and the next event of such
    a job is not checked.

    Attributes:
        unchecked: events that could not be checked for that reason.
    """

    def __init__(self) -> None:
        self.unchecked = 0
        self._last: dict[str, int] = {}
        self._forgot = False

    def read(self, records: Sequence[Record]) -> list[BrokenLink]:
        """Follow records, in the order of the log; those that name another event than they follow."""
        broken: list[BrokenLink] = []
        last = self._last
        for record in records:
            had = last.pop(record.subject, None)
            last[record.subject] = record.sequence
            if len(last) > AUDIT_LINKS_MAX:
                del last[next(iter(last))]
                self._forgot = True
            named = _named_sequence(record.payload)
            if not named or named == had:
                continue  # events of early releases, and of other programs, name none
            if had is None and self._forgot:
                self.unchecked += 1
                continue
            parts = parse_subject(record.subject)
            job_id = parts.job_id if parts is not None else ""
            broken.append(BrokenLink(record.sequence, named, had or 0, job_id))
        return broken


def _named_sequence(payload: bytes) -> int:
    """The sequence that an event names; 0 if it names none, or is no event of ours."""
    try:
        text = _decoder.decode(payload).previous
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    if not (text.isascii() and text.isdigit()) or text[0] == "0" or len(text) > len(str(INT_MAX)):
        return 0
    return int(text)
