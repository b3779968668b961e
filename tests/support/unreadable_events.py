"""Logs with unreadable events and with holes."""

from collections.abc import Sequence

import msgspec

from jobledger import MemoryLog
from jobledger.store.log import Appended, EventLog, PendingEvent
from jobledger.store.model.events import AcceptData, EventClass, EventData, JobAccepted, Record
from jobledger.store.model.subjects import job_subject
from tests.support.histories import draft


class HoleyLog(MemoryLog):
    """A log that has lost some of its records; `lost` holds their sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.lost: set[int] = set()

    def left(self) -> list[Record]:
        """Return all readable records."""
        return [record for record in self._records if record.sequence not in self.lost]

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """Return the remaining records of a page."""
        page = await super().read(subject, after=after, up_to=up_to)
        return [record for record in page if record.sequence not in self.lost]

    async def read_last(self, subject: str) -> Record | None:
        """Return the last remaining record."""
        page = await self.read(subject)
        return page[-1] if page else None

    async def read_at(self, sequence: int) -> Record | None:
        """Return the record, if it remains."""
        return None if sequence in self.lost else await super().read_at(sequence)

    async def wait_beyond(self, sequence: int, max_records: int) -> Sequence[Record]:
        """Return the remaining next records."""
        while True:
            records = await super().wait_beyond(sequence, max_records)
            left = [record for record in records if record.sequence not in self.lost]
            if left:
                return left
            sequence = records[-1].sequence


class Writer:
    """Appends events of one job like another writer: each names the previous one."""

    def __init__(self, log: EventLog, job_id: str, namespace: str = "default") -> None:
        self.log = log
        self.job_id = job_id
        self.subject = job_subject(namespace, job_id)
        self._namespace = namespace
        self._number = 1_000
        self.last = 0

    async def write(self, kind: EventClass, data: EventData, *, previous: int | None = None) -> int:
        """Append an event; returns its sequence."""
        return await self.write_raw(self.payload(kind, data, previous=previous))

    def payload(self, kind: EventClass, data: EventData, *, previous: int | None = None) -> bytes:
        """Return an encoded event."""
        written = draft(kind, self.job_id, data, 1, self._namespace)
        wire = msgspec.json.decode(written.payload)
        before = self.last if previous is None else previous
        return msgspec.json.encode(wire | ({"previous": str(before)} if before else {}))

    async def write_unknown(self, kind: str = "jobledger.job.paused.v1", **fields: object) -> int:
        """Append a well-formed event of an unknown type."""
        wire = msgspec.json.decode(self.payload(JobAccepted, AcceptData(1)))
        return await self.write_raw(msgspec.json.encode(wire | {"type": kind, "data": {"Why": "x"}} | fields))

    async def accept(self, sequence: int) -> int:
        """Append the acceptance of an event."""
        return await self.write(JobAccepted, AcceptData(sequence))

    async def write_raw(self, payload: bytes) -> int:
        """Append any payload to the job's subject."""
        self._number += 1
        event_id = f"{self._namespace}-{self.job_id}-{self._number}"
        outcome = await self.log.append(PendingEvent(self.subject, event_id, payload), expect=self.last)
        assert isinstance(outcome, Appended)
        self.last = outcome.sequence
        return outcome.sequence
