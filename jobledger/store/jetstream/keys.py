"""`KeyStore` on a stream of its own, beside the log's: one subject per key, one message per subject.

It shares the log's connection and the server's durability, and nothing else: its messages grow old and go.
"""

import hashlib
from typing import Any

from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.entries import write_entry
from jobledger.store.jetstream.stream import StreamSettings, check_beside, find_or_make_stream
from jobledger.store.keys import Entry
from jobledger.store.limits import KEYS_MAX_AGE_SECONDS, KEYS_MIN_AGE_SECONDS

SUBJECT_PREFIX = "jobledger.keys."  # outside `jobs.>`: no reader of the log ever sees these
_SECOND = 1_000_000_000

# Fields whose other values break a promise, with the promise.
_REQUIRED: dict[str, tuple[object, str]] = {
    "subjects": ([f"{SUBJECT_PREFIX}*"], "keys live there"),
    "storage": ("file", "a repeated request is known again after a restart"),
    "retention": ("limits", "reading a record must not remove it"),
    "discard": ("new", "a full stream refuses new keys instead of forgetting old ones"),
    "max_msgs": (-1, "a new key must not push out an old one"),
}
# Fields that break a promise if they are there at all.
_FORBIDDEN = ("sealed", "no_ack", "mirror", "sources", "subject_transform", "discard_new_per_subject")


class JetStreamKeys:
    """The keys beside a log; made by `open`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    @classmethod
    async def open(cls, connection: Connection, log: StreamSettings) -> "JetStreamKeys":
        """Make the stream of keys if it is missing, and check it if it is there.

        Args:
            connection: the log's.
            log: the settings of the log's stream; this one is named after it, and has as many replicas.

        Raises:
            LogUnfit: if an existing stream breaks a promise; every such field is named.
            LogUnavailable: if the server does not answer.
        """
        name = f"{log.name}_KEYS"
        info = await find_or_make_stream(connection, _config(name, log.replicas))
        _check_config(name, info.config)
        return cls(connection, name)

    async def put(self, key: str, value: bytes, *, expect: int) -> Entry | None:
        """See `KeyStore.put`."""
        subject = SUBJECT_PREFIX + hashlib.sha256(key.encode()).hexdigest()
        return await write_entry(self._connection, self._stream, subject, value, expect=expect)


def _check_config(name: str, config: dict[str, Any]) -> None:
    age_seconds = config.get("max_age", 0) / _SECOND
    too_young = (
        f"max_age is {age_seconds:g} s and must be {KEYS_MIN_AGE_SECONDS} s or more: a repeated request is"
        " known for a day"
    )
    check_beside(
        name,
        config,
        _REQUIRED,
        _FORBIDDEN,
        *([too_young] if 0 < age_seconds < KEYS_MIN_AGE_SECONDS else []),
        remedy="Mend it with `nats stream edit`, or delete it: it holds answers to repeated requests, no"
        " jobs",
    )


def _config(name: str, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "description": "Jobledger: answers to requests with an Idempotency-Key, for a day",
        "num_replicas": replicas,
        "max_age": KEYS_MAX_AGE_SECONDS * _SECOND,
        "max_msgs_per_subject": 1,
        "max_bytes": -1,  # as the log's: the age is the bound
        "max_consumers": -1,
        "max_msg_size": -1,
        "compression": "s2",
        **{field: wanted for field, (wanted, _) in _REQUIRED.items()},
    }
