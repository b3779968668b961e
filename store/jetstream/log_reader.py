"""Reading the whole log in order: an own pull loop over `CONSUMER.MSG.NEXT`.

    pull ─► records arrive ─► buffer ─► take ─► pull …         two requests' worth under way, never more
      ▲
      └── silence, a lost connection, a vanished consumer: a new consumer after the last record seen

`fetch` of the client library is five times slower, and a pull that is under way when a connection breaks is
lost without a word: hence the heartbeats, and the new consumer after every trouble.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice

import msgspec

from jobledger.store.jetstream.api import ConsumerReply, call, has_others, leader_of, status_of
from jobledger.store.jetstream.connection import Connection, Message, NoResponders, new_token
from jobledger.store.jetstream.reader import leader_get, record_of, replica_get
from jobledger.store.jetstream.stream import log_info, stream_info
from jobledger.store.log import LogInfo, check_continues, other_record
from jobledger.store.model.errors import LogBehind, LogDamaged, LogError, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    FEED_FILL_EVENTS,
    FEED_GAP_TRIES,
    FEED_HEARTBEAT_SECONDS,
    FEED_HOLE_MAX_EVENTS,
    FEED_IDLE_HEARTBEATS,
    FEED_MAX_RESTARTS,
    FEED_OPEN_TIMEOUT_SECONDS,
    FEED_PROBES,
    FEED_PULL_BYTES,
    FEED_PULL_EVENTS,
    LEADER_CONTACT_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
    RETRY_WAIT_SECONDS,
)
from jobledger.store.model.truncation import Doubts


class Continuity:
    """Judges one stream for all its readers over one connection."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._doubts = Doubts(time.monotonic)
        self._is_single: bool | None = None  # whether it has one replica; None: not asked yet

    async def check(
        self,
        *,
        epoch: str | None,
        after: int,
        same: Callable[[Record], bool] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> LogInfo:
        """See `EventLog.continues`.

        Args:
            epoch: see there.
            after: see there.
            same: see there.
            timeout_seconds: for each question.
        """
        place = (epoch, after)
        answer = await stream_info(self._connection, self._stream, timeout_seconds=timeout_seconds)
        info = log_info(answer, self._stream)
        self._is_single = not has_others(answer)
        try:
            check_continues(info, epoch=epoch, after=after)
            if same is not None and after:
                request: dict[str, object] = {"seq": after}
                found = await leader_get(
                    self._connection, self._stream, request, timeout_seconds=timeout_seconds
                )
                if found is not None and not same(record_of(found)):
                    raise other_record(after)
        except LogTruncated as error:
            if info.first_sequence > after + 1 and await self._has_another(after + 1):
                return LogInfo(info.epoch, 1, info.last_sequence)  # the leader lost its first blocks
            # The record may have come from another server than the description did.
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
                f"the leader of the stream {self._stream} has not heard from a majority for"
                f" {LEADER_CONTACT_SECONDS:g} s, so another one may lead; nothing was written; try again"
            )

    async def _has_another(self, sequence: int) -> bool:
        return not self._is_single and await self._is_kept(sequence, None)

    async def _is_kept(self, sequence: int, same: Callable[[Record], bool] | None) -> bool:
        """Whether any replica has the event.

        Raises:
            LogBehind: if one that may have it does not answer.
        """
        try:
            found = await replica_get(self._connection, self._stream, {"seq": sequence}, same=same)
        except LogUnavailable as error:
            raise LogBehind(f"event {sequence} is not counted as lost yet: {error}") from error
        return found is not None


_NANOSECONDS = 1_000_000_000
_PULL_EXPIRES_SECONDS = 30
_CONSUMER_IDLE_SECONDS = 60  # the server forgets a consumer that nobody pulls from
_RECORD_EXTRA_BYTES = 64 * 1_024  # what the server counts beside the content: subjects
_SILENCE_SECONDS = 2.5 * FEED_HEARTBEAT_SECONDS


class JetStreamFeed:
    """`Feed` over an ephemeral consumer without acknowledgements: the reader alone knows its place."""

    def __init__(
        self,
        connection: Connection,
        stream: str,
        *,
        after: int,
        epoch: str | None,
        continuity: Continuity | None = None,
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._continuity = continuity or Continuity(connection, stream)
        self._sequence = after  # of the last record put into the buffer
        self._epoch = epoch
        self._time = 0  # the stream's, of that record; 0: not seen by this feed
        self._buffer: deque[Record] = deque()
        self._buffered_bytes = 0
        self._under_way = 0  # records asked for and not yet arrived
        self._news = asyncio.Event()
        self._trouble = ""  # why a new consumer is needed; empty: none
        self._idle = 0  # heartbeats since the last record
        self._gap_at = 0  # where records were last found missing
        self._gap_end = 0  # up to there
        self._gap_stays = False  # every consumer showed it, and the leader: it is the stream's own
        self._ahead_tries = 0  # consumers in a row that brought nothing although there is something
        self._gap_tries = 0  # consumers in a row that showed it
        self._restarts = 0
        self._consumer = ""
        self._inbox = ""
        self._pull_request = msgspec.json.encode(
            {
                "batch": FEED_PULL_EVENTS,
                # A pull that the next record does not fit into would be answered with nothing, for ever.
                "max_bytes": max(FEED_PULL_BYTES, connection.max_payload + _RECORD_EXTRA_BYTES),
                "expires": _PULL_EXPIRES_SECONDS * _NANOSECONDS,
                "idle_heartbeat": int(FEED_HEARTBEAT_SECONDS * _NANOSECONDS),
            }
        )

    async def start(self) -> None:
        """Begin; see `EventLog.follow`."""
        self._connection.watch(self._on_connection)
        try:
            await self._open_first()
        except BaseException:
            self._connection.unwatch(self._on_connection)
            raise

    async def _open_first(self) -> None:
        for _ in range(FEED_MAX_RESTARTS):
            try:
                return await self._open_consumer()
            except (NoResponders, LogBehind):  # JetStream is off, the stream is gone or short: that lasts
                raise
            except LogUnavailable:
                await asyncio.sleep(RETRY_WAIT_SECONDS)
        return await self._open_consumer()

    @property
    def connected(self) -> bool:
        """See `Feed.connected`."""
        return self._connection.is_up and not self._trouble

    async def take(self, max_records: int) -> Sequence[Record]:
        """See `Feed.take`."""
        while not self._buffer:
            if self._trouble:
                await self._restart()
            await self._pull()
            self._news.clear()
            if self._buffer or self._trouble:
                continue
            try:
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                self._trouble = f"no heartbeat for {_SILENCE_SECONDS:g} s"
            if self._idle >= FEED_IDLE_HEARTBEATS and not self._trouble:
                await self._look_ahead()
        self._restarts = 0
        if len(self._buffer) <= max_records:
            records: Sequence[Record] = tuple(self._buffer)
            self._buffer.clear()
            self._buffered_bytes = 0
        else:
            records = tuple(islice(self._buffer, max_records))
            for _ in records:
                self._buffered_bytes -= len(self._buffer.popleft().payload)
        if not self._trouble:
            await self._pull()
        return records

    def restart(self, reason: str) -> None:
        """See `Feed.restart`."""
        self._trouble = reason
        self._news.set()

    async def close(self) -> None:
        """See `Feed.close`."""
        self._connection.unwatch(self._on_connection)
        await self._close_consumer()

    async def _pull(self) -> None:
        """Keep up to two requests' worth of records under way or in the buffer."""
        while (
            self._under_way + len(self._buffer) <= FEED_PULL_EVENTS
            and self._buffered_bytes <= FEED_PULL_BYTES  # large records end a pull early
            and not self._trouble
        ):
            self._under_way += FEED_PULL_EVENTS
            verb = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
            try:
                await self._connection.publish(verb, self._pull_request, f"{self._inbox}pull")
            except LogUnavailable as error:
                self._trouble = str(error)

    def _receive(self, message: Message) -> None:
        self._news.set()
        if message.subject.startswith(self._inbox):
            self._control(message)
            return
        self._under_way -= 1
        fields = message.reply.split(".")
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time>.<pending>;
        # with a domain, it and the account stand before the stream.
        offset = 0 if len(fields) == 9 else 2
        sequence = int(fields[5 + offset])
        expected = self._sequence + 1
        if sequence != expected:
            if sequence > expected and not self._trouble:
                self._gap_tries = self._gap_tries + 1 if self._gap_at == expected else 1
                self._gap_at, self._gap_end = expected, sequence - 1
                self._trouble = f"records {expected} to {sequence - 1} did not arrive"
            return
        self._idle = self._ahead_tries = 0
        self._sequence, self._time = sequence, int(fields[7 + offset])
        self._buffer.append(Record(sequence, int(fields[7 + offset]), message.subject, message.payload))
        self._buffered_bytes += len(message.payload)

    def _control(self, message: Message) -> None:
        status = status_of(message)
        if status == "100":  # a heartbeat: the silence is that of the log, and the consumer lives
            self._restarts = 0
            self._idle += 1
            return
        headers = message.headers or {}
        pending = headers.get("Nats-Pending-Messages")
        if pending is None:
            self._trouble = f"status {status} {headers.get('Description', '')}"
        else:  # a request came to its end: it expired, or reached its bytes
            self._under_way -= int(pending)

    def _on_connection(self, _up: bool) -> None:
        # Also when it is back: requests sent meanwhile may have gone to the old connection.
        self._trouble = "connection lost"
        self._news.set()

    async def _restart(self) -> None:
        """A new consumer after the last record seen."""
        self._restarts += 1
        trouble = self._trouble
        if self._restarts > FEED_MAX_RESTARTS:
            self._restarts = 0
            raise LogUnavailable(f"reading the log does not get on ({trouble}); it can be tried again")
        await self._connection.wait_up(REQUEST_TIMEOUT_SECONDS)
        # One replica may be damaged, and a new consumer may be put on another one; if all show the same gap,
        # and the leader does not have the records either, it is the stream's own.
        if self._gap_tries > 1 and not await self._fill_from_leader() and self._gap_tries >= FEED_GAP_TRIES:
            self._gap_tries, self._gap_stays = 0, True
        await self._close_consumer()
        if self._gap_stays:
            self._gap_stays = False
            await self._pass_hole()
        self._trouble = ""  # before, so that trouble while it is being opened is not forgotten
        try:
            await self._open_consumer()
        except LogBehind as error:  # lasts longer than a restart: whoever reads waits, and asks again
            self._trouble = str(error)
            self._restarts = 0
            raise
        except LogUnavailable as error:
            # A server that has just come back, or goes again: the next try is counted.
            self._trouble = str(error)
            await asyncio.sleep(RETRY_WAIT_SECONDS)
        except BaseException:
            self._trouble = self._trouble or trouble
            raise

    async def _open_consumer(self) -> None:
        # Each question is given up soon: without a leader nobody answers, and a consumer may be put on a node
        # that has just died. The next try finds another one.
        # The last record seen must still be there: a stream may lose its end and grow again.
        time = self._time
        info = await self._continuity.check(
            epoch=self._epoch,
            after=self._sequence,
            same=(lambda record: record.time == time) if time else None,
            timeout_seconds=FEED_OPEN_TIMEOUT_SECONDS,
        )
        self._epoch = info.epoch
        consumer = new_token()
        request = {
            "stream_name": self._stream,
            "config": {
                "name": consumer,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": self._sequence + 1,
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": _CONSUMER_IDLE_SECONDS * _NANOSECONDS,
            },
        }
        reply = await call(
            self._connection,
            f"CONSUMER.CREATE.{self._stream}.{consumer}",
            request,
            ConsumerReply,
            timeout_seconds=FEED_OPEN_TIMEOUT_SECONDS,
        )
        if reply.error is not None:
            raise reply.error.as_exception("reading the log")
        self._inbox = await self._connection.subscribe(self._receive)
        self._consumer = consumer
        self._under_way = 0
        await self._pull()

    async def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, ""
        if not consumer:
            return
        await self._connection.unsubscribe(self._inbox)
        if self._connection.is_up:
            try:
                await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", b"")
            except LogError:
                return  # the server forgets it by itself

    async def _fill_from_leader(self) -> bool:
        """Take missing records from the leader; False if it does not have the next one either.

        A replica with a damaged block goes on as if records in it did not exist, and a new consumer may be
        put on the same replica again.
        """
        end = min(self._gap_end, self._sequence + FEED_FILL_EVENTS)
        start = self._sequence
        while self._sequence < end:
            request: dict[str, object] = {"seq": self._sequence + 1}
            message = await leader_get(
                self._connection, self._stream, request, timeout_seconds=FEED_OPEN_TIMEOUT_SECONDS
            )
            if message is None:
                break
            record = record_of(message)
            self._sequence, self._time = record.sequence, record.time
            self._buffer.append(record)
            self._buffered_bytes += len(record.payload)
        return self._sequence > start

    async def _look_ahead(self) -> None:
        """Nothing arrives: make sure that there is nothing. A consumer waits for ever before a lost block."""
        self._idle = 0
        try:
            info = await stream_info(
                self._connection, self._stream, timeout_seconds=FEED_OPEN_TIMEOUT_SECONDS
            )
        except LogUnavailable as error:
            self._trouble = self._trouble or str(error)
            return
        if log_info(info, self._stream).last_sequence > self._sequence and not self._buffer:
            self._ahead_tries += 1
            self._gap_stays = self._ahead_tries >= FEED_GAP_TRIES
            self._trouble = f"event {self._sequence + 1} is in the log and does not arrive"

    async def _pass_hole(self) -> None:
        """Go past records that the log no longer holds; fill in those that only this feed's consumer lacks.

        A consumer passes over what its node can't read, without a word. So the leader is asked for each
        sequence, and then the other replicas. Those that none has are damage, since nothing can be deleted:
        whoever reads sees that sequences are missing.

        Raises:
            LogDamaged: if nothing follows the hole yet: the next call waits for what comes. Or if the hole is
                longer than FEED_HOLE_MAX_EVENTS: the next call looks further.
        """
        first = self._sequence + 1
        info = await stream_info(self._connection, self._stream)
        last, is_replicated = log_info(info, self._stream).last_sequence, has_others(info)
        end = min(last, self._sequence + FEED_HOLE_MAX_EVENTS)
        for start in range(first, end + 1, FEED_PROBES):
            some = range(start, min(start + FEED_PROBES, end + 1))
            found = await asyncio.gather(
                *(self._read_one(sequence, is_replicated=is_replicated) for sequence in some)
            )
            for sequence, record in zip(some, found, strict=True):
                if record is None:
                    self._sequence, self._time = sequence, 0  # there is no record to look at
                else:
                    self._buffer.append(record)
                    self._buffered_bytes += len(record.payload)
                    self._sequence, self._time = sequence, record.time
            if self._buffer:
                return
        if end >= first:
            self._gap_stays, self._restarts = end < last, 0
            follows = "it is not known yet what follows" if end < last else "none follows"
            raise LogDamaged(
                f"events {first} to {end} of the stream {self._stream} can't be read, and {follows}:"
                " a stored block is damaged or lost its end; restore the stream from a replica or a backup",
                sequence=first,
                last=end,
            )

    async def _read_one(self, sequence: int, *, is_replicated: bool) -> Record | None:
        request: dict[str, object] = {"seq": sequence}
        message = await leader_get(self._connection, self._stream, request)
        if message is not None:
            return record_of(message)
        return await replica_get(self._connection, self._stream, request) if is_replicated else None
