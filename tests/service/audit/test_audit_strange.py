"""Notes of others on the stream of seals: only trusted keys count, and none stops the sealing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobledger import JetStreamLog
from jobledger.projections.database import remove_view
from jobledger.projections.merkle.hashing import EMPTY_ROOT
from jobledger.service.audit import seal_scan as sealscan, sealer as sealer_module
from jobledger.service.audit.accepted_logs import ACCEPTED_FILE, AcceptedFile
from jobledger.service.audit.model.checkpoint import make_seal, origin_of, read_seal
from jobledger.service.audit.model.note import Signer
from jobledger.service.audit.seal_scan import SCAN_FILE, StillReading
from jobledger.service.audit.sealer import SealAlarm
from jobledger.service.cursor import stream_tag
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import SEAL_ACCEPTED_MAX, SEAL_REASON_MAX_CHARACTERS
from jobledger.store.jetstream.declarations import SEALS_PREFIX
from jobledger.store.model.errors import InvalidInput
from tests.support.logs import ask, eventually, publish_raw
from tests.support.sealers import MARK, ORIGIN, Sealing, more, sealing

UNTRUSTED = Signer.of("stranger", b"\x02" * 32)
OLD = "jobledger/0123456789ab"


def forged(size: int, origin: str = ORIGIN) -> bytes:
    """A seal over another tree, by a key that is not trusted."""
    return make_seal(origin, size, EMPTY_ROOT, [UNTRUSTED]).note.encode()


async def put(one: Sealing, *payloads: bytes, mark: str = MARK) -> None:
    """Publish among the seals, as anyone with that right can."""
    for payload in payloads:
        await publish_raw(one.log, f"{SEALS_PREFIX}{mark}", payload)


async def grow(one: Sealing, upto: int) -> None:
    """More events, and the tree has them."""
    await more(one.log, upto)
    await one.caught_up()


@pytest.fixture
async def one(jetstream_log: JetStreamLog, tmp_path: Path) -> AsyncIterator[Sealing]:
    """A replica whose log has 20 events."""
    await more(jetstream_log, 20)
    async with sealing(jetstream_log, tmp_path / "one") as running:
        await running.caught_up()
        yield running


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"garbage", "damaged"),
        (b"", "damaged"),
        (b"\xff" * 9_000, "damaged"),
        (forged(1, "elsewhere"), "unknown_key"),
        (forged(0), "unknown_key"),
        (forged(7), "unknown_key"),
        (forged(20), "unknown_key"),
        (forged(21), "unknown_key"),
        (forged(2**63 - 1), "unknown_key"),
    ],
)
async def test_notes_without_a_trusted_signature_are_ignored_and_counted(
    one: Sealing, payload: bytes, reason: str
) -> None:
    """Before and after the first seal, with any size: sealing continues without an alarm."""
    await put(one, payload)
    assert (await one.sealer.seal()).seal.size == 20
    await put(one, payload, payload)
    await grow(one, 25)
    sealed = await one.sealer.seal()
    last = await one.seals.last()
    assert last is not None
    assert (sealed.seal.size, sealed.sequence) == (25, last.sequence)
    assert one.sealer.ignored == {"unknown_key": 0, "damaged": 0, reason: 3}
    assert (one.sealer.state.alarm, one.sealer.state.problem) == ("", "")


async def test_a_signature_that_only_claims_a_trusted_key_does_not_count(one: Sealing) -> None:
    """Name and id of the trusted key, with 64 other bytes as the signature."""
    genuine = make_seal(ORIGIN, 5, EMPTY_ROOT, one.keys.signers()).note
    await put(one, genuine.replace("\n5\n", "\n9\n").encode())
    assert (await one.sealer.seal()).seal.size == 20
    assert one.sealer.ignored["unknown_key"] == 1


async def test_any_number_of_junk_notes_only_delays_the_sealing(
    one: Sealing, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call examines a limited number; the sealer continues until it has read all, then seals."""
    monkeypatch.setattr(sealscan, "SEAL_SCAN_NOTES", 500)
    monkeypatch.setattr(sealer_module, "SEAL_RETRY_SECONDS", 3_600.0)  # it must not wait for this
    await one.sealer.seal()
    await put(one, *[b"junk"] * 1_500)
    await grow(one, 25)
    with pytest.raises(StillReading, match="500 of 1501 notes"):
        await one.sealer.seal()
    one.sealer._every_events = 1
    one.sealer.start()
    await eventually(
        lambda: one.sealer.state.last is not None and one.sealer.state.last.seal.size == 25,
        within_seconds=30,
    )
    assert one.sealer.ignored["damaged"] == 1_500


async def test_each_note_is_examined_once_even_across_a_restart(
    jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """The position is saved; without the file, or with a damaged one, the stream is read again."""
    await more(jetstream_log, 5)
    ignored: list[int] = []
    for kept in ("", "", "{", None):
        async with sealing(jetstream_log, tmp_path / "one") as running:
            await running.caught_up()
            if not ignored:
                await put(running, *[b"junk"] * 3)
            elif kept is None:
                (tmp_path / "one" / SCAN_FILE).unlink()
            elif kept:
                (tmp_path / "one" / SCAN_FILE).write_text(kept)
            assert (await running.sealer.seal()).seal.size == 5
            ignored.append(running.sealer.ignored["damaged"])
    assert ignored == [3, 0, 3, 3]


async def test_seals_of_a_replica_count_once_its_key_is_trusted(
    jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """Without mutual trust both seal the same events; with it, one seal is enough."""
    await more(jetstream_log, 10)
    trusted: list[str] = []
    async with (
        sealing(jetstream_log, tmp_path / "a") as a,
        sealing(jetstream_log, tmp_path / "b", trusted_keys=trusted) as b,
    ):
        await asyncio.gather(a.caught_up(), b.caught_up())
        first = await a.sealer.seal()
        assert (await b.sealer.seal()).sequence == first.sequence + 1
        assert b.sealer.ignored["unknown_key"] == 1
        keys = tmp_path / "a.keys"
        keys.write_text("".join(f"{each.public}\n" for each in a.keys.records()))
        trusted.append(str(keys))
        await grow(a, 12)
        await b.caught_up()
        second = await a.sealer.seal()
        assert await b.sealer.seal() == second
        keys.write_text("not a key\n")
        with pytest.raises(InvalidInput, match="invalid Ed25519 verifier key"):
            await b.sealer.seal()


async def test_a_trusted_seal_that_does_not_fit_stops_the_sealing(one: Sealing) -> None:
    """Smaller or larger than the last one: the past was changed, or the key was stolen."""
    await one.sealer.seal()
    await put(one, make_seal(ORIGIN, 5, EMPTY_ROOT, one.keys.signers()).note.encode())
    for _ in range(2):
        with pytest.raises(SealAlarm, match="the first 5 events"):
            await one.sealer.seal()
    assert "the first 5 events" in one.sealer.state.alarm


async def test_distrusting_a_stolen_key_resumes_the_sealing(one: Sealing) -> None:
    """Its forged seal no longer counts; the new key seals everything again; the seal file still fits."""
    await one.sealer.seal()
    thief = one.keys.signers()
    await put(one, make_seal(ORIGIN, 10**9, EMPTY_ROOT, thief).note.encode())
    with pytest.raises(InvalidInput, match="use overlap 0"):
        one.keys.rotate(60, distrust=True)
    one.keys.rotate(0, distrust=True)
    await grow(one, 21)
    sealed = await one.sealer.seal()
    assert sealed.seal.size == 21
    assert sealed.seal.signers == (one.keys.signers()[0].key.short,)
    assert thief[0].key not in one.sealer.trusted()


# --- seals of another log ---------------------------------------------------------------------------------


async def replaced(one: Sealing, where: str, root: bytes = EMPTY_ROOT, size: int = 3) -> None:
    """Leave a seal of an earlier log, by this service's key, in the file or on the stream."""
    seal = make_seal(OLD, size, root, one.keys.signers())
    if where == "file":
        one.file.add(seal)
    else:
        await put(one, seal.note.encode(), mark="0123456789ab")


@pytest.mark.parametrize("where", ["file", "stream"])
async def test_a_replaced_log_is_not_signed_until_an_operator_confirms(
    one: Sealing, tmp_path: Path, where: str
) -> None:
    """The alarm has both origins and the command; the next seal records who confirmed it and why."""
    await replaced(one, where)
    accepted = AcceptedFile(tmp_path / "one" / ACCEPTED_FILE)
    accepted.add(old=OLD, new="jobledger/ffffffffffff", actor="eve", reason="another log")
    accepted.add(old="jobledger/ffffffffffff", new=ORIGIN, actor="eve", reason="another log")
    for _ in range(2):
        with pytest.raises(SealAlarm, match="are not those that were sealed") as alarm:
            await one.sealer.seal()
        assert f"accept-log --old {OLD} --new {ORIGIN}" in str(alarm.value)
        assert one.sealer.state.alarm == str(alarm.value)
    assert await one.seals.last() is None
    accepted.add(old=OLD, new=ORIGIN, actor="alice", reason="restored after a fire")
    seal = read_seal((await one.sealer.seal()).seal.note)
    assert (seal.size, seal.succeeds) == (20, (OLD,))
    assert seal.more[0].endswith("alice restored after a fire")
    assert one.sealer.state.alarm == ""
    await grow(one, 25)
    assert (await one.sealer.seal()).seal.more == ()  # said once


async def test_remembered_seals_of_a_longer_log_do_not_block_its_replacement(
    one: Sealing, tmp_path: Path
) -> None:
    """`scan.json` of the data directory is about the old log, whose largest seal does not count."""
    await replaced(one, "stream", size=10**6)
    old = sealscan.SealScan(one.seals, tmp_path / "one" / SCAN_FILE, OLD)
    assert (await old.read(one.sealer.trusted())).last is not None
    AcceptedFile(tmp_path / "one" / ACCEPTED_FILE).add(old=OLD, new=ORIGIN, actor="alice", reason="disk lost")
    assert (await one.sealer.seal()).seal.size == 20


async def test_the_alarm_states_whether_the_new_log_has_the_sealed_events(one: Sealing) -> None:
    """A restored backup starts with the sealed events, and still needs the confirmation."""
    await replaced(one, "stream", await one.tree.root(12), 12)
    with pytest.raises(SealAlarm, match="its first 12 events are those that were sealed"):
        await one.sealer.seal()
    await replaced(one, "stream", EMPTY_ROOT, 10**6)
    with pytest.raises(SealAlarm, match="it has only 20 events so far"):
        await one.sealer.seal()


async def test_a_confirmation_reaches_other_replicas_by_the_signed_seal(one: Sealing, tmp_path: Path) -> None:
    """A replica without the file stops as well, and resumes when a trusted seal has the confirmation."""
    await replaced(one, "stream")
    theirs = [str(each) for each in one.keys.trusted()]
    async with sealing(one.log, tmp_path / "two", trusted_keys=theirs) as two:
        await two.caught_up()
        with pytest.raises(SealAlarm, match="seals exist of another one"):
            await two.sealer.seal()
        lie = make_seal(ORIGIN, 4, EMPTY_ROOT, [UNTRUSTED], [f"succeeds {OLD} 3 x now eve because"])
        await put(one, lie.note.encode())
        with pytest.raises(SealAlarm, match="seals exist of another one"):
            await two.sealer.seal()
        AcceptedFile(tmp_path / "one" / ACCEPTED_FILE).add(
            old=OLD, new=ORIGIN, actor="alice", reason="we moved"
        )
        sealed = await one.sealer.seal()
        assert await two.sealer.seal() == sealed


async def test_seals_of_another_log_by_unknown_keys_raise_no_alarm(one: Sealing) -> None:
    """Other NATS users can publish those; they are counted."""
    for number in range(100):
        await put(one, forged(5, f"jobledger/{number:012}"), mark=f"{number:012}")
    assert (await one.sealer.seal()).seal.size == 20
    assert one.sealer.ignored["unknown_key"] == 100


@pytest.mark.parametrize(
    "wrong",
    [
        {"old": ""},
        {"old": "two words"},
        {"old": ORIGIN},
        {"new": "line\nbreak"},
        {"actor": "\x1b[31m"},
        {"reason": " "},
        {"reason": "two\nlines"},
        {"reason": "\u202eevil"},
        {"reason": "x" * (SEAL_REASON_MAX_CHARACTERS + 1)},
    ],
)
def test_a_confirmation_that_could_not_be_signed_is_rejected(tmp_path: Path, wrong: dict[str, str]) -> None:
    """It becomes a line of a signed note."""
    words: Any = {"old": OLD, "new": ORIGIN, "actor": "alice", "reason": "x" * SEAL_REASON_MAX_CHARACTERS}
    file = AcceptedFile(tmp_path / ACCEPTED_FILE)
    with pytest.raises(InvalidInput):
        file.add(**{**words, **wrong})
    file.add(**words)
    assert [*file.replaced_by(ORIGIN)] == [OLD]


def test_the_file_of_confirmations_is_limited_and_private(tmp_path: Path) -> None:
    """One more than the limit is rejected, and a file that others can write, or a damaged one."""
    file = AcceptedFile(tmp_path / "accepted.json")
    for number in range(SEAL_ACCEPTED_MAX):
        file.add(old=f"jobledger/{number}", new=ORIGIN, actor="a", reason="r")
    with pytest.raises(InvalidInput, match="the maximum"):
        file.add(old=OLD, new=ORIGIN, actor="a", reason="r")
    file.path.chmod(0o666)
    with pytest.raises(InvalidSettings, match="can be written by other users"):
        file.replaced_by(ORIGIN)
    file.path.chmod(0o600)
    file.path.write_text("[]")
    with pytest.raises(InvalidSettings, match="is damaged"):
        file.replaced_by(ORIGIN)


async def test_a_log_that_was_recreated_with_changed_events_is_not_signed(
    jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """A NATS administrator deletes JOBS and creates it again with other events; the view is missing."""

    async def origin() -> tuple[str, str]:
        mark = stream_tag((await jetstream_log.info()).epoch)
        return mark, origin_of(mark)

    mark, old = await origin()
    await more(jetstream_log, 20)
    async with sealing(jetstream_log, tmp_path / "one", origin=old, mark=mark) as before:
        await before.caught_up()
        await before.sealer.seal()
    config = (await ask(jetstream_log, "STREAM.INFO.JOBS", {}))["config"]
    assert (await ask(jetstream_log, "STREAM.DELETE.JOBS", {}))["success"]
    assert "error" not in await ask(jetstream_log, "STREAM.CREATE.JOBS", config)
    remove_view(tmp_path / "one" / "view.db")
    await more(jetstream_log, 15, seed=2)
    mark, new = await origin()
    for lost in ("nothing", "file", "both"):
        if lost != "nothing":
            (tmp_path / "one" / "audit" / "seals.txt").unlink(missing_ok=True)
        if lost == "both":  # a fresh data directory, and the administrator emptied the stream of seals, too
            seals = (await ask(jetstream_log, "STREAM.INFO.JOBS_SEALS", {}))["config"]
            assert (await ask(jetstream_log, "STREAM.DELETE.JOBS_SEALS", {}))["success"]
            assert "error" not in await ask(jetstream_log, "STREAM.CREATE.JOBS_SEALS", seals)
            (tmp_path / "one" / SCAN_FILE).unlink()
        async with sealing(jetstream_log, tmp_path / "one", origin=new, mark=mark) as after:
            await after.caught_up()
            if lost == "both":
                assert (await after.sealer.seal()).seal.size == 15  # nothing is left to compare with
                continue
            with pytest.raises(SealAlarm, match=f"over 20 events: .* --old {old} --new {new}"):
                await after.sealer.seal()
            assert await after.seals.last() is None
