"""The middleware that every request and every response passes through.

In this order: the request id, the shutdown, `Host` and `Origin`, the token, the body of a write, the limits
on concurrent requests. What it lets in has in `scope["state"]`: `service`, `principal`, `request_id`,
`headers` (the first of each name) and, of a write, `body`. Bodies and responses can take long, so the token
is checked again when the body is complete, and when the response to a read begins.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from time import perf_counter
from typing import Final
from urllib.parse import unquote

import uuid_utils

from jobledger.service.access.principal import ANONYMOUS, Principal, local_principal
from jobledger.service.access.tokens import is_loopback
from jobledger.service.api import websocket
from jobledger.service.api.asgi import Message, Receive, Scope, Send, accept_lifespan
from jobledger.service.api.body_budget import Disconnected, RequestBody, check_framing
from jobledger.service.api.capacity import ByteBudget, Capacity
from jobledger.service.api.hosts import Hosts
from jobledger.service.api.operation import Availability, Operation, Permission
from jobledger.service.api.problems import is_internal, log_failure, problem_response
from jobledger.service.api.request import ENCODED_SLASH
from jobledger.service.api.response import Response, Stream
from jobledger.service.api.response_guard import GuardedResponse
from jobledger.service.errors import NotReady, Unauthorized
from jobledger.service.job_answers import KeptAnswer
from jobledger.service.limits import (
    BODIES_MAX_BYTES,
    BODIES_MAX_BYTES_PER_CLIENT,
    REQUEST_ID_MAX_CHARACTERS,
    RESPONSES_MAX_BYTES,
    RESPONSES_MAX_BYTES_PER_CLIENT,
    SIGN_IN_MAX_BYTES,
    SIGN_INS_MAX_BYTES,
)
from jobledger.service.logs import write_access
from jobledger.service.web.site import refusal
from jobledger.service.web.visitor import is_page, is_secure, session_cookie
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput, JobledgerError, JobNotFound
from jobledger.store.model.limits import ACTOR_MAX_CHARACTERS

READS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# If one of these were sent twice, a proxy in front of us might read the other value.
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
_CLIENT_GONE: Final = 499  # what proxies log for a client that disconnected; it is never sent

Respond = Callable[[Scope, Receive], Awaitable[Response | Stream]]

_log = logging.getLogger("jobledger.http")


class _Paths:
    """The paths that are treated differently, because of what their operations declare."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self.public: set[str] = set()
        self.always: set[str] = set()
        self.feeds: set[str] = set()
        self.observer: set[str] = set()
        self.kept_prefix = self.kept_route = ""
        for operation in operations:
            if operation.is_kept:
                self.kept_prefix, self.kept_route = operation.path.partition("{")[0], operation.route
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


class Middleware:
    """The ASGI app of a service.

    Args:
        respond: runs the operation of a request that is let in; it trusts `scope["state"]`.
        operations: declare which paths are public, which are feeds, and which are always answered.
    """

    def __init__(self, respond: Respond, service: Service, operations: Iterable[Operation]) -> None:
        self._respond = respond
        self._service = service
        self._paths = _Paths(operations)
        self._tokens = service.tokens
        self._sessions = service.sessions
        self._draining = service.draining
        self._metrics = service.metrics
        self._logs_access = service.settings.access_log == "on"
        self._hosts = Hosts(service.settings.host, service.settings.allowed_hosts)
        # A second check next to `check_bind`: even if the token file is lost, other machines need a token.
        self._is_local = is_loopback(service.settings.host)
        self._checks_host = bool(service.settings.allowed_hosts)
        self._bodies = ByteBudget(
            "request bodies",
            "try again later",
            BODIES_MAX_BYTES // service.processes,
            BODIES_MAX_BYTES_PER_CLIENT // service.processes,
        )
        # Strangers sign in: they must not use the budget of those who write.
        most = SIGN_INS_MAX_BYTES // service.processes
        self._sign_ins = ByteBudget("sign-in forms", "try again later", most, most)
        self._responses = ByteBudget(
            "responses",
            "read them, or ask for smaller pages",
            RESPONSES_MAX_BYTES // service.processes,
            RESPONSES_MAX_BYTES_PER_CLIENT // service.processes,
            allows_first=True,
        )
        self.capacity = Capacity(service.processes)

    @property
    def held_bytes(self) -> int:
        """How many bytes of request bodies are in memory."""
        return self._bodies.held_bytes + self._sign_ins.held_bytes

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

    def answer_now(self, scope: Scope) -> tuple[Message, Message] | None:
        """Answer a read of a job whose answer is kept; None: `__call__` has to answer the request.

        The server calls it on its own thread, so that such a request needs no turn of the event loop. It runs
        the same checks; what they refuse, and anything but the usual request, is left to `__call__`.
        """
        start = perf_counter()
        known = self._find_kept(scope)
        if known is None:
            return None
        headers, repeated = first_headers(scope["headers"])
        if b"if-none-match" in headers:
            return None
        try:
            principal = self._check(scope, headers, repeated)
        except JobledgerError:
            return None
        has_room = self.capacity.work.has_room(_client_of(principal, scope))
        if not (has_room and principal.may_read(known.namespace)):
            return None
        request_id = _request_id(headers.get(b"x-request-id"))
        response = (
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [*known.headers, (b"x-request-id", request_id.encode())],
            },
            {"type": "http.response.body", "body": known.body, "more_body": False},
        )
        seconds = perf_counter() - start
        self._metrics.request("GET", self._paths.kept_route, 200, seconds)
        write_access(
            request_id=request_id,
            principal=principal.name,
            client=(scope.get("client") or ("",))[0],
            method="GET",
            path=scope["path"],
            status=200,
            seconds=seconds,
            is_enabled=self._logs_access,
        )
        return response

    def _find_kept(self, scope: Scope) -> KeptAnswer | None:
        path, service = scope["path"], self._service
        if (
            service.answers.is_off
            or scope["type"] != "http"
            or scope["method"] != "GET"
            or not path.startswith(self._paths.kept_prefix)
            or scope["query_string"]
            or self._draining.is_set()
        ):
            return None
        ref = path[len(self._paths.kept_prefix) :]
        # First the position: an answer that is found after it was read is at least as new.
        if "/" in ref or service.own_writes.lacks_any(service.projector.sequence):
            return None
        return service.answers.find(ref)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = perf_counter()
        headers, repeated = first_headers(scope["headers"])
        request_id = _request_id(headers.get(b"x-request-id"))
        # Always a new one: what the server put there may be shared between requests.
        scope["state"] = {"request_id": request_id, "service": self._service, "headers": headers}
        method, path = scope["method"], scope["path"]  # both are changed below
        answer = GuardedResponse(send, request_id, self._responses, head=method == "HEAD")
        if method == "HEAD" and scope["path"] not in self._paths.feeds:  # an endless response has no length
            scope["method"] = "GET"
        body = None if method in READS else self._body(path, receive)
        try:
            principal = self._check(scope, headers, repeated)
            scope["state"]["principal"] = principal
            client = answer.client = _client_of(principal, scope)
            if body is not None:
                receive = await self._read_body(body, client, scope, headers)
            # Reads may have waited long when their response begins.
            rechecked = principal if body is None and principal is not ANONYMOUS else None
            if scope["path"] in self._paths.uncounted:
                await self._answer_admitted(scope, receive, answer, rechecked)
            else:
                with self.capacity.working(client, is_write=body is not None):
                    await self._answer_admitted(scope, receive, answer, rechecked)
        except Disconnected:
            if not answer.started:
                # The server reports malformed chunks as a disconnect, too; that client reads this.
                error = InvalidInput("the body is incomplete, or its chunks are malformed (RFC 9112, 7.1)")
                await answer.send_whole(_problem(error, scope))
            answer.status = _CLIENT_GONE
        except Exception as error:  # noqa: BLE001  # every error is answered and logged
            await _refuse(error, scope, body, answer)
        finally:
            answer.release()
            if body is not None:
                body.release()
            seconds = perf_counter() - start
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
                is_enabled=self._logs_access,
            )

    def _check(self, scope: Scope, headers: Mapping[bytes, bytes], repeated: str) -> Principal:
        path = scope["path"]
        if self._draining.is_set() and path not in self._paths.always:
            raise NotReady(
                "the service is shutting down; nothing was written: try another replica, or try again later"
            )
        if repeated == "host" or (b"host" not in headers and scope.get("http_version") == "1.1"):
            raise InvalidInput("the header Host must be sent exactly once in HTTP/1.1 (RFC 9112, 3.2)")
        principal = self._admit(scope, path, headers)
        if (host := headers.get(b"host")) is not None and _HOST.fullmatch(host) is None:
            raise InvalidInput("the header Host has characters that are not allowed in a host name")
        if repeated:
            raise InvalidInput(f"the header {repeated} was sent more than once; send it once")
        if not path.startswith("/"):
            raise InvalidInput("the request target must be a path that begins with /")
        if ENCODED_SLASH in path:
            raise InvalidInput("the path has a NUL character; remove it")
        raw_path = scope.get("raw_path") or b""
        if b"%2f" in raw_path.lower():
            scope["path"] = path = _path_with_slashes(raw_path)
        if scope["method"] not in READS and _EMPTY_SEGMENT.search(path) is not None:
            # The router ignores it: `PUT /jobs/` would submit a job instead of changing one with an empty id.
            raise JobNotFound("the path has an empty segment; names are never empty")
        return principal

    def _admit(self, scope: Scope, path: str, headers: Mapping[bytes, bytes]) -> Principal:
        """Authenticate the caller."""
        host = headers.get(b"host")
        if self._tokens.is_open:
            if not self._is_local and path not in self._paths.probes:
                raise NotReady("the service has no tokens, and without tokens only this machine is served")
            if host is not None or path not in self._paths.probes:  # HTTP/1.0 need not send one
                self._hosts.check_host(host)
            if not _is_link_to_page(scope["method"], path, headers):
                self._hosts.check_page(host, headers.get(b"origin"), headers.get(b"sec-fetch-site"))
            return local_principal(_actor(headers.get(b"jobledger-actor")))
        if self._checks_host and path not in self._paths.probes:
            self._hosts.check_host(host)
        if is_page(path) or path == paths.DOCS:  # whose navigation is that of who signed in
            return self._visitor(scope, headers)
        if path in self._paths.public and not (scope["query_string"] and path in self._paths.observer):
            return ANONYMOUS
        principal = self._tokens.lookup(headers.get(b"authorization"))
        if not principal.may_observe and _plain_path(path) in self._paths.observer:
            principal.require_observe()
        return principal

    def _visitor(self, scope: Scope, headers: Mapping[bytes, bytes]) -> Principal:
        """Who signed in with a browser; ANONYMOUS if nobody: the page then answers with the sign-in form."""
        origin = headers.get(b"origin", b"").decode("latin-1")
        is_tls = is_secure(scope.get("scheme", "http"), origin)
        secret = session_cookie(scope["headers"], is_secure=is_tls)
        if not secret:
            return ANONYMOUS
        try:
            principal = self._sessions.principal(secret)
        except Unauthorized:
            return ANONYMOUS
        scope["state"]["session"] = secret
        return principal

    def _body(self, path: str, receive: Receive) -> RequestBody:
        if path == paths.UI_SIGN_IN:
            return RequestBody(receive, self._sign_ins, max_bytes=SIGN_IN_MAX_BYTES)
        return RequestBody(receive, self._bodies)

    async def _read_body(
        self, body: RequestBody, client: str, scope: Scope, headers: Mapping[bytes, bytes]
    ) -> Receive:
        """Read the body of a write, in an upload slot: a slow client takes no work slot."""
        body.client, body.is_form = client, is_page(scope["path"])
        principal = scope["state"]["principal"]
        with self.capacity.uploading(client):
            if principal is ANONYMOUS and scope["path"] != paths.UI_SIGN_IN:
                # Not used by any public operation, and it must not use the budget of others.
                await body.discard()
                return body.receive
            check_framing(headers, is_form=body.is_form, max_bytes=body.max_bytes)
            scope["state"]["body"] = await body.read(headers)
        if principal is not ANONYMOUS:
            self._tokens.require_valid(principal)
            if session := scope["state"].get("session"):
                self._sessions.principal(session)  # it may have ended meanwhile
        return body.receive

    async def _answer_admitted(
        self, scope: Scope, receive: Receive, answer: GuardedResponse, rechecked: Principal | None
    ) -> None:
        """Answer a request that was let in; begin the response only if the token `rechecked` is valid."""
        try:
            response = await self._respond(scope, receive)
            if not isinstance(response, Response):
                await self._stream(response, scope, receive, answer, rechecked)
                return
        except Exception as error:
            if answer.started:
                raise
            if is_internal(error):
                log_failure(error, scope)
            response = _problem(error, scope)
        if rechecked is not None:
            try:
                self._tokens.require_valid(rechecked)
            except (Unauthorized, NotReady) as error:
                response = _problem(error, scope)
        await answer.send_whole(response)

    async def _stream(
        self,
        stream: Stream,
        scope: Scope,
        receive: Receive,
        answer: GuardedResponse,
        rechecked: Principal | None,
    ) -> None:
        def send(message: Message) -> Awaitable[None]:
            if rechecked is not None and not answer.started:
                self._tokens.require_valid(rechecked)
            return answer.send(message)

        await stream(scope, receive, send)


async def _refuse(error: Exception, scope: Scope, body: RequestBody | None, answer: GuardedResponse) -> None:
    if is_internal(error) or answer.started:
        log_failure(error, scope)
    if answer.started:
        return  # half a response cannot be taken back; the server closes the connection
    if body is not None:
        await body.discard()
    await answer.send_whole(_problem(error, scope))


def _problem(error: Exception, scope: Scope) -> Response:
    """The response to a request that failed, as its reader expects it: a page, or a problem document."""
    return (refusal if is_page(scope["path"]) else problem_response)(error, scope)


def _client_of(principal: Principal, scope: Scope) -> str:
    """Whose part of the capacity a request uses; without tokens all callers are local and share it."""
    if principal is not ANONYMOUS:
        return principal.token_id
    client = scope.get("client")
    return f"@{client[0]}" if client else "@"


def first_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[dict[bytes, bytes], str]:
    """The first value of each header, and the name of one of `_SINGLE` that was sent more than once."""
    found: dict[bytes, bytes] = {}
    repeated = ""
    for name, value in headers:
        if name not in found:
            found[name] = value
        elif name in _SINGLE:
            repeated = name.decode()
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
            f"the header Jobledger-Actor must be at most {ACTOR_MAX_CHARACTERS} printable characters"
        )
    return actor


def _is_link_to_page(method: str, path: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether someone follows a link, in a chat for example, to a page: the other site does not see it."""
    return (
        method == "GET"
        and (path == paths.INDEX or is_page(path))
        and headers.get(b"sec-fetch-mode") == b"navigate"
        and headers.get(b"sec-fetch-dest") == b"document"
        and b"origin" not in headers
    )


def _path_with_slashes(raw_path: bytes) -> str:
    """A decoded path in which each encoded slash is `ENCODED_SLASH`.

    The router splits the decoded path: `/jobs/a%2Frerun` would otherwise be a rerun of `a`.
    """
    segments = (unquote(segment) for segment in raw_path.decode("ascii", "replace").split("/"))
    return "/".join(segment.replace("/", ENCODED_SLASH) for segment in segments)


def _plain_path(path: str) -> str:
    """The path as the router sees it: `//metrics/` is `/metrics`."""
    return "/" + "/".join(part for part in path.split("/") if part)
