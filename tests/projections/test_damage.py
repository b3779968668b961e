"""Damaged blocks of a real server's stream: the view names them and continues after them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from jobledger import JetStreamLog, Ledger, Projector, View
from jobledger.store.model.events import JobCreated, JobStateChanged
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import named_job_id
from tests.conftest import make_spec
from tests.support.histories import spec_data, state_data
from tests.support.nats_servers import nats_server
from tests.support.unreadable_events import Writer

pytestmark = pytest.mark.slow

JOBS = 250
_LARGE = {f"key-{number}": "x" * 4_000 for number in range(25)}  # some eighty jobs fill a block


def blocks(directory: Path) -> list[Path]:
    return sorted(directory.glob("**/JOBS/msgs/*.blk"), key=lambda path: int(path.stem))


def flip_a_bit(directory: Path) -> None:
    path = blocks(directory)[1]
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        [byte] = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def flip_a_bit_and_lose_the_index(directory: Path) -> None:
    flip_a_bit(directory)
    for path in directory.glob("**/JOBS/msgs/index.db"):
        path.unlink()


def delete_a_block(directory: Path) -> None:
    blocks(directory)[1].unlink()


def truncate_the_last_block(directory: Path) -> None:
    path = blocks(directory)[-1]
    os.truncate(path, path.stat().st_size * 2 // 3)


async def fill(port: int) -> None:
    """Jobs over several blocks; the first job has events in the first and the last block."""
    log = await JetStreamLog.connect(f"nats://127.0.0.1:{port}")
    first = Writer(log, named_job_id("default", "first"))
    await first.write(JobCreated, spec_data("first"))
    for number in range(JOBS):
        if number == 120:
            await first.write(JobStateChanged, state_data(StateType.RUNNING))
        writer = Writer(log, named_job_id("default", f"job-{number}"))
        await writer.write(JobCreated, spec_data(f"job-{number}", meta=_LARGE))
    await first.write(JobStateChanged, state_data(StateType.QUEUED))
    await writer.write(JobStateChanged, state_data(StateType.RUNNING))
    await log.close()


@pytest.mark.parametrize("running", [False, True], ids=["after a restart", "under a running server"])
@pytest.mark.parametrize("damage", [flip_a_bit, flip_a_bit_and_lose_the_index, delete_a_block])
async def test_a_damaged_block_is_named_and_other_jobs_continue(
    tmp_path: Path, damage: Callable[[Path], None], *, running: bool
) -> None:
    """A new view becomes live, knows the range, and quarantines the jobs that miss an event in it."""
    server = tmp_path / "server"
    async with nats_server(server) as port:
        await fill(port)
    if not running:
        damage(server)
    async with nats_server(server) as port:
        if running:
            damage(server)
        log = await JetStreamLog.connect(f"nats://127.0.0.1:{port}")
        last = (await log.info()).last_sequence
        path = tmp_path / "view.db"
        async with Projector(log, path) as projector:
            await projector.wait_live(60)
            view = await View.open(path)
            assert projector.sequence == last
            [hole] = await view.damage()
            for sequence in range(hole.first, hole.last + 1):
                assert await log.read_at(sequence) is None
            assert await log.read_at(hole.last + 1) is not None
            misses = [each.name for each in await view.missing_events(hole)]
            assert misses == (["first"] if hole.first <= 122 <= hole.last else [])
            await view.close()
            receipt = await Ledger(log).create(make_spec("after"))
            await projector.wait_for(receipt.sequence)
        await log.close()


async def test_a_truncated_last_block_is_a_hole_at_the_end(tmp_path: Path) -> None:
    """Its events are reported instead of waited for; a view continues after them, also when reopened."""
    server = tmp_path / "server"
    async with nats_server(server) as port:
        await fill(port)
    truncate_the_last_block(server)
    async with nats_server(server) as port:
        log = await JetStreamLog.connect(f"nats://127.0.0.1:{port}")
        last = (await log.info()).last_sequence
        path = tmp_path / "view.db"
        async with Projector(log, path) as projector:
            await projector.wait_live(60)
            view = await View.open(path)
            [hole] = await view.damage()
            assert hole.last == last
            await view.close()
        async with Projector(log, path) as projector:
            receipt = await Ledger(log).create(make_spec("after"))
            await projector.wait_for(receipt.sequence, 60)
        await log.close()
