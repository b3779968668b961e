"""Signing in with a token, and signing out."""

from typing import Any, Final
from urllib.parse import urlsplit

from jobledger.service.access.tokens import is_loopback
from jobledger.service.api.operation import Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.errors import Unauthorized
from jobledger.service.limits import SESSION_LIFETIME_SECONDS
from jobledger.service.web.site import page, render, see_other, words_of
from jobledger.service.web.visitor import is_page, is_secure, set_cookie
from jobledger.service.wire import paths

_TOKEN_MAX_CHARACTERS: Final = 256
_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "[::1]")


@page("GET", paths.UI_SIGN_IN, "uiSignIn", requires=Permission.PUBLIC)
async def sign_in_form(request: Request[Any]) -> Response:
    """The form that asks for a token."""
    if request.service.tokens.is_open:
        return see_other(paths.UI_JOBS)
    return _form(request, next_path(request.query.text("next")))


@page("POST", paths.UI_SIGN_IN, "uiSignInPost", requires=Permission.PUBLIC)
async def sign_in(request: Request[Any]) -> Response:
    """Exchange a token for a session cookie."""
    target = next_path(request.form.text("next"))
    token = request.form.text("token").strip()
    try:
        secret = await request.service.sessions.sign_in(
            token[:_TOKEN_MAX_CHARACTERS], replaces=request.session
        )
    except Unauthorized as error:
        return _form(request, target, problem=words_of(error), status=401)
    cookie = set_cookie(secret, is_secure=_is_secure(request), max_age=int(SESSION_LIFETIME_SECONDS))
    return see_other(target, (cookie,))


@page("POST", paths.UI_SIGN_OUT, "uiSignOut")
async def sign_out(request: Request[Any]) -> Response:
    """End the session of this browser, and its streams."""
    await request.service.sessions.sign_out(request.session)
    # Both, whatever the browser had before: TLS may be new.
    first = _is_secure(request)
    ended = tuple(set_cookie("", is_secure=each, max_age=0) for each in (first, not first))
    return see_other(paths.UI_SIGN_IN, ended)


def _is_secure(request: Request[Any]) -> bool:
    return is_secure(request.scheme, request.header(b"origin"))


def next_path(text: str) -> str:
    """A page of the UI to go to after the sign-in; never another site."""
    try:
        parts = urlsplit(text)
    except ValueError:  # `//[`
        return paths.UI_JOBS
    is_ours = not parts.scheme and not parts.netloc and is_page(parts.path) and "\\" not in text
    is_plain = text.isascii() and text.isprintable()
    return text if is_ours and is_plain and parts.path != paths.UI_SIGN_IN else paths.UI_JOBS


def _form(request: Request[Any], target: str, *, problem: str = "", status: int = 200) -> Response:
    host = request.header(b"host")
    is_local = host in _LOCAL_NAMES or host.rpartition(":")[0] in _LOCAL_NAMES
    is_exposed = not (_is_secure(request) or is_local or is_loopback(request.service.settings.host))
    return render(
        request, "sign_in.html", status=status, target=target, problem=problem, is_exposed=is_exposed
    )
