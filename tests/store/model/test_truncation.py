"""When events count as lost: what a series of answers proves."""

import pytest

from jobledger.store.model.limits import TRUNCATION_MIN_ANSWERS, TRUNCATION_PROOF_SECONDS
from jobledger.store.model.truncation import Doubts

PLACE = ("epoch", 100)
OTHER = "nats-2 since 12:00:05"
LEADER = "nats-1 since 12:00:00"
UNPROVEN = ""


def verdict(*answers: tuple[float, str | None]) -> bool:
    """Return the last verdict on a position, from answers: time and leader; None: it continued."""
    now = 0.0
    doubts = Doubts(lambda: now)
    lost = False
    for now, leader in answers:  # noqa: B007 - the clock reads it
        if leader is None:
            doubts.clear(PLACE)
        else:
            lost = doubts.judge(PLACE, leader)
    return lost


END = TRUNCATION_PROOF_SECONDS


@pytest.mark.parametrize(
    ("answers", "lost"),
    [
        pytest.param([(0, LEADER)], False, id="one answer proves nothing"),
        pytest.param([(0, LEADER), (1, LEADER), (END - 0.1, LEADER)], False, id="not before the time is up"),
        pytest.param([(0, LEADER), (1, LEADER), (END, LEADER)], True, id="one leader for the whole time"),
        pytest.param([(0, LEADER), (END, LEADER)], False, id="too few answers, a process that slept"),
        pytest.param([(0, UNPROVEN), (9, UNPROVEN), (END, UNPROVEN)], False, id="never a current leader"),
        pytest.param([(0, LEADER), (9, OTHER), (10, OTHER), (END, OTHER)], False, id="an election"),
        pytest.param([(0, LEADER), (9, OTHER), (10, OTHER), (9 + END, OTHER)], True, id="both leaders"),
        pytest.param([(0, LEADER), (9, UNPROVEN), (10, LEADER), (END, LEADER)], False, id="a doubt"),
        pytest.param([(0, LEADER), (9, None), (10, LEADER), (END, LEADER)], False, id="the event was there"),
        pytest.param([(0, LEADER), (1, LEADER), (END, LEADER), (END + 1, LEADER)], True, id="it stays so"),
        pytest.param([(0, LEADER), (1, LEADER), (END, LEADER), (END + 1, OTHER)], False, id="or is revised"),
    ],
)
def test_events_count_as_lost_only_if_one_current_leader_lacks_them_for_long(
    answers: list[tuple[float, str | None]], *, lost: bool
) -> None:
    """The same leader, in contact with a majority, for TRUNCATION_PROOF_SECONDS, in several answers."""
    assert verdict(*answers) is lost
    assert TRUNCATION_MIN_ANSWERS == 3


def test_a_log_that_lacks_an_event_lacks_all_after_it() -> None:
    """A doubt about a later position starts with that about an earlier one, and not the reverse."""
    now = 0.0
    doubts = Doubts(lambda: now)
    doubts.judge(PLACE, LEADER)
    now = END
    earlier, later = ("epoch", 99), (None, 101)
    assert not doubts.judge(later, LEADER)
    assert not doubts.judge(later, LEADER)
    assert doubts.judge(later, LEADER)
    assert not any(doubts.judge(earlier, LEADER) for _ in range(3))
    assert not any(doubts.judge(("another", 101), LEADER) for _ in range(3))


def test_doubts_are_bounded() -> None:
    """Above the limit the oldest doubt is forgotten and starts again."""
    doubts = Doubts(lambda: 0.0)
    for place in range(1_000):
        doubts.judge(("epoch", 1_000 - place), LEADER)
    assert len(doubts) == 256


def test_the_error_names_the_reason_and_the_remaining_time() -> None:
    """Who answered, for how long, and when it is proven."""
    now = 0.0
    doubts = Doubts(lambda: now)
    doubts.judge(PLACE, LEADER)
    now = 7.0
    assert str(doubts.behind(PLACE, "the stream ends at 5")) == (
        "the stream ends at 5; not counted as lost yet: the leader has lacked them for 7 s, and it is proven"
        " after 30 s"
    )
    doubts.judge(PLACE, UNPROVEN)
    assert "the answer is not from a leader in contact with a majority" in str(doubts.behind(PLACE, "x"))
