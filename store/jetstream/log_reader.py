"""Reads the whole log in order, through an ephemeral consumer without acknowledgments.

    pull ─► records arrive ─► buffer ─► take ─► pull …         at most two requests under way
      ▲
      └── silence, a lost connection, a missing consumer, a gap: a new consumer after the last record received

Heartbeats show that the consumer exists: a request that is lost with its connection ends without notice.
`Continuity` decides whether the stream still is the one that was read before. `DESIGN.md`, "When events count
as lost", has the reasons.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

from jobledger.store.jetstream.api import has_others, leader_of
from jobledger.store.jetstream.connection import Connection, Message, NoResponders
from jobledger.store.jetstream.pull_session import (
    SEQUENCE,
    TIME,
    PullSession,
    create_reader,
    delete_reader,
)
from jobledger.store.jetstream.reader import leader_get, record_of, replica_get
from jobledger.store.jetstream.stream import log_info, stream_info
from jobledger.store.log import LogInfo, check_continues, other_record
from jobledger.store.model.errors import LogBehind, LogDamaged, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    HOLE_PROBES,
    LEADER_CONTACT_SECONDS,
    LOG_READER_FILL_EVENTS,
    LOG_READER_GAP_TRIES,
    LOG_READER_HEARTBEAT_SECONDS,
    LOG_READER_HOLE_MAX_EVENTS,
    LOG_READER_IDLE_HEARTBEATS,
    LOG_READER_MAX_RESTARTS,
    LOG_READER_OPEN_TIMEOUT_SECONDS,
    LOG_READER_PULL_BYTES,
    LOG_READER_PULL_EVENTS,
    REQUEST_TIMEOUT_SECONDS,
    RETRY_WAIT_SECONDS,
)
from jobledger.store.model.truncation import Doubts
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

_CONSUMER_IDLE_SECONDS: Final = 60
_SILENCE_SECONDS: Final = 2.5 * LOG_READER_HEARTBEAT_SECONDS


class Continuity:
    """Decides for all readers of a connection whether the stream continues what they read before.

    `model.truncation` has the verdict over time, this class queries the servers.
    """

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._doubts = Doubts(time.monotonic)
        self._is_single: bool | None = None  # whether it has one replica; None: not known yet

    async def check(
        self,
        *,
        epoch: str | None,
        after: int,
        same: Callable[[Record], bool] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> LogInfo:
        """See `EventLog.continues`. `timeout_seconds` is for each request."""
        place = (epoch, after)
        answer = await stream_info(self._connection, self._stream, timeout_seconds=timeout_seconds)
        info = log_info(answer, self._stream)
        self._is_single = not has_others(answer)
        try:
            check_continues(info, epoch=epoch, after=after)
            if same is not None and after:
                found = await leader_get(
                    self._connection, self._stream, {"seq": after}, timeout_seconds=timeout_seconds
                )
                if found is not None and not same(record_of(found)):
                    raise other_record(after)
        except LogTruncated as error:
            if info.first_sequence > after + 1 and await self._another_has(after + 1):
                return LogInfo(info.epoch, 1, info.last_sequence)  # the leader lost its first blocks
            # The record may have come from another server than the stream's description.
            second = await stream_info(self._connection, self._stream, timeout_seconds=timeout_seconds)
            leader = leader_of(answer)
            if not self._doubts.judge(place, leader if leader == leader_of(second) else ""):
                raise self._doubts.behind(place, str(error).partition(":")[0]) from None
            if not self._is_single and await self._is_kept(after, same):
                raise self._doubts.behind(
                    place,
                    f"the leader of the stream {self._stream} lacks event {after}, and another replica has"
                    " it: the leader's files are damaged, so let another node lead (`nats stream cluster"
                    f" step-down {self._stream}`) and replace its copy",
                ) from error
            raise
        self._doubts.clear(place)
        return info

    async def confirm_leader(self) -> None:
        """See `EventLog.confirm_current`."""
        if self._is_single:
            return
        answer = await stream_info(self._connection, self._stream)
        log_info(answer, self._stream)
        self._is_single = not has_others(answer)
        if not leader_of(answer):
            raise LogUnavailable(
                f"the leader of the stream {self._stream} has had no contact with a majority for"
                f" {LEADER_CONTACT_SECONDS:g} s, so another server may lead; nothing was written; try again"
            )

    async def _another_has(self, sequence: int) -> bool:
        return not self._is_single and await self._is_kept(sequence, None)

    async def _is_kept(self, sequence: int, same: Callable[[Record], bool] | None) -> bool:
        """Whether any replica has the event.

        Raises:
            LogBehind: a replica that may have it does not answer.
        """
        try:
            found = await replica_get(self._connection, self._stream, {"seq": sequence}, same=same)
        except LogUnavailable as error:
            raise LogBehind(f"event {sequence} is not counted as lost yet: {error}") from error
        return found is not None


class JetStreamLogReader(PullSession[Record]):
    """`LogReader` on a stream; the position is kept here, not by the server."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        after: int,
        epoch: str | None,
        continuity: Continuity | None = None,
    ) -> None:
        super().__init__(
            connection,
            events=LOG_READER_PULL_EVENTS,
            max_bytes=LOG_READER_PULL_BYTES,
            max_requests=2,
            options={"idle_heartbeat": int(LOG_READER_HEARTBEAT_SECONDS * NANOSECONDS_PER_SECOND)},
        )
        self._stream = stream
        self._continuity = continuity or Continuity(connection, stream)
        self._sequence = after  # of the last record put into the buffer
        self._epoch = epoch
        self._time = 0  # of that record; 0: it was not received by this reader
        self._changed = asyncio.Event()
        self._idle = 0  # heartbeats since the last record
        self._gap_start = 0  # of the records that were last missing
        self._gap_end = 0
        self._gap_is_final = False  # every consumer and the leader lack them: the stream itself does
        self._gap_tries = 0  # consecutive consumers that lacked them
        self._ahead_tries = 0  # consecutive consumers that delivered nothing although there is something
        self._restarts = 0
        self._consumer = ""

    async def start(self) -> None:
        """Opens the first consumer; see `EventLog.follow`."""
        self._connection.watch(self._on_connection)
        try:
            await self._open_first()
        except BaseException:
            self._connection.unwatch(self._on_connection)
            raise

    async def _open_first(self) -> None:
        for _ in range(LOG_READER_MAX_RESTARTS):
            try:
                return await self._open_consumer()
            except (
                NoResponders,
                LogBehind,
            ):  # JetStream is off, the stream is missing or short: that lasts
                raise
            except LogUnavailable:
                await asyncio.sleep(RETRY_WAIT_SECONDS)
        return await self._open_consumer()

    @property
    def connected(self) -> bool:
        """See `LogReader.connected`."""
        return self._connection.is_up and not self._failure

    async def take(self, max_records: int) -> Sequence[Record]:
        """See `LogReader.take`."""
        while not self._buffer:
            if self._failure:
                await self._restart()
            await self.pull()
            self._changed.clear()
            if self._buffer or self._failure:
                continue
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                self._failure = f"no heartbeat for {_SILENCE_SECONDS:g} s"
            if self._idle >= LOG_READER_IDLE_HEARTBEATS and not self._failure:
                await self._look_ahead()
        self._restarts = 0
        records = self._take(max_records)
        if not self._failure:
            await self.pull()
        return records

    def restart(self, reason: str) -> None:
        """See `LogReader.restart`."""
        self._failure = reason
        self._changed.set()

    async def close(self) -> None:
        """See `LogReader.close`."""
        self._connection.unwatch(self._on_connection)
        await self._close_consumer()

    def _deliver(self, subject: str, reply: str, payload: bytes, fields: list[str]) -> None:
        del reply
        self._changed.set()
        sequence = int(fields[SEQUENCE])
        expected = self._sequence + 1
        if sequence != expected:
            if sequence > expected and not self._failure:
                self._gap_tries = self._gap_tries + 1 if self._gap_start == expected else 1
                self._gap_start, self._gap_end = expected, sequence - 1
                self._failure = f"records {expected} to {sequence - 1} did not arrive"
            return
        self._idle = self._ahead_tries = 0
        self._sequence, self._time = sequence, int(fields[TIME])
        self._buffer.append(Record(sequence, self._time, subject, payload))
        self._buffered_bytes += len(payload)

    def _on_status(self, message: Message) -> None:
        self._changed.set()
        super()._on_status(message)

    def _fail(self, reason: str, *, disconnected: bool = False) -> None:
        super()._fail(reason, disconnected=disconnected)
        self._changed.set()

    def _on_heartbeat(self) -> None:
        self._restarts = 0
        self._idle += 1

    def _on_connection(self, _up: bool) -> None:
        # Also when it is back: requests sent in between may have gone to the old connection.
        self.restart("connection lost")

    async def _restart(self) -> None:
        """Opens a new consumer after the last record received."""
        self._restarts += 1
        failure = self._failure
        if self._restarts > LOG_READER_MAX_RESTARTS:
            self._restarts = 0
            raise LogUnavailable(f"the log cannot be read ({failure}); try again")
        await self._connection.wait_up(REQUEST_TIMEOUT_SECONDS)
        # One replica may be damaged, and the next consumer may be on another one. If all have the same gap,
        # and the leader lacks the records too, the stream itself does.
        if (
            self._gap_tries > 1
            and not await self._fill_from_leader()
            and self._gap_tries >= LOG_READER_GAP_TRIES
        ):
            self._gap_tries, self._gap_is_final = 0, True
        await self._close_consumer()
        if self._gap_is_final:
            self._gap_is_final = False
            await self._pass_hole()
        self._failure = ""  # before the consumer is opened, so that a failure in between is not forgotten
        try:
            await self._open_consumer()
        except LogBehind as error:  # lasts longer than a restart: the caller waits, and calls again
            self._failure = str(error)
            self._restarts = 0
            raise
        except LogUnavailable as error:
            # A server that has just come back, or stops again: the next try is counted.
            self._failure = str(error)
            await asyncio.sleep(RETRY_WAIT_SECONDS)
        except BaseException:
            self._failure = self._failure or failure
            raise

    async def _open_consumer(self) -> None:
        # Each request has a short timeout: without a leader there is no answer, and a consumer may be put on
        # a node that has just died. The next try finds another one.
        # The last record received must still be there: a stream may lose its end and grow again.
        time = self._time
        info = await self._continuity.check(
            epoch=self._epoch,
            after=self._sequence,
            same=(lambda record: record.time == time) if time else None,
            timeout_seconds=LOG_READER_OPEN_TIMEOUT_SECONDS,
        )
        self._epoch = info.epoch
        reply = await create_reader(
            self._connection,
            self._stream,
            start=self._sequence + 1,
            idle_seconds=_CONSUMER_IDLE_SECONDS,
            purpose="reading the log",
            timeout_seconds=LOG_READER_OPEN_TIMEOUT_SECONDS,
        )
        await self._open(self._stream, reply.name)
        self._consumer = reply.name
        await self.pull()

    async def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, ""
        if consumer:
            await self._close()
            await delete_reader(self._connection, self._stream, consumer)

    def _append(self, record: Record) -> None:
        self._sequence, self._time = record.sequence, record.time
        self._buffer.append(record)
        self._buffered_bytes += len(record.payload)

    async def _fill_from_leader(self) -> bool:
        """Reads missing records from the leader; False if it lacks the next one too.

        A replica with a damaged block delivers as if the records in it did not exist, and a new consumer may
        be put on the same replica again.
        """
        end = min(self._gap_end, self._sequence + LOG_READER_FILL_EVENTS)
        start = self._sequence
        while self._sequence < end:
            message = await leader_get(
                self._connection,
                self._stream,
                {"seq": self._sequence + 1},
                timeout_seconds=LOG_READER_OPEN_TIMEOUT_SECONDS,
            )
            if message is None:
                break
            self._append(record_of(message))
        return self._sequence > start

    async def _look_ahead(self) -> None:
        """Checks that the log has no further event: a consumer waits forever in front of a lost block."""
        self._idle = 0
        try:
            info = await stream_info(
                self._connection, self._stream, timeout_seconds=LOG_READER_OPEN_TIMEOUT_SECONDS
            )
        except LogUnavailable as error:
            self._failure = self._failure or str(error)
            return
        if log_info(info, self._stream).last_sequence > self._sequence and not self._buffer:
            self._ahead_tries += 1
            self._gap_is_final = self._ahead_tries >= LOG_READER_GAP_TRIES
            self._failure = f"event {self._sequence + 1} is in the log and does not arrive"

    async def _pass_hole(self) -> None:
        """Skips records that the log no longer has; reads those that only this reader's consumer lacks.

        A consumer skips what its node cannot read, without notice. So each sequence is read from the leader,
        then from the other replicas. A record that none has is damage, because nothing can be deleted: the
        caller sees that its sequence is missing.

        Raises:
            LogDamaged: nothing follows the hole yet: the next call waits for what comes. Or the hole is
                longer than LOG_READER_HOLE_MAX_EVENTS: the next call continues.
        """
        first = self._sequence + 1
        info = await stream_info(self._connection, self._stream)
        last, is_replicated = log_info(info, self._stream).last_sequence, has_others(info)
        end = min(last, self._sequence + LOG_READER_HOLE_MAX_EVENTS)
        for start in range(first, end + 1, HOLE_PROBES):
            some = range(start, min(start + HOLE_PROBES, end + 1))
            found = await asyncio.gather(
                *(self._read_one(sequence, is_replicated=is_replicated) for sequence in some)
            )
            for sequence, record in zip(some, found, strict=True):
                if record is None:
                    self._sequence, self._time = sequence, 0
                else:
                    self._append(record)
            if self._buffer:
                return
        if end >= first:
            self._gap_is_final, self._restarts = end < last, 0
            follows = "it is not known yet what follows" if end < last else "none follows"
            raise LogDamaged(
                f"events {first} to {end} of the stream {self._stream} cannot be read, and {follows}: a"
                " stored block is damaged or lost its end; restore the stream from a replica or a backup",
                sequence=first,
                last=end,
            )

    async def _read_one(self, sequence: int, *, is_replicated: bool) -> Record | None:
        request: dict[str, object] = {"seq": sequence}
        message = await leader_get(self._connection, self._stream, request)
        if message is not None:
            return record_of(message)
        return await replica_get(self._connection, self._stream, request) if is_replicated else None
