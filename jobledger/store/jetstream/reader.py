"""Reading one job's records: the leader for "what is last", a batched direct get for the rest."""

import asyncio
from collections.abc import Sequence

import msgspec

from jobledger.store.errors import LogUnavailable
from jobledger.store.events import Record
from jobledger.store.jetstream.api import (
    MESSAGE_NOT_FOUND,
    MessageReply,
    StoredMessage,
    call,
    nanoseconds_of,
    status_of,
)
from jobledger.store.jetstream.connection import Arrived, Connection
from jobledger.store.limits import READ_PAGE_BYTES, READ_PAGE_EVENTS, REQUEST_TIMEOUT_SECONDS
from jobledger.store.values import rfc3339

_SERVER_TIME_MAX = 2**63 - 2  # the server counts nanoseconds in 64 bits


async def leader_get(
    connection: Connection,
    stream: str,
    request: dict[str, object],
    *,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
) -> StoredMessage | None:
    """One message by `last_by_subj` or by `seq` and `next_by_subj`, from the stream's leader: never stale."""
    verb = f"STREAM.MSG.GET.{stream}"
    reply = await call(connection, verb, request, MessageReply, timeout_seconds=timeout_seconds)
    if reply.error is not None:
        if reply.error.err_code == MESSAGE_NOT_FOUND:
            return None
        raise reply.error.as_exception(f"reading from {stream}")
    return reply.message


async def first_later(connection: Connection, stream: str, time: int) -> int | None:
    """The sequence of the first message that the stream took after a time, as its leader has it; None: none.

    Args:
        connection: to the server.
        stream: its name.
        time: Unix nanoseconds.
    """
    if time >= _SERVER_TIME_MAX:
        return None
    message = await leader_get(connection, stream, {"start_time": rfc3339(max(0, time + 1))})
    return message.seq if message is not None else None


def record_of(message: StoredMessage) -> Record:
    """A leader's answer as a record."""
    return Record(message.seq, nanoseconds_of(message.time), message.subject, message.data)


async def read_page(
    connection: Connection, stream: str, subject: str, *, after: int, up_to: int | None
) -> Sequence[Record]:
    """A page of a subject's records after a sequence, by a batched direct get (NATS ADR-31).

    Raises:
        LogUnavailable: if the page does not arrive whole in time.
    """
    page: list[Record] = []
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(message: Arrived) -> None:
        # A stored message may carry any header; only the server's own words come without a sequence.
        status = "" if message.headers and "Nats-Sequence" in message.headers else status_of(message)
        if not status:
            page.append(_direct_record(message))
        elif not done.done():
            if status in ("204", "404"):  # end of batch; nothing there
                done.set_result(None)
            else:
                done.set_exception(
                    LogUnavailable(f"reading {subject}: the server answers with status {status}")
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
    return [record for record in page if up_to is None or record.sequence <= up_to]


def _direct_record(message: Arrived) -> Record:
    headers = message.headers or {}
    return Record(
        int(headers["Nats-Sequence"]),
        nanoseconds_of(headers["Nats-Time-Stamp"]),
        headers["Nats-Subject"],
        message.payload,
    )
