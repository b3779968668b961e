"""`audit verify` finds changes made directly in the log's files or streams, and names the place."""

import re
import shutil
from pathlib import Path

import pytest

from jobledger import Ledger, State, StateType
from jobledger.projections.errors import ViewError, ViewMissing
from jobledger.service.audit.model.checkpoint import make_seal
from jobledger.service.audit.model.findings import Kind
from jobledger.service.audit.seals import SealFile
from jobledger.store.model.subjects import named_job_id
from tests.conftest import make_spec
from tests.support.audited_log import (
    Installation,
    fill,
    kinds,
    make_installation,
    origin_of_log,
    project,
    publish,
    seal_log,
    seal_of,
)
from tests.support.histories import records_of
from tests.support.proofs import OTHER_SIGNER, SIGNER
from tests.support.stored_records import flip_bit, with_payload, without_last

pytestmark = pytest.mark.usefixtures("quick_proof")

JOB_0, JOB_1 = named_job_id("default", "job-0"), named_job_id("default", "job-1")
EVENTS = 9


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation of nine events, which tests copy."""
    return make_installation(tmp_path_factory.mktemp("audited")).directory


@pytest.fixture
def audited(original: Path, tmp_path: Path) -> Installation:
    """A copy of it, to do anything with."""
    shutil.copytree(original, tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
    return Installation(tmp_path / "copy")


async def test_an_unchanged_installation_has_no_findings(audited: Installation) -> None:
    """All events are hashed, all seals fit, all rows match the log."""
    found = await audited.verify_stopped()
    assert found.findings == ()
    assert (found.log.size, found.log.seals, found.view) == (EVENTS, 2, ())


async def test_a_flipped_bit_in_a_stored_payload_is_found(audited: Installation) -> None:
    """One bit of a record on disk, with a corrected checksum: event and job are named."""
    audited.tamper(with_payload(5, lambda payload: flip_bit(payload, at=payload.index(b"reported"))))
    found = await audited.verify_stopped()
    assert kinds(found)[0] is Kind.REWRITE
    assert (found.findings[0].sequence, found.findings[0].job_id) == (5, JOB_1)
    assert "event 5" in found.findings[0].message
    unfit = [finding for finding in found.findings if finding.kind is Kind.UNFIT]
    assert [finding.sequence for finding in unfit] == [4], "the seal of 3 events fits, so it is after that"


async def test_a_flipped_bit_is_found_without_the_view(audited: Installation) -> None:
    """With seals alone, the place is known up to the distance of two seals."""
    audited.tamper(with_payload(2, flip_bit))
    async with audited.log() as log:
        found = await audited.verify(log)
        audited.forget_view()
        with pytest.raises(ViewMissing):
            await audited.verify(log)
    unfit = [finding for finding in found.findings if finding.kind is Kind.UNFIT]
    assert "an event from 1 to 3 was changed" in unfit[0].message


async def test_a_missing_last_event_is_found(audited: Installation) -> None:
    """The log ends before its last seal and before its view."""
    audited.tamper(without_last)
    found = await audited.verify_stopped()
    assert set(kinds(found)) == {Kind.TRUNCATION}
    assert {finding.sequence for finding in found.findings} == {EVENTS}
    assert "the log ends at 8" in found.log.findings[0].message


async def test_a_missing_last_event_that_was_replaced_is_found(audited: Installation) -> None:
    """The log lost its end and grew again to the same length."""
    audited.tamper(without_last)
    async with audited.log() as log:
        await Ledger(log).create(make_spec("other"))
        found = await audited.verify(log)
    assert (found.findings[0].kind, found.findings[0].sequence) == (Kind.REWRITE, EVENTS)
    assert Kind.UNFIT in kinds(found)


async def test_a_hole_in_the_middle_is_found(audited: Installation) -> None:
    """The removed record is named; later seals can't be compared."""
    audited.tamper(lambda records: records[:4] + records[5:])
    found = await audited.verify_stopped()
    assert (found.log.findings[0].kind, found.log.findings[0].sequence) == (Kind.HOLE, 5)
    assert found.log.size == 4
    assert found.log.seals == 1


async def test_a_missing_beginning_is_found(audited: Installation) -> None:
    """A log that starts after sequence 1 has lost events."""
    audited.tamper(lambda records: records[2:])
    found = await audited.verify_stopped()
    assert (found.log.findings[0].kind, found.log.findings[0].sequence) == (Kind.HOLE, 1)
    assert "events 1 to 2 are missing" in found.log.findings[0].message


async def test_a_replaced_history_with_a_recomputed_tree_is_caught_by_the_older_seal(
    audited: Installation,
) -> None:
    """Records, view and tree were replaced and sealed with the same key: the older seal does not fit."""
    audited.tamper(with_payload(2, lambda payload: payload.replace(b'"alice"', b'"mallory"')))
    audited.forget_view()
    async with audited.log() as log:
        await project(log, audited.view)
        await Ledger(log).create(make_spec("other"))
        await project(log, audited.view)
        await seal_log(log)
        found = await audited.verify(log)
    assert found.view == (), "the view is that of the log, as it is now"
    assert kinds(found) == [Kind.UNFIT, Kind.UNFIT]
    assert found.log.seals == 1, "the new seal fits"
    assert re.match(r"seal 1 states the root \w{64} for its 3 events", found.log.findings[0].message)


async def test_a_recreated_stream_is_found(audited: Installation, tmp_path: Path) -> None:
    """Another epoch: the view and the seals in the file are of the old one."""
    async with audited.log() as log:
        file = tmp_path / "seals.txt"
        seal = seal_of(await records_of(log), await origin_of_log(log))
        file.write_text(f"{seal.note}\n{seal.note}\n")
    shutil.rmtree(audited.directory / "nats")
    async with audited.log() as log:
        await fill(log)
        found = await audited.verify(log, seal_files=[file])
    assert kinds(found) == [Kind.REPLACED, Kind.REPLACED]


async def test_two_seals_that_fork_are_found(audited: Installation) -> None:
    """Two trees of one size, both signed by the known key."""
    async with audited.log() as log:
        forked = make_seal(await origin_of_log(log), EVENTS, bytes(32), (SIGNER,))
        await publish(log, forked)
        found = await audited.verify(log)
    assert kinds(found) == [Kind.FORK]
    assert "seal 2 and seal 3 cover the same 9 events" in found.findings[0].message


async def test_a_seal_smaller_than_one_before_is_found(audited: Installation) -> None:
    """A sealer never publishes one, because seals only grow."""
    async with audited.log() as log:
        await seal_log(log, 5)
        found = await audited.verify(log)
    assert kinds(found) == [Kind.UNFIT]
    assert "fewer than a seal before it" in found.findings[0].message


async def test_a_seal_by_another_key_is_found(audited: Installation) -> None:
    """The tree is right but the signer unknown; with its key the seal is valid."""
    async with audited.log() as log:
        await seal_log(log, signers=(OTHER_SIGNER,))
        found = await audited.verify(log)
        assert kinds(found) == [Kind.UNKNOWN_KEY]
        assert "seal 3 (of 9 events) is not signed by a known key" in found.findings[0].message
        assert (await audited.verify(log, (SIGNER.key, OTHER_SIGNER.key))).findings == ()


async def test_a_note_that_is_not_a_seal_is_found(audited: Installation) -> None:
    """Another NATS user wrote to the stream."""
    async with audited.log() as log:
        store = await log.seals((await origin_of_log(log)).removeprefix("jobledger/"))
        await store.append(b"hello", expect=2)
        found = await audited.verify(log)
    assert kinds(found) == [Kind.DAMAGED]


@pytest.mark.parametrize(
    ("sql", "column", "job"),
    [
        ("UPDATE jobs SET state = 'Running' WHERE id = ?", "jobs.state", True),
        ("UPDATE jobs SET message = '' WHERE id = ?", "jobs.message", True),
        ("UPDATE jobs SET modify_time = modify_time + 1 WHERE id = ?", "jobs.modify_time", True),
        ("DELETE FROM jobs WHERE id = ?", "jobs", True),
        (
            "UPDATE specs SET spec = CAST(spec || ' ' AS BLOB) WHERE sequence = 1 AND ? != ''",
            "specs.spec",
            True,
        ),
        ("DELETE FROM specs WHERE sequence = 1 AND ? != ''", "specs", True),
        ("INSERT INTO labels VALUES (1, 'env', ?)", "labels", True),
        ("INSERT INTO anomalies VALUES (1, ?, 'none')", "anomalies", True),
        ("UPDATE checkpoint SET anomalies = 1 WHERE ? != ''", "checkpoint.anomalies", False),
    ],
)
async def test_an_edited_row_of_the_view_is_found(
    audited: Installation, sql: str, column: str, *, job: bool
) -> None:
    """Job and column are named, for every table."""
    audited.edit_view(sql, JOB_0)
    found = await audited.verify_stopped()
    assert Kind.VIEW in kinds(found)
    first = next(finding for finding in found.findings if finding.kind is Kind.VIEW)
    assert first.column == column
    assert first.job_id == (JOB_0 if job else "")


async def test_the_finding_of_an_edited_row_has_both_values(audited: Installation) -> None:
    """Enough to repair it by hand; of a long value, the part that differs."""
    audited.edit_view("UPDATE jobs SET state = 'Running' WHERE id = ?", JOB_0)
    audited.edit_view("UPDATE specs SET spec = CAST(replace(spec, 'busybox', 'evilbox') AS BLOB)")
    texts = [str(finding) for finding in (await audited.verify_stopped()).findings]
    assert 'column state is "Running", but should be "Completed"' in texts[0]
    assert "evilbox" in texts[1]
    assert "busybox" in texts[1].partition("but should be")[2]


async def test_an_edited_tree_in_the_view_is_found(audited: Installation) -> None:
    """The rows of the tree are compared as well."""
    audited.edit_view(
        "UPDATE tree_tail SET hashes = zeroblob(32) WHERE start = (SELECT min(start) FROM tree_tail)"
    )
    found = await audited.verify_stopped()
    assert found.findings != ()
    assert set(kinds(found)) <= {Kind.REWRITE, Kind.TREE}


async def test_a_damaged_view_file_is_found(audited: Installation) -> None:
    """The log is verified regardless."""
    audited.view.write_bytes(b"no database" * 1_000)
    async with audited.log() as log:
        with pytest.raises(ViewError, match="damaged"):
            await audited.verify(log)


async def test_a_view_that_is_behind_is_compared_at_its_checkpoint(audited: Installation) -> None:
    """A service may write meanwhile."""
    async with audited.log() as log:
        await Ledger(log).create(make_spec("later"))
        assert (await audited.verify(log)).findings == ()


async def test_the_view_of_another_release_is_rejected(audited: Installation) -> None:
    """Its rows have another meaning and can't be compared."""
    audited.edit_view("UPDATE checkpoint SET projection = projection - 1")
    with pytest.raises(ViewError, match="another release"):
        await audited.verify_stopped()


async def test_an_empty_log_has_nothing_wrong(tmp_path: Path) -> None:
    """No events, no seals, an empty view."""
    installation = Installation(tmp_path)
    async with installation.log() as log:
        await project(log, installation.view)
        found = await installation.verify(log)
    assert (found.findings, found.log.size) == ((), 0)


async def test_seals_of_a_file_count_as_well(audited: Installation, tmp_path: Path) -> None:
    """The service's own copy reveals a truncation of both the log and the stream of seals."""
    file = tmp_path / "seals.txt"
    async with audited.log() as log:
        origin = await origin_of_log(log)
        records = await records_of(log)
        await Ledger(log).set_state(JOB_0, State(StateType.COMPLETED, "reported"))
    file.write_text(f"half a se\n\n{seal_of(records, origin, 4).note}\n{seal_of(records, origin).note}\n")
    audited.tamper(without_last)
    found = await audited.verify_stopped(seal_files=[file])
    assert [each.sequence for each in found.log.findings] == [EVENTS]
    assert found.log.seals == 2, "of 3 and of 4 events"


async def test_an_incomplete_seal_file_is_a_finding_with_a_remedy(
    audited: Installation, tmp_path: Path
) -> None:
    """After a power loss in the last signature; none after the next seal."""
    file = tmp_path / "seals.txt"
    async with audited.log() as log:
        origin = await origin_of_log(log)
        records = await records_of(log)
        whole, torn = seal_of(records, origin, 4), seal_of(records, origin)
        for cut in (1, 40):
            file.write_text(f"{whole.note}\n{torn.note[:-cut]}")
            found = await audited.verify(log, seal_files=[file])
            assert kinds(found) == [Kind.DAMAGED]
            assert "`jobledger audit seal`" in found.findings[0].message
        SealFile(file).add(torn)
        assert (await audited.verify(log, seal_files=[file])).findings == ()
