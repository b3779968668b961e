"""Compressed blocks are rewritten without changing a message; an interrupted rewrite can be repeated."""

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.jetstream import rewrite as blocks_module
from jobledger.store.jetstream.declarations import STREAMS, StreamSettings
from jobledger.store.jetstream.reader import StreamDigest
from jobledger.store.jetstream.rewrite import (
    KEPT_FOLDER,
    check_kept,
    drop_kept,
    find_blocks,
    put_back,
    rewrite_blocks,
    rewrite_embedded,
    rewrite_store,
)
from jobledger.store.kv import NO_ENTRY
from jobledger.store.log import Appended
from jobledger.store.model.errors import LogBroken
from jobledger.store.nats_files.blocks import decompress
from jobledger.store.nats_files.s2 import S2Error, crc32c, decode_stream
from tests.support.logs import append_all, ask, draft, unchecked

NAMES = [each.name("JOBS") for each in STREAMS]
# The longest repeats, runs and literals that an encoder can write appear in these.
PAYLOADS: tuple[Callable[[random.Random], bytes], ...] = (
    lambda chance: chance.randbytes(chance.randrange(1, 90_000)),
    lambda chance: b"x" * chance.randrange(1, 200_000),
    lambda chance: b"abcdefghij" * chance.randrange(1, 20_000),
    lambda chance: b'{"Name":"%d","Image":"busybox"}' % chance.randrange(1_000) * chance.randrange(1, 200),
)


async def compressed_log(directory: Path, events: int = 240) -> dict[str, StreamDigest]:
    """Creates the stopped store of an earlier release; returns its content."""
    chance = random.Random(7)
    async with EmbeddedServer(directory) as server:
        admin = await unchecked(server.url)
        for each in STREAMS:
            config = each.config(StreamSettings(), replicas=1) | {"compression": "s2", "metadata": {}}
            assert "error" not in await ask(admin, f"STREAM.CREATE.{each.name('JOBS')}", config)
        for start in range(0, events, 40):
            drafts = [draft(f"j-{n}", chance.choice(PAYLOADS)(chance)) for n in range(start, start + 40)]
            await append_all(admin, drafts)
        keys = await admin.key_value("KEYS")
        for number in range(50):
            await keys.put(f"key-{number}", b"answer", expect=NO_ENTRY)
        found = await admin.digest_streams(NAMES)
        await admin.close()
    assert any(each.compressed for each in find_blocks(directory, NAMES))
    return found


async def digest_of(directory: Path) -> dict[str, StreamDigest]:
    """The content of a stopped store."""
    async with EmbeddedServer(directory) as server:
        log = await JetStreamLog.connect(server.url)
        found = await log.digest_streams(NAMES)
        await log.close()
    return found


async def epoch_of(directory: Path) -> str:
    async with EmbeddedServer(directory) as server:
        log = await JetStreamLog.connect(server.url)
        epoch = (await log.info()).epoch
        await log.close()
    return epoch


def silent(_: object) -> None:
    """Ignores progress."""


@pytest.mark.slow
async def test_rewrite_keeps_every_message_and_the_epoch(tmp_path: Path) -> None:
    """No block is compressed afterward, the old ones are dropped, and readiness has no warning."""
    before = await compressed_log(tmp_path / "nats")
    epoch = await epoch_of(tmp_path / "nats")
    count = await rewrite_embedded(tmp_path / "nats", "JOBS", JetStreamLog.connect, silent)
    assert count > 0
    assert not any(each.compressed for each in find_blocks(tmp_path / "nats", NAMES))
    assert not (tmp_path / "nats" / KEPT_FOLDER).exists()
    assert await digest_of(tmp_path / "nats") == before
    assert await epoch_of(tmp_path / "nats") == epoch
    async with EmbeddedServer(tmp_path / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        assert not any(each.once_compressed for each in await log.report_streams())
        assert isinstance(await log.append(draft("new"), expect=0), Appended)
        await log.close()


@pytest.mark.slow
async def test_rewritten_log_survives_a_kill(tmp_path: Path) -> None:
    """Events from before and after the rewrite are read after `kill -9`."""
    await compressed_log(tmp_path / "nats")
    await rewrite_embedded(tmp_path / "nats", "JOBS", JetStreamLog.connect, silent)
    async with EmbeddedServer(tmp_path / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        await append_all(log, [draft(f"more-{n}", b"x" * 900) for n in range(200)])
        os.kill(server.pid, signal.SIGKILL)
        await log._connection.wait_up(30)
        info = await ask(log, "STREAM.INFO.JOBS")
        assert info["state"]["messages"] == info["state"]["last_seq"] == 440
        await log.close()


_KILLED = """
import os, signal, sys
from pathlib import Path
from jobledger.store.jetstream import rewrite as blocks
left = int(sys.argv[2])
def step(name):
    original = getattr(blocks.os if name in ("fsync",) else blocks.Path, name)
    def counted(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return original(*args, **kwargs)
    setattr(blocks.os if name in ("fsync",) else blocks.Path, name, counted)
for name in ("fsync", "replace", "hardlink_to", "unlink"):
    step(name)
from jobledger.store.jetstream.rewrite import rewrite_store
rewrite_store(Path(sys.argv[1]), "JOBS", lambda _: None)
print("done")
"""


@pytest.mark.slow
async def test_rewrite_killed_at_any_step_loses_nothing(tmp_path: Path) -> None:
    """The store is complete after every kill, and the next run finishes."""
    store = tmp_path / "nats"
    before = await compressed_log(store)
    for step in range(60):
        command = [sys.executable, "-c", _KILLED, str(store), str(step)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert await digest_of(store) == before
        if "done" in done.stdout:
            break
    assert not any(each.compressed for each in find_blocks(store, NAMES))


@pytest.mark.slow
async def test_damaged_block_changes_nothing(tmp_path: Path) -> None:
    """A flipped bit is found before the first block is replaced, and named."""
    store = tmp_path / "nats"
    await compressed_log(store)
    found = [each for each in find_blocks(store, NAMES) if each.compressed]
    victim = found[-1].path
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 0x10
    victim.write_bytes(data)
    contents = {each.path: each.path.read_bytes() for each in find_blocks(store, NAMES)}
    with pytest.raises(LogBroken, match=str(victim).replace("$", r"\$")):
        rewrite_store(store, "JOBS", silent)
    assert {each.path: each.path.read_bytes() for each in find_blocks(store, NAMES)} == contents


@pytest.mark.slow
async def test_rewrite_that_changes_a_message_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The messages are compared before the old blocks are dropped; if one differs, these are put back."""
    store = tmp_path / "nats"
    before = await compressed_log(store)
    good = decompress

    def wrong(data: bytes) -> bytes:
        return good(data)[:-200]

    monkeypatch.setattr(blocks_module, "decompress", wrong)
    monkeypatch.setattr(blocks_module, "check_kept", lambda *_: None)
    with pytest.raises(LogBroken, match="put back"):
        await rewrite_embedded(store, "JOBS", JetStreamLog.connect, silent)
    assert any(each.compressed for each in find_blocks(store, NAMES))
    assert await digest_of(store) == before


@pytest.mark.slow
async def test_old_block_is_dropped_only_if_the_new_one_is_equal(tmp_path: Path) -> None:
    """After an interrupted run each pair is compared; a block may have grown since."""
    store = tmp_path / "nats"
    await compressed_log(store)
    rewrite_blocks(store, find_blocks(store, NAMES), silent)
    grown = find_blocks(store, ["JOBS"])[0].path
    with grown.open("ab") as file:
        file.write(b"a record that came later")
    check_kept(store, NAMES)
    grown.write_bytes(b"?" + grown.read_bytes()[1:])
    with pytest.raises(LogBroken, match="copy both to another disk"):
        check_kept(store, NAMES)
    put_back(store)
    drop_kept(store)
    assert any(each.compressed for each in find_blocks(store, NAMES))


def test_crc32c_is_the_one_of_rfc_3720() -> None:
    """The vectors of RFC 3720, B.4, and the usual check value."""
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\x02\x00\x00\x00", "unknown type"),
        (b"\xff\x06\x00\x00nothin", "another format"),
        (b"\x00\xff\x00\x00abc", "cut off"),
        (b"\x01\x05\x00\x00\x00\x00\x00\x00a", "checksum"),
        (b"\x00\x07\x00\x00\x00\x00\x00\x00\x04\x01\x09", "from outside"),
        (b"\x00\x05\x00\x00\x00\x00\x00\x00\x04", "0 bytes instead of 4"),
        (b"\x00\x09\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff\x7f", "at most 4194304 bytes"),
    ],
)
def test_damaged_stream_is_refused(data: bytes, says: str) -> None:
    """Every kind of damage is an S2Error, never another exception or an endless loop."""
    with pytest.raises(S2Error, match=says):
        decode_stream(data)


def test_damage_anywhere_is_an_s2_error() -> None:
    """Flipped and missing bytes of a small stream give an error, or content without a damaged byte."""
    literal = b"hello, hello, hello, blocks"
    crc = crc32c(literal)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    body = masked.to_bytes(4, "little") + bytes([len(literal), (len(literal) - 1) << 2]) + literal
    stream = b"\xff\x06\x00\x00S2sTwO\x00" + len(body).to_bytes(3, "little") + body
    assert decode_stream(stream) == literal
    for at in range(len(stream)):
        for changed in (stream[:at], stream[:at] + bytes([stream[at] ^ 0x55]) + stream[at + 1 :]):
            try:
                assert decode_stream(changed) in (literal, b"")
            except S2Error:
                continue


def test_uncompressed_block_is_unchanged() -> None:
    """Only a block that starts with the mark is decompressed."""
    assert decompress(b"raw records") == b"raw records"
    with pytest.raises(S2Error, match="header"):
        decompress(b"cmp\x07" + bytes(40))
