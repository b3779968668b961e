"""`jobledger streams` creates and shows streams, and accepts loss only with a flag."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.service.cli import streams
from jobledger.service.cli.main import cli
from jobledger.store.jetstream import stream as stream_module
from jobledger.store.jetstream.declarations import STREAMS
from jobledger.store.model.errors import LogMissing, LogReplaced

NAMES = [each.name("JOBS") for each in STREAMS]
STREAMS_FOLDER = Path("nats") / "jetstream" / "$G" / "streams"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shortens the waits: nothing is created or elected in these tests meanwhile."""
    monkeypatch.setattr(stream_module, "STREAM_MISSING_SECONDS", 0.05)


def run(directory: Path, *words: str) -> Result:
    """A command of the group on this data directory."""
    return CliRunner().invoke(cli, ["streams", *words, "--data-dir", str(directory)])


def test_create_makes_every_stream_and_show_lists_them(tmp_path: Path) -> None:
    """Both print the same, with exit code 0."""
    created, shown = (run(tmp_path, verb, "-o", "json") for verb in ("create", "show"))
    assert (created.exit_code, shown.exit_code) == (0, 0), created.output
    listed = json.loads(shown.stdout)
    assert [each["Name"] for each in listed["Streams"]] == NAMES
    assert {each["CompressedBlocks"] for each in listed["Streams"]} == {"0"}
    assert not listed["Problems"]


@pytest.mark.parametrize("name", ["JOBS", "JOBS_SEALS"])
def test_lost_stream_is_recreated_only_with_the_flag(tmp_path: Path, name: str) -> None:
    """Without it the command fails; with it, it prints what is lost and the evidence."""
    record = tmp_path / "log.json"
    assert run(tmp_path, "create").exit_code == 0
    seen = {"created": "2026-01-02T03:04:05Z", "last_sequence": 1107, "seen": "2026-01-02T03:04:05Z"}
    record.write_text(json.dumps({"format": 1, "streams": {name: seen}}))
    record.chmod(0o600)
    shutil.rmtree(tmp_path / STREAMS_FOLDER / name)
    for _ in range(2):
        refused = run(tmp_path, "create")
        assert isinstance(refused.exception, LogMissing)
        assert not (tmp_path / STREAMS_FOLDER / name).exists()
    accepted = run(tmp_path, "create", "--accept-loss")
    assert accepted.exit_code == 0
    assert f"Lost: everything in {name}" in accepted.output
    assert "last sequence 1107" in accepted.output
    assert json.loads(record.read_text())["streams"][name]["last_sequence"] == 0
    assert run(tmp_path, "create").exit_code == 0


def test_rewrite_of_a_log_without_compression_changes_nothing(tmp_path: Path) -> None:
    """It reports that, and the streams are unchanged."""
    assert run(tmp_path, "create").exit_code == 0
    done = run(tmp_path, "rewrite")
    assert done.exit_code == 0, done.output
    assert "0 blocks rewritten" in done.output
    assert run(tmp_path, "show").exit_code == 0


def test_replaced_log_is_used_only_with_the_flag(tmp_path: Path) -> None:
    """As for a missing stream, the loss is printed; afterwards the record is that of the new log."""
    assert run(tmp_path, "create").exit_code == 0
    record = tmp_path / "log.json"
    seen = {"created": "2026-01-02T03:04:05Z", "last_sequence": 1107, "seen": "2026-01-02T03:04:05Z"}
    record.write_text(json.dumps({"format": 1, "streams": {"JOBS": seen}}))
    record.chmod(0o600)
    assert isinstance(run(tmp_path, "create").exception, LogReplaced)
    assert "JOBS is not the one recorded in" in run(tmp_path, "show").output
    accepted = run(tmp_path, "create", "--accept-loss")
    assert "created 2026-01-02T03:04:05Z with last sequence 1107, now" in accepted.output
    assert run(tmp_path, "create").exit_code == run(tmp_path, "show").exit_code == 0


def test_loss_is_printed_before_a_stream_is_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator who sees it can still interrupt before anything changes."""
    assert run(tmp_path, "create").exit_code == 0
    shutil.rmtree(tmp_path / STREAMS_FOLDER / "JOBS")

    def interrupted(text: str) -> None:
        assert text.startswith("Lost: everything in JOBS: the stream JOBS_KEYS")
        raise KeyboardInterrupt

    monkeypatch.setattr(streams, "say", interrupted)
    assert run(tmp_path, "create", "--accept-loss").exit_code == 1
    assert not (tmp_path / STREAMS_FOLDER / "JOBS").exists()


@pytest.mark.parametrize("gone", [STREAMS_FOLDER / "JOBS", Path("nats")])
def test_show_reports_a_missing_log_with_its_evidence(tmp_path: Path, gone: Path) -> None:
    """It is a report, so the missing log is not an error of the command itself."""
    assert run(tmp_path, "create").exit_code == 0
    seen = {"created": "2026-01-02T03:04:05Z", "last_sequence": 1107, "seen": "2026-01-02T03:04:05Z"}
    (tmp_path / "log.json").write_text(json.dumps({"format": 1, "streams": {"JOBS": seen}}))
    (tmp_path / "log.json").chmod(0o600)
    shutil.rmtree(tmp_path / gone)
    shown = run(tmp_path, "show", "-o", "json")
    assert shown.exit_code == 6
    document = json.loads(shown.stdout)
    assert "JOBS" not in {each["Name"] for each in document["Streams"]}
    assert any("JOBS is missing, and existed: " in each and "1107" in each for each in document["Problems"])
    assert not (tmp_path / gone).exists()


async def test_named_servers_are_not_compared_with_another_log_in_the_directory(
    tmp_path: Path, server: EmbeddedServer
) -> None:
    """The record belongs to the log in the directory; it is neither a reason to fail nor replaced."""
    await (await JetStreamLog.connect(server.url)).close()
    kept = tmp_path / "kept"
    assert (await asyncio.to_thread(run, kept, "create")).exit_code == 0
    record = kept / "log.json"
    seen = {"created": "2026-01-02T03:04:05Z", "last_sequence": 1107, "seen": "2026-01-02T03:04:05Z"}
    record.write_text(json.dumps({"format": 1, "streams": {"JOBS": seen}}))
    record.chmod(0o600)
    for words in (["create"], ["show"], ["create", "--accept-loss"]):
        done = await asyncio.to_thread(run, kept, *words, "--nats-url", server.url)
        assert done.exit_code == 0, done.output
        assert json.loads(record.read_text())["streams"] == {"JOBS": seen}
