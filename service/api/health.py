"""Liveness, readiness, metrics, the release, and how Bacalhau's clients log in."""

import base64
import platform
from pathlib import Path
from typing import Final

import jobledger
from jobledger import __version__
from jobledger.service.api.operation import Availability, OperationGroup, Parameter, Permission
from jobledger.service.api.parameters import TEXT as TEXT_SCHEMA
from jobledger.service.api.request import Request
from jobledger.service.api.response import TEXT, Response
from jobledger.service.errors import Unauthorized
from jobledger.service.metrics import CONTENT_TYPE
from jobledger.service.server.checks import Result
from jobledger.service.wire import health as wire, paths
from jobledger.store.timestamps import format_rfc3339

_NO_STORE: Final = ((b"cache-control", b"no-store"),)
_GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}

LOGIN_METHOD: Final = "clientkey"
_PHRASE: Final = base64.b64encode(b"jobledger").decode()  # clients sign it; the signature is not checked
OPEN_TOKEN: Final = "no-token-needed"  # noqa: S105 - a service without tokens ignores it

operations = OperationGroup("Service")


def _version() -> wire.AgentVersion:
    """The release, as Go's clients decode it: a time is a time, and architectures have Go's names."""
    major, minor, *_ = __version__.split(".")
    machine = platform.machine().lower()
    return wire.AgentVersion(
        product="Jobledger",
        major=major,
        minor=minor,
        git_version=f"v{__version__}",
        git_commit="unknown",
        build_date=format_rfc3339(Path(jobledger.__file__).stat().st_mtime_ns),
        goos=platform.system().lower() or "unknown",
        goarch=_GO_ARCHITECTURES.get(machine, machine or "unknown"),
    )


VERSION: Final = _version()


@operations.declare("GET", paths.AUTH, "loginMethods", Permission.PUBLIC, response=wire.LoginMethods)
async def login_methods(request: Request[None]) -> wire.LoginMethods:
    """List the ways to log in, as Bacalhau's clients ask before their first request.

    Without tokens, a method that every client has and that is always granted; with tokens, none: send one of
    the service's tokens as an API key.
    """
    if not request.service.tokens.is_open:
        return wire.LoginMethods({})
    return wire.LoginMethods({LOGIN_METHOD: wire.LoginMethod("challenge", {"InputPhrase": _PHRASE})})


@operations.declare(
    "POST", paths.AUTH_CLIENT_KEY, "logIn", Permission.PUBLIC, response=wire.LogIn, errors=(401,)
)
async def log_in(request: Request[None]) -> wire.LogIn:
    """Log in to a service without tokens, as Bacalhau's clients do.

    The token in the response has no meaning; the service ignores it.
    """
    if not request.service.tokens.is_open:
        raise Unauthorized("this service accepts tokens only; send one as `Authorization: Bearer`")
    return wire.LogIn(wire.Authentication(success=True, token=OPEN_TOKEN))


@operations.declare(
    "GET", paths.AGENT_AUTH_CONFIG, "loginConfiguration", Permission.PUBLIC, response=wire.LoginConfiguration
)
async def login_configuration(_: Request[None]) -> wire.LoginConfiguration:
    """Get the single sign-on configuration, as Bacalhau's clients ask: there is none."""
    return wire.LoginConfiguration("1.0.0", {})


@operations.declare(
    "GET",
    paths.AGENT_ALIVE,
    "agentAlive",
    Permission.PUBLIC,
    response=wire.Alive,
    availability=Availability.ALWAYS,
)
async def alive(_: Request[None]) -> wire.Alive:
    """Check that the process responds, as Bacalhau's clients do."""
    return wire.Alive("OK")


@operations.declare("GET", paths.VERSION, "version", Permission.PUBLIC, response=wire.AgentVersion)
@operations.declare("GET", paths.AGENT_VERSION, "agentVersion", Permission.PUBLIC, response=wire.AgentVersion)
async def version(_: Request[None]) -> wire.AgentVersion:
    """Get the release, as Bacalhau's clients ask."""
    return VERSION


@operations.declare(
    "GET",
    paths.LIVEZ,
    "livez",
    Permission.PUBLIC,
    response="text/plain",
    availability=Availability.ALWAYS,
)
async def livez(_: Request[None]) -> Response:
    """Check that the process responds: what a restart could fix, and nothing else."""
    return _text(b"ok\n")


@operations.declare(
    "GET",
    paths.READYZ,
    "readyz",
    Permission.PUBLIC,
    (Parameter("verbose", TEXT_SCHEMA, "one line for each check; the value may be omitted"),),
    response="text/plain",
    errors=(401, 503),
    # The reasons of failed checks contain addresses and paths.
    query_permission=Permission.OBSERVE,
    availability=Availability.ALWAYS,
)
async def readyz(request: Request[None]) -> Response:
    """Check that the service can serve: its view has caught up once and is not far behind.

    503 with the failing checks if it should not get traffic.
    """
    monitor = request.service.monitor
    await monitor.observe()
    checks, is_ready = monitor.checks, monitor.is_ready
    is_verbose = _is_verbose(request.query_string)
    if is_ready and not is_verbose:
        return _text(b"ok\n")
    with_reasons = request.principal.may_observe
    lines = [_line(check, with_reasons=with_reasons) for check in checks if is_verbose or check.problem]
    lines.append(f"readyz check {'passed' if is_ready else 'failed'}\n")
    return _text("\n".join(lines).encode(), 200 if is_ready else 503)


@operations.declare(
    "GET",
    paths.METRICS,
    "metrics",
    Permission.OBSERVE,
    response="text/plain",
    availability=Availability.ALWAYS,
)
async def metrics(request: Request[None]) -> Response:
    """Get the metrics in the text format of Prometheus."""
    service = request.service
    await service.monitor.observe()
    await service.metrics.subscriptions.refresh()
    text = await service.metrics.collect_text()
    return Response(text, _NO_STORE, media_type=f"{CONTENT_TYPE}; charset=utf-8")


def _is_verbose(query: bytes) -> bool:
    """Whether `verbose` is present, also without a value."""
    values = dict(part.partition(b"=")[::2] for part in query.split(b"&"))
    return values.get(b"verbose", b"false").lower() not in {b"false", b"0"}


def _line(check: Result, *, with_reasons: bool) -> str:
    """A check in the format of kube-apiserver."""
    if not check.problem:
        return f"[+]{check.name} ok"
    reason = " ".join(check.problem.split()) if with_reasons else "reason withheld"
    return f"[{'-' if check.counts else '!'}]{check.name} failed: {reason}"


def _text(body: bytes, status: int = 200) -> Response:
    return Response(body, _NO_STORE, status=status, media_type=TEXT)
