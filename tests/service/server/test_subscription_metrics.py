"""Metrics show the progress of each durable subscription, with bounded labels and at a bounded cost."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobledger import LogUnavailable, SubscriptionInfo, subscribe
from jobledger.projections.subscriptions.admin import Part
from jobledger.projections.subscriptions.definition import Definition
from jobledger.service.limits import METRIC_LABEL_VALUES_MAX, SUBSCRIPTIONS_POLL_SECONDS
from jobledger.service.metrics import Metrics
from tests.support.api import job_body, running_api
from tests.support.metrics import URL, figures


class Counted:
    """Subscriptions that count how often they are listed."""

    def __init__(self, found: Sequence[SubscriptionInfo] = ()) -> None:
        self.found = found
        self.asked = 0
        self.is_down = False

    async def list(self) -> Sequence[SubscriptionInfo]:
        """The subscriptions."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise LogUnavailable("as a test wants it")
        return self.found


def info(
    name: str, *, gap: int = 0, lag_seconds: float = 0.0, held: bool = True, parked: int = 0
) -> SubscriptionInfo:
    """A subscription; pass only the fields that the test is about."""
    part = Part(name=name, gap=gap, lag_seconds=lag_seconds, held=held)
    return SubscriptionInfo(definition=Definition(name=name), parts=(part,), parked=parked, retrying=2)


def samples(metrics: Metrics) -> dict[str, float]:
    """All samples of subscriptions."""
    found = figures(metrics.text().decode())
    return {
        key.removeprefix("jobledger_subscription_"): value
        for key, value in found.items()
        if "subscription" in key
    }


async def test_a_real_subscription_is_reported(tmp_path: Path) -> None:
    """Even if another process reads it."""
    async with running_api(tmp_path) as (service, client):
        async with subscribe(service.log, "billing"):
            pass
        await client.put("/jobs", json=job_body())
        found = figures((await client.get(f"{URL}/metrics")).text)
        assert found['jobledger_subscription_gap_events{subscription="billing"}'] == 1
        assert found['jobledger_subscription_lag_seconds{subscription="billing"}'] > 0
        states = [value for key, value in found.items() if "subscription_state" in key]
        assert sorted(states) == [0, 0, 0, 1]
        assert found['jobledger_subscription_parked_jobs{subscription="billing"}'] == 0


async def test_states_and_counts_are_reported() -> None:
    """Each in its own series."""
    metrics = Metrics()
    metrics.subscriptions._infos = [
        info("live"),
        info("lagging", gap=9, lag_seconds=60.0, parked=3),
        info("alone", held=False),
        info("stuck", parked=1),
    ]
    found = samples(metrics)
    states = {key: value for key, value in found.items() if key.startswith("state") and value}
    assert states == {
        'state{state="live",subscription="live"}': 1,
        'state{state="catching_up",subscription="lagging"}': 1,
        'state{state="unattended",subscription="alone"}': 1,
        'state{state="parked",subscription="stuck"}': 1,
    }
    lagging = {
        key.partition("{")[0]: value
        for key, value in found.items()
        if "lagging" in key and "state" not in key
    }
    assert lagging == {"gap_events": 9, "lag_seconds": 60, "parked_jobs": 3, "retrying_jobs": 2}


async def test_more_names_than_the_limit_are_combined() -> None:
    """With the sum of their events and jobs, and the largest of their lags."""
    metrics = Metrics()
    metrics.subscriptions._infos = [info(f"s{number}", gap=1) for number in range(METRIC_LABEL_VALUES_MAX)]
    assert not [key for key in samples(metrics) if "other" in key]
    metrics.subscriptions._infos = [
        *metrics.subscriptions._infos,
        info("x", gap=2, lag_seconds=1.0),
        info("y", gap=3, lag_seconds=7.0),
    ]
    found = samples(metrics)
    assert found['gap_events{subscription="other"}'] == 5
    assert found['lag_seconds{subscription="other"}'] == 7
    assert not [key for key in found if '"x"' in key]


async def test_many_scrapes_cause_few_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the log does not answer, the last result is reported."""
    readings, counted = Metrics().subscriptions, Counted([info("one")])
    readings.watch(counted)  # type: ignore[arg-type]
    await asyncio.gather(*(readings.refresh() for _ in range(50)))
    await readings.refresh()
    assert (counted.asked, len(readings._infos)) == (1, 1)
    counted.is_down = True
    later = asyncio.get_running_loop().time() + SUBSCRIPTIONS_POLL_SECONDS
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    await readings.refresh()
    assert (counted.asked, len(readings._infos)) == (2, 1)
    await readings.close()
