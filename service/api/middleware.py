"""The gate: every request passes it before the app, and every answer on its way out.

In this order: a request id, the drain, `Host` and `Origin`, the token, the body of a write, the bounds on
requests under way. What it lets in has `service`, `principal` and `request_id` in `scope["state"]`. A body
and an answer can take long, so the token is checked again once the body is there, and when the answer to a
read begins. It is plain ASGI and not a middleware of the framework, because it is on the path of every
request and must cost little.
"""

import logging
import re
from collections.abc import Iterable, Mapping
from time import perf_counter
from typing import Final
from urllib.parse import unquote

import uuid_utils

from jobledger.service.access.principal import ANONYMOUS, Principal, local_principal
from jobledger.service.access.tokens import is_loopback
from jobledger.service.api import websocket
from jobledger.service.api.asgi import App, Message, Receive, Scope, Send, accept_lifespan, send_response
from jobledger.service.api.body_budget import BodyBudget, Disconnected, RequestBody, check_framing
from jobledger.service.api.capacity import Capacity
from jobledger.service.api.hosts import Hosts
from jobledger.service.api.operation import Availability, Operation, Permission
from jobledger.service.api.problems import is_internal, log_failure, problem_response_parts
from jobledger.service.api.request import ENCODED_SLASH
from jobledger.service.api.response_guard import Outgoing, Room
from jobledger.service.errors import NotReady, Unauthorized
from jobledger.service.limits import (
    ANSWERS_MAX_BYTES,
    ANSWERS_MAX_BYTES_PER_CLIENT,
    BODIES_MAX_BYTES,
    BODIES_MAX_BYTES_PER_CLIENT,
    REQUEST_ID_MAX_CHARACTERS,
)
from jobledger.service.logs import write_access
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.limits import ACTOR_MAX_CHARACTERS

_READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# Twice in one request, they could mean one thing to us and another to a proxy before us.
_SINGLE: Final = frozenset(
    {
        b"host",
        b"origin",
        b"authorization",
        b"sec-fetch-site",
        b"content-type",
        b"content-length",
        b"content-encoding",
        b"transfer-encoding",
        b"idempotency-key",
        b"if-match",
        b"jobledger-actor",
        b"x-request-id",
    }
)
_EMPTY_SEGMENT: Final = re.compile(r"//|.+/$", re.DOTALL)
_HOST: Final = re.compile(rb"[0-9A-Za-z!$&'()*+,;=._~:\[\]@%-]*")
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,%d}" % REQUEST_ID_MAX_CHARACTERS)
_CLIENT_GONE: Final = 499  # what proxies write down for a client that did not wait; it is never sent

_log = logging.getLogger("jobledger.http")


class _Paths:
    """The paths that the gate treats differently, by what their operations declare."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.public: set[str] = set()
        self.always: set[str] = set()
        self.feeds: set[str] = set()
        self.observer: set[str] = set()
        for operation in operations:
            if operation.permission is Permission.PUBLIC:
                self.public.add(operation.path)
            if operation.availability is Availability.FEED:
                self.feeds.add(operation.path)
            if operation.availability is Availability.ALWAYS:
                self.always.add(operation.path)
                if operation.query_permission is Permission.OBSERVE:
                    self.observer.add(operation.path)
        # Sent by machines that have no token, some with HTTP/1.0; they reveal nothing of any job.
        self.probes = self.public & self.always
        self.uncounted = self.always | self.feeds


class Gate:
    """The ASGI app of a service: the routes, guarded.

    Args:
        app: answers what is let in; it trusts `scope["state"]`.
        operations: declare which paths are public, which are feeds, and which are always answered.
    """

    def __init__(self, app: App, service: Service, operations: Iterable[Operation]) -> None:
        self._app = app
        self._service = service
        self._paths = _Paths(operations)
        self._tokens = service.tokens
        self._draining = service.draining
        self._metrics = service.metrics
        self._logs_access = service.settings.access_log == "on"
        self._hosts = Hosts(service.settings.host, service.settings.allowed_hosts)
        # A second lock beside `check_bind`: whatever becomes of the token file, others need a token.
        self._is_local = is_loopback(service.settings.host)
        self._checks_host = bool(service.settings.allowed_hosts)
        self._bodies = BodyBudget(BODIES_MAX_BYTES, BODIES_MAX_BYTES_PER_CLIENT)
        self._room = Room(ANSWERS_MAX_BYTES, ANSWERS_MAX_BYTES_PER_CLIENT)
        self.capacity = Capacity()

    @property
    def held_bytes(self) -> int:
        """How much of the bodies of all requests under way is in memory."""
        return self._bodies.held_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        kind: str = scope["type"]
        if kind == "lifespan":
            await accept_lifespan(receive, send)
            return
        if kind == "websocket":
            await websocket.answer(scope, receive, send, self._answer)
            return
        await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        headers, repeated = _single_headers(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        # A new one, whatever the server put there: it must not be shared between requests.
        scope["state"] = {"request_id": request_id, "service": self._service}
        method, path = scope["method"], scope["path"]  # as they came; both are changed below
        answer = Outgoing(send, request_id, self._room, head=method == "HEAD")
        if method == "HEAD" and scope["path"] not in self._paths.feeds:  # an endless response has no length
            scope["method"] = "GET"
        body = None if method in _READS else RequestBody(receive, self._bodies)
        try:
            principal = self._check(scope, headers, repeated)
            scope["state"]["principal"] = principal
            client = answer.client = _client_of(principal, scope)
            if body is not None:
                receive = await self._read_body(body, client, scope, headers)
            send = self._checked_again(answer, principal, scope) if body is None else answer.send
            if scope["path"] in self._paths.uncounted:
                await self._app(scope, receive, send)
            else:
                with self.capacity.working(client, is_write=body is not None):
                    await self._app(scope, receive, send)
        except Disconnected:
            if not answer.started:
                # The server says the same of a client that left and of one whose chunks are malformed: the
                # second one reads this.
                error = InvalidInput(
                    "the body did not arrive whole, or its chunks are malformed (RFC 9112, 7.1)"
                )
                await send_response(answer.send, *problem_response_parts(error, scope))
            answer.status = _CLIENT_GONE
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets an answer and we a record
            await _refuse(error, scope, body, answer)
        finally:
            answer.release()
            if body is not None:
                body.release()
            seconds = perf_counter() - began
            self._metrics.request(method, scope.get("path_template") or "", answer.status, seconds)
            known: Principal | None = scope["state"].get("principal")
            write_access(
                request_id=request_id,
                principal=known.name if known is not None else "",
                client=(scope.get("client") or ("",))[0],
                method=method,
                path=path,
                status=answer.status,
                seconds=seconds,
                wanted=self._logs_access,
            )

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes], repeated: str) -> Principal:
        path = scope["path"]
        if self._draining.is_set() and path not in self._paths.always:
            raise NotReady("the service is ending; nothing was written: ask another replica, or again")
        if repeated == "host" or (b"host" not in headers and scope.get("http_version") == "1.1"):
            raise InvalidInput("the header Host is there once in HTTP/1.1 (RFC 9112, 3.2); send it once")
        principal = self._admit(scope, path, headers)
        if (host := headers.get(b"host")) is not None and _HOST.fullmatch(host) is None:
            raise InvalidInput("the header Host has characters that no host name has")
        if repeated:
            raise InvalidInput(f"the header {repeated} is there more than once; send it once")
        if not path.startswith("/"):
            raise InvalidInput("the request's target is no path")
        if ENCODED_SLASH in path:
            raise InvalidInput("the path holds a NUL character, which no name has; remove it")
        raw_path = scope.get("raw_path") or b""
        if b"%2f" in raw_path.lower():
            scope["path"] = path = _path_with_slashes(raw_path)
        if scope["method"] not in _READS and _EMPTY_SEGMENT.search(path) is not None:
            # The router ignores it: `PUT /jobs/` would submit a job instead of changing one with an empty id.
            raise JobNotFound("the path has an empty segment, and nothing has an empty name; write the name")
        return principal

    def _admit(self, scope: Scope, path: str, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks, if they may ask at all."""
        host = headers.get(b"host")
        if self._tokens.is_open:
            if not self._is_local and path not in self._paths.probes:
                raise NotReady("there is no token yet, and without one only this machine may ask")
            if host is not None or path not in self._paths.probes:  # HTTP/1.0 need not send one
                self._hosts.check_host(host)
            self._hosts.check_page(host, headers.get(b"origin"), headers.get(b"sec-fetch-site"))
            return local_principal(_actor(headers.get(b"jobledger-actor")))
        if self._checks_host and path not in self._paths.probes:
            self._hosts.check_host(host)
        if path in self._paths.public and not (scope["query_string"] and path in self._paths.observer):
            return ANONYMOUS
        principal = self._tokens.lookup(headers.get(b"authorization"))
        if not principal.may_observe and _plain_path(path) in self._paths.observer:
            principal.require_observe()
        return principal

    async def _read_body(
        self, body: RequestBody, client: str, scope: Scope, headers: Mapping[bytes, bytes]
    ) -> Receive:
        """Read the body of a write; its sender may be slow, and takes no slot from those who work."""
        body.client = client
        principal = scope["state"]["principal"]
        with self.capacity.uploading(client):
            if principal is ANONYMOUS:
                # No write is for everybody: the routes say so, and nobody's body takes the room of others.
                await body.discard()
                return body.receive
            check_framing(headers)
            # The framework would read it again, piece by piece: handlers find it here.
            scope["state"]["body"] = await body.read(headers)
        self._tokens.require_valid(principal)
        return body.receive

    def _checked_again(self, answer: Outgoing, principal: Principal, scope: Scope) -> Send:
        """Let the answer to a read begin only if its token is still good: it may have waited long."""
        if principal is ANONYMOUS:
            return answer.send
        refused = False

        async def sent(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start":
                try:
                    self._tokens.require_valid(principal)
                except (Unauthorized, NotReady) as error:
                    refused = True
                    await send_response(answer.send, *problem_response_parts(error, scope))
            if not refused:
                await answer.send(message)

        return sent


async def _refuse(error: Exception, scope: Scope, body: RequestBody | None, answer: Outgoing) -> None:
    if is_internal(error) or answer.started:
        log_failure(error, scope)
    if answer.started:
        return  # half a response cannot be taken back; the server closes the connection
    if body is not None:
        await body.discard()
    await send_response(answer.send, *problem_response_parts(error, scope))


def _client_of(principal: Principal, scope: Scope) -> str:
    """Whose share of the capacity a request takes; without tokens all are on this machine, and share all."""
    if principal is not ANONYMOUS:
        return principal.token_id
    client = scope.get("client")
    return f"@{client[0]}" if client else "@"


def _single_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], str]:
    """The headers that may be there once, and the name of one that is there more often."""
    found: dict[bytes, bytes] = {}
    repeated = ""
    for name, value in headers:
        if name in _SINGLE:
            if name in found:
                repeated = name.decode()
            else:
                found[name] = value
    return found, repeated


def _request_id(given: bytes | None) -> str:
    if given is not None and _REQUEST_ID.fullmatch(given) is not None:
        return given.decode()
    return str(uuid_utils.uuid7())


def _actor(given: bytes | None) -> str:
    if not given:
        return ""
    try:
        actor = given.decode()
    except UnicodeDecodeError:
        raise InvalidInput("the header Jobledger-Actor is not UTF-8") from None
    if len(actor) > ACTOR_MAX_CHARACTERS or not actor.isprintable():
        raise InvalidInput(
            f"the header Jobledger-Actor is not a name of up to {ACTOR_MAX_CHARACTERS} characters that can be"
            " printed"
        )
    return actor


def _path_with_slashes(raw_path: bytes) -> str:
    """A path whose segments may hold encoded slashes, each as `ENCODED_SLASH`.

    The routes split the decoded path: they would take `/jobs/a%2Frerun` for a rerun of `a`.
    """
    segments = (unquote(segment) for segment in raw_path.decode("ascii", "replace").split("/"))
    return "/".join(segment.replace("/", ENCODED_SLASH) for segment in segments)


def _plain_path(path: str) -> str:
    """The path as the routes see it: they take `//metrics/` for `/metrics`."""
    return "/" + "/".join(part for part in path.split("/") if part)
