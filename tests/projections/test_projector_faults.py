"""A projector after bugs, errors of the log, and wrong use."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobledger import MemoryLog, Projector, ProjectorState, StateType
from jobledger.projections import limits, projector
from jobledger.projections.errors import ViewError
from jobledger.store.model.errors import JobledgerError, LogTruncated, LogUnavailable
from jobledger.store.model.events import JobCreated, JobStateChanged, Record
from jobledger.store.model.subjects import named_job_id
from tests.support.histories import append_all, draft, random_drafts, records_of, spec_data, state_data
from tests.support.oracle import fold_of, project_all, rows_of


async def test_a_bug_stops_the_projector_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is raised while folding, callers that wait get it at once."""

    def broken(*_: object) -> None:
        raise ValueError("no such number")

    monkeypatch.setattr(projector, "fold_batch", broken)
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(1), 2, 3))
    async with Projector(log, tmp_path / "view.db") as running:
        with pytest.raises(JobledgerError, match=r"failed at event 0: .*no such number"):
            await running.wait_for(3)
        assert running.state is ProjectorState.STOPPED


async def test_each_outage_is_retried_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The wait before a retry grows within an outage, not from one to the next."""
    monkeypatch.setattr(projector, "RECONNECT_WAIT_SECONDS", 0.001)
    log = MemoryLog()
    async with Projector(log, tmp_path / "view.db") as running:
        feed = running._reader
        assert feed is not None
        take = feed.take
        outages = iter([True, True, True, False] * 3)

        async def failing(max_records: int) -> Sequence[Record]:
            if next(outages, False):
                raise LogUnavailable("away")
            return await take(max_records)

        monkeypatch.setattr(feed, "take", failing)
        for number in range(4):
            await append_all(
                log, [draft(JobCreated, named_job_id("default", f"{number}"), spec_data(f"{number}"), number)]
            )
            await running.wait_for(number + 1)
            assert running._backoff.attempts <= 3


async def test_a_log_that_lost_its_end_and_grew_again_is_refused(tmp_path: Path) -> None:
    """The same sequence has another record now: the checkpoint has the time of the one it folded."""
    ticks = iter(range(1, 1_000))
    log = MemoryLog(clock=lambda: next(ticks))
    await append_all(log, random_drafts(random.Random(1), 5, 10))
    path = tmp_path / "view.db"
    await project_all(log, path)
    del log._records[8:]
    log._by_subject.clear()
    for record in log._records:
        log._by_subject[record.subject].append(record)
    await append_all(log, random_drafts(random.Random(2), 5, 30)[10:])
    with pytest.raises(LogTruncated, match=r"the record at 10 is not the one .* delete the view's file"):
        await Projector(log, path).start()


async def test_a_projector_can_be_restarted_but_not_started_twice(tmp_path: Path) -> None:
    """After a stop it becomes live again; while it runs, a second start is refused."""
    log = MemoryLog()
    running = Projector(log, tmp_path / "view.db")
    for number in range(2):
        await append_all(
            log, [draft(JobCreated, named_job_id("default", str(number)), spec_data(str(number)), number)]
        )
        await running.start()
        await running.wait_for(number + 1)
        await running.wait_live()
        with pytest.raises(ViewError, match="is already running"):
            await running.start()
        await running.stop()


async def test_a_status_with_a_long_message_is_not_cached(tmp_path: Path) -> None:
    """The cache is bounded in bytes: large statuses are read from the view, and the rows are the same."""
    log = MemoryLog()
    job_id = named_job_id("default", "a")
    path = tmp_path / "view.db"
    limit = limits.FOLD_CACHE_MESSAGE_CHARACTERS
    async with Projector(log, path) as running:
        await append_all(log, [draft(JobCreated, job_id, spec_data("a"), 0)])
        for number, size in enumerate((limit, limit + 1, 1), 1):
            await append_all(
                log, [draft(JobStateChanged, job_id, state_data(StateType.RUNNING, "x" * size), number)]
            )
            await running.wait_for(number + 1)
            assert (job_id in running._writer._statuses) == (size <= limit)
    assert rows_of(path) == fold_of(await records_of(log))
