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
from typing import Final, cast
from urllib.parse import unquote

import uuid_utils
from litestar.types import ASGIApp, HTTPScope, Message, Receive, Scope, Send

from jobledger.service.access.principal import ANONYMOUS, Principal, local_principal
from jobledger.service.access.tokens import is_loopback
from jobledger.service.api import websocket
from jobledger.service.api.body_budget import BodyBudget, Disconnected, RequestBody, check_framing
from jobledger.service.api.capacity import Capacity
from jobledger.service.api.context import ENCODED_SLASH
from jobledger.service.api.hosts import Hosts
from jobledger.service.api.problems import INTERNAL, kind_of, problem_response_parts
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

# Asked by machines that have no token, also while the service drains; they tell nothing of any job.
HEALTH_PATHS: Final = frozenset({"/livez", "/readyz", "/api/v1/agent/alive"})
# The description of the API is the same everywhere, and public; so is the release, which it names.
OPEN_PATHS: Final = HEALTH_PATHS | {
    "/",
    "/docs",
    "/openapi.json",
    "/asyncapi.json",
    "/version",
    "/api/v1/agent/version",
    # Bacalhau's clients ask how to log in before they have anything to log in with.
    "/api/v1/agent/authconfig",
    "/api/v1/auth",
    "/api/v1/auth/clientkey",
}
# They tell of all namespaces together.
OBSERVER_PATHS: Final = frozenset({"/metrics", "/readyz"})
# Not counted here: health must be answered under load, and feeds have a bound of their own.
DRAIN_PATHS: Final = HEALTH_PATHS | {"/metrics"}
FEED_PATH: Final = "/api/v1/events"
UNCOUNTED_PATHS: Final = DRAIN_PATHS | {FEED_PATH}

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
_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._-]{1,%d}" % REQUEST_ID_MAX_CHARACTERS)
_CLIENT_GONE: Final = 499  # what proxies write down for a client that did not wait; it is never sent

_log = logging.getLogger("jobledger.http")


class Gate:
    """The ASGI app of a service: the routes, guarded.

    Args:
        app: the routes; they trust what the gate says in `scope["state"]`.
        service: it belongs to.
        allowed: the value of `Allow` for each route, by its template.
    """

    def __init__(self, app: ASGIApp, service: Service, allowed: Mapping[str, str] | None = None) -> None:
        self._app = app
        self._service = service
        self._allowed = allowed or {}
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
            await self._app(scope, receive, send)
            return
        if kind == "websocket":
            await websocket.answer(scope, receive, send, self._answer)
            return
        await self._answer(cast("HTTPScope", scope), receive, send)

    async def _answer(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        headers, repeated = _single_headers(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        # A new one, whatever the server put there: it must not be shared between requests.
        scope["state"] = {"request_id": request_id, "service": self._service}
        method, path = scope["method"], scope["path"]  # as they came; both are changed below
        answer = Outgoing(send, request_id, self._room, head=method == "HEAD")
        if method == "HEAD" and scope["path"] != FEED_PATH:  # an endless answer has no head to tell
            scope["method"] = "GET"
        body = None if method in _READS else RequestBody(receive, self._bodies)
        try:
            principal = self._check(scope, headers, repeated)
            scope["state"]["principal"] = principal
            client = answer.client = _client_of(principal, scope)
            if body is not None:
                receive = await self._read_body(body, client, scope, headers)
            send = self._checked_again(answer, principal, scope) if body is None else answer.send
            if scope["path"] in UNCOUNTED_PATHS:
                await self._pass(scope, receive, send)
            else:
                with self.capacity.working(client, is_write=body is not None):
                    await self._pass(scope, receive, send)
        except Disconnected:
            if not answer.started:
                # The server says the same of a client that left and of one whose chunks are malformed: the
                # second one reads this.
                error = InvalidInput(
                    "the body did not arrive whole, or its chunks are malformed (RFC 9112, 7.1)"
                )
                await _send_problem(error, scope, answer)
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

    def _check(self, scope: HTTPScope, headers: Mapping[bytes, bytes], repeated: str) -> Principal:
        path = scope["path"]
        if self._draining.is_set() and path not in DRAIN_PATHS:
            raise NotReady("the service is ending; nothing was written: ask another replica, or again")
        if repeated == "host" or (b"host" not in headers and scope.get("http_version") == "1.1"):
            raise InvalidInput("the header Host is there once in HTTP/1.1 (RFC 9112, 3.2); send it once")
        principal = self._admit(scope, path, headers)
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
            # The routes drop it: `PUT /jobs/` would submit a job instead of changing one with an empty id.
            raise JobNotFound("the path has an empty segment, and nothing has an empty name; write the name")
        return principal

    def _admit(self, scope: HTTPScope, path: str, headers: Mapping[bytes, bytes]) -> Principal:
        """Who asks, if they may ask at all."""
        host = headers.get(b"host")
        if self._tokens.is_open:
            if not self._is_local and path not in HEALTH_PATHS:
                raise NotReady("there is no token yet, and without one only this machine may ask")
            if host is not None or path not in HEALTH_PATHS:  # HTTP/1.0 need not send one
                self._hosts.check_host(host)
            self._hosts.check_page(host, headers.get(b"origin"), headers.get(b"sec-fetch-site"))
            return local_principal(_actor(headers.get(b"jobledger-actor")))
        if self._checks_host and path not in HEALTH_PATHS:
            self._hosts.check_host(host)
        if path in OPEN_PATHS and not (path == "/readyz" and _asks_verbose(scope["query_string"])):
            return ANONYMOUS
        principal = self._tokens.lookup(headers.get(b"authorization"))
        if not principal.may_observe and _plain_path(path) in OBSERVER_PATHS:
            principal.require_observe()
        return principal

    async def _read_body(
        self, body: RequestBody, client: str, scope: HTTPScope, headers: Mapping[bytes, bytes]
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

    async def _pass(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        if scope["method"] == "OPTIONS":
            send = self._with_allow(send, scope)
        await self._app(scope, receive, send)

    def _checked_again(self, answer: Outgoing, principal: Principal, scope: HTTPScope) -> Send:
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
                    await _send_problem(error, scope, answer)
            if not refused:
                await answer.send(message)

        return sent

    def _with_allow(self, send: Send, scope: HTTPScope) -> Send:
        """Name every method of the path: the framework names those of one handler."""

        async def sent(message: Message) -> None:
            allow = self._allowed.get(scope.get("path_template") or "")
            if message["type"] == "http.response.start" and allow is not None:
                kept = [each for each in message["headers"] if each[0].lower() != b"allow"]
                message = {**message, "headers": [*kept, (b"allow", allow.encode())]}
            await send(message)

        return sent


async def _refuse(error: Exception, scope: HTTPScope, body: RequestBody | None, answer: Outgoing) -> None:
    if kind_of(error) is INTERNAL or answer.started:
        request_id = scope["state"]["request_id"]
        _log.error("request %s %s failed", request_id, ascii(scope["path"]), exc_info=error)
    if answer.started:
        return  # half an answer can't be taken back; the server ends the connection
    if body is not None:
        await body.discard()
    await _send_problem(error, scope, answer)


async def _send_problem(error: Exception, scope: HTTPScope, answer: Outgoing) -> None:
    status, headers, document = problem_response_parts(error, scope)
    await answer.send({"type": "http.response.start", "status": status, "headers": headers})
    await answer.send({"type": "http.response.body", "body": document, "more_body": False})


def _client_of(principal: Principal, scope: HTTPScope) -> str:
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


def _asks_verbose(query: bytes) -> bool:
    return bool(query)  # whatever else it may say: only the plain question is for everybody


def _path_with_slashes(raw_path: bytes) -> str:
    """A path whose segments may hold encoded slashes, each as `ENCODED_SLASH`.

    The routes split the decoded path: they would take `/jobs/a%2Frerun` for a rerun of `a`.
    """
    segments = (unquote(segment) for segment in raw_path.decode("ascii", "replace").split("/"))
    return "/".join(segment.replace("/", ENCODED_SLASH) for segment in segments)


def _plain_path(path: str) -> str:
    """The path as the routes see it: they take `//metrics/` for `/metrics`."""
    return "/" + "/".join(part for part in path.split("/") if part)
