"""What auditors keep is bounded, and each bound is where it says."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobledger import MemoryLog
from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.service.audit import log_check as logcheck
from jobledger.service.audit import log_pass
from jobledger.service.audit import seals as sealrows
from jobledger.service.audit import tree_tracker as witness
from jobledger.service.audit.bundle import read_bundle
from jobledger.service.audit.checkpoint import make_seal
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.keys import read_keys
from jobledger.service.audit.log_check import LogReport, check_log
from jobledger.service.audit.log_pass import SealedTree, last_record
from jobledger.service.audit.note import Signer
from jobledger.service.audit.seals import MergedSeals, SealList, notes_in, seals_in_file, split_notes
from jobledger.service.audit.tree_tracker import TreeTracker
from jobledger.service.limits import (
    AUDIT_CHECK_KEY_FILE_MAX_BYTES,
    AUDIT_CHECK_KEYS_MAX,
    AUDIT_FINDINGS_MAX,
    AUDIT_READ_MAX_TRIES,
    NOTE_MAX_BYTES,
)
from jobledger.store.model.errors import InvalidInput, LogGap, LogUnavailable
from tests.support.histories import append_all, random_drafts, records_of
from tests.support.proofs import ORIGIN, SIGNER, numbered


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=12), st.data())
def test_a_witness_tells_the_root_of_every_size_from_the_last_seal_on(
    parts: list[int], data: st.DataObject
) -> None:
    """However the leaves come and seals are asked for; and it goes on from what it kept."""
    leaves = numbered(sum(parts))
    watching, asked = TreeTracker(), 0
    for part in parts:
        start = watching.size
        watching.extend(leaves[start : start + part])
        assert watching.root() == root_of(leaves[: watching.size])
        asked = data.draw(st.integers(asked, watching.size))
        assert watching.root_at(asked) == root_of(leaves[:asked])
        again = TreeTracker.at_anchor(watching.anchor_bytes(), watching.marks)
        again.extend(leaves[again.size : watching.size])
        assert (again.anchor_size, again.root()) == (asked, watching.root())
    assert all(mark.root == root_of(leaves[: mark.size]) for mark in watching.marks)


def test_a_witness_forgets_what_is_too_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes that wait for a seal are bounded; the smaller sizes are gone then."""
    monkeypatch.setattr(witness, "WITNESS_PENDING_MAX_LEAVES", 10)
    leaves = numbered(25)
    watching = TreeTracker()
    watching.extend(leaves[:10])
    assert watching.anchor_size == 0
    watching.extend(leaves[10:])
    assert watching.anchor_size == 15
    assert watching.root_at(14) is None
    assert watching.root_at(15) == root_of(leaves[:15])
    assert watching.root() == root_of(leaves)


def test_marks_stay_spread_over_all_of_the_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """When there are too many, every second one goes; the newest stays."""
    monkeypatch.setattr(witness, "WITNESS_MARKS_MAX", 8)
    leaves = numbered(100)
    watching = TreeTracker()
    for size in range(1, 101):
        watching.extend(leaves[size - 1 : size])
        watching.advance_anchor(size)
        assert len(watching.marks) <= 8
        assert watching.marks[-1].size == size
    sizes = [mark.size for mark in watching.marks]
    assert sizes == sorted(set(sizes))
    assert sizes[0] < 50
    assert all(mark.root == root_of(leaves[: mark.size]) for mark in watching.marks)


def test_keys_are_read_from_the_command_line_and_from_files(tmp_path: Path) -> None:
    """Several ways to say the same key count once; what is none is refused, with its words."""
    other = Signer.of("example.com/other", bytes(32)).key
    file = tmp_path / "keys"
    file.write_text(f"# whose\n\n{SIGNER.key}\n{other}\n")
    assert read_keys([str(SIGNER.key), str(file)]) == (SIGNER.key, other)
    (tmp_path / "empty").write_text("# none\n")
    (tmp_path / "binary").write_bytes(b"\xff")
    for wrong, words in (
        ("nothing", "neither a vkey nor a readable file"),
        (str(tmp_path / "empty"), "contains no key"),
        (str(tmp_path / "binary"), "is not UTF-8 text"),
        ("a+b+c", "invalid Ed25519 verifier key"),
        (str(tmp_path), "neither a vkey nor a readable file"),
    ):
        with pytest.raises(InvalidInput, match=words):
            read_keys([wrong])


def test_keys_are_bounded(tmp_path: Path) -> None:
    """In number, and in the size of a file of them."""
    keys = [str(Signer.of(f"key-{number}", bytes(32)).key) for number in range(AUDIT_CHECK_KEYS_MAX + 1)]
    assert len(read_keys(keys[:-1])) == AUDIT_CHECK_KEYS_MAX
    with pytest.raises(InvalidInput, match="at most"):
        read_keys(keys)
    file = tmp_path / "keys"
    text = f"{keys[0]}\n"
    file.write_text(text + "#" * (AUDIT_CHECK_KEY_FILE_MAX_BYTES - len(text)))
    assert len(read_keys([str(file)])) == 1
    file.write_text(text + "#" * (AUDIT_CHECK_KEY_FILE_MAX_BYTES - len(text) + 1))
    with pytest.raises(InvalidInput, match="more than"):
        read_keys([str(file)])


def test_findings_are_told_up_to_a_bound_and_counted_beyond() -> None:
    """A log that is wrong everywhere fills no memory."""
    report = LogReport()
    for number in range(AUDIT_FINDINGS_MAX + 3):
        report.add(Finding(Kind.UNFIT, f"seal {number}"))
    assert (len(report.findings), report.more) == (AUDIT_FINDINGS_MAX, 3)
    assert LogReport().findings == []


async def test_roots_of_seals_behind_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seal that repeats a recent one is known; one that repeats an old one goes back."""
    monkeypatch.setattr(logcheck, "AUDIT_SEALED_ROOTS_KEPT", 2)
    log = await small_log(6)
    leaves = [leaf_hash(record) for record in await records_of(log)]
    seals = [SealedTree(f"seal {size}", size, root_of(leaves[:size])) for size in (1, 2, 3)]
    report = await check_log(log, SealList([*seals, seals[1]]), lambda *_: None)
    assert (report.seals, report.findings) == (3, [])
    report = await check_log(log, SealList([*seals, seals[0]]), lambda *_: None)
    assert [finding.kind for finding in report.findings] == [Kind.UNFIT]


async def small_log(events: int) -> MemoryLog:
    """A log in memory."""
    import random

    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(5), 3, events))
    return log


async def test_the_last_record_is_looked_for_behind_deleted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bounded number of them."""
    log = await small_log(3)
    assert await last_record(log, 3) == 3
    assert await last_record(log, 5) == 3
    assert await last_record(MemoryLog(), 4) == 0
    monkeypatch.setattr(log_pass, "AUDIT_END_MAX_MISSING", 2)
    with pytest.raises(LogGap, match="the last 2 events up to 5"):
        await last_record(log, 5)


async def test_a_log_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a named number of tries in a row."""
    monkeypatch.setattr(log_pass, "AUDIT_READ_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(sealrows, "AUDIT_READ_WAIT_SECONDS", 0.0)
    tries: list[int] = []

    class Deaf:
        async def take(self, _: int) -> Any:
            tries.append(1)
            raise LogUnavailable("no answer")

        async def read(self, **_: Any) -> Any:
            tries.append(1)
            return ()

        async def last(self) -> Any:
            return (await records_of(await small_log(1)))[0]

    deaf: Any = Deaf()
    with pytest.raises(LogUnavailable):
        await log_pass.take_patiently(deaf)
    assert len(tries) == AUDIT_READ_MAX_TRIES
    found = await anext(sealrows.published_seals(deaf, (), ORIGIN))
    assert isinstance(found, Finding)
    assert "can't be read" in found.message
    assert len(tries) == 2 * AUDIT_READ_MAX_TRIES


def note(size: int) -> str:
    """A seal of no tree in particular."""
    return make_seal(ORIGIN, size, bytes(32), (SIGNER,)).note


async def test_rows_of_seals_become_one_in_the_order_of_sizes(tmp_path: Path) -> None:
    """From several files; what another log has sealed is told once."""
    files = [tmp_path / name for name in ("a", "b", "c")]
    for file, sizes in zip(files, ((1, 4, 9), (2, 3, 10), ()), strict=True):
        file.write_text("".join(f"{note(size)}\n" for size in sizes))
    merged = MergedSeals([seals_in_file(file, (SIGNER.key,), ORIGIN) for file in files])
    found = []
    while (seal := await merged.next()) is not None:
        assert isinstance(seal, SealedTree)
        found.append(seal.size)
    assert found == [1, 2, 3, 4, 9, 10]
    others = MergedSeals([seals_in_file(files[0], (SIGNER.key,), "jobledger/other")])
    first = await others.next()
    assert isinstance(first, Finding)
    assert first.kind is Kind.REPLACED
    assert await others.next() is None


def test_a_file_of_seals_is_read_one_at_a_time(tmp_path: Path) -> None:
    """Half a line of a crash is passed over; something endless that is no seal is refused."""
    file = tmp_path / "seals.txt"
    file.write_text(f"{note(1)}\njobledger/01\n\n{note(2)}\n{note(3)}")
    assert list(notes_in(file)) == [note(1), note(2), note(3)]
    file.write_text("x" * (2 * NOTE_MAX_BYTES))
    assert list(notes_in(file)) == []
    file.write_text("x" * (2 * NOTE_MAX_BYTES + 1))
    with pytest.raises(InvalidInput, match="not a seal"):
        list(notes_in(file))
    with pytest.raises(InvalidInput, match="can't be read"):
        list(notes_in(tmp_path / "missing"))


NOTE = "jobledger/a\n1\nroot\n\n\N{EM DASH} key signature\n"


@pytest.mark.parametrize("junk", ["a" * 4_000_000, "a\n" * 500_000, "a\n\n" * 500_000, "\n" * 1_000_000])
def test_what_is_no_note_is_passed_over_in_one_go(junk: str) -> None:
    """However long: a search that began again at each character would go on for hours."""
    assert [*split_notes(f"{NOTE}\n{junk}\n\n{NOTE}")] == [NOTE, NOTE]


def test_a_key_that_stands_twice_in_a_bundle_is_found_in_one_go() -> None:
    """Also the last of very many: a search for each of them would go on for days."""
    keys = ",".join(f'"{number}":0' for number in range(300_000))
    with pytest.raises(InvalidInput, match="duplicate key '299999'"):
        read_bundle(f'{{{keys},"299999":0}}'.encode())
