"""Whether the service lives, is ready, how it is doing, and which release it is."""

import platform
from pathlib import Path
from typing import Final

from litestar import Response, get

import jobledger
from jobledger import __version__
from jobledger.service.api.answers import json_answer
from jobledger.service.api.context import AnyRequest, principal_of, service_of
from jobledger.service.metrics import CONTENT_TYPE
from jobledger.service.server.checks import Result
from jobledger.store.timestamps import format_rfc3339

_TEXT: Final = "text/plain"
_NOT_KEPT: Final = {"Cache-Control": "no-store"}
_GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


def _version() -> dict[str, str]:
    """The release, as Go's clients decode it: a time is a time, and architectures have Go's names."""
    major, minor, *_ = __version__.split(".")
    installed = Path(jobledger.__file__).stat().st_mtime_ns
    machine = platform.machine().lower()
    return {
        "Product": "Jobledger",
        "Major": major,
        "Minor": minor,
        "GitVersion": f"v{__version__}",
        "GitCommit": "unknown",
        "BuildDate": format_rfc3339(installed),
        "GOOS": platform.system().lower() or "unknown",
        "GOARCH": _GO_ARCHITECTURES.get(machine, machine or "unknown"),
    }


VERSION: Final = _version()


@get("/livez", sync_to_thread=False)
def livez() -> Response[bytes]:
    """200 as long as the process answers at all: what a restart could mend, and nothing else."""
    return _text(b"ok\n")


@get("/readyz")
async def readyz(request: AnyRequest) -> Response[bytes]:
    """200 if the service should get traffic; else 503 with the checks that fail.

    `verbose` (with or without a value) lists all of them. Reasons hold addresses and paths, so they are for
    those who may see the figures of the whole installation.
    """
    monitor = service_of(request).monitor
    await monitor.observe()
    checks, is_ready = monitor.checks, monitor.is_ready
    is_verbose = _is_verbose(request.scope["query_string"])
    if is_ready and not is_verbose:
        return _text(b"ok\n")
    with_reasons = principal_of(request).may_observe
    lines = [_line(check, with_reasons=with_reasons) for check in checks if is_verbose or check.problem]
    lines.append(f"readyz check {'passed' if is_ready else 'failed'}\n")
    return _text("\n".join(lines).encode(), 200 if is_ready else 503)


@get("/metrics")
async def metrics(request: AnyRequest) -> Response[bytes]:
    """Everything that is counted and measured, for Prometheus."""
    principal_of(request).require_observe()
    service = service_of(request)
    await service.monitor.observe()
    await service.metrics.subscriptions.look()
    return Response(service.metrics.text(), media_type=CONTENT_TYPE, headers=_NOT_KEPT)


@get("/api/v1/agent/alive", sync_to_thread=False)
def alive() -> Response[bytes]:
    """What Bacalhau's clients ask to see whether somebody is there."""
    return json_answer({"Status": "OK"})


@get(["/api/v1/agent/version", "/version"], sync_to_thread=False)
def version() -> Response[bytes]:
    """The release, in the shape that Bacalhau's clients read."""
    return json_answer(VERSION)


@get("/", sync_to_thread=False)
def index() -> Response[bytes]:
    """Where to go from here, for whoever opens the service's address."""
    return json_answer(
        {
            "Product": "Jobledger",
            "Version": __version__,
            "Docs": "/docs",
            "OpenAPI": "/openapi.json",
            "AsyncAPI": "/asyncapi.json",
            "Jobs": "/api/v1/orchestrator/jobs",
            "Events": "/api/v1/events",
            "Ready": "/readyz?verbose",
            "Metrics": "/metrics",
        }
    )


def _is_verbose(query: bytes) -> bool:
    """Whether `verbose` is there, also without a value."""
    said = dict(part.partition(b"=")[::2] for part in query.split(b"&"))
    return said.get(b"verbose", b"false").lower() not in {b"false", b"0"}


def _line(check: Result, *, with_reasons: bool) -> str:
    """As kube-apiserver writes it."""
    if not check.problem:
        return f"[+]{check.name} ok"
    reason = " ".join(check.problem.split()) if with_reasons else "reason withheld"
    return f"[{'-' if check.counts else '!'}]{check.name} failed: {reason}"


def _text(body: bytes, status: int = 200) -> Response[bytes]:
    return Response(body, status_code=status, media_type=_TEXT, headers=_NOT_KEPT)


HANDLERS: Final = (livez, readyz, metrics, alive, version, index)
