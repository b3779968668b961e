"""What a job became by an event is the same wherever a reader begins, and however little it remembers."""

import asyncio
import random
from collections.abc import Sequence

import msgspec
import pytest

from jobledger import MemoryLog
from jobledger.projections.limits import FOLDER_FORGOTTEN_BITS, FOLDER_READS
from jobledger.projections.subscribing import remembering
from jobledger.projections.subscribing.folding import (
    FoldedEvent,
    Folder,
    job_folder,
    number_folder,
    status_folder,
)
from jobledger.projections.subscribing.remembering import (
    _COUNTER_MAX,
    IdFilter,
    NumberMemory,
    WholeMemory,
)
from jobledger.store.errors import LogUnavailable
from jobledger.store.events import JobCreated, JobStateChanged, Record, Recorded, read_record
from jobledger.store.fold import Anomaly, fold_job
from jobledger.store.job import Job, JobStatus, State, StateType
from jobledger.store.subjects import named_job_id, nameless_job_id
from tests.histories import append_all, draft, random_drafts, records_of, spec_data, state_data

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
        job_id = recorded.event.subject if isinstance(recorded, Recorded) else ""
        before = jobs.get(job_id)
        after = fold_job(before, recorded)
        if not isinstance(after, Anomaly):
            jobs[job_id] = after
            told.append((record.sequence, before, after))
    return told


def said(events: Sequence[FoldedEvent[Job]]) -> list[tuple[int, Job | None, Job]]:
    return [(each.record.sequence, each.before, each.after) for each in events]


async def fold_in_pages(
    folder: Folder[Job], records: Sequence[Record], size: int
) -> list[tuple[int, Job | None, Job]]:
    told: list[FoldedEvent[Job]] = []
    for start in range(0, len(records), size):
        told += await folder.fold(records[start : start + size])
    return said(told)


async def history(seed: int) -> tuple[Counting, list[Record]]:
    log = Counting()
    await append_all(log, random_drafts(random.Random(seed), JOBS, EVENTS))
    return log, await records_of(log)


@pytest.mark.parametrize("seed", range(8))
async def test_jobs_before_and_after_are_the_same_from_every_beginning(seed: int) -> None:
    """From the first record, or from the middle of the jobs' lives: the same jobs, whole, at each event."""
    log, records = await history(seed)
    truth = truth_of(records)
    rng = random.Random(seed)
    for start in (0, *(rng.randrange(len(records)) for _ in range(5))):
        told = await fold_in_pages(
            job_folder(log, from_first=start == 0), records[start:], rng.randint(1, 70)
        )
        assert told == [each for each in truth if each[0] > start]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_jobs", [0, 1, 5])
async def test_what_was_forgotten_is_read_again(seed: int, max_jobs: int) -> None:
    """A memory for fewer jobs than there are changes nothing but the reads."""
    log, records = await history(seed)
    truth = truth_of(records)
    for from_first in (True, False):
        folder = job_folder(log, from_first=from_first, max_jobs=max_jobs)
        assert await fold_in_pages(folder, records, 20) == truth
        assert folder.anomalies == len(records) - len(truth)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_jobs", [0, 5, 100])
async def test_numbers_alone_are_the_same(seed: int, max_jobs: int) -> None:
    """Remembering next to nothing of a job, its revisions, versions and types of states come out the same."""
    log, records = await history(seed)
    truth = [(at, after.status) for at, _, after in truth_of(records)]
    wanted = [(at, each.revision, each.version, each.state.state_type, each.tags) for at, each in truth]
    for from_first in (True, False):
        folder = number_folder(log, from_first=from_first, max_jobs=max_jobs)
        told: list[FoldedEvent[JobStatus]] = []
        for start in range(0, len(records), 20):
            told += await folder.fold(records[start : start + 20])
        assert [
            (each.record.sequence, after.revision, after.version, after.state.state_type, after.tags)
            for each in told
            for after in [each.after]
        ] == wanted


def test_numbers_are_kept_up_to_their_largest() -> None:
    """What is packed comes back as it was, for every state and namespace; what does not fit is kept whole."""
    for memory_of in (1, _COUNTER_MAX, _COUNTER_MAX + 1, 2**62):
        memory = NumberMemory()
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
            assert memory.take(job_id) is None


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


def known_of(memory: NumberMemory | WholeMemory[JobStatus], count: int) -> list[str]:
    """Six jobs put in, one ended, one used again; those that are still known afterwards."""
    for number in range(5):
        memory.put_all({f"j-{number}": job_status(StateType.RUNNING)})
    memory.put_all({"j-ended": job_status(StateType.COMPLETED)})
    again = memory.take("j-1")
    if again is not None:
        memory.put_all({"j-1": again})
    names = ("j-0", "j-1", "j-2", "j-3", "j-4", "j-ended")
    known = [name for name in names if memory.take(name)]
    assert len(known) == count
    assert all(memory.may_have_forgotten(name) for name in names if name not in known)
    assert not any(memory.may_have_forgotten(name) for name in known)
    return known


def test_memory_is_bounded_in_number() -> None:
    """Beyond the bound those are forgotten that were not used for longest; of whole ones, ended first."""
    assert known_of(NumberMemory(4), 4) == ["j-2", "j-3", "j-4", "j-ended"]
    assert known_of(NumberMemory(5), 5) == ["j-1", "j-2", "j-3", "j-4", "j-ended"]
    whole: WholeMemory[JobStatus] = WholeMemory(lambda each: each, 4, 10**9)
    assert known_of(whole, 4) == ["j-1", "j-2", "j-3", "j-4"]


def test_jobs_that_can_not_be_packed_count_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their tags, and jobs of more namespaces than are numbered: the bound is one of memory."""
    memory = NumberMemory(20)
    tagged = msgspec.structs.replace(job_status(StateType.RUNNING), tags={"a": 1, "b": 1})
    memory.put_all({f"j-{number}": tagged for number in range(10)})
    assert [number for number in range(10) if memory.take(f"j-{number}")] == [7, 8, 9]
    monkeypatch.setattr(remembering, "FOLDER_MAX_NAMESPACES", 2)
    memory = NumberMemory(8)
    for namespace in ("a", "b", "c", "d"):
        memory.put_all({namespace: job_status(StateType.QUEUED, namespace)})
    found = [memory.take(each) for each in ("a", "b", "c", "d")]
    assert [each.namespace if each else "" for each in found] == ["", "", "c", "d"]
    assert memory._weight == 0


def test_memory_is_bounded_in_bytes() -> None:
    """Jobs with long specs are kept in a smaller number: specs and messages count."""
    memory: WholeMemory[Job] = WholeMemory(lambda job: job.status, 100, 50_000)
    for number in range(10):
        memory.put_all({f"j-{number}": Job(status=job_status(StateType.RUNNING), spec=b"x" * 9_000)})
    assert [number for number in range(10) if memory.take(f"j-{number}")] == [5, 6, 7, 8, 9]
    assert memory._bytes == 0


async def test_jobs_that_were_never_met_cost_no_read() -> None:
    """A reader of everything from the first record on reads a job again only if it may have forgotten it."""
    log, records = await history(1)
    truth = truth_of(records)
    await fold_in_pages(job_folder(log, from_first=True), records, 50)
    assert log.reads == 0
    await fold_in_pages(job_folder(log, from_first=False), records, 50)
    assert 0 < log.reads <= JOBS + len(records) - len(truth)


async def test_reads_run_at_once_up_to_the_bound() -> None:
    """Jobs that must be read are read several at once, and never more than the limit says."""
    log = Counting()
    many = 3 * FOLDER_READS
    names = [f"job-{number}" for number in range(many)]
    await append_all(
        log,
        [
            draft(JobCreated, named_job_id("default", each), spec_data(each), n)
            for n, each in enumerate(names)
        ],
    )
    told = await status_folder(log, from_first=False).fold(await records_of(log))
    assert len(told) == many
    assert log.most_at_once == FOLDER_READS


async def test_a_failed_read_changes_nothing() -> None:
    """After an error the same records can be folded again, and nothing was lost or counted twice."""
    log, records = await history(2)
    truth = truth_of(records)
    folder = job_folder(log, from_first=False)
    half = len(records) // 2
    told = await fold_in_pages(folder, records[:half], half)
    anomalies = folder.anomalies
    assert isinstance(folder._memory, WholeMemory)
    folder._memory._active.popitem()  # so that something must be read
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
        told = await fold_in_pages(job_folder(log, from_first=False), records[start:], 10)
        assert [sequence for sequence, _, _ in told] == ([1, 4] if start == 0 else [4])


def test_the_filter_of_forgotten_jobs_knows_each_of_them() -> None:
    """What was put in is always found; of what was not, next to nothing; empty, it takes no memory."""
    ids = IdFilter()
    assert "anything" not in ids
    assert len(ids._bits) == 0
    for number in range(20_000):
        ids.add(f"j-{number}")
    assert len(ids._bits) == FOLDER_FORGOTTEN_BITS // 8
    assert all(f"j-{number}" in ids for number in range(20_000))
    assert sum(f"k-{number}" in ids for number in range(20_000)) < 20
