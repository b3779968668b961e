"""The state of a job at an event is the same wherever a reader starts, and however small its cache is."""

import asyncio
import random
from collections.abc import ItemsView, Iterator, Sequence

import msgspec
import pytest

from jobledger import MemoryLog
from jobledger.projections.limits import TRACKER_EVICTED_BITS, TRACKER_READS
from jobledger.projections.subscriptions import state_tracker
from jobledger.projections.subscriptions.state_tracker import (
    _COUNTER_MAX,
    BloomFilter,
    CompactCache,
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
from jobledger.store.model.events import (
    JobCreated,
    JobStateChanged,
    Record,
    encode_event,
    job_named,
    read_record,
)
from jobledger.store.model.fold import fold_job_on
from jobledger.store.model.job import Job, JobStatus, State, StateType
from jobledger.store.model.subjects import (
    job_subject,
    named_job_id,
    nameless_job_id,
    namespace_subjects,
    subject_matches,
)
from tests.support.histories import append_all, draft, random_drafts, records_of, spec_data, state_data

JOBS = 12
EVENTS = 300


class Counting(MemoryLog):
    """A log that counts the reads of jobs."""

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
    """Each event that changed a job, with the job before and after, folded from the first record."""
    jobs: dict[str, Job] = {}
    folded = []
    for record in records:
        recorded = read_record(record)
        before = jobs.get(job_named(recorded))
        after = fold_job_on(before, recorded)
        if after is not None:
            jobs[job_named(recorded)] = after
            if after.status.sequence == record.sequence:
                folded.append((record.sequence, before, after))
    return folded


def summary(events: Sequence[FoldedEvent[Job]]) -> list[tuple[int, Job | None, Job]]:
    return [(each.record.sequence, each.before, each.after) for each in events]


async def fold_in_pages(
    tracker: StateTracker[Job], records: Sequence[Record], size: int
) -> list[tuple[int, Job | None, Job]]:
    folded: list[FoldedEvent[Job]] = []
    for start in range(0, len(records), size):
        folded += await tracker.fold(records[start : start + size])
    return summary(folded)


async def history(seed: int) -> tuple[Counting, list[Record]]:
    log = Counting()
    await append_all(log, random_drafts(random.Random(seed), JOBS, EVENTS))
    return log, await records_of(log)


@pytest.fixture(params=[0, 2, 1_000], ids=["job by job", "both ways", "all at once"])
def factor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many records in a row cost as much as one job."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", request.param)
    return int(request.param)


@pytest.mark.usefixtures("factor")
@pytest.mark.parametrize("seed", range(6))
async def test_jobs_before_and_after_are_the_same_from_every_start(seed: int) -> None:
    """From the first record or from the middle: the same whole jobs at each event."""
    log, records = await history(seed)
    truth = truth_of(records)
    rng = random.Random(seed)
    for start in (0, *(rng.randrange(len(records)) for _ in range(5))):
        folded = await fold_in_pages(
            job_tracker(log, from_first=start == 0), records[start:], rng.randint(1, 70)
        )
        assert folded == [each for each in truth if each[0] > start]


@pytest.mark.usefixtures("factor")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_jobs", [0, 1, 5])
async def test_evicted_jobs_are_read_again(seed: int, max_jobs: int) -> None:
    """A cache for fewer jobs than there are changes only the number of reads."""
    log, records = await history(seed)
    truth = truth_of(records)
    for from_first in (True, False):
        tracker = job_tracker(log, from_first=from_first, max_jobs=max_jobs)
        assert await fold_in_pages(tracker, records, 20) == truth
        assert tracker.anomalies == len(records) - len(truth)


@pytest.mark.usefixtures("factor")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("max_jobs", [0, 5, 100])
async def test_compact_jobs_have_the_same_numbers(seed: int, max_jobs: int) -> None:
    """A compact cache gives the same revisions, versions and state types."""
    log, records = await history(seed)
    truth = [(at, after.status) for at, _, after in truth_of(records)]
    wanted = [(at, each.revision, each.version, each.state.state_type, each.tags) for at, each in truth]
    for from_first in (True, False):
        tracker = number_tracker(log, from_first=from_first, max_jobs=max_jobs)
        folded: list[FoldedEvent[JobStatus]] = []
        for start in range(0, len(records), 20):
            folded += await tracker.fold(records[start : start + 20])
        assert [
            (each.record.sequence, after.revision, after.version, after.state.state_type, after.tags)
            for each in folded
            for after in [each.after]
        ] == wanted


@pytest.mark.parametrize("page", [1, 7, 300])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_jobs", [0, 5, 100])
async def test_numbered_events_are_those_of_the_fold(seed: int, max_jobs: int, page: int) -> None:
    """Events that are numbered without statuses: the same ones, names and numbers, at any size of a page."""
    _, records = await history(seed)
    records = [*(changed(record, random.Random(seed * 1_000 + record.sequence)) for record in records)]
    truth, numbered = list[tuple[int, str, int, int]](), list[tuple[int, str, int, int]]()
    by_fold = status_tracker(MemoryLog(), from_first=True)
    tracker = number_tracker(Rewritten(records), from_first=True, max_jobs=max_jobs)
    for start in range(0, len(records), page):
        part = records[start : start + page]
        for record, _, _, after in await by_fold.fold(part):
            truth.append((record.sequence, after.name, after.revision, after.version))
        for each in await tracker.number(part):
            numbered.append((each.record.sequence, each.name, each.revision, each.version))
            assert each.is_exact <= (encode_event(each.event) == each.record.payload)
    assert numbered == truth
    assert (tracker.anomalies, tracker.frozen) == (by_fold.anomalies, by_fold.frozen)


def changed(record: Record, rng: random.Random) -> Record:
    """A record, rarely with another subject, link, namespace, depth or field than its writer gave it."""
    if record.payload.startswith(b"{not"):
        return record
    if rng.random() < 0.03:
        shard = record.subject.split(".")[2]
        return msgspec.structs.replace(record, subject=record.subject.replace(f".{shard}.", ".xx."))
    document = msgspec.json.decode(record.payload)
    changes: tuple[dict[str, object], ...] = (
        {"previous": str(max(1, record.sequence - rng.randint(1, 50)))},
        {"namespace": "other"},
        {"data": document["data"] | {"Deep": msgspec.Raw(b"[" * 300 + b"]" * 300)}},
        {"data": {}},
        {"later": {"a": 1}},
        {"subject": named_job_id("default", "job-0")},
        {"type": "jobledger.job.later.v9"},
        {"name": "job-é"},
    )
    document |= rng.choice(changes) if rng.random() < 0.2 else {}
    return msgspec.structs.replace(record, payload=msgspec.json.encode(document))


class Rewritten(MemoryLog):
    """A log with the given records."""

    def __init__(self, records: Sequence[Record]) -> None:
        super().__init__()
        self._all = records

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        tokens = subject.split(".")
        return [
            each
            for each in self._all
            if after < each.sequence <= (up_to or len(self._all)) and subject_matches(tokens, each.subject)
        ]


async def test_a_failed_read_numbers_nothing() -> None:
    """After an error the same records can be numbered again: no event was counted."""
    log, (first, second) = Counting(), (named_job_id("default", name) for name in "ab")
    jobs = (("a", first), ("b", second))
    created = [draft(JobCreated, job_id, spec_data(name), n) for n, (name, job_id) in enumerate(jobs)]
    running = state_data(StateType.RUNNING)
    await append_all(
        log, created + [draft(JobStateChanged, job_id, running, 2 + n) for n, (_, job_id) in enumerate(jobs)]
    )
    records = await records_of(log)
    tracker = number_tracker(log, from_first=True)
    await tracker.number(records[:2])
    cache = tracker._cache
    assert isinstance(cache, CompactCache)
    cache.take(second)
    cache._evicted.add(second)
    log.fails = True
    with pytest.raises(LogUnavailable):
        await tracker.number(records[2:])
    log.fails = False
    found = [(each.record.sequence, each.revision) for each in await tracker.number(records[2:])]
    assert found == [(3, 2), (4, 2)]


async def test_new_jobs_cost_no_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that starts at the first record reads a job only if it may have evicted it."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", 0)
    log, records = await history(1)
    truth = truth_of(records)
    await fold_in_pages(job_tracker(log, from_first=True), records, 50)
    assert log.reads == 0
    await fold_in_pages(job_tracker(log, from_first=False), records, 50)
    assert 0 < log.reads <= JOBS + len(records) - len(truth)


async def test_everything_before_the_start_is_read_once_that_is_cheaper(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jobs are read one by one until they have cost as much; then everything is, and no job after that."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", 10)
    log = Counting()
    names = [f"job-{number}" for number in range(60)]
    ids = [named_job_id("default", name) for name in names]
    drafts = [draft(JobCreated, ids[n], spec_data(names[n]), n) for n in range(60)]
    drafts += [draft(JobStateChanged, ids[n], state_data(StateType.RUNNING), 100 + n) for n in range(60)]
    await append_all(log, drafts)
    records = await records_of(log)
    tracker = status_tracker(log, from_first=False)
    reads = []
    for record in records[100:]:  # each of another job
        folded = await tracker.fold([record])
        assert [each.after.revision for each in folded] == [2]
        reads.append(log.reads)
    # (reads so far + 1) * 10 reaches the sequence at the twelfth job: 11 by one, then all that was before.
    scan = reads[11] - reads[10]
    assert reads[:11] == list(range(1, 12))
    assert reads[11:] == [11 + scan] * 9


async def test_a_second_reading_of_a_quarantined_job_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """A redelivery reads the job again at every retry; the line was logged when the event came."""
    log, created = MemoryLog(), draft(JobCreated, named_job_id("default", "etl"), spec_data("etl"), 1)
    strange = created.payload.replace(b"jobledger.job.created.v1", b"jobledger.job.from_the_future.v1")
    await append_all(log, [created, PendingEvent(created.subject, "strange", strange)])
    for logs_quarantine, lines in ((True, 1), (False, 0)):
        caplog.clear()
        tracker = job_tracker(log, from_first=True, logs_quarantine=logs_quarantine)
        await tracker.fold(await records_of(log))
        assert (tracker.frozen, len(caplog.records)) == (1, lines)


async def test_an_unreadable_event_before_the_start_quarantines_its_job_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An event of a newer release before the reader's start freezes its job and no other."""
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
    tracker = status_tracker(log, from_first=False)
    assert [each.after.revision for each in await tracker.fold([of_two])] == [2]
    assert await tracker.fold([of_one]) == []


async def test_only_jobs_in_scope_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs outside the reader's scope take no space in its cache."""
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
    tracker = status_tracker(log, from_first=False, scope=scope, max_jobs=3)
    folded = await tracker.fold(records[3:])
    assert [each.after.revision for each in folded] == [2, 2, 2]
    assert not any(tracker._cache.may_have_evicted(job_id) for job_id in ids)


async def test_reads_are_concurrent_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing jobs are read concurrently, and never more of them than the limit."""
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
    folded = await status_tracker(log, from_first=False).fold(await records_of(log))
    assert len(folded) == many
    assert log.most_at_once == TRACKER_READS


@pytest.mark.usefixtures("factor")
async def test_a_failed_read_changes_nothing() -> None:
    """After an error the same records can be folded again; nothing is lost or counted twice."""
    log, records = await history(2)
    truth = truth_of(records)
    tracker = job_tracker(log, from_first=False)
    half = len(records) // 2
    folded = await fold_in_pages(tracker, records[:half], half)
    anomalies = tracker.anomalies
    assert isinstance(tracker._cache, WholeCache)
    evicted, _ = tracker._cache._active.popitem()  # so that something must be read
    tracker._cache._evicted.add(evicted)
    log.fails = True
    with pytest.raises(LogUnavailable):
        await tracker.fold(records[half:])
    assert tracker.anomalies == anomalies
    log.fails = False
    assert folded + summary(await tracker.fold(records[half:])) == truth


async def test_a_nameless_job_is_the_one_created_first() -> None:
    """Events with its id on subjects of other namespaces change nothing, wherever the reader starts."""
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
        folded = await fold_in_pages(job_tracker(log, from_first=False), records[start:], 10)
        assert [sequence for sequence, _, _ in folded] == ([1, 4] if start == 0 else [4])


@pytest.mark.usefixtures("factor")
async def test_a_reader_of_one_namespace_ignores_foreign_events_of_a_nameless_job() -> None:
    """It never gets the job's own events, and still knows that the id is taken, from any start."""
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
            tracker = job_tracker(log, from_first=start == 0, scope=scope)
            begin = records[start].sequence
            assert await fold_in_pages(tracker, records[start:], size) == [
                each for each in truth if each[0] >= begin
            ]


async def test_a_nameless_job_is_read_once() -> None:
    """By a reader of one namespace from the first record; a named job is never read."""
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
    tracker = status_tracker(log, from_first=True, scope=Scope(namespace_subjects("default")))
    folded = [each for record in await records_of(log) for each in await tracker.fold([record])]
    assert (len(folded), log.reads) == (len(drafts), len(ids))


def test_packed_jobs_keep_numbers_up_to_the_maximum() -> None:
    """A packed job is restored for every state and namespace; one that does not fit is kept whole."""
    for memory_of in (1, _COUNTER_MAX, _COUNTER_MAX + 1, 2**62):
        memory = CompactCache()
        statuses = {
            f"{namespace}-{state}": job_status(
                state, namespace, revision=memory_of, version=min(memory_of, 7)
            )
            for state in StateType
            for namespace in ("default", "a", "ü b")
        }
        memory.put_all(statuses)
        for job_id, status in statuses.items():
            found = memory.take(job_id)
            assert found is not None
            assert (found.revision, found.version, found.state.state_type, found.namespace) == (
                status.revision,
                status.version,
                status.state.state_type,
                status.namespace,
            )
            assert found.name == status.name
            assert memory.take(job_id) is None


def test_names_are_restored_and_long_ones_count_as_several() -> None:
    """Names with spaces and of any script are kept; the limit is one of memory."""
    memory = CompactCache(8)
    for name in ("j-1", "a b  c", "ü", "7f 1"):
        memory.put_all({"j-1": msgspec.structs.replace(job_status(StateType.RUNNING), id="j-1", name=name)})
        found = memory.take("j-1")
        assert found is not None
        assert found.name == name
    long = msgspec.structs.replace(job_status(StateType.RUNNING), name="n" * 200)
    memory.put_all({"a": long, "b": long, "c": long})
    assert [key for key in "abc" if memory.take(key)] == ["b", "c"]
    assert memory._weight == 0


def job_status(
    state: StateType, namespace: str = "default", *, revision: int = 1, version: int = 1
) -> JobStatus:
    return JobStatus(
        id="j",
        namespace=namespace,
        name="n",
        state=State(state),
        version=version,
        revision=revision,
        create_time=1,
        modify_time=1,
        created_sequence=1,
        spec_sequence=1,
        sequence=1,
    )


def known_of(memory: CompactCache | WholeCache[JobStatus], count: int) -> list[str]:
    """The jobs still cached after six were added, one of them terminal, one used again."""
    for number in range(5):
        memory.put_all({f"j-{number}": job_status(StateType.RUNNING)})
    memory.put_all({"j-ended": job_status(StateType.COMPLETED)})
    again = memory.take("j-1")
    if again is not None:
        memory.put_all({"j-1": again})
    names = ("j-0", "j-1", "j-2", "j-3", "j-4", "j-ended")
    known = [name for name in names if memory.take(name)]
    assert len(known) == count
    assert all(memory.may_have_evicted(name) for name in names if name not in known)
    assert not any(memory.may_have_evicted(name) for name in known)
    return known


def test_a_cache_is_bounded_in_number() -> None:
    """The least recently used jobs are evicted; of whole jobs, terminal ones first."""
    assert known_of(CompactCache(4), 4) == ["j-2", "j-3", "j-4", "j-ended"]
    assert known_of(CompactCache(5), 5) == ["j-1", "j-2", "j-3", "j-4", "j-ended"]
    whole: WholeCache[JobStatus] = WholeCache(lambda each: each, 4, 10**9)
    assert known_of(whole, 4) == ["j-1", "j-2", "j-3", "j-4"]


def test_jobs_that_can_not_be_packed_count_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """Because of their tags, or a namespace without a number: the limit is one of memory."""
    memory = CompactCache(20)
    tagged = msgspec.structs.replace(job_status(StateType.RUNNING), tags={"a": 1, "b": 1})
    memory.put_all({f"j-{number}": tagged for number in range(10)})
    assert [number for number in range(10) if memory.take(f"j-{number}")] == [7, 8, 9]
    monkeypatch.setattr(state_tracker, "TRACKER_MAX_NAMESPACES", 2)
    memory = CompactCache(8)
    for namespace in ("a", "b", "c", "d"):
        memory.put_all({namespace: job_status(StateType.QUEUED, namespace)})
    found = [memory.take(each) for each in ("a", "b", "c", "d")]
    assert [each.namespace if each else "" for each in found] == ["", "", "c", "d"]
    assert memory._weight == 0


def test_a_cache_is_bounded_in_bytes() -> None:
    """Fewer jobs with long specs are cached: specs and messages count."""
    memory: WholeCache[Job] = WholeCache(lambda job: job.status, 100, 50_000)
    for number in range(10):
        memory.put_all({f"j-{number}": Job(status=job_status(StateType.RUNNING), spec=b"x" * 9_000)})
    assert [number for number in range(10) if memory.take(f"j-{number}")] == [5, 6, 7, 8, 9]
    assert memory._bytes == 0


def test_many_jobs_are_evicted_in_one_pass() -> None:
    """The oldest ones, as many as are too many: a new pass per job would take quadratic time."""

    class Counted(dict[str, str | JobStatus]):
        passes = 0

        def __iter__(self) -> Iterator[str]:
            Counted.passes += 1
            return super().__iter__()

        def items(self) -> ItemsView[str, str | JobStatus]:  # type: ignore[override]
            Counted.passes += 1
            return super().items()

    memory = CompactCache(max_jobs=10)
    memory._jobs = Counted()
    memory.put_all({f"j-{number}": job_status(StateType.RUNNING) for number in range(10)})
    assert Counted.passes == 0
    memory.put_all({f"k-{number}": job_status(StateType.RUNNING) for number in range(7)})
    assert Counted.passes == 1
    names = [*(f"j-{number}" for number in range(7, 10)), *(f"k-{number}" for number in range(7))]
    assert [*memory._jobs] == names
    assert all(memory.may_have_evicted(f"j-{number}") for number in range(7))


def test_the_filter_of_evicted_jobs_knows_each_of_them() -> None:
    """An added id is always found, other ids almost never; an empty filter takes no memory."""
    ids = BloomFilter()
    assert "anything" not in ids
    assert len(ids._bits) == 0
    for number in range(20_000):
        ids.add(f"j-{number}")
    assert len(ids._bits) == TRACKER_EVICTED_BITS // 8
    assert all(f"j-{number}" in ids for number in range(20_000))
    assert sum(f"k-{number}" in ids for number in range(20_000)) < 20
