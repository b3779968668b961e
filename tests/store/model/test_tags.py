"""Tags: names for a job's versions, as events. What each means and what is refused; nothing else moves."""

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
from tests.support.ledgers import event_id, put, story
from tests.support.oracle import fold_of, rows_of

ID = named_job_id("default", "etl")
CREATED: tuple[EventClass, EventData] = (JobCreated, spec_data("etl"))
UPDATED: tuple[EventClass, EventData] = (JobUpdated, spec_data("etl", priority=1))
RUNNING: tuple[EventClass, EventData] = (JobStateChanged, state_data(StateType.RUNNING))


def tagged(tag: str, version: int) -> tuple[EventClass, EventData]:
    return JobTagged, TagData(tag, version)


def folded(*events: tuple[EventClass, EventData]) -> tuple[JobStatus | None, list[str]]:
    """The status that these come to, each a microsecond after the other, and what made no sense."""
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


def test_a_tag_changes_the_tags_and_the_sequence_alone() -> None:
    """Version, revision, state and times are as before it, also when the job is not in its first version."""
    before = status_of(CREATED, UPDATED, RUNNING)
    after = status_of(CREATED, UPDATED, RUNNING, tagged("golden", 1))
    assert after == msgspec.structs.replace(before, tags={"golden": 1}, sequence=4)


def test_a_tag_moves_and_goes() -> None:
    """The last word counts: a tag names another version, or none; the others stay, in the order of names."""
    events = [CREATED, UPDATED, tagged("golden", 1), tagged("a.b", 2), tagged("golden", 2)]
    assert list(status_of(*events).tags.items()) == [("a.b", 2), ("golden", 2)]
    assert status_of(*events, tagged("golden", 0)).tags == {"a.b": 2}
    assert status_of(*events, tagged("golden", 2)).sequence == 6


@pytest.mark.parametrize("after", [UPDATED, RUNNING], ids=["updated", "state"])
def test_tags_stay_through_what_comes_later(after: tuple[EventClass, EventData]) -> None:
    """A new spec or state leaves the tags where they are."""
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
    """It changes nothing, not even the sequence, and says why."""
    status, anomalies = folded(CREATED, tagged(tag, version))
    assert status == status_of(CREATED)
    assert len(anomalies) == 1
    assert reason in anomalies[0]


def test_a_tag_before_the_job_is_an_anomaly() -> None:
    """There is no version to name yet."""
    assert folded(tagged("golden", 1)) == (None, ["a tag, but there is no such job"])


def test_the_fold_holds_the_number_of_tags() -> None:
    """One more than the limit is an anomaly; moving one of them, or one after a removal, is not."""
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
    """Set, move and remove are an event each; what is already so is none."""
    assert decide_tag(job(), "golden", 1, job_id=ID) == Decision(JobTagged, TagData("golden", 1))
    has = job(tagged("golden", 1))
    assert decide_tag(has, "golden", 1, job_id=ID) is None
    assert decide_tag(has, "golden", 2, job_id=ID) == Decision(JobTagged, TagData("golden", 2))
    assert decide_untag(has, "golden", job_id=ID) == Decision(JobTagged, TagData("golden", 0))
    assert decide_untag(has, "other", job_id=ID) is None


@pytest.mark.parametrize("version", [0, 3, -1])
def test_a_version_that_there_is_not_is_refused(version: int) -> None:
    """Which ones there are is said."""
    with pytest.raises(VersionNotFound, match="its versions are 1 to 2"):
        decide_tag(job(), "golden", version, job_id=ID)


def test_a_job_that_there_is_not_has_no_tags() -> None:
    """Neither to set nor to remove."""
    with pytest.raises(JobNotFound):
        decide_tag(None, "golden", 1, job_id=ID)
    with pytest.raises(JobNotFound):
        decide_untag(None, "golden", job_id=ID)


def test_one_tag_too_many_is_refused() -> None:
    """At the limit a new one is refused, and an old one still moves."""
    full = job(*(tagged(f"t{number}", 1) for number in range(TAGS_MAX_COUNT)))
    with pytest.raises(TooManyTags, match=f"the maximum is {TAGS_MAX_COUNT}"):
        decide_tag(full, "more", 1, job_id=ID)
    assert decide_tag(full, "t0", 2, job_id=ID) is not None


# --- the ledger -------------------------------------------------------------------------------------------


async def test_a_tag_is_an_event_with_a_receipt() -> None:
    """The sequence rises, version and revision do not; who, why and what are in the history."""
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
    items = await story(ledger, ID)
    assert [(item.revision, item.tag, item.tag_version, item.actor, item.reason) for item in items] == [
        (1, "", 0, "", ""),
        (1, "golden", 1, "alice", "proved itself"),
        (1, "golden", 0, "", "no more"),
    ]


async def test_a_tag_does_not_stand_in_the_way_of_other_writers() -> None:
    """Who decided on a revision still may after a tag, and a tag holds to an expected revision itself."""
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
    """The first answer comes back, also after the tag went elsewhere."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    first = await ledger.tag(ID, "golden", 1, event_id=event_id(1))
    await ledger.untag(ID, "golden")
    assert await Ledger(log).tag(ID, "golden", 1, event_id=event_id(1)) == first
    assert (await ledger.load(ID)).status.tags == {}


@pytest.mark.parametrize(
    "tag", ["3", "", "no tag", "-a", "a" * (TAG_MAX_CHARACTERS + 1), "é", "a\n", None, 7]
)
async def test_what_can_be_no_tag_is_refused(tag: Any) -> None:
    """Nothing is written, and what a tag is made of is said."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    with pytest.raises(InvalidInput, match=r"invalid tag .*: use a letter"):
        await ledger.tag(ID, tag, 1)
    with pytest.raises(InvalidInput, match="invalid tag"):
        await ledger.untag(ID, tag)
    assert (await log.info()).last_sequence == 1


async def test_the_longest_tag_is_taken() -> None:
    """At the limit, with every kind of character that is allowed."""
    ledger = Ledger(MemoryLog())
    await ledger.create(make_spec("etl"))
    tag = "Ab9._-".ljust(TAG_MAX_CHARACTERS, "x")
    assert (await ledger.tag(ID, tag, 1)).changed


# --- the view ---------------------------------------------------------------------------------------------


async def test_a_job_that_is_only_tagged_is_written(tmp_path: Path) -> None:
    """Alone in its batch, a tag reaches the row, whose counters stay and whose sequence rises."""
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
    """Two views that differ in a tag alone have different digests."""
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


async def test_a_view_from_before_the_tags_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows were folded by a release to which a tag was an unknown type: it empties and folds anew."""
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
    """Whatever the mixture of specs, states, tags and nonsense, and however it is cut into batches."""
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


async def test_nonsense_on_the_subject_does_not_stop_the_tags() -> None:
    """What another client appends as a tag is counted, and the ledger goes on behind it."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    await put(log, draft(JobTagged, ID, TagData("7", 1), 5))
    await put(log, draft(JobTagged, ID, TagData("golden", 9), 6))
    receipt = await ledger.tag(ID, "golden", 1)
    assert receipt.sequence == 4
    assert [item.anomaly != "" for item in await story(ledger, ID)] == [False, True, True, False]
