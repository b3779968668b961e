"""Seals: each extends the one before, and a changed past is never signed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import EMPTY_ROOT, leaf_hashes
from jobledger.service.audit import sealer as sealer_module
from jobledger.service.audit.model.checkpoint import make_seal, named_keys, open_seal, read_seal
from jobledger.service.audit.model.note import Signer
from jobledger.service.audit.sealer import SealAlarm
from jobledger.service.audit.seals import SealFile, split_notes
from jobledger.service.errors import NotSealed
from jobledger.store.jetstream.declarations import SEALS, StreamSettings
from jobledger.store.jetstream.kv import JetStreamKeyHistory
from jobledger.store.model.errors import LogBehind, LogUnavailable, LogUnfit
from tests.support.logs import ask, decided, eventually, whole
from tests.support.sealers import MARK, ORIGIN, Sealing, more, sealing


async def published(seals: JetStreamKeyHistory) -> list[int]:
    """The sizes of all seals on the stream, in order."""
    return [read_seal(record.payload).size for record in await seals.read()]


@pytest.fixture
async def one(jetstream_log: JetStreamLog, tmp_path: Path) -> AsyncIterator[Sealing]:
    """A replica whose log has 20 events."""
    await more(jetstream_log, 20)
    async with sealing(jetstream_log, tmp_path / "one") as running:
        await running.caught_up()
        yield running


async def test_a_seal_signs_the_log_s_tree(one: Sealing) -> None:
    """Size and root are the log's, the signature is the key's; it is on the stream and in the file."""
    sealed = await one.sealer.seal()
    assert (sealed.seal.origin, sealed.seal.size) == (ORIGIN, 20)
    assert sealed.seal.root == root_of(leaf_hashes(await whole(one.log)))
    [key] = [each.public for each in one.keys.records()]
    assert open_seal(sealed.seal.note, [key]).signers == (key.short,)
    last = await one.seals.last()
    assert last is not None
    assert (last.payload.decode(), last.sequence, last.time) == (
        sealed.seal.note,
        sealed.sequence,
        sealed.time,
    )
    assert [*split_notes(one.file.path.read_text())] == [sealed.seal.note]
    assert one.sealer.state.last == sealed


async def test_a_log_without_new_events_is_not_sealed_again(one: Sealing) -> None:
    """The same seal is returned; after more events, a new one."""
    first = await one.sealer.seal()
    assert await one.sealer.seal() == first
    await more(one.log, 25)
    await one.caught_up()
    assert (await one.sealer.seal()).seal.size == 25
    assert await published(one.seals) == [20, 25]
    assert len([*split_notes(one.file.path.read_text())]) == 2


async def test_an_empty_log_is_not_sealed(jetstream_log: JetStreamLog, tmp_path: Path) -> None:
    """This does not count as a failure."""
    async with sealing(jetstream_log, tmp_path / "one") as running:
        with pytest.raises(NotSealed, match="empty"):
            await running.sealer.seal()
        assert running.sealer.state.failures == 0
        assert not running.file.path.exists()


async def test_it_seals_after_a_number_of_events(jetstream_log: JetStreamLog, tmp_path: Path) -> None:
    """Not before; events that existed at the start are sealed immediately."""
    await more(jetstream_log, 3)
    async with sealing(jetstream_log, tmp_path / "one", every_events=10) as running:
        running.sealer.start()
        await eventually(lambda: sealed_size(running) == 3, within_seconds=30)
        await more(jetstream_log, 12)
        await running.caught_up()
        assert not running.sealer._is_due()
        await more(jetstream_log, 13)
        await eventually(lambda: sealed_size(running) == 13, within_seconds=30)


async def test_it_seals_after_a_time_only_if_there_are_new_events(
    jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Without an event no time is long enough."""
    now = 0.0
    how: dict[str, Any] = {"every_seconds": 60.0, "clock": lambda: now}
    await more(jetstream_log, 3)
    async with sealing(jetstream_log, tmp_path / "one", **how) as running:
        running.sealer.start()
        await eventually(lambda: sealed_size(running) == 3, within_seconds=30)
        now = 3_600.0
        assert not running.sealer._is_due()
        now = 59.0
        await more(jetstream_log, 4)
        await running.caught_up()
        assert not running.sealer._is_due()
        now = 60.0
        await eventually(lambda: sealed_size(running) == 4, within_seconds=30)


async def test_a_restart_continues_after_the_last_seal(jetstream_log: JetStreamLog, tmp_path: Path) -> None:
    """Another process with the same directory: no duplicate, no gap, and one key."""
    for upto in (10, 20, 20, 30):
        await more(jetstream_log, upto)
        async with sealing(jetstream_log, tmp_path / "one") as running:
            await running.caught_up()
            await running.sealer.seal()
            assert len(running.keys.records()) == 1
    seals = await jetstream_log.seals(MARK)
    assert await published(seals) == [10, 20, 30]


async def test_replicas_publish_one_sequence_of_seals(jetstream_log: JetStreamLog, tmp_path: Path) -> None:
    """Three replicas with their own keys seal concurrently: sizes increase, nothing forks."""
    trusted: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        replicas = [
            await stack.enter_async_context(sealing(jetstream_log, tmp_path / name, trusted_keys=trusted))
            for name in ("a", "b", "c")
        ]
        trusted += [str(each.public) for replica in replicas for each in replica.keys.records()]
        for upto in range(5, 41, 5):
            await more(jetstream_log, upto)
            await asyncio.gather(*(each.caught_up() for each in replicas))
            await asyncio.gather(*(each.sealer.seal() for each in replicas))
        assert await published(replicas[0].seals) == [*range(5, 41, 5)]
        keys = [each.public for replica in replicas for each in replica.keys.records()]
        leaves = leaf_hashes(await whole(jetstream_log))
        for record in await replicas[0].seals.read():
            seal = open_seal(record.payload, keys)
            assert seal.root == root_of(leaves[: seal.size])
        assert all(replica.file.last(ORIGIN) is not None for replica in replicas)


async def test_both_keys_sign_during_an_overlap(one: Sealing) -> None:
    """Either key verifies the seal."""
    one.keys.rotate(3_600)
    seal = (await one.sealer.seal()).seal
    for each in one.keys.records():
        assert open_seal(seal.note, [each.public]).signers == (each.public.short,)
    assert len(named_keys(seal.note)) == 2


async def test_a_changed_past_is_not_signed(one: Sealing) -> None:
    """A trusted seal with another root: alarm, no further seal, also on request."""
    forged = make_seal(ORIGIN, 7, EMPTY_ROOT, one.keys.signers())
    await one.seals.append(forged.note.encode(), expect=0)
    for tries in (1, 2):
        with pytest.raises(SealAlarm, match="the first 7 events are not those that were sealed"):
            await one.sealer.seal()
        assert one.sealer.state.failures == tries
        assert "first 7 events" in one.sealer.state.alarm
    assert await published(one.seals) == [7]
    assert not one.file.path.exists()


@pytest.mark.usefixtures("quick_proof")
async def test_a_truncated_log_is_not_signed(one: Sealing) -> None:
    """The seal covers more than the log has: alarm, by the stream of seals and by the file alone."""
    beyond = make_seal(ORIGIN, 21, EMPTY_ROOT, one.keys.signers())
    one.file.add(beyond)
    with pytest.raises(LogBehind, match="not counted as lost yet"):
        await one.sealer.seal()
    assert not one.sealer.state.alarm
    with pytest.raises(SealAlarm, match="covers 21 events, but the log ends at 20"):
        await decided(one.sealer.seal)
    one.file.path.unlink()
    await one.seals.append(beyond.note.encode(), expect=0)
    with pytest.raises(SealAlarm, match="covers 21 events, but the log ends at 20"):
        await decided(one.sealer.seal)
    assert await published(one.seals) == [21]


async def test_a_view_that_is_behind_the_last_seal_waits(one: Sealing, tmp_path: Path) -> None:
    """A replica that is catching up does not seal, and raises no alarm."""
    await one.sealer.seal()
    theirs = [str(each.public) for each in one.keys.records()]
    async with sealing(one.log, tmp_path / "two", trusted_keys=theirs) as late:
        await late.caught_up()
        await late.projector.stop()
        await more(one.log, 30)
        await one.caught_up()
        await one.sealer.seal()
        with pytest.raises(NotSealed, match="has 20 events and the last seal 30"):
            await late.sealer.seal()
        assert (late.sealer.state.alarm, late.sealer.state.failures) == ("", 0)


async def test_a_hole_in_the_log_stops_the_sealing(loose: JetStreamLog, tmp_path: Path) -> None:
    """Events before it are sealed; then the alarm names the missing event."""
    await more(loose, 10)
    assert (await ask(loose, "STREAM.MSG.DELETE.JOBS", {"seq": 8}))["success"]
    async with sealing(loose, tmp_path / "one") as running:
        await running.caught_up()
        assert (await running.sealer.seal()).seal.size == 7
        with pytest.raises(SealAlarm, match="event 8 is missing from the log"):
            await running.sealer.seal()


async def test_a_lost_server_is_ridden_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server dies and comes back: failures are counted, and sealing goes on by itself."""
    monkeypatch.setattr(sealer_module, "SEAL_RETRY_SECONDS", 0.05)
    async with EmbeddedServer(tmp_path / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        await more(log, 5)
        async with sealing(log, tmp_path / "one", every_events=1) as running:
            running.sealer.start()
            await eventually(lambda: sealed_size(running) == 5, within_seconds=30)
            good = running.seals.append

            async def unreachable(*_: object, **__: object) -> None:
                raise LogUnavailable("as the test wants it")

            running.seals.append = unreachable  # type: ignore[method-assign]
            await more(log, 7)
            await eventually(lambda: running.sealer.state.failures > 0, within_seconds=30)
            assert running.sealer.state.problem == "as the test wants it"
            assert not running.sealer.state.alarm
            running.seals.append = good  # type: ignore[method-assign]
            await eventually(lambda: sealed_size(running) == 7, within_seconds=30)
            assert not running.sealer.state.problem
        await log.close()


async def test_a_mistake_of_ours_does_not_end_the_sealing(
    one: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised: it is noted, and tried again."""
    monkeypatch.setattr(sealer_module, "SEAL_RETRY_SECONDS", 0.05)
    good = one.seals.append

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("as the test wants it")

    one.seals.append = broken  # type: ignore[method-assign]
    one.sealer._every_events = 1
    one.sealer.start()
    await eventually(lambda: one.sealer.state.failures > 1, within_seconds=30)
    one.seals.append = good  # type: ignore[method-assign]
    await eventually(lambda: sealed_size(one) == 20, within_seconds=30)


async def test_seals_can_not_be_deleted(one: Sealing) -> None:
    """Neither one of them nor all: the stream refuses."""
    sealed = await one.sealer.seal()
    for verb, request in (("MSG.DELETE", {"seq": sealed.sequence}), ("PURGE", {})):
        assert "error" in await ask(one.log, f"STREAM.{verb}.JOBS_SEALS", request)
    assert await published(one.seals) == [20]


async def test_a_stream_of_seals_with_a_wrong_configuration_is_rejected(jetstream_log: JetStreamLog) -> None:
    """Every wrong field is named."""
    config = SEALS.config(StreamSettings(), replicas=1) | {
        "deny_delete": False,
        "max_age": 10**9,
        "discard": "old",
    }
    await ask(jetstream_log, "STREAM.DELETE.JOBS_SEALS")
    assert "error" not in await ask(jetstream_log, "STREAM.CREATE.JOBS_SEALS", config)
    with pytest.raises(LogUnfit, match=r"discard .* deny_delete .* max_age"):
        await jetstream_log.seals(MARK)


async def test_a_repeated_append_returns_the_first_record(one: Sealing) -> None:
    """After a lost answer the same seal is the same record; another seal returns the existing one."""
    note = make_seal(ORIGIN, 20, EMPTY_ROOT, one.keys.signers()).note.encode()
    first = await one.seals.append(note, expect=0)
    assert first is not None
    assert await one.seals.append(note, expect=0) == first
    assert await one.seals.append(b"other", expect=0) == first


def test_a_crash_in_the_middle_of_a_line_leaves_the_seal_file_usable(tmp_path: Path) -> None:
    """An incomplete seal at the end is skipped, and the next one is complete."""
    file = SealFile(tmp_path / "audit" / "seals.txt")
    assert file.last(ORIGIN) is None
    signer = Signer.of(ORIGIN, b"\x01" * 32)
    first, second = (make_seal(ORIGIN, size, EMPTY_ROOT, [signer]) for size in (1, 2))
    file.add(first)
    whole_file = file.path.read_bytes()
    for cut in range(1, len(second.note.encode())):
        file.path.write_bytes(whole_file + second.note.encode()[:cut])
        found = file.last(ORIGIN)
        assert found is not None
        assert found.size == 1
        file.add(second)
        assert file.last(ORIGIN) == read_seal(second.note)
        assert file.path.read_bytes() == whole_file + second.note.encode() + b"\n"
    assert file.last("another") is None


@pytest.mark.parametrize("zeros", [0, 1, 700])
def test_an_incomplete_seal_in_the_file_is_replaced_by_the_next_one(tmp_path: Path, zeros: int) -> None:
    """Wherever the power loss cut it, with or without zeros after it."""
    file = SealFile(tmp_path / "seals.txt")
    signer = Signer.of(ORIGIN, b"\x01" * 32)
    first, second, third = (make_seal(ORIGIN, size, EMPTY_ROOT, [signer]) for size in (1, 2, 3))
    for before in (b"", f"{first.note}\n".encode()):
        for cut in range(len(second.note.encode())):
            file.path.write_bytes(before + second.note.encode()[:cut] + bytes(zeros))
            file.add(third)
            assert file.path.read_bytes() == before + third.note.encode() + b"\n"
    file.path.write_bytes(second.note.encode() + bytes(zeros))  # its empty line alone is missing
    file.add(third)
    assert file.path.read_text() == f"{second.note}\n{third.note}\n"


@pytest.mark.parametrize("theirs", ["# kept since May\n", "elsewhere/log\n12\n", "x" * 70_000])
def test_text_of_others_in_the_seal_file_is_kept(tmp_path: Path, theirs: str) -> None:
    """Only an incomplete seal of this log is cut off."""
    file = SealFile(tmp_path / "seals.txt")
    seal = make_seal(ORIGIN, 1, EMPTY_ROOT, [Signer.of(ORIGIN, b"\x01" * 32)])
    for before in ("", f"{seal.note}\n"):
        file.path.write_text(before + theirs)
        file.add(seal)
        assert file.path.read_text().startswith(before + theirs)
        assert file.last(ORIGIN) == read_seal(seal.note)


def sealed_size(running: Sealing) -> int:
    """The size reported by the sealer."""
    last = running.sealer.state.last
    return last.seal.size if last is not None else 0
