"""What a process has acknowledged, its own reads wait for: within a bound, and for the latest of it."""

from typing import cast

import pytest

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.service.limits import OWN_WRITE_WAIT_SECONDS
from jobledger.service.wiring import OwnWrites


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
    """Acknowledgements come in any order; a view that does not come in time is read as it is."""
    behind = Behind()
    own = OwnWrites(cast("Projector", behind))
    for sequence in noted:
        own.note(sequence)
    await own.visible()
    assert behind.asked == [(7, OWN_WRITE_WAIT_SECONDS)]


async def test_a_read_does_not_wait_for_what_is_there() -> None:
    """Most reads come when the view has everything."""
    behind = Behind()
    own = OwnWrites(cast("Projector", behind))
    own.note(2)
    await own.visible()
    assert behind.asked == []


@pytest.mark.parametrize("state", [ProjectorState.REBUILDING, ProjectorState.WAITING])
async def test_a_read_does_not_wait_for_a_view_that_is_in_trouble(state: ProjectorState) -> None:
    """It would take longer than a read may wait; the job is read from the log instead."""
    behind = Behind()
    behind.state = state
    own = OwnWrites(cast("Projector", behind))
    own.note(7)
    await own.visible()
    assert behind.asked == []
