"""One POST to a webhook's target: to an address that was checked, and within a time.

The answer is read no further than need be. No proxy of the environment is used, and no redirection followed:
both would go around the check.
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
# Answers after which the target asks to be left alone for a while.
_ASKS_TO_WAIT: Final = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)

Headers = Iterable[tuple[bytes, bytes]]


class DeliveryFailed(Exception):
    """A webhook's target did not take an event; the message says why, and never where."""


class Answer(NamedTuple):
    """What a target answered.

    Attributes:
        status: of HTTP.
        retry_after_seconds: how long it asks to be left alone, bounded; 0: it does not ask.
    """

    status: int
    retry_after_seconds: float = 0.0

    @property
    def is_taken(self) -> bool:
        """Whether the event arrived."""
        return HTTPStatus.OK <= self.status < HTTPStatus.MULTIPLE_CHOICES

    @property
    def is_gone(self) -> bool:
        """Whether the target says that it will never take another one."""
        return self.status == HTTPStatus.GONE

    @property
    def problem(self) -> str:
        """What is wrong, for people."""
        if HTTPStatus.MULTIPLE_CHOICES <= self.status < HTTPStatus.BAD_REQUEST:
            return f"it answered {self.status}, a redirection, which is not followed: name the final URL"
        return f"it answered {self.status}"


class Sender:
    """Sends; closed by `close`.

    Args:
        targets: which addresses may be connected to.
        tls: how servers are checked; None: with the system's certificates (or those of `SSL_CERT_FILE`).
        timeout_seconds: of one POST, all together.
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
        # No connection is used twice: what a receiver sent beyond its first response would be taken for the
        # response to the next event, which may be another webhook's (a 410 disables that).
        # One for each scheme: what an address is checked for depends on it.
        self._pools = {
            scheme: make(network_backend=_CheckedNetwork(targets, scheme)) for scheme in ("https", "http")
        }

    async def post(self, target: Target, body: bytes, headers: Headers) -> Answer:
        """Send, and read the answer's head.

        Args:
            target: where to.
            body: what.
            headers: besides `Host` and `Content-Length`.

        Raises:
            TargetRefused: if it may not be connected to.
            DeliveryFailed: if there was no answer; whether the body arrived is not known.
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
                return _answer(response)  # the head says all; the body is not read
        except TimeoutError:
            raise DeliveryFailed(f"no answer within {self._timeout_seconds:g} s") from None
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            raise DeliveryFailed(_said(error)) from None

    async def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were checked, and to nothing else."""

    def __init__(self, targets: Targets, scheme: str) -> None:
        self._targets = targets
        self._scheme = scheme
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # as httpcore has it
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the first address of a host that takes one; TLS on it is checked for the host."""
        # An own timeout: there may be none that the library would hold the resolver to.
        async with asyncio.timeout(timeout):
            addresses = await self._targets.addresses(Target(self._scheme, host, port, ""))
        problem: Exception = httpcore.ConnectError("the name has no address")
        for address in addresses:
            try:
                return await self._network.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                problem = error
        raise problem

    async def connect_unix_socket(self, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        """Never."""
        raise TargetRefused("a webhook is sent to no socket of this machine")


def _answer(response: httpcore.Response) -> Answer:
    seconds = 0.0
    if response.status in _ASKS_TO_WAIT:
        seconds = retry_after_seconds(_header(response, b"retry-after"), _header(response, b"date"))
    return Answer(response.status, seconds)


def retry_after_seconds(text: str, date: str = "") -> float:
    """How long a target asks to be left alone, at most WEBHOOK_RETRY_AFTER_MAX_SECONDS; 0: it does not ask.

    RFC 9110 section 10.2.3 has whole seconds or an HTTP date; fractions of a second are sent, too.

    Args:
        text: the header `Retry-After`.
        date: the header `Date`: the target's clock, from which its dates are counted; empty: our own.
    """
    if _SECONDS.fullmatch(text):
        return min(float(text), WEBHOOK_RETRY_AFTER_MAX_SECONDS)
    until = _http_date(text)
    if until is None:
        return 0.0
    seconds = (until - (_http_date(date) or datetime.now(UTC))).total_seconds()
    return min(max(0.0, seconds), WEBHOOK_RETRY_AFTER_MAX_SECONDS)


def _http_date(text: str) -> datetime | None:
    """A date in any of the forms of HTTP; None if it is none. They are all in UTC."""
    try:
        found = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _header(response: httpcore.Response, name: bytes) -> str:
    """A header's value; empty if it is absent."""
    values = [value for key, value in response.headers if key.lower() == name]
    return values[0].decode("latin-1").strip() if values else ""


def _said(error: Exception) -> str:
    """Why there is no answer, without the address: who reads it knows the webhook."""
    if isinstance(error, httpcore.ConnectTimeout):
        return f"no connection within {WEBHOOK_CONNECT_TIMEOUT_SECONDS:g} s"
    text = str(error) or type(error).__name__
    if isinstance(error, (httpcore.ConnectError, OSError)):
        return f"no connection: {text:.200}"
    return f"the connection broke: {text:.200}"
