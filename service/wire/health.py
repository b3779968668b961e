"""The service itself: its release, how to log in, and problem documents. Pure."""

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from jobledger.service.wire.jobs import HistoryItem


class Alive(msgspec.Struct, rename="pascal"):
    """The process responds."""

    status: str


class AgentVersion(msgspec.Struct, rename="pascal"):
    """The release, in the form that Bacalhau's clients read."""

    product: str
    major: str
    minor: str
    git_version: str
    git_commit: str
    build_date: str
    goos: str = field(name="GOOS")
    goarch: str = field(name="GOARCH")


class LoginMethod(msgspec.Struct):
    """A way to log in."""

    type: str
    params: dict[str, str]


class LoginMethods(msgspec.Struct, rename="pascal"):
    """The ways to log in, by name."""

    methods: dict[str, LoginMethod]


class Authentication(msgspec.Struct):
    """The result of logging in."""

    success: bool
    token: str


class LogIn(msgspec.Struct, rename="pascal"):
    """The result of logging in."""

    authentication: Authentication


class LoginConfiguration(msgspec.Struct, rename="pascal"):
    """Single sign-on: an empty configuration."""

    version: str
    config: Annotated[dict[str, str], Meta(max_length=0)]


class Fault(msgspec.Struct, rename="pascal"):
    """One problem of a spec."""

    path: str
    message: str
    remedy: str | UnsetType = UNSET


class Problem(msgspec.Struct):
    """An RFC 9457 problem that also has the fields of Bacalhau's errors.

    `Status`, Bacalhau's name for `status`, is in every problem too. It is not declared: generated clients do
    not compile with two fields whose names differ only in case.
    """

    type: Annotated[str, Meta(pattern="^urn:jobledger:problem:")]
    title: str
    status: int
    detail: str
    instance: str
    message: str = field(name="Message")
    request_id: str = field(name="RequestID")
    code: str = field(name="Code")
    component: str = field(name="Component")
    hint: str | UnsetType = field(name="Hint", default=UNSET)
    details: dict[str, str] | UnsetType = field(name="Details", default=UNSET)
    problems: list[Fault] | UnsetType = field(name="Problems", default=UNSET)
    revision: int | UnsetType = field(name="Revision", default=UNSET)
    sequence: int | UnsetType = field(name="Sequence", default=UNSET)
    missed: list[HistoryItem] | UnsetType = field(name="Missed", default=UNSET)
    candidates: list[str] | UnsetType = field(name="Candidates", default=UNSET)
    event_id: str | UnsetType = field(name="EventID", default=UNSET)
    job_id: str | UnsetType = field(name="JobID", default=UNSET)
