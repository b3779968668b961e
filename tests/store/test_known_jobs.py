"""A command on a job of an earlier point of the log decides as one that reads the log."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

import pytest
from hypothesis import given, settings, strategies as st

from jobledger import Job, Ledger, MemoryLog, Receipt, State, StateType, named_job_id
from jobledger.store.job_reader import JobReader
from jobledger.store.log import EventLog
from jobledger.store.model.errors import (
    JobledgerError,
    JobNotFound,
    JobQuarantined,
    JobTerminal,
    RevisionMismatch,
)
from jobledger.store.model.events import AcceptData, JobAccepted, JobStateChanged, Record, read_record
from jobledger.store.model.fold import fold_job_on
from jobledger.store.model.subjects import job_subject
from tests.conftest import make_spec
from tests.support.histories import append_all, draft, random_drafts, state_data
from tests.support.ledgers import event_id, full_history, put
from tests.support.unreadable_events import Writer

JOBS = 3
ID = named_job_id("default", "etl")
Command = Callable[[Ledger], Awaitable[Receipt]]


class LaggingJobs:
    """`KnownJobs` as of some records before the end of a log; with `stays`, the point does not move."""

    def __init__(self, log: MemoryLog, lag: int, *, stays: bool = False) -> None:
        self._log = log
        self._lag = lag
        self._end = len(log._records) - lag if stays else None
        self.found = 0

    async def find(self, job_id: str) -> Job | None:
        """Fold all records of the job up to the point."""
        job: Job | None = None
        end = len(self._log._records) - self._lag if self._end is None else self._end
        for record in self._log._records[: max(0, end)]:
            if record.subject == job_subject("default", job_id):
                job = fold_job_on(job, read_record(record))
        found = None if job is None or job.status.is_lost else job
        self.found += found is not None
        return found


class CountingLog(MemoryLog):
    """Counts what is read of single jobs."""

    reads = 0

    async def read(self, subject: str, *, after: int = 0, up_to: int | None = None) -> Sequence[Record]:
        """Count and read."""
        self.reads += 1
        return await super().read(subject, after=after, up_to=up_to)

    async def read_last(self, subject: str) -> Record | None:
        """Count and read."""
        self.reads += 1
        return await super().read_last(subject)


def random_command(rng: random.Random) -> Command:
    """Return a command on one of the jobs, valid or not."""
    name = f"job-{rng.randrange(JOBS)}"
    job_id = named_job_id("default", name)
    about = {"expected_revision": rng.choice([None, None, None, 0, 1, 2, 3, 5])}
    where = {"namespace": rng.choice([None, "default"])}
    state = State(rng.choice(list(StateType)), rng.choice(["", "why"]))
    spec = make_spec(name, priority=rng.randint(0, 2))
    force = rng.random() < 0.2
    tag, version = rng.choice(["golden", "a"]), rng.randint(0, 3)
    return rng.choice(
        [
            lambda ledger: ledger.set_state(job_id, state, **where, **about),
            lambda ledger: ledger.set_state(job_id, state, **where, **about),
            lambda ledger: ledger.stop(job_id, **where, **about),
            lambda ledger: ledger.update(job_id, spec, force=force, **where, **about),
            lambda ledger: ledger.apply(spec, force=force, **about),
            lambda ledger: ledger.create(spec, **about),
            lambda ledger: ledger.rerun(job_id, **where, **about),
            lambda ledger: ledger.tag(job_id, tag, version, **where, **about),
            lambda ledger: ledger.untag(job_id, tag, **where, **about),
            lambda ledger: ledger.accept_unreadable(job_id, version + 1, **where, **about),
        ]
    )


async def outcome_of(call: Callable[[], Awaitable[object]]) -> object:
    """Return a result, or what the caller sees of an error."""
    try:
        return await call()
    except JobledgerError as error:
        return type(error), str(error), getattr(error, "missed", None)


def ledger_of(log: MemoryLog, ids: Iterator[int], known: LaggingJobs | None = None) -> Ledger:
    """Return a ledger with an empty cache, and a clock and ids that repeat."""
    return Ledger(log, clock=lambda: 1_000_000, new_id=lambda: event_id(next(ids)), known=known)


async def check_equal_decisions(seed: int, lag: int, *, keep: bool) -> int:
    """Run random commands on two equal logs, from known jobs and from the log; returns how many were known.

    Args:
        seed: of the history and the commands.
        lag: of the known jobs, in records.
        keep: use one ledger for all commands, and forget its cache now and then.
    """
    rng = random.Random(seed)
    seeded, plain = (MemoryLog(clock=partial(next, itertools.count(1))) for _ in range(2))
    drafts = random_drafts(rng, JOBS, rng.randint(0, 25))
    frozen = named_job_id("default", f"job-{rng.randrange(2 * JOBS)}")  # often none of the jobs
    for log in (seeded, plain):
        await append_all(log, drafts)
        writer = Writer(log, frozen)
        last = await log.read_last(writer.subject)
        writer.last = last.sequence if last is not None else 0
        await writer.write_unknown()
    known = LaggingJobs(seeded, lag)
    ids = [itertools.count(1_000), itertools.count(1_000)]
    ledger = ledger_of(seeded, ids[0], known)
    for _ in range(15):
        command = random_command(rng)
        if not keep:
            ledger = ledger_of(seeded, ids[0], known)
        elif rng.random() < 0.3:
            ledger._reader._cache.clear()
        outcome = await outcome_of(partial(command, ledger))
        assert outcome == await outcome_of(partial(command, ledger_of(plain, ids[1])))
        assert seeded._records == plain._records
    for number in range(JOBS):
        job_id = named_job_id("default", f"job-{number}")
        loads = [outcome_of(partial(reader.load, job_id)) for reader in (ledger, Ledger(plain))]
        assert await loads[0] == await loads[1]
    return known.found


@given(seed=st.integers(0, 2**32), lag=st.integers(0, 12), keep=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_lagging_job_changes_no_decision(seed: int, lag: int, keep: bool) -> None:
    """For any history, commands and lag: the same events, receipts and errors as from the log."""
    asyncio.run(check_equal_decisions(seed, lag, keep=keep))


@pytest.mark.slow
@given(seed=st.integers(0, 2**32), lag=st.integers(0, 12), keep=st.booleans())
@settings(max_examples=500, deadline=None)
def test_a_lagging_job_changes_no_decision_searched(seed: int, lag: int, keep: bool) -> None:
    """The same, for many more histories."""
    asyncio.run(check_equal_decisions(seed, lag, keep=keep))


def test_the_decisions_start_from_known_jobs() -> None:
    """The comparison above is of decisions that really start there."""
    assert sum(asyncio.run(check_equal_decisions(seed, 1, keep=False)) for seed in range(5)) > 20


async def test_a_current_job_is_changed_without_a_read() -> None:
    """A command on a job that is known and not cached reads nothing from the log, with any reference."""
    log = CountingLog()
    first = await Ledger(log).create(make_spec("etl"))
    nameless = await Ledger(log).create(make_spec(""))
    log.reads = 0
    for number, job_id in enumerate((first.job_id, nameless.job_id)):
        for namespace in (None, "default"):
            ledger = Ledger(log, known=LaggingJobs(log, 0))
            state = State(StateType.RUNNING, f"{number} {namespace}")
            receipt = await ledger.set_state(job_id, state, namespace=namespace)
            assert receipt.changed
    applied = await Ledger(log, known=LaggingJobs(log, 0)).apply(make_spec("etl", priority=9))
    assert (applied.revision, applied.version, applied.changed) == (4, 2, True)
    assert log.reads == 0


async def test_a_cached_job_is_not_searched_elsewhere() -> None:
    """The known jobs are for those that are not in the cache."""
    log = MemoryLog()
    known = LaggingJobs(log, 0)
    ledger = Ledger(log, known=known)
    await ledger.create(make_spec("etl"))
    await ledger.set_state(ID, State(StateType.RUNNING))
    assert known.found == 0


async def test_a_stale_job_refuses_nothing_and_lets_nothing_wrong_in() -> None:
    """What a job of an earlier point would refuse is accepted, and the other way around."""
    log = MemoryLog()
    writer = Ledger(log)
    await writer.create(make_spec("etl"))
    await writer.stop(ID)
    stopped = LaggingJobs(log, 0, stays=True)
    await writer.rerun(ID)
    receipt = await Ledger(log, known=stopped).set_state(ID, State(StateType.RUNNING), expected_revision=3)
    assert (receipt.revision, receipt.changed) == (4, True)
    running = LaggingJobs(log, 0, stays=True)
    await writer.set_state(ID, State(StateType.COMPLETED))
    for known in (stopped, running):
        ledger = Ledger(log, known=known)
        with pytest.raises(JobTerminal, match="Completed"):
            await ledger.set_state(ID, State(StateType.QUEUED))
        with pytest.raises(RevisionMismatch, match="revision 5 but expected 4") as mismatch:
            await Ledger(log, known=known).stop(ID, expected_revision=4)
        assert [item.revision for item in mismatch.value.missed] == [5]
    noop = await Ledger(log, known=running).set_state(ID, State(StateType.COMPLETED))
    assert (noop.sequence, noop.changed) == (5, False)
    assert [item.revision for item in await full_history(writer, ID)] == [1, 2, 3, 4, 5]


async def test_the_job_of_another_namespace_is_not_used() -> None:
    """A nameless job that is known in one namespace says nothing about the subject of another."""
    log = MemoryLog()
    receipt = await Ledger(log).create(make_spec(""))
    reader = JobReader(log, Ledger(log)._reader._cache, LaggingJobs(log, 0))
    found = await reader.last_seen(receipt.job_id, None)
    assert found is not None
    assert found.sequence == receipt.sequence
    assert await reader.last_seen(receipt.job_id, "elsewhere") is None


async def test_a_job_in_quarantine_is_read_from_the_log(log: EventLog) -> None:
    """Neither a frozen job as known, nor as cached, refuses an update after its event was accepted."""
    ledger = Ledger(log)
    writer = Writer(log, ID)
    writer.last = (await ledger.create(make_spec("etl"))).sequence
    unknown = await writer.write_unknown()
    with pytest.raises(JobQuarantined):
        await ledger.update(ID, make_spec(priority=1))  # the frozen job is in its cache now
    await Ledger(log).accept_unreadable(ID, unknown)
    assert (await ledger.update(ID, make_spec(priority=1))).version == 2


async def test_an_event_of_another_writer_after_the_known_one_is_not_overwritten() -> None:
    """The append expects the last event that is known, also if that is one that changed nothing."""
    log = MemoryLog()
    await Ledger(log).create(make_spec("etl"))
    await put(log, draft(JobAccepted, ID, AcceptData(1), 7))  # accepts nothing: an anomaly
    known = LaggingJobs(log, 0, stays=True)
    receipt = await Ledger(log, known=known).set_state(ID, State(StateType.RUNNING))
    assert receipt.sequence == 3
    await put(log, draft(JobStateChanged, ID, state_data(StateType.FAILED), 8))
    with pytest.raises(JobTerminal):
        await Ledger(log, known=known).set_state(ID, State(StateType.QUEUED))


async def test_an_update_of_a_job_that_vanished_in_quarantine_does_not_find_it() -> None:
    """The ledger remembers a job in quarantine, and the log was replaced by one without it."""
    log = MemoryLog()
    ledger, writer = Ledger(log), Writer(log, ID)
    writer.last = (await ledger.create(make_spec("etl"))).sequence
    await writer.write_unknown()
    with pytest.raises(JobQuarantined):
        await ledger.set_state(ID, State(StateType.RUNNING))
    empty = MemoryLog()
    log._records, log._by_subject = empty._records, empty._by_subject
    with pytest.raises(JobNotFound):
        await ledger.update(ID, make_spec("etl"))
