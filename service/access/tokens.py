"""The token file: who may do what, stored as hashes, re-read when it changes.

The service looks at the file's stat as requests come (under load every TOKENS_LOOK_SECONDS), so a revocation
counts at once, in every replica that mounts the same file. What can't be read or trusted closes the service
to all: a damaged file never opens it.
"""

import hashlib
import hmac
import ipaddress
import logging
import math
import re
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
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
    TOKENS_LOOK_SECONDS,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.private_files import FileMark, file_mark, read_trusted, replace_file


def is_loopback(host: str) -> bool:
    """Whether all addresses that `host` stands for are of the loopback; a name that stands for none is not.

    Args:
        host: an address, in brackets or not, or a name.
    """
    if not host:
        return False  # all addresses of the machine
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


FORMAT: Final = 2  # 1 knows no tokens that expire; a release that reads only 1 must not take them for lasting
_FORMATS: Final = frozenset({1, FORMAT})
TOKEN: Final = re.compile(rb"jlt_([a-z0-9]{8})_[A-Za-z0-9_-]{43}", re.ASCII)

_YOUNG_SECONDS: Final = 1.0  # a file so young may change again without a difference in its times
_NO_DIGEST: Final = bytes(32)
_NANOSECONDS: Final = 1_000_000_000

_log = logging.getLogger(__name__)


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    tokens: tuple[TokenRecord, ...]


_decoder: Final = msgspec.json.Decoder(_Document)


class _Live(msgspec.Struct, frozen=True):
    digest: bytes
    principal: Principal
    expires_at: int | None

    def counts(self, now: int) -> bool:
        return self.expires_at is None or now < self.expires_at


class TokenFile:
    """The tokens of a service, or of several that share the file.

    Args:
        path: of the file; it need not be there.
        clock: nanoseconds since 1970.
        look_seconds: how long one look at the file counts.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], int] = time.time_ns,
        look_seconds: float = TOKENS_LOOK_SECONDS,
    ) -> None:
        self.path = path
        self._clock = clock
        self._look_seconds = look_seconds
        self._mark: FileMark | None = None
        self._settled = False  # whether an equal mark means an equal file
        self._looked = -math.inf  # when, by the monotonic clock
        self._records: tuple[TokenRecord, ...] = ()
        self._live: dict[bytes, _Live] = {}
        self._had_records = False
        self._fault = ""
        self.refresh()  # so that a file that goes away later is missed

    @property
    def fault(self) -> str:
        """Why nobody is let in; empty if all is well. It names paths: for the log and operators only."""
        self.refresh()
        return self._fault

    @property
    def is_open(self) -> bool:
        """Whether there never was a token, so that the service takes requests without one."""
        self.refresh()
        return not self._had_records and not self._fault

    def records(self) -> Sequence[TokenRecord]:
        """All tokens, also revoked ones, oldest first.

        Raises:
            InvalidSettings: if the file is damaged or can't be read.
        """
        self.refresh()
        if self._fault:
            raise InvalidSettings(self._fault)
        return self._records

    def authenticate(self, authorization: bytes | None) -> Principal:
        """Whose token came in the header `Authorization`; see `lookup`."""
        self.refresh()
        return self.lookup(authorization)

    def lookup(self, authorization: bytes | None) -> Principal:
        """Whose token it is, as the file was when it was last looked at: for who just asked `is_open`.

        Raises:
            Unauthorized: no token, or none that counts; what was sent is not repeated.
            NotReady: if the tokens can't be read.
        """
        if self._fault:
            raise NotReady("the service can't check tokens at the moment; its log says why")
        if authorization is None:
            raise Unauthorized("this service asks for a token; make one with `jobledger token create`")
        scheme, _, text = authorization.partition(b" ")
        found = TOKEN.fullmatch(text.strip(b" ")) if scheme.lower() == b"bearer" else None
        if found is None:
            raise Unauthorized(
                "the header Authorization holds no token of this service; send `Authorization: Bearer jlt_…`"
            )
        # An unknown id takes the same time as a wrong secret.
        live = self._live.get(found[1])
        digest = live.digest if live is not None else _NO_DIGEST
        same = hmac.compare_digest(hashlib.sha256(found[0]).digest(), digest)
        if live is None or not same:
            raise Unauthorized("this token is unknown or was revoked; ask for a new one")
        if not live.counts(self._clock()):  # only who has the token learns that it has expired
            raise Unauthorized("this token has expired; ask for a new one")
        return live.principal

    def is_valid(self, principal: Principal) -> bool:
        """Whether a request that was let in would be let in now, with the same rights."""
        self.refresh()
        if self._fault:
            return False
        if not principal.token_id:
            return not self._had_records
        live = self._live.get(principal.token_id.encode())
        return live is not None and live.principal == principal and live.counts(self._clock())

    def require_valid(self, principal: Principal) -> None:
        """Refuse a request that was let in and would not be now: call it after every wait.

        Raises:
            Unauthorized: if its token was revoked or changed, or has expired, meanwhile.
            NotReady: if the tokens can't be read.
        """
        if self.is_valid(principal):
            return
        if self._fault:
            raise NotReady("the service can't check tokens at the moment; its log says why")
        if not principal.token_id:
            raise Unauthorized("a token was made while the request was under way; send one")
        raise Unauthorized(
            "this token was revoked or changed, or has expired, while the request was under way; ask for a"
            " new one"
        )

    def refresh(self) -> None:
        """Read the file again if it changed; one `stat` tells. Never raises: see `fault`.

        Under load it is looked at every TOKENS_LOOK_SECONDS: each look lets go of the interpreter's lock, and
        a busy service waits long to get it back.
        """
        now = time.monotonic()
        if now - self._looked < self._look_seconds:
            return
        self._looked = now
        try:
            mark = file_mark(self.path)
            if mark is not None and self._settled and mark == self._mark:
                return
            self._read(mark)
        except OSError as error:
            self._close(f"the token file {self.path} can't be read: {error.strerror or type(error).__name__}")
            self._mark = None  # it may be readable the next time, with nothing changed
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
        """Add a token.

        Args:
            name: the actor of the events that come with it.
            role: what it may do.
            namespaces: where; None: everywhere.
            expires_seconds: after which it does not count any more; None: never.

        Returns:
            What is kept, and the token itself, which is kept nowhere.

        Raises:
            InvalidInput: if an argument is wrong, or there are too many tokens.
            InvalidSettings: if the file can't be read or written.
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
        """End a token, for good and at once; the record stays.

        Args:
            which: its id, or its name if only one that counts has it.

        Raises:
            InvalidInput: if there is none, or several of that name.
            InvalidSettings: if the file can't be read or written.
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
            self._settled, self._looked = False, -math.inf
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
            self._settled, self._looked = False, -math.inf

    def _read(self, mark: FileMark | None) -> None:
        if mark is None:
            if self._had_records:
                self._close(f"the token file {self.path} is gone; put it back, or restart without tokens")
            elif self._fault:
                self._take((), None)
            return
        content = read_trusted(self.path)
        try:
            document = _decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"is damaged: {error}") from None
        if document.format not in _FORMATS:
            raise ValueError(f"has format {document.format}, and this release knows up to {FORMAT}: upgrade")
        self._take(document.tokens, mark)

    def _take(self, records: tuple[TokenRecord, ...], mark: FileMark | None) -> None:
        live = {}
        for one in records:
            one.check()
            if one.revoked is None:
                live[one.id.encode()] = _Live(one.digest(), one.principal(), one.expires_at)
        if self._fault:
            _log.warning("the token file %s can be read again", self.path)
        self._records, self._live, self._fault = records, live, ""
        self._had_records = self._had_records or bool(records)
        self._mark = mark
        self._settled = mark is not None and self._clock() - mark[-1] > _YOUNG_SECONDS * 1e9

    def _close(self, fault: str) -> None:
        if fault != self._fault:
            _log.error("nobody is let in: %s", fault)
        self._fault, self._live, self._settled = fault, {}, False

    def _now(self) -> str:
        return _rfc3339(self._clock() // _NANOSECONDS)

    def _expiry(self, seconds: float) -> str:
        if not TOKEN_EXPIRES_MIN_SECONDS <= seconds <= TOKEN_EXPIRES_MAX_SECONDS:
            raise InvalidInput(
                f"expires is {seconds:g} s; use {TOKEN_EXPIRES_MIN_SECONDS:g} s to"
                f" {TOKEN_EXPIRES_MAX_SECONDS / 86_400:g}d, or leave it out for a token that does not expire"
            )
        return _rfc3339(self._clock() // _NANOSECONDS + math.ceil(seconds))


def _rfc3339(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def check_bind(host: str, tokens: TokenFile) -> None:
    """Refuse to listen where others than this machine can ask, unless there are tokens.

    Args:
        host: the address or name to listen on.
        tokens: of the service.

    Raises:
        InvalidSettings: with the ways out; also if the token file can't be read.
    """
    if tokens.fault:
        raise InvalidSettings(f"{tokens.fault}; nobody could be let in")
    if tokens.is_open and not is_loopback(host):
        raise InvalidSettings(
            f"host {host!r} can be reached from other machines, and there is no token yet, so anybody there"
            " could do everything: make one with `jobledger token create --name NAME --role admin"
            f" --tokens-file {tokens.path}`, or listen on 127.0.0.1"
        )
