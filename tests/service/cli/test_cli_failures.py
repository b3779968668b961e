"""A service's refusal is the error that a local call would have raised, with the same exit code."""

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
    # What the view itself says names a path, so the service says this instead.
    ViewBusy("another process keeps the view locked; the service's log has the request's ID and says more"),
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
    """What the service's own translation makes of it, translated back."""
    from jobledger.service.api.problems import problem_response_parts

    status, headers, body = problem_response_parts(error, {"path": "/jobs", "state": {"request_id": "r"}})
    return error_of(status, body, dict(headers).get(b"retry-after", b"").decode())


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_back_with_its_message_and_exit_code(error: JobledgerError) -> None:
    """One table there, one table here; together they change neither words nor code."""
    back = over_the_wire(error)
    assert str(back) == str(error)
    assert exit_code(back) == exit_code(error)
    assert isinstance(error, type(back)) or isinstance(back, type(error).__mro__[1])


def test_what_an_error_carries_comes_back_with_it() -> None:
    """Problems with paths, candidates, the missed events, when to ask again."""
    spec, ambiguous, mismatch, busy = (over_the_wire(ERRORS[at]) for at in (1, 4, 8, 23))
    assert isinstance(spec, errors.InvalidSpec)
    assert spec.problems == ERRORS[1].problems  # type: ignore[attr-defined]
    assert isinstance(ambiguous, AmbiguousId)
    assert ambiguous.candidates == ("j-1", "j-2")
    assert isinstance(mismatch, errors.RevisionMismatch)
    assert (mismatch.job_id, mismatch.revision, mismatch.missed) == ("j-1", 2, (MISSED,))
    assert isinstance(busy, TooManyRequests)
    assert busy.retry_after_seconds == 7


def test_an_error_is_told_line_by_line_and_harmlessly(capsys: pytest.CaptureFixture[str]) -> None:
    """Problems and missed events stand on lines of their own; control characters are written out."""
    for at in (1, 8):
        print_error(over_the_wire(ERRORS[at]))
    print_error(errors.JobNotFound("no job \x1b[2J"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["Error: the spec is invalid: 2 problems", "  Type: missing; add it", "  bad"]
    assert lines[3:5] == ["Error: has revision 2", "Events since then, up to revision 2:"]
    assert lines[5].startswith("  revision 2 (version 1): state to Running by scheduler, ")
    assert lines[5].endswith(" ago: placed")
    assert lines[6:] == ["Error: no job \\x1b[2J"]


def test_advice_is_given_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A hint whose words the message has says nothing new; that of a timeout is in its message."""
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
def test_an_answer_that_is_no_problem_document_is_told_all_the_same(status: int, body: bytes) -> None:
    """A proxy in between, or another program: the status is named, and that it may be the wrong address."""
    error = error_of(status, body)
    assert isinstance(error, RemoteError)
    assert f"HTTP {status}" in str(error)
    assert "is this the address of a Jobledger service?" in str(error)


def test_a_code_of_a_newer_service_is_told_with_its_name() -> None:
    """Nothing is lost of a problem that this release does not know."""
    error = error_of(418, msgspec.json.encode({"Code": "Teapot", "detail": "short", "Hint": "pour"}))
    assert str(error) == "short (HTTP 418, Teapot)"
    assert error.__notes__ == ["pour"]


def test_times_keep_their_nanoseconds() -> None:
    """All nine digits, whatever the offset; what is no time is 0."""
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
def test_a_command_that_an_error_names_acts_on_the_same_log(arguments: list[str], command: str) -> None:
    """Copied literally, it has the flags of the command that failed; what has flags keeps them."""
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


def test_a_named_command_gets_only_flags_that_it_takes() -> None:
    """`audit accept-log` works on files alone."""
    text = with_flags("`jobledger audit accept-log`", ["serve", "--nats-url", "n", "--data-dir", "d"])
    assert text == "`jobledger audit accept-log --data-dir d`"
