"""The choice between single publishes and batches follows their measured costs."""

import pytest

from jobledger.store.jetstream.batching import (
    BATCH_EACH_SECONDS,
    BATCH_FIXED_SECONDS,
    BATCH_MUST_WIN_BY,
    PROBE_EVERY_BATCHES,
    SATURATED,
    SPLIT_MIN_SECONDS,
    WHOLE_EVERY_BATCHES,
    BatchingPolicy,
)


def busy(pace: BatchingPolicy, events: int, seconds_each: float, start: float = 0.0) -> float:
    """Sends single publishes at once, answers them one by one; returns the time of the last answer."""
    for number in range(events):
        pace.single_sent(start, number + 1)
    for number in range(events):
        pace.single_acknowledged(start + (number + 1) * seconds_each, events - number - 1)
    return start + events * seconds_each


def break_even(single_seconds: float) -> float:
    """The number of events from which a batch is cheaper, by the cost model."""
    return BATCH_MUST_WIN_BY * BATCH_FIXED_SECONDS / (single_seconds - BATCH_MUST_WIN_BY * BATCH_EACH_SECONDS)


def test_nothing_is_batched_before_a_measurement() -> None:
    """Until the cost of single publishes is known, events are sent one by one."""
    assert not BatchingPolicy().prefers_batch(1_000)


def test_one_event_is_never_a_batch() -> None:
    """A batch does not help a single event, even on a slow server."""
    pace = BatchingPolicy()
    busy(pace, 100, 1.0)
    assert not pace.prefers_batch(1)
    assert pace.prefers_batch(2)


@pytest.mark.parametrize("single_seconds", [0.3e-3, 1e-3, 5e-3])
def test_server_that_syncs_each_message_gets_batches_from_the_break_even_on(single_seconds: float) -> None:
    """With slow single publishes a batch is chosen from the number of events where it clearly wins."""
    pace = BatchingPolicy()
    busy(pace, 256, single_seconds)
    assert pace.single_seconds == pytest.approx(single_seconds)
    edge = break_even(single_seconds)
    assert not pace.prefers_batch(int(edge))
    assert pace.prefers_batch(int(edge) + 2)


def test_server_that_syncs_rarely_gets_single_publishes() -> None:
    """If a publish costs about its share of a batch, nothing is batched, for any number of events."""
    pace = BatchingPolicy()
    busy(pace, 256, BATCH_EACH_SECONDS)
    assert not any(pace.prefers_batch(events) for events in (2, 100, 1_000))


def test_few_publishes_in_flight_are_not_measured() -> None:
    """A single publish would measure the round trip instead of the cost of one of many."""
    pace = BatchingPolicy()
    now = 0.0
    for _ in range(50):
        now = busy(pace, SATURATED - 1, 0.1, now)
    assert pace.single_seconds is None
    busy(pace, SATURATED, 0.1, now)
    assert pace.single_seconds == pytest.approx(0.1)


def test_long_busy_period_is_measured_in_parts() -> None:
    """A load without a pause is measured while it continues."""
    pace = BatchingPolicy()
    for number in range(10):
        pace.single_sent(0.0, number + 1)
    for number in range(2_000):  # one is answered, another one is sent
        pace.single_acknowledged(number * 0.002, 9)
        pace.single_sent(number * 0.002, 10)
    assert pace.single_seconds == pytest.approx(0.002, rel=0.05)


def test_estimates_follow_a_server_that_changes() -> None:
    """A disk that becomes fast or slow changes the choice after a few measurements, not after the first."""
    pace = BatchingPolicy()
    now = busy(pace, 256, 1e-3)
    assert pace.prefers_batch(100)
    now = busy(pace, 16, 1e-5, now)
    assert pace.prefers_batch(100)
    for _ in range(20):
        now = busy(pace, 16, 1e-5, now)
    assert not pace.prefers_batch(100)


def test_slow_batches_are_abandoned() -> None:
    """Batches that cost more than estimated are chosen for more events only."""
    pace = BatchingPolicy()
    busy(pace, 256, 1e-3)
    assert pace.prefers_batch(100)
    for _ in range(30):
        pace.batch_acknowledged(0.5, 100)
    assert not pace.prefers_batch(100)
    for _ in range(30):
        pace.batch_acknowledged(0.004, 100)
    assert pace.prefers_batch(100)


def test_fixed_cost_is_never_negative() -> None:
    """A batch that is answered faster than the model allows has a fixed cost of zero."""
    pace = BatchingPolicy()
    for _ in range(50):
        pace.batch_acknowledged(0.0, 1_000)
    assert 0 <= pace.batch_fixed_seconds < 1e-4


def test_single_publishes_are_measured_again_regularly() -> None:
    """After PROBE_EVERY_BATCHES consecutive batches some events are sent singly, once."""
    pace = BatchingPolicy()
    for _ in range(PROBE_EVERY_BATCHES):
        assert not pace.probe_due()
        pace.batch_acknowledged(0.004, 100)
    assert pace.probe_due()
    assert not pace.probe_due()


def test_one_slow_batch_does_not_end_batching_for_good() -> None:
    """A batch that was slow by chance changes the choice to singles; their measurements change it back."""
    pace = BatchingPolicy()
    now = 0.0

    def busy_time() -> None:
        nonlocal now
        for in_flight in range(1, 65):
            pace.single_sent(now, in_flight)
        for in_flight in range(63, -1, -1):
            now += 0.0002
            pace.single_acknowledged(now, in_flight)

    busy_time()
    assert pace.prefers_batch(256)
    pace.batch_acknowledged(1.0, 256)  # the machine paused for a second
    assert not pace.prefers_batch(256)
    for _ in range(20):
        busy_time()
    assert pace.prefers_batch(256)


def after_one_batch() -> BatchingPolicy:
    """A policy whose next batch is not a measurement of a whole commit."""
    pace = BatchingPolicy()
    pace.batch_acknowledged(BATCH_FIXED_SECONDS, 1)
    return pace


def test_callers_that_append_at_once_get_whole_batches() -> None:
    """Two halves would cost one more commit and gain nothing."""
    pace = after_one_batch()
    for _ in range(20):
        pace.callers_ran(32 * 1e-6, 32)
    assert pace.commit_at(256) == 256


def test_batch_is_halved_from_the_least_gain_on() -> None:
    """The time of half of the callers must exceed that of one more commit."""
    pace = after_one_batch()
    pace.commit_fixed_seconds = 2e-3
    pace.caller_seconds = 50e-6
    edge = 2 * int((2e-3 + SPLIT_MIN_SECONDS) / 50e-6)
    assert pace.commit_at(edge - 2) == edge - 2
    assert pace.commit_at(edge + 2) == edge // 2 + 1


def test_slow_commits_end_the_halves() -> None:
    """A server whose commits take longer than the callers gets whole batches again."""
    pace = after_one_batch()
    for _ in range(30):
        pace.callers_ran(32 * 50e-6, 32)
    assert pace.commit_at(256) == 128
    for _ in range(30):
        pace.commit_acknowledged(20e-3, 256)
    assert pace.commit_at(256) == 256


def test_whole_commits_are_measured_again_regularly() -> None:
    """One of WHOLE_EVERY_BATCHES batches is not halved."""
    pace = after_one_batch()
    pace.caller_seconds = 1e-3
    sizes = []
    for _ in range(WHOLE_EVERY_BATCHES):
        sizes.append(pace.commit_at(256))
        pace.batch_acknowledged(5e-3, 128)
    assert sizes.count(256) == 1


def test_half_of_a_batch_is_a_batch() -> None:
    """No half has one event."""
    pace = after_one_batch()
    pace.caller_seconds = 1.0
    assert [pace.commit_at(events) for events in (2, 3, 4, 6)] == [2, 2, 2, 3]
