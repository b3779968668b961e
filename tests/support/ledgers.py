"""Reading a log, and writing to it without the ledger."""

from collections.abc import Sequence

from jobledger import HistoryItem, Ledger
from jobledger.store.log import Appended, EventLog, PendingEvent
from jobledger.store.model.events import Record, decode_event
from jobledger.store.model.subjects import job_subject
from tests.support.histories import records_of

__all__ = ["event_id", "event_ids", "full_history", "put", "put_junk", "records_of"]


def event_id(number: int) -> str:
    """Return a UUIDv7 for use as an event id."""
    return f"0190a5b2-7c3d-7e4f-8a5b-{number:012x}"


async def put(log: EventLog, draft: PendingEvent) -> int:
    """Append to a subject without the ledger; returns the sequence."""
    last = await log.read_last(draft.subject)
    outcome = await log.append(draft, expect=last.sequence if last is not None else 0)
    assert isinstance(outcome, Appended)
    return outcome.sequence


async def put_junk(log: EventLog, job_id: str, number: int = 1, namespace: str = "default") -> int:
    """Append a record that is not an event to the subject of a job."""
    return await put(
        log, PendingEvent(job_subject(namespace, job_id), f"junk-{namespace}-{number}", b"\xff junk")
    )


async def full_history(ledger: Ledger, job_id: str, **where: str) -> list[HistoryItem]:
    """Return a job's whole history."""
    return [item async for item in ledger.history(job_id, **where)]  # type: ignore[arg-type]


def event_ids(records: Sequence[Record]) -> list[str]:
    """Return the event ids of records."""
    return [decode_event(record.payload).id for record in records]
