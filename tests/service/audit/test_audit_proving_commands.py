"""`jobledger audit prove`, `check`, `consistency`, `verify` and `watch` against a real service."""

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from jobledger.service.audit.watch_command import send_alarm
from jobledger.service.limits import WATCH_WEBHOOK_MAX_TRIES
from tests.support.command_line import Operator
from tests.support.proofs import SIGNER
from tests.support.service_process import RunningService, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests of this module; it seals only on request."""
    flags = ("--seal-every-events", "0", "--seal-every-seconds", "0")
    with running_service(tmp_path_factory.mktemp("service"), *flags) as running:
        yield running


@pytest.fixture
def operator(service: RunningService, tmp_path: Path) -> Operator:
    return Operator(service, tmp_path)


@pytest.fixture
def keys(operator: Operator, tmp_path: Path) -> str:
    """A file with the service's keys."""
    path = tmp_path / "ledger.keys"
    path.write_text("# the ledger's\n\n" + operator("audit", "key", "show", "-q").stdout)
    return str(path)


def prove(operator: Operator, tmp_path: Path, job: str, *flags: str) -> str:
    """A proof in a file."""
    path = str(tmp_path / f"{job}.json")
    done = operator("audit", "prove", job, "-o", path, *flags)
    assert done.stdout == ""
    assert f"audit check {path}" in done.stderr
    return path


def test_a_job_is_proven_and_the_proof_checked_offline(operator: Operator, tmp_path: Path, keys: str) -> None:
    """A new seal is made if none covers the job; the check needs no connection."""
    operator("job", "run", operator.spec("etl"))
    operator("job", "set-state", "etl", "Running")
    path = prove(operator, tmp_path, "etl")
    offline = Operator.__new__(Operator)
    offline.url, offline.home = "http://127.0.0.1:1", tmp_path
    lines = offline("audit", "check", path, "--key", keys).stdout.splitlines()
    assert [line.split()[:2] for line in lines[:6]] == [
        ["ok", word] for word in ("seal", "origin", "job", "order", "inclusion", "story")
    ]
    assert lines[6].startswith("proven: job etl (j-")
    assert " was Running, version 1, revision 2, after event " in lines[6]
    reported = offline.json("audit", "check", path, "--key", keys)
    assert (reported["OK"], reported["Proven"]["State"], reported["Proven"]["Events"]) == (True, "Running", 2)
    from_stdin = offline("audit", "check", "-", "--key", keys, stdin=Path(path).read_text())
    assert from_stdin.stdout.splitlines() == lines


def test_a_failed_check_of_a_proof_exits_with_9(operator: Operator, tmp_path: Path, keys: str) -> None:
    """A changed record, another key, another job, another log."""
    operator("job", "run", operator.spec("checked"))
    path = Path(prove(operator, tmp_path, "checked"))
    for flags, check in (
        (("--key", str(SIGNER.key)), "seal"),
        (("--key", keys, "--job", "j-other"), "job"),
        (("--key", keys, "--origin", "jobledger/other"), "origin"),
    ):
        shown = operator("audit", "check", str(path), *flags, code=9).stdout
        assert f"FAIL  {check}" in shown
        assert shown.endswith("not proven\n")
    wire = json.loads(path.read_bytes())
    wire["records"][0]["time"] += 1
    path.write_text(json.dumps(wire))
    reported = json.loads(operator("audit", "check", str(path), "--key", keys, "-o", "json", code=9).stdout)
    assert (reported["OK"], reported["Proven"]) == (False, None), "nothing unproven is reported"
    path.write_text("{}")
    assert "not a proof bundle" in operator("audit", "check", str(path), "--key", keys, code=2).stderr


def test_later_events_without_a_seal_are_reported(operator: Operator, tmp_path: Path, keys: str) -> None:
    """With --no-seal the newest existing seal is used."""
    operator("job", "run", operator.spec("later"))
    operator("audit", "prove", "later", "--no-seal", code=6)
    prove(operator, tmp_path, "later")
    operator("job", "set-state", "later", "Running")
    path = str(tmp_path / "later.json")
    done = operator("audit", "prove", "later", "-o", path, "--no-seal")
    assert "Not covered: 1 later events of the job" in done.stderr
    assert operator.json("audit", "check", path, "--key", keys)["Proven"]["State"] == "Pending"
    to_stdout = operator("audit", "prove", "later", "-o", "-")
    assert json.loads(to_stdout.stdout)["format"] == "jobledger-proof"


def test_one_seal_extends_another(
    operator: Operator, tmp_path: Path, keys: str, service: RunningService
) -> None:
    """By size, number, file or newest; with a proof from the service or from the log itself."""
    notes = []
    for name in ("one", "two"):
        operator("job", "run", operator.spec(name))
        notes.append(operator("audit", "seal").stdout)
    old, new = (tmp_path / f"{at}.seal" for at in range(2))
    old.write_text(notes[0])
    new.write_text(notes[1])
    sizes = [note.splitlines()[1] for note in notes]
    log = ("--log", "--data-dir", str(service.data_dir))
    for words in ((str(old), str(new)), (*sizes,), (str(old), "newest"), (str(old), str(new), *log)):
        done = operator("audit", "consistency", *words, "--key", keys)
        assert f"the {sizes[1]} events of B begin with the {sizes[0]} of A" in done.stdout
    assert operator.json("audit", "consistency", *sizes, "--key", keys)["OK"] is True
    assert (
        "pass the older one first"
        in operator("audit", "consistency", str(new), str(old), "--key", keys, code=2).stderr
    )
    assert (
        "no known key signed"
        in operator("audit", "consistency", *sizes, "--key", str(SIGNER.key), code=9).stderr
    )
    operator("audit", "consistency", "nothing", "newest", "--key", keys, code=2)
    operator("audit", "consistency", "999999", "newest", "--key", keys, code=6)


def test_two_seals_that_fork_are_reported(operator: Operator, tmp_path: Path, keys: str) -> None:
    """A seal of another tree by a trusted key is not extended, with either source of the proof."""
    from jobledger.service.audit.model.checkpoint import make_seal, read_seal

    operator("job", "run", operator.spec("forked"))
    honest = read_seal(operator("audit", "seal").stdout)
    other = tmp_path / "other.seal"
    both = ("--key", keys, "--key", str(SIGNER.key))
    for size, words in (
        (honest.size, "both seals cover"),
        (honest.size - 1, "does not provably extend"),
    ):
        other.write_text(make_seal(honest.origin, size, bytes(32), (SIGNER,)).note)
        shown = operator("audit", "consistency", str(other), "newest", *both, code=9).stdout
        assert shown.startswith("fork: ")
        assert words in shown


def test_log_seals_and_view_are_verified_while_the_service_runs(
    operator: Operator, keys: str, service: RunningService
) -> None:
    """No findings; with an unknown key each seal is a finding."""
    operator("job", "run", operator.spec("verified"))
    operator("audit", "seal")
    where = ("--data-dir", str(service.data_dir))
    assert operator("audit", "verify", "--key", keys, *where).stdout == "no differences found\n"
    reported = operator.json("audit", "verify", "--key", keys, *where)
    assert (reported["OK"], reported["Findings"], reported["View"]) == (
        True,
        [],
        str(service.data_dir / "view.sqlite"),
    )
    assert reported["Seals"] > 0
    shown = operator("audit", "verify", "--key", str(SIGNER.key), "--no-view", *where, code=9).stdout
    assert shown.startswith("unknown_key: seal 1 ")


def test_a_watcher_reports_an_alarm_by_metric_webhook_and_exit_code(
    operator: Operator, tmp_path: Path, keys: str, service: RunningService
) -> None:
    """First no alarm, then one because of an unknown key."""
    where = ("--data-dir", str(service.data_dir), "--state", str(tmp_path / "watch.json"), "--once")
    operator("job", "run", operator.spec("watched"))
    operator("audit", "seal")
    assert "no differences found" in operator("audit", "watch", "--key", keys, *where).stderr
    operator("job", "set-state", "watched", "Running")
    operator("audit", "seal")
    metrics = tmp_path / "watch.prom"
    with listening(200) as heard:
        reported = ("--webhook", heard.url, "--metrics-file", str(metrics))
        done = operator("audit", "watch", "--key", str(SIGNER.key), *where, *reported, code=9)
    assert "ALARM: unknown_key: seal" in done.stderr
    [event] = heard.events
    assert (event["type"], event["data"]["Kind"]) == ("jobledger.audit.alarm.v1", "unknown_key")
    assert event["data"]["Origin"].startswith("jobledger/")
    assert 'jobledger_watch_alarms_total{kind="unknown_key"} 1.0' in metrics.read_text()
    assert "jobledger_watch_connected 1.0" in metrics.read_text()


@pytest.mark.slow
def test_an_alarm_is_resent_if_the_webhook_does_not_accept_it() -> None:
    """A limited number of times; then the watcher reports the failure and continues."""
    with listening(503) as heard:
        assert "503" in send_alarm(heard.url, {"id": "1"}, sleep=lambda _: None)
    assert len(heard.events) == WATCH_WEBHOOK_MAX_TRIES
    assert "ConnectError" in send_alarm("http://127.0.0.1:1", {}, sleep=lambda _: None)
    assert "invalid URL" in send_alarm("http://a:b", {}, sleep=lambda _: None)


class listening:  # noqa: N801 - reads as a word
    """A web server of the test's own that remembers what was POSTed."""

    def __init__(self, status: int) -> None:
        self.events: list[dict[str, Any]] = []
        heard = self.events

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Be quiet."""

        self._server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
