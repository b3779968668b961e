"""The stream `JOBS`: made if it is missing, and checked, field by field, if it is there."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from jobledger.store.errors import LogUnavailable, LogUnfit
from jobledger.store.jetstream.api import (
    STREAM_EXISTS_DIFFERENT,
    STREAM_NOT_FOUND,
    AccountInfo,
    StreamInfo,
    call,
)
from jobledger.store.jetstream.connection import Connection, NobodyAnswers
from jobledger.store.limits import (
    DUPLICATE_WINDOW_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
    STREAM_TIMEOUT_SECONDS,
    STREAM_TRY_TIMEOUT_SECONDS,
)
from jobledger.store.log import LogInfo
from jobledger.store.subjects import ALL_SUBJECTS, STREAM_NAME

Answer = TypeVar("Answer")

MIN_API_LEVEL = 4  # nats-server 2.14; older ones silently ignore fields that we need

# Fields whose other values break a promise, with the promise.
_REQUIRED: dict[str, tuple[object, str]] = {
    "storage": ("file", "an acknowledged event survives a restart"),
    "retention": ("limits", "reading an event must not remove it"),
    "discard": ("new", "a full stream refuses new events instead of dropping old ones"),
    "deny_delete": (True, "no event can be deleted"),
    "deny_purge": (True, "the stream cannot be purged"),
    "allow_direct": (True, "a job's history is read by direct get"),
    "allow_atomic": (True, "group commit uses atomic batches"),
}
# Fields that break a promise if they are there at all.
_FORBIDDEN: dict[str, str] = {
    "sealed": "events must be appended",
    "no_ack": "an append is acknowledged",
    "allow_msg_ttl": "no event may ever vanish",
    "mirror": "events come from their writers alone",
    "sources": "events come from their writers alone",
    "subject_transform": "an event stands on the subject that it was appended to",
}
# Limits that would make old events vanish (or hide) one day; all must be off.
_UNLIMITED = {"max_age": 0, "max_msgs": -1, "max_msgs_per_subject": -1}


class StreamSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What may differ between installations.

    Attributes:
        name: the stream's name.
        replicas: 1, or 3 in a cluster.
        max_bytes: the stream refuses events beyond this size; -1: no limit but the disk.
        duplicate_window_seconds: how long the server remembers event ids.
    """

    name: str = STREAM_NAME
    replicas: int = 1
    max_bytes: int = -1
    duplicate_window_seconds: int = DUPLICATE_WINDOW_SECONDS


async def ensure_stream(connection: Connection, settings: StreamSettings) -> StreamInfo:
    """Return the stream, made if it was missing.

    Raises:
        LogUnfit: if the server is too old, or an existing stream breaks a promise; every such field is named.
        LogUnavailable: if the server does not answer.
    """
    await _through_elections(lambda: _check_server(connection))
    info = await find_or_make_stream(connection, _config(settings))
    check_config(settings.name, info.config)
    return info


async def find_or_make_stream(connection: Connection, config: dict[str, Any]) -> StreamInfo:
    """Return the stream of a configuration's name, made of it if it was missing.

    Raises:
        LogError: if it can be neither found nor made, in time.
    """
    return await _through_elections(lambda: _try_to_find_or_make_stream(connection, config))


async def _through_elections(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask until there is an answer, STREAM_TIMEOUT_SECONDS long.

    A cluster does not answer at all while it elects its own leader, nor for a stream that has none just now:
    one that is being made by another process, or whose leader was lost. Such an election takes seconds.
    """
    deadline = asyncio.get_running_loop().time() + STREAM_TIMEOUT_SECONDS
    while True:
        try:
            return await ask()
        except NobodyAnswers:  # JetStream is off: no wait will change that
            raise
        except LogUnavailable:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(RETRY_MAX_WAIT_SECONDS)


async def _try_to_find_or_make_stream(connection: Connection, config: dict[str, Any]) -> StreamInfo:
    name = config["name"]
    info = await stream_info(connection, name, timeout_seconds=STREAM_TRY_TIMEOUT_SECONDS)
    if info.error and info.error.err_code == STREAM_NOT_FOUND:
        info = await call(connection, f"STREAM.CREATE.{name}", config, StreamInfo)
        if info.error and info.error.err_code == STREAM_EXISTS_DIFFERENT:  # another process was faster
            info = await stream_info(connection, name, timeout_seconds=STREAM_TRY_TIMEOUT_SECONDS)
    if info.error:
        raise info.error.as_exception(f"stream {name}")
    return info


async def stream_info(
    connection: Connection,
    name: str,
    *,
    deleted: bool = False,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
) -> StreamInfo:
    """Ask the leader about the stream; the answer's `error` is the caller's to judge."""
    request = {"deleted_details": deleted}
    return await call(connection, f"STREAM.INFO.{name}", request, StreamInfo, timeout_seconds=timeout_seconds)


def log_info(info: StreamInfo, name: str) -> LogInfo:
    """A stream's answer in the words of the port.

    Raises:
        LogUnavailable: if there is no such stream; somebody may be restoring it. Or if it has no leader: then
            each replica answers for itself, and may lack hundreds of events.
        LogError: if the answer was another error.
    """
    if info.error is not None:
        if info.error.err_code == STREAM_NOT_FOUND:
            raise LogUnavailable(f"the stream {name} is not there; was it deleted? Restore it from a backup")
        raise info.error.as_exception(f"stream {name}")
    if info.cluster is not None and info.cluster.replicas and info.cluster.leader_since is None:
        raise LogUnavailable(
            f"the stream {name} has no leader just now, and a replica that does not lead may be behind; try"
            " again"
        )
    return LogInfo(info.created, max(info.state.first_seq, 1), info.state.last_seq)


def check_config(name: str, config: dict[str, Any]) -> None:
    """Hold a stream's configuration to the promises.

    Raises:
        LogUnfit: naming every field that breaks one.
    """
    wrong = [
        f"{field} is {config.get(field)!r} and must be {wanted!r}: {promise}"
        for field, (wanted, promise) in _REQUIRED.items()
        if config.get(field) != wanted
    ]
    wrong += [
        f"{field} is {config[field]!r} and must be {off!r}: no event may ever vanish"
        for field, off in _UNLIMITED.items()
        if config.get(field, off) != off
    ]
    if config.get("subjects") != [ALL_SUBJECTS]:
        wrong.append(
            f"subjects is {config.get('subjects')!r} and must be {[ALL_SUBJECTS]!r}: jobs live there"
        )
    wrong += [
        f"{field} is {config[field]!r} and must be off: {promise}"
        for field, promise in _FORBIDDEN.items()
        if config.get(field)
    ]
    if wrong:
        raise LogUnfit(
            f"the stream {name} exists with a configuration that breaks a promise: {'; '.join(wrong)}."
            " Mend it with `nats stream edit`, or name another stream"
        )


def check_beside(
    name: str,
    config: dict[str, Any],
    required: Mapping[str, tuple[object, str]],
    forbidden: Iterable[str],
    *more: str,
    remedy: str = "Mend it with `nats stream edit`",
) -> None:
    """Hold the configuration of a stream beside the log's to what it promises.

    Args:
        name: of the stream.
        config: as the server has it.
        required: fields whose other values break a promise, with the promise.
        forbidden: fields that break one if they are there at all.
        more: what else is wrong.
        remedy: what to do.

    Raises:
        LogUnfit: naming every field that breaks one.
    """
    wrong = [
        f"{field} is {config.get(field)!r} and must be {wanted!r}: {promise}"
        for field, (wanted, promise) in required.items()
        if config.get(field, 0 if wanted == 0 else None) != wanted  # the server leaves a 0 out
    ]
    wrong += [f"{field} is {config[field]!r} and must be off" for field in forbidden if config.get(field)]
    wrong += more
    if wrong:
        raise LogUnfit(
            f"the stream {name} exists with a configuration that breaks a promise: {'; '.join(wrong)}."
            f" {remedy}"
        )


async def _check_server(connection: Connection) -> None:
    account = await call(connection, "INFO", {}, AccountInfo, timeout_seconds=STREAM_TRY_TIMEOUT_SECONDS)
    if account.error:
        raise account.error.as_exception("JetStream")
    if account.api.level < MIN_API_LEVEL:
        raise LogUnfit(
            f"the nats-server speaks JetStream API level {account.api.level} and Jobledger needs"
            f" {MIN_API_LEVEL} or higher; use nats-server 2.15.1 or newer"
        )


def _config(settings: StreamSettings) -> dict[str, Any]:
    return {
        "name": settings.name,
        "description": "Jobledger: every event of every job, in order",
        "subjects": [ALL_SUBJECTS],
        "num_replicas": settings.replicas,
        "max_bytes": settings.max_bytes,
        "max_consumers": -1,
        "max_msg_size": -1,
        "compression": "s2",
        "duplicate_window": settings.duplicate_window_seconds * 1_000_000_000,
        **{field: wanted for field, (wanted, _) in _REQUIRED.items()},
        **_UNLIMITED,
    }
