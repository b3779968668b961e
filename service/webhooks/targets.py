"""The targets that a webhook may have: its URL, and the addresses that may be connected to.

A webhook makes this service send requests to a URL that a user chose, from inside the network that it runs
in. Therefore only addresses of the public Internet are allowed, and others only if the setting
`webhook_allow` names them. The address that is connected to is checked: a host name is resolved here, *all*
its addresses are checked, and the connection goes to one of them, so that a name that resolves differently a
moment later (DNS rebinding) gains nothing.
"""

import asyncio
import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from jobledger.service.errors import InvalidSettings, TargetRefused
from jobledger.service.limits import WEBHOOK_ADDRESSES_MAX_COUNT, WEBHOOK_URL_MAX_CHARACTERS
from jobledger.store.model.errors import InvalidInput

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_PORTS: Final = {"https": 443, "http": 80}
_VISIBLE: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
# The special-purpose registries of IANA, and the address on which a cloud serves its machines. Spelled out,
# because `ipaddress.is_global` changes between releases of Python.
_NOT_PUBLIC_4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # platform services of a large cloud
        "169.254.0.0/16",  # link-local; metadata services of most clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
# Of IPv6 only global unicast is public: loopback, unique local, link-local, multicast, IPv4-mapped and NAT64
# addresses are outside of it. It contains some networks that lead to IPv4 addresses, or nowhere.
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, including Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


class Target(NamedTuple):
    """A parsed URL. It is parsed once, so that the check and the request cannot disagree.

    Attributes:
        scheme: `https` or `http`.
        host: a host name, or an address without brackets; in lower case.
        port: the port.
        path: path and query, as sent.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def shown(self) -> str:
        """The URL for messages: without path and query, which may be secret."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def parse_url(url: str) -> Target:
    """Parse a webhook's URL.

    Raises:
        InvalidInput: with the reason, and without the URL.
    """
    if len(url) > WEBHOOK_URL_MAX_CHARACTERS:
        raise InvalidInput(f"URL is too long: use at most {WEBHOOK_URL_MAX_CHARACTERS:,} characters")
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise InvalidInput(
            "invalid URL: it contains a space, a backslash or a non-ASCII character: percent-encode it, and"
            " write an internationalized host name in Punycode"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidInput(
            "invalid URL: host or port cannot be parsed: use https://host[:port]/path"
        ) from None
    if parts.scheme not in _PORTS:
        raise InvalidInput("invalid URL: use https (or http, where webhook_allow names the host)")
    if "@" in parts.netloc:
        raise InvalidInput("URL contains a user or a password: remove it; receivers verify the signature")
    if "#" in url:
        raise InvalidInput("URL has a fragment, which is never sent: remove it")
    if not _is_host(host) or ("[" in parts.netloc) != (":" in host) or port == 0:
        raise InvalidInput("invalid URL: it has no valid host: use https://host[:port]/path")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host.removesuffix("."), port or _PORTS[parts.scheme], path)


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host  # a zone names an interface of this machine


class Targets:
    """The allowed targets.

    Args:
        allowed: the setting `webhook_allow`: networks, addresses and host names.

    Raises:
        InvalidSettings: if one of them is invalid.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._networks: list[Network] = []
        self._hosts: set[str] = set()
        for text in allowed:
            try:
                self._networks.append(ipaddress.ip_network(text))
            except ValueError:
                if not _HOST.fullmatch(text) or text.replace(".", "").isdigit():
                    raise InvalidSettings(
                        f"webhook_allow: invalid entry {text!r:.80}: use a network, an address or a host"
                        " name, such as 10.1.0.0/16, ::1 or hooks.example"
                    ) from None
                self._hosts.add(text.lower().removesuffix("."))

    async def addresses(self, target: Target) -> Sequence[Address]:
        """The addresses of a target, in the resolver's order; each of them is allowed.

        Raises:
            TargetRefused: if one of them is not.
            OSError: if the host name cannot be resolved.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(ipaddress.ip_address(each[4][0]) for each in found))
        for address in addresses:
            self.check(target, address)
        return addresses[:WEBHOOK_ADDRESSES_MAX_COUNT]

    def check(self, target: Target, address: Address) -> None:
        """Check an address of a target.

        Raises:
            TargetRefused: if it is not allowed.
        """
        if target.host in self._hosts or any(address in network for network in self._networks):
            return
        named = target.host if target.host == str(address) else f"{target.host} ({address})"
        if not is_public(address):
            raise TargetRefused(
                f"{named} is not an address of the public Internet: to send webhooks there, add it to the"
                " setting webhook_allow"
            )
        if target.scheme != "https":
            raise TargetRefused(
                f"{target.shown} would get events unencrypted: use https, or add the host to the setting"
                " webhook_allow"
            )


def is_public(address: Address) -> bool:
    """Whether an address belongs to the public Internet, and does not lead to another address."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
