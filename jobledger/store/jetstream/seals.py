"""`SealStore` on a stream of its own, beside the log's: a subject per epoch, and nothing is ever deleted.

A log that was deleted and made again is another log with another tree, so its seals are a row of their own.
"""

from collections.abc import Sequence
from typing import Any

from jobledger.store.events import Record
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.entries import write_entry
from jobledger.store.jetstream.reader import leader_get, read_page, record_of
from jobledger.store.jetstream.stream import (
    StreamSettings,
    check_beside,
    find_or_make_stream,
    log_info,
    stream_info,
)
from jobledger.store.seals import SealStreamInfo

SUBJECT_PREFIX = "jobledger.seals."  # outside `jobs.>`: no reader of the log ever sees these

# Fields whose other values break a promise, with the promise.
_REQUIRED: dict[str, tuple[object, str]] = {
    "subjects": ([f"{SUBJECT_PREFIX}*"], "seals live there"),
    "storage": ("file", "a seal survives a restart"),
    "retention": ("limits", "reading a seal must not remove it"),
    "discard": ("new", "a full stream refuses new seals instead of forgetting old ones"),
    "deny_delete": (True, "no seal can be deleted"),
    "deny_purge": (True, "the stream cannot be purged"),
    "allow_direct": (True, "seals are read by direct get"),
    "max_age": (0, "an old seal is worth more than a new one"),
    "max_msgs": (-1, "a new seal must not push out an old one"),
    "max_msgs_per_subject": (-1, "a new seal must not push out an old one"),
}
# Fields that break a promise if they are there at all.
_FORBIDDEN = ("sealed", "no_ack", "allow_msg_ttl", "mirror", "sources", "subject_transform")


class JetStreamSeals:
    """The seals beside a log; made by `open`."""

    def __init__(self, connection: Connection, stream: str, subject: str) -> None:
        self._connection = connection
        self._stream = stream
        self._subject = subject

    @classmethod
    async def open(cls, connection: Connection, log: StreamSettings, mark: str) -> "JetStreamSeals":
        """Make the stream of seals if it is missing, and check it if it is there.

        Args:
            connection: the log's.
            log: the settings of the log's stream; this one is named after it, and has as many replicas.
            mark: of the log's epoch: a token of a subject.

        Raises:
            LogUnfit: if an existing stream breaks a promise; every such field is named.
            LogUnavailable: if the server does not answer.
        """
        name = f"{log.name}_SEALS"
        info = await find_or_make_stream(connection, _config(name, log.replicas))
        check_beside(name, info.config, _REQUIRED, _FORBIDDEN)
        return cls(connection, name, f"{SUBJECT_PREFIX}{mark}")

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
        every = f"{SUBJECT_PREFIX}*"
        page = await read_page(self._connection, self._stream, every, after=after, up_to=None)
        if page:
            return page
        # The replica that answered may lag, or have lost a block: the leader decides that nothing follows.
        request: dict[str, object] = {"seq": after + 1, "next_by_subj": every}
        message = await leader_get(self._connection, self._stream, request)
        return (record_of(message),) if message is not None else ()


def _config(name: str, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "description": "Jobledger: signed checkpoints of the log's Merkle tree",
        "num_replicas": replicas,
        "max_bytes": -1,
        "max_consumers": -1,
        "max_msg_size": -1,
        "compression": "s2",
        **{field: wanted for field, (wanted, _) in _REQUIRED.items()},
    }
