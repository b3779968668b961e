"""A start of the embedded server is verified with the Merkle tree of the view."""

import asyncio
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from jobledger import named_job_id
from jobledger.service import log_witness as logwitness
from jobledger.service.cli.main import cli
from jobledger.service.log_witness import ViewWitness
from jobledger.store.embedded.generation import Generation
from jobledger.store.model.errors import StoreDamaged
from jobledger.store.model.events import Record
from jobledger.store.nats_files.blocks import decompress, messages
from tests.conftest import make_spec
from tests.support.api import running_api

JOBS = 5
MESSAGES = Path("nats/jetstream/$G/streams/JOBS/msgs")


async def serve(directory: Path, count: int = JOBS, prefix: str = "job") -> None:
    """A service that takes this many jobs, and ends."""
    async with running_api(directory) as (service, _):
        await asyncio.gather(*(service.ledger.create(make_spec(f"{prefix}-{each}")) for each in range(count)))
        await service.projector.wait_for(count, 20)


def change_tree(directory: Path, statement: str) -> None:
    """Change the tree in a closed view."""
    view = sqlite3.connect(directory / "view.sqlite")
    view.execute("DROP TRIGGER IF EXISTS tree_grows")
    view.execute(statement)
    view.commit()
    view.close()


async def test_blocks_of_another_log_are_detected(tmp_path: Path) -> None:
    """All checksums are right, and the end is the same; only the tree differs."""
    await serve(tmp_path / "a")
    await serve(tmp_path / "b", prefix="other")
    shutil.rmtree(tmp_path / "a" / MESSAGES)
    shutil.copytree(tmp_path / "b" / MESSAGES, tmp_path / "a" / MESSAGES)
    with pytest.raises(
        StoreDamaged, match=rf"1\.blk contains other events than the view .* \(sequence 1-{JOBS}"
    ):
        await serve(tmp_path / "a", 0)
    words = ["streams", "accept-damage", "--data-dir", str(tmp_path / "a")]
    shown = await asyncio.to_thread(CliRunner().invoke, cli, words)
    assert shown.exit_code == 1
    assert "view.sqlite would be moved to a backup" in shown.output
    done = await asyncio.to_thread(CliRunner().invoke, cli, [*words, "--yes"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "a" / "view.sqlite.damaged-1").exists()
    async with running_api(tmp_path / "a") as (service, _):
        await service.projector.wait_for(JOBS, 10)
        assert (await service.ledger.load(named_job_id("default", "other-0"))) is not None


@pytest.mark.parametrize(
    ("events", "damage"),
    [
        (JOBS, "UPDATE tree_tail SET hashes = zeroblob(length(hashes))"),
        pytest.param(
            300,
            "UPDATE tree_tiles SET hashes = zeroblob(8192) WHERE level = 0",
            marks=pytest.mark.slow,
        ),
    ],
)
async def test_a_damaged_tree_is_attributed_to_the_view(tmp_path: Path, events: int, damage: str) -> None:
    """It stops no start, and is rebuilt."""
    await serve(tmp_path, events)
    change_tree(tmp_path, damage)
    async with running_api(tmp_path) as (service, _):
        await service.projector.wait_for(events, 20)
        await service.projector.wait_live()
        assert service.projector.rebuilds == 1
        assert (await service.tree.state()).size == events


async def test_a_failing_witness_does_not_stop_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bug, or an unreadable block, is logged."""
    await serve(tmp_path)
    stores = Generation(tmp_path / "nats")
    [stream] = [each for each in stores.keep(full_check_max_bytes=0).streams if each.name == "JOBS"]

    def read(number: int) -> Sequence[Record]:
        raise PermissionError(number)

    assert not await ViewWitness(tmp_path / "view.sqlite", "JOBS")(stream, read)
    assert "the log could not be compared with the tree of the view" in caplog.text
    stores.put_back()


async def test_the_comparison_has_a_time_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The newest events come first; the log has the first compared event."""
    await serve(tmp_path)
    stores = Generation(tmp_path / "nats")
    [stream] = [each for each in stores.keep(full_check_max_bytes=0).streams if each.name == "JOBS"]

    def read(number: int) -> object:
        return messages(decompress((stores.messages(stream) / f"{number}.blk").read_bytes()))

    witness = ViewWitness(tmp_path / "view.sqlite", "JOBS")
    assert not await witness(stream, read)  # type: ignore[arg-type]
    assert witness.compared == JOBS
    monkeypatch.setattr(logwitness, "LOG_PROOF_SECONDS", 0.0)
    caplog.set_level("INFO")
    assert not await witness(stream, read)  # type: ignore[arg-type]
    assert witness.compared == 0
    assert f"from event {JOBS + 1} on" in caplog.text
    stores.put_back()
