"""Which names a service answers to, and from which pages: against DNS rebinding and cross-site requests.

A page in a browser can make it send requests to this machine: by a name of its own that it lets point to
127.0.0.1 (then `Host` is that name), or straight to localhost (then `Origin` or `Sec-Fetch-Site` tell).
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
_KNOWN_MAX: Final = 64  # spellings of good hosts that are remembered


class Hosts:
    """The names that a service answers to.

    Args:
        bound: what it listens on.
        allowed: more names.
    """

    def __init__(self, bound: str, allowed: Sequence[str] = ()) -> None:
        self._names = {_plain_name(name) for name in (*LOOPBACK_NAMES, bound, *allowed)}
        self._known: set[bytes] = set()

    def check_host(self, host: bytes | None) -> None:
        """Refuse a request that was sent to a name that is not ours; the port does not matter.

        Raises:
            Forbidden: with the way out.
        """
        if host in self._known:
            return
        found = _AUTHORITY.fullmatch(host or b"")
        if found is None or _plain_name(found[1].decode()) not in self._names:
            raise Forbidden(
                f"the header Host says {_shown(host)}, and this service does not go by that name; if it"
                " should, add it to the setting allowed_hosts"
            )
        if len(self._known) < _KNOWN_MAX:
            assert host is not None
            self._known.add(host)

    def check_page(self, host: bytes | None, origin: bytes | None, site: bytes | None) -> None:
        """Refuse a request that a page of another site made a browser send.

        Args:
            host: the header `Host`.
            origin: the header `Origin`, which browsers send with all that may change something.
            site: the header `Sec-Fetch-Site`, which present browsers send always.

        Raises:
            Forbidden: with the way out.
        """
        if site is not None and site not in {b"same-origin", b"none"}:
            raise Forbidden(
                "a page of another site made your browser send this (Sec-Fetch-Site), and a service without"
                " tokens takes nothing from there; open it yourself, or make a token"
            )
        if origin is not None and not _same_origin(origin, host or b""):
            raise Forbidden(
                f"a page of {_shown(origin)} made your browser send this, and a service without tokens takes"
                " nothing from other pages; make a token"
            )


def _same_origin(origin: bytes, host: bytes) -> bool:
    found = _ORIGIN.fullmatch(origin)
    if found is None:  # also `null`, which says nothing about who asks
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
