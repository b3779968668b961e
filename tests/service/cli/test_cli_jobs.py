"""Every job command against a real service."""

import csv
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.command_line import Operator
from tests.support.service_process import RunningService, clean_env, jobledger, running_service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service for all tests of this module; each uses its own jobs."""
    with running_service(tmp_path_factory.mktemp("service")) as running:
        yield running


@pytest.fixture
def operator(service: RunningService, tmp_path: Path) -> Operator:
    return Operator(service, tmp_path)


def test_submission_creates_then_updates_then_changes_nothing(operator: Operator) -> None:
    """The line shows which, with version and revision; programs get the response, -q the ID."""
    first = operator("job", "run", operator.spec("sub"), "--reason", "why").stdout
    assert first.startswith("sub (j-")
    assert first.endswith(" created: version 1, revision 1\n")
    changed = operator.spec("sub", Labels={"a": "b"})
    assert operator.json("job", "run", changed)["Version"] == 2
    again = operator("job", "run", changed)
    assert again.stdout.endswith(" unchanged: version 2, revision 2\n")
    assert again.stderr == ""
    job_id = operator("job", "run", changed, "-q").stdout.strip()
    assert len(job_id) == 38
    assert "version 3" in operator("job", "run", changed, "--force").stdout
    there = operator("job", "run", changed, "--create-only", code=5).stderr
    assert "already exists (version 3, revision 3); to update it, use `jobledger job run` without" in there
    assert "has revision" not in there


def test_dry_run_and_diff_show_the_change_and_write_nothing(operator: Operator) -> None:
    """By path for people, as a patch for programs, as an exit code for scripts."""
    operator("job", "run", operator.spec("dry"))
    changed = operator.spec("dry", Priority=7)
    change = "dry would be updated: version 1 → version 2\n+ Priority: 7\n"
    for shown in (
        operator("job", "run", changed, "--dry-run").stdout,
        operator("job", "diff", changed).stdout,
    ):
        assert shown == change
    assert operator.json("job", "diff", changed)["Patch"]
    operator("job", "diff", changed, "--exit-code", code=1)
    same = operator.spec("dry")
    assert operator("job", "diff", same, "--exit-code").stdout == ""
    assert operator("job", "run", same, "--dry-run").stdout == "dry: nothing would change\n"
    assert operator.json("job", "describe", "dry")["Job"]["Version"] == 1


def test_dry_run_and_diff_of_a_new_job_show_its_creation(operator: Operator) -> None:
    """With its fields, in the format of every diff; nothing is written, with a name or without one."""
    new = operator.spec("brand-new", Priority=7)
    dry = operator("job", "run", new, "--dry-run").stdout
    assert dry == operator("job", "diff", new).stdout
    assert dry.startswith("brand-new would be created: version 1\n+ ")
    assert "+ Priority: 7\n" in dry
    assert '+ Tasks[0].Name: "main"\n' in dry
    operator("job", "diff", new, "--exit-code", code=1)
    wire = operator.json("job", "diff", new)
    assert wire["Version"] == 0
    assert wire["Patch"]
    nameless = operator("job", "run", operator.spec(""), "--dry-run").stdout
    assert nameless.startswith("a job without a name would be created: version 1\n+ ")
    assert "00000000" not in nameless
    operator("job", "describe", "brand-new", code=3)


def test_dry_run_with_create_only_is_rejected_if_the_job_exists(operator: Operator) -> None:
    """Like the run itself."""
    file = operator.spec("dry-only")
    operator("job", "run", file, "--create-only", "--dry-run")
    operator("job", "run", file)
    there = operator("job", "run", file, "--create-only", "--dry-run", code=5).stderr
    assert "already exists (revision 1)" in there


def test_idempotency_key_writes_once(operator: Operator) -> None:
    """The same key and file give the same response; another file is rejected."""
    file = operator.spec("")
    first = operator.json("job", "run", file, "--idempotency-key", "key-1")
    assert operator.json("job", "run", file, "--idempotency-key", "key-1") == first
    other = operator("job", "run", operator.spec("x"), "--idempotency-key", "key-1", code=1)
    assert "key" in other.stderr
    assert operator("job", "run", file, file, "--idempotency-key", "k", code=2).stdout == ""


def test_invalid_file_prevents_every_submission(operator: Operator) -> None:
    """One invalid file among valid ones: each problem on its line, exit code 2, no job."""
    bad = operator.spec("bad", Type="cron")
    done = operator("job", "run", operator.spec("valid-with-invalid"), bad, code=2)
    assert f"{bad}: error: Type: invalid job type" in done.stderr
    assert done.stdout == ""
    operator("job", "describe", "valid-with-invalid", code=3)


def test_namespace_option_applies_to_specs_without_one(operator: Operator) -> None:
    """A spec with another namespace is rejected; the message names both."""
    operator("job", "run", operator.spec("placed"), "-n", "team-x")
    assert operator.json("job", "describe", "placed", "-n", "team-x")["Job"]["Namespace"] == "team-x"
    other = operator("job", "run", operator.spec("placed", Namespace="team-y"), "-n", "team-x", code=2)
    assert "team-y" in other.stderr
    assert "team-x" in other.stderr


def test_set_state_reports_missed_events_on_a_conflict(operator: Operator) -> None:
    """Message and details are stored; an outdated revision is exit code 5 with the missed events."""
    operator("job", "run", operator.spec("states"))
    words = ("--message", "on node 3", "--detail", "node=n3", "--if-revision", "1", "--reason", "placed")
    done = operator("job", "set-state", "states", "running", *words)
    assert done.stdout.endswith("is Running: version 1, revision 2\n")
    state = operator.json("job", "describe", "states")["Job"]["State"]
    assert state == {"StateType": "Running", "Message": "on node 3", "Details": {"node": "n3"}}
    late = operator("job", "set-state", "states", "Completed", "--if-revision", "1", code=5)
    assert "has revision 2 but expected 1" in late.stderr
    assert "revision 2 (version 1): state to Running by " in late.stderr
    assert ": placed" in late.stderr
    update = operator("job", "update", "states", operator.spec("states", Count=2), "--if-revision", "2")
    assert update.stdout.endswith("updated: version 2, revision 3\n")
    operator("job", "set-state", "states", "running", "--detail", "x", code=2)
    wrong = operator("job", "set-state", "states", "running", "--if-revision", "x", code=2)
    assert "invalid number 'x': use a positive integer" in wrong.stderr
    assert "Pending, Queued, Running" in operator("job", "list", "--state", "foo", code=2).stderr
    assert "Did you mean 'list'?" in operator("job", "lst", code=2).stderr


def test_job_is_stopped_and_rerun(operator: Operator) -> None:
    """What the state forbids is exit code 4; a rerun can use an old version's spec."""
    operator("job", "run", operator.spec("again", Priority=1))
    operator("job", "rerun", "again", code=4)
    operator("job", "stop", "again", "--reason", "enough")
    same = operator("job", "run", operator.spec("again", Priority=1)).stdout
    assert "unchanged: version 1, revision 2, Stopped; `jobledger job rerun again` or `--force`" in same
    operator("job", "set-state", "again", "Running", code=4)
    operator("job", "update", "again", operator.spec("again", Priority=2))
    operator("job", "stop", "again")
    assert "rerun: version 3, revision 5" in operator("job", "rerun", "again", "--version", "1").stdout
    assert operator.json("job", "describe", "again")["Job"]["Priority"] == 1
    operator("job", "rerun", "again", "--version", "9", code=3)
    shown = operator("job", "versions", "again").stdout.splitlines()
    assert shown[0].split() == ["Version", "Tags", "Revision", "State", "Made", "Who", "Changed", "Why"]
    assert [line.split()[0] for line in shown[1:]] == ["1", "2", "3"]
    assert shown[2].split()[-2:] == ["Priority", "-"]
    assert operator("job", "versions", "again", "-q").stdout == "1\n2\n3\n"


def test_describe_and_history_show_actor_and_reason(operator: Operator) -> None:
    """Job, spec and timeline are readable; a short ID works like the name."""
    job_id = operator.json("job", "run", operator.spec("story"), "--reason", "nightly")["JobID"]
    operator("job", "set-state", "story", "Failed", "--message", "no \x1b[31mdisk")
    text = operator("job", "describe", job_id[:10]).stdout
    assert "\x1b" not in text
    assert "State        Failed: no \\x1b[31mdisk" in text
    assert "Timeline\nAge  Sequence  Version  Revision  What" in text
    assert text.rstrip().splitlines()[-2].endswith("nightly")
    assert operator("job", "describe", "story", "-q").stdout.strip() == job_id
    items = operator.json("job", "history", "story")["Items"]
    assert [(item["Revision"], item["Reason"]) for item in items] == [(1, "nightly"), (2, "")]
    assert all(item["Actor"] for item in items)
    assert len(operator("job", "history", "story", "--follow").stdout.splitlines()) == 3  # it has ended


def test_tables_show_sequences_that_options_accept(operator: Operator) -> None:
    """History, timeline and events show what `--at`, `--from` and `--after` take."""
    job_id = operator.json("job", "run", operator.spec("placed"))["JobID"]
    operator("job", "set-state", "placed", "Failed")
    items = operator.json("job", "history", "placed")["Items"]
    sequences = [str(item["Sequence"]) for item in items]
    for column, *words in (
        (1, "job", "history", job_id),
        (3, "job", "history", job_id, "--follow"),
        (1, "job", "describe", job_id),
        (3, "events", "tail", "--after", "0", "--job", job_id, "--limit", "2"),
    ):
        lines = operator(*map(str, words)).stdout.splitlines()[-2:]
        assert [line.split()[int(column)] for line in lines] == sequences, words
    assert "Pending" in operator("job", "describe", job_id, "--at", sequences[0]).stdout


def test_list_is_filtered_and_paged(operator: Operator) -> None:
    """Every filter of the API has its option; --all reads all pages; printed IDs are accepted."""
    namespace = "list-test"
    for number in range(5):
        labels = {"even": str(number % 2 == 0).lower()}
        operator("job", "run", operator.spec(f"job-{number}", Labels=labels), "-n", namespace)
    operator("job", "set-state", "job-3", "Running", "-n", namespace)

    def names(*words: str) -> list[str]:
        return [job["Name"] for job in operator.json("job", "list", "-n", namespace, *words)["Items"]]

    assert names() == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    assert names("--reverse", "--limit", "2") == ["job-0", "job-1"]
    assert names("-l", "even=true") == ["job-4", "job-2", "job-0"]
    assert names("--state", "running", "--type", "batch") == ["job-3"]
    assert names("--order-by", "modified", "--limit", "1") == ["job-3"]
    assert names("--created-from", "1h", "--modified-to", "1h") == []
    page = operator("job", "list", "-n", namespace, "--limit", "2")
    assert page.stderr.startswith("There are more: use --all, or --next-token ")
    token = page.stderr.split("--next-token ")[1].split()[0]
    assert names("--limit", "2", "--next-token", token) == ["job-2", "job-1"]
    ids = operator("job", "list", "-n", namespace, "--all", "-q").stdout.split()
    assert len(ids) == 5
    lines = operator("job", "list", "-n", namespace, "--all", "-o", "ndjson").stdout.splitlines()
    assert [json.loads(line)["ID"] for line in lines] == ids
    short = page.stdout.splitlines()[1].split()[0]
    assert operator("job", "describe", short, "-q").stdout.strip() == ids[0]
    assert "Namespace" not in page.stdout
    assert "Namespace" in operator("job", "list", "-A").stdout
    assert yaml.safe_load(operator("job", "list", "-n", namespace, "-o", "yaml").stdout)["Items"]
    operator("job", "list", "-A", "-n", namespace, code=2)
    assert operator("job", "list", "-n", "empty").stderr == "No jobs found.\n"
    assert "character 7" in operator("job", "list", "-l", "a in (", code=2).stderr


def test_wait_exit_code_shows_the_result(operator: Operator) -> None:
    """0 when reached, 4 when the job ended otherwise, 8 after the timeout."""
    operator("job", "run", operator.spec("waited"))
    late = operator("job", "wait", "waited", "--timeout", "10ms", code=8).stderr
    assert "is Pending (revision 1) and did not become Completed within 0.01 s" in late
    assert "is Pending" in operator("job", "wait", "waited", "--for", "pending").stdout
    operator("job", "set-state", "waited", "Failed", "--message", "disk full")
    ended = operator("job", "wait", "waited", code=4)
    assert "is Failed: disk full" in ended.stdout
    assert "cannot become Completed" in ended.stderr
    assert operator.json("job", "wait", "waited", "--for", "terminal")["State"]["StateType"] == "Failed"
    operator("job", "wait", "waited", "--for", "nonsense", code=2)


def test_run_waits_for_the_state_of_its_own_submission(operator: Operator) -> None:
    """The end of the previous version does not count."""
    operator("job", "run", operator.spec("own"))
    operator("job", "set-state", "own", "Completed")
    new = operator.spec("own", Priority=3)
    late = operator("job", "run", new, "--wait=terminal", "--timeout", "10ms", code=8).stderr
    assert "did not end within 0.01 s" in late
    done = operator("job", "run", "--wait=pending", new)
    assert "unchanged: version 2" in done.stdout
    assert "is Pending" in done.stdout


def test_names_that_look_like_paths_are_found(operator: Operator) -> None:
    """A slash in a name does not change the path of the request."""
    operator("job", "run", operator.spec("reports/daily ü?#%2F"))
    assert operator.json("job", "describe", "reports/daily ü?#%2F")["Job"]["Version"] == 1
    operator("job", "describe", "", code=2)
    for name in ("..", "bad/name"):
        assert f"the name {name!r}" in operator("job", "describe", name, code=3).stderr


def test_version_shows_client_and_service(operator: Operator) -> None:
    """An unreachable service is reported, and is not an error."""
    assert operator("version").stdout.splitlines()[1].startswith("Service  0.")
    assert operator.json("version")["Service"]["URL"] == operator.url
    alone = operator("version", "--url", "http://127.0.0.1:9")
    assert alone.stdout.splitlines()[1].startswith(
        "Service  no response (the service at http://127.0.0.1:9 cannot be reached"
    )


def test_unreachable_service_is_exit_code_6_with_a_remedy(operator: Operator) -> None:
    """The address is named, and the command that starts a service."""
    done = operator("job", "list", "--url", "http://127.0.0.1:9", code=6)
    assert "the service at http://127.0.0.1:9 cannot be reached: connection refused" in done.stderr
    assert "jobledger serve" in done.stderr
    operator("job", "list", "--url", "ftp://x", code=2)


def test_closed_pipe_is_not_an_error(operator: Operator) -> None:
    """The command ends without a message."""
    operator("job", "run", operator.spec("piped"))
    command = f"{sys.executable} -m jobledger.service.cli.main job list -o ndjson --all | head -c 1"
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        env=clean_env(operator.home, {"JOBLEDGER_URL": operator.url}),
        cwd=Path(__file__).parents[3],
    )
    assert (done.stdout, done.stderr) == ("{", "")


def test_names_of_jobs_are_completed(operator: Operator) -> None:
    """With names, and with IDs for the prefix of an ID."""
    operator("job", "run", operator.spec("complete-me"))
    words = {
        "COMP_WORDS": "jobledger job describe comp",
        "COMP_CWORD": "3",
        "_JOBLEDGER_COMPLETE": "bash_complete",
    }
    done = jobledger(operator.home, url=operator.url, env=words)
    assert "plain,complete-me" in done.stdout
    nowhere = jobledger(operator.home, url="http://127.0.0.1:9", env=words)
    assert (nowhere.stdout.strip(), nowhere.stderr) == ("", "")


def test_token_determines_the_actor(tmp_path: Path) -> None:
    """The name of the token is the actor; a missing or wrong token is exit code 7."""
    with running_service(tmp_path) as running:
        data = str(running.data_dir)
        made = jobledger(
            tmp_path,
            "token",
            "create",
            "--name",
            "ci",
            "--role",
            "writer",
            "--namespace",
            "ci",
            "--data-dir",
            data,
        )
        assert made.returncode == 0, made.stderr
        file = tmp_path / "token"
        file.write_text(made.stdout)
        file.chmod(0o600)
        bot = Operator(running, tmp_path)
        flag = ("--token-file", str(file))
        bot("job", "run", bot.spec("mine"), "-n", "ci", *flag)
        items = bot.json("job", "history", "mine", "-n", "ci", *flag)["Items"]
        assert [item["Actor"] for item in items] == ["ci"]
        assert "token" in bot("job", "list", code=7).stderr
        bot("job", "run", bot.spec("theirs"), "-n", "other", *flag, code=7)
        missing = bot("job", "list", "--token-file", str(tmp_path / "none"), code=2)
        assert "No such file" in missing.stderr


def test_lists_support_wide_name_and_csv(operator: Operator) -> None:
    """Full IDs, names alone, and one line of values per job after the heading."""
    operator("job", "run", operator.spec("a list, of sorts", Namespace="forms"))
    job = operator.json("job", "list", "-n", "forms")["Items"][0]
    assert job["ID"] in operator("job", "list", "-n", "forms", "-o", "wide").stdout
    assert operator("job", "list", "-n", "forms", "-o", "name").stdout == "a list, of sorts\n"
    head, line = operator("job", "list", "-n", "forms", "-o", "csv").stdout.splitlines()
    assert head == "id,name,namespace,type,state,version,revision,create_time"
    assert line.startswith(f'{job["ID"]},"a list, of sorts",forms,batch,Pending,1,1,20')
    assert line.endswith("Z")


@pytest.mark.parametrize(
    ("words", "head"),
    [
        ("job versions lists", "version,tags,revision,state,time,actor,reason"),
        ("job history lists", "time,sequence,job_version,revision,event_type,state,actor,reason"),
        ("subscriptions list", "name,state,gap,lag_seconds,retrying,parked,form,created"),
        ("webhook list", "name,url,state,types,states,namespace,labels,created"),
        ("audit seals", "sequence,size,time,root,keys,problem"),
        ("audit key show", "key,signs,trusted,created,retires"),
        ("view quarantine", "job_id,namespace,name,sequence,reason"),
        ("view damage", "first,last,events"),
    ],
)
def test_every_list_has_csv_with_a_heading(operator: Operator, words: str, head: str) -> None:
    """Times are RFC 3339; tables show local times."""
    operator("job", "run", operator.spec("lists"))
    first, *lines = operator(*words.split(), "-o", "csv").stdout.splitlines()
    assert first == head
    for each in csv.DictReader([first, *lines]):
        for column in {"time", "created"} & set(each):
            assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", each[column])
    assert len(operator(*words.split(), "-o", "name").stdout.splitlines()) == len(lines)
    operator(*words.split(), "-o", "wide")


def test_watched_list_is_shown_again_when_a_job_changes(operator: Operator, tmp_path: Path) -> None:
    """Until Ctrl-C, and not while nothing changes."""
    operator("job", "run", operator.spec("first", Namespace="watched"))
    command = [
        sys.executable,
        "-m",
        "jobledger.service.cli.main",
        "job",
        "list",
        "-n",
        "watched",
        "-o",
        "csv",
    ]
    env = clean_env(tmp_path, {"JOBLEDGER_URL": operator.url})
    with subprocess.Popen([*command, "--watch"], stdout=subprocess.PIPE, text=True, env=env) as watching:
        assert watching.stdout is not None
        shown = [watching.stdout.readline() for _ in range(2)]
        operator("job", "set-state", "first", "Running", "-n", "watched")
        shown += [watching.stdout.readline() for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        rest, _ = watching.communicate(timeout=30)
    assert [line.split(",")[4] for line in shown] == ["state", "Pending", "state", "Running"]
    assert (watching.returncode, rest) == (130, "")
