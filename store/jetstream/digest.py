"""What a stream holds, as one hash: two looks at the same messages give the same."""

import hashlib
from collections.abc import AsyncIterator

import msgspec

from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.reader import leader_get, read_messages

_OF_THE_PAGE = {"Nats-Num-Pending", "Nats-Last-Sequence", "Nats-UpTo-Sequence"}


class StreamDigest(msgspec.Struct, frozen=True):
    """What a stream holds.

    Attributes:
        messages: how many.
        sha256: over subject, sequence, time, headers and payload of each, in order.
    """

    messages: int
    sha256: str


async def digest(connection: Connection, stream: str, *, direct: bool) -> StreamDigest:
    """Read a whole stream.

    Args:
        connection: to the server.
        stream: its name.
        direct: whether it allows direct gets, which are much faster.

    Raises:
        LogUnavailable: if the server does not answer.
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
            # The server's own headers name stream, subject, sequence and time; those of the page differ by
            # where the page begins.
            kept = [f"{key}: {value}" for key, value in headers.items() if key not in _OF_THE_PAGE]
            last = int(headers["Nats-Sequence"])
            yield "\n".join(kept).encode(), message.payload


async def _messages(connection: Connection, stream: str) -> AsyncIterator[tuple[bytes, ...]]:
    last = 0
    while message := await leader_get(connection, stream, {"seq": last + 1, "next_by_subj": ">"}):
        last = message.seq
        yield f"{message.seq} {message.time} {message.subject}".encode(), message.hdrs, message.data
