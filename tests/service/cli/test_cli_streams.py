"""`jobledger streams accept-damage` shows what a damaged log lost, and discards exactly that."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Projector, View
from jobledger.store.nats_files.blocks import records
from tests.support.logs import fill

EVENTS = 30


def run(data_dir: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", *more, "--data-dir", data_dir],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_COLOR": "1"},
        timeout=60,
    )


@pytest.fixture
async def block(tmp_path: Path) -> Path:
    """The only block of a log with a view that has read all of it."""
    async with EmbeddedServer(tmp_path / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        await fill(log, EVENTS)
        async with Projector(log, tmp_path / "view.sqlite") as projector:
            await projector.wait_for(EVENTS, 20)
        await log.close()
    (found,) = (tmp_path / "nats").glob("jetstream/*/streams/JOBS/msgs/*.blk")
    return found


@pytest.mark.slow
async def test_intact_log_is_not_changed(tmp_path: Path, block: Path) -> None:
    """The command reports it, and changes no event."""
    before = block.read_bytes()
    done = await asyncio.to_thread(run, tmp_path, "streams", "accept-damage", "--yes")
    assert (done.returncode, done.stdout + done.stderr) == (0, "No damage found\n")
    assert block.read_bytes() == before


@pytest.mark.slow
async def test_damage_is_shown_first_and_discarded_with_yes(tmp_path: Path, block: Path) -> None:
    """One flipped bit costs one event; the service starts only after an operator has accepted that."""
    content = bytearray(block.read_bytes())
    content[list(records(bytes(content)))[9].offset + 60] ^= 1
    block.write_bytes(content)

    done = await asyncio.to_thread(run, tmp_path, "serve", "--port", "0")
    assert done.returncode == 6
    assert "jobledger streams accept-damage" in done.stderr
    assert "(sequence 10: 1 messages)" in done.stderr

    done = await asyncio.to_thread(run, tmp_path, "streams", "accept-damage")
    assert done.returncode == 1
    assert "(sequence 10: 1 messages)" in done.stdout
    assert "1 messages would be discarded" in done.stdout + done.stderr
    assert block.read_bytes() == bytes(content)

    done = await asyncio.to_thread(run, tmp_path, "streams", "accept-damage", "--yes")
    assert done.returncode == 0, done.stderr
    kept = list((tmp_path / "nats" / "recovery").glob("given-up-*/*/streams/JOBS/msgs/*.blk"))
    assert [path.read_bytes() for path in kept] == [bytes(content)]
    async with EmbeddedServer(tmp_path / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        readable = [each for each in range(1, EVENTS + 1) if await log.read_at(each) is not None]
        assert readable == [each for each in range(1, EVENTS + 1) if each != 10]
        await log.close()


@pytest.mark.slow
async def test_view_proves_that_the_end_of_the_log_is_missing(tmp_path: Path, block: Path) -> None:
    """A cut at the end looks like a torn write; the view has seen those events."""
    last = list(records(block.read_bytes()))[-2]
    os.truncate(block, last.offset)
    (tmp_path / "nats" / "recovery" / "known.json").unlink(missing_ok=True)
    done = await asyncio.to_thread(run, tmp_path, "serve", "--port", "0")
    assert "the end is damaged or missing (sequence 29-30: 2 messages)" in done.stderr
    done = await asyncio.to_thread(run, tmp_path, "streams", "accept-damage", "--yes")
    assert done.returncode == 0, done.stderr
    async with EmbeddedServer(tmp_path / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        assert (await log.info()).last_sequence == EVENTS  # the numbers are not used again
        await log.close()
    async with await View.open(tmp_path / "view.sqlite") as view:
        assert (await view.checkpoint()).sequence == EVENTS
