"""Writing one small record on the condition of what stands there, and reading it back from the leader."""

import asyncio
from collections.abc import Mapping

from jobledger.store.jetstream.api import IN_FLIGHT_CONFLICT, WRONG_LAST_SEQUENCE, PubAck, read_ack
from jobledger.store.jetstream.connection import Connection, NoResponders
from jobledger.store.jetstream.reader import leader_get
from jobledger.store.jetstream.stream import stream_info
from jobledger.store.keys import NO_ENTRY, Entry
from jobledger.store.model.errors import LogNotPermitted, LogUnavailable
from jobledger.store.model.limits import (
    ACK_TIMEOUT_SECONDS,
    KEYS_TIMEOUT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
    RETRY_WAIT_SECONDS,
)

_UNHEARD_TRIES = 4  # some 0.4 s: a leader that was just elected is heard by all by then


async def write_entry(
    connection: Connection,
    stream: str,
    subject: str,
    value: bytes,
    *,
    expect: int,
    headers: Mapping[str, str] | None = None,
) -> Entry | None:
    """Write a record if the subject's last sequence is `expect` (`NO_ENTRY`: if it has none).

    Returns:
        What stands there now: this value, or what somebody else wrote; None if the expected one is gone.

    Raises:
        LogUnavailable: if that can't be found out in time; it may or may not have been written.
        LogNotPermitted: if these credentials may not write it.
        LogRefused: if the server will never take it.
    """
    clock = asyncio.get_running_loop().time
    deadline = clock() + KEYS_TIMEOUT_SECONDS
    wait_seconds = RETRY_WAIT_SECONDS
    unheard = 0  # tries in a row that nobody listened to
    while True:
        # Sent again after a lost answer, the expectation makes it harmless; a look at what stands there
        # then tells whether the first try was stored.
        try:
            ack = await _send(connection, subject, value, expect, headers)
            if ack.error is None:
                return Entry(value, ack.seq)
            if ack.error.err_code == WRONG_LAST_SEQUENCE:
                entry = await read_entry(connection, stream, subject)
                if entry is not None or expect != NO_ENTRY:
                    return entry
            elif ack.error.err_code != IN_FLIGHT_CONFLICT and not ack.error.may_pass:
                raise ack.error.as_exception(f"writing to {stream}")
            unheard = 0
        except LogUnavailable as error:
            unheard = unheard + 1 if isinstance(error, NoResponders) else 0
            if unheard >= _UNHEARD_TRIES and await _has_leader(connection, stream):
                raise LogNotPermitted(
                    f"no answer from {subject}, though the stream {stream} is there: this NATS user may not"
                    " publish to that subject; give its account the service import"
                ) from error
            if clock() >= deadline:
                raise LogUnavailable(f"the stream {stream} can't be reached: {error}") from error
        if clock() >= deadline:
            raise LogUnavailable(
                f"the stream {stream} did not settle within {KEYS_TIMEOUT_SECONDS:g} s; try again"
            )
        await asyncio.sleep(wait_seconds)
        wait_seconds = min(2 * wait_seconds, RETRY_MAX_WAIT_SECONDS)


async def _has_leader(connection: Connection, stream: str) -> bool:
    """Whether a stream could take a message: without a leader nobody listens to its subjects."""
    try:
        return (await stream_info(connection, stream)).error is None
    except LogUnavailable:
        return False


async def read_entry(connection: Connection, stream: str, subject: str) -> Entry | None:
    """What stands on a subject, as the leader has it."""
    found = await leader_get(connection, stream, {"last_by_subj": subject})
    return Entry(found.data, found.seq) if found is not None else None


async def _send(
    connection: Connection, subject: str, value: bytes, expect: int, headers: Mapping[str, str] | None
) -> PubAck:
    message = await connection.request(
        subject,
        value,
        headers={"Nats-Expected-Last-Subject-Sequence": str(expect), **(headers or {})},
        timeout_seconds=ACK_TIMEOUT_SECONDS,
    )
    return read_ack(message)
