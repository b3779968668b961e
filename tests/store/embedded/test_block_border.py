"""A batch that crosses the end of a block while power is lost: what a start makes of each state of the disk.

nats-server syncs the blocks of a batch in order, and only then acknowledges it. So the disk may have any part
of what was written after the last acknowledged event, and of two blocks also the later one without the end of
the earlier one, if the kernel wrote that by itself.
"""

import os
import shutil
import signal
from pathlib import Path
from typing import NamedTuple

import pytest

from jobledger import EmbeddedServer, JetStreamLog, StreamSettings
from jobledger.store.embedded.generation import RECOVERY_FOLDER
from jobledger.store.embedded.proof import Known, Range
from jobledger.store.embedded.salvage import give_up
from jobledger.store.embedded.stream_states import read_damage, write_known
from jobledger.store.log import NO_JOB
from jobledger.store.model.errors import StoreDamaged
from jobledger.store.nats_files.blocks import records
from tests.support.batches import send_batch
from tests.support.logs import draft, whole

MESSAGES = Path("jetstream/$G/streams/JOBS/msgs")
SMALL_BLOCKS = StreamSettings(max_bytes=127_000)  # of 32 kB
ACKNOWLEDGED = 24
BATCH = 20
FOLDER = "$G/streams/JOBS"

pytestmark = pytest.mark.slow


class Disk(NamedTuple):
    """The files of a log after a batch that is in two blocks; `synced`: the bytes before it."""

    folder: Path
    synced: int
    one: bytes
    two: bytes


@pytest.fixture
async def disk(tmp_path: Path) -> Disk:
    """The blocks 1 and 2, with the ends of their records after the batch."""
    folder = tmp_path / "log"
    async with EmbeddedServer(folder) as server:
        log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
        for number in range(ACKNOWLEDGED):
            await log.append(draft(f"s-{number}", b"x" * 900), expect=NO_JOB)
        synced = (folder / MESSAGES / "1.blk").stat().st_size
        ack = await send_batch(log, [draft(f"b-{number}", b"y" * 900) for number in range(BATCH)])
        assert ack is not None
        assert ack.seq == ACKNOWLEDGED + BATCH
        await log.close()
        shutil.copytree(folder, tmp_path / "image", symlinks=True)
        os.kill(server.pid, signal.SIGKILL)
    files = tmp_path / "image" / MESSAGES
    (files / "index.db").unlink(missing_ok=True)
    write_known(tmp_path / "image" / RECOVERY_FOLDER, {FOLDER: Known(last=ACKNOWLEDGED)})
    return Disk(tmp_path / "image", synced, (files / "1.blk").read_bytes(), (files / "2.blk").read_bytes())


def restored(disk: Disk, folder: Path, one: bytes, two: bytes | None) -> Path:
    """The disk with these blocks, as after a power loss."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(disk.folder, folder, symlinks=True)
    (folder / MESSAGES / "1.blk").write_bytes(one)
    (folder / MESSAGES / "2.blk").unlink()
    if two is not None:
        (folder / MESSAGES / "2.blk").write_bytes(two)
    return folder


async def sequences(folder: Path) -> list[int]:
    """The sequences of a log that is started on these files."""
    async with EmbeddedServer(folder) as server:
        log = await JetStreamLog.connect(server.url)
        try:
            return [each.sequence for each in await whole(log)]
        finally:
            await log.close()


async def test_every_prefix_of_a_batch_in_two_blocks_starts(disk: Disk, tmp_path: Path) -> None:
    """Cut at the border, around it, and within records; without the second block, or with an unusable one."""
    ends = [each.offset + each.length for each in records(disk.one)]
    cuts = {disk.synced + more: ACKNOWLEDGED for more in (0, 1, 600)}
    cuts |= {ends[ACKNOWLEDGED] - 1: ACKNOWLEDGED, ends[ACKNOWLEDGED]: ACKNOWLEDGED + 1}
    cuts |= {ends[-1] - 1: len(ends) - 1, ends[-1]: len(ends)}
    first = next(records(disk.two))
    unusable = (None, b"", disk.two[: first.length - 1], bytes(len(disk.two)))
    for at, (cut, last) in enumerate(cuts.items()):
        folder = restored(disk, tmp_path / "cut", disk.one[:cut], unusable[at % len(unusable)])
        assert await sequences(folder) == [*range(1, last + 1)], cut
    zeros = disk.one[: disk.synced + 600].ljust(len(disk.one), b"\0")
    assert await sequences(restored(disk, tmp_path / "cut", zeros, None)) == [*range(1, ACKNOWLEDGED + 1)]
    for end, last in (
        (first.length, 1),
        (first.length + 1, 1),
        (len(disk.two), len(list(records(disk.two)))),
    ):
        folder = restored(disk, tmp_path / "cut", disk.one, disk.two[:end])
        assert await sequences(folder) == [*range(1, len(ends) + last + 1)], end


async def test_a_later_block_without_the_end_of_the_earlier_one_is_refused_and_given_up(
    disk: Disk, tmp_path: Path
) -> None:
    """It cannot be distinguished from lost events. Giving it up keeps every acknowledged event."""
    ends = [each.offset + each.length for each in records(disk.one)]
    first = next(records(disk.two))
    for cut, two in (
        (disk.synced, disk.two),
        (disk.synced + 600, disk.two[: first.length]),
        (ends[-1] - 1, disk.two),
    ):
        folder = restored(disk, tmp_path / "cut", disk.one[:cut], two)
        with pytest.raises(StoreDamaged):
            await EmbeddedServer(folder).start()
        assert (folder / MESSAGES / "1.blk").read_bytes() == disk.one[:cut]
        damage = read_damage(folder / RECOVERY_FOLDER)
        last = sum(end <= cut for end in ends)
        assert [each.lost for each in damage] == [Range(last + 1, len(ends))]
        give_up(folder, damage)
        assert set(range(1, last + 1)) <= set(await sequences(folder))
