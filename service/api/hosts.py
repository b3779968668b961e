"""The host names that a service accepts, and the pages: against DNS rebinding and cross-site requests.

A page in a browser can send requests to this machine: through a name of its own that resolves to 127.0.0.1
(then `Host` is that name), or directly to localhost (then `Origin` or `Sec-Fetch-Site` reveal it).
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Final

from jobledger.service.errors import Forbidden

LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")

_AUTHORITY: Final = re.compile(rb"(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::([0-9]{1,5}))?")
_ORIGIN: Final = re.compile(rb"(https?)://([^/@]{1,270})")
_PORTS: Final = {b"http": b"80", b"https": b"443"}
_KNOWN_MAX: Final = 64  # accepted values of `Host` that are cached


class Hosts:
    """The names that a service accepts: those of loopback, the one it listens on, and `allowed`."""

    def __init__(self, bound: str, allowed: Sequence[str] = ()) -> None:
        self._names = {_plain_name(name) for name in (*LOOPBACK_NAMES, bound, *allowed)}
        self._known: set[bytes] = set()

    def check_host(self, host: bytes | None) -> None:
        """Refuse a request that was sent to another name; the port does not matter.

        Raises:
            Forbidden: if the name is not accepted.
        """
        if host in self._known:
            return
        found = _AUTHORITY.fullmatch(host or b"")
        if found is None or _plain_name(found[1].decode()) not in self._names:
            raise Forbidden(
                f"the header Host is {_shown(host)}, which this service does not accept; add the name to the"
                " setting allowed_hosts"
            )
        if len(self._known) < _KNOWN_MAX:
            assert host is not None
            self._known.add(host)

    def check_page(self, host: bytes | None, origin: bytes | None, site: bytes | None) -> None:
        """Refuse a request that a page of another site made a browser send.

        Args:
            host: the header `Host`.
            origin: the header `Origin`, which browsers send with every request that may change something.
            site: the header `Sec-Fetch-Site`, which current browsers always send.

        Raises:
            Forbidden: if the request comes from another site.
        """
        if site is not None and site not in {b"same-origin", b"none"}:
            raise Forbidden(
                "a page of another site sent this request (Sec-Fetch-Site), and a service without tokens"
                " accepts none from other sites; open the address directly, or create a token"
            )
        if origin is not None and not is_same_origin(origin, host or b""):
            raise Forbidden(
                f"a page of {_shown(origin)} sent this request, and a service without tokens accepts none"
                " from other sites; create a token"
            )


def is_same_origin(origin: bytes, host: bytes) -> bool:
    """Whether a header `Origin` names the host of the header `Host`."""
    found = _ORIGIN.fullmatch(origin)
    if found is None:  # also `null`, an unknown origin
        return False
    return _authority(found[2], found[1]) == _authority(host, found[1]) is not None


def _authority(text: bytes, scheme: bytes) -> tuple[str, bytes] | None:
    found = _AUTHORITY.fullmatch(text)
    if found is None:
        return None
    return _plain_name(found[1].decode()), found[2] or _PORTS[scheme]


def _plain_name(name: str) -> str:
    """One spelling of each name and address."""
    bare = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return bare.lower().removesuffix(".")


def _shown(value: bytes | None) -> str:
    return repr((value or b"").decode("ascii", "backslashreplace"))[:80]
