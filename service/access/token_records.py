"""What is kept of a token, and what may be said about one."""

import hashlib
import re
import secrets
from collections.abc import Sequence
from typing import Final

import msgspec

from jobledger.service.access.principal import Principal, Role
from jobledger.service.limits import (
    TOKEN_NAME_MAX_CHARACTERS,
    TOKEN_NAMESPACES_MAX_COUNT,
    TOKENS_MAX_COUNT,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.limits import NAMESPACE_MAX_BYTES
from jobledger.store.timestamps import parse_rfc3339

_ID_CHARACTERS: Final = 8
_ID_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz0123456789"
_SECRET_BYTES: Final = 32
_ID: Final = re.compile(rf"[{_ID_ALPHABET}]{{{_ID_CHARACTERS}}}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A token as it is kept: all of it but the secret.

    Attributes:
        id: its public part, by which it is found and revoked.
        name: the actor of the events that come with it.
        role: what it may do.
        sha256: of the token's text, in hex.
        created: RFC 3339.
        namespaces: where; None: everywhere.
        revoked: RFC 3339; None: it was not revoked.
        expires: RFC 3339, from when on it does not count; None: it does not expire.
    """

    id: str
    name: str
    role: Role
    sha256: str
    created: str
    namespaces: tuple[str, ...] | None = None
    revoked: str | None = None
    expires: str | None = None

    @property
    def expires_at(self) -> int | None:
        """When it expires, in Unix nanoseconds; None: never."""
        return None if self.expires is None else parse_rfc3339(self.expires)

    def counts(self, now: int) -> bool:
        """Whether it lets a request in at a time, in Unix nanoseconds."""
        return self.revoked is None and (self.expires_at is None or now < self.expires_at)

    def digest(self) -> bytes:
        """SHA-256 of the token's text."""
        return bytes.fromhex(self.sha256)

    def check(self) -> None:
        """Refuse what `new_token` would not have made: somebody edited the file.

        Raises:
            ValueError: what is wrong, to be read after the file's path.
        """
        try:
            check_token_name(self.name)
            if self.namespaces is not None:
                checked_namespaces(self.namespaces)
            check_scope(self.role, self.namespaces)
        except InvalidInput as error:
            raise ValueError(f"is damaged at the token {self.id!r:.20}: {error}") from None
        if _ID.fullmatch(self.id) is None or _SHA256.fullmatch(self.sha256) is None:
            raise ValueError(f"is damaged at the token {self.id!r:.20}: its id or sha256 is none")
        if self.expires is not None and self.expires_at is None:
            raise ValueError(
                f"is damaged at the token {self.id!r:.20}: expires {self.expires!r:.40} is not an RFC 3339"
                " time"
            )

    def principal(self) -> Principal:
        """Who shows this token."""
        namespaces = None if self.namespaces is None else frozenset(self.namespaces)
        return Principal(name=self.name, role=self.role, namespaces=namespaces, token_id=self.id)


def new_token(
    name: str,
    role: Role,
    namespaces: tuple[str, ...] | None,
    *,
    created: str,
    taken: set[str],
    expires: str | None = None,
) -> tuple[TokenRecord, str]:
    """What is kept of a new token, and its text.

    Args:
        name: the actor of the events that come with it.
        role: what it may do.
        namespaces: where; None: everywhere.
        created: RFC 3339.
        taken: ids that are in use.
        expires: RFC 3339; None: never.
    """
    while True:
        token_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(_ID_CHARACTERS))
        if token_id not in taken:
            break
    text = f"jlt_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    digest = hashlib.sha256(text.encode()).hexdigest()
    record = TokenRecord(
        id=token_id,
        name=name,
        role=role,
        namespaces=namespaces,
        sha256=digest,
        created=created,
        expires=expires,
    )
    return record, text


def with_room(records: tuple[TokenRecord, ...], now: int) -> tuple[TokenRecord, ...]:
    """The records, with room for one more: the oldest revoked and expired ones go first.

    Args:
        records: all.
        now: Unix nanoseconds.

    Raises:
        InvalidInput: if too many count.
    """
    excess = len(records) + 1 - TOKENS_MAX_COUNT
    if excess <= 0:
        return records
    dropped = {one.id for one in [one for one in records if not one.counts(now)][:excess]}
    if len(dropped) < excess:
        raise InvalidInput(f"there are {TOKENS_MAX_COUNT} tokens, and no more are taken; revoke some first")
    return tuple(one for one in records if one.id not in dropped)


def chosen_token(records: tuple[TokenRecord, ...], which: str, now: int) -> TokenRecord:
    """The token of this id, or the one token of this name, among those that count.

    Raises:
        InvalidInput: if there is none, or several.
    """
    kept = [one for one in records if one.revoked is None]
    found = [one for one in kept if one.id == which]
    found = found or [one for one in kept if one.name == which and one.counts(now)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(one.id for one in found)
        raise InvalidInput(f"several tokens have the name {which!r:.80}; revoke by id: {ids}")
    raise InvalidInput(f"no token that counts has the id or name {which!r:.80}; see `jobledger token list`")


def check_token_name(name: str) -> None:
    """Refuse a name that can't stand in the record.

    Raises:
        InvalidInput: with the rule.
    """
    if not name or name != name.strip() or not name.isprintable() or len(name) > TOKEN_NAME_MAX_CHARACTERS:
        raise InvalidInput(
            f"name {name!r:.80} is none for a token; use 1 to {TOKEN_NAME_MAX_CHARACTERS} characters that"
            " can be printed, without spaces around them"
        )


def check_scope(role: Role, namespaces: Sequence[str] | None) -> None:
    """Refuse an admin of some namespaces.

    Raises:
        InvalidInput: with the way out.
    """
    if role is Role.ADMIN and namespaces is not None:
        raise InvalidInput("an admin is for all namespaces; leave the namespaces out, or use another role")


def checked_namespaces(namespaces: Sequence[str]) -> tuple[str, ...]:
    """The namespaces of a token, in order, each once.

    Raises:
        InvalidInput: if there is none, are too many, or one that can't be.
    """
    kept = tuple(sorted(set(namespaces)))
    if not kept or len(kept) > TOKEN_NAMESPACES_MAX_COUNT:
        raise InvalidInput(
            f"{len(kept)} namespaces were given; name 1 to {TOKEN_NAMESPACES_MAX_COUNT}, or say all of them"
        )
    for one in kept:
        if one == "*":
            raise InvalidInput("namespace '*' is none; for all of them use --all-namespaces")
        if not one.strip() or not one.isprintable() or len(one.encode()) > NAMESPACE_MAX_BYTES:
            raise InvalidInput(
                f"namespace {one!r:.80} is none; use up to {NAMESPACE_MAX_BYTES} bytes that can be printed"
            )
    return kept
