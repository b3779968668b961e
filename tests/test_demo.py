"""The demo: it works from end to end, leaves nothing behind, and its checks find what is wrong."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from jobledger.projections.projector import Projector
from jobledger.projections.view import View
from jobledger.service.cli import cli
from jobledger.service.commands import demo as command
from jobledger.service.demo.checks import (
    Check,
    check_acknowledged,
    check_all,
    check_counters,
    check_killed,
    check_race,
    check_rebuilt,
    check_revisions,
    check_view,
)
from jobledger.service.demo.evidence import Evidence, Kill, ViewedJob
from jobledger.service.demo.inputs import SpecFile, example_files, plan_jobs
from jobledger.service.demo.show import age, plain
from jobledger.service.demo.stage import QUEUED, RUNNING, Stage
from jobledger.store import embedded
from jobledger.store.errors import EmbeddedServerError
from jobledger.store.job import State, StateType
from jobledger.store.memory_log import MemoryLog
from jobledger.store.spec import JobSpec
from tests.conftest import make_spec

ROOT = Path(__file__).parent.parent
SPECS = ROOT / "tests" / "specs"
CHECKS = 7


# --- the checks, shown evidence that is wrong -----------------------------------------------------------------


@pytest.fixture
async def evidence(tmp_path: Path) -> AsyncIterator[Evidence]:
    """Sound evidence: two jobs, a real race, a real view; only the kill is made up."""
    log = MemoryLog()
    path = tmp_path / "view.sqlite"
    async with Projector(log, path) as projector, await View.open(path) as view:
        stage = Stage("", path, [log, log])
        stage._view = view
        one, two = [await stage.submit(SpecFile(name, make_spec(name))) for name in ("one", "two")]
        await projector.wait_for(two.sequence)
        glimpse = await stage.glimpse()
        race = await stage.race(one)
        await stage.run(one)
        await stage.update(one, make_spec("one", priority=1), "a change")
        await stage.queue(two)
        await stage.end(two, State(state_type=StateType.STOPPED))
        await projector.wait_for(await stage.last_sequence())
        digest = await view.digest()
        yield Evidence(
            records=await stage.read_log(),
            receipts=tuple(stage.receipts),
            race=race,
            kill=Kill(exit_code=-9, acknowledged=5, events=10, view_sequence=3, log_sequence=9),
            checkpoint=await view.checkpoint(),
            viewed=await stage.viewed(),
            glimpses=(glimpse,),
            digest=digest,
            rebuilt_digest=digest,
        )


def said(check: Check) -> str:
    """What a failed check says."""
    assert not check.ok
    return "\n".join(check.problems)


def without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def with_status(viewed: tuple[ViewedJob, ...], **changes: Any) -> tuple[ViewedJob, ...]:
    """The rows, the first with another status."""
    first = viewed[0]
    job = replace(first.job, status=replace(first.job.status, **changes))
    return (replace(first, job=job), *viewed[1:])


async def test_sound_evidence_passes_every_check(evidence: Evidence) -> None:
    """Nothing is wrong with what really happened."""
    checks = check_all(evidence)
    assert len(checks) == CHECKS
    assert [check.problems for check in checks] == [()] * CHECKS


async def test_a_gap_in_the_revisions_fails(evidence: Evidence) -> None:
    """A lost event is found wherever it was: first, in the middle, and a wrong number in a receipt too."""
    records, receipts = evidence.records, evidence.receipts
    assert "there is no such job" in said(check_revisions(records[1:], receipts))
    assert "was told to be revision" in said(check_revisions(without(records, 2), receipts))
    skipped = replace(receipts[-1], revision=receipts[-1].revision + 1)
    assert "was told to be revision" in said(check_revisions(records, [*receipts[:-1], skipped]))


async def test_a_missing_repeated_or_moved_event_fails(evidence: Evidence) -> None:
    """Acknowledged is: there, once, where the receipt says; and nothing is there without a receipt."""
    records, receipts = evidence.records, evidence.receipts
    assert "in the log 0 times" in said(check_acknowledged(without(records, 3), receipts))
    repeated = replace(records[3], sequence=len(records) + 1)
    assert "in the log 2 times" in said(check_acknowledged([*records, repeated], receipts))
    moved = replace(receipts[0], sequence=99)
    assert "event 99 is at 1" in said(check_acknowledged(records, [moved, *receipts[1:]]))
    assert "nobody was told" in said(check_acknowledged(records, receipts[1:]))
    broken = replace(records[0], payload=b"{}")
    assert "can't be read" in said(check_acknowledged([broken, *records[1:]], receipts))


async def test_two_winners_or_none_fail(evidence: Evidence) -> None:
    """Exactly one of the writers may have won."""
    race = evidence.race
    winner = next(attempt for attempt in race.attempts if attempt.won)
    loser = next(attempt for attempt in race.attempts if not attempt.won)
    both = replace(race, attempts=(winner, winner))
    assert "not one writer won, but 2: scheduler" in said(check_race(evidence.records, both))
    none = replace(race, attempts=(loser, loser))
    assert "but 0: nobody" in said(check_race(evidence.records, none))


async def test_a_loser_that_wrote_or_was_told_wrong_fails(evidence: Evidence) -> None:
    """Who lost wrote nothing, and was told the revision and the event that it had missed."""
    race = evidence.race
    winner = next(attempt for attempt in race.attempts if attempt.won)
    loser = next(attempt for attempt in race.attempts if not attempt.won)
    for change, problem in (
        ({"event_id": winner.event_id}, "its event is in the log"),
        ({"told_revision": 7}, "was told revision 7, not 2"),
        ({"told_missed": ()}, "was told 0 missed events"),
    ):
        wrong = replace(race, attempts=(winner, replace(loser, **change)))
        assert problem in said(check_race(evidence.records, wrong))
    assert winner.won is not None
    far = replace(winner, won=replace(winner.won, revision=5))
    assert "won revision 5" in said(check_race(evidence.records, replace(race, attempts=(far, loser))))


async def test_a_kill_that_was_none_fails(evidence: Evidence) -> None:
    """It must have been signal 9, amid the writing, with something left to catch up on."""
    kill = evidence.kill
    assert "exit code 0" in said(check_killed(replace(kill, exit_code=0)))
    assert "not the middle" in said(check_killed(replace(kill, acknowledged=kill.events)))
    assert "not the middle" in said(check_killed(replace(kill, acknowledged=0)))
    assert "the view was at 9" in said(check_killed(replace(kill, view_sequence=kill.log_sequence)))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"state": RUNNING},
        {"version": 9},
        {"revision": 9},
        {"create_time": 1},
        {"modify_time": 1},
        {"spec_sequence": 1},
        {"sequence": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_row_that_differs_fails(evidence: Evidence, changes: dict[str, Any]) -> None:
    """Every field of a row is compared with the fold."""
    viewed = with_status(evidence.viewed, **changes)
    check = check_view(evidence.records, evidence.checkpoint, viewed)
    assert f"{next(iter(changes))} differs" in said(check)


async def test_a_row_too_many_or_too_few_or_another_spec_fails(evidence: Evidence) -> None:
    """Rows, specs, versions, checkpoint and anomalies are compared as well."""
    records, checkpoint, viewed = evidence.records, evidence.checkpoint, evidence.viewed
    assert "is missing in the view" in said(check_view(records, checkpoint, viewed[1:]))
    stranger = with_status(viewed, id="j-stranger")[0]
    assert "not in the log" in said(check_view(records, checkpoint, [*viewed, stranger]))
    other = replace(viewed[0], job=replace(viewed[0].job, spec=b"{}"))
    assert "spec differs" in said(check_view(records, checkpoint, [other, *viewed[1:]]))
    fewer = replace(viewed[0], versions=viewed[0].versions[1:])
    assert "versions differs" in said(check_view(records, checkpoint, [fewer, *viewed[1:]]))
    assert "the view is at 1," in said(check_view(records, replace(checkpoint, sequence=1), viewed))
    assert "counted 3 anomalies" in said(check_view(records, replace(checkpoint, anomalies=3), viewed))


async def test_a_counter_or_a_time_against_the_rules_fails(evidence: Evidence) -> None:
    """Version, Revision and both times are counted from the log; ModifyTime never goes back."""
    records, viewed, glimpses = evidence.records, evidence.viewed, evidence.glimpses
    for field, name in (
        ("version", "Version"),
        ("revision", "Revision"),
        ("create_time", "CreateTime"),
        ("modify_time", "ModifyTime"),
    ):
        wrong = with_status(viewed, **{field: 77})
        assert f"{name} is 77, not" in said(check_counters(records, wrong, glimpses))
    later = {job_id: replace(status, modify_time=2**62) for job_id, status in glimpses[0].items()}
    assert "went back" in said(check_counters(records, viewed, [later]))


async def test_another_digest_fails(evidence: Evidence) -> None:
    """A rebuilt view that differs is told by its digest."""
    check = check_rebuilt("a" * 64, "b" * 64, evidence.checkpoint)
    assert said(check) == "digest aaaaaaaaaaaa became bbbbbbbbbbbb"


# --- from end to end ------------------------------------------------------------------------------------------


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "80", "NO_COLOR": "1"}


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`jobledger demo` as a process, with its temporary directory under `tmp_path`."""
    return subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli", "demo", *arguments],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )


def left_behind(tmp_path: Path) -> list[str]:
    """Files under `tmp_path`, and processes that were started on one."""
    marks = [str(path) for path in tmp_path.iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().decode(errors="replace")
        except OSError:  # it has ended meanwhile
            continue
        if str(tmp_path) in words:
            marks.append(words)
    return marks


def assert_it_shows_all(output: str) -> None:
    """The table, the timeline and the check list with every mark set, in 80 columns."""
    assert re.search(r"^Name +ID +Type +Version +Revision +State +Age$", output, re.MULTILINE)
    assert re.search(r"^ ?Seq +Time +What +Rev +Ver +Who +Why *$", output, re.MULTILINE)
    assert len(re.findall(r"^✓ ", output, re.MULTILINE)) == CHECKS
    assert "✗" not in output
    assert f"All {CHECKS} checks passed" in output
    assert "jobledger job validate FILE" in output
    assert max(map(len, output.splitlines())) <= 80


def test_the_demo_passes_on_the_examples(tmp_path: Path) -> None:
    """Without arguments it runs on the examples, shows an update from a -v2 file, and cleans up."""
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert_it_shows_all(done.stdout)
    assert re.search(r"basic-daemon-job +j-\w{8} +daemon +3 +9 +Running", done.stdout)
    assert re.search(r"spec → version 2 +4 +2 +alice +daemon-job-v2.yaml", done.stdout)
    for state in ("Completed", "Failed", "Stopped", "Running"):
        assert state in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert all(line.startswith("demo: ") for line in done.stderr.splitlines())
    assert left_behind(tmp_path) == []


def test_the_demo_passes_on_specs_of_ones_own(tmp_path: Path) -> None:
    """A JSON spec and one without a name do as well; one job is updated twice all the same."""
    names = ("bacalhau-testdata-nameless.yaml", "bacalhau-testdata-docker-output.json")
    done = run(tmp_path, *(str(SPECS / name) for name in names))
    assert done.returncode == 0, done.stderr
    assert_it_shows_all(done.stdout)
    assert "spec → version 3" in done.stdout
    assert left_behind(tmp_path) == []


def test_what_is_kept_is_a_view_and_a_log(tmp_path: Path) -> None:
    """--keep leaves the files, ended in order; a directory with something in it is refused."""
    kept = tmp_path / "kept"
    assert run(tmp_path, "--keep", str(kept), str(SPECS / "bacalhau-testdata-noop.yaml")).returncode == 0
    assert {"nats", "view.sqlite"} <= {path.name for path in kept.iterdir()}
    assert not (kept / "view.sqlite-wal").exists()
    again = run(tmp_path, "--keep", str(kept))
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_a_bad_spec_ends_it_before_anything_is_started(tmp_path: Path) -> None:
    """All problems of all files are told as `job validate` does, on standard error, and nothing else happens."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("Type: batch\nFoo: 1\nTasks: [{Name: main, Engine: {Type: noop}}]\n")
    workplace = tmp_path / "tmp"
    workplace.mkdir()
    done = run(workplace, str(SPECS / "bacalhau-testdata-noop.yaml"), str(bad), str(tmp_path / "none.yaml"))
    told = CliRunner().invoke(cli, ["job", "validate", str(bad)]).stdout
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] + "\n" == told
    assert "none.yaml: error: can't be read" in done.stderr
    assert done.stdout == ""
    assert "demo:" not in done.stderr
    assert left_behind(workplace) == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["start a nats-server", "write ", "delete the view"])
def test_a_signal_leaves_nothing_behind(
    tmp_path: Path, moment: str, number: signal.Signals, code: int
) -> None:
    """Asked to end, even twice, at any moment, it ends what it started and removes its directory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "jobledger.service.cli", "demo"],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process, process.stderr as lines:
        for line in lines:
            if line.startswith(f"demo: {moment}"):
                break
        process.send_signal(number)
        process.send_signal(number)
        assert "Aborted" in lines.read()
    assert process.returncode == code
    assert left_behind(tmp_path) == []


def test_without_a_server_program_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error of the embedded server is the answer, and the temporary directory is gone."""

    def find_nothing() -> Path:
        raise EmbeddedServerError("no nats-server found: install it")

    monkeypatch.setattr(embedded, "find_program", find_nothing)
    monkeypatch.setattr(command.tempfile, "tempdir", str(tmp_path))
    result = CliRunner().invoke(cli, ["demo"])
    assert isinstance(result.exception, EmbeddedServerError)
    assert left_behind(tmp_path) == []


# --- the small parts ------------------------------------------------------------------------------------------


def test_every_example_is_a_valid_spec() -> None:
    """`job validate` takes each of them, and a -v2 has the name of its -v1."""
    paths = [str(path) for path in example_files()]
    assert CliRunner().invoke(cli, ["job", "validate", *paths]).exit_code == 0
    assert len(paths) == 9


def test_specs_of_one_name_are_one_job() -> None:
    """A later spec of the same namespace and name is an update; nameless ones are jobs of their own."""

    def file(label: str, **fields: Any) -> SpecFile:
        return SpecFile(label, JobSpec(**fields))

    plan = plan_jobs(
        [
            file("a", name="n"),
            file("b"),
            file("c", name="n", namespace="default"),
            file("d", name="n", namespace="other"),
            file("e"),
        ]
    )
    labels = [(planned.first.label, [update.label for update in planned.updates]) for planned in plan]
    assert labels == [("a", ["c"]), ("b", []), ("d", []), ("e", [])]


def test_names_cannot_speak_to_the_terminal() -> None:
    """Control characters are shown, not sent; markup is text."""
    assert plain("\x1b[31m[bold]x\ny\u202e é").plain == "\\x1b[31m[bold]x\\ny\\u202e é"


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-1, "0.0 s"), (0.44, "0.4 s"), (12.3, "12 s"), (119, "119 s"), (180, "3 min")]
)
def test_an_age_is_short(seconds: float, shown: str) -> None:
    """Ages have a unit, and no more digits than anybody reads."""
    assert age(int(seconds * 1e9)) == shown


def test_states_of_the_stage_are_what_they_say() -> None:
    """The walk's states are plain ones."""
    assert (QUEUED.state_type, RUNNING.state_type) == (StateType.QUEUED, StateType.RUNNING)
