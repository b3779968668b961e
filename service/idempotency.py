"""Executes a repeated request once: the `Idempotency-Key` header of every write.

    claim ───────────► command ───────────► store
    key ─► event id    event id ─► answer   key ─► answer

The key is claimed with an event id before the command runs. A repeated request with the same key, on any
replica and after any crash, therefore runs the command with the *same* event id, and the ledger returns the
first answer once that event is in the log. The stored answer saves the second execution, and covers commands
that changed nothing, of which the log has no event.

    state of the key                        result
    used for another request                IdempotencyKeyReused, whether the first succeeded or not
    with an answer                          that answer
    claimed, no answer (crash, error, or    the command again, with the event id of the claim
    in progress on another replica)

Errors are never stored: a retry with the key is evaluated again. The key stays bound to its first request,
even if that failed: it may have been sent twice, and the second copy may be in progress. A changed request
needs a new key.
"""

import hashlib
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

import msgspec
from msgspec.structs import replace

from jobledger.service.errors import IdempotencyKeyReused
from jobledger.service.limits import ANSWER_MAX_BYTES, ANSWER_MAX_TRIES, IDEMPOTENCY_KEY_MAX_CHARACTERS
from jobledger.store.job_cache import KeyedLocks
from jobledger.store.kv import NO_ENTRY, Entry, KeyValue
from jobledger.store.ledger import new_event_id
from jobledger.store.log import refused
from jobledger.store.model.errors import InvalidInput, LogError, LogUnavailable

_VISIBLE: Final = re.compile(f"[!-~]{{1,{IDEMPOTENCY_KEY_MAX_CHARACTERS}}}")


class WriteRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a write request.

    Attributes:
        key: the `Idempotency-Key` header; None without one.
        principal: the sender; principals have separate keys.
        method: the HTTP method.
        path: as sent, without the query.
        query: as sent.
        if_match: the `If-Match` header; empty without one.
        if_none_match: the `If-None-Match` header; empty without one.
        body: as sent.
    """

    key: str | None
    principal: str
    method: str
    path: str
    query: bytes = b""
    if_match: str = ""
    if_none_match: str = ""
    body: bytes = b""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A successful response.

    Attributes:
        body: a JSON document.
        changed: whether an event was written.
        etag: the `ETag` header; empty for none.
        replayed: whether it is the stored answer of an earlier request (`Idempotency-Replayed: true`).
    """

    body: msgspec.Raw
    changed: bool
    etag: str = ""
    replayed: bool = False


Command = Callable[[str | None], Awaitable[Answer]]
"""Executes the command with an event id (None: a new one); its exceptions go to the caller."""


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of a key. A storage format: fields are only added, with defaults."""

    fingerprint: str
    event_id: str
    answer: Answer | None = None


_decoder = msgspec.json.Decoder(_Kept)


class IdempotentWrites:
    """Runs write commands, once per key.

    Args:
        keys: shared by all replicas.
        stream_tag: the tag of the stream: answers about another log do not count.
        new_id: makes event ids (UUIDv7).
        refusal: returns why the log refuses appends, in which case no new key is claimed; empty if it
            accepts.
    """

    def __init__(
        self,
        keys: KeyValue,
        stream_tag: str,
        *,
        new_id: Callable[[], str] = new_event_id,
        refusal: Callable[[], str] = str,
    ) -> None:
        self._keys = keys
        self._refusal = refusal
        self._stream_tag = stream_tag
        self._new_id = new_id
        self._turns = KeyedLocks()

    async def once(
        self,
        request: WriteRequest,
        command: Command,
        *,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Answer:
        """Run the command, or return its earlier answer.

        Args:
            request: of the command.
            command: to run.
            waiting: entered while another request with the same key is in progress in this process.

        Raises:
            InvalidInput: the key is too long, or has characters other than visible ASCII.
            IdempotencyKeyReused: the key was used for another request.
            LogUnavailable: the keys can't be reached; this request wrote nothing.
            JobledgerError: raised by the command; retry with the same key.
        """
        if request.key is None:
            return await command(None)
        name = self._name(request)
        # Within one process the second request waits for the first one's answer.
        async with self._turns.hold(name, waiting):
            mine = _Kept(_fingerprint(request), self._new_id())
            entry = await self._claim(name, mine)
            kept = _read(entry)
            if kept.fingerprint != mine.fingerprint:
                raise IdempotencyKeyReused(
                    f"the Idempotency-Key {request.key[:80]!r} was used for another request; nothing was"
                    " written; send the first request unchanged, or this one with a new key"
                )
            if kept.answer is not None:
                return replace(kept.answer, replayed=True)
            answer = await command(kept.event_id)
            return await self._keep(name, entry, replace(kept, answer=answer))

    def _name(self, request: WriteRequest) -> str:
        """Return the name of the key's record."""
        key = request.key or ""
        if _VISIBLE.fullmatch(key) is None:
            raise InvalidInput(
                f"invalid Idempotency-Key {key[:80]!r}: use 1..{IDEMPOTENCY_KEY_MAX_CHARACTERS} visible ASCII"
                " characters, such as a UUID"
            )
        return _digest(self._stream_tag.encode(), _bytes(request.principal), key.encode())

    async def _claim(self, name: str, mine: _Kept) -> Entry:
        try:
            if refusal := self._refusal():  # a known key has an answer, or an event to look for
                entry = await self._keys.get(name)
                if entry is None:
                    raise refused(refusal)
                return entry
            entry = await self._keys.put(name, msgspec.json.encode(mine), expect=NO_ENTRY)
        except LogError as error:
            raise LogUnavailable(
                f"the Idempotency-Key can't be looked up, so nothing was written; try again ({error})"
            ) from error
        assert entry is not None  # there was no entry, so it is this one now
        return entry

    async def _keep(self, name: str, entry: Entry, kept: _Kept) -> Answer:
        """Store the answer; returns the one to send.

        Another replica that ran the same command may have stored one first, which is then the answer. An
        answer that an event was written replaces one that nothing changed: the other replica's command was a
        no-op just before this one's event.
        """
        answer = kept.answer
        assert answer is not None
        value = msgspec.json.encode(kept)
        if len(value) > ANSWER_MAX_BYTES:
            return answer
        try:
            for _ in range(ANSWER_MAX_TRIES):
                now = await self._keys.put(name, value, expect=entry.revision)
                if now is None or now.value == value:
                    return answer
                other, entry = _read(now), now
                if other.event_id != kept.event_id:  # expired after a day, and claimed again
                    return answer
                if other.answer is not None and (other.answer.changed or not answer.changed):
                    return replace(other.answer, replayed=True)
        except LogError:
            # The log finds the event by its id, so a retry gets this answer. It has no record of a no-op,
            # whose next answer may differ.
            if not answer.changed:
                raise
        return answer


def _read(entry: Entry) -> _Kept:
    try:
        return _decoder.decode(entry.value)
    except msgspec.DecodeError as error:
        raise LogUnavailable(
            f"the record of this Idempotency-Key can't be read ({error}); nothing was written; if a newer"
            " Jobledger wrote it, upgrade this one, or send the request with a new key"
        ) from error


def _fingerprint(request: WriteRequest) -> str:
    return _digest(
        _bytes(request.method),
        _bytes(request.path),
        request.query,
        _bytes(request.if_match),
        _bytes(request.if_none_match),
        request.body,
    )


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # only hashed here; validated elsewhere


def _digest(*parts: bytes) -> str:
    """Return the SHA-256 of the parts, each prefixed with its length so that lists are unambiguous."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
