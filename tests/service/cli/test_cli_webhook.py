"""`jobledger webhook` and `jobledger subscriptions` against a real service and receiver."""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook as Verifier

from jobledger.service.webhooks.message import parse_secret
from tests.support.command_line import Operator
from tests.support.http_servers import QuietHandler, served
from tests.support.service_process import RunningService, running_service
from tests.support.webhooks import SECRET

WITHIN_SECONDS = 60.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service that may send to this machine."""
    home = tmp_path_factory.mktemp("service")
    with running_service(home, "--webhook-allow", "127.0.0.0/8") as running:
        yield running


class Inbox:
    """A receiver: records events, and responds as configured."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.refuses: Callable[[dict[str, Any]], bool] = lambda _: False
        self.url = ""

    def take(self, headers: dict[str, str], body: bytes) -> int:
        """Handle a POST; returns the status of the response."""
        self.got.append((headers, body))
        return 500 if self.refuses(json.loads(body)) else 204


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    """A receiver on this machine."""
    receiver = Inbox()

    class Handler(QuietHandler):
        def do_POST(self) -> None:  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(receiver.take({**self.headers}, body))
            self.end_headers()

    with served(Handler) as receiver.url:
        yield receiver


@pytest.fixture
def operator(service: RunningService, tmp_path: Path) -> Operator:
    """Runs commands with their own home directory."""
    return Operator(service, tmp_path)


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition in another process holds."""
    deadline = time.monotonic() + WITHIN_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_generated_secret_is_all_of_standard_output(operator: Operator, inbox: Inbox) -> None:
    """For a file or a variable; the receiver verifies with it."""
    done = operator("webhook", "add", inbox.url, "--name", "made", "--type", "state", "--state", "failed")
    secret = done.stdout.strip()
    assert parse_secret(secret) == secret
    assert "only this once" in done.stderr
    tested = operator("webhook", "test", "made")
    assert tested.stdout.startswith("made: accepted with status 204")
    Verifier(secret).verify(inbox.got[0][1], inbox.got[0][0])
    shown = operator("webhook", "show", "made").stdout + operator("webhook", "list").stdout
    assert "whsec_********" in shown
    assert "state into Failed" in shown
    assert secret not in shown
    inbox.refuses = lambda _: True
    assert "not accepted: it answered 500" in operator("webhook", "test", "made", code=1).stdout
    operator("webhook", "delete", "made", "--yes")


def test_given_secret_is_never_printed(operator: Operator, inbox: Inbox, tmp_path: Path) -> None:
    """From the flag, a file, or the environment; one source at a time."""
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    done = operator("webhook", "add", inbox.url, "--name", "brought", "--secret-file", str(file))
    assert (done.stdout, SECRET in done.stderr) == ("", False)
    operator("webhook", "test", "brought")
    Verifier(SECRET).verify(inbox.got[0][1], inbox.got[0][0])
    both = operator("webhook", "rotate", "brought", "--secret", SECRET, "--secret-file", str(file), code=2)
    assert "contradict" in both.stderr
    new = operator("webhook", "rotate", "brought", "--overlap", "1h").stdout.strip()
    operator("webhook", "test", "brought")
    headers, body = inbox.got[-1]
    for secret in (SECRET, new):
        Verifier(secret).verify(body, headers)
    operator("webhook", "delete", "brought", "--yes")


def test_json_contains_the_whole_response(operator: Operator, inbox: Inbox) -> None:
    """As in the API; names alone with --quiet."""
    added = operator.json("webhook", "add", inbox.url, "--name", "machine", "--from-beginning", "-l", "a=b")
    assert parse_secret(added["Secret"])
    assert added["Webhook"]["After"].endswith("-0")
    found = operator.json("webhook", "show", "machine")
    assert found == operator.json("webhook", "list")["Items"][0]
    assert (found["URL"], found["Labels"], found["State"]) == (inbox.url, ["a=b"], "enabled")
    assert operator("webhook", "list", "-q").stdout == "machine\n"
    operator("webhook", "pause", "machine")
    assert operator.json("webhook", "show", "machine")["State"] == "paused"
    operator("webhook", "resume", "machine")
    assert operator.json("webhook", "show", "machine")["State"] == "enabled"
    operator("webhook", "delete", "machine", "--yes")


def test_both_lists_show_filters_and_times_alike(operator: Operator, inbox: Inbox) -> None:
    """Events, lag, and creation in local time."""
    which = ("--type", "state", "--state", "failed", "-n", "prod", "--selector", "a=b")
    operator("webhook", "add", inbox.url, "--name", "same", *which, "-q")
    name = "webhook-same"
    until(lambda: name in operator("subscriptions", "list", "-q").stdout)
    webhook, subscription = (
        operator(*words).stdout for words in (("webhook", "show", "same"), ("subscriptions", "show", name))
    )
    created = r"Created +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
    for shown in (webhook, subscription):
        assert re.search(r"Events +state into Failed in prod with a=b\n", shown)
        assert re.search(r"Gap +0 events, 0s\n", shown)
        assert re.search(rf"{created}( by .+)?\n", shown)
    for words in (("webhook", "list"), ("subscriptions", "list")):
        assert "state into Failed in prod with a=b" in operator(*words).stdout
    operator("webhook", "delete", "same", "--yes")
    until(lambda: operator.json("subscriptions", "list")["Items"] == [])


def test_destructive_commands_ask_for_confirmation(operator: Operator, inbox: Inbox) -> None:
    """No answer means no."""
    operator("webhook", "add", inbox.url, "--name", "asked")
    for words in (
        ("webhook", "delete", "asked"),
        ("subscriptions", "delete", "webhook-asked"),
        ("subscriptions", "reset", "webhook-asked", "--after", "0"),
        ("subscriptions", "skip", "webhook-asked", "j-1"),
    ):
        operator(*words, code=130)
        operator(*words, code=130, stdin="n\n")
    assert operator("webhook", "delete", "asked", stdin="y\n").returncode == 0


def test_missing_names_are_reported(operator: Operator) -> None:
    """With exit code 3 and a hint."""
    for words, said in (
        (("webhook", "show", "none"), "webhook list"),
        (("webhook", "delete", "none", "--yes"), "webhook list"),
        (("subscriptions", "show", "none"), "subscriptions list"),
        (("subscriptions", "parked", "none"), "subscriptions list"),
        (("subscriptions", "retry", "none", "--all"), "subscriptions list"),
        (("subscriptions", "delete", "none", "--yes"), "subscriptions list"),
    ):
        assert said in operator(*words, code=3).stderr
    operator("subscriptions", "retry", "none", code=2)
    operator("subscriptions", "retry", "none", "j-1", "--all", code=2)
    operator("webhook", "add", "https://a.example/", "--after", "0", "--from-beginning", code=2)
    assert "webhook_allow" in operator("webhook", "add", "https://10.0.0.1/", code=2).stderr
    assert "No webhooks" in operator("webhook", "list").stderr


def test_failing_job_is_shown_and_repaired(operator: Operator, inbox: Inbox) -> None:
    """List, show, parked, retry, skip, reset and delete in one scenario."""
    inbox.refuses = lambda event: event["type"].endswith("created.v1")
    job_id = operator("job", "run", operator.spec("stuck"), "-q").stdout.strip()
    operator("webhook", "add", inbox.url, "--name", "story", "--from-beginning", "-q")
    name = "webhook-story"
    until(lambda: name in operator("subscriptions", "list", "-q").stdout)
    until(lambda: operator.json("subscriptions", "parked", name)["Total"] == 1)
    table = operator("subscriptions", "parked", name).stdout
    assert job_id not in table
    assert table.splitlines()[1].split()[:3] == [job_id[:10], "stuck", "retrying"]
    assert "it answered 500" in table
    assert operator("subscriptions", "parked", name, "-q").stdout == f"{job_id}\n"
    (listed,) = operator.json("subscriptions", "list")["Items"]
    assert (listed["Name"], listed["Retrying"], listed["Form"]) == (name, 1, "alone")
    assert name in operator("subscriptions", "list").stdout
    shown = operator("subscriptions", "show", name).stdout
    assert "Retrying   1\n" in shown
    assert "yes" in shown
    operator("job", "set-state", "stuck", "Running")
    for ref in ("stuck", job_id, job_id[:10]):
        assert "retrying 1 job" in operator("subscriptions", "retry", name, ref).stderr
    hint = operator("subscriptions", "retry", name, "stuck", "-n", "elsewhere", code=3).stderr
    assert f"`jobledger subscriptions parked {name}`" in hint
    refused = operator("subscriptions", "delete", name, "--yes", code=5).stderr
    assert "`jobledger webhook delete story`" in refused
    operator("subscriptions", "skip", name, "stuck", "--yes")
    until(lambda: operator.json("subscriptions", "parked", name)["Total"] == 0)
    assert json.loads(inbox.got[-1][1])["type"] == "jobledger.job.state.v1"
    inbox.refuses = lambda _: False
    before = len(inbox.got)
    assert "restarted" in operator("subscriptions", "reset", name, "--after", "0", "--yes").stderr
    until(lambda: len(inbox.got) >= before + 2)
    operator("webhook", "delete", "story", "--yes")
    until(lambda: operator.json("subscriptions", "list")["Items"] == [])


def test_webhook_and_subscription_commands_accept_both_names(operator: Operator, inbox: Inbox) -> None:
    """A name that matches neither is not found."""
    operator("webhook", "add", inbox.url, "--name", "two-names")
    until(lambda: "webhook-two-names" in operator("subscriptions", "list", "-q").stdout.split())
    for name in ("two-names", "webhook-two-names"):
        assert operator.json("webhook", "show", name)["Name"] == "two-names"
        assert operator.json("subscriptions", "show", name)["Name"] == "webhook-two-names"
        operator("webhook", "pause", name)
        operator("webhook", "resume", name)
    operator("webhook", "show", "webhook-none", code=3)
    missing = operator("subscriptions", "show", "none", code=3)
    assert "webhook-none" not in missing.stderr
    operator("webhook", "delete", "webhook-two-names", "--yes")
