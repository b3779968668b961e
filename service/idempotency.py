"""A request sent twice is done once: the `Idempotency-Key` header of every write.

    claim ───────────► command ───────────► keep
    key ─► event id    event id ─► answer   key ─► answer

The key is claimed with an event id before anything else happens, so whoever comes with the same key, on
whatever replica and after whatever crash, commands with the *same* event id, and the ledger gives the first
answer once that event is in the log. What is kept at the end only spares the second one the work, and holds
the answers of commands that changed nothing, which the log does not know.

    key seen before                         then
    for another request                     IdempotencyKeyReused, whatever became of the first
    with an answer                          that answer
    claimed, no answer (crash, error, or    the command again, with the event id of the claim
    another replica is at it just now)

Errors are never kept: the same request may be tried again with its key, and is then judged anew. The key
stays bound to the request that it first came with, even if that failed: a failed request may have been sent
twice, and the second one may be under way. A request that is changed takes a new key.
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
    """What makes one write request the same as another.

    Attributes:
        key: the `Idempotency-Key` header; None if there was none.
        principal: who asks; one principal's keys are not another's.
        method: the HTTP method.
        path: as it was sent, without the query.
        query: as it was sent.
        if_match: the `If-Match` header; empty if there was none.
        if_none_match: the `If-None-Match` header; empty if there was none.
        body: as it was sent.
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
    """A success, as it goes over the wire.

    Attributes:
        body: a JSON document.
        changed: whether an event was written.
        etag: the `ETag` header; empty for none.
        replayed: whether it is the kept answer of an earlier request (`Idempotency-Replayed: true`).
    """

    body: msgspec.Raw
    changed: bool
    etag: str = ""
    replayed: bool = False


Command = Callable[[str | None], Awaitable[Answer]]
"""Does the work, with the event id to use (None: make one); whatever it raises is the caller's answer."""


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """The record of a key. A storage format: fields are only added, and have defaults."""

    fingerprint: str
    event_id: str
    answer: Answer | None = None


_decoder = msgspec.json.Decoder(_Kept)


class IdempotentWrites:
    """Runs write commands, each key's once.

    Args:
        keys: shared by all replicas.
        mark: names the log (`position.stream_tag`): answers about another log are no answers.
        new_id: makes event ids (UUIDv7).
        refusal: why the log does not accept appends; empty if it does. Then no new key is claimed.
    """

    def __init__(
        self,
        keys: KeyValue,
        mark: str,
        *,
        new_id: Callable[[], str] = new_event_id,
        refusal: Callable[[], str] = str,
    ) -> None:
        self._keys = keys
        self._refusal = refusal
        self._mark = mark
        self._new_id = new_id
        self._turns = KeyedLocks()

    async def once(
        self,
        request: WriteRequest,
        command: Command,
        *,
        waiting: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Answer:
        """Run the command, or give the answer that it gave before.

        Args:
            request: which the command is for.
            command: does it.
            waiting: entered while another request with the same key is under way in this process.

        Raises:
            InvalidInput: if the key is too long, or has other than visible ASCII characters.
            IdempotencyKeyReused: if the key was used for another request.
            LogUnavailable: if the keys can't be reached; nothing was written by this request.
            JobledgerError: whatever the command raises; ask again with the same key.
        """
        if request.key is None:
            return await command(None)
        name = self._name(request)
        # In one process the second one waits for the first one's answer.
        async with self._turns.hold(name, waiting):
            mine = _Kept(_fingerprint(request), self._new_id())
            entry = await self._claim(name, mine)
            kept = _read(entry)
            if kept.fingerprint != mine.fingerprint:
                raise IdempotencyKeyReused(
                    f"the Idempotency-Key {request.key[:80]!r} was used before, for another request; nothing"
                    " was written; send the first request again as it was, or this one with a new key"
                )
            if kept.answer is not None:
                return replace(kept.answer, replayed=True)
            answer = await command(kept.event_id)
            return await self._keep(name, entry, replace(kept, answer=answer))

    def _name(self, request: WriteRequest) -> str:
        """What the key's record is kept under."""
        key = request.key or ""
        if _VISIBLE.fullmatch(key) is None:
            raise InvalidInput(
                f"the Idempotency-Key {key[:80]!r} is no key; pass 1 to {IDEMPOTENCY_KEY_MAX_CHARACTERS}"
                " visible ASCII characters, such as a UUID"
            )
        return _digest(self._mark.encode(), _bytes(request.principal), key.encode())

    async def _claim(self, name: str, mine: _Kept) -> Entry:
        try:
            if (
                refusal := self._refusal()
            ):  # a key that was seen before has an answer, or an event to look for
                entry = await self._keys.get(name)
                if entry is None:
                    raise refused(refusal)
                return entry
            entry = await self._keys.put(name, msgspec.json.encode(mine), expect=NO_ENTRY)
        except LogError as error:
            raise LogUnavailable(
                f"the Idempotency-Key can't be looked up, so nothing was written; try again ({error})"
            ) from error
        assert entry is not None  # where nothing stands, ours does now
        return entry

    async def _keep(self, name: str, entry: Entry, kept: _Kept) -> Answer:
        """Keep the answer; returns the one to give.

        Another replica that ran the same command may have kept one first, which is then the answer. Only
        that an event was written is always true, so it replaces an answer that says the contrary: the other
        one came to a no-op just before this one's event.
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
                if other.event_id != kept.event_id:  # forgotten after a day, and claimed again
                    return answer
                if other.answer is not None and (other.answer.changed or not answer.changed):
                    return replace(other.answer, replayed=True)
        except LogError:
            # The log knows the event by its id, so the same request again gets this answer. It knows nothing
            # of a no-op, of which the next answer may be another one.
            if not answer.changed:
                raise
        return answer


def _read(entry: Entry) -> _Kept:
    try:
        return _decoder.decode(entry.value)
    except msgspec.DecodeError as error:
        raise LogUnavailable(
            f"what is kept under this Idempotency-Key is not understood ({error}); nothing was written; if a"
            " newer Jobledger wrote it, upgrade this one, or send the request with a new key"
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
    return text.encode(errors="surrogatepass")  # it is hashed, whatever it is; others judge it


def _digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each with its length before it: no two lists of parts look the same."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()
