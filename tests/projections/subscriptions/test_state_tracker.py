"""What a job became by an event is the same wherever a reader begins, and however little it remembers."""

import asyncio
import random
from collections.abc import Sequence

import pytest

from jobledger import MemoryLog
from jobledger.projections.limits import TRACKER_READS
from jobledger.projections.subscriptions import state_tracker
from jobledger.projections.subscriptions.state_tracker import (
    FoldedEvent,
    Scope,
    StateTracker,
    WholeCache,
    job_tracker,
    number_tracker,
    status_tracker,
)
from jobledger.store.log import PendingEvent
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.events import JobCreated, JobStateChanged, Record, job_named, read_record
from jobledger.store.model.fold import fold_job_on
from jobledger.store.model.job import Job, JobStatus, StateType
from jobledger.store.model.subjects import job_subject, named_job_id, nameless_job_id, namespace_subjects
from tests.support.histories import append_all, draft, random_drafts, records_of, spec_data, state_data

JOBS = 12
EVENTS = 300


class Counting(MemoryLog):
    """A log that counts who reads jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.at_once = 0
        self.most_at_once = 0
        self.fails = False

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        if self.fails:
            raise LogUnavailable("out of reach")
        self.reads += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        return await super().read(subject, after=after, up_to=up_to)


def truth_of(records: Sequence[Record]) -> list[tuple[int, Job | None, Job]]:
    """Each event that changed a job, with the job before and after, folded from the first record on."""
    jobs: dict[str, Job] = {}
    told = []
    for record in records:
        recorded = read_record(record)
        before = jobs.get(job_named(recorded))
        after = fold_job_on(before, recorded)
        if after is not None:
            jobs[job_named(recorded)] = after
            if after.status.sequence == record.sequence:
                told.append((record.sequence, before, after))
    return told


def said(events: Sequence[FoldedEvent[Job]]) -> list[tuple[int, Job | None, Job]]:
    return [(each.record.sequence, each.before, each.after) for each in events]


async def fold_in_pages(
    folder: StateTracker[Job], records: Sequence[Record], size: int
) -> list[tuple[int, Job | None, Job]]:
    told: list[FoldedEvent[Job]] = []
    for start in range(0, len(records), size):
        told += await folder.fold(records[start : start + size])
    return said(told)


async def history(seed: int) -> tuple[Counting, list[Record]]:
    log = Counting()
    await append_all(log, random_drafts(random.Random(seed), JOBS, EVENTS))
    return log, await records_of(log)


@pytest.fixture(params=[0, 2, 1_000], ids=["job by job", "both ways", "all at once"])
def factor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How much cheaper it counts to read all that was before in a row."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", request.param)
    return int(request.param)


@pytest.mark.usefixtures("factor")
@pytest.mark.parametrize("seed", range(6))
async def test_jobs_before_and_after_are_the_same_from_every_beginning(seed: int) -> None:
    """From the first record, or from the middle of the jobs' lives: the same jobs, whole, at each event."""
    log, records = await history(seed)
    truth = truth_of(records)
    rng = random.Random(seed)
    for start in (0, *(rng.randrange(len(records)) for _ in range(5))):
        told = await fold_in_pages(
            job_tracker(log, from_first=start == 0), records[start:], rng.randint(1, 70)
        )
        assert told == [each for each in truth if each[0] > start]


@pytest.mark.usefixtures("factor")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_jobs", [0, 1, 5])
async def test_what_was_evicted_is_read_again(seed: int, max_jobs: int) -> None:
    """A memory for fewer jobs than there are changes nothing but the reads."""
    log, records = await history(seed)
    truth = truth_of(records)
    for from_first in (True, False):
        folder = job_tracker(log, from_first=from_first, max_jobs=max_jobs)
        assert await fold_in_pages(folder, records, 20) == truth
        assert folder.anomalies == len(records) - len(truth)


@pytest.mark.usefixtures("factor")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_jobs", [0, 5, 100])
async def test_numbers_alone_are_the_same(seed: int, max_jobs: int) -> None:
    """Remembering next to nothing of a job, its revisions, versions and types of states come out the same."""
    log, records = await history(seed)
    truth = [(at, after.status) for at, _, after in truth_of(records)]
    wanted = [(at, each.revision, each.version, each.state.state_type, each.tags) for at, each in truth]
    for from_first in (True, False):
        folder = number_tracker(log, from_first=from_first, max_jobs=max_jobs)
        told: list[FoldedEvent[JobStatus]] = []
        for start in range(0, len(records), 20):
            told += await folder.fold(records[start : start + 20])
        assert [
            (each.record.sequence, after.revision, after.version, after.state.state_type, after.tags)
            for each in told
            for after in [each.after]
        ] == wanted


async def test_jobs_that_were_never_met_cost_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader of everything from the first record on reads a job again only if it may have forgotten it."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", 0)
    log, records = await history(1)
    truth = truth_of(records)
    await fold_in_pages(job_tracker(log, from_first=True), records, 50)
    assert log.reads == 0
    await fold_in_pages(job_tracker(log, from_first=False), records, 50)
    assert 0 < log.reads <= JOBS + len(records) - len(truth)


async def test_all_that_was_before_is_read_once_it_is_the_cheaper_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs are read one by one until they have cost as much; then all is, once, and no job any more."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", 10)
    log = Counting()
    names = [f"job-{number}" for number in range(60)]
    ids = [named_job_id("default", name) for name in names]
    drafts = [draft(JobCreated, ids[n], spec_data(names[n]), n) for n in range(60)]
    drafts += [draft(JobStateChanged, ids[n], state_data(StateType.RUNNING), 100 + n) for n in range(60)]
    await append_all(log, drafts)
    records = await records_of(log)
    folder = status_tracker(log, from_first=False)
    reads = []
    for record in records[100:]:  # each of another job
        told = await folder.fold([record])
        assert [each.after.revision for each in told] == [2]
        reads.append(log.reads)
    # (reads so far + 1) * 10 reaches the sequence at the twelfth job: 11 by one, then all that was before.
    scan = reads[11] - reads[10]
    assert reads[:11] == list(range(1, 12))
    assert reads[11:] == [11 + scan] * 9


async def test_an_event_of_a_newer_release_before_the_beginning_harms_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event of a newer release before the reader's place freezes its job, and no other."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", 1_000)
    log = Counting()
    ids = [named_job_id("default", name) for name in ("one", "two")]
    drafts = [draft(JobCreated, ids[0], spec_data("one"), 1), draft(JobCreated, ids[1], spec_data("two"), 2)]
    strange = drafts[0].payload.replace(b"jobledger.job.created.v1", b"jobledger.job.from_the_future.v1")
    drafts.append(PendingEvent(drafts[0].subject, "strange", strange))
    drafts += [
        draft(JobStateChanged, each, state_data(StateType.RUNNING), 9 + n) for n, each in enumerate(ids)
    ]
    await append_all(log, drafts)
    feed = await log.follow(after=3)
    of_one, of_two = await feed.take(10)
    await feed.close()
    folder = status_tracker(log, from_first=False)
    assert [each.after.revision for each in await folder.fold([of_two])] == [2]
    assert await folder.fold([of_one]) == []


async def test_only_what_can_be_met_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all that was before, jobs outside of the reader's scope take no place."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", 1_000)
    log = Counting()
    names = [f"job-{number}" for number in range(20)]
    ids = [named_job_id("default", name) for name in names]
    drafts = [draft(JobCreated, ids[n], spec_data(names[n]), n) for n in range(20)]
    drafts += [draft(JobStateChanged, ids[n], state_data(StateType.RUNNING), 100 + n) for n in range(20)]
    await append_all(log, drafts)
    mine = {job_subject("default", job_id) for job_id in ids[:3]}
    scope = Scope(namespace_subjects("default"), lambda record: record.subject in mine)
    records = [record for record in await records_of(log) if record.subject in mine]
    folder = status_tracker(log, from_first=False, scope=scope, max_jobs=3)
    told = await folder.fold(records[3:])
    assert [each.after.revision for each in told] == [2, 2, 2]
    assert not any(folder._cache.may_have_evicted(job_id) for job_id in ids)


async def test_reads_run_at_once_up_to_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that must be read are read several at once, and never more than the limit says."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", 0)
    log = Counting()
    many = 3 * TRACKER_READS
    names = [f"job-{number}" for number in range(many)]
    await append_all(
        log,
        [
            draft(JobCreated, named_job_id("default", each), spec_data(each), n)
            for n, each in enumerate(names)
        ],
    )
    told = await status_tracker(log, from_first=False).fold(await records_of(log))
    assert len(told) == many
    assert log.most_at_once == TRACKER_READS


@pytest.mark.usefixtures("factor")
async def test_a_failed_read_changes_nothing() -> None:
    """After an error the same records can be folded again, and nothing was lost or counted twice."""
    log, records = await history(2)
    truth = truth_of(records)
    folder = job_tracker(log, from_first=False)
    half = len(records) // 2
    told = await fold_in_pages(folder, records[:half], half)
    anomalies = folder.anomalies
    assert isinstance(folder._cache, WholeCache)
    forgotten, _ = folder._cache._active.popitem()  # so that something must be read
    folder._cache._evicted.add(forgotten)
    log.fails = True
    with pytest.raises(LogUnavailable):
        await folder.fold(records[half:])
    assert folder.anomalies == anomalies
    log.fails = False
    assert told + said(await folder.fold(records[half:])) == truth


async def test_a_job_without_a_name_is_the_one_that_was_created_first() -> None:
    """Events for its id on subjects of other namespaces change nothing, wherever the reader begins."""
    log = MemoryLog()
    job_id = nameless_job_id("01a2055d-a34b-7208-94a5-f139d400013c")
    drafts = [
        draft(JobCreated, job_id, spec_data(job_id), 1),
        draft(JobCreated, job_id, spec_data(job_id, "other"), 2, "other"),
        draft(JobStateChanged, job_id, state_data(StateType.RUNNING), 3, "other"),
        draft(JobStateChanged, job_id, state_data(StateType.RUNNING), 4),
    ]
    await append_all(log, drafts)
    records = await records_of(log)
    for start in range(4):
        told = await fold_in_pages(job_tracker(log, from_first=False), records[start:], 10)
        assert [sequence for sequence, _, _ in told] == ([1, 4] if start == 0 else [4])


@pytest.mark.usefixtures("factor")
async def test_a_reader_of_one_namespace_takes_no_foreign_event_for_a_job_without_a_name() -> None:
    """It never sees the job's own events, and still knows that the id was taken, from any beginning."""
    log = MemoryLog()
    taken, own = (nameless_job_id(f"01a2055d-a34b-7208-94a5-f139d400013{n}") for n in "cd")
    drafts = [
        draft(JobCreated, taken, spec_data(taken), 1),
        draft(JobCreated, taken, spec_data(taken, "other"), 2, "other"),
        draft(JobCreated, own, spec_data(own, "other"), 3, "other"),
        draft(JobStateChanged, taken, state_data(StateType.RUNNING), 4, "other"),
        draft(JobCreated, own, spec_data(own), 5),  # the other way round
        draft(JobStateChanged, own, state_data(StateType.RUNNING), 6, "other"),
        draft(JobStateChanged, taken, state_data(StateType.RUNNING), 7, "other"),
    ]
    await append_all(log, drafts)
    scope = Scope(namespace_subjects("other"))
    records = [record for record in await records_of(log) if ".other." in record.subject]
    truth = [each for each in truth_of(await records_of(log)) if each[2].status.namespace == "other"]
    assert [sequence for sequence, _, _ in truth] == [3, 6]
    for start in range(len(records)):
        for size in (1, 2, 10):
            folder = job_tracker(log, from_first=start == 0, scope=scope)
            begin = records[start].sequence
            assert await fold_in_pages(folder, records[start:], size) == [
                each for each in truth if each[0] >= begin
            ]


async def test_a_job_without_a_name_is_looked_for_once() -> None:
    """Of a reader of one namespace, from the first record on; a job with a name never is."""
    log = Counting()
    ids = [nameless_job_id(f"01a2055d-a34b-7208-94a5-f139d4000{n:03}") for n in range(5)]
    named = named_job_id("default", "known")
    drafts = [draft(JobCreated, each, spec_data(each), n) for n, each in enumerate(ids)]
    drafts.append(draft(JobCreated, named, spec_data("known"), 10))
    drafts += [
        draft(JobStateChanged, each, state_data(StateType.RUNNING), 20 + n)
        for n, each in enumerate((*ids, named))
    ]
    await append_all(log, drafts)
    folder = status_tracker(log, from_first=True, scope=Scope(namespace_subjects("default")))
    told = [each for record in await records_of(log) for each in await folder.fold([record])]
    assert (len(told), log.reads) == (len(drafts), len(ids))
