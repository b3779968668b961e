"""The middleware around a tiny app, called without a socket."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

from jobledger.service.access.principal import Principal
from jobledger.service.access.sessions import Sessions
from jobledger.service.access.tokens import TokenFile
from jobledger.service.api.app import OPERATIONS
from jobledger.service.api.middleware import Middleware
from jobledger.service.wiring import Service

App = Callable[[Any, Any, Any], Awaitable[None]]
JSON = {"content-type": "application/json"}


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The problem document in the body."""
        assert self.headers["content-type"] == "application/problem+json"
        found: dict[str, Any] = json.loads(self.body)
        return found


class Guarded:
    """The middleware, its app and what the app received.

    Args:
        directory: for the token file.
        host: the listening address.
        app: instead of one that returns 200 with the request body.
    """

    def __init__(
        self,
        directory: Path,
        *,
        host: str = "127.0.0.1",
        allowed_hosts: tuple[str, ...] = (),
        access_log: str = "on",
        app: App | None = None,
    ) -> None:
        self.tokens = TokenFile(directory / "tokens.json", poll_seconds=0)
        self.draining = asyncio.Event()
        self.silent: asyncio.Event | None = (
            None  # how long a client that has not sent everything stays silent
        )
        self.scopes: list[dict[str, Any]] = []
        self.counted: list[tuple[str, str, int]] = []
        service = SimpleNamespace(
            tokens=self.tokens,
            sessions=Sessions(directory / "sessions.json", self.tokens),
            draining=self.draining,
            processes=1,
            settings=SimpleNamespace(host=host, allowed_hosts=allowed_hosts, access_log=access_log),
            metrics=SimpleNamespace(
                request=lambda method, route, status, _: self.counted.append((method, route, status))
            ),
        )
        self._app = app or echo
        self.gate = Middleware(self._observed, cast("Service", service), OPERATIONS)

    async def _observed(self, scope: Any, _: Any) -> Any:
        self.scopes.append(scope)
        return self._app  # a stream has the signature of an app

    @property
    def principal(self) -> Principal:
        """The principal of the last request to the app."""
        found: Principal = self.scopes[-1]["state"]["principal"]
        return found

    async def ask(
        self,
        path: str = "/api/v1/orchestrator/jobs",
        headers: dict[str, str] | Sequence[tuple[str, str]] = (),
        *,
        method: str = "GET",
        body: bytes | Iterable[bytes] = b"",
        host: str | None = "127.0.0.1:1234",
        ends: bool = True,
        http_version: str = "1.1",
        address: str = "127.0.0.1",
        pause: int = 0,
    ) -> Answer:
        """Send a request; a body of several parts has no declared length.

        Args:
            path: with its query.
            method: the HTTP method.
            body: whole or in parts.
            http_version: of the request.
            address: of the client.
        method: the HTTP method.
        body: whole or in parts.
        http_version: of the request.
        address: of the client.
            headers: in addition to `Host`.
            host: the header; None: none.
            ends: False: the client disconnects after the parts of the body.
            pause: `silent` is awaited before this many parts are left.
        """
        pairs = list(headers.items() if isinstance(headers, dict) else headers)
        if host is not None:
            pairs.insert(0, ("host", host))
        if isinstance(body, bytes) and body:
            pairs.append(("content-length", str(len(body))))
        parts = [body] if isinstance(body, bytes) else list(body)
        where, _, query = path.partition("?")
        messages: list[dict[str, Any]] = [
            {"type": "http.request", "body": part, "more_body": not ends or n < len(parts)}
            for n, part in enumerate(parts, 1)
        ]
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            if self.silent is not None and len(messages) <= pause:
                await self.silent.wait()
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "client": (address, 50_000),
            "http_version": http_version,
            "method": method,
            "path": where,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
            "state": {"left": "over"},
        }
        await self.gate(cast("Any", scope), receive, send)
        if not sent:
            return Answer(0, {}, b"")
        names = [name for name, _ in sent[0]["headers"]]
        assert len(names) == len(set(names)), names
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], answered, b"".join(part["body"] for part in sent[1:]))


async def echo(_: Any, receive: Any, send: Any) -> None:
    """Return the request body."""
    message = await receive()
    body = message.get("body", b"")
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def late() -> int:
    """A clock for which every file is old, so that an unchanged stat means an unchanged file."""
    return time.time_ns() + 3_600_000_000_000


def bearer(text: str) -> bytes:
    """Return an `Authorization` header with this token."""
    return f"Bearer {text}".encode()
