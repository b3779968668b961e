"""The app: all operations, their routes, and the dispatch of a request to its handler."""

from typing import Any, Final, NamedTuple

import msgspec

from jobledger.service.api import (
    audit,
    changes,
    docs,
    events,
    health,
    histogram,
    jobs,
    subscriptions,
    versions,
    view,
    webhooks,
    writes,
)
from jobledger.service.api.asgi import Receive, Scope
from jobledger.service.api.capacity import client_of_request
from jobledger.service.api.middleware import Middleware
from jobledger.service.api.operation import Operation
from jobledger.service.api.request import ENCODED_SLASH, Request
from jobledger.service.api.response import Response, Stream, encode
from jobledger.service.errors import MethodNotAllowed, RouteNotFound
from jobledger.service.web.pages import PAGES
from jobledger.service.wiring import Service
from jobledger.service.workers.link import AtOwner
from jobledger.service.workers.messages import Forward

OPERATIONS: Final[tuple[Operation, ...]] = tuple(
    operation
    for module in (
        writes,
        jobs,
        versions,
        changes,
        histogram,
        events,
        subscriptions,
        webhooks,
        audit,
        view,
        health,
        docs,
    )
    for operation in module.operations.operations
)
"""Every operation, in the order of the documents."""


def create_app(service: Service) -> Middleware:
    """The ASGI app of a running service."""
    return Middleware(create_router().respond, service, (*OPERATIONS, *PAGES))


def create_router() -> "Router":
    """The routes of a service."""
    return Router(OPERATIONS, PAGES)


class _Node:
    """A place in the tree of paths: what follows it, and the operations of the path that ends here."""

    __slots__ = ("children", "methods", "parameter", "template")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.parameter: _Node | None = None  # any other segment
        self.methods: dict[str, _Endpoint] = {}
        self.template = ""

    @property
    def allow(self) -> bytes:
        """The value of `Allow`; HEAD wherever there is GET."""
        methods = {*self.methods, "OPTIONS"} | ({"HEAD"} if "GET" in self.methods else set())
        return ", ".join(sorted(methods)).encode()


class _Endpoint(NamedTuple):
    operation: Operation
    names: tuple[str, ...]  # of the parameters in its path


class _Match(NamedTuple):
    node: _Node
    values: list[str]
    path: str


class Router:
    """The operations by method and path. It trusts what the middleware puts into `scope["state"]`.

    Empty segments of a path are ignored: `//metrics/` is `/metrics`.

    Args:
        operations: of the API.
        pages: of the UI, which are not in the API's documents.
    """

    def __init__(self, operations: tuple[Operation, ...], pages: tuple[Operation, ...] = ()) -> None:
        self._operations = operations
        self._root = _Node()
        for operation in (*operations, *pages):
            if operation.is_routed:
                self._add(operation)

    def _add(self, operation: Operation) -> None:
        node = self._root
        for segment in filter(None, operation.path.split("/")):
            if segment.startswith("{"):
                node.parameter = node = node.parameter or _Node()
            else:
                node = node.children.setdefault(segment, _Node())
        names = tuple(part[1:-1] for part in operation.path.split("/") if part.startswith("{"))
        node.methods[operation.method] = _Endpoint(operation, names)
        node.template = operation.route

    async def respond(self, scope: Scope, receive: Receive) -> Response | Stream:
        """Run the operation of a request that the middleware let in.

        Raises:
            Exception: to be answered as a problem.
        """
        node, values, path = self._find(scope["path"])
        method: str = scope["method"]
        endpoint = node.methods.get(method)
        if endpoint is None:
            if method != "OPTIONS":
                raise MethodNotAllowed(method, scope["path"], node.allow)
            scope["path_template"] = node.template
            return Response(b"", [(b"allow", node.allow)], status=204)
        scope["path"], scope["path_template"] = path, node.template
        operation = endpoint.operation
        request: Request[Any] = Request(
            operation,
            {
                name: value.replace(ENCODED_SLASH, "/")
                for name, value in zip(endpoint.names, values, strict=True)
            },
            scope,
            receive,
            self._operations,
        )
        request.check_permission()
        if operation.fast is not None and (fast := operation.fast(request)) is not None:
            return fast
        try:
            answer = await operation.handler(request)
        except AtOwner:
            return await _from_owner(request, scope)
        return Response(encode(answer)) if isinstance(answer, msgspec.Struct) else answer

    def _find(self, path: str) -> _Match:
        node, values = self._root, []
        segments = [segment for segment in path.split("/") if segment]
        for segment in segments:
            child = node.children.get(segment)
            if child is None:
                child = node.parameter
                if child is None:
                    raise RouteNotFound(path)
                values.append(segment)
            node = child
        if not node.methods:
            raise RouteNotFound(path)
        return _Match(node, values, "/" + "/".join(segments))


async def _from_owner(request: Request[Any], scope: Scope) -> Response:
    """Let the owner answer a request that needs a part of the service that only it has."""
    service, state = request.service, scope["state"]
    assert service.owner is not None
    answer = await service.owner.forward(
        Forward(
            request.method,
            request.path,
            request.query_string,
            [(bytes(name), bytes(value)) for name, value in scope["headers"]],
            state.get("body", b""),
            request.principal,
            state["request_id"],
            client_of_request(),
            request.scheme,
            request.session,
        )
    )
    response = Response(b"", answer.headers, status=answer.status)
    response.body = answer.body
    return response
