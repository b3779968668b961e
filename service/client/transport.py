"""The HTTP connection to the service: requests, timeouts, errors and retries. Knows nothing about jobs."""

import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from jobledger import __version__
from jobledger.service.client.errors import error_of
from jobledger.service.errors import (
    NotReady,
    PayloadTooLarge,
    RemoteError,
    ServiceUnreachable,
    Timeout,
    TooManyRequests,
)
from jobledger.service.limits import (
    CLIENT_CONNECT_TIMEOUT_SECONDS,
    CLIENT_FEED_MAX_TRIES,
    CLIENT_RESPONSE_MAX_BYTES,
    CLIENT_RESPONSE_TIMEOUT_SECONDS,
    CLIENT_RETRY_MAX_WAIT_SECONDS,
    CLIENT_RETRY_WAIT_SECONDS,
)
from jobledger.service.settings import without_userinfo
from jobledger.store.model.errors import InvalidInput, LogError, OutcomeUnknown

# httpx imports its own command line, with rich and pygments, if it can: half of the start time of a command.
_HTTPX_COMMAND: Final = "httpx._main"
_modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]  # None: not importable
_modules.setdefault(_HTTPX_COMMAND, None)
import httpx  # noqa: E402

if _modules[_HTTPX_COMMAND] is None:  # a later import works
    del _modules[_HTTPX_COMMAND]

_ERROR_MIN_STATUS: Final = 300  # the service never redirects, and a token must not follow a redirect
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
TRANSIENT: Final = (ServiceUnreachable, Timeout, NotReady, TooManyRequests, LogError)
"""Errors after which a retry may succeed: the service is starting, busy, draining, or without its log."""

Query = Mapping[str, Any]


class Target(msgspec.Struct, frozen=True):
    """The service, and the credentials for it.

    Attributes:
        url: `http://host:port` or `https://host:port`, optionally with a path prefix.
        token: empty: none.
        actor: the actor of events, for services without tokens.
        tls_ca: CA certificates (PEM) to verify the service with; None: those of the system.
    """

    url: str
    token: str = ""
    actor: str = ""
    tls_ca: Path | None = None

    def __repr__(self) -> str:
        """Omits the token, because tracebacks show it."""
        return f"Target({without_userinfo(self.url)!r})"


class Transport:
    """Sends requests and reads responses; an error response is raised.

    Attributes:
        url: the address of the service, without credentials.
        has_responded: whether the service has responded at least once.
    """

    def __init__(self, target: Target) -> None:
        headers = {"User-Agent": f"jobledger/{__version__}"}
        if target.token:
            headers["Authorization"] = f"Bearer {target.token}"
        if target.actor:
            headers["Jobledger-Actor"] = target.actor.encode("ascii", "backslashreplace").decode()
        url = target.url.rstrip("/")
        self.url = without_userinfo(url)
        self.has_responded = False
        try:
            parts = urlsplit(url)
            self._http = httpx.Client(
                base_url=url,
                headers=headers,
                verify=_tls(parts.scheme, target.tls_ca),
                timeout=_timeout(CLIENT_RESPONSE_TIMEOUT_SECONDS),
                trust_env=parts.hostname not in _LOOPBACK,  # no proxy for the loopback address
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise self._invalid_url(error) from None
        if not parts.hostname:
            raise InvalidInput(f"url {self.url!r:.200} has no host: use http://host:port")

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = CLIENT_RESPONSE_TIMEOUT_SECONDS,
    ) -> Any:
        """The response as plain values.

        Args:
            method: of HTTP.
            path: from the root of the service, percent-encoded.
            query: parameters; None and empty values are omitted.
            body: sent as JSON; None: nothing.
            headers: further headers.
            timeout_seconds: until the response begins, and between its parts.

        Raises:
            ServiceUnreachable: no connection, or it was lost during a read.
            OutcomeUnknown: a write was sent and no response arrived.
            Timeout: a read took too long.
            JobledgerError: the error of the service; see `client/errors`.
        """
        sent = dict(headers or {})
        content = None
        if body is not None:
            content = _encode(body)
            sent["Content-Type"] = "application/json"
        with self.stream(
            method, path, query=query, content=content, headers=sent, timeout_seconds=timeout_seconds
        ) as response:
            raw = self._read(response)
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RemoteError(
                f"{self.url} responded with something other than JSON; is this a Jobledger service?"
            ) from None

    def fetch(self, path: str, *, query: Query | None = None) -> tuple[bytes, Mapping[str, str]]:
        """The bytes and headers of a response; raises what `request` raises."""
        with self.stream("GET", path, query=query) as response:
            return self._read(response), response.headers

    @contextmanager
    def stream(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = CLIENT_RESPONSE_TIMEOUT_SECONDS,
    ) -> Iterator[httpx.Response]:
        """A response that is still being read; see `request`."""
        params = {name: value for name, value in (query or {}).items() if value not in (None, "", (), [])}
        try:
            with self._http.stream(
                method,
                path,
                params=params,
                content=content,
                headers=dict(headers or {}),
                timeout=_timeout(timeout_seconds),
            ) as response:
                self.has_responded = True
                if response.status_code >= _ERROR_MIN_STATUS:
                    raise error_of(
                        response.status_code, self._read(response), response.headers.get("retry-after", "")
                    )
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise self._unreachable(error) from None
        except httpx.InvalidURL as error:
            raise self._invalid_url(error) from None
        except UnicodeEncodeError as error:  # in the query or a header
            raise _not_text(error) from None
        except httpx.DecodingError as error:
            raise RemoteError(f"{self.url}: the response cannot be decompressed: {error}") from None
        except httpx.TransportError as error:
            raise self._lost(method, error) from None

    def _read(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        for part in response.iter_bytes():
            size += len(part)
            if size > CLIENT_RESPONSE_MAX_BYTES:
                raise PayloadTooLarge(
                    f"the response exceeds {CLIENT_RESPONSE_MAX_BYTES} bytes; use a smaller --limit"
                )
            parts.append(part)
        return b"".join(parts)

    def _invalid_url(self, error: Exception) -> InvalidInput:
        # The error quotes parts of the URL, perhaps of a password.
        why = "" if "@" in self.url else f": {error}"
        return InvalidInput(
            f"invalid url {self.url!r:.200}{why}: use http://host:port, and percent-encode user and password"
        )

    def _unreachable(self, error: Exception) -> ServiceUnreachable:
        cause = _cause(error)
        if "certificate" in cause:
            untrusted = ServiceUnreachable(
                f"the certificate of the service at {self.url} cannot be verified: {cause}"
            )
            untrusted.add_note("Pass the CA certificates with --tls-ca or JOBLEDGER_TLS_CA")
            return untrusted
        unreachable = ServiceUnreachable(f"the service at {self.url} cannot be reached: {cause}")
        unreachable.add_note(
            "Start it with `jobledger serve`, or use another address with --url or JOBLEDGER_URL"
            " (`jobledger config show` shows the origin of the address)"
        )
        return unreachable

    def _lost(self, method: str, error: httpx.TransportError) -> Exception:
        is_late = isinstance(error, httpx.TimeoutException)
        what = "the request timed out" if is_late else f"the connection was lost: {error}"
        if method not in _SAFE_METHODS:
            return OutcomeUnknown(
                f"{self.url}: {what}; the write may have happened: check the job before you repeat it",
                event_id="",
            )
        return (Timeout if is_late else ServiceUnreachable)(f"{self.url}: {what}; try again")


def _encode(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def _not_text(error: UnicodeEncodeError) -> InvalidInput:
    return InvalidInput(f"{error.object!r:.80} cannot be sent: it is not {error.encoding} text")


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CLIENT_CONNECT_TIMEOUT_SECONDS)


def _tls(scheme: str, ca: Path | None) -> ssl.SSLContext:
    """The TLS context; loading the system's certificates is slow, so only for https."""
    if scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"tls_ca {ca}: {error}; use a PEM file of certificates") from None


def _cause(error: Exception) -> str:
    """The reason as the system words it."""
    text = str(error).partition("] ")
    return (text[2] or text[0]).strip().lower() or type(error).__name__


class Retries:
    """Counts transient errors in a row, and returns the waits between retries.

    Args:
        transport: to the service. One that never responded is not retried: its address is probably wrong.
        max_tries: the last error in a row that is not retried; None: the caller has another limit.
    """

    def __init__(self, transport: Transport, max_tries: int | None = CLIENT_FEED_MAX_TRIES) -> None:
        from jobledger.store.backoff import Backoff  # imports asyncio, which most commands do without

        self._transport = transport
        self._max_tries = max_tries
        self._backoff = Backoff(CLIENT_RETRY_WAIT_SECONDS, CLIENT_RETRY_MAX_WAIT_SECONDS)

    def reset(self) -> None:
        """Start over after a success."""
        self._backoff.reset()

    def wait_seconds(self, error: Exception | None = None) -> float:
        """Seconds to wait before the next try.

        Args:
            error: the transient error; None: the service closed the connection in order.

        Raises:
            Exception: `error`, if the service never responded, or errors in a row reached the maximum.
        """
        if error is None:
            return CLIENT_RETRY_WAIT_SECONDS
        never_responded = isinstance(error, ServiceUnreachable) and not self._transport.has_responded
        if never_responded or self._backoff.attempts + 1 == self._max_tries:
            raise error
        return self._backoff.next_seconds()
