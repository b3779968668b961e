"""The least that a feed could be: an app that sends what is posted to all who listen, and keeps nothing."""

import asyncio
from typing import Any, Final

from litestar import Litestar, Request, get, post
from litestar.types import ASGIApp, Receive, Scope, Send

from jobledger.service.server.http_server import HttpServer
from jobledger.service.settings import Settings

FEED_PATH: Final = "/feed"
PUBLISH_PATH: Final = "/publish"


def broadcaster() -> Litestar:
    """The app."""
    listeners: set[asyncio.Queue[bytes]] = set()

    @post(PUBLISH_PATH, status_code=200)
    async def publish(request: Request[Any, Any, Any]) -> bytes:
        text = b"event: message\ndata: %b\n\n" % await request.body()
        for listener in listeners:
            listener.put_nowait(text)
        return b"{}"

    async def listen(_scope: Scope, _receive: Receive, send: Send) -> None:
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

    @get(FEED_PATH)
    async def feed() -> ASGIApp:
        return listen

    return Litestar([publish, feed], openapi_config=None, logging_config=None)


async def serve_broadcaster() -> None:
    """Serve it on a free port, which is printed, until the process ends."""
    http = await HttpServer.start(broadcaster(), Settings(port=0), "127.0.0.1")
    print(http.port, flush=True)
    await http.wait_ended()
