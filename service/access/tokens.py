"""The token file: the tokens of a service, stored as hashes and reloaded when the file changes.

Every request checks the file's stat (under load every TOKENS_POLL_SECONDS), so a revocation takes effect
immediately on every replica that mounts the file. If the file can't be read or trusted, all requests are
refused: a damaged file never opens the service.
"""

import hashlib
import hmac
import ipaddress
import logging
import math
import re
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from jobledger.service.access.principal import Principal, Role
from jobledger.service.access.token_records import (
    TokenRecord,
    check_scope,
    check_token_name,
    checked_namespaces,
    chosen_token,
    new_token,
    with_room,
)
from jobledger.service.errors import InvalidSettings, NotReady, Unauthorized
from jobledger.service.limits import (
    TOKEN_EXPIRES_MAX_SECONDS,
    TOKEN_EXPIRES_MIN_SECONDS,
    TOKENS_POLL_SECONDS,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.private_files import FileFingerprint, file_fingerprint, read_trusted, replace_file
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339

FORMAT: Final = 2  # format 1 has no expiry, so a release that reads only 1 must reject a file with one
_FORMATS: Final = frozenset({1, FORMAT})
TOKEN: Final = re.compile(rb"jlt_([a-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)

_YOUNG_SECONDS: Final = 1.0  # a younger file may change again without a new timestamp
_NO_DIGEST: Final = bytes(32)

_log = logging.getLogger(__name__)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tokens: tuple[TokenRecord, ...]


_decoder: Final = msgspec.json.Decoder(_Document)


class _Live(msgspec.Struct, frozen=True):
    digest: bytes
    principal: Principal
    expires_at: int | None

    def is_valid(self, now: int) -> bool:
        return self.expires_at is None or now < self.expires_at


class TokenFile:
    """The tokens of a service, or of several that share the file.

    Args:
        path: of the file; it need not exist.
        clock: Unix nanoseconds.
        poll_seconds: how long a stat of the file is valid.
        requires_tokens: there was a token before this process read the file: without the file, requests are
            refused.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], int] = time.time_ns,
        poll_seconds: float = TOKENS_POLL_SECONDS,
        requires_tokens: bool = False,
    ) -> None:
        self.path = path
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._fingerprint: FileFingerprint | None = None
        self._settled = False  # whether an equal fingerprint proves an equal file
        self._checked_at = -math.inf  # of the last stat, monotonic
        self._records: tuple[TokenRecord, ...] = ()
        self._live: dict[bytes, _Live] = {}
        self._had_records = requires_tokens
        self._reading = threading.Lock()
        self._fault = ""
        self.refresh()  # so that a later removal of the file is detected

    @property
    def fault(self) -> str:
        """Why all requests are refused; empty if they are not. It contains paths: for logs and operators."""
        self.refresh()
        return self._fault

    @property
    def is_open(self) -> bool:
        """Whether there was never a token, so that requests need none."""
        self.refresh()
        return not self._had_records and not self._fault

    def records(self) -> Sequence[TokenRecord]:
        """Return all tokens, including revoked ones, oldest first.

        Raises:
            InvalidSettings: the file is damaged or can't be read.
        """
        self.refresh()
        if self._fault:
            raise InvalidSettings(self._fault)
        return self._records

    def authenticate(self, authorization: bytes | None) -> Principal:
        """Reload the file if it changed, and return the principal; see `lookup`."""
        self.refresh()
        return self.lookup(authorization)

    def lookup(self, authorization: bytes | None) -> Principal:
        """Return the principal of an `Authorization` header, according to the last load of the file.

        Raises:
            Unauthorized: there is no valid token; the header is not quoted.
            NotReady: the tokens can't be read.
        """
        self._check_open()
        if authorization is None:
            raise Unauthorized("this service requires a token; create one with `jobledger token create`")
        scheme, _, text = authorization.partition(b" ")
        found = TOKEN.fullmatch(text.strip(b" ")) if scheme.lower() == b"bearer" else None
        if found is None:
            raise Unauthorized(
                "the Authorization header contains no token of this service; send `Authorization: Bearer"
                " jlt_…`"
            )
        # An unknown id takes the same time as a wrong secret.
        live = self._live.get(found[1])
        digest = live.digest if live is not None else _NO_DIGEST
        same = hmac.compare_digest(hashlib.sha256(found[0]).digest(), digest)
        if live is None or not same:
            self._check_open()  # another thread may have closed the file since
            raise Unauthorized("this token is unknown or was revoked; request a new one")
        if not live.is_valid(self._clock()):  # only the holder learns that it expired
            raise Unauthorized("this token has expired; request a new one")
        return live.principal

    def principal_of(self, token_id: str) -> Principal:
        """Return the principal of a token by its id, for a session that began with the token.

        Raises:
            Unauthorized: the token was revoked, or has expired.
            NotReady: the tokens can't be read.
        """
        self.refresh()
        self._check_open()
        live = self._live.get(token_id.encode())
        if live is None or not live.is_valid(self._clock()):
            self._check_open()
            raise Unauthorized("the token of this session was revoked, or has expired; sign in with another")
        return live.principal

    def is_valid(self, principal: Principal) -> bool:
        """Whether an accepted request would still be accepted, with the same rights."""
        self.refresh()
        if self._fault:
            return False
        if not principal.token_id:
            return not self._had_records
        live = self._live.get(principal.token_id.encode())
        return live is not None and live.principal == principal and live.is_valid(self._clock())

    def require_valid(self, principal: Principal) -> None:
        """Check an accepted request again; call it after every wait.

        Raises:
            Unauthorized: its token was revoked or changed, or expired, meanwhile.
            NotReady: the tokens can't be read.
        """
        if self.is_valid(principal):
            return
        if self._fault:
            raise NotReady("the service can't check tokens at the moment; the reason is in its log")
        if not principal.token_id:
            raise Unauthorized("the service requires a token since this request started; send one")
        raise Unauthorized(
            "this token was revoked or changed, or expired, during the request; request a new one"
        )

    def refresh(self) -> None:
        """Reload the file if its stat changed. Never raises: see `fault`.

        At most one stat per TOKENS_POLL_SECONDS: each releases the interpreter lock, and a busy service waits
        long to get it back.
        """
        if time.monotonic() - self._checked_at < self._poll_seconds:
            return
        with self._reading:  # reads of jobs are answered on two threads
            self._refresh()

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._checked_at < self._poll_seconds:
            return
        self._checked_at = now
        try:
            fingerprint = file_fingerprint(self.path)
            if fingerprint is not None and self._settled and fingerprint == self._fingerprint:
                return
            self._read(fingerprint)
        except OSError as error:
            self._close(f"the token file {self.path} can't be read: {error.strerror or type(error).__name__}")
            self._fingerprint = None  # it may become readable without a change
        except ValueError as error:
            self._close(f"the token file {self.path} {error}")

    def create(
        self,
        name: str,
        role: Role,
        namespaces: Sequence[str] | None = None,
        *,
        expires_seconds: float | None = None,
    ) -> tuple[TokenRecord, str]:
        """Add a token; returns its record and its text, which is stored nowhere.

        Args:
            name: the actor of events written with it.
            role: the allowed operations.
            namespaces: where they are allowed; None: in all.
            expires_seconds: lifetime; None: unlimited.

        Raises:
            InvalidInput: an argument is not valid, or there are too many tokens.
            InvalidSettings: the file can't be read or written.
        """
        check_token_name(name)
        kept = None if namespaces is None else checked_namespaces(namespaces)
        check_scope(role, kept)
        expires = None if expires_seconds is None else self._expiry(expires_seconds)
        record: TokenRecord | None = None
        text = ""

        def add(records: tuple[TokenRecord, ...]) -> tuple[TokenRecord, ...]:
            nonlocal record, text
            record, text = new_token(
                name,
                role,
                kept,
                created=self._now(),
                taken={one.id for one in records},
                expires=expires,
            )
            return (*with_room(records, self._clock()), record)

        self._change(add)
        assert record is not None
        return record, text

    def revoke(self, which: str) -> TokenRecord:
        """Revoke a token permanently; its record is kept.

        Args:
            which: its id, or its name if only one valid token has it.

        Raises:
            InvalidInput: none or several match.
            InvalidSettings: the file can't be read or written.
        """
        ended: TokenRecord | None = None

        def end(records: tuple[TokenRecord, ...]) -> tuple[TokenRecord, ...]:
            nonlocal ended
            chosen = chosen_token(records, which, self._clock())
            ended = msgspec.structs.replace(chosen, revoked=self._now())
            return tuple(ended if one.id == chosen.id else one for one in records)

        self._change(end)
        assert ended is not None
        return ended

    def _change(self, change: Callable[[tuple[TokenRecord, ...]], tuple[TokenRecord, ...]]) -> None:
        def write() -> bytes:
            self._settled, self._checked_at = False, -math.inf
            records = change(tuple(self.records()))
            number = FORMAT if any(one.expires for one in records) else 1
            document = msgspec.json.encode(_Document(number, records))
            return msgspec.json.format(document, indent=1) + b"\n"

        try:
            replace_file(self.path, write)
        except OSError as error:
            raise InvalidSettings(
                f"the token file {self.path} can't be written: {error.strerror or type(error).__name__}"
            ) from error
        finally:
            self._settled, self._checked_at = False, -math.inf

    def _read(self, fingerprint: FileFingerprint | None) -> None:
        if fingerprint is None:
            if self._had_records:
                self._close(f"the token file {self.path} was removed; restore it, or restart without tokens")
            elif self._fault:
                self._take((), None)
            return
        content = read_trusted(self.path)
        try:
            document = _decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"is damaged: {error}") from None
        if document.format not in _FORMATS:
            raise ValueError(f"has format {document.format}; this release reads up to {FORMAT}: upgrade")
        self._take(document.tokens, fingerprint)

    def _take(self, records: tuple[TokenRecord, ...], fingerprint: FileFingerprint | None) -> None:
        live = {}
        for one in records:
            one.check()
            if one.revoked is None:
                live[one.id.encode()] = _Live(one.digest(), one.principal(), one.expires_at)
        if self._fault:
            _log.warning("the token file %s can be read again", self.path)
        # In this order: at no moment does another thread see a service that requires no token.
        self._had_records = self._had_records or bool(records)
        self._records, self._live, self._fault = records, live, ""
        self._fingerprint = fingerprint
        self._settled = (
            fingerprint is not None
            and self._clock() - fingerprint[-1] > _YOUNG_SECONDS * NANOSECONDS_PER_SECOND
        )

    def _check_open(self) -> None:
        if self._fault:
            raise NotReady("the service can't check tokens at the moment; the reason is in its log")

    def _close(self, fault: str) -> None:
        if fault != self._fault:
            _log.error("all requests are refused: %s", fault)
        self._fault, self._live, self._settled = fault, {}, False

    def _now(self) -> str:
        return format_rfc3339(self._clock(), digits=0)

    def _expiry(self, seconds: float) -> str:
        if not TOKEN_EXPIRES_MIN_SECONDS <= seconds <= TOKEN_EXPIRES_MAX_SECONDS:
            raise InvalidInput(
                f"expires must be {TOKEN_EXPIRES_MIN_SECONDS:g}s..{TOKEN_EXPIRES_MAX_SECONDS / 86_400:g}d,"
                f" got {seconds:g}s; omit it for a token that does not expire"
            )
        return format_rfc3339(self._clock() + math.ceil(seconds) * NANOSECONDS_PER_SECOND, digits=0)


def check_bind(host: str, tokens: TokenFile) -> None:
    """Check that a service without tokens listens only on addresses of this machine.

    Raises:
        InvalidSettings: other machines can reach `host`, or the token file can't be read.
    """
    if tokens.fault:
        raise InvalidSettings(f"{tokens.fault}; all requests would be refused")
    if tokens.is_open and not is_loopback(host):
        raise InvalidSettings(
            f"host {host!r} can be reached from other machines, and without tokens they would have full"
            " access: create a token with `jobledger token create --name NAME --role admin --tokens-file"
            f" {tokens.path}`, or listen on 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether all addresses of `host` (an address, in brackets or not, or a name) are loopback addresses."""
    if not host:
        return False  # listens on all addresses
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
