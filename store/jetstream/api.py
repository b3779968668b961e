"""The JetStream API's messages that we speak, as Structs (NATS ADR-1, ADR-8, ADR-31, ADR-50)."""

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

API = "$JS.API"
_INFO = "INFO"
Reply = TypeVar("Reply")

# Error codes of the server (server/errors.json), with what they mean to us.
WRONG_LAST_SEQUENCE = 10071  # another event of the subject came first
IN_FLIGHT_CONFLICT = 10164  # the same, while the other one is still being replicated; no sequence in the text
IN_FLIGHT_DUPLICATE = 10158  # this very event, from an earlier try, is still being replicated
STREAM_NOT_FOUND = 10059
NO_SUITABLE_PEERS = 10005  # too few nodes that run, as while a cluster starts
STREAM_EXISTS_DIFFERENT = 10058
MESSAGE_NOT_FOUND = 10037
EXPECTED_STREAM_DIFFERENT = 10060
_STORE_FAILED = 10077  # the stream is full, or the disk failed: only the text tells
_NO_STORAGE = 10047  # the account or the server has no room left
_NOT_NOW = {503, 408, 500}  # HTTP-like codes of errors that another try may cure (no leader, shutting down)

_LAST_SEQUENCE = re.compile(r"wrong last sequence: (\d+)")


class ApiError(msgspec.Struct, frozen=True):
    """What the server says went wrong."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    @property
    def may_pass(self) -> bool:
        """Whether trying again soon can help."""
        if self.err_code in (WRONG_LAST_SEQUENCE, IN_FLIGHT_CONFLICT) or self.is_full:
            return False
        return self.code in _NOT_NOW

    @property
    def is_full(self) -> bool:
        """Whether there is no room; the server says 503 to that too, and would say it for long."""
        return self.err_code == _NO_STORAGE or (
            self.err_code == _STORE_FAILED and self.description.endswith("exceeded")
        )

    @property
    def last_sequence(self) -> int | None:
        """The subject's last sequence, which a 10071 gives in its text alone."""
        found = _LAST_SEQUENCE.search(self.description)
        return int(found[1]) if found else None

    def as_exception(self, doing: str) -> LogError:
        """The error for a caller who can't do anything special about it."""
        text = f"{doing}: the server says {self.description!r} ({self.err_code or self.code})"
        if self.is_full:
            return LogRefused(f"{text}; the log is full: raise its max_bytes, or give it more disk")
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
        current: whether it has everything, as far as the one that answers knows.
        offline: whether its server is gone, in the same way.
        active: nanoseconds since the last word from it.
        lag: entries that it has not applied yet.
    """

    name: str = ""
    current: bool = False
    offline: bool = False
    active: int = 0
    lag: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether it takes part in no vote: a leader calls a dead one offline only after a while."""
        return self.offline or self.active > REPLICA_SILENT_SECONDS * 1e9


class MoveStatus(msgspec.Struct, frozen=True):
    """What the leader does to move or to fill replicas, or what it waits for, in words (nats-server 2.15)."""

    description: str = ""


class DesiredReplicas(msgspec.Struct, frozen=True):
    """Where the replicas of a stream are to be, while they are not there yet."""

    replicas: tuple[ReplicaInfo, ...] = ()
    status: MoveStatus | None = None


class ClusterInfo(msgspec.Struct, frozen=True):
    """The replicas of a stream, as one of them sees it.

    Attributes:
        leader: the server that leads; empty: none that is known.
        leader_since: when the one that answers became the leader and had applied all that was committed
            before; None: it does not lead.
        replicas: the others; without a leader all of them. Empty for a stream of one replica.
        desired: where they are to be; None: they are there.
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
        """What clients noted on the stream; nats-server notes its own."""
        return dict(self.config.get("metadata") or {})


def has_others(info: StreamInfo) -> bool:
    """Whether there are replicas besides the one that answers."""
    return info.cluster is not None and bool(info.cluster.replicas)


def leader_of(info: StreamInfo) -> str:
    """The leader that gave an answer, with the beginning of its term; empty if it did not show to be current.

    The only replica of a stream is always current: what it has recovered is all there is.
    """
    cluster = info.cluster
    if cluster is None or not cluster.replicas:
        return "the only replica"
    if cluster.leader_since is None:
        return ""
    heard = sum(
        not each.offline and 0 < each.active <= LEADER_CONTACT_SECONDS * 1e9 for each in cluster.replicas
    )
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
    """The answer to a published message; one that is not understood counts as "ask again"."""
    status = status_of(message)
    if status:  # 503: nobody listens, so nothing was written
        return PubAck(error=ApiError(code=503, description=f"status {status}"))
    try:
        return _ack_decoder.decode(message.payload)
    except msgspec.DecodeError as error:
        return PubAck(error=ApiError(code=503, description=f"an answer that is not understood: {error}"))


def _remedy(verb: str) -> str:
    if verb.startswith(("STREAM.CREATE.", "STREAM.UPDATE.")):
        return "run `jobledger streams create` as the operator of the log"
    return "add the import (`jobledger nats accounts` prints those that are needed)"


async def _answers(connection: Connection) -> bool:
    """Whether JetStream answers this user at all."""
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
    """Ask the JetStream API.

    Args:
        connection: to the servers.
        verb: of the API, without its prefix.
        request: encoded as JSON.
        reply: what the answer is decoded as.
        timeout_seconds: for the answer.
        permitted: find out at once if the NATS user may not ask this, instead of waiting for an answer.

    Raises:
        LogNotPermitted: if `permitted` is set and the NATS user may not.
        LogUnavailable: if there is no answer.
        LogError: if the answer is not one that we know.
    """
    ask = connection.request_if_permitted if permitted else connection.request
    try:
        message = await ask(f"{API}.{verb}", msgspec.json.encode(request), timeout_seconds=timeout_seconds)
    except NoResponders as error:
        if permitted and verb != _INFO and await _answers(connection):
            raise LogNotPermitted(
                f"no answer from {API}.{verb}, though JetStream answers: the NATS account of this user does"
                f" not import that subject; {_remedy(verb)}"
            ) from error
        raise
    if status_of(message):
        raise LogUnavailable(f"{verb}: the server answers with status {status_of(message)}; try again")
    try:
        return msgspec.json.decode(message.payload, type=reply)
    except msgspec.DecodeError as error:
        raise LogError(f"{verb}: the server's answer is not understood ({error})") from error
