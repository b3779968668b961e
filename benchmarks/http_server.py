"""An HTTP server in its own process: `jobledger serve`, or a bare handler or broadcaster to compare it with.

Run as a program, it reads its task from the first line of standard input, prints its port, and exits when
standard input is closed, so it never outlives its parent.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.remote_projector import set_projector_apart
from benchmarks.workload import child
from jobledger.service.access.principal import ANONYMOUS
from jobledger.service.api.app import Router
from jobledger.service.api.asgi import App, Receive, Scope, Send
from jobledger.service.api.operation import OperationGroup, Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.logs import configure_logs
from jobledger.service.server import event_loop
from jobledger.service.server.http_server import HttpServer
from jobledger.service.server.serve import HttpFront, serve
from jobledger.service.settings import Settings
from jobledger.service.wiring import Service

FIXED_PATH = "/fixed"


@asynccontextmanager
async def serving(**task: str) -> AsyncIterator[int]:
    """Run a server; yields its port.

    Args:
        task: `data_dir` for the service on that directory (and `apart` for the experiment of that name), or
            `body` for a handler that returns it, or `broadcast` for a bare feed.
    """
    async with child("benchmarks.http_server") as server:
        await server.send(task)
        line = await server.stdout.readline()
        if not line:
            raise RuntimeError("the HTTP server did not start; see its message above")
        yield int(line)
        server.stdin.close()
        await server.process.wait()


async def _fixed(body: bytes) -> None:
    """Serve a fixed response with the same router and server."""
    group = OperationGroup("Fixed")

    @group.declare("GET", f"{FIXED_PATH}/{{id}}", "fixed", Permission.PUBLIC)
    async def answer(request: Request[None]) -> Response:
        """Answer."""
        assert request.values["id"]
        return Response(body)

    router = Router(tuple(group.operations))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"] = {"service": None, "principal": ANONYMOUS, "headers": {}}
        response = await router.respond(scope, receive)
        assert isinstance(response, Response)
        await _send(send, response)

    http = await HttpServer.start(app, Settings(port=0), "127.0.0.1")
    print(http.port, flush=True)
    await http.wait_ended()


async def _send(send: Send, response: Response) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": response.headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": False})


async def _service(data_dir: Path) -> None:
    def announce(_: Service, http: HttpFront) -> None:
        print(http.port, flush=True)

    # The feeds of one round may still be closing while those of the next are opened.
    settings = Settings(port=0, data_dir=data_dir, feeds_per_client=2_000)
    _log_like_serve(settings)
    await serve(settings, announce)


def _log_like_serve(settings: Settings) -> None:
    """Write a line for each request, as `jobledger serve` does, but show only warnings."""
    nowhere = Path(os.devnull).open("w")  # noqa: SIM115 - until the process ends
    configure_logs(settings.log_level, settings.log_format, nowhere)
    shown = logging.StreamHandler()
    shown.setLevel(logging.WARNING)
    logging.getLogger().addHandler(shown)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve until standard input is closed."""
    task: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "body" in task:
        event_loop.run(_fixed(task["body"].encode()))
    elif "broadcast" in task:
        event_loop.run(serve_broadcaster())
    else:
        if "apart" in task:
            set_projector_apart()
        event_loop.run(_service(Path(task["data_dir"])))


FEED_PATH: Final = "/feed"
PUBLISH_PATH: Final = "/publish"


def broadcaster() -> App:
    """Return an app that sends every posted message to all listeners, and stores nothing."""
    listeners: set[asyncio.Queue[bytes]] = set()

    async def publish(receive: Receive, send: Send) -> None:
        parts, more = [], True
        while more:
            message = await receive()
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        text = b"event: message\ndata: %b\n\n" % b"".join(parts)
        for listener in listeners:
            listener.put_nowait(text)
        await _send(send, Response(b"{}"))

    async def listen(send: Send) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        listeners.add(queue)
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        text = b": hello\n\n"
        try:
            while True:
                await send({"type": "http.response.body", "body": text, "more_body": True})
                text = await queue.get()
        finally:
            listeners.discard(queue)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == PUBLISH_PATH:
            await publish(receive, send)
        else:
            await listen(send)

    return app


async def serve_broadcaster() -> None:
    """Serve it on a free port, which is printed, until the process exits."""
    http = await HttpServer.start(broadcaster(), Settings(port=0), "127.0.0.1")
    print(http.port, flush=True)
    await http.wait_ended()


if __name__ == "__main__":
    main()
