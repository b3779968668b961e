"""Reads the log from the store of one server of a cluster.

Any replica answers a direct get, and the leader alone answers `STREAM.MSG.GET`. But a consumer with one
replica reads from the store of the server that it was placed on (nats-server, `createGroupForConsumer`: a
random peer of the stream's), and the answer to its creation names that server. So consumers are created until
one is on the requested server.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from jobledger.store.jetstream.connection import Connection, Message
from jobledger.store.jetstream.pull_session import (
    SEQUENCE,
    TIME,
    PullSession,
    create_reader,
    delete_reader,
)
from jobledger.store.jetstream.stream import stream_info
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    REPLICA_PLACE_TRIES,
    REPLICA_READ_BYTES,
    REPLICA_READ_SECONDS,
    REPLICA_STALLS_MAX,
)

_CONSUMER_IDLE_SECONDS: Final = 30


class Replica(msgspec.Struct, frozen=True):
    """A copy of the log.

    Attributes:
        server: the name of its server; empty without a cluster.
        leads: whether it is the leader.
        current: whether it has all events, as far as the leader knows.
        offline: whether its server is unreachable, as far as the leader knows.
    """

    server: str
    leads: bool = True
    current: bool = True
    offline: bool = False


async def replicas_of(connection: Connection, stream: str) -> tuple[Replica, ...]:
    """Returns the replicas of a stream, the leader first.

    Raises:
        LogUnavailable: the stream has no leader, or does not answer.
    """
    info = await stream_info(connection, stream)
    if info.error is not None:
        raise info.error.as_exception(f"stream {stream}")
    cluster = info.cluster
    if cluster is None or (not cluster.leader and not cluster.replicas):
        return (Replica(""),)
    if not cluster.leader:
        raise LogUnavailable(f"the stream {stream} has no leader at the moment; try again")
    others = (
        Replica(each.name, leads=False, current=each.current, offline=each.offline)
        for each in cluster.replicas
    )
    return (Replica(cluster.leader), *sorted(others, key=lambda each: each.server))


async def read_replica(
    connection: Connection, stream: str, server: str, first: int, last: int
) -> dict[int, Record]:
    """Returns a range of records as the store of one server has them, without those that it cannot read.

    Args:
        connection: to any server of the cluster.
        stream: its name.
        server: the server's name, as in `Replica`.
        first: of the range.
        last: of the range; the caller limits its length.

    Raises:
        LogUnavailable: no consumer can be placed on that server, or it does not answer.
    """
    found: dict[int, Record] = {}
    after = first - 1
    for _ in range(REPLICA_STALLS_MAX):
        if after >= last:
            break
        records = await _ReplicaReader(connection, stream, after, last).read(server)
        found |= {record.sequence: record for record in records}
        after = (records[-1].sequence if records else after) + 1  # the server cannot read past this one
    return found


class _ReplicaReader(PullSession[Record]):
    """One consumer on one server, for one range."""

    def __init__(self, connection: Connection, stream: str, after: int, last: int) -> None:
        super().__init__(
            connection,
            events=last - after,
            max_bytes=max(REPLICA_READ_BYTES, 2 * connection.max_payload),
            max_requests=1,
            options={},
            expires_seconds=REPLICA_READ_SECONDS,
        )
        self._stream = stream
        self._after = after
        self._last = last
        self._records: list[Record] = []
        self._changed = asyncio.Event()

    async def read(self, server: str) -> Sequence[Record]:
        """Reads to the end of the range, or until nothing has arrived for REPLICA_READ_SECONDS."""
        self._connection.watch(self._on_connection)
        consumer = ""
        try:
            consumer = await self._place(server)
            await self._open(self._stream, consumer)
            await self._read()
        finally:
            self._connection.unwatch(self._on_connection)
            await self._close()
            await delete_reader(self._connection, self._stream, consumer)
        return [record for record in self._records if record.sequence <= self._last]

    async def _place(self, server: str) -> str:
        for _ in range(REPLICA_PLACE_TRIES):
            reply = await create_reader(
                self._connection,
                self._stream,
                start=self._after + 1,
                idle_seconds=_CONSUMER_IDLE_SECONDS,
                purpose=f"reading {self._stream} on {server or 'the server'}",
            )
            # A server without a cluster names none here.
            if reply.cluster is None or not reply.cluster.leader or reply.cluster.leader == server:
                return reply.name
            await delete_reader(self._connection, self._stream, reply.name)
        raise LogUnavailable(
            f"none of {REPLICA_PLACE_TRIES} consumers was placed on {server}: the server is down, or has no"
            f" replica of {self._stream}"
        )

    async def _read(self) -> None:
        seen = self._after
        while seen < self._last:
            await self.pull()
            self._changed.clear()
            before = len(self._records)
            if not self._failure:
                try:
                    async with asyncio.timeout(REPLICA_READ_SECONDS):
                        await self._changed.wait()
                except TimeoutError:
                    return
            if self._failure:  # which does not mean that the server cannot read the next record
                raise LogUnavailable(f"reading {self._stream}: {self._failure}; try again")
            if not self._under_way and len(self._records) == before:
                return  # the request ended without a record
            if self._records:
                seen = self._records[-1].sequence

    def _deliver(self, subject: str, reply: str, payload: bytes, fields: list[str]) -> None:
        del reply
        self._records.append(Record(int(fields[SEQUENCE]), int(fields[TIME]), subject, payload))
        self._changed.set()

    def _on_status(self, message: Message) -> None:
        super()._on_status(message)
        self._changed.set()

    def _fail(self, reason: str, *, disconnected: bool = False) -> None:
        super()._fail(reason, disconnected=disconnected)
        self._changed.set()

    def _on_connection(self, up: bool) -> None:
        if not up:
            self._fail("the connection was lost")
