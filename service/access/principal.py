"""Who asks, and what they may do: roles, and the principal of a request. Pure.

A role says what may be done, the namespaces say where. A job that a principal may not see is for it as if it
were not there: reading it is "not found", never "not allowed". Only who names a namespace that is not the
token's is told so, which tells nothing of what is in there.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from jobledger.service.errors import Forbidden


class Role(StrEnum):
    """What a token is for; each role may do all that the one before it may."""

    READER = "reader"  # reads jobs, histories and feeds
    WRITER = "writer"  # also submits, updates, reports states and stops
    ADMIN = "admin"  # both, always in every namespace


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Who sent a request.

    Attributes:
        name: for the record, as the event's actor; empty if unknown.
        role: what it may do.
        namespaces: where; None: everywhere.
        token_id: the token that it showed; empty for none.
    """

    name: str
    role: Role
    namespaces: frozenset[str] | None = None
    token_id: str = ""

    @property
    def visible(self) -> frozenset[str] | None:
        """The namespaces that it may read; None: all."""
        return self.namespaces

    @property
    def may_observe(self) -> bool:
        """Whether it may see figures of the whole installation (metrics, the checks of readiness)."""
        return self.namespaces is None

    @property
    def is_admin(self) -> bool:
        """Whether it may change what concerns the whole installation."""
        return self.role is Role.ADMIN

    def may_read(self, namespace: str) -> bool:
        """Whether jobs of this namespace are there for it."""
        return self.namespaces is None or namespace in self.namespaces

    def may_write(self, namespace: str) -> bool:
        """Whether it may submit and change jobs of this namespace."""
        return self.role is not Role.READER and self.may_read(namespace)

    def require_read(self, namespace: str) -> None:
        """Refuse who names a namespace, as a list and a feed can, and may not read there.

        Raises:
            Forbidden: with the way out.
        """
        if not self.may_read(namespace):
            raise Forbidden(
                f"the token {self.name!r} is not for the namespace {namespace!r:.80}; use one that is"
            )

    def require_write(self, namespace: str) -> None:
        """Refuse who may not write there.

        Call it only once it is known that the principal may know of what it wants to change: a job in a
        namespace that it may not see is "not found" instead.

        Raises:
            Forbidden: with what the token is for and the way out.
        """
        if self.may_write(namespace):
            return
        if self.role is Role.READER:
            raise Forbidden(
                f"the token {self.name!r} may only read; use one with the role {Role.WRITER} for the"
                f" namespace {namespace!r:.80}"
            )
        raise Forbidden(
            f"the token {self.name!r} is for {_listed(self.namespaces or ())}, not for the namespace"
            f" {namespace!r:.80}; use a token for that one"
        )

    def require_admin(self) -> None:
        """Refuse who may not change what concerns the whole installation.

        Raises:
            Forbidden: with the way out.
        """
        if not self.is_admin:
            raise Forbidden(
                f"the token {self.name!r} is a {self.role}'s, and this concerns the whole installation; use"
                f" one with the role {Role.ADMIN}"
            )

    def require_observe(self) -> None:
        """Refuse who may not see figures of the whole installation.

        Raises:
            Forbidden: with the way out.
        """
        if not self.may_observe:
            raise Forbidden(
                f"the token {self.name!r} is for {_listed(self.namespaces or ())}, and this tells of the"
                " whole installation; use a token for all namespaces"
            )


ANONYMOUS: Final = Principal(name="", role=Role.READER, namespaces=frozenset())
"""Nobody in particular, with no right to see a job: for what is answered without a token."""

_LOCAL: Final = Principal(name="", role=Role.ADMIN)
_SHOWN_NAMESPACES: Final = 5


def local_principal(actor: str) -> Principal:
    """Who asks a service without tokens: someone on this machine, who may do everything.

    Args:
        actor: what they call themselves, for the record; empty if they do not.
    """
    return Principal(name=actor, role=Role.ADMIN) if actor else _LOCAL


def _listed(namespaces: Iterable[str]) -> str:
    names = sorted(namespaces)
    if not names:
        return "no namespace"
    shown = ", ".join(f"{name!r:.80}" for name in names[:_SHOWN_NAMESPACES])
    more = len(names) - _SHOWN_NAMESPACES
    word = "namespace" if len(names) == 1 else "namespaces"
    return f"the {word} {shown}" + (f" and {more} more" if more > 0 else "")
