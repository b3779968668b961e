"""One POST to a webhook's target, to a checked address and with a timeout.

Only the head of the answer is read. Proxies of the environment are not used, and redirections not followed:
both would bypass the check of the address.
"""

import asyncio
import re
import ssl
from collections.abc import Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import httpcore

from jobledger.service.errors import TargetRefused
from jobledger.service.limits import (
    WEBHOOK_CONNECT_TIMEOUT_SECONDS,
    WEBHOOK_CONNECTIONS_MAX,
    WEBHOOK_RETRY_AFTER_MAX_SECONDS,
    WEBHOOK_TIMEOUT_SECONDS,
)
from jobledger.service.webhooks.targets import Target, Targets

_SECONDS: Final = re.compile(r"[0-9]+(?:\.[0-9]*)?", re.ASCII)
# Answers with which a target asks for a pause.
_ASKS_TO_WAIT: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

Headers = Iterable[tuple[bytes, bytes]]


class DeliveryFailed(Exception):
    """A webhook's target did not take an event; the message has the reason, and never the URL."""


class Answer(NamedTuple):
    """The answer of a target.

    Attributes:
        status: HTTP status.
        retry_after_seconds: the pause that it asks for, bounded; 0 for none.
    """

    status: int
    retry_after_seconds: float = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether the event was taken."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def is_gone(self) -> bool:
        """Whether the target will never take another event."""
        return self.status == HTTPStatus.GONE

    @property
    def problem(self) -> str:
        """What is wrong, for people."""
        if HTTPStatus.MULTIPLE_CHOICES <= self.status < HTTPStatus.BAD_REQUEST:
            return f"it answered {self.status}, a redirection, which is not followed: use the final URL"
        return f"it answered {self.status}"


class Sender:
    """Sends messages; close it with `close`.

    Args:
        targets: the allowed addresses.
        tls: verifies servers; None: with the system's certificates (or those of `SSL_CERT_FILE`).
        timeout_seconds: of one whole POST.
    """

    def __init__(
        self,
        targets: Targets,
        *,
        tls: ssl.SSLContext | None = None,
        timeout_seconds: float = WEBHOOK_TIMEOUT_SECONDS,
    ) -> None:
        self._timeout_seconds = timeout_seconds
        make = partial(
            httpcore.AsyncConnectionPool,
            ssl_context=tls or ssl.create_default_context(),
            max_connections=WEBHOOK_CONNECTIONS_MAX,
            max_keepalive_connections=0,
        )
        # No connection is used twice: bytes that a receiver sent after its first response would be read as
        # the response to the next event, perhaps of another webhook (which a 410 would disable). One pool per
        # scheme, because the check of an address depends on it.
        self._pools = {
            scheme: make(network_backend=_CheckedNetwork(targets, scheme)) for scheme in ("https", "http")
        }

    async def post(self, target: Target, body: bytes, headers: Headers) -> Answer:
        """Send a POST, and read the head of the answer.

        Args:
            target: the target.
            body: the body.
            headers: in addition to `Host` and `Content-Length`.

        Raises:
            TargetRefused: if the target is not allowed.
            DeliveryFailed: if there was no answer; the body may have arrived.
        """
        try:
            async with asyncio.timeout(self._timeout_seconds), AsyncExitStack() as stack:
                url = httpcore.URL(
                    scheme=target.scheme, host=target.host, port=target.port, target=target.path
                )
                pool = self._pools[target.scheme]
                timeouts = {"connect": WEBHOOK_CONNECT_TIMEOUT_SECONDS, "pool": self._timeout_seconds}
                response = await stack.enter_async_context(
                    pool.stream(
                        "POST",
                        url,
                        headers=[*headers, (b"connection", b"close")],
                        content=body,
                        extensions={"timeout": timeouts},
                    )
                )
                return _answer(response)  # the body is not read
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._timeout_seconds:g} s") from None
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise DeliveryFailed(_describe(error)) from None

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects only to addresses that were checked."""

    def __init__(self, targets: Targets, scheme: str) -> None:
        self._targets = targets
        self._scheme = scheme
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # the signature of httpcore
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that accepts; TLS is verified for the host name."""
        # httpcore does not apply its timeout to the resolver.
        async with asyncio.timeout(timeout):
            addresses = await self._targets.addresses(Target(self._scheme, host, port, ""))
        problem: Exception = httpcore.ConnectError("the host name has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Refuse."""
        raise TargetRefused("a webhook cannot be sent to a Unix socket")


def _answer(response: httpcore.Response) -> Answer:
    seconds = 0.0
    if response.status in _ASKS_TO_WAIT:
        seconds = retry_after_seconds(_header(response, b"retry-after"), _header(response, b"date"))
    return Answer(response.status, seconds)


def retry_after_seconds(text: str, date: str = "") -> float:
    """The pause that a target asks for, at most WEBHOOK_RETRY_AFTER_MAX_SECONDS; 0 for none.

    RFC 9110 section 10.2.3 allows whole seconds or an HTTP date; some servers send fractions of a second.

    Args:
        text: the header `Retry-After`.
        date: the header `Date`, the clock that an HTTP date is relative to; empty: this machine's clock.
    """
    if _SECONDS.fullmatch(text):
        return min(float(text), WEBHOOK_RETRY_AFTER_MAX_SECONDS)
    until = _http_date(text)
    if until is None:
        return 0.0
    seconds = (until - (_http_date(date) or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), WEBHOOK_RETRY_AFTER_MAX_SECONDS)


def _http_date(text: str) -> datetime | None:
    """Parse an HTTP date in any of its forms, which are all in UTC; None if it is not one."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _header(response: httpcore.Response, name: bytes) -> str:
    """The value of a header; empty if it is absent."""
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("latin-1").strip() if values else ""


def _describe(error: Exception) -> str:
    """Why there is no answer, without the address, which may be secret."""
    if isinstance(error, httpcore.ConnectTimeout):
        return f"no connection within {WEBHOOK_CONNECT_TIMEOUT_SECONDS:g} s"
    text = str(error) or type(error).__name__
    if isinstance(error, (httpcore.ConnectError, OSError)):
        return f"no connection: {text:.200}"
    return f"the connection failed: {text:.200}"
