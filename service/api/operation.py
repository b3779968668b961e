"""One declaration per HTTP operation, next to its handler. Pure.

    operations = OperationGroup("Webhooks")

    @operations.declare("GET", paths.WEBHOOK, "getWebhook", Permission.OBSERVE, (NAME,), response=Webhook)
    async def get_webhook(request: Request[None]) -> Webhook:
        '''Get a webhook.'''

The route, the permission check, the decoding of the body, the OpenAPI document, `/docs` and docs/API.md are
derived from it. The first line of the handler's docstring is the summary, the rest is the description.
"""

import enum
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

import msgspec

from jobledger.service.api.response import JSON, Response

Schema = dict[str, Any]
Handler = Callable[[Any], Awaitable[Any]]
FastHandler = Callable[[Any], Response | None]

_H = TypeVar("_H", bound=Handler)


class Permission(enum.Enum):
    """Who may use an operation."""

    PUBLIC = "everyone, without a token"
    READ = "any token; it reveals only the namespaces that the token may read"
    WRITE = "a token that may write in the namespace of the job"
    OBSERVE = "a token for all namespaces"
    ADMIN = "an admin's token"


class Availability(enum.Enum):
    """What may delay or refuse an operation."""

    LIMITED = "counts as work: 429 under overload, 503 while the service is shutting down"
    FEED = "has its own limit on open connections"
    ALWAYS = "is answered under any load, and during shutdown"


class Parameter(NamedTuple):
    """One parameter of a request.

    Attributes:
        place: path, query or header.
        required: whether a request without it is refused.
        errors: the statuses of responses that the parameter makes possible.
    """

    name: str
    schema: Schema
    description: str
    place: str = "query"
    required: bool = False
    errors: tuple[int, ...] = ()


class Operation(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One method of one path.

    Attributes:
        path: with its parameters in braces.
        id: the operation's id in the OpenAPI document.
        group: its tag there, and its heading in docs/API.md.
        description: Markdown; may be empty.
        parameters: in addition to `X-Request-ID`, which every request may have.
        body: what the request's body is decoded as, if it may have one.
        refuses_unknown_fields: whether an unknown field of the body is an error without `strict`, too.
        response: the body of a 200: a Struct, or the media type of anything else; empty if every request is
            refused.
        headers: of the response, with their meaning.
        errors: all other statuses.
        example: a body that can be sent as it is.
        permission: checked before the handler runs; READ and WRITE are checked as it looks up the job.
        query_permission: that of a request with a query string, if that needs more.
        is_routed: false if the handler of another operation recognizes it.
        fast: answers the usual request at once, as the handler would; None: the handler answers.
        is_kept: whether `fast` keeps its answers in `JobAnswers`, by the last part of the path.
    """

    method: str
    path: str
    id: str
    group: str
    summary: str
    description: str
    handler: Handler
    permission: Permission
    query_permission: Permission
    availability: Availability
    parameters: tuple[Parameter, ...]
    body: type[msgspec.Struct] | None
    refuses_unknown_fields: bool
    response: type[msgspec.Struct] | str
    headers: tuple[tuple[str, str], ...]
    errors: tuple[int, ...]
    example: dict[str, Any] | None
    is_routed: bool
    fast: FastHandler | None
    is_kept: bool

    @property
    def route(self) -> str:
        """The path as metrics label it."""
        return self.path.replace("{id}", "{job_id}")


class OperationGroup:
    """The operations of one resource, in the order of their declaration."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.operations: list[Operation] = []

    def declare(
        self,
        method: str,
        path: str,
        id: str,  # noqa: A002 - OpenAPI's word
        permission: Permission,
        parameters: tuple[Parameter, ...] = (),
        *,
        body: type[msgspec.Struct] | None = None,
        refuses_unknown_fields: bool = False,
        response: type[msgspec.Struct] | str = JSON,
        headers: tuple[tuple[str, str], ...] = (),
        errors: tuple[int, ...] = (),
        example: dict[str, Any] | None = None,
        query_permission: Permission | None = None,
        availability: Availability = Availability.LIMITED,
        is_routed: bool = True,
        fast: FastHandler | None = None,
        is_kept: bool = False,
    ) -> Callable[[_H], _H]:
        """Declare the operation that the decorated function handles; see `Operation`.

        `errors` are the statuses in addition to those that method, permission and parameters make possible.
        """
        implied = _implied_errors(method, permission, availability, parameters)

        def declared(handler: _H) -> _H:
            summary, _, description = inspect.cleandoc(handler.__doc__ or "").partition("\n\n")
            self.operations.append(
                Operation(
                    method=method,
                    path=path,
                    id=id,
                    group=self.name,
                    summary=" ".join(summary.split()).removesuffix("."),
                    description=description,
                    handler=handler,
                    permission=permission,
                    query_permission=query_permission or permission,
                    availability=availability,
                    parameters=parameters,
                    body=body,
                    refuses_unknown_fields=refuses_unknown_fields,
                    response=response,
                    headers=headers,
                    errors=tuple(sorted({*errors, *implied})),
                    example=example,
                    is_routed=is_routed,
                    fast=fast,
                    is_kept=is_kept,
                )
            )
            return handler

        return declared


def _implied_errors(
    method: str, permission: Permission, availability: Availability, parameters: tuple[Parameter, ...]
) -> set[int]:
    errors = {400, 403}
    if permission is not Permission.PUBLIC:
        errors.add(401)
        if method != "GET":
            errors |= {413, 415}
    if availability is not Availability.ALWAYS:
        errors |= {429, 503}
    return errors.union(*(parameter.errors for parameter in parameters))
