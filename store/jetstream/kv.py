"""Key-value buckets on JetStream streams next to the log's: a subject per key, over the log's connection.

A deleted entry is an empty message that expires after a day: readers of changes see the deletion, and the
rights of applications include no purge.
"""

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from typing import Final

from jobledger.store.backoff import Backoff
from jobledger.store.jetstream.api import IN_FLIGHT_CONFLICT, WRONG_LAST_SEQUENCE, PubAck, read_ack
from jobledger.store.jetstream.connection import Connection, NoResponders
from jobledger.store.jetstream.declarations import (
    KEYS,
    KEYS_PREFIX,
    SEALS,
    SEALS_PREFIX,
    SUBSCRIPTIONS,
    WEBHOOKS,
)
from jobledger.store.jetstream.reader import leader_get, read_page, record_of
from jobledger.store.jetstream.stream import Streams, log_info, stream_info
from jobledger.store.kv import NO_ENTRY, BucketInfo, Change, Entry
from jobledger.store.model.errors import InvalidInput, LogNotPermitted, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    ACK_TIMEOUT_SECONDS,
    KEYS_TIMEOUT_SECONDS,
    READ_MAX_TRIES,
    RECORD_MAX_BYTES,
    RECORD_REMOVED_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
    RETRY_WAIT_SECONDS,
)

_BUCKETS: Final = {each.suffix.removeprefix("_"): each for each in (KEYS, SUBSCRIPTIONS, WEBHOOKS)}
_UNHEARD_TRIES: Final = 5  # at least 0.35 s: every server knows a newly elected leader by then


class JetStreamKeyValue:
    """`KeyValue` on one stream; returned by `open`."""

    def __init__(self, connection: Connection, stream: str, *, hashes_keys: bool = False) -> None:
        self._connection = connection
        self._stream = stream
        self._hashes_keys = hashes_keys

    @classmethod
    async def open(cls, connection: Connection, streams: Streams, bucket: str) -> "JetStreamKeyValue":
        """Checks the stream of a bucket, and creates it if it never existed.

        Args:
            connection: the log's.
            streams: the log's.
            bucket: KEYS, SUBSCRIPTIONS or WEBHOOKS: the end of the stream's name.

        Raises:
            LogMissing: it existed, and is missing.
            LogUnfit: an existing stream breaks a promise; every such field is named.
            LogUnavailable: the server does not answer.
        """
        declaration = _BUCKETS[bucket]
        await streams.open(declaration)
        return cls(connection, declaration.name(streams.log_name), hashes_keys=declaration is KEYS)

    async def get(self, key: str) -> Entry | None:
        """See `KeyValue.get`."""
        entry = await _read(self._connection, self._stream, self._subject(key))
        return entry if entry is not None and entry.value else None

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """See `KeyValue.put`."""
        # What clients send ends up in KEYS, whose user has a limit of its own.
        if not value or (len(value) > RECORD_MAX_BYTES and not self._hashes_keys):
            raise InvalidInput(
                f"the value of {key} must have 1 to {RECORD_MAX_BYTES} bytes, got {len(value)}; shorten it"
            )
        return await self._write(key, value, expect=expect)

    async def delete(self, key: str, *, expect: int) -> bool:
        """See `KeyValue.delete`."""
        entry = await self._write(key, b"", expect=expect)
        return entry is None or not entry.value

    async def changes(self, prefix: str, *, after: int = 0) -> tuple[Sequence[Change], int]:
        """See `KeyValue.changes`."""
        subjects = f"{self._subject(prefix)}.>"
        last = await leader_get(self._connection, self._stream, {"last_by_subj": subjects})
        if last is None or last.seq <= after:
            return (), after
        found: dict[str, Change] = {}
        place, tries = after, 0
        while place < last.seq:
            page = await read_page(self._connection, self._stream, subjects, after=place, up_to=None)
            for record in page:
                change = self._change(record)
                found[change.key] = change
            if page:
                place, tries = page[-1].sequence, 0
                continue
            tries += 1  # a replica that does not have it yet; or it was written again in the meantime
            if tries > READ_MAX_TRIES:
                raise LogUnavailable(
                    f"a replica of {self._stream} lags: it does not have message {last.seq} yet; try again"
                )
            await asyncio.sleep(RETRY_WAIT_SECONDS * tries)
        return [change for change in found.values() if after or not change.is_deleted], place

    async def _write(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        headers = {} if value else {"Nats-TTL": f"{RECORD_REMOVED_SECONDS}s"}
        for _ in range(READ_MAX_TRIES):
            entry = await _write(
                self._connection, self._stream, self._subject(key), value, expect=expect, headers=headers
            )
            if entry is None or entry.value or not value:
                return entry
            if expect != NO_ENTRY:
                return None
            expect = entry.revision  # of a deletion: the same as no entry
        raise LogUnavailable(f"{key} is written and deleted by others all the time; try again")

    def _subject(self, key: str) -> str:
        if self._hashes_keys:  # clients choose these, so any text must be possible
            return KEYS_PREFIX + hashlib.sha256(key.encode()).hexdigest()
        return f"{self._stream}.{key}"

    def _change(self, record: Record) -> Change:
        key = record.subject.removeprefix(f"{self._stream}.")
        return Change(key, Entry(record.payload, record.sequence))


class JetStreamKeyHistory:
    """`KeyHistory` of one subject of the stream of seals; returned by `open`.

    A log that was deleted and created again has another epoch and another Merkle tree, so its seals have a
    key of their own.
    """

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject

    @classmethod
    async def open(cls, connection: Connection, streams: Streams, key: str) -> "JetStreamKeyHistory":
        """Checks the stream of seals, and creates it if it never existed.

        Args:
            connection: the log's.
            streams: the log's.
            key: the log's stream tag: one token of a subject.

        Raises:
            LogMissing: it existed, and is missing.
            LogUnfit: an existing stream breaks a promise; every such field is named.
            LogUnavailable: the server does not answer.
        """
        await streams.open(SEALS)
        return cls(connection, SEALS.name(streams.log_name), f"{SEALS_PREFIX}{key}")

    async def append(self, value: bytes, *, expect: int) -> Record | None:
        """See `KeyHistory.append`."""
        entry = await _write(self._connection, self._stream, self._subject, value, expect=expect)
        if entry is None:
            return None
        message = await leader_get(self._connection, self._stream, {"seq": entry.revision})
        return record_of(message) if message is not None else None

    async def last(self) -> Record | None:
        """See `KeyHistory.last`."""
        message = await leader_get(self._connection, self._stream, {"last_by_subj": self._subject})
        return record_of(message) if message is not None else None

    async def read(self, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """See `KeyHistory.read`."""
        return await read_page(self._connection, self._stream, self._subject, after=after, up_to=up_to)

    async def read_all(self, *, after: int) -> Sequence[Record]:
        """See `KeyHistory.read_all`."""
        every = f"{SEALS_PREFIX}*"
        page = await read_page(self._connection, self._stream, every, after=after, up_to=None)
        if page:
            return page
        # The replica that answered may lag, or have lost a block: only the leader can say that none follows.
        request: dict[str, object] = {"seq": after + 1, "next_by_subj": every}
        message = await leader_get(self._connection, self._stream, request)
        return (record_of(message),) if message is not None else ()

    async def info(self) -> BucketInfo:
        """See `KeyHistory.info`."""
        info = log_info(await stream_info(self._connection, self._stream), self._stream)
        return BucketInfo(info.epoch, info.last_sequence)


async def _write(
    connection: Connection,
    stream: str,
    subject: str,
    value: bytes,
    *,
    expect: int,
    headers: Mapping[str, str] | None = None,
) -> Entry | None:
    """Writes a message if the last sequence of its subject is `expect`; returns what the subject has now."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + KEYS_TIMEOUT_SECONDS
    backoff = Backoff(RETRY_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS)
    unheard = 0  # tries in a row that had no responder
    while True:
        # The expectation makes it safe to send the message again after a lost answer; reading the subject
        # then shows whether the first try was stored.
        try:
            ack = await _send(connection, subject, value, expect, headers)
            if ack.error is None:
                return Entry(value, ack.seq)
            if ack.error.err_code == WRONG_LAST_SEQUENCE:
                entry = await _read(connection, stream, subject)
                if entry is not None or expect != NO_ENTRY:
                    return entry
            elif ack.error.err_code != IN_FLIGHT_CONFLICT and not ack.error.may_pass:
                raise ack.error.as_exception(f"writing to {stream}")
            unheard = 0
        except LogUnavailable as error:
            unheard = unheard + 1 if isinstance(error, NoResponders) else 0
            if unheard >= _UNHEARD_TRIES and await _has_leader(connection, stream):
                raise LogNotPermitted(
                    f"no answer from {subject}, although the stream {stream} exists: this NATS user may not"
                    " publish to that subject; give its account the service import"
                ) from error
            if clock() >= deadline:
                raise LogUnavailable(f"the stream {stream} cannot be reached ({error}); try again") from error
        if clock() >= deadline:
            raise LogUnavailable(
                f"the stream {stream} gave no final answer within {KEYS_TIMEOUT_SECONDS:g} s; try again"
            )
        await backoff.sleep()


async def _has_leader(connection: Connection, stream: str) -> bool:
    """Whether a stream could take a message: without a leader its subjects have no responder."""
    try:
        return (await stream_info(connection, stream)).error is None
    except LogUnavailable:
        return False


async def _read(connection: Connection, stream: str, subject: str) -> Entry | None:
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
