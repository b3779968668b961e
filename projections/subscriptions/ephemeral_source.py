"""The source of a subscription without a name: reads the log from a position on, and stores none."""

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from jobledger.projections.limits import (
    RECONNECT_MAX_WAIT_SECONDS,
    RECONNECT_WAIT_SECONDS,
    SUBSCRIPTION_BUFFER_BYTES,
    SUBSCRIPTION_BUFFER_EVENTS,
    SUBSCRIPTION_CHUNK_EVENTS,
)
from jobledger.store.backoff import Backoff
from jobledger.store.consumer import ConsumerInfo, ConsumerListener, Delivery
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog, LogReader
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import ALL_SUBJECTS, namespace_subjects, subject_matches


class EphemeralSource:
    """A `DurableConsumer` that reads the log and acknowledges nothing.

    Args:
        log: the log.
        subjects: subject filter of the deliveries.
        after: the sequence to start after.
        epoch: epoch of the log.
    """

    def __init__(self, log: EventLog, *, subjects: str, after: int, epoch: str) -> None:
        self._log = log
        self._tokens = subjects.split(".")
        self._subjects = subjects
        self._everything = subjects in (ALL_SUBJECTS, namespace_subjects(None))
        self._position = after  # sequence of the last record read
        self._epoch = epoch
        self._end = after  # last sequence of the log when the source was started
        self._buffer: deque[Delivery] = deque()
        self._buffered_bytes = 0
        self._room = asyncio.Event()
        self._reader: LogReader | None = None
        self._is_up = True
        self._task: asyncio.Task[None] | None = None
        self._caught_up = False
        self.lease_expires_at = math.inf
        self.error: LogError | None = None
        self.info = ConsumerInfo(name="")
        self.held = True
        self.others_waiting = 0
        self.claim_idle = self.at_quota = False

    @property
    def connected(self) -> bool:
        """See `DurableConsumer.connected`."""
        return self._is_up and (self._reader is None or self._reader.connected)

    @property
    def buffered(self) -> int:
        """See `DurableConsumer.buffered`."""
        return len(self._buffer)

    @property
    def pending(self) -> int:
        """Records that were in the log at the start and are not read yet."""
        return max(0, self._end - self._position)

    async def start(self, listener: ConsumerListener) -> None:
        """Start reading."""
        self._listener = listener
        listener.on_reset(position=self._position, kept=False)
        self._end = (await self._log.info()).last_sequence
        self._task = asyncio.create_task(self._run())

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """See `DurableConsumer.take`."""
        taken: list[Delivery] = []
        buffer, size = self._buffer, 0
        while buffer and len(taken) < max_events and size < max_bytes:
            delivery = buffer.popleft()
            size += len(delivery.payload)
            taken.append(delivery)
        self._buffered_bytes -= size
        self._room.set()
        return taken

    async def replenish(self) -> None:
        """Nothing to do: the log is read ahead in the background."""

    def mark_handled(self, delivery: Delivery) -> None:
        """Nothing to do: no position is stored."""

    async def acknowledge(self) -> None:
        """Nothing to do: no position is stored."""

    def release(self) -> None:
        """Nothing to do: no other process waits for this source."""

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._close_reader()

    async def _run(self) -> None:
        backoff = Backoff(RECONNECT_WAIT_SECONDS, RECONNECT_MAX_WAIT_SECONDS)
        try:
            while True:
                try:
                    async for record in self._records():
                        self._is_up = True
                        backoff.reset()
                        await self._put(record)
                except LogUnavailable:
                    self._is_up = False
                    self._listener.on_change()
                    await self._close_reader()
                    await backoff.sleep()
        except LogError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - the reader must see it
            self.error = LogError(f"reading the log failed: {error!r}")
            self.error.__cause__ = error
        self._listener.on_change()

    async def _records(self) -> AsyncIterator[Record]:
        """The matching records from the present position on; never ends."""
        if not self._everything and not self._caught_up:
            # A few records of many: read by subject up to the present end of the log, which is faster.
            end = (await self._log.info()).last_sequence
            last = await self._log.read_last(self._subjects)
            if last is not None and last.sequence > self._position:
                async for record in records_between(
                    self._log, self._subjects, after=self._position, up_to=last.sequence
                ):
                    self._position = record.sequence
                    yield record
                end = max(end, last.sequence)
            self._caught_up, self._position = True, max(self._position, end)
            self._listener.on_change()
        self._reader = await self._log.follow(after=self._position, epoch=self._epoch)
        while True:
            for record in await self._reader.take(SUBSCRIPTION_CHUNK_EVENTS):
                self._position = record.sequence
                if self._everything or subject_matches(self._tokens, record.subject):
                    yield record
            self._is_up = True
            self._listener.on_change()

    async def _put(self, record: Record) -> None:
        while (
            len(self._buffer) >= SUBSCRIPTION_BUFFER_EVENTS
            or self._buffered_bytes >= SUBSCRIPTION_BUFFER_BYTES
        ):
            self._room.clear()
            await self._room.wait()
        self._buffered_bytes += len(record.payload)
        self._buffer.append(Delivery(record.sequence, record.time, record.subject, record.payload))
        if len(self._buffer) == 1:
            self._listener.on_change()

    async def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            with suppress(LogError):
                await reader.close()
