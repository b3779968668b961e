"""Reads stored messages: one from the leader or from any replica, a page of a subject, a digest of a stream.

The leader decides what is last. Pages are read by batched direct gets (NATS ADR-31) from any replica.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from jobledger.store.jetstream.api import (
    MESSAGE_NOT_FOUND,
    MessageReply,
    StoredMessage,
    call,
    status_of,
)
from jobledger.store.jetstream.connection import Connection, Message, read_message
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    READ_LEADER_EVENTS,
    READ_PAGE_BYTES,
    READ_PAGE_EVENTS,
    READ_REPLICA_TRIES,
    REPLICA_GET_TIMEOUT_SECONDS,
    REPLICA_GETS,
    REQUEST_TIMEOUT_SECONDS,
)
from jobledger.store.model.subjects import ALL_SUBJECTS
from jobledger.store.timestamps import format_rfc3339, parse_rfc3339

_EXPECTED: Final = re.compile(rb"^Nats-Expected-Last-Subject-Sequence: ([0-9]{1,19})\r$", re.MULTILINE)
_PARALLEL_GETS: Final = 4
_SERVER_TIME_MAX: Final = 2**63 - 2  # the server counts nanoseconds in 64 bits


async def leader_get(
    connection: Connection,
    stream: str,
    request: dict[str, object],
    *,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
) -> StoredMessage | None:
    """Returns one message by `last_by_subj`, or by `seq` and `next_by_subj`, from the leader: never stale."""
    verb = f"STREAM.MSG.GET.{stream}"
    reply = await call(connection, verb, request, MessageReply, timeout_seconds=timeout_seconds)
    if reply.error is not None:
        if reply.error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise reply.error.as_exception(f"reading from {stream}")
    return reply.message


async def replica_get(
    connection: Connection,
    stream: str,
    request: dict[str, object],
    *,
    same: Callable[[Record], bool] | None = None,
) -> Record | None:
    """Returns one message as any replica has it, by REPLICA_GETS direct gets, each answered by one of them.

    For a message that the leader should have and lacks: only the leader's block may be damaged.

    Args:
        connection: to the server.
        stream: its name.
        request: by `seq`, or by `last_by_subj`: then the newest answer counts.
        same: whether a record is the requested one; None: any is.

    Raises:
        LogUnavailable: no replica that answers has the message of a `seq`, and not every get is answered:
            the silent replica may have it. The server skips a node that is down, so this is temporary.
    """
    body = msgspec.json.encode(request)
    silent = 0

    async def get() -> Record | None:
        nonlocal silent
        try:
            message = await connection.request(
                f"$JS.API.DIRECT.GET.{stream}", body, timeout_seconds=REPLICA_GET_TIMEOUT_SECONDS
            )
        except LogUnavailable:
            silent += 1
            return None
        if message.headers and "Nats-Sequence" in message.headers:
            record = _direct_record(message).record
            return record if same is None or same(record) else None
        return None

    found: list[Record] = []
    for _ in range(0, REPLICA_GETS, _PARALLEL_GETS):
        found += [each for each in await asyncio.gather(*(get() for _ in range(_PARALLEL_GETS))) if each]
        if found and "seq" in request:
            break
    if silent and not found and "seq" in request:
        raise LogUnavailable(
            f"a replica of the stream {stream} does not answer ({silent} of {REPLICA_GETS} reads failed),"
            f" and the others lack message {request['seq']}; try again"
        )
    return max(found, key=lambda each: each.sequence, default=None)


async def first_later(connection: Connection, stream: str, time: int) -> int | None:
    """Returns the sequence of the first message stored after a time (Unix nanoseconds), from the leader."""
    if time >= _SERVER_TIME_MAX:
        return None
    message = await leader_get(connection, stream, {"start_time": format_rfc3339(max(0, time + 1))})
    return message.seq if message is not None else None


def record_of(message: StoredMessage) -> Record:
    """Converts a message of the leader."""
    return Record(message.seq, _nanoseconds(message.time), message.subject, message.data)


async def read_page(
    connection: Connection, stream: str, subject: str, *, after: int, up_to: int | None
) -> Sequence[Record]:
    """Returns a page of a subject's records after a sequence.

    Any replica may answer, and one with a damaged block answers as if some records did not exist. This is
    visible if a sequence is missing from a page of the whole log, if a record names an earlier one that is
    missing, or if the page is empty although there is more: then the page is read from the leader, and then
    from other replicas. It is not visible if the last record of a job is missing from a page of several jobs:
    `jobledger audit scrub` finds that.

    Raises:
        LogUnavailable: the page does not arrive completely in time.
    """

    def lacks_some(page: Sequence[_Read]) -> bool:
        if not page:
            return up_to is not None and after < up_to
        return _lacks_some(page, after, whole=subject == ALL_SUBJECTS)

    page = await _direct_page(connection, stream, subject, after=after)
    for tries in range(READ_REPLICA_TRIES):
        if not lacks_some(page):
            break
        if tries == 0:
            other = await _leader_page(connection, stream, subject, after=after, up_to=up_to)
        else:
            other = await _direct_page(connection, stream, subject, after=after)
        page = other if not lacks_some(other) or len(other) > len(page) else page
    return [each.record for each in page if up_to is None or each.record.sequence <= up_to]


class _Read(NamedTuple):
    """A record, and the last sequence of its subject that its writer expected; 0: unknown."""

    record: Record
    before: int


def _lacks_some(page: Sequence[_Read], after: int, *, whole: bool) -> bool:
    """Whether a page proves that a record is missing from it.

    Args:
        page: records in order.
        after: the sequence before the page.
        whole: it is a page of the whole log.
    """
    if whole and page and page[-1].record.sequence != after + len(page):
        return True
    there = {each.record.sequence for each in page}
    return any(each.before > after and each.before not in there for each in page)


async def _leader_page(
    connection: Connection, stream: str, subject: str, *, after: int, up_to: int | None
) -> list[_Read]:
    """A page from the leader: one request per record, so fewer records."""
    page: list[_Read] = []
    while len(page) < READ_LEADER_EVENTS and (up_to is None or after < up_to):
        request: dict[str, object] = {"seq": after + 1, "next_by_subj": subject}
        message = await leader_get(connection, stream, request)
        if message is None:
            break
        found = _EXPECTED.search(message.hdrs)
        page.append(_Read(record_of(message), int(found[1]) if found else 0))
        after = message.seq
    return page


async def _direct_page(connection: Connection, stream: str, subject: str, *, after: int) -> list[_Read]:
    """A page from any replica."""
    return [_direct_record(each) for each in await read_messages(connection, stream, subject, after=after)]


async def read_messages(
    connection: Connection, stream: str, subject: str, *, after: int
) -> Sequence[Message]:
    """Returns a page of messages from any replica; their headers have sequence, time and subject.

    Raises:
        LogUnavailable: the page does not arrive completely in time.
    """
    page: list[Message] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(from_: str, reply: str, payload: bytes, header: bytes) -> None:
        message = read_message(from_, reply, payload, header)
        # A stored message may have any header; only a status of the server comes without a sequence.
        status = "" if message.headers and "Nats-Sequence" in message.headers else status_of(message)
        if not status:
            page.append(message)
        elif not done.done():
            if status in ("204", "404"):  # end of batch; no message
                done.set_result(None)
            else:
                done.set_exception(
                    LogUnavailable(f"reading {subject}: nats-server answered with status {status}; try again")
                )

    def lose(up: bool) -> None:
        if not up and not done.done():
            done.set_exception(LogUnavailable(f"reading {subject}: the connection was lost; try again"))

    prefix = await connection.subscribe(receive)
    connection.watch(lose)
    try:
        request: dict[str, object] = {
            "seq": after + 1,
            "next_by_subj": subject,
            "batch": READ_PAGE_EVENTS,
            "max_bytes": READ_PAGE_BYTES,
        }
        verb = f"$JS.API.DIRECT.GET.{stream}"
        await connection.publish(verb, msgspec.json.encode(request), f"{prefix}page")
        async with asyncio.timeout(REQUEST_TIMEOUT_SECONDS):
            await done
    except TimeoutError:
        raise LogUnavailable(
            f"reading {subject}: no answer within {REQUEST_TIMEOUT_SECONDS:g} s; try again"
        ) from None
    finally:
        connection.unwatch(lose)
        await connection.unsubscribe(prefix)
    return page


def _direct_record(message: Message) -> _Read:
    headers = message.headers or {}
    record = Record(
        int(headers["Nats-Sequence"]),
        _nanoseconds(headers["Nats-Time-Stamp"]),
        headers["Nats-Subject"],
        message.payload,
    )
    before = headers.get("Nats-Expected-Last-Subject-Sequence", "")
    return _Read(record, int(before) if before.isascii() and before.isdigit() and len(before) < 20 else 0)


_PAGE_HEADERS = {"Nats-Num-Pending", "Nats-Last-Sequence", "Nats-UpTo-Sequence"}


class StreamDigest(msgspec.Struct, frozen=True):
    """The content of a stream.

    Attributes:
        messages: how many.
        sha256: over subject, sequence, time, headers and payload of each, in order.
    """

    messages: int
    sha256: str


async def digest(connection: Connection, stream: str, *, direct: bool) -> StreamDigest:
    """Reads a whole stream; equal messages give an equal digest.

    Args:
        connection: to the server.
        stream: its name.
        direct: use direct gets, which are much faster and which the stream must allow.

    Raises:
        LogUnavailable: the server does not answer.
    """
    hashed, count = hashlib.sha256(), 0
    async for parts in _direct_messages(connection, stream) if direct else _messages(connection, stream):
        for part in parts:
            hashed.update(len(part).to_bytes(8))
            hashed.update(part)
        count += 1
    return StreamDigest(count, hashed.hexdigest())


async def _direct_messages(connection: Connection, stream: str) -> AsyncIterator[tuple[bytes, ...]]:
    last = 0
    while page := await read_messages(connection, stream, ">", after=last):
        for message in page:
            headers = message.headers or {}
            # The server's headers have stream, subject, sequence and time; some differ with the page.
            kept = [f"{key}: {value}" for key, value in headers.items() if key not in _PAGE_HEADERS]
            last = int(headers["Nats-Sequence"])
            yield "\n".join(kept).encode(), message.payload


async def _messages(connection: Connection, stream: str) -> AsyncIterator[tuple[bytes, ...]]:
    last = 0
    while message := await leader_get(connection, stream, {"seq": last + 1, "next_by_subj": ">"}):
        last = message.seq
        yield f"{message.seq} {message.time} {message.subject}".encode(), message.hdrs, message.data


def _nanoseconds(timestamp: str) -> int:
    """A timestamp of the server."""
    time = parse_rfc3339(timestamp)
    if time is None:
        raise LogError(f"the server sent the invalid timestamp {timestamp!r:.60}; check its version")
    return time
