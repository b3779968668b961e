"""Who looks at a page: the cookie of a session, and which requests may change something."""

from collections.abc import Iterable
from typing import Final

from jobledger.service.api.hosts import is_same_origin
from jobledger.service.errors import Forbidden
from jobledger.service.wire import paths

COOKIE: Final = "jobledger"
SECURE_PREFIX: Final = "__Host-"
_NAMES: Final = (f"{SECURE_PREFIX}{COOKIE}", COOKIE)
_SECRET_MAX_CHARACTERS: Final = 128


def is_page(path: str) -> bool:
    """Whether a path belongs to the UI: it accepts sessions and forms, and no tokens."""
    return path == paths.UI or path.startswith(f"{paths.UI}/")


def is_secure(scheme: str, origin: str) -> bool:
    """Whether the browser uses TLS, here or up to a proxy: then it says so in `Origin`, if it sends one."""
    return scheme == "https" or origin.startswith("https://")


def session_cookie(headers: Iterable[tuple[bytes, bytes]], *, is_secure: bool) -> str:
    """The value of the session cookie; empty if there is none, or more than one.

    Cookies reach all ports of a host, and its neighbors can set some: over TLS only the cookie counts that
    only TLS and this host can set; otherwise that one takes precedence. Of two with one name, one is not
    ours.
    """
    found: dict[str, list[str]] = {}
    for name, value in headers:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, text = part.strip().partition("=")
                if key in _NAMES:
                    found.setdefault(key, []).append(text)
    values = next((found[name] for name in (_NAMES[:1] if is_secure else _NAMES) if name in found), [])
    return values[0] if len(values) == 1 and len(values[0]) <= _SECRET_MAX_CHARACTERS else ""


def set_cookie(secret: str, *, is_secure: bool, max_age: int) -> tuple[bytes, bytes]:
    """The header that sets the session cookie; `max_age` 0 removes it."""
    name = f"{SECURE_PREFIX}{COOKIE}" if is_secure else COOKIE
    text = f"{name}={secret}; Path=/; HttpOnly; SameSite=Lax; Max-Age={max_age}"
    return b"set-cookie", (f"{text}; Secure" if is_secure else text).encode()


def check_sender(site: str, origin: str, host: str) -> None:
    """Refuse a write that a page of another site made the browser send with our cookie.

    Args:
        site: the header `Sec-Fetch-Site`; current browsers always send it.
        origin: the header `Origin`, which older browsers send with every form.
        host: the header `Host`.

    Raises:
        Forbidden: if it does not come from a page of this service.
    """
    if site == "same-origin" if site else is_same_origin(origin.encode("latin-1"), host.encode("latin-1")):
        return
    raise Forbidden(
        "this form was not sent by a page of this service (Sec-Fetch-Site, Origin); open the page and send it"
        " from there"
    )
