"""Errors have one format, and each error of the tree has a status."""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from jobledger.projections import errors as view_errors
from jobledger.service import errors as service_errors
from jobledger.service.api.problems import kind_of, problem_response
from jobledger.service.errors import INTERNAL, MethodNotAllowed, RouteNotFound
from jobledger.store.model import errors

SCOPE = {"path": "/api/v1/orchestrator/jobs/x", "method": "GET", "state": {"request_id": "r-1"}}
ABSTRACT = {errors.JobledgerError, service_errors.ServiceError}
OF_THE_CLIENT = {"OutputFailed", "ProofError", "RemoteError", "ServiceUnreachable"}  # never leave the service


def tree(cls: type[errors.JobledgerError]) -> Iterator[type[errors.JobledgerError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from tree(child)


KINDS = sorted(
    {
        cls
        for cls in tree(errors.JobledgerError)
        if cls.__module__.endswith(".errors") and cls.__name__ not in OF_THE_CLIENT
    }
    - ABSTRACT,
    key=lambda cls: cls.__name__,
)


def make(cls: type[errors.JobledgerError]) -> errors.JobledgerError:
    """An error of this class, without calling its constructor."""
    error = cls.__new__(cls)
    Exception.__init__(error, "what is wrong")
    fields = {
        "problems": (),
        "missed": (),
        "candidates": (),
        "revision": 3,
        "sequence": 4,
        "retry_after_seconds": 2,
        "allow": b"GET",
    }
    for name, value in (fields | {"job_id": "j-1", "event_id": "e-1"}).items():
        setattr(error, name, value)
    return error


def test_every_class_of_the_error_tree_has_exactly_one_entry() -> None:
    """The table names each public class of the three `errors` modules once, and nothing else."""
    public = {
        cls
        for cls in tree(errors.JobledgerError)
        if cls.__module__.endswith(".errors") and not cls.__name__.startswith("_")
    }
    assert set(service_errors.ERROR_KINDS) == public
    source = Path(inspect.getfile(service_errors)).read_text()
    table = source.partition("ERROR_KINDS: Final")[2].partition("\n}\n")[0]
    entries = re.findall(r"^    (?:store\.|view\.)?(\w+): ", table, re.MULTILINE)
    assert sorted(entries) == sorted(cls.__name__ for cls in public)


@pytest.mark.parametrize("cls", KINDS, ids=lambda cls: cls.__name__)
def test_every_error_class_has_a_status(cls: type[errors.JobledgerError]) -> None:
    """None of them is an internal error, and their messages are complete."""
    response = problem_response(make(cls), SCOPE)
    status, headers, problem = response.status, response.headers, msgspec.json.decode(response.body)
    assert kind_of(make(cls)) is not INTERNAL
    assert problem["Message"] == problem["detail"]
    is_masked = issubclass(cls, view_errors.ViewError) and cls is not view_errors.TreeUnavailable
    assert problem["Message"] == "what is wrong" or cls is errors.InvalidSpec or is_masked
    assert (problem["status"], problem["Status"], status) == (status, status, status)
    assert problem["type"] == f"urn:jobledger:problem:{problem['Code']}"
    assert (problem["RequestID"], problem["instance"]) == ("r-1", SCOPE["path"])
    assert dict(headers)[b"content-type"] == b"application/problem+json"


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidSpec([]), 400, "ValidationError"),
        (errors.InvalidInput(""), 400, "BadRequest"),
        (view_errors.VersionNotFound(""), 404, "NotFound"),
        (view_errors.AmbiguousId("", candidates=["j-1"]), 409, "MultipleJobsFound"),
        (errors.JobExists("", job_id="j-1"), 409, "ResourceInUse"),
        (errors.JobTerminal(""), 409, "ConflictJobState"),
        (errors.RevisionMismatch("", job_id="j-1", revision=2), 412, "ConflictJobRevision"),
        (errors.Contention("", job_id="j-1", revision=2), 409, "ConflictJobRevision"),
        (errors.OutcomeUnknown("", event_id="e-1"), 503, "OutcomeUnknown"),
        (errors.LogUnavailable(""), 503, "LogUnavailable"),
        (service_errors.CursorGone(""), 410, "CursorGone"),
        (service_errors.IdempotencyKeyReused(""), 422, "IdempotencyKeyReused"),
        (service_errors.TooManyRequests(""), 429, "TooManyRequests"),
        (RouteNotFound("/x"), 404, "NotFound"),
        (MethodNotAllowed("PUT", "/x", b"GET"), 405, "MethodNotAllowed"),
        (ZeroDivisionError("secret"), 500, "InternalError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_statuses_and_codes_are_a_contract(error: Exception, status: int, code: str) -> None:
    """Clients test these codes; an internal error reveals no details."""
    response = problem_response(error, SCOPE)
    assert (response.status, msgspec.json.decode(response.body)["Code"]) == (status, code)
    assert b"secret" not in response.body


@pytest.mark.parametrize(
    "cls",
    [cls for cls in tree(view_errors.ViewError) if cls is not view_errors.TreeUnavailable],
    ids=lambda cls: cls.__name__,
)
def test_no_path_of_the_server_is_revealed(
    cls: type[view_errors.ViewError], caplog: pytest.LogCaptureFixture
) -> None:
    """The response has the problem of the view; the path of its file is only in the service's log."""
    response = problem_response(cls("the view /srv/a b/view.db is wrong"), SCOPE)
    body, message = response.body, msgspec.json.decode(response.body)["Message"]
    assert (response.status, "view" in message, "log" in message) == (503, True, True)
    assert b"srv" not in body
    assert b"view.db" not in body
    assert "request r-1: the view /srv/a b/view.db is wrong" in caplog.text


def test_retry_after_is_sent_where_a_retry_may_succeed() -> None:
    """429 and 503 carry Retry-After, 401 says how to authenticate."""
    assert (b"retry-after", b"7") in problem_response(
        service_errors.TooManyRequests("", retry_after_seconds=7), SCOPE
    ).headers
    assert (b"retry-after", b"1") in problem_response(errors.LogUnavailable(""), SCOPE).headers
    assert (b"www-authenticate", b"Bearer") in problem_response(
        service_errors.Unauthorized(""), SCOPE
    ).headers


def test_an_unpaired_surrogate_does_not_break_the_response() -> None:
    """It is escaped in paths and messages."""
    response = problem_response(errors.JobNotFound("\udcff"), {"path": "/\udcff"})
    assert msgspec.json.decode(response.body)["instance"] == "/\\udcff"
