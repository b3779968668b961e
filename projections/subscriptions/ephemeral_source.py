"""The source of a subscription without a name: the log from a place on, and nothing kept on the server."""

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
from jobledger.store.consumer import ConsumerInfo, ConsumerListener, Delivery
from jobledger.store.job_reader import records_between
from jobledger.store.log import EventLog, LogReader
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import ALL_SUBJECTS, namespace_subjects, subject_matches


class FeedSource:
    """Deliveries from the log itself.

    Args:
        log: to read.
        subjects: the filter for what is delivered.
        after: the place where it begins.
        epoch: of the log.
    """

    def __init__(self, log: EventLog, *, subjects: str, after: int, epoch: str) -> None:
        self._log = log
        self._tokens = subjects.split(".")
        self._subjects = subjects
        self._everything = subjects in (ALL_SUBJECTS, namespace_subjects(None))
        self._place = after  # of the last record that was read
        self._epoch = epoch
        self._end = after  # of the log, when it was looked at
        self._buffer: deque[Delivery] = deque()
        self._buffered_bytes = 0
        self._room = asyncio.Event()
        self._feed: LogReader | None = None
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
        """Whether the log can be heard right now."""
        return self._is_up and (self._feed is None or self._feed.connected)

    @property
    def buffered(self) -> int:
        """Events that can be taken."""
        return len(self._buffer)

    @property
    def pending(self) -> int:
        """Records of the log that were there at the beginning and were not read yet."""
        return max(0, self._end - self._place)

    async def start(self, listener: ConsumerListener) -> None:
        """Begin to read."""
        self._listener = listener
        listener.on_reset(position=self._place, kept=False)
        self._end = (await self._log.info()).last_sequence
        self._task = asyncio.create_task(self._run())

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """The next deliveries, in order, without waiting for any."""
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
        """The log is read on by itself."""

    def mark_handled(self, delivery: Delivery) -> None:
        """Nobody is told."""

    async def acknowledge(self) -> None:
        """Nobody is told."""

    def release(self) -> None:
        """There is nothing to let go."""

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._close_feed()

    async def _run(self) -> None:
        wait_seconds = RECONNECT_WAIT_SECONDS
        try:
            while True:
                try:
                    async for record in self._records():
                        self._is_up = True
                        wait_seconds = RECONNECT_WAIT_SECONDS
                        await self._put(record)
                except LogUnavailable:
                    self._is_up = False
                    self._listener.on_change()
                    await self._close_feed()
                    await asyncio.sleep(wait_seconds)
                    wait_seconds = min(2 * wait_seconds, RECONNECT_MAX_WAIT_SECONDS)
        except LogError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader must hear of it
            self.error = LogError(f"reading the log broke: {error!r}")
            self.error.__cause__ = error
        self._listener.on_change()

    async def _records(self) -> AsyncIterator[Record]:
        """What matches, from the present place on, for ever."""
        if not self._everything and not self._caught_up:
            # A few of many: they are read by their subjects, up to where the log ends now.
            end = (await self._log.info()).last_sequence
            last = await self._log.read_last(self._subjects)
            if last is not None and last.sequence > self._place:
                async for record in records_between(
                    self._log, self._subjects, after=self._place, up_to=last.sequence
                ):
                    self._place = record.sequence
                    yield record
                end = max(end, last.sequence)
            self._caught_up, self._place = True, max(self._place, end)
            self._listener.on_change()
        self._feed = await self._log.follow(after=self._place, epoch=self._epoch)
        while True:
            for record in await self._feed.take(SUBSCRIPTION_CHUNK_EVENTS):
                self._place = record.sequence
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

    async def _close_feed(self) -> None:
        feed, self._feed = self._feed, None
        if feed is not None:
            with suppress(LogError):
                await feed.close()
