"""Metrics tell how far each durable subscription is, with bounded labels, and at a bounded cost."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from jobledger import LogUnavailable, SubscriptionInfo, subscribe
from jobledger.projections.subscriptions.admin import Part
from jobledger.projections.subscriptions.definition import Definition
from jobledger.service.limits import METRIC_LABEL_VALUES_MAX, SUBSCRIPTIONS_LOOK_SECONDS
from jobledger.service.metrics import Metrics
from tests.service.server.test_metrics import URL, figures
from tests.support.api import job_body, running_api


class Counted:
    """Subscriptions that count how often they are listed."""

    def __init__(self, found: Sequence[SubscriptionInfo] = ()) -> None:
        self.found = found
        self.asked = 0
        self.is_down = False

    async def list(self) -> Sequence[SubscriptionInfo]:
        """What there is."""
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise LogUnavailable("as a test wants it")
        return self.found


def info(
    name: str, *, gap: int = 0, lag_seconds: float = 0.0, held: bool = True, parked: int = 0
) -> SubscriptionInfo:
    """A subscription; say only what the test is about."""
    part = Part(name=name, gap=gap, lag_seconds=lag_seconds, held=held)
    return SubscriptionInfo(definition=Definition(name=name), parts=(part,), parked=parked, retrying=2)


def told(metrics: Metrics) -> dict[str, float]:
    """Every figure of subscriptions."""
    found = figures(metrics.text().decode())
    return {
        key.removeprefix("jobledger_subscription_"): value
        for key, value in found.items()
        if "subscription" in key
    }


async def test_a_real_subscription_is_told(tmp_path: Path) -> None:
    """Also one that is read elsewhere."""
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


async def test_states_and_counts_are_told() -> None:
    """Each in its own series."""
    metrics = Metrics()
    metrics.subscriptions._infos = [
        info("live"),
        info("behind", gap=9, lag_seconds=60.0, parked=3),
        info("alone", held=False),
        info("stuck", parked=1),
    ]
    found = told(metrics)
    states = {key: value for key, value in found.items() if key.startswith("state") and value}
    assert states == {
        'state{state="live",subscription="live"}': 1,
        'state{state="catching_up",subscription="behind"}': 1,
        'state{state="unattended",subscription="alone"}': 1,
        'state{state="parked",subscription="stuck"}': 1,
    }
    behind = {
        key.partition("{")[0]: value for key, value in found.items() if "behind" in key and "state" not in key
    }
    assert behind == {"gap_events": 9, "lag_seconds": 60, "parked_jobs": 3, "retrying_jobs": 2}


async def test_more_names_than_the_limit_are_told_as_one() -> None:
    """With the sum of their events and jobs, and the worst of their lags."""
    metrics = Metrics()
    metrics.subscriptions._infos = [info(f"s{number}", gap=1) for number in range(METRIC_LABEL_VALUES_MAX)]
    assert not [key for key in told(metrics) if "other" in key]
    metrics.subscriptions._infos = [
        *metrics.subscriptions._infos,
        info("x", gap=2, lag_seconds=1.0),
        info("y", gap=3, lag_seconds=7.0),
    ]
    found = told(metrics)
    assert found['gap_events{subscription="other"}'] == 5
    assert found['lag_seconds{subscription="other"}'] == 7
    assert not [key for key in found if '"x"' in key]


async def test_however_many_ask_the_log_is_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """And when it does not answer, what was seen last is told on."""
    readings, counted = Metrics().subscriptions, Counted([info("one")])
    readings.watch(counted)  # type: ignore[arg-type]
    await asyncio.gather(*(readings.look() for _ in range(50)))
    await readings.look()
    assert (counted.asked, len(readings._infos)) == (1, 1)
    counted.is_down = True
    later = asyncio.get_running_loop().time() + SUBSCRIPTIONS_LOOK_SECONDS
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    await readings.look()
    assert (counted.asked, len(readings._infos)) == (2, 1)
    await readings.close()
