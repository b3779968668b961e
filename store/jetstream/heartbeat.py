"""Tests that the log works: a real append, a real read, and the state of its replicas.

    beat ─┬─ append to JOBS_HEARTBEAT, as durable as the log, and read it back from its leader
          └─ an append to JOBS that its leader must refuse: proves that there is a leader, and the permission

The append to JOBS names another stream as the expected one, so the leader refuses it and stores nothing.
A heartbeat is large on purpose: one that still fits into the last block of a full disk would prove nothing.
"""

import asyncio
import os
import socket
from hashlib import sha256
from pathlib import Path

import msgspec

from jobledger.store.jetstream.api import (
    EXPECTED_STREAM_DIFFERENT,
    AccountInfo,
    PubAck,
    ReplicaInfo,
    call,
    read_ack,
)
from jobledger.store.jetstream.connection import Connection, NoResponders
from jobledger.store.jetstream.declarations import HEARTBEAT, HEARTBEAT_PREFIX
from jobledger.store.jetstream.reader import leader_get
from jobledger.store.jetstream.stream import Streams, stream_info
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.limits import HEARTBEAT_BYTES, HEARTBEAT_TIMEOUT_SECONDS
from jobledger.store.model.subjects import job_subject

_NOT_STORED = {"Nats-Expected-Stream": "JOBLEDGER-PROBE"}
_PROBED_JOB = "j-probe"


class LogCondition(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the log, as its leader reports it.

    Attributes:
        last_sequence: of the newest event; 0 without one.
        missing_events: sequences up to that one without an event; the stream refuses deletion, so each is
            damage.
        size_bytes: of all events.
        max_bytes: the log refuses events beyond this size; -1: no limit.
        leader: the server that answers; empty without a cluster.
        replicas: the other copies.
        storage_bytes: of all streams of the account.
        max_storage_bytes: of the account; -1: no limit.
    """

    last_sequence: int
    missing_events: int = 0
    size_bytes: int
    max_bytes: int
    leader: str = ""
    replicas: tuple[ReplicaInfo, ...] = ()
    storage_bytes: int = 0
    max_storage_bytes: int = -1


class LogProbe:
    """Test appends and reads.

    Args:
        connection: the log's.
        streams: the log's.
        replica: identifies this service among those that share the log: see `replica_id`.
    """

    def __init__(self, connection: Connection, streams: Streams, replica: str) -> None:
        self._connection = connection
        self._streams = streams
        self._log = streams.log_name
        self._stream = HEARTBEAT.name(streams.log_name)
        self._subject = HEARTBEAT_PREFIX + replica
        self._is_open = False
        self._beats = 0

    async def beat(self) -> None:
        """Appends a heartbeat, reads it back, and tests whether the log's leader processes appends.

        Raises:
            LogError: what failed, and why; within HEARTBEAT_TIMEOUT_SECONDS.
        """
        try:
            async with asyncio.timeout(HEARTBEAT_TIMEOUT_SECONDS):
                answers = await asyncio.gather(
                    self._append_heartbeat(), self._ask_leader(), return_exceptions=True
                )
        except TimeoutError:
            raise LogUnavailable(
                f"a test append was not acknowledged within {HEARTBEAT_TIMEOUT_SECONDS:g} s"
                f" ({self._connection.problem})"
            ) from None
        for answer in answers:
            if isinstance(answer, LogUnavailable):
                raise LogUnavailable(f"a test append was not acknowledged: {answer}") from answer
            if isinstance(answer, BaseException):
                raise answer

    async def condition(self) -> LogCondition:
        """Returns the state of the log and of the account.

        Raises:
            LogError: there is no leader, or no answer.
        """
        info, account = await asyncio.gather(
            stream_info(self._connection, self._log, timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS),
            call(self._connection, "INFO", {}, AccountInfo, timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS),
        )
        if info.error is not None:
            raise info.error.as_exception(f"stream {self._log}")
        cluster = info.cluster
        if cluster is not None and cluster.replicas and not cluster.leader:
            raise LogUnavailable(f"the stream {self._log} has no leader")
        return LogCondition(
            last_sequence=info.state.last_seq,
            missing_events=info.state.last_seq - info.state.messages,
            size_bytes=info.state.bytes,
            max_bytes=_limit(info.config.get("max_bytes")),
            leader=cluster.leader if cluster is not None else "",
            replicas=tuple(cluster.replicas) if cluster is not None else (),
            storage_bytes=account.storage,
            max_storage_bytes=_limit(account.limits.max_storage),
        )

    async def read(self, sequence: int) -> None:
        """Reads an event that the log must have, from its leader.

        Raises:
            LogError: it cannot be read.
        """
        found = await leader_get(
            self._connection,
            self._log,
            {"seq": sequence},
            timeout_seconds=HEARTBEAT_TIMEOUT_SECONDS,
        )
        if found is None:
            raise LogError(
                f"event {sequence} is the last one of the stream {self._log} and cannot be read; run"
                " `jobledger audit verify`"
            )

    async def _append_heartbeat(self) -> None:
        if not self._is_open:
            await self._streams.open(HEARTBEAT)
            self._is_open = True
        self._beats += 1
        value = f"{self._beats}".encode().ljust(HEARTBEAT_BYTES)
        try:
            ack = await self._publish(self._subject, value, {})
        except NoResponders:
            self._is_open = False  # the stream has no leader, or was deleted: the next beat looks for it
            raise
        if ack.error is not None:
            raise ack.error.as_exception("a test append")
        found = await leader_get(self._connection, self._stream, {"seq": ack.seq})
        if found is None or found.data != value:
            raise LogError(
                f"a test append was acknowledged at sequence {ack.seq} of {self._stream}, and is not stored"
                " there; check the disk of nats-server"
            )

    async def _ask_leader(self) -> None:
        subject = job_subject("default", _PROBED_JOB)
        ack = await self._publish(subject, b"", _NOT_STORED)
        if ack.error is None:
            raise LogError(f"the log accepted a test event, which it must refuse, at sequence {ack.seq}")
        if ack.error.err_code != EXPECTED_STREAM_DIFFERENT:
            raise ack.error.as_exception(f"an append to {self._log}")

    async def _publish(self, subject: str, value: bytes, headers: dict[str, str]) -> PubAck:
        # Less than the beat has, so that a known reason is reported.
        timeout_seconds = 0.8 * HEARTBEAT_TIMEOUT_SECONDS
        message = await self._connection.request(
            subject, value, headers=headers or None, timeout_seconds=timeout_seconds
        )
        return read_ack(message)


def replica_id(data_dir: Path) -> str:
    """Returns a name for the service on this machine and directory, the same after a restart."""
    place = f"{socket.gethostname()}\0{os.path.abspath(data_dir)}"  # noqa: PTH100 - no need that it exists
    return sha256(place.encode()).hexdigest()[:16]


def _limit(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else -1
