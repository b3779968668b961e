"""`events tail` and `history --follow` lose and repeat nothing across lost connections."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from jobledger.service.client.event_stream import EventStream
from jobledger.service.client.transport import Target, Transport
from jobledger.service.errors import CursorGone, ServiceUnreachable
from jobledger.service.limits import CLIENT_FEED_MAX_TRIES
from tests.support.http_servers import QuietHandler, served
from tests.support.service_process import clean_env, default_signals, jobledger, running_service

ROOT = Path(__file__).parents[3]
SPEC = '{"Name": "%s", "Type": "batch", "Tasks": [{"Name": "main", "Engine": {"Type": "noop"}}]}'


def event(sequence: int) -> str:
    data = json.dumps({"sequence": sequence})
    return f"id: abcdefabcdef-{sequence}\nevent: jobledger.job.state.v1\ndata: {data}\n\n"


HEARTBEAT = ": heartbeat abcdefabcdef-%d\n\n"
CLOSE = 'id: abcdefabcdef-%d\nevent: close\ndata: {"reason": "draining"}\n\n'


@contextmanager
def scripted(answers: Sequence[str | tuple[int, str]]) -> Iterator[tuple[str, list[str]]]:
    """A server with one scripted feed per request, then closes; records `after` of each request."""
    asked: list[str] = []
    left = list(answers)

    class Handler(QuietHandler):
        def do_GET(self) -> None:  # noqa: N802
            asked.append(parse_qs(urlsplit(self.path).query).get("after", [""])[0])
            answer = left.pop(0) if left else (410, '{"Code": "CursorGone", "detail": "script is over"}')
            status, body = answer if isinstance(answer, tuple) else (200, answer)
            self.send_response(status)
            self.send_header("Content-Type", "text/event-stream" if status == 200 else "application/json")
            self.end_headers()
            self.wfile.write(body.encode())

    with served(Handler) as url:
        yield url, asked


def collect(feed: EventStream, found: list[int]) -> None:
    """The sequences of the events, until an error."""
    found.extend(each.wire["sequence"] for each in feed.events())


def test_lost_connection_resumes_after_the_last_event() -> None:
    """Cut within an event, closed by the service, refused for a moment: each event arrives once."""
    answers: list[str | tuple[int, str]] = [
        event(1) + event(2) + event(3)[:20],
        event(3) + CLOSE % 5,
        (503, '{"Code": "NotReady", "detail": "draining"}'),
        event(7),
    ]
    with scripted(answers) as (url, asked):
        reports: list[str] = []
        found: list[int] = []
        transport = Transport(Target(url))
        feed = EventStream(transport, {}, after="0", report=reports.append, sleep=lambda _: None)
        with pytest.raises(CursorGone):
            collect(feed, found)
        transport.close()
    assert found == [1, 2, 3, 7]
    assert asked == ["0", *(f"abcdefabcdef-{number}" for number in (2, 5, 5, 7))]
    assert "resuming after abcdefabcdef-2" in reports[0]
    assert feed.cursor == "abcdefabcdef-7"


def test_feed_from_now_learns_its_position_from_a_heartbeat() -> None:
    """It can resume before its first event; a heartbeat never moves the position back."""
    with scripted([HEARTBEAT % 41, HEARTBEAT % 42 + event(43) + HEARTBEAT % 42]) as (url, asked):
        transport = Transport(Target(url))
        feed = EventStream(transport, {}, report=lambda _: None, sleep=lambda _: None)
        found: list[int] = []
        with pytest.raises(CursorGone):
            collect(feed, found)
        transport.close()
    assert found == [43]
    assert asked == ["", "abcdefabcdef-41", "abcdefabcdef-43"]


def test_unreachable_service_is_retried_with_growing_waits_up_to_a_limit() -> None:
    """The number of tries in a row and the longest wait are limited."""
    waits: list[float] = []
    transport = Transport(Target("http://127.0.0.1:9"))
    transport.has_responded = True
    feed = EventStream(transport, {}, report=lambda _: None, sleep=waits.append)
    with pytest.raises(ServiceUnreachable):
        next(feed.events())
    transport.close()
    assert len(waits) == CLIENT_FEED_MAX_TRIES - 1
    limits = [min(0.5 * 2**number, 10.0) for number in range(len(waits))]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))


def test_service_that_never_responded_is_not_retried() -> None:
    """The first refused connection ends the tail."""
    waits: list[float] = []
    transport = Transport(Target("http://127.0.0.1:9"))
    feed = EventStream(transport, {}, report=lambda _: None, sleep=waits.append)
    with pytest.raises(ServiceUnreachable):
        next(feed.events())
    transport.close()
    assert waits == []


@pytest.mark.slow
def test_revoked_token_ends_the_tail(tmp_path: Path) -> None:
    """With exit code 7 and the reason, without a retry."""
    with running_service(tmp_path) as service:
        data = ("--data-dir", str(service.data_dir))
        made = jobledger(tmp_path, "token", "create", "--name", "ci", "--role", "admin", *data)
        env = {"JOBLEDGER_TOKEN": made.stdout.strip()}
        tail = start(tmp_path, service.url, "events", "tail", "--after", "0", **env)
        assert tail.stdout is not None
        jobledger(tmp_path, "job", "run", "-", url=service.url, stdin=SPEC % "one", env=env)
        tail.stdout.readline()
        jobledger(tmp_path, "token", "revoke", "ci", *data)
        _, errors = tail.communicate(timeout=30)
    assert tail.returncode == 7
    assert errors.splitlines()[1:] == ["Error: the token was revoked, so the service closed the feed"]
    assert errors.startswith("Resume with: --after ")


def start(home: Path, url: str, *words: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jobledger.service.cli.main", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_env(home, {"JOBLEDGER_URL": url, **env}),
        cwd=ROOT,
        preexec_fn=default_signals,  # noqa: PLW1509 - plain calls only
    )


@pytest.mark.slow
def test_tail_survives_a_restart_of_the_service_and_prints_its_cursor(tmp_path: Path) -> None:
    """Events before and after the restart arrive once, in order; Ctrl-C is 130 with the cursor."""
    with running_service(tmp_path) as first:
        port = first.url.rpartition(":")[2]
        tail = start(tmp_path, first.url, "events", "tail", "--after", "0", "-o", "ndjson")
        assert tail.stdout is not None
        jobledger(tmp_path, "job", "run", "-", url=first.url, stdin=SPEC % "one")
        events = [json.loads(tail.stdout.readline())]
    with running_service(tmp_path, "--port", port) as second:
        jobledger(tmp_path, "job", "run", "-", url=second.url, stdin=SPEC % "two")
        events.append(json.loads(tail.stdout.readline()))
        tail.send_signal(signal.SIGINT)
        rest, errors = tail.communicate(timeout=30)
        assert (tail.returncode, rest) == (130, "")
        assert "Traceback" not in errors
        assert [int(each["sequence"]) for each in events] == [1, 2]
        assert f"--after {events[1]['cursor']}" in errors.splitlines()[-1]
        assert any("resuming after" in line for line in errors.splitlines())
        more = jobledger(
            tmp_path,
            "events",
            "tail",
            "--after",
            events[0]["cursor"],
            "--limit",
            "1",
            "-o",
            "json",
            url=second.url,
        )
        assert int(json.loads(more.stdout)["sequence"]) == 2


@pytest.mark.slow
def test_followed_history_ends_with_the_job(tmp_path: Path) -> None:
    """Each event is printed when it happens."""
    with running_service(tmp_path) as service:
        jobledger(tmp_path, "job", "run", "-", url=service.url, stdin=SPEC % "f")
        follow = start(tmp_path, service.url, "job", "history", "f", "--follow")
        assert follow.stdout is not None
        assert follow.stdout.readline().startswith("Time")
        assert "created" in follow.stdout.readline()
        jobledger(tmp_path, "job", "set-state", "f", "Running", url=service.url)
        assert "Running" in follow.stdout.readline()
        jobledger(tmp_path, "job", "set-state", "f", "Completed", "--message", "done", url=service.url)
        rest, errors = follow.communicate(timeout=30)
        assert rest.splitlines()[-1].endswith("done")
        assert (follow.returncode, errors) == (0, "")


@pytest.mark.slow
def test_tail_is_filtered_and_escaped(tmp_path: Path) -> None:
    """Job, type and state filter; names are escaped."""
    with running_service(tmp_path) as service:
        for name in ("a", "b\\u001b[31m"):
            jobledger(tmp_path, "job", "run", "-", url=service.url, stdin=SPEC % name)
        jobledger(tmp_path, "job", "set-state", "a", "Running", url=service.url)

        def lines(*words: str, limit: int) -> list[str]:
            done = jobledger(
                tmp_path, "events", "tail", "--after", "0", "--limit", str(limit), *words, url=service.url
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()

        created = lines("--type", "created", limit=2)
        assert created[1].endswith("b\\x1b[31m")
        assert "  Running    v1 r2  " in lines("--job", "a", "--state", "running", limit=1)[0]
        gone = jobledger(tmp_path, "events", "tail", "--after", "abcdefabcdef-1", url=service.url)
        assert gone.returncode == 1
        assert "Resume with" not in gone.stderr
        wrong = jobledger(tmp_path, "events", "tail", "--after", "foo", url=service.url)
        assert wrong.returncode == 2
        assert "Resume with" not in wrong.stderr
        assert "another stream" in gone.stderr
