"""Finds, creates, checks and repairs the streams that `declarations` lists.

    find ──► exists ──► configuration checked ──► (prepare) compression and replicas repaired, or reported
      └────► missing ─► evidence that it existed? ─ yes ─► LogMissing: nothing is created
                                                 └─ no ──► created: the log first, then the other streams

A stream that existed is never created a second time: an empty log in place of a lost one would be reported as
healthy. Evidence that a stream existed:

- what the caller knows (`EvidenceSource`: a service's data directory, its view, its seals);
- another Jobledger stream, because the log is created before all others;
- the log's metadata, which names the streams that are created before its first event;
- this process has used the stream before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

from jobledger.store.jetstream.api import (
    NO_SUITABLE_PEERS,
    STREAM_EXISTS_DIFFERENT,
    STREAM_NOT_FOUND,
    AccountInfo,
    StreamInfo,
    call,
    leader_of,
)
from jobledger.store.jetstream.connection import Connection, NoResponders
from jobledger.store.jetstream.declarations import (
    COMPANIONS,
    COMPANIONS_KEY,
    COMPRESSED_KEY,
    LOG,
    NO_COMPRESSION,
    REPLICAS_KEY,
    STREAMS,
    StreamDeclaration,
    StreamSettings,
)
from jobledger.store.log import LogInfo
from jobledger.store.model.errors import LogMissing, LogNotPermitted, LogUnavailable, LogUnfit
from jobledger.store.model.limits import (
    REQUEST_TIMEOUT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
    STREAM_MISSING_SECONDS,
    STREAM_TIMEOUT_SECONDS,
    STREAM_TRY_TIMEOUT_SECONDS,
)

Answer = TypeVar("Answer")

MIN_API_LEVEL = 4  # nats-server 2.14; older ones silently ignore required fields

_log = logging.getLogger("jobledger.store")


EvidenceSource = Callable[[str], Awaitable[Sequence[str]]]
"""Returns evidence from outside the server that a stream existed, each item as part of a message."""

AcceptLoss = Callable[[LogMissing], None]
"""Called with a stream that existed and is missing, before another one is created in its place."""


async def _no_evidence(_: str) -> Sequence[str]:
    return ()


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as it is on the server.

    Attributes:
        name: of the stream.
        created: when, as the server writes it: the stream's epoch.
        replicas: number of copies.
        compression: as configured; `none` is safe.
        once_compressed: blocks may still be compressed from a time when the stream was configured so.
        messages: number of messages.
        bytes: of these messages.
        first_sequence: of the oldest message.
        last_sequence: of the newest one.
        direct: it can be read by direct get.
        leader: the server that reported this, with its term; empty if the answer does not prove it current.
        changed: the fields of its configuration that were just repaired.
        problems: what could not be repaired, each with the remedy.
    """

    name: str
    created: str
    replicas: int
    compression: str
    once_compressed: bool
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int
    direct: bool = True
    leader: str = ""
    changed: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


class Streams:
    """The streams of one log, over one connection.

    Args:
        connection: to the servers.
        settings: of the log.
        evidence: returns evidence from outside the server that a stream existed.
        accept_loss: allows to create a missing stream although it existed; called with the loss before that,
            so that a command can report it. None: a loss is an error.
    """

    def __init__(
        self,
        connection: Connection,
        settings: StreamSettings,
        evidence: EvidenceSource | None = None,
        *,
        accept_loss: AcceptLoss | None = None,
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._evidence = evidence or _no_evidence
        self._accept_loss = accept_loss
        self._used: set[str] = set()

    @property
    def log_name(self) -> str:
        """The name of the log's stream."""
        return self._settings.name

    async def open_log(self) -> StreamInfo:
        """Finds the log; creates it, and then the other streams, if it never existed.

        Raises:
            LogMissing: it existed, and is missing.
            LogUnfit: the server is too old, or the stream breaks a promise; every such field is named.
            LogNotPermitted: it must be created, and the NATS user lacks the right.
            LogUnavailable: the server does not answer.
        """
        await _through_elections(lambda: _check_server(self._connection))
        info = await self._find(LOG)
        if info is None:
            evidence = await self._evidence_of_log()
            if evidence:
                info = await self._look_again(LOG)
                if info is None:
                    self._give_up(LOG, evidence)
        if info is None:
            info = await self._create(LOG, self._settings.replicas)
        self._check(LOG, info)
        if info.state.last_seq == 0:
            # Also after a crash between the creation of the log and of the others: no event was appended yet.
            await self._create_companions()
        return info

    async def open(self, declaration: StreamDeclaration) -> StreamInfo:
        """Finds a stream next to the log; creates it if it never existed.

        Raises:
            LogMissing: it existed, and is missing; or the log is missing.
            LogUnfit: it breaks a promise; every such field is named.
            LogNotPermitted: it must be created, and the NATS user lacks the right.
            LogUnavailable: the server does not answer.
        """
        info = await self._find(declaration)
        if info is None:
            log = await self._find(LOG)
            if log is None:
                raise _missing(self._settings.name, LOG, ["it was opened before"])
            info = await self._create_companion(declaration, log)
        self._check(declaration, info)
        return info

    async def prepare(self) -> tuple[StreamReport, ...]:
        """Creates the streams that never existed; repairs compression and replicas if the NATS user may.

        Raises:
            LogMissing: a stream existed, and is missing.
            LogUnfit: a stream breaks a promise; every such field is named.
            LogUnavailable: the server does not answer.
        """
        log = await self.open_log()
        companions = [(each, await self.open(each)) for each in COMPANIONS]
        # The log comes last: once its metadata names the other streams, they must exist.
        reports = [await self._repair(each, info, _replicas(log)) for each, info in companions]
        return await self._repair(LOG, log, _replicas(log)), *reports

    async def report(self) -> tuple[StreamReport, ...]:
        """Returns every stream that exists, with its problems. Changes nothing.

        Raises:
            LogNotPermitted: the NATS user may not read the state of one.
            LogUnavailable: the server does not answer.
        """
        found = [await self._find(each) for each in STREAMS]
        required = _replicas(found[0]) if found[0] is not None else 1
        reports = [(info, _report(info)) for info in found if info is not None]
        return tuple(
            msgspec.structs.replace(
                each, problems=tuple(_unrepaired(each, _required_replicas(info, required)))
            )
            for info, each in reports
        )

    async def note_rewritten(self) -> None:
        """Records that no stream has compressed blocks any more.

        Raises:
            LogNotPermitted: the NATS user may not change streams.
            LogUnavailable: the server does not answer.
        """
        for declaration in STREAMS:
            info = await self._find(declaration)
            if info is None or COMPRESSED_KEY not in info.metadata:
                continue
            metadata = {key: value for key, value in info.metadata.items() if key != COMPRESSED_KEY}
            await update_stream(self._connection, info, {"metadata": metadata})

    async def _find(self, declaration: StreamDeclaration) -> StreamInfo | None:
        name = declaration.name(self._settings.name)
        info = await _through_elections(
            lambda: stream_info(self._connection, name, timeout_seconds=STREAM_TRY_TIMEOUT_SECONDS)
        )
        if info.error and info.error.err_code == STREAM_NOT_FOUND:
            return None
        if info.error:
            raise info.error.as_exception(f"stream {name}")
        self._used.add(name)
        return info

    async def _look_again(self, declaration: StreamDeclaration) -> StreamInfo | None:
        """Looks for a stream for STREAM_MISSING_SECONDS.

        Another process may have created it after the first look, and a new leader of a cluster may answer
        before it has loaded the list of streams.
        """
        deadline = asyncio.get_running_loop().time() + STREAM_MISSING_SECONDS
        while True:
            info = await self._find(declaration)
            if info is not None or asyncio.get_running_loop().time() >= deadline:
                return info
            await asyncio.sleep(min(RETRY_MAX_WAIT_SECONDS, STREAM_MISSING_SECONDS))

    async def _evidence_of_log(self) -> list[str]:
        """Why the log must have existed; empty without evidence."""
        evidence = await self._known(self._settings.name)
        for declaration in COMPANIONS:
            try:
                info = await self._find(declaration)
            except LogNotPermitted:  # a user who may not read its state may not create the log either
                continue
            if info is not None:
                evidence.append(
                    f"the stream {declaration.name(self._settings.name)}, which is created after it, exists"
                    f" with {info.state.messages} messages"
                )
        return evidence

    async def _evidence_of_companion(self, declaration: StreamDeclaration, log: StreamInfo) -> list[str]:
        name = declaration.name(self._settings.name)
        evidence = await self._known(name)
        if log.state.last_seq and name in log.metadata.get(COMPANIONS_KEY, "").split():
            evidence.append(
                f"the log has {log.state.messages} events, and {name} was created before the first of them"
            )
        return evidence

    async def _known(self, name: str) -> list[str]:
        evidence = list(await self._evidence(name))
        if name in self._used:
            evidence.append("this process has used it before")
        return evidence

    async def _create_companions(self) -> None:
        try:
            await asyncio.gather(*(self.open(each) for each in COMPANIONS))
        except LogNotPermitted as error:  # a user who only subscribes; a later append needs the right anyway
            _log.debug("some streams next to %s cannot be checked: %s", self._settings.name, error)

    async def _create_companion(self, declaration: StreamDeclaration, log: StreamInfo) -> StreamInfo:
        evidence = await self._evidence_of_companion(declaration, log) if declaration.keeps_records else []
        if evidence:
            info = await self._look_again(declaration)
            if info is not None:
                return info
            self._give_up(declaration, evidence)
        return await self._create(declaration, _replicas(log))

    def _give_up(self, declaration: StreamDeclaration, evidence: list[str]) -> None:
        """Continues without a stream's content, if the caller accepts the loss."""
        missing = _missing(declaration.name(self._settings.name), declaration, evidence)
        if self._accept_loss is None:
            raise missing
        self._accept_loss(missing)

    async def _create(self, declaration: StreamDeclaration, replicas: int) -> StreamInfo:
        config = declaration.config(self._settings, replicas=replicas)
        return await _through_elections(lambda: self._try_to_create(config))

    async def _try_to_create(self, config: dict[str, Any]) -> StreamInfo:
        name = config["name"]
        info = await call(self._connection, f"STREAM.CREATE.{name}", config, StreamInfo, permitted=True)
        if info.error and info.error.err_code == STREAM_EXISTS_DIFFERENT:  # another process was faster
            info = await stream_info(self._connection, name, timeout_seconds=STREAM_TRY_TIMEOUT_SECONDS)
        if info.error and info.error.err_code == NO_SUITABLE_PEERS:
            raise LogUnavailable(
                f"the stream {name} cannot have {config['num_replicas']} replicas: {info.error.description};"
                " are all nodes of the cluster running?"
            )
        if info.error:
            raise info.error.as_exception(f"stream {name}")
        self._used.add(name)
        return info

    def _check(self, declaration: StreamDeclaration, info: StreamInfo) -> None:
        name = declaration.name(self._settings.name)
        wrong = list(declaration.problems(name, info.config))
        if wrong:
            raise LogUnfit(
                f"the configuration of the stream {name} breaks a promise: {'; '.join(wrong)}."
                f" {declaration.remedy}"
            )

    async def _repair(self, declaration: StreamDeclaration, info: StreamInfo, replicas: int) -> StreamReport:
        """Turns compression off and raises the number of replicas, or reports what could not be changed."""
        report = _report(info)
        changes: dict[str, Any] = {}
        metadata = dict(info.metadata)
        if report.compression != NO_COMPRESSION:
            changes["compression"] = NO_COMPRESSION
            metadata[COMPRESSED_KEY] = str(info.state.last_seq)
        if declaration is LOG and COMPANIONS_KEY not in metadata:
            metadata |= declaration.config(self._settings, replicas=replicas)["metadata"]
        replicas = _required_replicas(info, replicas)
        metadata.pop(REPLICAS_KEY, None)
        if report.replicas < replicas:
            changes["num_replicas"] = replicas
        if metadata != info.metadata:
            changes["metadata"] = metadata
        if not changes:
            return report
        try:
            changed = await update_stream(self._connection, info, changes)
        except (LogNotPermitted, LogUnavailable) as error:
            problems = tuple(_unrepaired(report, replicas, f" ({error})"))
            return msgspec.structs.replace(report, problems=problems)
        for field in sorted(changes.keys() - {"metadata"}):
            _log.warning(
                "the stream %s was changed: %s was %r and is now %r",
                report.name,
                field,
                info.config.get(field),
                changes[field],
            )
        return msgspec.structs.replace(_report(changed), changed=tuple(sorted(changes)))


async def update_stream(connection: Connection, info: StreamInfo, changes: dict[str, Any]) -> StreamInfo:
    """Changes a stream's configuration.

    Raises:
        LogNotPermitted: the NATS user lacks the right.
        LogUnavailable: the server does not answer, or refuses.
    """
    name = str(info.config["name"])
    changed = await call(
        connection, f"STREAM.UPDATE.{name}", {**info.config, **changes}, StreamInfo, permitted=True
    )
    if changed.error:
        raise LogUnavailable(f"the stream {name} cannot be changed ({changed.error.description}); try again")
    return changed


async def _through_elections(request: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeats a request for STREAM_TIMEOUT_SECONDS until there is an answer.

    A cluster does not answer while it elects its own leader, nor for a stream without a leader: one that
    another process is creating, or whose leader was lost. Such an election takes seconds.
    """
    deadline = asyncio.get_running_loop().time() + STREAM_TIMEOUT_SECONDS
    while True:
        try:
            return await request()
        except NoResponders:  # JetStream is off: waiting does not help
            raise
        except LogUnavailable:
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await asyncio.sleep(RETRY_MAX_WAIT_SECONDS)


async def stream_info(
    connection: Connection,
    name: str,
    *,
    deleted: bool = False,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
) -> StreamInfo:
    """Returns the leader's description of the stream; the caller handles its `error`.

    Raises:
        LogNotPermitted: the NATS user lacks the right.
        LogUnavailable: the server does not answer.
    """
    request = {"deleted_details": deleted}
    return await call(
        connection,
        f"STREAM.INFO.{name}",
        request,
        StreamInfo,
        timeout_seconds=timeout_seconds,
        permitted=True,
    )


def log_info(info: StreamInfo, name: str) -> LogInfo:
    """Converts a stream's description to a Struct of the port.

    Raises:
        LogUnavailable: the stream does not exist; an operator may be restoring it. Or it has no leader: then
            each replica answers for itself, and may lack hundreds of events.
        LogError: the answer is another error.
    """
    if info.error is not None:
        if info.error.err_code == STREAM_NOT_FOUND:
            raise LogUnavailable(
                f"the stream {name} is missing; restore it from a backup (a running process does not create"
                " it again)"
            )
        raise info.error.as_exception(f"stream {name}")
    if info.cluster is not None and info.cluster.replicas and info.cluster.leader_since is None:
        raise LogUnavailable(
            f"the stream {name} has no leader at the moment, and other replicas may lack events; try again"
        )
    return LogInfo(info.created, max(info.state.first_seq, 1), info.state.last_seq)


async def _check_server(connection: Connection) -> None:
    account = await call(
        connection, "INFO", {}, AccountInfo, timeout_seconds=STREAM_TRY_TIMEOUT_SECONDS, permitted=True
    )
    if account.error:
        raise account.error.as_exception("JetStream")
    if account.api.level < MIN_API_LEVEL:
        raise LogUnfit(
            f"the JetStream API level must be {MIN_API_LEVEL} or higher, and this nats-server has"
            f" {account.api.level}; use nats-server 2.15.1 or newer"
        )


def _replicas(info: StreamInfo) -> int:
    return int(info.config.get("num_replicas", 1))


def _report(info: StreamInfo) -> StreamReport:
    compression = str(info.config.get("compression") or NO_COMPRESSION)
    return StreamReport(
        name=str(info.config.get("name", "")),
        created=info.created,
        replicas=_replicas(info),
        compression=compression,
        once_compressed=compression != NO_COMPRESSION or COMPRESSED_KEY in info.metadata,
        messages=info.state.messages,
        bytes=info.state.bytes,
        first_sequence=info.state.first_seq,
        last_sequence=info.state.last_seq,
        direct=bool(info.config.get("allow_direct")),
        leader=leader_of(info),
    )


def _required_replicas(info: StreamInfo, replicas: int) -> int:
    """As many as the log has; an interrupted rewrite may have left a stream with one fewer."""
    return max(replicas, int(info.metadata.get(REPLICAS_KEY, "0")))


def _unrepaired(report: StreamReport, replicas: int, why: str = "") -> Iterable[str]:
    remedy = f"run `jobledger streams create` as a NATS user who may change streams{why}"
    if report.compression != NO_COMPRESSION:
        yield (
            f"{report.name} is compressed ({report.compression}), and a kill of nats-server can destroy it:"
            f" {remedy}"
        )
    if report.replicas < replicas:
        yield f"{report.name} has {report.replicas} replicas and must have {replicas}: {remedy}"


def _missing(name: str, declaration: StreamDeclaration, evidence: list[str]) -> LogMissing:
    return LogMissing(
        f"the stream {name} existed and is missing: {'; '.join(evidence)}. It is not created again, because"
        " that would hide the loss. Restore it from a backup (docs/OPERATIONS.md), put back the stream"
        f" directory that nats-server lost, or give up its content ({declaration.description}) with"
        " `jobledger streams create --accept-loss`",
        stream=name,
        evidence=evidence,
    )
