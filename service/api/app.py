"""The app: every route, behind the gate."""

import logging
from functools import cache
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.routes import HTTPRoute

from jobledger.service.api import reads
from jobledger.service.api.bacalhau_auth import HANDLERS as AUTH_HANDLERS
from jobledger.service.api.catalogue.parts import API
from jobledger.service.api.changes import HANDLERS as CHANGE_HANDLERS
from jobledger.service.api.docs import HANDLERS as DOCS_HANDLERS
from jobledger.service.api.events import HANDLERS as EVENT_HANDLERS
from jobledger.service.api.health import HANDLERS as HEALTH_HANDLERS
from jobledger.service.api.middleware import Gate
from jobledger.service.api.problems import INTERNAL, MEDIA_TYPE, kind_of, problem_response_parts
from jobledger.service.api.proofs import HANDLERS as PROOF_HANDLERS
from jobledger.service.api.seals import HANDLERS as SEAL_HANDLERS
from jobledger.service.api.subscriptions import HANDLERS as SUBSCRIPTION_HANDLERS
from jobledger.service.api.versions import HANDLERS as VERSION_HANDLERS
from jobledger.service.api.view import HANDLERS as VIEW_HANDLERS
from jobledger.service.api.wait import HANDLERS as WAIT_HANDLERS
from jobledger.service.api.webhooks import HANDLERS as WEBHOOK_HANDLERS
from jobledger.service.api.writes import HANDLERS as WRITE_HANDLERS
from jobledger.service.wiring import Service

_log = logging.getLogger("jobledger.http")


def create_app(service: Service) -> Gate:
    """The ASGI app of a running service."""
    routes = _routes()
    return Gate(routes, service, _allowed(routes))


def _allowed(app: Litestar) -> dict[str, str]:
    """The value of `Allow` for each route, by its template; HEAD wherever there is GET."""
    methods: dict[str, set[str]] = {}
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            found = methods.setdefault(route.path_format, set())
            found |= {*route.methods, "OPTIONS"} | ({"HEAD"} if "GET" in route.methods else set())
    return {template: ", ".join(sorted(found)) for template, found in methods.items()}


@cache
def _routes() -> Litestar:
    """The routes alone, without the gate: they trust its `principal` and `service`, and keep nothing."""
    orchestrator = Router(
        API,
        route_handlers=[*WRITE_HANDLERS, *reads.HANDLERS, *VERSION_HANDLERS, *WAIT_HANDLERS],
    )
    audit = Router("/api/v1/audit", route_handlers=[*SEAL_HANDLERS, *PROOF_HANDLERS])
    return Litestar(
        [
            orchestrator,
            audit,
            Router("/api/v1/view", route_handlers=VIEW_HANDLERS),
            *CHANGE_HANDLERS,
            *EVENT_HANDLERS,
            *SUBSCRIPTION_HANDLERS,
            *WEBHOOK_HANDLERS,
            *HEALTH_HANDLERS,
            *AUTH_HANDLERS,
            *DOCS_HANDLERS,
        ],
        exception_handlers={Exception: _answer_error},
        openapi_config=None,  # ours is made by `openapi`
        request_max_body_size=None,  # the gate bounds it
        logging_config=None,
        debug=False,
    )


def _answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Any exception as a problem document; one that is a mistake of ours is logged with its stack."""
    if kind_of(error) is INTERNAL:
        request_id = request.scope.get("state", {}).get("request_id", "")
        _log.error("request %s %s failed", request_id, request.scope["path"], exc_info=error)
    status, headers, body = problem_response_parts(error, request.scope)
    return Response(
        body,
        status_code=status,
        media_type=MEDIA_TYPE,
        headers={
            name.decode(): value.decode()
            for name, value in headers
            if name not in {b"content-length", b"content-type"}
        },
    )
