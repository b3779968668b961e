"""What Bacalhau's clients ask before their first request: how to log in.

Without a credential they begin with `GET /api/v1/auth`, and need a method there. A service without tokens
offers the one that every client has, and takes any answer: it is open to this machine anyway. A service with
tokens offers none, and the clients then name API keys, which are its tokens.
"""

import base64
from typing import Final

from litestar import Response, get, post

from jobledger.service.api.answers import json_answer
from jobledger.service.api.context import AnyRequest, service_of
from jobledger.service.errors import Unauthorized

METHOD: Final = "clientkey"
_PHRASE: Final = base64.b64encode(b"jobledger").decode()  # what a client signs; nothing is checked by it
OPEN_TOKEN: Final = "no-token-needed"  # noqa: S105 - stands for none: a service without tokens ignores it


@get("/api/v1/auth", sync_to_thread=False)
def login_methods(request: AnyRequest) -> Response[bytes]:
    """The ways to log in; none if there are tokens."""
    if not service_of(request).tokens.is_open:
        return json_answer({"Methods": {}})
    challenge = {"type": "challenge", "params": {"InputPhrase": _PHRASE}}
    return json_answer({"Methods": {METHOD: challenge}})


@post(f"/api/v1/auth/{METHOD}", status_code=200, sync_to_thread=False)
def log_in(request: AnyRequest) -> Response[bytes]:
    """A token that a service without tokens does not look at."""
    if not service_of(request).tokens.is_open:
        raise Unauthorized("this service takes tokens only; send one as `Authorization: Bearer`")
    return json_answer({"Authentication": {"success": True, "token": OPEN_TOKEN}})


@get("/api/v1/agent/authconfig", sync_to_thread=False)
def login_configuration() -> Response[bytes]:
    """There is no single sign-on."""
    return json_answer({"Version": "1.0.0", "Config": {}})


HANDLERS: Final = (login_methods, log_in, login_configuration)
