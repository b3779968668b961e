"""Calling an operation of the API from a view, in process: the UI has no other access to anything.

The operation sees a request of the same caller, with the same service: rights, conditions, limits and errors
are those of a request over HTTP.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, TypeVar, overload
from urllib.parse import urlencode

import msgspec

from jobledger.service.api.operation import Operation
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response, encode
from jobledger.service.wire import paths

T = TypeVar("T")
Parameters = Sequence[tuple[str, str]] | Mapping[str, str]


@overload
async def call(
    request: Request[Any],
    operation_id: str,
    query: Parameters = (),
    *,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    **values: str,
) -> Any: ...
@overload
async def call(
    request: Request[Any],
    operation_id: str,
    query: Parameters = (),
    *,
    answer: type[T],
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    **values: str,
) -> T: ...
async def call(
    request: Request[Any],
    operation_id: str,
    query: Parameters = (),
    *,
    answer: Any = Any,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    **values: str,
) -> Any:
    """Run an operation with the rights of the caller of a page, and return what it answers as plain values.

    Args:
        request: of the page.
        operation_id: as in the OpenAPI document.
        query: parameters; empty ones are omitted.
        answer: what to decode the response as; a Struct with few fields skips the rest of a large response.
        body: of a write.
        headers: in addition, such as `If-Match`.
        values: the parameters in the path.

    Raises:
        JobledgerError: what the operation raises.
    """
    operation = _by_id(request.operations)[operation_id]
    inner = derived_request(request, operation, query, body=body, headers=headers or {}, values=values)
    inner.check_permission()
    found = await operation.handler(inner)
    raw = found.body if isinstance(found, Response) else encode(found)
    return msgspec.json.decode(raw, type=answer)


async def pass_on(request: Request[Any], operation_id: str, query: Parameters = (), **values: str) -> Any:
    """Run an operation that reads, and return its response as it is: a document, or a stream."""
    operation = _by_id(request.operations)[operation_id]
    inner = derived_request(request, operation, query, body=None, headers={}, values=values)
    inner.check_permission()
    return await operation.handler(inner)


def derived_request(
    request: Request[Any],
    operation: Operation,
    query: Parameters,
    *,
    body: Mapping[str, Any] | None,
    headers: Mapping[str, str],
    values: dict[str, str],
) -> Request[Any]:
    """A request of the API by the caller of a page."""
    pairs = query.items() if isinstance(query, Mapping) else query
    scope = {
        "method": operation.method,
        "path": paths.expand(operation.path, **values),
        "query_string": urlencode([(name, value) for name, value in pairs if value]).encode(),
        "state": {
            "headers": {name.lower().encode(): value.encode() for name, value in headers.items()},
            "service": request.service,
            "principal": request.principal,
            "body": b"" if body is None else msgspec.json.encode(body),
        },
    }
    inner: Request[Any] = Request(operation, values, scope, request.receive, request.operations)
    inner.exact_ids = True
    return inner


@cache
def _by_id(operations: tuple[Operation, ...]) -> dict[str, Operation]:
    return {operation.id: operation for operation in operations}
