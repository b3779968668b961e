"""Reading the log from the store of one server of a cluster.

A direct get is answered by any replica, and `STREAM.MSG.GET` by the leader alone. But a consumer with one
replica reads from the store of the server that it was put on (nats-server, `createGroupForConsumer`: a random
peer of the stream's), and the answer to its creation names that server. So consumers are created until one is
on the server that is wanted.
"""

import asyncio
from collections.abc import Sequence

import msgspec

from jobledger.store.jetstream.api import ConsumerReply, call, status_of
from jobledger.store.jetstream.connection import Connection, Message, new_token
from jobledger.store.jetstream.stream import stream_info
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    REPLICA_PLACE_TRIES,
    REPLICA_READ_BYTES,
    REPLICA_READ_SECONDS,
    REPLICA_STALLS_MAX,
)

_NANOSECONDS = 1_000_000_000
_CONSUMER_IDLE_SECONDS = 30  # the server forgets one that was left behind


class Replica(msgspec.Struct, frozen=True):
    """A copy of the log.

    Attributes:
        server: the name of the server that keeps it; empty for a server without a cluster.
        leads: whether it leads the others.
        current: whether it has everything, as far as the leader knows.
        offline: whether its server can't be reached, as far as the leader knows.
    """

    server: str
    leads: bool = True
    current: bool = True
    offline: bool = False


async def replicas_of(connection: Connection, stream: str) -> tuple[Replica, ...]:
    """The replicas of a stream, the leader first.

    Raises:
        LogUnavailable: if the stream has no leader, or does not answer.
    """
    info = await stream_info(connection, stream)
    if info.error is not None:
        raise info.error.as_exception(f"stream {stream}")
    cluster = info.cluster
    if cluster is None or (not cluster.leader and not cluster.replicas):
        return (Replica(""),)
    if not cluster.leader:
        raise LogUnavailable(f"the stream {stream} has no leader just now; try again")
    others = (
        Replica(each.name, leads=False, current=each.current, offline=each.offline)
        for each in cluster.replicas
    )
    return (Replica(cluster.leader), *sorted(others, key=lambda each: each.server))


async def read_replica(
    connection: Connection, stream: str, server: str, first: int, last: int
) -> dict[int, Record]:
    """Records of a range as the store of one server has them, by sequence; what it can't read is not there.

    Args:
        connection: to any server of the cluster.
        stream: its name.
        server: the server's name, as `replicas_of` has it.
        first: of the range.
        last: of the range; the caller bounds how many that are.

    Raises:
        LogUnavailable: if no consumer can be put on that server, or it does not answer.
    """
    found: dict[int, Record] = {}
    after = first - 1
    for _ in range(REPLICA_STALLS_MAX):
        records = await _Pull(connection, stream, last).read(server, after)
        found |= {record.sequence: record for record in records}
        after = records[-1].sequence if records else after
        if after >= last:
            break
        after += 1  # it does not get past this one
    return found


class _Pull:
    """One consumer on one server, for one range."""

    def __init__(self, connection: Connection, stream: str, last: int) -> None:
        self._connection = connection
        self._stream = stream
        self._last = last
        self._records: list[Record] = []
        self._pulling = False
        self._lost = False
        self._news = asyncio.Event()
        self._inbox = ""

    async def read(self, server: str, after: int) -> Sequence[Record]:
        """What comes after a sequence, until the range ends, or for REPLICA_READ_SECONDS nothing comes."""
        self._inbox = await self._connection.subscribe(self._receive)
        self._connection.watch(self._on_connection)
        consumer = ""
        try:
            consumer = await self._place(server, after + 1)
            await self._take(consumer, after)
        finally:
            self._connection.unwatch(self._on_connection)
            await self._connection.unsubscribe(self._inbox)
            await self._delete(consumer)
        return [record for record in self._records if record.sequence <= self._last]

    async def _place(self, server: str, start: int) -> str:
        for _ in range(REPLICA_PLACE_TRIES):
            consumer = new_token()
            config = {
                "name": consumer,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": start,
                "ack_policy": "none",
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": _CONSUMER_IDLE_SECONDS * _NANOSECONDS,
            }
            request = {"stream_name": self._stream, "config": config}
            reply = await call(
                self._connection, f"CONSUMER.CREATE.{self._stream}.{consumer}", request, ConsumerReply
            )
            if reply.error is not None:
                raise reply.error.as_exception(f"reading {self._stream} on {server or 'the server'}")
            # A server without a cluster names none here.
            if reply.cluster is None or not reply.cluster.leader or reply.cluster.leader == server:
                return consumer
            await self._delete(consumer)
        raise LogUnavailable(
            f"none of {REPLICA_PLACE_TRIES} consumers was put on {server}: its server is gone, or does not"
            f" keep {self._stream}"
        )

    async def _take(self, consumer: str, after: int) -> None:
        seen = after
        while seen < self._last and not self._lost:
            if not self._pulling:
                self._pulling = True
                request = {
                    "batch": self._last - seen,
                    "max_bytes": max(REPLICA_READ_BYTES, 2 * self._connection.max_payload),
                    "expires": int(REPLICA_READ_SECONDS * _NANOSECONDS),
                }
                verb = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
                await self._connection.publish(verb, msgspec.json.encode(request), f"{self._inbox}pull")
            self._news.clear()
            before = len(self._records)
            try:
                async with asyncio.timeout(REPLICA_READ_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                return
            if self._records:
                seen = self._records[-1].sequence
            if not self._pulling and len(self._records) == before:  # the request ended without a record
                return
        if self._lost:
            raise LogUnavailable(f"reading {self._stream}: the connection was lost; try again")

    def _receive(self, message: Message) -> None:
        if message.subject.startswith(self._inbox):
            if status_of(message) != "100":
                self._pulling = False
        else:
            fields = message.reply.split(".")
            offset = 0 if len(fields) == 9 else 2  # as in `feed`
            record = Record(
                int(fields[5 + offset]), int(fields[7 + offset]), message.subject, message.payload
            )
            self._records.append(record)
        self._news.set()

    def _on_connection(self, up: bool) -> None:
        if not up:
            self._lost = True
            self._news.set()

    async def _delete(self, consumer: str) -> None:
        if not consumer or not self._connection.is_up:
            return
        try:
            await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{consumer}", b"")
        except LogError:
            return  # the server forgets it by itself
