"""The positions that all processes of a service share, and reads that depend on them."""

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.projector import ProjectorState
from jobledger.service import own_writes as module
from jobledger.service.own_writes import SharedOwnWrites
from jobledger.service.workers.link import AtOwner, OwnersPart
from jobledger.service.workers.positions import OWNER, SharedPositions


@pytest.fixture
def positions() -> Iterator[SharedPositions]:
    """Those of a service with two workers."""
    made = SharedPositions.create(2)
    yield made
    made.close()


class Projector:
    """A projector whose view reaches a sequence when it is set."""

    state = ProjectorState.LIVE

    def __init__(self) -> None:
        self.sequence = 0
        self._moved = asyncio.Event()

    async def wait_for(self, sequence: int, timeout_seconds: float) -> None:
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.sequence < sequence:
                    await self._moved.wait()
        except TimeoutError:
            raise WaitTimeout("late") from None

    def move(self, sequence: int) -> None:
        self.sequence = sequence
        self._moved.set()


def test_another_process_sees_each_position(positions: SharedPositions) -> None:
    """Through the inherited file; the largest 64-bit sequence fits."""
    other = SharedPositions(os.dup(positions.fd), 2)
    positions.set_visible(2**63)
    other.set_acknowledged(1, 5)
    positions.set_acknowledged(2, 9)
    assert (other.visible, other.acknowledged, positions.acknowledged) == (2**63, 9, 9)
    other.set_has_feeds(2, has=True)
    assert [positions.has_feeds(number) for number in (1, 2)] == [False, True]
    positions.set_acknowledged(OWNER, 11)  # by a write that a worker passed on
    assert (other.visible, other.acknowledged) == (2**63, 11)
    assert [other.has_feeds(number) for number in (1, 2)] == [False, True]
    other.close()


def test_positions_only_grow(positions: SharedPositions) -> None:
    """A late writer does not take one back."""
    positions.set_visible(7)
    positions.set_visible(6)
    positions.set_acknowledged(1, 4)
    positions.set_acknowledged(1, 3)
    assert (positions.visible, positions.acknowledged) == (7, 4)


async def test_a_read_waits_for_what_another_worker_acknowledged(positions: SharedPositions) -> None:
    """And then needs nothing from the log."""
    projector: Any = Projector()
    one, two = (SharedOwnWrites(projector, positions, number) for number in (1, 2))
    one.note("j-1", 3)
    assert two.lacks_any(2)
    waiting = asyncio.create_task(two.visible())
    await asyncio.sleep(0)
    assert not waiting.done()
    projector.move(3)
    await waiting
    assert not two.lacks_any(3)
    assert not two.lacks("j-1", 3)


async def test_a_view_that_is_late_makes_reads_use_the_log(
    positions: SharedPositions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For any job: which one another worker changed is not known here."""
    monkeypatch.setattr(module, "OWN_WRITE_WAIT_SECONDS", 0.01)
    projector: Any = Projector()
    one, two = (SharedOwnWrites(projector, positions, number) for number in (1, 2))
    one.note("j-1", 3)
    await two.visible()
    assert two.lacks("j-1", 2)
    assert two.lacks("j-2", 2)
    assert not two.lacks("j-2", 3)
    projector.state = ProjectorState.REBUILDING
    one.note("j-1", 5)
    await two.visible()  # without waiting
    assert two.lacks("j-2", 4)


def test_a_part_of_the_owner_passes_the_request_on() -> None:
    """Whatever is used of it."""
    part: Any = OwnersPart()
    with pytest.raises(AtOwner):
        part.seal()
