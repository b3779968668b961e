"""A server clock that is set back is logged and counted once, and no ModifyTime decreases."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from jobledger import JobledgerError, MemoryLog, Projector, StateType, View
from jobledger.projections import projector
from jobledger.projections.batch import Folded, find_clock_steps
from jobledger.projections.database import remove_view
from jobledger.store.model.events import JobCreated, JobStateChanged, Record
from jobledger.store.model.subjects import named_job_id
from tests.support.api import running_api
from tests.support.histories import append_all, draft, spec_data, state_data
from tests.support.logs import eventually

ID = named_job_id("default", "etl")
SECONDS = (1, 5, 2, 3, 4, 3.5, 6)  # goes back at events 3 and 6
LARGEST = (1, 5, 5, 5, 5, 5, 6)
SECOND = 1_000_000_000


class Heard:
    """The events that a live feed gets."""

    def __init__(self) -> None:
        self.modified: list[int] = []

    def on_start(self, sequence: int) -> None:
        pass

    def on_advance(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        assert after < up_to
        self.modified += [each.status.modify_time for each in folded or ()]

    def on_stop(self, error: JobledgerError | None) -> None:
        pass


async def append(log: MemoryLog, numbers: Iterable[int]) -> None:
    for number in numbers:
        if number == 1:
            await append_all(log, [draft(JobCreated, ID, spec_data("etl"), 1)])
        else:
            change = state_data((StateType.QUEUED, StateType.RUNNING)[number % 2], f"change {number}")
            await append_all(log, [draft(JobStateChanged, ID, change, number)])


def stepping_log() -> MemoryLog:
    times = iter(SECONDS)
    return MemoryLog(clock=lambda: round(next(times) * SECOND))


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.message for each in caplog.records if "time goes back" in each.message]


async def test_a_step_back_is_logged_and_counted_and_modify_time_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One line and one count per step, not per event after it; the largest time is shown."""
    log, heard = stepping_log(), Heard()
    async with Projector(log, tmp_path / "view.db") as running, await View.open(tmp_path / "view.db") as view:
        running.attach(heard)
        for number, largest in enumerate(LARGEST, 1):
            await append(log, [number])
            await running.wait_for(number)
            assert (await view.get(ID)).status.modify_time == largest * SECOND
        assert running.clock_steps == 2
    assert heard.modified == [largest * SECOND for largest in LARGEST]
    first, second = lines(caplog)
    assert "back by 3.000 s at event 3:" in first
    assert "back by 0.500 s at event 6:" in second


async def test_a_step_back_while_no_projector_ran_is_noticed(tmp_path: Path) -> None:
    """The checkpoint has the last time; a step from before the restart is not counted again."""
    log, path = stepping_log(), tmp_path / "view.db"
    await append(log, [1, 2])
    for upto, steps in ((2, 0), (3, 1), (7, 1), (7, 0)):
        await append(log, range((await log.info()).last_sequence + 1, upto + 1))
        async with Projector(log, path) as running:
            await running.wait_for(upto)
            assert running.clock_steps == steps


async def test_a_rebuild_counts_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Although the events are folded again."""
    monkeypatch.setattr(projector, "VIEW_POLL_SECONDS", 0.01)
    log, path = stepping_log(), tmp_path / "view.db"
    await append(log, range(1, 8))
    async with Projector(log, path) as running:
        await running.wait_for(7)
        remove_view(path)
        await eventually(lambda: running.rebuilds == 1)
        await running.wait_live()
        await running.wait_for(7)
        assert running.clock_steps == 2


async def test_lines_are_bounded_and_steps_are_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two clocks in turn would fill the disk with lines."""
    monkeypatch.setattr(projector, "CLOCK_LOG_LINES", 1)
    log = stepping_log()
    await append(log, range(1, 8))
    with caplog.at_level(logging.WARNING):
        async with Projector(log, tmp_path / "view.db") as running:
            await running.wait_for(7)
            assert running.clock_steps == 2
    assert len(lines(caplog)) == 1


def test_equal_times_and_an_unknown_time_before_are_no_step() -> None:
    """The events of a batch have the same time."""
    records = [Record(number, 5, "jobs.default.00.a", b"{}") for number in (1, 2)]
    assert find_clock_steps(records, 0) == find_clock_steps(records, 5) == []
    assert find_clock_steps(records, 6) == [(1, 1)]


async def test_steps_back_are_a_metric(tmp_path: Path) -> None:
    """With the other metrics of the log."""
    async with running_api(tmp_path) as (service, client):
        service.projector.clock_steps = 3
        text = (await client.get("http://127.0.0.1/metrics")).text
    assert "jobledger_log_clock_steps_total 3.0" in text
