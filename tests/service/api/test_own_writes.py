"""What a process has acknowledged, its own reads wait for: within a bound, and for the latest of it."""

from typing import cast

import pytest

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.service import own_writes
from jobledger.service.limits import OWN_WRITE_WAIT_SECONDS
from jobledger.service.own_writes import OwnWrites


class Behind:
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
    """Acknowledgements come in any order; the view is not waited for longer."""
    behind = Behind()
    own = OwnWrites(cast("Projector", behind))
    for sequence in noted:
        own.note("job", sequence)
    await own.visible()
    assert behind.asked == [(7, OWN_WRITE_WAIT_SECONDS)]


async def test_a_read_does_not_wait_for_what_is_there() -> None:
    """Most reads come when the view has everything."""
    behind = Behind()
    own = OwnWrites(cast("Projector", behind))
    own.note("job", 2)
    await own.visible()
    assert behind.asked == []


@pytest.mark.parametrize("state", [ProjectorState.REBUILDING, ProjectorState.WAITING])
async def test_a_read_does_not_wait_for_a_view_that_is_in_trouble(state: ProjectorState) -> None:
    """It would take longer than a read may wait; the job is read from the log instead."""
    behind = Behind()
    behind.state = state
    own = OwnWrites(cast("Projector", behind))
    own.note("job", 7)
    await own.visible()
    assert behind.asked == []


def test_a_view_lacks_what_was_answered_until_it_is_there() -> None:
    """By job: another job is not read from the log because of it."""
    behind = Behind()
    own = OwnWrites(cast("Projector", behind))
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
    behind = Behind()
    own = OwnWrites(cast("Projector", behind))
    for sequence in (3, 4, 5):
        own.note(f"job-{sequence}", sequence)
    assert not own.lacks("another", 2)
    own.note("job-6", 6)
    assert (own.lacks("another", 2), own.lacks("another", 3)) == (True, False)
    assert own.lacks("job-3", 2)
    assert own.lacks("job-6", 5)


def test_what_the_view_has_is_forgotten() -> None:
    """So the memory is as large as the view's lag."""
    behind = Behind()
    own = OwnWrites(cast("Projector", behind))
    for sequence in range(3, 10):
        own.note(f"job-{sequence}", sequence)
    behind.sequence = 9
    own.note("job-10", 10)
    assert [*own._unseen] == ["job-10"]
