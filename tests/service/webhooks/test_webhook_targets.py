"""Webhooks are sent to the public Internet only, unless a setting allows more."""

import asyncio
import ipaddress
import socket
from typing import Any

import pytest

from jobledger.service.errors import InvalidSettings, TargetRefused
from jobledger.service.limits import WEBHOOK_ADDRESSES_MAX_COUNT, WEBHOOK_URL_MAX_CHARACTERS
from jobledger.service.webhooks.targets import Target, Targets, is_public, parse_url
from jobledger.store.model.errors import InvalidInput

NOT_PUBLIC = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.0.0.8", "198.18.0.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "192.0.2.1", "168.63.129.16"),
    *("::", "::1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "fe80::1", "fec0::1", "fc00::1"),
    *("fd00:ec2::254", "ff02::1", "64:ff9b::a00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1", "5f00::1"),
    *("2001::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:808:808::1", "3fff::1"),
)
PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("128.0.0.1", "169.253.255.255", "172.15.255.255", "172.32.0.0", "192.167.255.255", "223.255.255.255"),
    *("2606:4700:4700::1111", "2a00:1450:4001::1", "2001:4860:4860::8888", "2003::1"),
)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Resolve every name to these addresses; returns the names that were resolved."""
    asked: list[str] = []

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        asked.append(host)
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in addresses
        ]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    """Private, loopback, link-local, multicast, unspecified, CGNAT, mapped, NAT64, tunnels, reserved."""
    assert not is_public(ipaddress.ip_address(address))
    with pytest.raises(TargetRefused, match="webhook_allow"):
        Targets().check(Target("https", address, 443, "/"), ipaddress.ip_address(address))


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_public_internet_is_allowed(address: str) -> None:
    """Including the neighbors of refused networks."""
    Targets().check(Target("https", "hooks.example", 443, "/"), ipaddress.ip_address(address))


async def test_one_bad_address_of_a_name_is_enough_to_refuse_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name with public and private addresses is suspicious."""
    resolving(monkeypatch, "1.1.1.1", "10.0.0.1")
    with pytest.raises(TargetRefused, match=r"evil\.example \(10\.0\.0\.1\)"):
        await Targets().addresses(parse_url("https://evil.example/hook"))


async def test_every_spelling_of_the_loopback_address_is_refused() -> None:
    """The result of the system's resolver is checked."""
    for host in (
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "[::1]",
    ):
        with pytest.raises(TargetRefused):
            await Targets().addresses(parse_url(f"https://{host}/"))


async def test_the_setting_allows_networks_addresses_and_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kind of entry, and not its neighbors; plain http to those only."""
    resolving(monkeypatch, "10.1.2.3")
    for entry in ("10.1.0.0/16", "10.1.2.3", "hooks.internal", "Hooks.Internal."):
        for scheme in ("https", "http"):
            found = await Targets([entry]).addresses(parse_url(f"{scheme}://hooks.internal/"))
            assert [*map(str, found)] == ["10.1.2.3"]
    for entry in ("10.2.0.0/16", "10.1.2.4", "other.internal", "internal"):
        with pytest.raises(TargetRefused):
            await Targets([entry]).addresses(parse_url("https://hooks.internal/"))
    resolving(monkeypatch, "1.1.1.1")
    with pytest.raises(TargetRefused, match="unencrypted"):
        await Targets(["10.0.0.0/8"]).addresses(parse_url("http://hooks.example/"))


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "10.0.0.300", "a b", "https://x", "*", "", "host:80", "-x"])
def test_an_invalid_entry_is_refused(entry: str) -> None:
    """A typing error in the setting must not look like a rule."""
    with pytest.raises(InvalidSettings, match="webhook_allow"):
        Targets([entry])


async def test_no_more_addresses_of_a_name_than_the_limit_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """But all of them are checked."""
    many = [f"1.1.1.{number}" for number in range(1, WEBHOOK_ADDRESSES_MAX_COUNT + 3)]
    resolving(monkeypatch, *many)
    assert len(await Targets().addresses(parse_url("https://a.example/"))) == WEBHOOK_ADDRESSES_MAX_COUNT
    resolving(monkeypatch, *many, "127.0.0.1")
    with pytest.raises(TargetRefused):
        await Targets().addresses(parse_url("https://a.example/"))


def test_a_url_is_parsed_once() -> None:
    """Scheme, host, port and path with query, as they are used."""
    assert parse_url("https://Hooks.Example/a/b?c=d&e") == Target("https", "hooks.example", 443, "/a/b?c=d&e")
    assert parse_url("HTTP://[2606:4700::1]:8080") == Target("http", "2606:4700::1", 8080, "/")
    assert parse_url("https://a.example?x=1").path == "/?x=1"
    assert parse_url("https://a.example/secret?token=1").shown == "https://a.example"
    assert parse_url("http://[::1]:81/secret").shown == "http://[::1]:81"


@pytest.mark.parametrize(
    "url",
    [
        *("", "hooks.example", "/hook", "ftp://a.example/", "file:///etc/passwd", "gopher://a.example/"),
        *(
            "https://",
            "https:///hook",
            "https://user@a.example/",
            "https://user:pass@a.example/",
            "https://@a.example/",
        ),
        *(
            "https://a.example/#x",
            "https://a.example/#",
            "https://a b/",
            "https://a.example/ x",
            "https://a.example\n/",
        ),
        *(
            "https://a.example\\@b.example/",
            "https://bücher.example/",
            "https://a.example:0/",
            "https://a.example:99999/",
        ),
        *(
            "https://a.example:x/",
            "https://[fe80::1%25eth0]/",
            "https://[::1/",
            "https://a..example/",
            "https://*/",
        ),
        *("https://[v1.x]/", "https://a.example/\x00", "https://-a.example/", "https://a.example/\r\nX: y"),
    ],
)
def test_an_invalid_or_misleading_url_is_refused(url: str) -> None:
    """User, fragment, other scheme, control character, invalid host."""
    with pytest.raises(InvalidInput) as caught:
        parse_url(url)
    assert len(url) < 12 or url not in str(caught.value)


def test_a_url_may_be_as_long_as_the_limit() -> None:
    """And no longer."""
    base = "https://a.example/"
    parse_url(base + "x" * (WEBHOOK_URL_MAX_CHARACTERS - len(base)))
    with pytest.raises(InvalidInput, match="characters"):
        parse_url(base + "x" * (WEBHOOK_URL_MAX_CHARACTERS - len(base) + 1))
