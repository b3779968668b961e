"""One HTTP connection to the service: who asks, how long to wait, what is an error. Nothing about jobs."""

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from jobledger import __version__
from jobledger.service.client.errors import error_of
from jobledger.service.client.lean import httpx
from jobledger.service.errors import PayloadTooLarge, RemoteError, ServiceUnreachable, Timeout
from jobledger.service.limits import (
    CLIENT_ANSWER_MAX_BYTES,
    CLIENT_ANSWER_TIMEOUT_SECONDS,
    CLIENT_CONNECT_TIMEOUT_SECONDS,
)
from jobledger.service.settings_sources import without_userinfo
from jobledger.store.model.errors import InvalidInput, OutcomeUnknown

_ERROR_MIN_STATUS: Final = 300  # our service redirects nobody, and a token must not follow a redirection
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
Query = Mapping[str, Any]


class Target(msgspec.Struct, frozen=True):
    """Where the service is, and who asks.

    Attributes:
        url: its address, `http://host:port` or `https://host:port`, with or without a path in front of ours.
        token: empty: none.
        actor: who the log is told it was, where there are no tokens.
        tls_ca: CA certificates (PEM) to check the service's with; None: those of the system.
    """

    url: str
    token: str = ""
    actor: str = ""
    tls_ca: Path | None = None

    def __repr__(self) -> str:
        """Without the token, for tracebacks."""
        return f"Target({without_userinfo(self.url)!r})"


class Transport:
    """Sends requests and reads answers; an answer that says no is raised.

    Attributes:
        url: where the service is.
        has_answered: whether any answer came so far.
    """

    def __init__(self, target: Target) -> None:
        headers = {"User-Agent": f"jobledger/{__version__}"}
        if target.token:
            headers["Authorization"] = f"Bearer {target.token}"
        if target.actor:
            headers["Jobledger-Actor"] = target.actor.encode("ascii", "backslashreplace").decode()
        url = target.url.rstrip("/")
        self.url = without_userinfo(url)  # as it may be shown
        self.has_answered = False
        try:
            parts = urlsplit(url)
            self._http = httpx.Client(
                base_url=url,
                headers=headers,
                verify=_tls(parts.scheme, target.tls_ca),
                timeout=_timeout(CLIENT_ANSWER_TIMEOUT_SECONDS),
                trust_env=parts.hostname not in _LOOPBACK,  # no proxy knows the way to our own loopback
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise self._no_address(error) from None
        if not parts.hostname:
            raise InvalidInput(f"url {self.url!r:.200} names no host; write http://host:port")

    def close(self) -> None:
        """Give the connection back."""
        self._http.close()

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = CLIENT_ANSWER_TIMEOUT_SECONDS,
    ) -> Any:
        """The plain values of an answer.

        Args:
            method: of HTTP.
            path: from the root of the service, percent-encoded.
            query: parameters; those that are None or empty are left out.
            body: what to send as JSON; None: nothing.
            headers: besides the usual.
            timeout_seconds: for the answer to begin, and between its parts.

        Raises:
            ServiceUnreachable: nobody is there, or the connection was lost while reading.
            OutcomeUnknown: a write was sent and no answer came.
            Timeout: a read took too long.
            JobledgerError: what the service says; see `failures`.
        """
        sent = dict(headers or {})
        content = None
        if body is not None:
            content = _encode(body)
            sent["Content-Type"] = "application/json"
        with self.opened(
            method, path, query=query, content=content, headers=sent, timeout_seconds=timeout_seconds
        ) as response:
            raw = self._read(response)
        try:
            return msgspec.json.decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise RemoteError(
                f"{self.url} answered something that is not JSON; is this the address of a Jobledger service?"
            ) from None

    def fetch(self, path: str, *, query: Query | None = None) -> tuple[bytes, Mapping[str, str]]:
        """A document as it came, and the headers of the answer; raises what `ask` raises."""
        with self.opened("GET", path, query=query) as response:
            return self._read(response), response.headers

    @contextmanager
    def opened(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_seconds: float = CLIENT_ANSWER_TIMEOUT_SECONDS,
    ) -> Iterator[httpx.Response]:
        """An answer that is still being read; see `ask`."""
        asked = {name: value for name, value in (query or {}).items() if value not in (None, "", (), [])}
        try:
            with self._http.stream(
                method,
                path,
                params=asked,
                content=content,
                headers=dict(headers or {}),
                timeout=_timeout(timeout_seconds),
            ) as response:
                self.has_answered = True
                if response.status_code >= _ERROR_MIN_STATUS:
                    raise error_of(
                        response.status_code, self._read(response), response.headers.get("retry-after", "")
                    )
                yield response
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise self._unreachable(error) from None
        except httpx.InvalidURL as error:
            raise self._no_address(error) from None
        except UnicodeEncodeError as error:  # in the query or a header
            raise _not_text(error) from None
        except httpx.DecodingError as error:
            raise RemoteError(f"{self.url}: the answer can't be decompressed: {error}") from None
        except httpx.TransportError as error:
            raise self._lost(method, error) from None

    def _read(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        for part in response.iter_bytes():
            size += len(part)
            if size > CLIENT_ANSWER_MAX_BYTES:
                raise PayloadTooLarge(
                    f"the answer has more than {CLIENT_ANSWER_MAX_BYTES} bytes; ask for less with --limit"
                )
            parts.append(part)
        return b"".join(parts)

    def _no_address(self, error: Exception) -> InvalidInput:
        # The error quotes parts of the URL, which may be parts of a password.
        why = "" if "@" in self.url else f": {error}"
        return InvalidInput(
            f"url {self.url!r:.200} is no address of a service{why}; percent-encode a user and password"
        )

    def _unreachable(self, error: Exception) -> ServiceUnreachable:
        cause = _cause(error)
        if "certificate" in cause:
            untrusted = ServiceUnreachable(f"the service at {self.url} can't be trusted: {cause}")
            untrusted.add_note("Name the CA certificates to check it with: --tls-ca or JOBLEDGER_TLS_CA")
            return untrusted
        unreachable = ServiceUnreachable(f"no service answers at {self.url}: {cause}")
        unreachable.add_note(
            "Start one with `jobledger serve`, or name another with --url or JOBLEDGER_URL"
            " (`jobledger config show` tells where the address comes from)"
        )
        return unreachable

    def _lost(self, method: str, error: httpx.TransportError) -> Exception:
        is_late = isinstance(error, httpx.TimeoutException)
        what = "no answer came in time" if is_late else f"the connection was lost: {error}"
        if method not in _SAFE_METHODS:
            return OutcomeUnknown(
                f"{self.url}: {what}; whether it was written is not known: look at the job before you repeat"
                " it",
                event_id="",
            )
        return (Timeout if is_late else ServiceUnreachable)(f"{self.url}: {what}; try again")


def _encode(body: object) -> bytes:
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise _not_text(error) from None


def _not_text(error: UnicodeEncodeError) -> InvalidInput:
    return InvalidInput(f"{error.object!r:.80} can't be sent: it is not {error.encoding} text")


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CLIENT_CONNECT_TIMEOUT_SECONDS)


def _tls(scheme: str, ca: Path | None) -> ssl.SSLContext:
    """How to check the service; loading the system's certificates takes long, so only where they are used."""
    if scheme != "https":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(f"tls_ca {ca}: {error}; name a PEM file of certificates") from None


def _cause(error: Exception) -> str:
    """Why, in the system's words where it has some."""
    text = str(error).partition("] ")
    return (text[2] or text[0]).strip().lower() or type(error).__name__
