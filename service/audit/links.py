"""Whether each event names the one before it of its job: what `previous` says, held against the log. Pure."""

from collections.abc import Sequence

import msgspec

from jobledger.service.limits import AUDIT_LINKS_MAX
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import parse_subject
from jobledger.store.spec.values import INT_MAX


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
            named = _previous(record.payload)
            if not named or named == had:
                continue  # events of early releases, and of other programs, name none
            if had is None and self._forgot:
                self.unchecked += 1
                continue
            parts = parse_subject(record.subject)
            job_id = parts.job_id if parts is not None else ""
            broken.append(BrokenLink(record.sequence, named, had or 0, job_id))
        return broken


def _previous(payload: bytes) -> int:
    """The sequence that an event names; 0 if it names none, or is no event of ours."""
    try:
        text = _decoder.decode(payload).previous
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0
    if not (text.isascii() and text.isdigit()) or text[0] == "0" or len(text) > len(str(INT_MAX)):
        return 0
    return int(text)
