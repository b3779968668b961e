"""Whether an address can be reached from this machine only."""

import ipaddress
import socket


def is_loopback(host: str) -> bool:
    """Whether all addresses that `host` stands for are of the loopback; a name that stands for none is not.

    Args:
        host: an address, in brackets or not, or a name.
    """
    if not host:
        return False  # all addresses of the machine
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        return _is_loopback_address(bare)
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(bare, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    try:
        return bool(found) and all(_is_loopback_address(str(sockaddr[0])) for *_, sockaddr in found)
    except ValueError:
        return False


def _is_loopback_address(text: str) -> bool:
    address = ipaddress.ip_address(text)
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1; Python 3.11 does not look inside
    return bool((mapped or address).is_loopback)
