"""Tags, names of a job's versions: their effect, and what is refused."""

import random
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobledger import InvalidInput, JobNotFound, Ledger, MemoryLog, Projector, State, StateType, View
from jobledger.projections import writer as viewwriter
from jobledger.projections.batch import fold_batch
from jobledger.projections.rows import JOB_ROW_COLUMNS
from jobledger.store.model.decide import Decision, decide_tag, decide_untag
from jobledger.store.model.errors import RevisionMismatch, TooManyTags, VersionNotFound
from jobledger.store.model.events import (
    EventClass,
    EventData,
    JobCreated,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    Record,
    TagData,
    read_record,
)
from jobledger.store.model.fold import Anomaly, fold
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.limits import TAG_MAX_CHARACTERS, TAGS_MAX_COUNT
from jobledger.store.model.subjects import named_job_id
from tests.conftest import make_spec
from tests.support.histories import append_all, draft, random_drafts, records_of, spec_data, state_data
from tests.support.ledgers import event_id, full_history, put
from tests.support.oracle import fold_of, rows_of

ID = named_job_id("default", "etl")
CREATED: tuple[EventClass, EventData] = (JobCreated, spec_data("etl"))
UPDATED: tuple[EventClass, EventData] = (JobUpdated, spec_data("etl", priority=1))
RUNNING: tuple[EventClass, EventData] = (JobStateChanged, state_data(StateType.RUNNING))


def tagged(tag: str, version: int) -> tuple[EventClass, EventData]:
    return JobTagged, TagData(tag, version)


def folded(*events: tuple[EventClass, EventData]) -> tuple[JobStatus | None, list[str]]:
    """Return the status after events a microsecond apart, and the anomalies."""
    status: JobStatus | None = None
    anomalies: list[str] = []
    for number, (kind, data) in enumerate(events, start=1):
        written = draft(kind, ID, data, number)
        result = fold(status, read_record(Record(number, number * 1_000, written.subject, written.payload)))
        if isinstance(result, Anomaly):
            anomalies.append(result.reason)
        else:
            status = result
    return status, anomalies


def status_of(*events: tuple[EventClass, EventData]) -> JobStatus:
    status, anomalies = folded(*events)
    assert status is not None
    assert anomalies == []
    return status


# --- the fold ---------------------------------------------------------------------------------------------


def test_a_tag_changes_only_the_tags_and_the_sequence() -> None:
    """Version, revision, state and times stay the same, in any version of the job."""
    before = status_of(CREATED, UPDATED, RUNNING)
    after = status_of(CREATED, UPDATED, RUNNING, tagged("golden", 1))
    assert after == msgspec.structs.replace(before, tags={"golden": 1}, sequence=4)


def test_a_tag_can_be_moved_and_removed() -> None:
    """The last event counts; the other tags stay, in the order of names."""
    events = [CREATED, UPDATED, tagged("golden", 1), tagged("a.b", 2), tagged("golden", 2)]
    assert list(status_of(*events).tags.items()) == [("a.b", 2), ("golden", 2)]
    assert status_of(*events, tagged("golden", 0)).tags == {"a.b": 2}
    assert status_of(*events, tagged("golden", 2)).sequence == 6


@pytest.mark.parametrize("after", [UPDATED, RUNNING], ids=["updated", "state"])
def test_tags_survive_later_events(after: tuple[EventClass, EventData]) -> None:
    """A new spec or state keeps the tags."""
    assert status_of(CREATED, tagged("golden", 1), after).tags == {"golden": 1}


@pytest.mark.parametrize(
    ("tag", "version", "reason"),
    [
        ("golden", 2, "names version 2, and the job has 1"),
        ("golden", 2**63 - 1, "names version"),
        ("golden", 0, "removed, but there is none"),
        ("7", 1, "is no tag"),
        ("", 1, "is no tag"),
        ("größe", 1, "is no tag"),
        ("a\n", 1, "is no tag"),
        ("a" * (TAG_MAX_CHARACTERS + 1), 1, "is no tag"),
    ],
)
def test_a_tag_that_makes_no_sense_is_an_anomaly(tag: str, version: int, reason: str) -> None:
    """It changes nothing, not even the sequence, and has a reason."""
    status, anomalies = folded(CREATED, tagged(tag, version))
    assert status == status_of(CREATED)
    assert len(anomalies) == 1
    assert reason in anomalies[0]


def test_a_tag_before_the_job_is_an_anomaly() -> None:
    """There is no version yet."""
    assert folded(tagged("golden", 1)) == (None, ["a tag, but there is no such job"])


def test_the_fold_limits_the_number_of_tags() -> None:
    """One above the limit is an anomaly; moving one, or adding one after a removal, is not."""
    full = [CREATED, *(tagged(f"t{number}", 1) for number in range(TAGS_MAX_COUNT))]
    assert len(status_of(*full).tags) == TAGS_MAX_COUNT
    status, anomalies = folded(*full, tagged("more", 1))
    assert status is not None
    assert "more" not in status.tags
    assert anomalies == [f"the tag more is one too many: the job has {TAGS_MAX_COUNT}"]
    status_of(*full, UPDATED, tagged("t0", 2), tagged("t1", 0), tagged("more", 1))


# --- decisions --------------------------------------------------------------------------------------------


def job(*events: tuple[EventClass, EventData]) -> Job:
    return Job(status=status_of(CREATED, UPDATED, *events), spec=b"{}")


def test_a_tag_is_decided_once() -> None:
    """Set, move and remove append one event each; repeated, they append none."""
    assert decide_tag(job(), "golden", 1, job_id=ID) == Decision(JobTagged, TagData("golden", 1))
    has = job(tagged("golden", 1))
    assert decide_tag(has, "golden", 1, job_id=ID) is None
    assert decide_tag(has, "golden", 2, job_id=ID) == Decision(JobTagged, TagData("golden", 2))
    assert decide_untag(has, "golden", job_id=ID) == Decision(JobTagged, TagData("golden", 0))
    assert decide_untag(has, "other", job_id=ID) is None


@pytest.mark.parametrize("version", [0, 3, -1])
def test_an_unknown_version_is_refused(version: int) -> None:
    """The error names the versions that exist."""
    with pytest.raises(VersionNotFound, match="its versions are 1 to 2"):
        decide_tag(job(), "golden", version, job_id=ID)


def test_a_job_that_does_not_exist_has_no_tags() -> None:
    """Neither to set nor to remove."""
    with pytest.raises(JobNotFound):
        decide_tag(None, "golden", 1, job_id=ID)
    with pytest.raises(JobNotFound):
        decide_untag(None, "golden", job_id=ID)


def test_one_tag_too_many_is_refused() -> None:
    """At the limit a new tag is refused, and an existing one can be moved."""
    full = job(*(tagged(f"t{number}", 1) for number in range(TAGS_MAX_COUNT)))
    with pytest.raises(TooManyTags, match=f"the maximum is {TAGS_MAX_COUNT}"):
        decide_tag(full, "more", 1, job_id=ID)
    assert decide_tag(full, "t0", 2, job_id=ID) is not None


# --- the ledger -------------------------------------------------------------------------------------------


async def test_a_tag_is_an_event_with_a_receipt() -> None:
    """The sequence increases, version and revision do not; actor, reason and tag are in the history."""
    ledger = Ledger(MemoryLog())
    await ledger.create(make_spec("etl"))
    receipt = await ledger.tag(ID, "golden", 1, actor="alice", reason="proved itself")
    assert (receipt.sequence, receipt.version, receipt.revision, receipt.changed) == (2, 1, 1, True)
    assert (await ledger.load(ID)).status.tags == {"golden": 1}
    again = await ledger.tag(ID, "golden", 1)
    assert (again.sequence, again.changed) == (2, False)
    gone = await ledger.untag(ID, "golden", reason="no more")
    assert (gone.sequence, gone.changed) == (3, True)
    assert not (await ledger.untag(ID, "golden")).changed
    items = await full_history(ledger, ID)
    assert [(item.revision, item.tag, item.tag_version, item.actor, item.reason) for item in items] == [
        (1, "", 0, "", ""),
        (1, "golden", 1, "alice", "proved itself"),
        (1, "golden", 0, "", "no more"),
    ]


async def test_a_tag_does_not_conflict_with_other_writers() -> None:
    """A command with the revision from before the tag passes; a tag honors an expected revision."""
    ledger, other = Ledger(log := MemoryLog()), Ledger(log)
    await ledger.create(make_spec("etl"))
    await other.load(ID)
    await ledger.tag(ID, "golden", 1)
    receipt = await other.set_state(ID, State(StateType.RUNNING), expected_revision=1)
    assert (receipt.sequence, receipt.revision) == (3, 2)
    with pytest.raises(RevisionMismatch) as stale:
        await ledger.tag(ID, "golden", 1, expected_revision=1)
    assert [item.sequence for item in stale.value.missed] == [3]
    assert (await ledger.tag(ID, "a", 1, expected_revision=2)).changed


async def test_the_same_event_id_tags_once() -> None:
    """The first receipt is returned, also after the tag was moved."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    first = await ledger.tag(ID, "golden", 1, event_id=event_id(1))
    await ledger.untag(ID, "golden")
    assert await Ledger(log).tag(ID, "golden", 1, event_id=event_id(1)) == first
    assert (await ledger.load(ID)).status.tags == {}


@pytest.mark.parametrize(
    "tag", ["3", "", "no tag", "-a", "a" * (TAG_MAX_CHARACTERS + 1), "é", "a\n", None, 7]
)
async def test_an_invalid_tag_is_refused(tag: Any) -> None:
    """Nothing is written, and the error names the valid characters."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    with pytest.raises(InvalidInput, match=r"invalid tag .*: use a letter"):
        await ledger.tag(ID, tag, 1)
    with pytest.raises(InvalidInput, match="invalid tag"):
        await ledger.untag(ID, tag)
    assert (await log.info()).last_sequence == 1


async def test_the_longest_tag_is_accepted() -> None:
    """At the limit, with every kind of valid character."""
    ledger = Ledger(MemoryLog())
    await ledger.create(make_spec("etl"))
    tag = "Ab9._-".ljust(TAG_MAX_CHARACTERS, "x")
    assert (await ledger.tag(ID, tag, 1)).changed


# --- the view ---------------------------------------------------------------------------------------------


async def test_a_job_that_is_only_tagged_is_written(tmp_path: Path) -> None:
    """A tag alone in its batch updates the row: same counters, new sequence."""
    ledger, path = Ledger(log := MemoryLog()), tmp_path / "view.db"
    created = await ledger.create(make_spec("etl"))
    async with Projector(log, path) as projector:
        await projector.wait_for(created.sequence)
        receipt = await ledger.tag(ID, "golden", 1)
        await projector.wait_for(receipt.sequence)
        async with await View.open(path) as view:
            assert (await view.get(ID)).status == (await ledger.load(ID)).status
        receipt = await ledger.untag(ID, "golden")
        await projector.wait_for(receipt.sequence)
        async with await View.open(path) as view:
            assert (await view.get(ID)).status.tags == {}


async def test_tags_are_in_the_digest(tmp_path: Path) -> None:
    """Two views that differ only in a tag have different digests."""
    digests = set()
    for name, version in (("a", 1), ("b", 1), ("a", 2)):
        path = tmp_path / f"{name}{version}.db"
        ledger = Ledger(log := MemoryLog())
        await ledger.create(make_spec("etl"))
        await ledger.update(ID, make_spec("etl", priority=1))
        receipt = await ledger.tag(ID, name, version)
        async with Projector(log, path) as projector, await View.open(path) as view:
            await projector.wait_for(receipt.sequence)
            digests.add(await view.digest())
    assert len(digests) == 3


async def test_a_view_of_a_release_without_tags_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the release that folded its rows a tag was an unknown type."""
    ledger, path = Ledger(log := MemoryLog()), tmp_path / "view.db"
    await ledger.create(make_spec("etl"))
    with monkeypatch.context() as patch:
        patch.setattr(viewwriter, "PROJECTION_VERSION", 1)
        async with Projector(log, path) as projector:
            await projector.wait_for(1)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE jobs SET message = 'as another release understood it'")
    connection.close()
    receipt = await ledger.tag(ID, "golden", 1)
    async with Projector(log, path) as projector, await View.open(path) as view:
        await projector.wait_for(receipt.sequence)
        assert (await view.get(ID)).status == (await Ledger(log).load(ID)).status


@pytest.mark.parametrize("seed", range(3))
async def test_the_view_has_the_tags_of_the_fold(tmp_path: Path, seed: int) -> None:
    """For any mixture of specs, states, tags and invalid events, cut into any batches."""
    rng = random.Random(seed)
    log, path = MemoryLog(), tmp_path / "view.db"
    await append_all(log, random_drafts(rng, jobs=4, events=150))
    records = await records_of(log)
    expected = fold_of(records)
    assert any(row[JOB_ROW_COLUMNS.index("tags")] for row in expected["jobs"])
    async with Projector(log, path) as projector:
        await projector.wait_for(len(records))
    assert rows_of(path) == expected
    known: dict[str, JobStatus] = {}
    while records:
        size = rng.randint(1, 20)
        batch = fold_batch([read_record(record) for record in records[:size]], known)
        known |= batch.statuses
        touched = batch.created.keys() | batch.spec_changed.keys() | batch.state_changed.keys()
        assert touched == batch.statuses.keys()
        records = records[size:]
    assert {
        row[JOB_ROW_COLUMNS.index("id")]: row[JOB_ROW_COLUMNS.index("tags")] for row in expected["jobs"]
    } == {each.id: msgspec.json.encode(each.tags).decode() if each.tags else "" for each in known.values()}


async def test_invalid_tags_on_the_subject_do_not_stop_the_ledger() -> None:
    """Tags of another client that make no sense are counted, and the ledger appends after them."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    await put(log, draft(JobTagged, ID, TagData("7", 1), 5))
    await put(log, draft(JobTagged, ID, TagData("golden", 9), 6))
    receipt = await ledger.tag(ID, "golden", 1)
    assert receipt.sequence == 4
    assert [item.anomaly != "" for item in await full_history(ledger, ID)] == [False, True, True, False]
