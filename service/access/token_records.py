"""The stored record of a token, and the rules for its fields."""

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
    """A token as stored: without its secret.

    Attributes:
        id: its public part, which identifies it.
        name: the actor of events written with it.
        role: the allowed operations.
        sha256: of the token's text, in hex.
        created: RFC 3339.
        namespaces: where they are allowed; None: in all.
        revoked: RFC 3339; None if it was not revoked.
        expires: RFC 3339; None if it does not expire.
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
        """Expiry in Unix nanoseconds; None: never."""
        return None if self.expires is None else parse_rfc3339(self.expires)

    def is_valid(self, now: int) -> bool:
        """Whether it is neither revoked nor expired at a time, in Unix nanoseconds."""
        return self.revoked is None and (self.expires_at is None or now < self.expires_at)

    def digest(self) -> bytes:
        """SHA-256 of the token's text."""
        return bytes.fromhex(self.sha256)

    def check(self) -> None:
        """Validate a record from the file, which may have been edited.

        Raises:
            ValueError: it is not valid; the text continues a sentence that starts with the file's path.
        """
        try:
            check_token_name(self.name)
            if self.namespaces is not None:
                checked_namespaces(self.namespaces)
            check_scope(self.role, self.namespaces)
        except InvalidInput as error:
            raise ValueError(f"is damaged at the token {self.id!r:.20}: {error}") from None
        if _ID.fullmatch(self.id) is None or _SHA256.fullmatch(self.sha256) is None:
            raise ValueError(f"is damaged at the token {self.id!r:.20}: its id or sha256 is not valid")
        if self.expires is not None and self.expires_at is None:
            raise ValueError(
                f"is damaged at the token {self.id!r:.20}: expires {self.expires!r:.40} is not an RFC 3339"
                " time"
            )

    def principal(self) -> Principal:
        """Return the principal of this token."""
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
    """Return the record and the text of a new token; `taken` are the ids in use."""
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
    """Drop the oldest revoked and expired records if necessary to add another one.

    Raises:
        InvalidInput: TOKENS_MAX_COUNT tokens are valid.
    """
    excess = len(records) + 1 - TOKENS_MAX_COUNT
    if excess <= 0:
        return records
    dropped = {one.id for one in [one for one in records if not one.is_valid(now)][:excess]}
    if len(dropped) < excess:
        raise InvalidInput(f"there are {TOKENS_MAX_COUNT} valid tokens, the maximum; revoke one first")
    return tuple(one for one in records if one.id not in dropped)


def chosen_token(records: tuple[TokenRecord, ...], which: str, now: int) -> TokenRecord:
    """Return the token of this id, or the only valid token of this name.

    Raises:
        InvalidInput: none or several match.
    """
    kept = [one for one in records if one.revoked is None]
    found = [one for one in kept if one.id == which]
    found = found or [one for one in kept if one.name == which and one.is_valid(now)]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(one.id for one in found)
        raise InvalidInput(f"several tokens have the name {which!r:.80}; revoke by id: {ids}")
    raise InvalidInput(f"no valid token has the id or name {which!r:.80}; see `jobledger token list`")


def check_token_name(name: str) -> None:
    """Validate the name of a token.

    Raises:
        InvalidInput: it is not valid.
    """
    if not name or name != name.strip() or not name.isprintable() or len(name) > TOKEN_NAME_MAX_CHARACTERS:
        raise InvalidInput(
            f"invalid token name {name!r:.80}: use 1..{TOKEN_NAME_MAX_CHARACTERS} printable characters"
            " without leading or trailing spaces"
        )


def check_scope(role: Role, namespaces: Sequence[str] | None) -> None:
    """Check that the role admits the namespaces.

    Raises:
        InvalidInput: an admin is limited to some namespaces.
    """
    if role is Role.ADMIN and namespaces is not None:
        raise InvalidInput(f"the role {role} is for all namespaces: omit the namespaces, or use another role")


def checked_namespaces(namespaces: Sequence[str]) -> tuple[str, ...]:
    """Return the namespaces of a token, sorted and without duplicates.

    Raises:
        InvalidInput: there are none or too many, or one is not valid.
    """
    kept = tuple(sorted(set(namespaces)))
    if not kept or len(kept) > TOKEN_NAMESPACES_MAX_COUNT:
        raise InvalidInput(
            f"a token must have 1..{TOKEN_NAMESPACES_MAX_COUNT} namespaces, or all; got {len(kept)}"
        )
    for one in kept:
        if one == "*":
            raise InvalidInput("invalid namespace '*': use --all-namespaces for all namespaces")
        if not one.strip() or not one.isprintable() or len(one.encode()) > NAMESPACE_MAX_BYTES:
            raise InvalidInput(
                f"invalid namespace {one!r:.80}: use 1..{NAMESPACE_MAX_BYTES} bytes of printable text"
            )
    return kept
