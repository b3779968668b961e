"""Reads wait for the writes that this process has acknowledged, for a limited time."""

from typing import cast

import pytest

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.service import own_writes
from jobledger.service.limits import OWN_WRITE_WAIT_SECONDS
from jobledger.service.own_writes import OwnWrites


class LaggingView:
    """A view that is at 2 and does not get on."""

    sequence = 2
    state = ProjectorState.LIVE

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    async def wait_for(self, sequence: int, timeout_seconds: float) -> None:
        self.asked.append((sequence, timeout_seconds))
        raise WaitTimeout("still at 2")


@pytest.mark.parametrize("noted", [(3, 7), (7, 3)])
async def test_a_read_waits_for_the_latest_write_and_not_for_ever(noted: tuple[int, ...]) -> None:
    """Acknowledgements arrive in any order; the wait is limited."""
    view = LaggingView()
    own = OwnWrites(cast("Projector", view))
    for sequence in noted:
        own.note("job", sequence)
    await own.visible()
    assert view.asked == [(7, OWN_WRITE_WAIT_SECONDS)]


async def test_a_read_does_not_wait_if_the_view_is_current() -> None:
    """The usual case."""
    view = LaggingView()
    own = OwnWrites(cast("Projector", view))
    own.note("job", 2)
    await own.visible()
    assert view.asked == []


@pytest.mark.parametrize("state", [ProjectorState.REBUILDING, ProjectorState.WAITING])
async def test_a_read_does_not_wait_for_a_view_that_is_in_trouble(state: ProjectorState) -> None:
    """It would take longer than a read may wait; the job is read from the log instead."""
    view = LaggingView()
    view.state = state
    own = OwnWrites(cast("Projector", view))
    own.note("job", 7)
    await own.visible()
    assert view.asked == []


def test_a_view_lacks_acknowledged_events_until_it_applies_them() -> None:
    """By job: another job is not read from the log because of it."""
    view = LaggingView()
    own = OwnWrites(cast("Projector", view))
    own.note("a", 3)
    own.note("b", 5)
    own.note("a", 4)
    assert (own.lacks("a", 3), own.lacks("a", 4), own.lacks("b", 4), own.lacks("c", 2)) == (
        True,
        False,
        True,
        False,
    )
    assert (own.lacks_any(4), own.lacks_any(5)) == (True, False)


def test_jobs_beyond_the_limit_are_remembered_by_one_position(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the limit: until the view has the oldest's event, every job is read from the log."""
    monkeypatch.setattr(own_writes, "OWN_WRITES_MAX_JOBS", 3)
    view = LaggingView()
    own = OwnWrites(cast("Projector", view))
    for sequence in (3, 4, 5):
        own.note(f"job-{sequence}", sequence)
    assert not own.lacks("another", 2)
    own.note("job-6", 6)
    assert (own.lacks("another", 2), own.lacks("another", 3)) == (True, False)
    assert own.lacks("job-3", 2)
    assert own.lacks("job-6", 5)


def test_applied_writes_are_forgotten() -> None:
    """So memory use is bounded by the lag of the view."""
    view = LaggingView()
    own = OwnWrites(cast("Projector", view))
    for sequence in range(3, 10):
        own.note(f"job-{sequence}", sequence)
    view.sequence = 9
    own.note("job-10", 10)
    assert [*own._unseen] == ["job-10"]
