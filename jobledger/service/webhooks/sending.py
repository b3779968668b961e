"""One POST to a webhook's target: to an address that was checked, and within a time.

The answer is read no further than need be. No proxy of the environment is used, and no redirection followed:
both would go around the check.
"""

import asyncio
import re
import ssl
from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from functools import partial
from http import HTTPStatus
from typing import Any, Final, NamedTuple

import httpcore

from jobledger.service.errors import TargetRefused
from jobledger.service.limits import (
    WEBHOOK_ANSWER_MAX_BYTES,
    WEBHOOK_CONNECT_TIMEOUT_SECONDS,
    WEBHOOK_CONNECTIONS_MAX,
    WEBHOOK_KEEPALIVE_SECONDS,
    WEBHOOK_RETRY_AFTER_MAX_SECONDS,
    WEBHOOK_SKIM_SECONDS,
    WEBHOOK_TIMEOUT_SECONDS,
)
from jobledger.service.webhooks.targets import Target, Targets

_NUMBER: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
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
            keepalive_expiry=WEBHOOK_KEEPALIVE_SECONDS,
        )
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
                        "POST", url, headers=[*headers], content=body, extensions={"timeout": timeouts}
                    )
                )
                answer = _answer(response)
                await _skim(response)
                return answer
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


async def _skim(response: httpcore.Response) -> None:
    """Take a short body, so that the connection can be used again; leave any other, and the connection.

    Whatever goes wrong with it, the answer was given by its head. A body is read whole or not at all: streams
    of the library that are left in the middle are ended later, beside the next delivery. With a
    `Transfer-Encoding`, the length that is told means nothing: the body may be endless.
    """
    if _header(response, b"transfer-encoding"):
        return
    length = "0" if response.status == HTTPStatus.NO_CONTENT else _header(response, b"content-length")
    if not _NUMBER.fullmatch(length) or int(length) > WEBHOOK_ANSWER_MAX_BYTES:
        return
    with suppress(TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        async with asyncio.timeout(WEBHOOK_SKIM_SECONDS):
            await response.aread()


def _answer(response: httpcore.Response) -> Answer:
    asked = _header(response, b"retry-after") if response.status in _ASKS_TO_WAIT else ""
    seconds = float(asked) if _NUMBER.fullmatch(asked) else 0.0
    return Answer(response.status, min(seconds, WEBHOOK_RETRY_AFTER_MAX_SECONDS))


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
