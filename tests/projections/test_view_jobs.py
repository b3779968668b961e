"""The jobs of a view for commands: only rows that the log of the ledger confirms are used."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from jobledger import JetStreamLog, Ledger, MemoryLog, Projector, State, StateType, View, ViewError, ViewJobs
from jobledger.projections import view_jobs
from jobledger.store.job_cache import JobCache
from jobledger.store.job_reader import JobReader
from jobledger.store.log import EventLog, LogInfo
from jobledger.store.model.errors import JobTerminal, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.fold import last_read
from jobledger.store.model.subjects import job_subject, named_job_id
from tests.conftest import make_spec
from tests.support.histories import append_all, random_drafts
from tests.support.oracle import project_all
from tests.support.unreadable_events import Writer

ID = named_job_id("default", "etl")
RUNNING = State(StateType.RUNNING)


class OtherLog(MemoryLog):
    """A log that counts comparisons, can be unreachable, and can take the place of another one."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(clock)
        self.compared = 0
        self.losses = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.error: Exception | None = None

    @property
    def session(self) -> int:
        """How often it was unreachable."""
        return self.losses

    def replace(self, other: MemoryLog) -> None:
        """Have the records of another log from now on, with the same epoch."""
        self._records, self._by_subject = other._records, other._by_subject
        self.losses += 1

    async def continues(
        self, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
    ) -> LogInfo:
        """Count, and compare."""
        self.compared += 1
        await self.answers.wait()
        if self.error is not None:
            raise self.error
        return await super().continues(epoch=epoch, after=after, same=same)


@asynccontextmanager
async def projected(log: EventLog, path: Path) -> AsyncIterator[View]:
    """A view with all events that are in the log now; it does not follow the log."""
    await project_all(log, path)
    async with await View.open(path, readers=1) as view:
        yield view


async def test_a_row_replaces_the_history_in_the_log(
    jetstream_log: JetStreamLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands on jobs that are not cached are decided on rows, and guarded by the log."""
    writer = Ledger(jetstream_log)
    for number in range(3):
        await writer.create(make_spec(f"job-{number}"))
    ids = [named_job_id("default", f"job-{number}") for number in range(3)]
    async with projected(jetstream_log, tmp_path / "view.db") as view:
        await writer.set_state(ids[2], State(StateType.COMPLETED))
        ledger = Ledger(jetstream_log, known=ViewJobs(view, jetstream_log))
        with monkeypatch.context() as patched:
            for name in ("read", "read_last"):
                patched.delattr(JetStreamLog, name)
            receipts = [await ledger.set_state(ids[0], RUNNING), await ledger.stop(ids[1])]
        assert [(receipt.revision, receipt.changed) for receipt in receipts] == [(2, True), (2, True)]
        with pytest.raises(JobTerminal):  # the view still shows it as Pending
            await ledger.set_state(ids[2], RUNNING)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_equals_the_job_in_the_log(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """For any history, with the last event of the subject."""

    async def run() -> None:
        log, rng = MemoryLog(), random.Random(seed)
        await append_all(log, random_drafts(rng, 6, 60))
        async with projected(log, tmp_path_factory.mktemp("view") / "view.db") as view:
            known = JobReader(log, JobCache(), ViewJobs(view, log))
            for number in range(6):
                job_id = named_job_id("default", f"job-{number}")
                found, fresh = await known.last_seen(job_id, None), await known.fresh(job_id, "default")
                if fresh.job is None:
                    assert found is None
                    continue
                assert found is not None
                assert (found.subject, found.sequence) == (job_subject("default", job_id), fresh.sequence)
                assert found.job == fresh.job

    asyncio.run(run())


async def test_a_job_in_quarantine_or_missing_is_left_to_the_log(tmp_path: Path) -> None:
    """The view does not have all of a frozen job."""
    log = MemoryLog()
    writer = Writer(log, ID)
    writer.last = (await Ledger(log).create(make_spec("etl"))).sequence
    await writer.write_unknown()
    async with projected(log, tmp_path / "view.db") as view:
        assert await ViewJobs(view, log).find(ID) is None
        assert await ViewJobs(view, log).find(named_job_id("default", "none")) is None
        assert await ViewJobs(view, log).find("\0") is None


async def test_a_row_that_changes_during_the_comparison_is_read_again(tmp_path: Path) -> None:
    """What is returned was confirmed: the view could have been rebuilt from another log."""
    log = OtherLog()
    writer = Ledger(log)
    job_id = (await writer.create(make_spec("etl"))).job_id
    async with Projector(log, tmp_path / "view.db") as projector, await View.open(projector._path) as view:
        await projector.wait_live()
        known = ViewJobs(view, log)
        log.compared = 0
        log.answers.clear()
        finding = asyncio.create_task(known.find(job_id))
        while not log.compared:  # noqa: ASYNC110 - a count
            await asyncio.sleep(0)
        changed = await writer.set_state(job_id, RUNNING)
        await projector.wait_for(changed.sequence)
        log.answers.set()
        assert await finding is None  # the row is later than what was compared
        found = await known.find(job_id)
        assert found is not None
        assert last_read(found.status) == changed.sequence


async def test_rows_are_compared_with_the_log_once(tmp_path: Path) -> None:
    """A comparison confirms all rows up to the checkpoint; a later row causes the next one."""
    log = OtherLog()
    writer = Ledger(log)
    ids = [(await writer.create(make_spec(f"job-{number}"))).job_id for number in range(5)]
    async with Projector(log, tmp_path / "view.db") as projector, await View.open(projector._path) as view:
        await projector.wait_live()
        log.compared = 0
        known = ViewJobs(view, log)
        found = await asyncio.gather(*map(known.find, ids))
        assert [job.status.id for job in found if job is not None] == ids
        assert log.compared == 1
        await projector.wait_for((await writer.set_state(ids[0], RUNNING)).sequence)
        assert await known.find(ids[1]) is not None
        assert log.compared == 1
        changed = await known.find(ids[0])
        assert changed is not None
        assert changed.status.revision == 2
        assert log.compared == 2


@pytest.mark.parametrize("grown", [3, 5])
async def test_a_view_of_a_log_that_lost_its_end_is_not_used(tmp_path: Path, grown: int) -> None:
    """Also if the log grew again to the same sequences, and before the projector knows it."""
    log, later = OtherLog(), MemoryLog()
    for each in (log, later):
        await Ledger(each).create(make_spec("etl"))
    later._records[:] = log._records[:1]
    writer = Ledger(log)
    for _ in range(4):
        await writer.set_state(ID, State(StateType.RUNNING, str(random.random())))
    for _ in range(grown - 1):
        await Ledger(later).set_state(ID, State(StateType.RUNNING, str(random.random())))
    await Ledger(later).stop(ID)
    async with projected(log, tmp_path / "view.db") as view:
        known = ViewJobs(view, log)
        assert await known.find(ID) is not None
        log.replace(later)
        assert await known.find(ID) is None
        with pytest.raises(JobTerminal):
            await Ledger(log, known=known).set_state(ID, RUNNING)


async def test_a_view_of_another_log_is_not_used(tmp_path: Path) -> None:
    """The epoch decides, also if a ledger is given the wrong view."""
    log, other = MemoryLog(), MemoryLog()
    for each in (log, other):
        await Ledger(each).create(make_spec("etl"))
    async with projected(other, tmp_path / "view.db") as view:
        assert await ViewJobs(view, log).find(ID) is None
        assert await ViewJobs(view, other).find(ID) is not None


async def test_after_a_failed_comparison_the_log_is_read_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that does not answer delays one command, and the next comparison is later."""
    monkeypatch.setattr(view_jobs, "KNOWN_CONFIRM_SECONDS", 0.05)
    log = OtherLog()
    await Ledger(log).create(make_spec("etl"))
    async with projected(log, tmp_path / "view.db") as view:
        known, log.compared = ViewJobs(view, log), 0
        log.answers.clear()
        assert await asyncio.gather(*(known.find(ID) for _ in range(20))) == [None] * 20
        assert log.compared == 1
        log.answers.set()
        log.error = LogUnavailable("no leader")
        monkeypatch.setattr(known, "_retry_at", 0.0)
        assert await known.find(ID) is None
        log.error = None
        assert await known.find(ID) is None
        assert log.compared == 2
        monkeypatch.setattr(known, "_retry_at", 0.0)
        assert await known.find(ID) is not None


async def test_a_cancelled_command_does_not_delay_others(tmp_path: Path) -> None:
    """The comparison that it awaits is repeated by the next one."""
    log = OtherLog()
    await Ledger(log).create(make_spec("etl"))
    async with projected(log, tmp_path / "view.db") as view:
        known = ViewJobs(view, log)
        log.answers.clear()
        first, second = (asyncio.create_task(known.find(ID)) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        log.answers.set()
        assert await second is not None
        assert first.cancelled()


async def test_a_log_that_was_unreachable_is_compared_again(tmp_path: Path) -> None:
    """After each loss of the connection it may be another one."""
    log = OtherLog()
    await Ledger(log).create(make_spec("etl"))
    async with projected(log, tmp_path / "view.db") as view:
        known, log.compared = ViewJobs(view, log), 0
        for losses in range(3):
            log.losses = losses
            assert await known.find(ID) is not None
            assert await known.find(ID) is not None
            assert log.compared == losses + 1


async def test_a_view_that_cannot_be_read_is_not_used(tmp_path: Path) -> None:
    """During a rebuild, after it was closed, and with a row that no fold has written."""
    log = MemoryLog()
    await Ledger(log).create(make_spec("etl"))
    async with projected(log, tmp_path / "view.db") as view:
        known = ViewJobs(view, log)
        await view.pool.suspend(ViewError("rebuilding"))
        assert await known.find(ID) is None
        await view.pool.resume()
        assert await known.find(ID) is not None
        await view.close()
        assert await known.find(ID) is None
        receipt = await Ledger(log, known=known).set_state(ID, RUNNING)
        assert receipt.revision == 2
