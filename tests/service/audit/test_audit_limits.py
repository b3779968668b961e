"""The limits of the audit commands."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from jobledger import MemoryLog
from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.service.audit import log_check as logcheck, log_pass, seals as sealrows
from jobledger.service.audit.keys import read_keys
from jobledger.service.audit.log_check import LogReport, check_log
from jobledger.service.audit.log_pass import SealedTree, last_record
from jobledger.service.audit.model import tree_tracker
from jobledger.service.audit.model.bundle import read_bundle
from jobledger.service.audit.model.checkpoint import make_seal
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.model.note import Signer
from jobledger.service.audit.model.tree_tracker import TreeTracker
from jobledger.service.audit.seals import MergedSeals, SealList, notes_in, seals_in_file, split_notes
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
def test_a_tracker_computes_the_root_of_every_size_from_the_last_seal_on(
    parts: list[int], data: st.DataObject
) -> None:
    """For any partition of leaves and seals, and after a restart from its state."""
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


def test_the_pending_hashes_of_a_tracker_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roots of smaller sizes are then unavailable."""
    monkeypatch.setattr(tree_tracker, "TREE_TRACKER_PENDING_MAX_LEAVES", 10)
    leaves = numbered(25)
    watching = TreeTracker()
    watching.extend(leaves[:10])
    assert watching.anchor_size == 0
    watching.extend(leaves[10:])
    assert watching.anchor_size == 15
    assert watching.root_at(14) is None
    assert watching.root_at(15) == root_of(leaves[:15])
    assert watching.root() == root_of(leaves)


def test_marks_stay_spread_over_the_whole_past(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limit every second one is dropped; the newest stays."""
    monkeypatch.setattr(tree_tracker, "TREE_TRACKER_MARKS_MAX", 8)
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
    """Duplicates count once; an invalid one is rejected with the reason."""
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


def test_the_number_of_keys_to_check_with_is_limited(tmp_path: Path) -> None:
    """And the size of a key file."""
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


def test_findings_beyond_the_limit_are_counted() -> None:
    """A log that is wrong everywhere does not fill the memory."""
    report = LogReport()
    for number in range(AUDIT_FINDINGS_MAX + 3):
        report.add(Finding(Kind.UNFIT, f"seal {number}"))
    assert (len(report.findings), report.more) == (AUDIT_FINDINGS_MAX, 3)
    assert LogReport().findings == []


async def test_the_number_of_remembered_roots_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated recent seal is recognized; a repeated old one is reported as shrinking."""
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


async def test_the_last_record_before_deleted_ones_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a limited number of deleted ones."""
    log = await small_log(3)
    assert await last_record(log, 3) == 3
    assert await last_record(log, 5) == 3
    assert await last_record(MemoryLog(), 4) == 0
    monkeypatch.setattr(log_pass, "AUDIT_END_MAX_MISSING", 2)
    with pytest.raises(LogGap, match="the last 2 events up to 5"):
        await last_record(log, 5)


async def test_a_log_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a limited number of consecutive attempts."""
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


async def test_sources_of_seals_are_merged_in_the_order_of_sizes(tmp_path: Path) -> None:
    """From several files; a seal of another log is reported once."""
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


def test_a_seal_file_is_read_note_by_note(tmp_path: Path) -> None:
    """An incomplete line is skipped; endless content without a seal is rejected."""
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
def test_text_without_a_note_is_skipped_in_linear_time(junk: str) -> None:
    """A search restarted at each character would take hours."""
    assert [*split_notes(f"{NOTE}\n{junk}\n\n{NOTE}")] == [NOTE, NOTE]


def test_a_duplicate_key_in_a_bundle_is_found_in_linear_time() -> None:
    """Even the last of very many."""
    keys = ",".join(f'"{number}":0' for number in range(300_000))
    with pytest.raises(InvalidInput, match="duplicate key '299999'"):
        read_bundle(f'{{{keys},"299999":0}}'.encode())
