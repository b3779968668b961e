"""The types of the ASGI interface, and its lifespan messages.

Only this module, the middleware and the feed know how a request arrives; operations do not.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def accept_lifespan(receive: Receive, send: Send) -> None:
    """Answer the lifespan messages of a server; the service is opened and closed outside of ASGI."""
    while (message := await receive())["type"] != "lifespan.shutdown":
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
