"""A log in the memory of the process, for tests and experiments."""

import asyncio
import itertools
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence

from jobledger.store.log import (
    Appended,
    LogInfo,
    LogReader,
    PendingEvent,
    WrongSequence,
    check_continues,
    other_record,
)
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import READ_PAGE_EVENTS
from jobledger.store.model.subjects import ALL_SUBJECTS, subject_matches

_epochs = itertools.count(1)


class MemoryLog:
    """`EventLog` over a list.

    Args:
        clock: stream time of each append, Unix nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._records: list[Record] = []
        self._by_subject: dict[str, list[Record]] = defaultdict(list)
        self._event_ids: dict[str, tuple[int, int]] = {}  # event id → (expectation, sequence)
        self._grown = asyncio.Event()  # set by the next append, which replaces it
        self._epoch = f"memory-{next(_epochs)}"
        self._closed = False

    async def append(self, event: PendingEvent, *, expect: int) -> Appended | WrongSequence:
        """See `EventLog.append`."""
        self._check_open()
        history = self._by_subject[event.subject]
        last = history[-1].sequence if history else 0
        earlier = self._event_ids.get(event.event_id)
        if earlier is not None and expect in (earlier[0], last):  # an event id is never written twice
            return Appended(earlier[1])
        if last != expect:
            return WrongSequence(last)
        record = Record(len(self._records) + 1, self._clock(), event.subject, event.payload)
        self._records.append(record)
        history.append(record)
        self._event_ids[event.event_id] = (expect, record.sequence)
        self._wake()
        return Appended(record.sequence)

    @property
    def refusal(self) -> str:
        """See `EventLog.refusal`."""
        return ""

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """See `EventLog.read`."""
        self._check_open()
        end = len(self._records) if up_to is None else up_to
        page = (
            record
            for history in self._matching(subject)
            for record in history[bisect_right(history, after, key=_sequence) :]
            if record.sequence <= end
        )
        return sorted(page, key=_sequence)[:READ_PAGE_EVENTS]

    async def read_last(self, subject: str) -> Record | None:
        """See `EventLog.read_last`."""
        self._check_open()
        return max((history[-1] for history in self._matching(subject)), key=_sequence, default=None)

    async def read_at(self, sequence: int) -> Record | None:
        """See `EventLog.read_at`."""
        self._check_open()
        return self._records[sequence - 1] if 1 <= sequence <= len(self._records) else None

    async def read_next(self, subject: str, *, after: int) -> Record | None:
        """See `EventLog.read_next`."""
        return next(iter(await self.read(subject, after=after)), None)

    async def confirm_current(self) -> None:
        """See `EventLog.confirm_current`."""
        self._check_open()

    async def sequence_at(self, time: int) -> int:
        """See `EventLog.sequence_at`."""
        self._check_open()
        return next(
            (record.sequence - 1 for record in self._records if record.time > time), len(self._records)
        )

    @property
    def session(self) -> int:
        """See `EventLog.session`: memory is always reachable."""
        return 0

    async def info(self) -> LogInfo:
        """See `EventLog.info`."""
        self._check_open()
        return LogInfo(self._epoch, 1, len(self._records))

    async def continues(
        self, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
    ) -> LogInfo:
        """See `EventLog.continues`: there is no replica that can lag."""
        info = await self.info()
        check_continues(info, epoch=epoch, after=after)
        if same is not None and after and not same(self._records[after - 1]):
            raise other_record(after)
        return info

    async def follow(self, *, after: int, epoch: str | None = None) -> LogReader:
        """See `EventLog.follow`."""
        await self.continues(epoch=epoch, after=after)
        return _MemoryLogReader(self, after)

    async def close(self) -> None:
        """See `EventLog.close`."""
        self._closed = True
        self._wake()

    def _matching(self, subject: str) -> list[list[Record]]:
        """Return the histories of a subject, or of all subjects that match a filter."""
        if subject == ALL_SUBJECTS:
            return [history for history in self._by_subject.values() if history]
        if "*" not in subject:
            history = self._by_subject.get(subject)
            return [history] if history else []
        tokens = subject.split(".")
        return [
            history for name, history in self._by_subject.items() if history and subject_matches(tokens, name)
        ]

    async def wait_beyond(self, sequence: int, max_records: int) -> Sequence[Record]:
        """Wait for records after a sequence and return them."""
        while not self._closed and len(self._records) <= sequence:
            await self._grown.wait()
        self._check_open()
        return self._records[sequence : sequence + max_records]

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()

    def _check_open(self) -> None:
        if self._closed:
            raise LogUnavailable("the log is closed; nothing was written")


def _sequence(record: Record) -> int:
    return record.sequence


class _MemoryLogReader:
    def __init__(self, log: MemoryLog, after: int) -> None:
        self._log = log
        self._sequence = after

    @property
    def connected(self) -> bool:
        return True

    async def take(self, max_records: int) -> Sequence[Record]:
        records = await self._log.wait_beyond(self._sequence, max_records)
        self._sequence = records[-1].sequence
        return records

    def restart(self, reason: str) -> None:
        pass

    async def close(self) -> None:
        pass
