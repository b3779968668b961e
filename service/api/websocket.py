"""WebSocket handshakes: only Bacalhau's clients open one, for the logs of a job.

If the handshake is refused, they print `websocket: bad handshake` and nothing of the response. So it is
accepted, and the problem is sent as the one message of a log stream, whose error they print.
"""

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final

import msgspec

from jobledger.service.api.asgi import Message, Receive, Scope, Send
from jobledger.service.wire import paths

_NORMAL_CLOSURE: Final = 1000
_POLICY_VIOLATION: Final = 1008
_EMPTY_LINE: Final = {"Type": 0, "Line": ""}  # Bacalhau's ExecutionLog


async def answer(
    scope: Scope, receive: Receive, send: Send, http: Callable[[Scope, Receive, Send], Awaitable[None]]
) -> None:
    """Answer a WebSocket handshake for a job's logs like the same request over HTTP; refuse others.

    `http` answers a request over HTTP.
    """
    await receive()  # websocket.connect
    path = scope["path"]
    if not (path.startswith(f"{paths.JOBS}/") and path.endswith("/logs")):
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
        return
    status, body = 0, b""

    async def keep(message: Message) -> None:
        nonlocal status, body
        if message["type"] == "http.response.start":
            status = message["status"]
        elif message["type"] == "http.response.body" and status >= HTTPStatus.BAD_REQUEST:
            body += message["body"]

    await http({**scope, "type": "http", "method": "GET"}, _no_body, keep)
    if not body:  # the path is another operation's, such as reading a job named `logs`
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": ""})
        return
    problem: dict[str, Any] = msgspec.json.decode(body)
    message = {"value": _EMPTY_LINE, "error": f"{problem['Message']}. {problem.get('Hint', '')}".rstrip()}
    await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
    await send({"type": "websocket.send", "text": msgspec.json.encode(message).decode()})
    await send({"type": "websocket.close", "code": _NORMAL_CLOSURE, "reason": ""})


async def _no_body() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}
