"""One delivery: to the checked address, within its limits, and not to where an answer redirects."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from jobledger.service.errors import TargetRefused
from jobledger.service.limits import WEBHOOK_RETRY_AFTER_MAX_SECONDS
from jobledger.service.webhooks.sender import DeliveryFailed, Sender, retry_after_seconds
from jobledger.service.webhooks.targets import Targets, parse_url
from tests.support.http_servers import answer, receiving
from tests.support.nats_servers import make_certificates

LOCAL = ("127.0.0.0/8",)


@asynccontextmanager
async def sending(*allowed: str, **how: Any) -> AsyncIterator[Sender]:
    """A sender that may reach these addresses."""
    sender = Sender(Targets(allowed), **how)
    try:
        yield sender
    finally:
        await sender.close()


def naming(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Resolve names to these addresses, one per call, then the last one. Addresses resolve to themselves."""
    left = [*addresses]

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        try:
            found = str(ipaddress.ip_address(host))
        except ValueError:
            found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, port))]

    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", getaddrinfo)


async def test_a_request_arrives_unchanged() -> None:
    """Path, query, headers and body; each on a connection of its own."""
    async with receiving() as receiver, sending(*LOCAL) as sender:
        target = parse_url(receiver.url("/a/b?c=d"))
        for _ in range(2):
            assert (await sender.post(target, b'{"x":"\xc3\xbc"}', [(b"webhook-id", b"1")])).is_taken
        (got, _) = await receiver.wait_for(2)
        assert (got.path, got.body) == ("/a/b?c=d", b'{"x":"\xc3\xbc"}')
        assert got.headers["webhook-id"] == "1"
        assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
        assert receiver.connections == 2


async def test_a_target_that_is_not_allowed_is_not_connected_to() -> None:
    """It gets no byte."""
    async with receiving() as receiver, sending() as sender:
        with pytest.raises(TargetRefused):
            await sender.post(parse_url(receiver.url()), b"{}", [])
        assert receiver.connections == 0


async def test_a_name_is_resolved_once_per_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: the resolved addresses are checked and used."""
    async with receiving() as receiver, sending("hooks.example") as sender:
        naming(
            monkeypatch, "127.0.0.1", "192.0.2.1"
        )  # resolved a second time, it would lead to another address
        got = await sender.post(parse_url(receiver.url(host="hooks.example")), b"{}", [])
        assert got.is_taken
        assert receiver.got[0].headers["host"] == f"hooks.example:{receiver.port}"
    async with receiving() as receiver, sending("192.0.2.0/24") as sender:
        naming(monkeypatch, "127.0.0.1")
        with pytest.raises(TargetRefused):  # was public a moment ago
            await sender.post(parse_url(receiver.url(host="hooks.example")), b"{}", [])
        assert receiver.connections == 0


async def test_redirect_is_not_followed() -> None:
    """The answer counts as not taken, with the remedy."""
    async with receiving() as receiver, receiving() as other, sending(*LOCAL) as sender:
        for status in (301, 302, 303, 307, 308):
            receiver.say(answer(status, f"Location: {other.url()}"))
            got = await sender.post(parse_url(receiver.url()), b"{}", [])
            assert (got.status, got.is_taken) == (status, False)
            assert "use the final URL" in got.problem
        assert other.connections == 0


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would connect to addresses that are not allowed."""
    async with receiving() as receiver, receiving() as proxy, sending(*LOCAL) as sender:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url())
        assert (await sender.post(parse_url(receiver.url()), b"{}", [])).is_taken
        assert (len(receiver.got), proxy.connections) == (1, 0)


async def test_no_answer_in_time_is_a_failure() -> None:
    """With or without a connection."""
    async with receiving() as receiver, sending(*LOCAL, timeout_seconds=0.2) as sender:
        receiver.say(None)
        with pytest.raises(DeliveryFailed, match=r"no answer within 0\.2 s"):
            await sender.post(parse_url(receiver.url()), b"{}", [])
        url = receiver.url()
    async with sending(*LOCAL) as sender:
        with pytest.raises(DeliveryFailed, match="no connection"):
            await sender.post(parse_url(url), b"{}", [])


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n"


async def test_a_long_answer_is_not_read_to_its_end() -> None:
    """Its head is enough."""
    async with receiving() as receiver, sending(*LOCAL, timeout_seconds=1_000.0) as sender:
        receiver.say(HEAD + b"x" * 32_768)
        assert (await asyncio.wait_for(sender.post(parse_url(receiver.url()), b"{}", []), 60)).is_taken


@pytest.mark.parametrize("body", ["", "x" * 20_000])
async def test_a_second_response_answers_no_later_delivery(body: str) -> None:
    """Two responses to one request, in one piece or after a body: the second one is dropped."""
    async with receiving() as receiver, sending(*LOCAL) as sender:
        target = parse_url(receiver.url())
        for _ in range(3):
            receiver.say(answer(200, body=body) + answer(410))
            assert (await sender.post(target, b"{}", [])).is_taken
            receiver.say(answer(204))
            assert (await sender.post(target, b"{}", [])).status == 204


async def test_an_answer_without_a_length_is_not_read() -> None:
    """It may have no end."""
    async with receiving() as receiver, sending(*LOCAL, timeout_seconds=1_000.0) as sender:
        for head in (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello",
            b"HTTP/1.1 200 OK\r\n\r\nx",
        ):
            receiver.say(head)
            assert (await asyncio.wait_for(sender.post(parse_url(receiver.url()), b"{}", []), 60)).is_taken


async def test_a_slow_body_delays_nothing() -> None:
    """The body may never come."""
    async with receiving() as receiver, sending(*LOCAL, timeout_seconds=1_000.0) as sender:
        receiver.say(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        assert (await asyncio.wait_for(sender.post(parse_url(receiver.url()), b"{}", []), 60)).is_taken


async def test_an_answer_that_is_not_http_is_a_failure() -> None:
    """It is not an internal error."""
    async with receiving() as receiver, sending(*LOCAL) as sender:
        for response in (b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000):
            receiver.say(response)
            with pytest.raises(DeliveryFailed):
                await sender.post(parse_url(receiver.url()), b"{}", [])


async def test_retry_after_is_read_and_bounded() -> None:
    """For 429 and 503 only: seconds, whole or not, or a date; at most an hour."""
    async with receiving() as receiver, sending(*LOCAL) as sender:
        for status, header, seconds in (
            (429, "7", 7.0),
            (503, "7", 7.0),
            (429, "5.5", 5.5),
            (503, "9999999999", WEBHOOK_RETRY_AFTER_MAX_SECONDS),
            (503, "9" * 5_000, WEBHOOK_RETRY_AFTER_MAX_SECONDS),
            (503, "Fri, 31 Dec 2100 23:59:59 GMT", WEBHOOK_RETRY_AFTER_MAX_SECONDS),
            (503, "Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
            (503, "nan", 0.0),
            (503, "soon", 0.0),
            (503, "-1", 0.0),
            (500, "7", 0.0),
            (200, "7", 0.0),
        ):
            receiver.say(answer(status, f"Retry-After: {header}"))
            got = await sender.post(parse_url(receiver.url()), b"{}", [])
            assert (got.status, got.retry_after_seconds) == (status, seconds)
        receiver.say(answer(410))
        assert (await sender.post(parse_url(receiver.url()), b"{}", [])).is_gone


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Sun, 06 Nov 1994 08:49:42 GMT", 5.0),  # the three forms of RFC 9110
        ("Sunday, 06-Nov-94 08:49:42 GMT", 5.0),
        ("Sun Nov  6 08:49:42 1994", 5.0),
        ("Sun, 06 Nov 1994 09:49:38 GMT", 3_600.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Sun, 99 Nov 1994 08:49:42 GMT", 0.0),
        ("Sun, 06 Nov 99999999999 08:49:42 GMT", 0.0),
        ("", 0.0),
    ],
)
def test_a_retry_after_date_is_relative_to_the_targets_clock(text: str, seconds: float) -> None:
    """A receiver whose clock is wrong still gets the pause that it asks for."""
    assert retry_after_seconds(text, "Sun, 06 Nov 1994 08:49:37 GMT") == seconds


async def test_tls_is_verified_for_the_host_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to an address; the certificate must be that of the host, by SNI."""
    naming(monkeypatch, "127.0.0.1")
    make_certificates(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    client = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    names: list[str | None] = []
    server.sni_callback = lambda _, name, __: names.append(name)
    async with receiving(server) as receiver, sending("localhost", "other.example", tls=client) as sender:
        good = parse_url(f"https://localhost:{receiver.port}/hook")
        assert (await sender.post(good, b"{}", [])).is_taken
        assert names == ["localhost"]
        with pytest.raises(DeliveryFailed, match="certificate"):
            await sender.post(good._replace(host="other.example"), b"{}", [])
    async with receiving(server) as receiver, sending("localhost") as sender:
        with pytest.raises(DeliveryFailed, match="certificate"):  # of an unknown CA
            await sender.post(parse_url(f"https://localhost:{receiver.port}/hook"), b"{}", [])


async def test_a_body_without_an_end_is_not_read() -> None:
    """A chunked body with a length: reading it would never end."""
    sent = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        with suppress(ConnectionError):
            await reader.readuntil(b"{}")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                writer.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")
                await writer.drain()
                sent += 0x10000
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, sending(*LOCAL) as sender:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        assert (await sender.post(parse_url(url), b"{}", [])).is_taken
    assert sent < 16 * 2**20  # what the buffers of the system hold
