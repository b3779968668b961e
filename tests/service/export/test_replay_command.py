"""`jobledger events replay` as a process: from the log or a service, complete or interrupted."""

import asyncio
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.service.cli.events import _Progress, _Replay
from jobledger.service.cli.options import Session
from jobledger.service.client.client import Client, Target
from jobledger.service.cursor import stream_tag
from jobledger.service.export.background_thread import BackgroundThread
from jobledger.service.export.exporter import Export
from jobledger.service.export.output_file import open_output
from jobledger.service.export.query import Chunk, ExportQuery, ExportRange
from jobledger.service.export.sources import FeedSource
from jobledger.service.limits import REPLAY_CHUNK_EVENTS
from jobledger.service.log_access import open_log
from jobledger.service.settings import Settings
from jobledger.store.embedded import NATS_FOLDER
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.events import JobCreated, JobStateChanged, JobTagged, event_type
from jobledger.store.model.subjects import named_job_id
from tests.support.exports import Kept, exported, write_history
from tests.support.histories import draft, spec_data
from tests.support.service_process import RunningService, clean_env, jobledger, running_service

pytestmark = pytest.mark.slow  # each starts commands of its own

ROOT = Path(__file__).parents[3]
STATE, TAGGED = event_type(JobStateChanged), event_type(JobTagged)
MANY = REPLAY_CHUNK_EVENTS + 100  # more than pipes and buffers hold


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a stopped service, with a history in its log."""
    directory = tmp_path_factory.mktemp("replay") / "data"

    async def write() -> None:
        async with EmbeddedServer(directory / NATS_FOLDER, sync="2m") as server:
            log = await JetStreamLog.connect(server.url)
            await write_history(log, events=150)
            names = [f"job-{number}" for number in range(MANY)]
            drafts = [
                draft(JobCreated, named_job_id("many", n), spec_data(n, "many"), 1_000 + i, "many")
                for i, n in enumerate(names)
            ]
            await asyncio.gather(*(log.append(each, expect=0) for each in drafts))
            await log.close()

    asyncio.run(write())
    return directory


def replay(
    home: Path, *words: str, code: int = 0, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    done = jobledger(home, "events", "replay", *words, env=env)
    assert done.returncode == code, done.stderr
    return done


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def start(home: Path, *words: str, **how: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobledger.service.cli.main", "events", "replay", *words]
    return subprocess.Popen(command, bufsize=0, stderr=subprocess.PIPE, env=clean_env(home), cwd=ROOT, **how)


def test_log_and_service_export_the_same(data_dir: Path, tmp_path: Path) -> None:
    """Without a service, with one on the same machine, and through one: the same bytes and cursor."""
    data = ("--data-dir", str(data_dir), "-o", "ndjson")
    alone = replay(tmp_path, *data)
    cursor = alone.stderr.split("--after ")[1].strip()
    assert cursor.endswith(f"-{150 + MANY}")
    with running_service(tmp_path, "--data-dir", str(data_dir)) as service:
        assert replay(tmp_path, *data).stdout == alone.stdout
        by_feed = replay(tmp_path, "--url", service.url, "-o", "ndjson")
        assert by_feed.stdout == alone.stdout
        assert by_feed.stderr == f"Resume with: --after {cursor}\n"
        # With nothing said, the service that answers at the configured address is the way.
        env = {"JOBLEDGER_CONFIG": str(_config(tmp_path, service))}
        assert replay(tmp_path, "-o", "ndjson", env=env).stdout == alone.stdout


async def test_log_and_feed_support_the_same_queries(data_dir: Path, tmp_path: Path) -> None:
    """Every filter and point selects the same events."""
    settings = Settings(data_dir=data_dir)
    with running_service(tmp_path, "--data-dir", str(data_dir)) as service:
        async with open_log(settings) as log:
            stamps = [each["streamtime"] for each in (await exported(log, until="150"))[0]]
            mark = stream_tag((await log.info()).epoch)
            questions: list[dict[str, Any]] = [
                {"until": "150"},
                {"since": stamps[40], "until": "140"},
                {"since": "100", "until": stamps[-1], "namespace": "default"},
                {"after": f"{mark}-100", "until": "180"},
                {"job": "job-1", "namespace": "default"},
                {"job": "job-1"},
                {"types": frozenset({STATE}), "until": "1h"},
                {"types": frozenset({STATE, TAGGED}), "actors": frozenset({"tester"}), "until": "150"},
                {"actors": frozenset({"nobody"}), "until": "200"},
                {"since": stamps[-1], "namespace": "default"},
            ]
            counts = []
            for asked in questions:
                by_log, export = await exported(log, **asked)
                kept = Kept()
                with Client(Target(service.url, "", "", None)) as client, BackgroundThread() as thread:
                    replay = await thread.run(
                        partial(
                            FeedSource.open, client, ExportQuery(**asked), now=time.time_ns(), report=print
                        )
                    )
                    other = Export(replay.range, kept, lambda _: None)
                    await other.run(replay.chunks())
                assert [json.loads(each) for each in kept.documents] == by_log, asked
                assert all(int(each["sequence"]) <= other.reached <= export.reached for each in by_log), asked
                counts.append(len(by_log))
    assert [count > 0 for count in counts] == [True] * 6 + [False, True, False, True]


def _config(home: Path, service: RunningService) -> Path:
    path = home / "config.toml"
    path.write_text(f'url = "{service.url}"\n')
    return path


def test_default_format_matches_tail(data_dir: Path, tmp_path: Path) -> None:
    """Complete lines, without colors in a pipe."""
    with running_service(tmp_path, "--data-dir", str(data_dir)) as service:
        lines = replay(tmp_path, "--data-dir", str(data_dir), "--until", "150").stdout.splitlines()
        words = ("events", "tail", "--after", "0", "--limit", str(len(lines)))
        assert jobledger(tmp_path, *words, url=service.url).stdout.splitlines() == lines


def test_parquet_file_contains_the_same_events(data_dir: Path, tmp_path: Path) -> None:
    """Typed columns of the envelope, times in nanoseconds, the data as JSON."""
    path = tmp_path / "events.parquet"
    data = ("--data-dir", str(data_dir))
    replay(tmp_path, *data, "-o", "parquet", "--output-file", str(path))
    documents = lines(replay(tmp_path, *data, "-o", "ndjson").stdout)
    table = pyarrow.parquet.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == {
        **dict.fromkeys(("sequence", "revision", "version", "previous"), "int64"),
        **dict.fromkeys(
            ("job_id", "message", "name", "actor", "reason", "event_id", "time", "source"), "string"
        ),
        **dict.fromkeys(("traceparent", "data"), "string"),
        **dict.fromkeys(
            ("type", "namespace", "state"), "dictionary<values=string, indices=int32, ordered=0>"
        ),
        "streamtime": "timestamp[ns, tz=UTC]",
    }
    assert table.column("sequence").to_pylist() == [int(each["sequence"]) for each in documents]
    for name, key in (("job_id", "subject"), ("name", "name"), ("type", "type"), ("event_id", "id")):
        assert table.column(name).to_pylist() == [each[key] for each in documents]
    assert [json.loads(each) for each in table.column("data").to_pylist()] == [
        each["data"] for each in documents
    ]
    states = [(each["data"].get("State") or {}) for each in documents]
    assert table.column("state").to_pylist() == [each.get("StateType") for each in states]
    times = table.column("streamtime").cast("int64").to_pylist()
    assert [f"{each % 10**9:09d}Z" for each in times] == [each["streamtime"][-10:] for each in documents]


def test_closed_pipe_is_not_an_error(data_dir: Path, tmp_path: Path) -> None:
    """The command ends without a message."""
    process = start(tmp_path, "--data-dir", str(data_dir), "-o", "ndjson", stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == (b"", 1)
    process.stderr.close()


@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_interrupted_export_prints_its_cursor(data_dir: Path, tmp_path: Path, how: signal.Signals) -> None:
    """Even if its reader is blocked; resumed from the cursor, no event is missing."""
    data = ("--data-dir", str(data_dir), "-o", "ndjson")
    process = start(tmp_path, *data, stdout=subprocess.PIPE)
    assert process.stdout is not None
    first = process.stdout.readline()  # it is under way; what follows fills the pipe
    process.send_signal(how)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    cursor = errors.decode().split("--after ")[1].strip()
    content = (first + rest).decode()
    whole = content[: content.rindex("\n") + 1]
    reached = int(cursor.rpartition("-")[2])
    more = replay(tmp_path, *data, "--after", cursor).stdout
    sequences = [each["sequence"] for each in lines(whole) if int(each["sequence"]) <= reached]
    sequences += [each["sequence"] for each in lines(more)]
    assert sequences == [each["sequence"] for each in lines(replay(tmp_path, *data).stdout)]
    assert reached < 150 + MANY


def test_sigterm_ends_it_if_sigint_is_ignored(data_dir: Path, tmp_path: Path) -> None:
    """As in the background of a script: a shell starts that with SIGINT ignored."""
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start(tmp_path, "--data-dir", str(data_dir), "-o", "ndjson", stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, ignored)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, b"--after " in errors) == (130, True)


def test_interrupted_file_is_complete_up_to_the_cursor(data_dir: Path, tmp_path: Path) -> None:
    """A Parquet file is finished and can be read."""
    path = tmp_path / "events.parquet"
    process = start(tmp_path, "--data-dir", str(data_dir), "-o", "parquet", "--output-file", str(path))
    while not any(tmp_path.glob(".events.parquet.*")) and process.poll() is None:
        pass
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert (process.wait(60), "Traceback" in errors) == (130, False)
    reached = int(errors.split("--after ")[1].rpartition("-")[2])
    table = pyarrow.parquet.read_table(path)
    assert all(each <= reached for each in table.column("sequence").to_pylist())
    assert not any(tmp_path.glob(".events.parquet.*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full device to write to")
def test_full_disk_is_an_error_with_the_cursor(data_dir: Path, tmp_path: Path) -> None:
    """The error names the output."""
    with Path("/dev/full").open("wb") as full:
        process = start(tmp_path, "--data-dir", str(data_dir), "-o", "ndjson", stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Error: can't write to standard output: No space left on device; free some space" in errors
    assert b"Resume with: --after " in errors


@pytest.mark.parametrize("form", ["ndjson", "parquet", "table"])
async def test_failed_write_keeps_the_old_file(data_dir: Path, tmp_path: Path, form: str) -> None:
    """If the disk is full, no temporary file remains either."""
    path = tmp_path / "events"
    path.write_text("old")
    async with EmbeddedServer(data_dir / "nats") as server:  # the limit is for the output alone
        process = start(
            tmp_path,
            "--nats-url",
            server.url,
            "-o",
            form,
            "--output-file",
            str(path),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY)),
        )
        _, errors = await asyncio.to_thread(process.communicate, timeout=60)
    assert process.returncode == 1, errors
    assert b"can't write to " in errors
    assert b"nothing there was changed" in errors
    assert b"Traceback" not in errors
    assert b"Exception ignored" not in errors
    assert path.read_text() == "old"
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".events")]


def test_unreachable_log_and_service_are_both_named(tmp_path: Path) -> None:
    """Exit code 6, and the settings to use."""
    env = {"JOBLEDGER_CONFIG": str(tmp_path / "c.toml")}
    (tmp_path / "c.toml").write_text('url = "http://127.0.0.1:9"\ndata_dir = "nowhere"\n')
    done = replay(tmp_path, code=6, env=env)
    assert "--nats-url" in done.stderr
    assert "--data-dir" in done.stderr
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--after", "1", "--since", "2"), "--after and --since contradict each other"),
        (("--url", "http://x", "--nats-url", "nats://x"), "--url and --nats-url contradict each other"),
        (("--url", "http://x", "--data-dir", "x"), "--url and --data-dir contradict each other"),
        (("--since", "yesterday"), "invalid --since 'yesterday'"),
        (("--type", "gone"), "is not one of"),
        (("-o", "yaml"), "is not one of"),
    ],
)
def test_usage_error_is_reported_before_anything_is_opened(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    """Exit code 2."""
    assert said in replay(tmp_path, *words, code=2).stderr


async def test_lost_log_keeps_what_was_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file contains everything up to the printed cursor; the error follows."""

    class BrokenSource:
        range = ExportRange("0123456789ab", 0, 9)

        async def chunks(self) -> AsyncGenerator[Chunk, None]:
            yield Chunk([b"{}", b"[]"], 2)
            raise LogUnavailable("out of reach")

    path = tmp_path / "events.ndjson"
    run = _Replay(Session({}), ExportQuery(), "ndjson", path, colors=False)
    target = open_output(path)
    form = run._format(target)
    export = Export(BrokenSource.range, form, run._progress.show)
    with pytest.raises(LogUnavailable):
        await run._export(export, BrokenSource(), form, target)  # type: ignore[arg-type]
    assert path.read_text() == "{}\n[]\n"
    assert capsys.readouterr().err == "Resume with: --after 0123456789ab-2\n"


def test_progress_is_one_line_that_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing of it remains, and nothing is printed without a terminal."""
    export = Export(ExportRange("0123456789ab", 100, 1_100), Kept(), lambda _: None)
    early = Export(ExportRange("0123456789ab", 100, 1_100), Kept(), lambda _: None)
    early.read = 70
    _Progress(is_shown=True).show(early)
    assert capsys.readouterr().err == "\rreading earlier events: 70 of 100"
    export.reached, export.read, export.events = 600, 600, 321
    progress = _Progress(is_shown=True)
    progress.show(export)
    progress.show(export)  # too soon
    said = capsys.readouterr().err
    assert said.startswith("\r50 %: 600 of 1,100, 321 exported, ")
    assert said.count("\r") == 1
    progress.clear()
    assert capsys.readouterr().err == f"\r{' ' * (len(said) - 1)}\r"
    quiet = _Progress(is_shown=False)
    quiet.show(export)
    quiet.clear()
    assert capsys.readouterr().err == ""
