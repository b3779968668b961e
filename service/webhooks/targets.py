"""Where a webhook may be sent: what its URL may be, and which addresses may be connected to.

A webhook makes this service send requests where somebody tells it to, from inside the network that it runs
in. So only addresses of the public Internet are taken, and others only if the setting `webhook_allow` names
them. What counts is the address that is connected to: a name is resolved here, *all* its addresses are
checked, and the connection goes to one of those very addresses, so a name that means something else a moment
later (DNS rebinding) gains nothing.
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
# What the registries of IANA call special, and one address that a cloud answers its machines on. Written out,
# since what `ipaddress` calls global changes with the release of Python.
_NOT_PUBLIC_4: Final = tuple(
    ipaddress.IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared by customers of a carrier (CGNAT)
        "127.0.0.0/8",  # loopback
        "168.63.129.16/32",  # the platform of a large cloud
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
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
# addresses are all outside of it. In it are some that lead to IPv4 addresses, or nowhere.
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_6: Final = tuple(
    ipaddress.IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments, with Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


class Target(NamedTuple):
    """A webhook's URL in parts, so that nobody has to read it a second time, in another way.

    Attributes:
        scheme: `https` or `http`.
        host: a name, or an address without brackets; in lower case.
        port: of it.
        path: with the query, as it is sent.
    """

    scheme: str
    host: str
    port: int
    path: str

    @property
    def shown(self) -> str:
        """Where it is, for messages: path and query may hold what others must not know."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def parse_url(url: str) -> Target:
    """The parts of a webhook's URL.

    Raises:
        InvalidInput: with what is wrong, and without the URL.
    """
    if len(url) > WEBHOOK_URL_MAX_CHARACTERS:
        raise InvalidInput(f"URL has more than {WEBHOOK_URL_MAX_CHARACTERS:,} characters")
    if not _VISIBLE.fullmatch(url) or "\\" in url:
        raise InvalidInput(
            "URL is none: it has a space, a backslash, or other than ASCII characters; percent-encode them,"
            " and write a name of other letters in Punycode"
        )
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise InvalidInput("URL is none: its host or port can't be understood") from None
    if parts.scheme not in _PORTS:
        raise InvalidInput("URL is not of https (or, where it is allowed, of http)")
    if "@" in parts.netloc:
        raise InvalidInput("URL has a user or a password; receivers know us by the signature")
    if "#" in url:
        raise InvalidInput("URL has a fragment, which is never sent; leave it out")
    if not _is_host(host) or ("[" in parts.netloc) != (":" in host) or port == 0:
        raise InvalidInput("URL names no host that can be asked; write https://host[:port]/path")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, host.removesuffix("."), port or _PORTS[parts.scheme], path)


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return "%" not in host  # a zone means an interface of this very machine


class Targets:
    """Which targets are taken.

    Args:
        allowed: of the setting `webhook_allow`: networks, addresses and names of hosts.

    Raises:
        InvalidSettings: if one of them is none of these.
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
                        f"webhook_allow: {text!r:.80} is no network, address or host; write 10.1.0.0/16,"
                        " ::1 or hooks.example"
                    ) from None
                self._hosts.add(text.lower().removesuffix("."))

    async def addresses(self, target: Target) -> Sequence[Address]:
        """The addresses to connect to, in the resolver's order; each of them may be connected to.

        Raises:
            TargetRefused: if one of them may not be.
            OSError: if the name can't be resolved.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(ipaddress.ip_address(each[4][0]) for each in found))
        for address in addresses:
            self.check(target, address)
        return addresses[:WEBHOOK_ADDRESSES_MAX_COUNT]

    def check(self, target: Target, address: Address) -> None:
        """Refuse an address.

        Raises:
            TargetRefused: with the way out.
        """
        if target.host in self._hosts or any(address in network for network in self._networks):
            return
        named = target.host if target.host == str(address) else f"{target.host} ({address})"
        if not is_public(address):
            raise TargetRefused(
                f"{named} is not an address of the public Internet, and webhooks are sent nowhere else; if it"
                " is meant, name it in the setting webhook_allow"
            )
        if target.scheme != "https":
            raise TargetRefused(
                f"{target.shown} would be sent events in the open; use https, or name the host in the setting"
                " webhook_allow"
            )


def is_public(address: Address) -> bool:
    """Whether an address is one of the public Internet, and leads to no other one."""
    if isinstance(address, ipaddress.IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    return address in _PUBLIC_6 and not any(address in network for network in _NOT_PUBLIC_6)
