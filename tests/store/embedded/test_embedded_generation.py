"""The embedded server does not destroy what it cannot read: files are kept until a start is proven.

Each case damages the files of a stopped or killed server and starts another one on them. Either nothing was
lost, or the start is refused, every file is byte for byte as it was found, and the report is exact.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, StreamSettings
from jobledger.store.embedded import generation, server as embedded
from jobledger.store.embedded.generation import RECOVERY_FOLDER
from jobledger.store.embedded.proof import Known, Range
from jobledger.store.embedded.salvage import give_up
from jobledger.store.embedded.stream_states import Extent, read_damage, read_known
from jobledger.store.kv import NO_ENTRY
from jobledger.store.log import NO_JOB, Appended
from jobledger.store.model.errors import EmbeddedServerError, StoreDamaged
from jobledger.store.nats_files.blocks import HEAD, records
from tests.support.logs import ask, draft, eventually, fill

EVENTS = 120
MESSAGES = Path("jetstream/$G/streams/JOBS/msgs")
# With so small a limit nats-server makes blocks of 32 kB, so that a small log has several.
SMALL_BLOCKS = StreamSettings(max_bytes=127_000)


_templates: list[Path] = []


@pytest.fixture(scope="module", autouse=True)
def _templates_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The folder in which `make_log` keeps what it wrote."""
    _templates[:] = [tmp_path_factory.mktemp("templates")]


async def make_log(directory: Path, *, kill: bool = True, compression: str = "none") -> None:
    """Creates a log of several blocks, of a server that was killed at the end (or stopped).

    Each kind is written once, and copied for each test.
    """
    template = _templates[0] / f"{'killed' if kill else 'stopped'}-{compression}"
    if not template.exists():
        await _write_log(template, kill=kill, compression=compression)
    shutil.copytree(template, directory, dirs_exist_ok=True, symlinks=True)


async def _write_log(directory: Path, *, kill: bool, compression: str) -> None:
    server = await EmbeddedServer(directory).start()
    log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
    config = (await ask(log, "STREAM.INFO.JOBS"))["config"]
    if config.get("compression", "none") != compression:
        # An update of the stream affects its blocks only after a restart of nats-server.
        await ask(log, "STREAM.UPDATE.JOBS", {**config, "compression": compression})
        await log.close()
        await server.stop()
        server = await EmbeddedServer(directory).start()
        log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
    payload = b"x" * 700
    for start in range(0, EVENTS, 30):
        batch = [log.append(draft(f"job-{start + each}", payload), expect=NO_JOB) for each in range(30)]
        assert all(isinstance(each, Appended) for each in await asyncio.gather(*batch))
    await log.close()
    if kill:
        for task in server._tasks:
            task.cancel()
        await asyncio.gather(*server._tasks, return_exceptions=True)
        os.kill(server.pid, signal.SIGKILL)
    await server.stop()


def blocks_of(directory: Path) -> list[Path]:
    """The message blocks, in order."""
    return sorted((directory / MESSAGES).glob("*.blk"), key=lambda path: int(path.stem))


def contents(directory: Path) -> dict[str, str]:
    """A digest of every file of the streams."""
    root = directory / "jetstream"
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def flip(path: Path, at: int, mask: int = 1) -> None:
    """Changes one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= mask
    path.write_bytes(content)


def record_number(path: Path, number: int) -> tuple[int, int]:
    """Offset and sequence of a record of a block."""
    record = list(records(path.read_bytes()))[number]
    return record.offset, record.sequence


async def refused(directory: Path, **known: int) -> StoreDamaged:
    """Asserts that a start is refused and changes no file; returns the error."""
    before = contents(directory)
    facts = {name: Known(last=last) for name, last in known.items()}
    with pytest.raises(StoreDamaged) as caught:
        await EmbeddedServer(directory, known=facts).start()
    assert contents(directory) == before
    assert not (directory / RECOVERY_FOLDER / "generation").exists()
    assert not (directory / RECOVERY_FOLDER / "diagnosis").exists()
    return caught.value


async def accepted(directory: Path) -> tuple[int, int]:
    """Gives up what is damaged and starts; returns the last sequence and the number of readable events."""
    give_up(directory, read_damage(directory / RECOVERY_FOLDER))
    async with EmbeddedServer(directory) as server:
        log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
        readable = [each for each in range(1, EVENTS + 1) if await log.read_at(each) is not None]
        last = (await log.info()).last_sequence
        appended = await log.append(draft("after"), expect=NO_JOB)
        assert appended == Appended(last + 1)
        await log.close()
    async with EmbeddedServer(directory):  # it stays accepted
        pass
    return last, len(readable)


both_ways = pytest.mark.usefixtures("way")


@pytest.fixture(params=["linked", pytest.param("copied", marks=pytest.mark.slow)])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each way to keep sealed blocks."""
    if request.param == "copied":
        monkeypatch.setattr(embedded, "server_respects_modes", lambda *_: False)
    return str(request.param)


@pytest.mark.parametrize("kill", [True, False])
async def test_undamaged_log_starts_and_its_generation_is_removed(
    tmp_path: Path, way: str, *, kill: bool
) -> None:
    """After `kill -9` and after a regular stop no damage is reported, and no generation is left."""
    await make_log(tmp_path, kill=kill)
    async with EmbeddedServer(tmp_path, known={"JOBS": Known(last=EVENTS)}) as server:
        log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
        assert (await log.info()).last_sequence == EVENTS
        await log.close()
        assert not (tmp_path / RECOVERY_FOLDER / "generation").exists()
        assert not (tmp_path / RECOVERY_FOLDER / "generation.json").exists()
        modes = {path.stat().st_mode & 0o777 for path in blocks_of(tmp_path)[:-2]}
        assert modes == ({0o400} if way == "linked" else {0o600})


@both_ways
@pytest.mark.parametrize("kill", [True, False])
async def test_flipped_bit_in_a_sealed_block_is_reported(tmp_path: Path, *, kill: bool) -> None:
    """Block, byte and event are named; the rest of the block, which nats-server would cut, stays readable."""
    await make_log(tmp_path, kill=kill)
    offset, sequence = record_number(blocks_of(tmp_path)[1], 20)
    flip(blocks_of(tmp_path)[1], offset + 200)
    error = await refused(tmp_path)
    (found,) = read_damage(tmp_path / RECOVERY_FOLDER)
    name = blocks_of(tmp_path)[1].name
    assert found.file == f"$G/streams/JOBS/msgs/{name}"
    assert (found.offset, found.lost) == (offset, Range(sequence, sequence))
    assert f"{name} at byte {offset}" in str(error)
    assert "accept-damage" in str(error)
    assert "with the log.json of the same backup, and without view.sqlite*" in str(error)
    assert await accepted(tmp_path) == (EVENTS, EVENTS - 1)


@both_ways
async def test_a_record_with_a_damaged_length_is_the_only_one_lost(tmp_path: Path) -> None:
    """The records after it are found although no length leads to them."""
    await make_log(tmp_path)
    offset, sequence = record_number(blocks_of(tmp_path)[0], 10)
    flip(blocks_of(tmp_path)[0], offset + 2, 0x40)
    await refused(tmp_path)
    (found,) = read_damage(tmp_path / RECOVERY_FOLDER)
    assert (found.offset, found.lost) == (offset, Range(sequence, sequence))
    assert await accepted(tmp_path) == (EVENTS, EVENTS - 1)


@both_ways
async def test_flipped_bit_in_the_last_block_is_not_a_torn_write(tmp_path: Path) -> None:
    """Complete records after the damaged one prove that more was acknowledged."""
    await make_log(tmp_path)
    offset, sequence = record_number(blocks_of(tmp_path)[-1], -5)
    flip(blocks_of(tmp_path)[-1], offset + 100)
    (tmp_path / RECOVERY_FOLDER / "known.json").unlink(missing_ok=True)
    await refused(tmp_path)
    (found,) = read_damage(tmp_path / RECOVERY_FOLDER)
    assert (found.offset, found.lost) == (offset, Range(sequence, sequence))
    assert await accepted(tmp_path) == (EVENTS, EVENTS - 1)


async def test_flipped_bit_in_the_last_record_is_not_a_torn_write(tmp_path: Path) -> None:
    """The record is complete, so its write was not interrupted."""
    await make_log(tmp_path)
    offset, _ = record_number(blocks_of(tmp_path)[-1], -1)
    flip(blocks_of(tmp_path)[-1], offset + 100)
    (tmp_path / RECOVERY_FOLDER / "known.json").unlink(missing_ok=True)
    await refused(tmp_path)
    assert read_damage(tmp_path / RECOVERY_FOLDER)[0].lost == Range(EVENTS, EVENTS)
    assert await accepted(tmp_path) == (EVENTS, EVENTS - 1)


@pytest.mark.parametrize("left", [1, 21, 30, 400])
async def test_torn_write_of_an_unacknowledged_record_is_not_damage(tmp_path: Path, left: int) -> None:
    """A prefix of a record at the end of the last block, as `kill -9` leaves it, is removed."""
    await make_log(tmp_path)
    last = blocks_of(tmp_path)[-1]
    content = bytearray(last.read_bytes())
    offset, _ = record_number(last, -1)
    torn = content[offset:]
    torn[4:12] = (EVENTS + 1).to_bytes(8, "little")
    last.write_bytes(content + torn[:left])
    async with EmbeddedServer(tmp_path, known={"JOBS": Known(last=EVENTS)}) as server:
        log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
        assert (await log.info()).last_sequence == EVENTS
        await log.close()
    assert last.read_bytes() == bytes(content)


async def test_sectors_that_were_never_written_are_not_damage(tmp_path: Path) -> None:
    """After a power loss the file may have its new length, with zeros for what was not written yet."""
    await make_log(tmp_path)
    last = blocks_of(tmp_path)[-1]
    content = bytearray(last.read_bytes())
    offset, _ = record_number(last, -1)
    torn = content[offset:]
    torn[4:12] = (EVENTS + 1).to_bytes(8, "little")
    last.write_bytes(content + torn[:40] + bytes(1500))
    async with EmbeddedServer(tmp_path, known={"JOBS": Known(last=EVENTS)}) as server:
        log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
        assert (await log.info()).last_sequence == EVENTS
        await log.close()


async def test_a_truncated_last_block_is_damage_if_more_was_acknowledged(tmp_path: Path) -> None:
    """The bytes look like a torn write; the view's checkpoint proves that the event was acknowledged."""
    await make_log(tmp_path)
    last = blocks_of(tmp_path)[-1]
    offset, sequence = record_number(last, -3)
    os.truncate(last, offset + 50)
    (tmp_path / RECOVERY_FOLDER / "known.json").unlink(missing_ok=True)
    await refused(tmp_path, JOBS=EVENTS)
    (found,) = read_damage(tmp_path / RECOVERY_FOLDER)
    assert found.lost == Range(sequence, EVENTS)
    last_sequence, readable = await accepted(tmp_path)
    assert last_sequence == EVENTS  # no lost sequence is used again
    assert readable == EVENTS - 3


@both_ways
async def test_a_truncated_sealed_block_is_damage(tmp_path: Path) -> None:
    """The truncated events are named."""
    await make_log(tmp_path)
    offset, sequence = record_number(blocks_of(tmp_path)[1], -4)
    os.truncate(blocks_of(tmp_path)[1], offset + 50)
    await refused(tmp_path)
    (found,) = read_damage(tmp_path / RECOVERY_FOLDER)
    assert found.lost == Range(sequence, sequence + 3)
    assert await accepted(tmp_path) == (EVENTS, EVENTS - 4)


@pytest.mark.parametrize("number", [0, 1, -1])
async def test_a_deleted_block_is_damage(tmp_path: Path, number: int) -> None:
    """The first one, one in the middle, and the last one."""
    await make_log(tmp_path)
    path = blocks_of(tmp_path)[number]
    held = [each.sequence for each in records(path.read_bytes())]
    path.unlink()
    await refused(tmp_path, JOBS=EVENTS)
    (found,) = read_damage(tmp_path / RECOVERY_FOLDER)
    assert found.lost == Range(held[0], held[-1])
    last, readable = await accepted(tmp_path)
    assert (last, readable) == (EVENTS, EVENTS - len(held))


async def test_damaged_block_before_a_deleted_one_keeps_readable_records(tmp_path: Path) -> None:
    """Both are named; only one record of the damaged block, and the deleted block, are given up."""
    await make_log(tmp_path)
    damaged, deleted = blocks_of(tmp_path)[:2]
    held = [each.sequence for each in records(deleted.read_bytes())]
    offset, sequence = record_number(damaged, 10)
    flip(damaged, offset + 200)
    deleted.unlink()
    error = await refused(tmp_path, JOBS=EVENTS)
    assert f"{damaged.name} at byte {offset}" in str(error)
    assert f"{deleted.name} is missing" in str(error)
    assert await accepted(tmp_path) == (EVENTS, EVENTS - len(held) - 1)
    known = read_known(tmp_path / RECOVERY_FOLDER)["$G/streams/JOBS"]
    assert known.accepted == (Range(sequence, sequence), Range(held[0], held[-1]))


@both_ways
async def test_an_emptied_block_is_damage(tmp_path: Path) -> None:
    """A block without bytes, as a file system check may leave it."""
    await make_log(tmp_path)
    path = blocks_of(tmp_path)[1]
    held = [each.sequence for each in records(path.read_bytes())]
    path.write_bytes(b"")
    await refused(tmp_path)
    (found,) = read_damage(tmp_path / RECOVERY_FOLDER)
    assert found.lost == Range(held[0], held[-1])


@pytest.mark.parametrize("name", ["meta.inf", "meta.sum"])
@pytest.mark.parametrize("damage", [lambda path: flip(path, 3), lambda path: path.unlink()])
async def test_damaged_metadata_is_repaired(
    tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    """nats-server would skip the stream; its file is restored from the copy of the last proven start."""
    await make_log(tmp_path)
    async with EmbeddedServer(tmp_path):  # a proven start keeps a copy
        pass
    meta = tmp_path / MESSAGES.parent / name
    before = meta.read_bytes()
    damage(meta)
    async with EmbeddedServer(tmp_path, known={"JOBS": Known(last=EVENTS)}) as server:
        log = await JetStreamLog.connect(server.url, SMALL_BLOCKS)
        assert (await log.info()).last_sequence == EVENTS
        await log.close()
    assert meta.read_bytes() == before


async def test_damaged_metadata_without_a_copy_is_reported(tmp_path: Path) -> None:
    """The stream is not created again over its blocks."""
    await make_log(tmp_path)
    shutil.rmtree(tmp_path / RECOVERY_FOLDER / "meta", ignore_errors=True)
    flip(tmp_path / MESSAGES.parent / "meta.inf", 3)
    error = await refused(tmp_path)
    assert "meta.inf does not match its checksum in meta.sum" in str(error)
    assert "1-120" in str(error)


async def test_start_killed_before_its_proof_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next start puts back what nats-server changed in a start that was never proven."""
    await make_log(tmp_path)
    offset, _ = record_number(blocks_of(tmp_path)[-1], -5)
    flip(blocks_of(tmp_path)[-1], offset + 100)
    before = contents(tmp_path)
    monkeypatch.setattr(generation.Generation, "put_back", lambda _: None)
    with pytest.raises(StoreDamaged):
        await EmbeddedServer(tmp_path).start()
    assert contents(tmp_path) != before
    monkeypatch.undo()
    await refused_as(tmp_path, before)


async def refused_as(directory: Path, before: dict[str, str]) -> None:
    """Asserts that a start is refused, and that the files are as they were at an earlier moment."""
    with pytest.raises(StoreDamaged):
        await EmbeddedServer(directory).start()
    assert contents(directory) == before


async def test_blocks_are_read_as_the_server_writes_them(tmp_path: Path) -> None:
    """All records of all blocks are read in order, and no byte is left: the format is unchanged."""
    await make_log(tmp_path)
    sequences: list[int] = []
    for path in blocks_of(tmp_path):
        block = path.read_bytes()
        found = list(records(block))
        assert found[-1].offset + found[-1].length == len(block)
        sequences += [each.sequence for each in found]
    assert sequences == list(range(1, EVENTS + 1))
    assert HEAD.size == 22


@both_ways
@pytest.mark.parametrize("number", [0, 1])
async def test_a_damaged_compressed_block_destroys_nothing(tmp_path: Path, number: int) -> None:
    """Earlier releases compressed blocks; a flipped bit in one makes nats-server delete the stream."""
    await make_log(tmp_path, compression="s2")
    flip(blocks_of(tmp_path)[number], 2000)
    error = await refused(tmp_path, JOBS=EVENTS)
    assert error.damage
    with pytest.raises(EmbeddedServerError, match="restore a backup"):
        give_up(tmp_path, read_damage(tmp_path / RECOVERY_FOLDER))


async def test_lost_block_of_a_bucket_is_damage(tmp_path: Path) -> None:
    """Entries may be deleted, so gaps prove nothing: their number is recorded."""
    blocks = tmp_path / "jetstream/$G/streams/JOBS_SUBSCRIPTIONS/msgs"
    async with EmbeddedServer(tmp_path) as server:
        log = await JetStreamLog.connect(server.url)
        records = await log.key_value("SUBSCRIPTIONS")
        for name in ("one", "two"):
            await records.put(name, b"kept", expect=NO_ENTRY)
        await log.close()

        async def remembered() -> bool:
            facts = read_known(tmp_path / RECOVERY_FOLDER).get("$G/streams/JOBS_SUBSCRIPTIONS", Known())
            return facts.messages == 2

        await eventually(remembered)
    async with EmbeddedServer(tmp_path):  # both entries exist
        pass
    [block] = blocks.glob("*.blk")
    block.unlink()
    error = await refused(tmp_path)
    assert "JOBS_SUBSCRIPTIONS: $G/streams/JOBS_SUBSCRIPTIONS has 0 messages, and had 2" in str(error)
    give_up(tmp_path, read_damage(tmp_path / RECOVERY_FOLDER))
    async with EmbeddedServer(tmp_path) as server:
        log = await JetStreamLog.connect(server.url)
        assert await (await log.key_value("SUBSCRIPTIONS")).get("one") is None
        await log.close()


async def test_deleted_entry_does_not_count(tmp_path: Path) -> None:
    """Its marker expires after a day, maybe while the server is stopped: that is not damage."""
    name = "$G/streams/JOBS_SUBSCRIPTIONS"

    def held() -> int:
        return read_known(tmp_path / RECOVERY_FOLDER).get(name, Known()).messages

    async with EmbeddedServer(tmp_path) as server:
        log = await JetStreamLog.connect(server.url)
        records = await log.key_value("SUBSCRIPTIONS")
        for key in ("one", "two"):
            await records.put(key, b"kept", expect=NO_ENTRY)

        async def both() -> bool:
            return held() == 2

        await eventually(both)
        entry = await records.get("one")
        assert entry is not None
        await records.delete("one", expect=entry.revision)
        await log.close()

        async def only_one() -> bool:
            return held() == 1

        await eventually(only_one)
    async with EmbeddedServer(tmp_path):  # its marker still exists
        assert held() == 1


async def test_damaged_sequence_is_not_taken_for_the_end(tmp_path: Path) -> None:
    """One flipped bit changes a sequence to 4,000; only that event is lost."""
    await make_log(tmp_path)
    last = blocks_of(tmp_path)[-1]
    offset, sequence = record_number(last, 1)
    flip(last, offset + 5, 0x10)
    await refused(tmp_path, JOBS=EVENTS)
    lost = [each.lost for each in read_damage(tmp_path / RECOVERY_FOLDER)]
    assert lost == [Range(sequence, sequence)]


def test_files_are_cloned_if_the_file_system_supports_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FICLONE of btrfs and XFS, emulated: a clone is another file, also of a block that may be linked."""

    def clone(target: int, request: int, source: int) -> int:
        assert request == 0x40049409
        return os.write(target, os.pread(source, 100, 0))

    monkeypatch.setattr(fcntl, "ioctl", clone)
    source, kept = tmp_path / "1.blk", tmp_path / "kept"
    source.write_bytes(b"records")
    generation._keep_file(source, kept, link=True)
    os.truncate(source, 0)  # in place, as nats-server does
    assert kept.read_bytes() == b"records"


async def write_events(server: EmbeddedServer, count: int) -> None:
    log = await JetStreamLog.connect(server.url)
    await fill(log, count)
    await log.close()


async def test_a_start_without_what_is_known_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that cannot be read is not a missing one, which would prove less. A damaged one is reported."""
    async with EmbeddedServer(tmp_path) as server:
        await write_events(server, 3)
    known = tmp_path / RECOVERY_FOLDER / "known.json"
    known.rename(known.with_name("away"))
    known.symlink_to(known)  # root may read any file that exists
    with pytest.raises(EmbeddedServerError, match=r"cannot use .*symbolic links"):
        await EmbeddedServer(tmp_path).start()
    known.unlink()
    known.write_bytes(b"{")
    async with EmbeddedServer(tmp_path):
        assert "known.json is damaged" in caplog.text
        known.unlink()
    async with EmbeddedServer(tmp_path):
        assert read_known(known.parent)


async def test_what_is_known_is_not_replaced_while_it_cannot_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By less: it is logged once, and recorded again when it can be read."""
    async with EmbeddedServer(tmp_path) as server:
        await write_events(server, 3)
        known = tmp_path / RECOVERY_FOLDER / "known.json"
        away = known.rename(known.with_name("away"))
        known.symlink_to(known)
        now = {"$G/streams/JOBS": Extent("", 3, 3)}
        for _ in range(2):
            server._remember(now, now, {})
        assert known.is_symlink()
        known.unlink()
        assert caplog.text.count("what is known of the streams cannot be read") == 1
        away.rename(known)
        server._remember(now, now, {})
        assert read_known(known.parent)["$G/streams/JOBS"].last == 3
