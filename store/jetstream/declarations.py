"""Declares every Jobledger stream: its purpose, its configuration, and what must hold of it later.

    JOBS                 the log
    JOBS_KEYS            answers to requests with an Idempotency-Key, for a day
    JOBS_SUBSCRIPTIONS   durable subscriptions and the jobs that they parked
    JOBS_WEBHOOKS        webhooks with their secrets
    JOBS_SEALS           signed checkpoints of the log's Merkle tree
    JOBS_HEARTBEAT       the last append of each service that checks that the log accepts appends

The log's name is a setting; the other names start with it. `stream` creates, checks and repairs streams from
these declarations. No stream is compressed: nats-server 2.15.1 destroys a compressed one after `kill -9`
(`docs/decisions/0019-no-compression-and-no-second-log.md`).
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from jobledger.store.model.limits import (
    DUPLICATE_WINDOW_SECONDS,
    HEARTBEAT_MAX_AGE_SECONDS,
    KEYS_MAX_AGE_SECONDS,
    KEYS_MIN_AGE_SECONDS,
)
from jobledger.store.model.subjects import ALL_SUBJECTS, STREAM_NAME
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

NO_COMPRESSION: Final = "none"
KEYS_PREFIX: Final = "jobledger.keys."  # outside `jobs.>`: no reader of the log sees these subjects
SEALS_PREFIX: Final = "jobledger.seals."
HEARTBEAT_PREFIX: Final = "jobledger.heartbeat."

# Metadata of the log's stream.
COMPANIONS_KEY: Final = "jobledger.streams"
"""The streams that exist if the log has an event: they are created before the first append."""
COMPRESSED_KEY: Final = "jobledger.compressed-up-to"
"""The last sequence when the compression of a stream was turned off; removed when its blocks are rewritten.

nats-server 2.15.1 continues to compress until it opens the stream's files again (`stream.go` sets
`fsCfg.Compression` only there), so later blocks may be compressed too.
"""

REPLICAS_KEY: Final = "jobledger.replicas"
"""How many replicas a stream must have, while a rewrite has it at fewer."""

OLD_REPLICAS_KEY: Final = "jobledger.old-replicas"
"""The servers whose replicas a rewrite has not replaced yet, separated by spaces."""


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ between installations.

    Attributes:
        name: of the log's stream.
        replicas: 1, or 3 in a cluster; used when the log is created. The other streams have as many.
        max_bytes: the log refuses events beyond this size; -1: only the disk limits it.
        duplicate_window_seconds: how long the server remembers event ids.
    """

    name: str = STREAM_NAME
    replicas: int = 1
    max_bytes: int = -1
    duplicate_window_seconds: int = DUPLICATE_WINDOW_SECONDS


class StreamDeclaration(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of stream.

    Attributes:
        suffix: of its name, after the log's; empty for the log itself.
        description: shown by `nats stream info`.
        subject: of its messages; `{name}` is the stream's name.
        required: fields whose other values break a promise, with the promise.
        forbidden: fields that must be off, with the promise.
        defaults: other fields, which an operator may change.
        min_age_seconds: the least `max_age`; 0: it is among `required`.
        keeps_records: its content matters, so it is never created a second time.
        remedy: what to do about a configuration that breaks a promise.
    """

    suffix: str
    description: str
    subject: str
    required: Mapping[str, tuple[object, str]]
    forbidden: Mapping[str, str]
    defaults: Mapping[str, object] = {}
    min_age_seconds: int = 0
    keeps_records: bool = True
    remedy: str = "Change it with `nats stream edit`"

    def name(self, log: str) -> str:
        """The name of the stream that belongs to a log."""
        return f"{log}{self.suffix}"

    def config(self, log: StreamSettings, *, replicas: int) -> dict[str, Any]:
        """The configuration for `STREAM.CREATE`."""
        name = self.name(log.name)
        config = {
            "name": name,
            "description": f"Jobledger: {self.description}",
            "subjects": [self.subject.format(name=name)],
            "num_replicas": replicas,
            "max_bytes": -1,
            "max_consumers": -1,
            "max_msg_size": -1,
            "compression": NO_COMPRESSION,
            **{field: expected for field, (expected, _) in self.required.items()},
            **self.defaults,
        }
        if not self.suffix:
            config["max_bytes"] = log.max_bytes
            config["duplicate_window"] = log.duplicate_window_seconds * NANOSECONDS_PER_SECOND
            config["metadata"] = {COMPANIONS_KEY: " ".join(companion_names(log.name))}
        return config

    def problems(self, name: str, config: Mapping[str, Any]) -> Iterator[str]:
        """Every field of an existing stream's configuration that breaks a promise.

        Compression and replicas are repaired instead (`Streams.prepare`).
        """
        for field, (expected, promise) in self.required.items():
            # The server may omit a limit that is off.
            found = config.get(field, expected if expected in (0, -1) else None)
            if found != expected:
                yield f"{field} is {found!r} and must be {expected!r}: {promise}"
        subjects = [self.subject.format(name=name)]
        if config.get("subjects") != subjects:
            yield f"subjects is {config.get('subjects')!r} and must be {subjects!r}: its messages have these"
        for field, promise in self.forbidden.items():
            if config.get(field):
                yield f"{field} is {config[field]!r} and must be off: {promise}"
        age_seconds = config.get("max_age", 0) / NANOSECONDS_PER_SECOND
        if 0 < age_seconds < self.min_age_seconds:
            yield (
                f"max_age is {age_seconds:g} s and must be {self.min_age_seconds} s or more: its messages"
                " must be kept that long"
            )


def _durable(what: str) -> dict[str, tuple[object, str]]:
    """What every stream with durable messages needs."""
    return {
        "storage": ("file", f"{what} survives a restart"),
        "retention": ("limits", f"reading {what} must not remove it"),
        "discard": ("new", "a full stream refuses new messages instead of dropping old ones"),
    }


_OWN_MESSAGES: Final[dict[str, str]] = {
    "sealed": "messages must be appended",
    "no_ack": "an append is acknowledged",
    "mirror": "messages come only from their writers",
    "sources": "messages come only from their writers",
    "subject_transform": "a message keeps its subject",
    "allow_rollup_hdrs": "a message must not remove others: its header `Nats-Rollup: all` clears the stream",
    "allow_msg_schedules": "a message must not be published again under another subject",
}
_UNLIMITED: Final[dict[str, tuple[object, str]]] = {
    "max_age": (0, "no event may ever be removed"),
    "max_msgs": (-1, "no event may ever be removed"),
    "max_msgs_per_subject": (-1, "no event may ever be removed"),
}
_UNDELETABLE: Final[dict[str, tuple[object, str]]] = {
    "deny_delete": (True, "no message can be deleted"),
    "deny_purge": (True, "the stream cannot be purged"),
}

LOG: Final = StreamDeclaration(
    suffix="",
    description="every event of every job, in order",
    subject=ALL_SUBJECTS,
    required={
        **_durable("an acknowledged event"),
        **_UNDELETABLE,
        "allow_direct": (True, "a job's history is read by direct get"),
        "allow_atomic": (True, "group commit uses atomic batches"),
        **_UNLIMITED,
    },
    forbidden={**_OWN_MESSAGES, "allow_msg_ttl": "no event may ever be removed"},
    remedy="Change it with `nats stream edit`, or name another stream",
)
KEYS: Final = StreamDeclaration(
    suffix="_KEYS",
    description="answers to requests with an Idempotency-Key, for a day",
    subject=f"{KEYS_PREFIX}*",
    required={**_durable("an answer"), "max_msgs": (-1, "a new key must not push out an old one")},
    forbidden={**_OWN_MESSAGES, "discard_new_per_subject": "a key's record is replaced"},
    defaults={"max_age": KEYS_MAX_AGE_SECONDS * NANOSECONDS_PER_SECOND, "max_msgs_per_subject": 1},
    min_age_seconds=KEYS_MIN_AGE_SECONDS,
)
SEALS: Final = StreamDeclaration(
    suffix="_SEALS",
    description="signed checkpoints of the log's Merkle tree",
    subject=f"{SEALS_PREFIX}*",
    required={
        **_durable("a seal"),
        **_UNDELETABLE,
        "allow_direct": (True, "seals are read by direct get"),
        "max_age": (0, "a seal is never removed"),
        "max_msgs": (-1, "a new seal must not push out an old one"),
        "max_msgs_per_subject": (-1, "a new seal must not push out an old one"),
    },
    forbidden={**_OWN_MESSAGES, "allow_msg_ttl": "no seal may ever be removed"},
)


def _records(suffix: str, description: str) -> StreamDeclaration:
    return StreamDeclaration(
        suffix=suffix,
        description=description,
        subject="{name}.>",
        required={
            **_durable("a record"),
            "max_msgs": (-1, "a new record must not push out an old one"),
            "max_age": (0, "a record stays until it is removed"),
            "max_msgs_per_subject": (1, "a key has one record"),
            "allow_direct": (True, "changes are read by direct get"),
            "allow_msg_ttl": (True, "a removed record is forgotten after a day"),
        },
        forbidden={**_OWN_MESSAGES, "discard_new_per_subject": "a key's record is replaced"},
    )


SUBSCRIPTIONS: Final = _records("_SUBSCRIPTIONS", "durable subscriptions and the jobs that they parked")
WEBHOOKS: Final = _records("_WEBHOOKS", "webhooks and their secrets")
HEARTBEAT: Final = StreamDeclaration(
    suffix="_HEARTBEAT",
    description="the last test append of each service",
    subject=f"{HEARTBEAT_PREFIX}*",
    required={
        **_durable("a heartbeat"),
        "max_msgs_per_subject": (1, "a service has one heartbeat"),
        "allow_direct": (True, "heartbeats are read by direct get"),
    },
    forbidden={**_OWN_MESSAGES, "discard_new_per_subject": "a heartbeat is replaced"},
    defaults={"max_age": HEARTBEAT_MAX_AGE_SECONDS * NANOSECONDS_PER_SECOND, "max_msgs": -1},
    keeps_records=False,
)

COMPANIONS: Final = (KEYS, SUBSCRIPTIONS, WEBHOOKS, SEALS, HEARTBEAT)
"""All streams except the log, in the order in which they are listed."""
STREAMS: Final = (LOG, *COMPANIONS)
"""All streams, the log first: it is created first."""


def companion_names(log: str) -> tuple[str, ...]:
    """The names of the streams of a log whose content matters."""
    return tuple(each.name(log) for each in COMPANIONS if each.keeps_records)
