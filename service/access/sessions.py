"""Sessions of the web UI: a browser that signed in with a token, identified by a cookie.

    token ──sign in──► cookie (random, HttpOnly) ──► hash in the session file ──► token's id ──► principal

The file has hashes only, so it opens nothing to a reader. Every process that shares the file accepts its
sessions. A session has no rights of its own: it ends with its token, and what the token may do is looked up
for each request.
"""

import asyncio
import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from jobledger.service.access.principal import Principal
from jobledger.service.access.tokens import TokenFile
from jobledger.service.errors import InvalidSettings, NotReady, Unauthorized
from jobledger.service.limits import (
    SESSION_IDLE_SECONDS,
    SESSION_LIFETIME_SECONDS,
    SESSION_SEEN_SECONDS,
    SESSIONS_MAX_COUNT,
    SESSIONS_MAX_PER_TOKEN,
)
from jobledger.store.model.errors import JobledgerError
from jobledger.store.private_files import PrivateDocument

_FORMAT: Final = 1
_SECRET_BYTES: Final = 32
_EXPIRED: Final = "this session has ended; sign in again"

_log = logging.getLogger(__name__)


class _Session(msgspec.Struct, frozen=True):
    """One session; times are Unix seconds."""

    digest: str
    token_id: str
    created: float
    seen: float

    def is_live(self, now: float) -> bool:
        idle, age = now - self.seen, now - self.created
        return idle < SESSION_IDLE_SECONDS and age < SESSION_LIFETIME_SECONDS


class _Document(msgspec.Struct, frozen=True):
    format: int
    sessions: tuple[_Session, ...] = ()


class Sessions:
    """The sessions of a service, or of several that share the file.

    Args:
        path: of the file; created by the first sign-in.
        tokens: of the same service.
        clock: Unix seconds.
    """

    def __init__(self, path: Path, tokens: TokenFile, *, clock: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._clock = clock
        # One to read on the event loop, one to change in a thread.
        self._file, self._changed_file = _document_of(path), _document_of(path)
        self._changing = asyncio.Lock()
        self._document: _Document | None = None
        self._live: dict[str, _Session] = {}

    def principal(self, secret: str) -> Principal:
        """Return the principal of a cookie's value.

        Raises:
            Unauthorized: there is no such session, or it has ended.
            NotReady: the tokens can't be read.
        """
        return self._tokens.principal_of(self._find(secret).token_id)

    def is_valid(self, secret: str, principal: Principal) -> bool:
        """Whether a session that was accepted would still be accepted, with the same rights."""
        try:
            self._find(secret)
        except (Unauthorized, NotReady):
            return False
        return self._tokens.is_valid(principal)

    async def sign_in(self, token: str, *, replaces: str = "") -> str:
        """Begin a session; returns the value of its cookie, which is stored nowhere.

        Args:
            token: as text.
            replaces: the cookie that the browser had; its session ends.

        Raises:
            Unauthorized: the token is not valid.
        """
        principal = self._tokens.authenticate(b"Bearer " + token.strip().encode("utf-8", "replace"))
        secret, now = secrets.token_urlsafe(_SECRET_BYTES), self._clock()
        begun = _Session(_digest(secret), principal.token_id, now, now)
        old = _digest(replaces)

        def add(sessions: list[_Session]) -> list[_Session]:
            kept = [each for each in sessions if each.digest != old]
            own = [each for each in kept if each.token_id == principal.token_id]
            surplus = {each.digest for each in own[: max(0, len(own) + 1 - SESSIONS_MAX_PER_TOKEN)]}
            kept = [each for each in kept if each.digest not in surplus]
            return [*kept[max(0, len(kept) + 1 - SESSIONS_MAX_COUNT) :], begun]

        await self._change(add)
        return secret

    async def sign_out(self, secret: str) -> None:
        """End a session, if there is one."""
        digest = _digest(secret)
        await self._change(lambda sessions: [each for each in sessions if each.digest != digest])

    async def note_use(self, secret: str) -> None:
        """Record that a session is in use, at most once per SESSION_SEEN_SECONDS.

        It never fails: a page that was shown, or a write that was done, is not an error. A session whose use
        cannot be recorded ends early.
        """
        digest, now = _digest(secret), self._clock()
        found = self._live.get(digest)
        if found is None or now - found.seen < SESSION_SEEN_SECONDS:
            return
        try:
            await self._change(
                lambda sessions: [
                    msgspec.structs.replace(each, seen=now) if each.digest == digest else each
                    for each in sessions
                ]
            )
        except (OSError, JobledgerError) as error:
            _log.warning("the use of a session could not be recorded: %s", error)

    def _find(self, secret: str) -> _Session:
        self._refresh()
        # A lookup by hash: its time reveals nothing of the secret.
        found = self._live.get(_digest(secret))
        if found is None or not found.is_live(self._clock()):
            raise Unauthorized(_EXPIRED)
        return found

    def _refresh(self) -> None:
        try:
            document = self._file.read()
        except InvalidSettings as error:
            _log.error("nobody can sign in: %s", error)
            raise NotReady("the sessions can't be read at the moment; the reason is in the log") from None
        if document is not self._document:
            self._document = document
            self._live = {each.digest: each for each in document.sessions} if document is not None else {}

    async def _change(self, change: Callable[[list[_Session]], list[_Session]]) -> None:
        now = self._clock()

        def changed(document: _Document | None) -> _Document:
            sessions = document.sessions if document is not None else ()
            return _Document(_FORMAT, tuple(change([each for each in sessions if each.is_live(now)])))

        # In a thread: it waits for the disk, and for other processes that change the file.
        async with self._changing:
            await asyncio.to_thread(self._changed_file.update, changed)
        self._refresh()


def _document_of(path: Path) -> PrivateDocument[_Document]:
    return PrivateDocument(
        path,
        _Document,
        title="file of sessions",
        error=InvalidSettings,
        formats=(_FORMAT,),
        remedy="delete it; everyone signs in again",
    )


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "replace")).hexdigest()
