"""Roles, and the principal of a request: who sent it and what they may do. Pure.

The role defines the allowed operations, the namespaces where. A job that a principal may not see does not
exist for it: reading it is "not found", never "forbidden". Only a request that names a namespace outside the
token's is "forbidden", which reveals nothing about its content.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from jobledger.service.errors import Forbidden
from jobledger.store.model.subjects import DEFAULT_NAMESPACE


class Role(StrEnum):
    """The role of a token; each includes the rights of the one before."""

    READER = "reader"  # reads jobs, histories and feeds
    WRITER = "writer"  # also submits, updates, reports states and stops
    ADMIN = "admin"  # everything, always in all namespaces


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """The sender of a request.

    Attributes:
        name: recorded as the actor of events; empty if unknown.
        role: the allowed operations.
        namespaces: where they are allowed; None: in all.
        token_id: the token of the request; empty without one.
    """

    name: str
    role: Role
    namespaces: frozenset[str] | None = None
    token_id: str = ""

    @property
    def visible(self) -> frozenset[str] | None:
        """The readable namespaces; None: all."""
        return self.namespaces

    @property
    def may_observe(self) -> bool:
        """Whether it may see the state of the whole installation (metrics, readiness reasons)."""
        return self.namespaces is None

    @property
    def is_admin(self) -> bool:
        """Whether it may administer the whole installation."""
        return self.role is Role.ADMIN

    def may_read(self, namespace: str) -> bool:
        """Whether it may read jobs of this namespace."""
        return self.namespaces is None or namespace in self.namespaces

    def may_write(self, namespace: str) -> bool:
        """Whether it may submit and change jobs of this namespace."""
        return self.role is not Role.READER and self.may_read(namespace)

    def require_read(self, namespace: str) -> None:
        """Require read access to a namespace that the request names.

        Raises:
            Forbidden: the token does not include it.
        """
        if not self.may_read(namespace):
            raise Forbidden(
                f"the token {self.name!r} does not include the namespace {namespace!r:.80}; use one that does"
            )

    def require_write(self, namespace: str) -> None:
        """Require write access to a namespace.

        Call it only for jobs that the principal may see: others are "not found".

        Raises:
            Forbidden: the token's role or namespaces do not allow it.
        """
        if self.may_write(namespace):
            return
        if self.role is Role.READER:
            raise Forbidden(
                f"the token {self.name!r} has the role {self.role}; use one with the role {Role.WRITER} for"
                f" the namespace {namespace!r:.80}"
            )
        raise Forbidden(
            f"the token {self.name!r} is for {_listed(self.namespaces or ())}, not for the namespace"
            f" {namespace!r:.80}; use a token for that one"
        )

    def require_some_write(self) -> None:
        """Require write access to any namespace.

        Raises:
            Forbidden: the token's role allows none.
        """
        self.require_write(min(self.namespaces or (DEFAULT_NAMESPACE,)))

    def require_admin(self) -> None:
        """Require the right to administer the installation.

        Raises:
            Forbidden: the token has another role.
        """
        if not self.is_admin:
            raise Forbidden(
                f"the token {self.name!r} has the role {self.role}, but this concerns the whole installation;"
                f" use one with the role {Role.ADMIN}"
            )

    def require_observe(self) -> None:
        """Require the right to see the state of the whole installation.

        Raises:
            Forbidden: the token is limited to some namespaces.
        """
        if not self.may_observe:
            raise Forbidden(
                f"the token {self.name!r} is for {_listed(self.namespaces or ())}, but this concerns the"
                " whole installation; use a token for all namespaces"
            )


ANONYMOUS: Final = Principal(name="", role=Role.READER, namespaces=frozenset())
"""The principal of routes that need no token; it may not see any job."""

_LOCAL: Final = Principal(name="", role=Role.ADMIN)
_SHOWN_NAMESPACES: Final = 5


def local_principal(actor: str) -> Principal:
    """Return the principal of a service without tokens: a user of this machine, with every right.

    Args:
        actor: the name they state; empty for none.
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
