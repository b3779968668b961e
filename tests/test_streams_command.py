"""`jobledger streams` creates, shows and gives up streams only as its operator asked."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobledger.service.cli import cli
from jobledger.store.errors import LogMissing
from jobledger.store.jetstream import stream as stream_module
from jobledger.store.jetstream.declarations import STREAMS

NAMES = [each.name("JOBS") for each in STREAMS]
STREAMS_FOLDER = Path("nats") / "jetstream" / "$G" / "streams"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is created or elected in these tests while it is looked for."""
    monkeypatch.setattr(stream_module, "STREAM_MISSING_SECONDS", 0.05)


def run(directory: Path, *words: str) -> Result:
    """A command of the group on this data directory."""
    return CliRunner().invoke(cli, ["streams", *words, "--data-dir", str(directory)])


def test_create_makes_every_stream_and_show_lists_them(tmp_path: Path) -> None:
    """Both say the same, with exit code 0."""
    created, shown = (run(tmp_path, verb, "-o", "json") for verb in ("create", "show"))
    assert (created.exit_code, shown.exit_code) == (0, 0), created.output
    listed = json.loads(shown.stdout)
    assert [each["Name"] for each in listed["Streams"]] == NAMES
    assert {each["CompressedBlocks"] for each in listed["Streams"]} == {"0"}
    assert not listed["Problems"]


@pytest.mark.parametrize("name", ["JOBS", "JOBS_SEALS"])
def test_lost_stream_is_given_up_only_by_the_flag(tmp_path: Path, name: str) -> None:
    """Without it the command refuses; with it, it prints what is given up and why it is known."""
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
    assert f"Given up: everything that {name} held" in accepted.output
    assert "last sequence 1107" in accepted.output
    assert json.loads(record.read_text())["streams"][name]["last_sequence"] == 0
    assert run(tmp_path, "create").exit_code == 0


def test_rewrite_of_a_log_without_compression_changes_nothing(tmp_path: Path) -> None:
    """It says so, and the streams are as before."""
    assert run(tmp_path, "create").exit_code == 0
    done = run(tmp_path, "rewrite")
    assert done.exit_code == 0, done.output
    assert "0 blocks were rewritten" in done.output
    assert run(tmp_path, "show").exit_code == 0
