"""Messages of the JetStream API as Structs (NATS ADR-1, ADR-8, ADR-31, ADR-50)."""

import re
from typing import Any, TypeVar

import msgspec

from jobledger.store.jetstream.connection import Connection, Message, NoResponders
from jobledger.store.model.errors import LogError, LogNotPermitted, LogRefused, LogUnavailable
from jobledger.store.model.limits import (
    LEADER_CONTACT_SECONDS,
    REPLICA_SILENT_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
)
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

API = "$JS.API"
_INFO = "INFO"
Reply = TypeVar("Reply")

# Error codes of the server (server/errors.json), with their meaning here.
WRONG_LAST_SEQUENCE = 10071  # another event of the subject came first
IN_FLIGHT_CONFLICT = 10164  # the same, while that event is still being replicated; the text has no sequence
IN_FLIGHT_DUPLICATE = 10158  # this event, from an earlier try, is still being replicated
STREAM_NOT_FOUND = 10059
NO_SUITABLE_PEERS = 10005  # too few nodes are running, for example while a cluster starts
STREAM_EXISTS_DIFFERENT = 10058
MESSAGE_NOT_FOUND = 10037
EXPECTED_STREAM_DIFFERENT = 10060
_STORE_FAILED = 10077  # the stream is full, or the disk failed: only the text shows which
_NO_STORAGE = 10047  # the account or the server has no space left
_RETRYABLE = {503, 408, 500}  # HTTP-like codes of temporary errors (no leader, shutting down)

_LAST_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")


class ApiError(msgspec.Struct, frozen=True):
    """An error as the server reports it."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    @property
    def may_pass(self) -> bool:
        """Whether the error is temporary."""
        if self.err_code in (WRONG_LAST_SEQUENCE, IN_FLIGHT_CONFLICT) or self.is_full:
            return False
        return self.code in _RETRYABLE

    @property
    def is_full(self) -> bool:
        """Whether there is no space left. The server's code for that is 503 too, but it lasts."""
        return self.err_code == _NO_STORAGE or (
            self.err_code == _STORE_FAILED and self.description.endswith("exceeded")
        )

    @property
    def last_sequence(self) -> int | None:
        """The subject's last sequence, which a 10071 has only in its text."""
        found = _LAST_SEQUENCE.search(self.description)
        return int(found[1]) if found else None

    def as_exception(self, doing: str) -> LogError:
        """The error for a caller that does not handle it."""
        text = f"{doing}: nats-server reports {self.description!r} ({self.err_code or self.code})"
        if self.is_full:
            return LogRefused(f"{text}; the log is full: raise its max_bytes, or add disk space")
        return LogUnavailable(f"{text}; try again") if self.may_pass else LogRefused(text)


class PubAck(msgspec.Struct, frozen=True):
    """The answer to a published message, or to the commit of an atomic batch."""

    error: ApiError | None = None
    seq: int = 0
    duplicate: bool = False
    count: int = 0  # of an atomic batch


_ack_decoder = msgspec.json.Decoder(PubAck)


class StreamState(msgspec.Struct, frozen=True):
    """Bounds of a stream."""

    first_seq: int
    last_seq: int
    deleted: list[int] = []
    messages: int = 0
    bytes: int = 0


class ReplicaInfo(msgspec.Struct, frozen=True):
    """A replica other than the one that answers.

    Attributes:
        name: of its server.
        current: whether it has all entries, as far as the one that answers knows.
        offline: whether its server is down, as far as the one that answers knows.
        active: nanoseconds since the last contact with it.
        lag: entries that it has not applied yet.
    """

    name: str = ""
    current: bool = False
    offline: bool = False
    active: int = 0
    lag: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether it does not vote. A leader reports a dead replica as offline only after a while."""
        return self.offline or self.active > REPLICA_SILENT_SECONDS * NANOSECONDS_PER_SECOND


class MoveStatus(msgspec.Struct, frozen=True):
    """What the leader does to move or fill replicas, or waits for, as text (nats-server 2.15)."""

    description: str = ""


class DesiredReplicas(msgspec.Struct, frozen=True):
    """The target of a move of replicas, while it is not reached."""

    replicas: tuple[ReplicaInfo, ...] = ()
    status: MoveStatus | None = None


class ClusterInfo(msgspec.Struct, frozen=True):
    """The replicas of a stream, as one of them sees it.

    Attributes:
        leader: the server that leads; empty: unknown.
        leader_since: when the one that answers became the leader and had applied everything committed
            before; None: it does not lead.
        replicas: the others; without a leader all of them. Empty for a stream with one replica.
        desired: the target of a move; None without one.
    """

    leader: str = ""
    leader_since: str | None = None
    replicas: list[ReplicaInfo] = []
    desired: DesiredReplicas | None = None


class StreamInfo(msgspec.Struct, frozen=True):
    """A stream as `STREAM.INFO` and `STREAM.CREATE` describe it."""

    created: str = ""
    config: dict[str, Any] = {}
    state: StreamState = StreamState(0, 0)
    cluster: ClusterInfo | None = None
    error: ApiError | None = None

    @property
    def metadata(self) -> dict[str, str]:
        """The stream's metadata, set by clients and by nats-server itself."""
        return dict(self.config.get("metadata") or {})


def has_others(info: StreamInfo) -> bool:
    """Whether the stream has other replicas than the one that answers."""
    return info.cluster is not None and bool(info.cluster.replicas)


def leader_of(info: StreamInfo) -> str:
    """The leader that answered, with the start of its term; empty if the answer does not prove it current.

    The only replica of a stream is always current: what it recovered is the stream.
    """
    cluster = info.cluster
    if cluster is None or not cluster.replicas:
        return "the only replica"
    if cluster.leader_since is None:
        return ""
    contact = LEADER_CONTACT_SECONDS * NANOSECONDS_PER_SECOND
    heard = sum(not each.offline and 0 < each.active <= contact for each in cluster.replicas)
    majority = (len(cluster.replicas) + 1) // 2 + 1
    return f"{cluster.leader} since {cluster.leader_since}" if heard + 1 >= majority else ""


class StoredMessage(msgspec.Struct, frozen=True):
    """A message as `STREAM.MSG.GET` returns it; `data` and `hdrs` are base64, which msgspec decodes."""

    subject: str
    seq: int
    time: str
    data: bytes = b""
    hdrs: bytes = b""


class MessageReply(msgspec.Struct, frozen=True):
    """The answer to `STREAM.MSG.GET`."""

    message: StoredMessage | None = None
    error: ApiError | None = None


class AccountApi(msgspec.Struct, frozen=True):
    """The level of the JetStream API that the server speaks."""

    level: int = 0


class AccountLimits(msgspec.Struct, frozen=True):
    """What an account may use; -1: no limit."""

    max_storage: int = -1


class AccountInfo(msgspec.Struct, frozen=True):
    """The answer to `$JS.API.INFO`."""

    api: AccountApi = AccountApi()
    storage: int = 0
    limits: AccountLimits = AccountLimits()
    error: ApiError | None = None


class ConsumerReply(msgspec.Struct, frozen=True):
    """The answer to `CONSUMER.CREATE`."""

    name: str = ""
    cluster: ClusterInfo | None = None
    error: ApiError | None = None


def status_of(message: Message) -> str:
    """The inline status of a control message (`503`, `404`, …); empty for a message with content."""
    return message.headers.get("Status", "") if message.headers else ""


def read_ack(message: Message) -> PubAck:
    """The answer to a published message; one that cannot be decoded counts as a temporary error."""
    status = status_of(message)
    if status:  # 503: no responder, so nothing was written
        return PubAck(error=ApiError(code=503, description=f"status {status}"))
    try:
        return _ack_decoder.decode(message.payload)
    except msgspec.DecodeError as error:
        return PubAck(error=ApiError(code=503, description=f"invalid answer: {error}"))


def _remedy(verb: str) -> str:
    if verb.startswith(("STREAM.CREATE.", "STREAM.UPDATE.")):
        return "run `jobledger streams create` as the operator of the log"
    return "add the import (`jobledger nats accounts` prints those that are needed)"


async def _answers(connection: Connection) -> bool:
    """Whether JetStream answers this user."""
    try:
        await connection.request(f"{API}.{_INFO}", b"")
    except LogUnavailable:
        return False
    return True


async def call(
    connection: Connection,
    verb: str,
    request: object,
    reply: type[Reply],
    *,
    timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    permitted: bool = False,
) -> Reply:
    """Sends a request of the JetStream API.

    Args:
        connection: to the servers.
        verb: the subject without its prefix.
        request: encoded as JSON.
        reply: type of the answer.
        timeout_seconds: for the answer.
        permitted: fail at once if the NATS user lacks the right, instead of waiting for an answer.

    Raises:
        LogNotPermitted: `permitted` is set, and the NATS user lacks the right.
        LogUnavailable: there is no answer.
        LogError: the answer cannot be decoded.
    """
    send = connection.request_if_permitted if permitted else connection.request
    try:
        message = await send(f"{API}.{verb}", msgspec.json.encode(request), timeout_seconds=timeout_seconds)
    except NoResponders as error:
        if permitted and verb != _INFO and await _answers(connection):
            raise LogNotPermitted(
                f"no answer from {API}.{verb}, although JetStream answers: the NATS account of this user does"
                f" not import that subject; {_remedy(verb)}"
            ) from error
        raise
    if status_of(message):
        raise LogUnavailable(f"{verb}: nats-server answered with status {status_of(message)}; try again")
    try:
        return msgspec.json.decode(message.payload, type=reply)
    except msgspec.DecodeError as error:
        raise LogError(
            f"{verb}: the answer of nats-server cannot be decoded ({error}); check its version"
        ) from error
