"""Metrics: correct, bounded, separate per service, and documented."""

import re
from pathlib import Path

from docs.operations import metric_families, operations_page
from jobledger.service.limits import METRIC_LABEL_VALUES_MAX
from jobledger.service.metrics import Metrics
from tests.support.api import client_of, job_body, running_api
from tests.support.metrics import URL, figures

ROOT = Path(__file__).parents[3]


async def test_requests_and_writes_are_counted(tmp_path: Path) -> None:
    """By route, never by path; commands by their outcome."""
    async with running_api(tmp_path) as (_, client):
        for name in ("one", "other"):
            receipt = (await client.put("/jobs", json=job_body(name))).json()
            await client.get(f"/jobs/{receipt['JobID']}")
        await client.get("/jobs/absent")
        await client.put("/jobs", json=job_body("one"))
        await client.put("/jobs/absent/state", json={"StateType": "Running"})
        await client.get(f"{URL}/wp-login.php")
        found = figures((await client.get(f"{URL}/metrics")).text)
        assert not any(text in key for key in found for text in ("absent", "wp-login", "j-"))
        jobs = 'route="/api/v1/orchestrator/jobs"'
        one = next(key.partition('route="')[2].partition('"')[0] for key in found if "/jobs/{" in key)
        assert found[f'jobledger_http_requests_total{{method="PUT",{jobs},status="200"}}'] == 3
        assert found[f'jobledger_http_requests_total{{method="GET",route="{one}",status="200"}}'] == 2
        assert found[f'jobledger_http_requests_total{{method="GET",route="{one}",status="404"}}'] == 1
        assert found['jobledger_http_requests_total{method="GET",route="other",status="404"}'] == 1
        assert found[f'jobledger_http_request_seconds_count{{method="PUT",{jobs}}}'] == 3
        written = {key: value for key, value in found.items() if key.startswith("jobledger_writes_total")}
        assert sorted(written.values()) in ([1, 2], [1, 1, 2])
        assert sum(value for key, value in written.items() if 'outcome="written"' in key) == 2
        assert sum(value for key, value in written.items() if 'outcome="unchanged"' in key) == 1


async def test_log_and_view_have_metrics(tmp_path: Path) -> None:
    """Their positions, the gap, and whether the service is ready."""
    async with running_api(tmp_path) as (service, client):
        receipt = (await client.put("/jobs", json=job_body())).json()
        await service.projector.wait_for(receipt["Sequence"])
        await service.projector.wait_live()
        found = figures((await client.get(f"{URL}/metrics")).text)
        assert found["jobledger_log_sequence"] == found["jobledger_view_sequence"] == receipt["Sequence"]
        assert found["jobledger_view_gap_events"] == found["jobledger_view_lag_seconds"] == 0
        assert found["jobledger_ready"] == found["jobledger_log_connected"] == 1
        assert found['jobledger_projector_state{state="live"}'] == 1
        assert found['jobledger_projector_state{state="stopped"}'] == 0
        assert found["jobledger_view_size_bytes"] > 4096
        assert found["process_resident_memory_bytes"] > 0


async def test_services_in_one_process_have_separate_metrics(tmp_path: Path) -> None:
    """There is no process-wide state."""
    async with running_api(tmp_path / "one") as (_, one), running_api(tmp_path / "other") as (service, other):
        await one.put("/jobs", json=job_body())
        async with client_of(service) as client:
            text = (await client.get(f"{URL}/metrics")).text
        assert "jobledger_writes_total" not in figures(text)
        assert (await other.get(f"{URL}/livez")).status_code == 200


def test_feeds_are_counted() -> None:
    """Open ones, why they closed, and the events sent."""
    metrics = Metrics()
    for _ in range(3):
        metrics.feed_opened()
    metrics.feed_closed("slow")
    metrics.feed_sent(7)
    found = figures(metrics.text().decode())
    assert found["jobledger_feeds_open"] == 2
    assert found['jobledger_feeds_closed_total{reason="slow"}'] == 1
    assert found["jobledger_feed_events_sent_total"] == 7


def test_labels_do_not_grow_without_bound() -> None:
    """Values from a client, or from a bug, are counted as `other`."""
    metrics = Metrics()
    for number in range(10 * METRIC_LABEL_VALUES_MAX):
        metrics.request(f"M{number}", f"/{number}", 200, 0.1)
        metrics.write(f"c{number}", f"o{number}")
        metrics.feed_opened()
        metrics.feed_closed(f"r{number}")
    found = figures(metrics.text().decode())
    for name in ("http_requests_total", "writes_total", "feeds_closed_total"):
        assert sum(key.startswith(f"jobledger_{name}") for key in found) <= METRIC_LABEL_VALUES_MAX + 1
    assert 'jobledger_feeds_closed_total{reason="other"}' in found
    assert {key.partition('method="')[2].partition('"')[0] for key in found if "method=" in key} == {"other"}


def test_every_metric_and_setting_is_documented() -> None:
    """The tables of OPERATIONS.md match the code (`make docs` updates them)."""
    page = (ROOT / "docs" / "OPERATIONS.md").read_text()
    assert page == operations_page()
    for family in metric_families():
        assert f"`{family.name}" in page
        assert re.fullmatch(r"(jobledger|process)_[a-z0-9_]+", family.name)
        assert family.documentation
