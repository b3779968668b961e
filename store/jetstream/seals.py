"""`SealStore` on a stream of its own, beside the log's: a subject per epoch, and nothing is ever deleted.

A log that was deleted and made again is another log with another tree, so its seals are a row of their own.
"""

from collections.abc import Sequence

from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.declarations import SEALS, SEALS_PREFIX
from jobledger.store.jetstream.entries import write_entry
from jobledger.store.jetstream.reader import leader_get, read_page, record_of
from jobledger.store.jetstream.stream import Streams, log_info, stream_info
from jobledger.store.model.events import Record
from jobledger.store.seals import SealStreamInfo


class JetStreamSeals:
    """The seals beside a log; made by `open`."""

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject

    @classmethod
    async def open(cls, connection: Connection, streams: Streams, mark: str) -> "JetStreamSeals":
        """Check the stream of seals; create it if there never was one.

        Args:
            connection: the log's.
            streams: the log's.
            mark: of the log's epoch: a token of a subject.

        Raises:
            LogMissing: if it existed, and is missing.
            LogUnfit: if an existing stream breaks a promise; every such field is named.
            LogUnavailable: if the server does not answer.
        """
        await streams.open(SEALS)
        return cls(connection, SEALS.name(streams.log_name), f"{SEALS_PREFIX}{mark}")

    async def append(self, seal: bytes, *, expect: int) -> Record | None:
        """See `SealStore.append`."""
        entry = await write_entry(self._connection, self._stream, self._subject, seal, expect=expect)
        if entry is None:
            return None
        message = await leader_get(self._connection, self._stream, {"seq": entry.revision})
        return record_of(message) if message is not None else None

    async def last(self) -> Record | None:
        """See `SealStore.last`."""
        request: dict[str, object] = {"last_by_subj": self._subject}
        message = await leader_get(self._connection, self._stream, request)
        return record_of(message) if message is not None else None

    async def read(self, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """See `SealStore.read`."""
        return await read_page(self._connection, self._stream, self._subject, after=after, up_to=up_to)

    async def info(self) -> SealStreamInfo:
        """See `SealStore.info`."""
        info = log_info(await stream_info(self._connection, self._stream), self._stream)
        return SealStreamInfo(info.epoch, info.last_sequence)

    async def read_all(self, *, after: int) -> Sequence[Record]:
        """See `SealStore.read_all`."""
        every = f"{SEALS_PREFIX}*"
        page = await read_page(self._connection, self._stream, every, after=after, up_to=None)
        if page:
            return page
        # The replica that answered may lag, or have lost a block: the leader decides that nothing follows.
        request: dict[str, object] = {"seq": after + 1, "next_by_subj": every}
        message = await leader_get(self._connection, self._stream, request)
        return (record_of(message),) if message is not None else ()
