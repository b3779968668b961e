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


def session_cookie(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The value of the session cookie; empty if there is none.

    The one that only TLS can set takes precedence over one that a neighbor on the same host may have set.
    """
    found: dict[str, str] = {}
    for name, value in headers:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, text = part.strip().partition("=")
                found.setdefault(key, text)
    secret = next((found[name] for name in _NAMES if found.get(name)), "")
    return secret if len(secret) <= _SECRET_MAX_CHARACTERS else ""


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
