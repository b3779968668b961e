"""The messages between the owner and a worker, and the samples of their metrics. Pure.

owner ──► worker    Start, Started, Advanced, StateChanged, Drain; with a reply: Suspend, Resume,
Collect
worker ──► owner    Serving, Damaged; with a reply: Report, Forward

Each reply can be Failed instead.
"""

from pathlib import Path
from typing import Any, Final

import msgspec

from jobledger.projections import errors as view_errors
from jobledger.projections.projector import ProjectorState
from jobledger.service import errors as service_errors
from jobledger.service.access.principal import Principal
from jobledger.service.feed.events import FeedEvent
from jobledger.service.settings import Settings
from jobledger.store.model import errors as store_errors
from jobledger.store.model.errors import JobledgerError


class _Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """A message; both processes run the same release."""


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """An error of another process: its class and its message."""

    kind: str
    text: str

    @classmethod
    def of(cls, error: Exception) -> "Failure":
        """Describe an error."""
        return cls(type(error).__name__, str(error))

    def error(self) -> JobledgerError:
        """An error of the same class, or of the root of all classes if that one needs more than a text."""
        for module in (view_errors, store_errors, service_errors):
            found = getattr(module, self.kind, None)
            if isinstance(found, type) and issubclass(found, JobledgerError):
                try:
                    return found(self.text)
                except TypeError:
                    break
        return JobledgerError(self.text)


class Start(_Message, frozen=True):
    """The first message to a worker.

    Attributes:
        settings: of the service, checked by the owner.
        url: of the log, with the credentials of an embedded server.
        number: of the worker, from 1.
        workers: how many there are.
        address: to listen on, with `port`.
        sequence: the owner's position.
        state: of the owner's projector; with its trouble, and the error that stopped it.
        suspended: why the view cannot be read now; None if it can.
        requires_tokens: there was a token. A worker that starts while the file is missing refuses requests.
    """

    settings: Settings
    url: str
    number: int
    workers: int
    address: str
    port: int
    sequence: int
    state: ProjectorState
    trouble: str
    error: Failure | None
    suspended: Failure | None
    requires_tokens: bool


class Started(_Message, frozen=True):
    """The owner's view is at this sequence, and the events before it are not sent."""

    sequence: int


class Advanced(_Message, frozen=True):
    """The owner's view advanced; `events` are those in between, or None if they are not sent."""

    after: int
    up_to: int
    events: list[FeedEvent] | None


class StateChanged(_Message, frozen=True):
    """The state of the owner's projector."""

    state: ProjectorState
    trouble: str
    error: Failure | None


class Suspend(_Message, frozen=True):
    """Close the view's file: it is about to be replaced."""

    why: Failure


class Resume(_Message, frozen=True):
    """Open the view's file again."""


class Collect(_Message, frozen=True):
    """Send the metrics of the worker."""


class Drain(_Message, frozen=True):
    """Answer the requests in flight, and end."""


class Serving(_Message, frozen=True):
    """The worker accepts requests."""


class Damaged(_Message, frozen=True):
    """The worker found damage in the view's file."""

    text: str


class Report(_Message, frozen=True):
    """Asks for the owner's checks.

    Attributes:
        silence: why appends of the worker get no answer; empty if they do.
        in_flight: requests and feeds.
    """

    silence: str
    in_flight: int


class Forward(_Message, frozen=True):
    """A request that only the owner can answer, after authentication.

    Attributes:
        path: as the worker's middleware left it.
        client: whose part of the capacity it uses.
        scheme: of the connection: `http` or `https`.
        session: the cookie of a browser that signed in; empty for all others.
    """

    method: str
    path: str
    query_string: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    principal: Principal
    request_id: str
    client: str
    scheme: str
    session: str


class Done(_Message, frozen=True):
    """The reply to `Suspend` and `Resume`."""


class Failed(_Message, frozen=True):
    """The reply to any call whose answer could not be computed, or cannot be sent."""

    text: str


class CheckResult(msgspec.Struct, frozen=True, array_like=True):
    """The result of one of the owner's checks; as `service.server.checks.Result`."""

    name: str
    problem: str
    counts: bool


class Reported(_Message, frozen=True):
    """The reply to `Report`.

    Attributes:
        suspension: why no process of this service may append now; empty if they may.
        append_error: why the owner's last test append failed; empty if it succeeded.
    """

    checks: list[CheckResult]
    suspension: str
    append_error: str


class Forwarded(_Message, frozen=True):
    """The reply to `Forward`."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Family(msgspec.Struct, frozen=True, array_like=True):
    """One metric with its samples: name, labels and value."""

    name: str
    kind: str
    samples: list[tuple[str, dict[str, str], float]]


class Collected(_Message, frozen=True):
    """The reply to `Collect`."""

    families: list[Family]


Message = (
    Start
    | Started
    | Advanced
    | StateChanged
    | Suspend
    | Resume
    | Collect
    | Drain
    | Serving
    | Damaged
    | Report
    | Forward
    | Done
    | Failed
    | Reported
    | Forwarded
    | Collected
)


def _encode_path(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError


_encoder: Final = msgspec.msgpack.Encoder(enc_hook=_encode_path)
_decoder: Final = msgspec.msgpack.Decoder(Message, dec_hook=_decode_path)


def encode(message: Message) -> bytes:
    """Encode a message."""
    return _encoder.encode(message)


def decode(data: bytes | memoryview) -> Message:
    """Decode a message.

    Raises:
        msgspec.DecodeError: it is not one.
    """
    message: Message = _decoder.decode(data)
    return message
