"""An error response of the service becomes the error of a local call, with the same exit code."""

import msgspec
import pytest

from jobledger.projections.errors import AmbiguousId, VersionNotFound, ViewBusy, WaitTimeout
from jobledger.service import errors as service_errors
from jobledger.service.cli.errors import print_error, with_flags
from jobledger.service.cli.times import nanoseconds_of
from jobledger.service.client.errors import error_of
from jobledger.service.errors import RemoteError, TooManyRequests, exit_code
from jobledger.store.model import errors
from jobledger.store.model.errors import JobledgerError, Problem
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import State, StateType

MISSED = HistoryItem(
    sequence=9,
    time=1_795_376_182_909_157_664,
    type="jobledger.job.state.v1",
    event_id="e",
    version=1,
    revision=2,
    state=State(StateType.RUNNING, "on \x1b[1m3"),
    actor="scheduler",
    reason="placed",
)
ERRORS: list[JobledgerError] = [
    errors.InvalidInput("limit is 0"),
    errors.InvalidSpec([Problem("Type", "missing", "add it"), Problem("", "bad")]),
    errors.JobNotFound("no job"),
    VersionNotFound("no version"),
    AmbiguousId("several", candidates=["j-1", "j-2"]),
    errors.JobExists("there", job_id="j-1"),
    errors.JobTerminal("ended"),
    errors.JobNotRerunnable("pending"),
    errors.RevisionMismatch("has revision 2", job_id="j-1", revision=2, missed=[MISSED]),
    errors.Contention("lost", job_id="j-1", revision=2),
    errors.LogUnavailable("away"),
    errors.LogBusy("busy"),
    errors.LogRefused("full"),
    errors.LogUnfit("old"),
    errors.OutcomeUnknown("unknown", event_id="e"),
    # The message of the view names a path, so the service replaces it.
    ViewBusy("another process has locked the view; the service's log has the details under the request's ID"),
    WaitTimeout("behind"),
    service_errors.Unauthorized("who?"),
    service_errors.Forbidden("no"),
    service_errors.CursorGone("gone"),
    service_errors.IdempotencyKeyReused("used"),
    service_errors.PayloadTooLarge("large"),
    service_errors.UnsupportedMediaType("what?"),
    service_errors.TooManyRequests("slow", retry_after_seconds=7),
    service_errors.Timeout("late"),
    service_errors.NotReady("draining"),
    errors.StoreDamaged("files are damaged"),
]


def over_the_wire(error: JobledgerError) -> JobledgerError:
    """The error, translated to a problem document and back."""
    from jobledger.service.api.problems import problem_response

    answer = problem_response(error, {"path": "/jobs", "state": {"request_id": "r"}})
    return error_of(answer.status, answer.body, dict(answer.headers).get(b"retry-after", b"").decode())


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_error_keeps_its_message_and_exit_code_over_http(error: JobledgerError) -> None:
    """Both directions use one table."""
    back = over_the_wire(error)
    assert str(back) == str(error)
    assert exit_code(back) == exit_code(error)
    assert isinstance(error, type(back)) or isinstance(back, type(error).__mro__[1])


def test_error_keeps_its_fields_over_http() -> None:
    """Problems with paths, candidates, missed events, the time to retry."""
    spec, ambiguous, mismatch, busy = (over_the_wire(ERRORS[at]) for at in (1, 4, 8, 23))
    assert isinstance(spec, errors.InvalidSpec)
    assert spec.problems == ERRORS[1].problems  # type: ignore[attr-defined]
    assert isinstance(ambiguous, AmbiguousId)
    assert ambiguous.candidates == ("j-1", "j-2")
    assert isinstance(mismatch, errors.RevisionMismatch)
    assert (mismatch.job_id, mismatch.revision, mismatch.missed) == ("j-1", 2, (MISSED,))
    assert isinstance(busy, TooManyRequests)
    assert busy.retry_after_seconds == 7


def test_error_is_printed_line_by_line_and_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Problems and missed events are on their own lines."""
    for at in (1, 8):
        print_error(over_the_wire(ERRORS[at]))
    print_error(errors.JobNotFound("no job \x1b[2J"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["Error: the spec is invalid: 2 problems", "  Type: missing; add it", "  bad"]
    assert lines[3:5] == ["Error: has revision 2", "Events since then, up to revision 2:"]
    assert lines[5].startswith("  revision 2 (version 1): state to Running by scheduler, ")
    assert lines[5].endswith(" ago: placed")
    assert lines[6:] == ["Error: no job \\x1b[2J"]


def test_hint_that_repeats_the_message_is_omitted(capsys: pytest.CaptureFixture[str]) -> None:
    """A hint is printed only if it adds words."""
    error = errors.LogBusy("busy: nothing was written; try again")
    error.add_note("Nothing was written: try again")
    error.add_note("Look elsewhere")
    print_error(error)
    print_error(over_the_wire(WaitTimeout("behind; wait longer")))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"Error: {error}", "Hint: Look elsewhere", "Error: behind; wait longer"]


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (502, b"<html>Bad Gateway</html>"),
        (500, b""),
        (404, b"[]"),
        (400, b'{"Code": 7, "detail": [], "Problems": 3}'),
        (301, b"\xff\xfe"),
        (400, b"[" * 100_000),
    ],
)
def test_response_that_is_not_a_problem_document_is_an_error(status: int, body: bytes) -> None:
    """The status is named, and that the address may be wrong."""
    error = error_of(status, body)
    assert isinstance(error, RemoteError)
    assert f"HTTP {status}" in str(error)
    assert "is this the address of a Jobledger service?" in str(error)


def test_unknown_code_of_a_newer_service_is_named() -> None:
    """With its message and hint."""
    error = error_of(418, msgspec.json.encode({"Code": "Teapot", "detail": "short", "Hint": "pour"}))
    assert str(error) == "short (HTTP 418, Teapot)"
    assert error.__notes__ == ["pour"]


def test_times_keep_their_nanoseconds() -> None:
    """All nine digits, with any offset; invalid times are 0."""
    assert nanoseconds_of("2026-11-22T19:36:22.909157664Z") == 1_795_376_182_909_157_664
    assert nanoseconds_of("2026-11-22T20:36:22+01:00") == 1_795_376_182_000_000_000
    assert nanoseconds_of("soon") == 0


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["serve"], "streams create --accept-loss"),
        (
            ["serve", "--data-dir", "/var/my data", "--port", "0"],
            "streams create --accept-loss --data-dir '/var/my data'",
        ),
        (
            ["serve", "--data-dir=/x", "--nats-url=n"],
            "streams create --accept-loss --data-dir /x --nats-url n",
        ),
    ],
)
def test_command_in_an_error_message_uses_the_same_log(arguments: list[str], command: str) -> None:
    """It gets the flags of the failed command, unless it has flags."""
    assert (
        with_flags("lost: `jobledger streams create --accept-loss`", arguments)
        == f"lost: `jobledger {command}`"
    )
    for kept in (
        "`jobledger streams accept-damage --data-dir /y`",
        "`jobledger view damage`",
        "`jobledger serve`",
    ):
        assert with_flags(kept, arguments) == kept


def test_command_in_an_error_message_gets_only_its_own_flags() -> None:
    """`audit accept-log` works on files only."""
    text = with_flags("`jobledger audit accept-log`", ["serve", "--nats-url", "n", "--data-dir", "d"])
    assert text == "`jobledger audit accept-log --data-dir d`"
