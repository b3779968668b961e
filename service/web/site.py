"""What all pages have in common: registration, sign-in, checks, security headers, and errors as pages."""

import time
from collections.abc import Awaitable, Callable
from functools import wraps
from http import HTTPStatus
from typing import Any, Final, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from jobledger.service.access.principal import ANONYMOUS
from jobledger.service.api.asgi import Scope
from jobledger.service.api.operation import Availability, OperationGroup, Permission
from jobledger.service.api.problems import (
    is_internal,
    kind_of,
    log_failure,
    problem_document,
    problem_response,
)
from jobledger.service.api.request import Request
from jobledger.service.api.response import HTML, Response, Stream
from jobledger.service.web import zones
from jobledger.service.web.templating import render_text
from jobledger.service.web.visitor import check_sender
from jobledger.service.wire import paths
from jobledger.service.workers.link import AtOwner
from jobledger.store.model.errors import JobledgerError

View = Callable[[Request[Any]], Awaitable[Response | Stream]]

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src"
    " 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SECURITY_HEADERS: Final = (
    (b"content-security-policy", POLICY.encode()),
    (b"referrer-policy", b"same-origin"),  # without it, the `Origin` of a form would be `null`
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"vary", b"HX-Request, Cookie"),
)

_OF_JOBS: Final = (f"{paths.UI}/jobs/", paths.UI_SUBMIT, paths.UI_STOP)
_OF_THE_BODY: Final = frozenset({b"content-type", b"content-length"})

operations = OperationGroup("UI")


class NavEntry(NamedTuple):
    """A page in the navigation, and who sees it."""

    title: str
    path: str
    requires: Permission
    module: str

    def has(self, path: str) -> bool:
        """Whether a page is below this one: of a job, a subscription, a form."""
        own = _OF_JOBS if self.path == paths.UI_JOBS else (f"{self.path}/",)
        return path.startswith(own)


navigation: Final[list[NavEntry]] = []


def page(
    method: str,
    path: str,
    id: str,  # noqa: A002 - as in `OperationGroup.declare`
    *,
    requires: Permission = Permission.READ,
    nav: str = "",
    availability: Availability = Availability.LIMITED,
) -> Callable[[View], View]:
    """Register the decorated view function as a page.

    Args:
        method: GET or POST.
        path: from `service.wire.paths`.
        id: unique, for metrics and tests.
        requires: PUBLIC: no sign-in; READ and WRITE: signed in, the operations check the rest; OBSERVE and
            ADMIN: refused for other callers, and hidden from their navigation.
        nav: the title in the navigation; empty: not listed there.
        availability: FEED for a stream.
    """

    def declared(view: View) -> View:
        @wraps(view)
        async def handler(request: Request[Any]) -> Response | Stream:
            token = zones.CURRENT.set(zones.Zone())
            try:
                zones.CURRENT.set(zone := zones.zone_of(request.query))
                return _in_zone(await _admitted(request, view, requires), zone)
            except AtOwner:
                raise  # the router passes the request on
            except Exception as error:  # noqa: BLE001 - every error is a page
                if is_internal(error):
                    log_failure(error, {"path": request.path, "state": {}})
                return problem_page(request, error)
            finally:
                zones.CURRENT.reset(token)

        level = Permission.PUBLIC if requires is Permission.PUBLIC else Permission.READ
        operations.declare(method, path, id, level, response="text/html", availability=availability)(handler)
        if nav:
            navigation.append(NavEntry(nav, path, requires, view.__module__))
        return view

    return declared


def _in_zone(answer: Response | Stream, zone: zones.Zone) -> Response | Stream:
    """A redirection leads to a page in the same zone."""
    if not zone.is_utc and isinstance(answer, Response):
        answer.headers = [
            (name, zones.keep_zone_in(value.decode(), zone).encode() if name == b"location" else value)
            for name, value in answer.headers
        ]
    return answer


async def _admitted(request: Request[Any], view: View, requires: Permission) -> Response | Stream:
    if requires is not Permission.PUBLIC and request.principal is ANONYMOUS:
        return _to_sign_in(request)
    if request.method == "POST":
        check_sender(request.header(b"sec-fetch-site"), request.header(b"origin"), request.header(b"host"))
        await request.read_form()
    if requires is Permission.ADMIN:
        request.principal.require_admin()
    elif requires is Permission.OBSERVE:
        request.principal.require_observe()
    answer = await view(request)
    if request.session:
        await request.service.sessions.note_use(request.session)
    return answer


def _to_sign_in(request: Request[Any]) -> Response:
    query = request.query_string.decode("latin-1")
    path = paths.UI_JOBS if request.path == paths.UI else quote(request.path)
    place = f"{path}?{query}" if query else path
    target = f"{paths.UI_SIGN_IN}?{urlencode({'next': place if request.method == 'GET' else paths.UI_JOBS})}"
    if request.header(b"hx-request") or request.path in {paths.UI_FEED, paths.UI_EVENTS_FEED}:
        return Response(b"", [(b"hx-redirect", target.encode()), *SECURITY_HEADERS], status=401)
    return see_other(target)


def render(request: Request[Any], template: str, /, *, status: int = 200, **context: Any) -> Response:
    """A page, or a part of one, as a response."""
    facts = frame(request)
    body = zones.keep_zone(render_text(template, **facts, **context), zones.current())
    sequence = (b"jobledger-sequence", str(facts["sequence"]).encode())
    headers = [*SECURITY_HEADERS, sequence]
    return Response(body.encode("utf-8", "replace"), headers, status=status, media_type=HTML)


def frame(request: Request[Any]) -> dict[str, Any]:
    """What every template may use."""
    principal = request.principal
    return {
        "principal": principal,
        "is_open": request.service.tokens.is_open,
        "nav": [each for each in navigation if _is_shown(request, each)],
        "here": request.path,
        "query_string": request.query_string.decode("latin-1"),
        "now": time.time_ns(),
        "frame": "part.html" if request.header(b"hx-request") else "base.html",
        "sequence": request.service.projector.sequence,
        "stream_tag": request.service.stream_tag,
    }


def _is_shown(request: Request[Any], entry: NavEntry) -> bool:
    principal = request.principal
    if entry.requires is Permission.PUBLIC:
        return True
    if principal is ANONYMOUS:
        return False
    if entry.requires is Permission.ADMIN:
        return principal.is_admin
    return entry.requires is not Permission.OBSERVE or principal.may_observe


def see_other(target: str, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Response:
    """The answer to a successful POST: go to a page of this service."""
    return Response(b"", [(b"location", target.encode("ascii")), *headers, *SECURITY_HEADERS], status=303)


def problem_page(request: Request[Any], error: Exception) -> Response:
    """An error as a page; the same code, message and hint as the API's."""
    found = problem_response(error, {"path": request.path})
    problem, title = msgspec.json.decode(found.body), HTTPStatus(found.status).phrase
    answer = render(request, "problem.html", status=found.status, problem=problem, title=title)
    answer.headers += [each for each in found.headers if each[0] not in _OF_THE_BODY]
    return answer


def refusal(error: Exception, scope: Scope) -> Response:
    """The page for a request that reaches no view: refused before, or to a path without a page."""
    answer = problem_response(error, scope)
    headers = [each for each in answer.headers if each[0] not in _OF_THE_BODY]
    body = render_text(
        "problem.html",
        principal=ANONYMOUS,
        is_open=True,
        nav=[],
        here=scope["path"],
        problem=msgspec.json.decode(answer.body),
        title=HTTPStatus(answer.status).phrase,
    )
    return Response(
        body.encode("utf-8", "replace"), [*headers, *SECURITY_HEADERS], status=answer.status, media_type=HTML
    )


def words_of(error: JobledgerError) -> str:
    """An error as one text, to show next to a form."""
    return str(problem_document(error, kind_of(error), {})["detail"])
