"""`EventLog` on NATS JetStream: wires the parts of this folder together."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from jobledger.store.jetstream.api import StreamInfo, has_others
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.consumer.consumers import JetStreamConsumers
from jobledger.store.jetstream.declarations import StreamSettings
from jobledger.store.jetstream.heartbeat import LogProbe
from jobledger.store.jetstream.kv import JetStreamKeyHistory, JetStreamKeyValue
from jobledger.store.jetstream.log_reader import Continuity, JetStreamLogReader
from jobledger.store.jetstream.publisher import Publisher
from jobledger.store.jetstream.reader import (
    StreamDigest,
    digest,
    first_later,
    leader_get,
    read_page,
    record_of,
    replica_get,
)
from jobledger.store.jetstream.refill import rewrite_replicas
from jobledger.store.jetstream.replicas import Replica, read_replica, replicas_of
from jobledger.store.jetstream.stream import (
    AcceptLoss,
    EvidenceSource,
    StreamReport,
    Streams,
    log_info,
    stream_info,
)
from jobledger.store.local_service import find_local_log
from jobledger.store.log import Appended, LogInfo, LogReader, PendingEvent, WrongSequence
from jobledger.store.model.errors import LogDamaged
from jobledger.store.model.events import Record


class JetStreamLog:
    """The log on a NATS JetStream stream; returned by `connect`."""

    def __init__(self, connection: Connection, streams: Streams, publisher: Publisher) -> None:
        self._connection = connection
        self._streams = streams
        self._stream = streams.log_name
        self._publisher = publisher
        self._continuity = Continuity(connection, streams.log_name)
        self._lacking = ""  # the leader, with its term, if it lacks events that other replicas may have

    @classmethod
    async def connect(
        cls,
        url: str | None = None,
        settings: StreamSettings | None = None,
        *,
        evidence: EvidenceSource | None = None,
        accept_loss: AcceptLoss | None = None,
        **connection_options: Any,
    ) -> "JetStreamLog":
        """Connects, checks the log, and creates it and the streams next to it if they never existed.

        Args:
            url: `nats://[user:password@]host:port`, or several, separated by commas. None: the log of this
                machine's service (see `store/local_service.py`).
            settings: of the stream, where they may differ between installations.
            evidence: returns evidence from outside the server that a stream existed.
            accept_loss: allows to create a stream that existed and is missing, and so to give up its content;
                called with each such loss before. None: a loss is an error.
            connection_options: credentials and TLS, as for `nats.connect`.

        Raises:
            LogMissing: the log existed, and is missing.
            LogNotPermitted: the log must be created, and the NATS user lacks the right.
            LogUnavailable: no server answers.
            LogUnfit: the server or the stream cannot keep the promises.
        """
        if url is None:
            url, found = find_local_log()
            connection_options = {**found, **connection_options}
        settings = settings or StreamSettings()
        connection = await Connection.open(url, **connection_options)
        try:
            streams = Streams(connection, settings, evidence, accept_loss=accept_loss)
            info = await streams.open_log()
            publisher = await Publisher.start(connection, settings.name)
        except BaseException:
            await connection.close()
            raise
        log = cls(connection, streams, publisher)
        log._note(info)
        return log

    @staticmethod
    async def look(
        url: str, settings: StreamSettings | None = None, **connection_options: Any
    ) -> tuple[StreamReport, ...]:
        """Returns the streams that exist on a server, even if the log is missing. Changes nothing.

        Raises:
            LogNotPermitted: the NATS user may not read the state of one.
            LogUnavailable: no server answers.
        """
        connection = await Connection.open(url, **connection_options)
        try:
            return await Streams(connection, settings or StreamSettings()).report()
        finally:
            await connection.close()

    async def append(self, draft: PendingEvent, *, expect: int) -> Appended | WrongSequence:
        """See `EventLog.append`.

        A leader that lacks events would accept the first event of a job a second time.

        Raises:
            LogDamaged: the leader lacks the expected event, and another replica has it.
        """
        if expect == 0 and self._lacking and (last := await self.read_last(draft.subject)) is not None:
            return WrongSequence(last.sequence)
        answer = await self._publisher.append(draft, expect=expect)
        if self._lacking and isinstance(answer, WrongSequence) and answer.sequence < expect:
            await self._check_leader_has(expect)
        return answer

    async def _check_leader_has(self, sequence: int) -> None:
        if await leader_get(self._connection, self._stream, {"seq": sequence}) is None:
            raise LogDamaged(
                f"the leader of the stream {self._stream} lacks event {sequence}, and another replica has it;"
                " nothing was written; let another node lead"
                f" (`nats stream cluster step-down {self._stream}`) and replace its copy (`jobledger audit"
                " scrub` prints how)",
                sequence=sequence,
            )

    @property
    def refusal(self) -> str:
        """See `EventLog.refusal`."""
        return self._publisher.refusal

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """See `EventLog.read`."""
        return await read_page(self._connection, self._stream, subject, after=after, up_to=up_to)

    async def read_last(self, subject: str) -> Record | None:
        """See `EventLog.read_last`."""
        request: dict[str, object] = {"last_by_subj": subject}
        message = await leader_get(self._connection, self._stream, request)
        last = record_of(message) if message is not None else None
        if not self._lacking:
            return last
        other = await replica_get(self._connection, self._stream, request)
        return max((each for each in (last, other) if each), key=lambda each: each.sequence, default=None)

    async def read_at(self, sequence: int) -> Record | None:
        """See `EventLog.read_at`."""
        message = await leader_get(self._connection, self._stream, {"seq": sequence})
        if message is not None:
            return record_of(message)
        info = await stream_info(self._connection, self._stream)
        if sequence > info.state.last_seq or not has_others(info):
            return None
        record = await replica_get(self._connection, self._stream, {"seq": sequence})
        if record is not None:
            self._lacking = _term(info)
        return record

    async def read_next(self, subject: str, *, after: int) -> Record | None:
        """See `EventLog.read_next`."""
        request: dict[str, object] = {"seq": after + 1, "next_by_subj": subject}
        message = await leader_get(self._connection, self._stream, request)
        return record_of(message) if message is not None else None

    async def confirm_current(self) -> None:
        """See `EventLog.confirm_current`."""
        await self._continuity.confirm_leader()

    async def sequence_at(self, time: int) -> int:
        """See `EventLog.sequence_at`."""
        later = await first_later(self._connection, self._stream, time)
        if later is None:
            # All events of the log, as it was before the second look, have that time or an earlier one.
            last = (await self.info()).last_sequence
            later = await first_later(self._connection, self._stream, time)
            if later is None:
                return last
        return later - 1

    @property
    def session(self) -> int:
        """See `EventLog.session`."""
        return self._connection.losses

    async def info(self) -> LogInfo:
        """See `EventLog.info`."""
        info = await stream_info(self._connection, self._stream)
        found = log_info(info, self._stream)
        self._note(info)
        return found

    def _note(self, info: StreamInfo) -> None:
        """Remembers a leader that lacks events, which cannot be deleted, until another one leads."""
        term = _term(info)
        lacks = has_others(info) and info.state.messages < info.state.last_seq
        self._lacking = term if lacks or term == self._lacking else ""

    async def continues(
        self, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
    ) -> LogInfo:
        """See `EventLog.continues`."""
        return await self._continuity.check(epoch=epoch, after=after, same=same)

    async def follow(self, *, after: int, epoch: str | None = None) -> LogReader:
        """See `EventLog.follow`."""
        feed = JetStreamLogReader(
            self._connection, self._stream, after=after, epoch=epoch, continuity=self._continuity
        )
        await feed.start()
        return feed

    async def prepare_streams(self) -> tuple[StreamReport, ...]:
        """Creates the streams that never existed, and repairs compression and replicas of all.

        Returns:
            Every stream, the log first, with what could not be repaired.

        Raises:
            LogMissing: a stream existed, and is missing.
            LogNotPermitted: a stream must be created, and the NATS user lacks the right.
            LogUnavailable: the server does not answer.
            LogUnfit: a stream cannot keep the promises.
        """
        return await self._streams.prepare()

    async def report_streams(self) -> tuple[StreamReport, ...]:
        """Returns every stream that exists. Changes nothing.

        Raises:
            LogNotPermitted: the NATS user may not read the state of one.
            LogUnavailable: the server does not answer.
        """
        return await self._streams.report()

    async def replicas(self) -> Sequence[Replica]:
        """Returns the replicas of the log, the leader first.

        Raises:
            LogUnavailable: the stream has no leader at the moment.
        """
        return await replicas_of(self._connection, self._stream)

    async def read_replica(self, server: str, first: int, last: int) -> Mapping[int, Record]:
        """Returns a range of the log as the store of one server has it, without what it cannot read.

        Raises:
            LogUnavailable: that server's store cannot be reached.
        """
        return await read_replica(self._connection, self._stream, server, first, last)

    async def digest_streams(self, names: Collection[str]) -> dict[str, StreamDigest]:
        """Returns a digest of every message of these streams.

        Raises:
            LogUnavailable: the server does not answer.
        """
        return {
            each.name: await digest(self._connection, each.name, direct=each.direct)
            for each in await self._streams.report()
            if each.name in names
        }

    async def note_rewritten(self) -> None:
        """Records that no block of any stream is compressed any more.

        Raises:
            LogNotPermitted: the NATS user may not change streams.
            LogUnavailable: the server does not answer.
        """
        await self._streams.note_rewritten()

    async def rewrite_replicas(self, report_progress: Callable[[str], None]) -> None:
        """Replaces the replicas of every stream that was compressed once, one at a time: see `refill`.

        Skips streams that an interrupted run has completed.
        """
        for report in await self._streams.report():
            if report.once_compressed:
                await rewrite_replicas(self._connection, report.name, report_progress)
            else:
                report_progress(f"{report.name}: nothing is compressed")

    def consumers(self) -> JetStreamConsumers:
        """The durable consumers of this log, over the same connection."""
        return JetStreamConsumers(self._connection, self._stream)

    async def key_value(self, bucket: str) -> JetStreamKeyValue:
        """A bucket next to this log, over the same connection; created if it never existed.

        Args:
            bucket: KEYS, SUBSCRIPTIONS or WEBHOOKS; each has a stream, and so permissions, of its own.

        Raises:
            LogMissing: that stream existed, and is missing.
            LogUnavailable: the server does not answer.
            LogUnfit: that stream exists and cannot keep the promises.
        """
        return await JetStreamKeyValue.open(self._connection, self._streams, bucket)

    def probe(self, replica: str) -> LogProbe:
        """Returns test appends and reads, over the same connection.

        Args:
            replica: identifies this service among those that share the log.
        """
        return LogProbe(self._connection, self._streams, replica)

    @property
    def publisher(self) -> Publisher:
        """Sends the appends; shows whether they are suspended, and how long the log has been silent."""
        return self._publisher

    async def seals(self, tag: str) -> JetStreamKeyHistory:
        """The seals of this log, over the same connection; their stream is created if it never existed.

        Args:
            tag: the log's stream tag.

        Raises:
            LogMissing: that stream existed, and is missing.
            LogUnavailable: the server does not answer.
            LogUnfit: that stream exists and cannot keep the promises.
        """
        return await JetStreamKeyHistory.open(self._connection, self._streams, tag)

    async def close(self) -> None:
        """See `EventLog.close`."""
        try:
            await self._publisher.close()
        finally:
            await self._connection.close()


def _term(info: StreamInfo) -> str:
    cluster = info.cluster
    return f"{cluster.leader} since {cluster.leader_since}" if cluster is not None else ""
