"""The service while its view is damaged, lost or rebuilt: single jobs come from the log, else a reason."""

import asyncio
import os
import re
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger import ProjectorState
from jobledger.projections import projector
from jobledger.service import wiring
from jobledger.service.feed.hub import FeedHub
from jobledger.service.wiring import Service
from jobledger.store.log import LogReader
from tests.support.api import PREFIX, job_body, running_api
from tests.support.disks import fill, small_disk
from tests.support.logs import eventually
from tests.support.service_process import RunningService, running_service

ROOT = "http://127.0.0.1"
READY_SECONDS = 10.0  # within which a problem shows


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(projector, "VIEW_POLL_SECONDS", 0.02)


@asynccontextmanager
async def rebuilding(service: Service) -> AsyncIterator[None]:
    """Lose the view's file, and hold the rebuild until the block ends."""
    go_on = asyncio.Event()
    follow = service.log.follow

    async def held(*, after: int, epoch: str | None = None) -> LogReader:
        await go_on.wait()
        return await follow(after=after, epoch=epoch)

    service.log.follow = held  # type: ignore[method-assign]
    service.view.path.unlink()
    await eventually(lambda: service.projector.state is ProjectorState.REBUILDING)
    try:
        yield
    finally:
        service.log.follow = follow  # type: ignore[method-assign]
        go_on.set()


async def test_single_jobs_come_from_the_log_while_the_view_is_rebuilt(tmp_path: Path) -> None:
    """By name and by id, also one that was created meanwhile; lists and short ids are 503 with the reason."""
    async with running_api(tmp_path / "data") as (service, client):
        created = (await client.put("/jobs", json=job_body("before"))).json()
        job_id = created["JobID"]
        whole = (await client.get("/jobs/before")).json()
        async with rebuilding(service):
            for ref in ("before", job_id):
                assert (await client.get(f"/jobs/{ref}")).json() == whole
            history = await client.get(f"/jobs/{job_id}/history")
            assert (history.status_code, len(history.json()["Items"])) == (200, 1)
            assert (await client.put("/jobs", json=job_body("meanwhile"))).status_code == 200
            assert (await client.get("/jobs/meanwhile")).status_code == 200
            assert (await client.get("/jobs/never")).status_code == 404
            for path in ("/jobs", f"/jobs/{job_id[:8]}"):
                answer = await client.get(path)
                assert answer.status_code == 503
                assert "being rebuilt from the log" in answer.text
                assert str(tmp_path) not in answer.text
            service.monitor._observed_at = float("-inf")
            ready = await client.get(f"{ROOT}/readyz?verbose")
            assert ready.status_code == 503
            assert "[-]projector failed: rebuilding, at 0 of " in ready.text
            assert "was removed while it was in use" in ready.text
            metrics = (await client.get(f"{ROOT}/metrics")).text
            assert 'jobledger_projector_state{state="rebuilding"} 1.0' in metrics
            assert "jobledger_view_rebuilds_total 1.0" in metrics
        await service.projector.wait_live()
        assert (await client.get("/jobs/before")).json() == whole
        assert len((await client.get("/jobs")).json()["Items"]) == 2


async def test_feeds_ride_out_a_rebuild(tmp_path: Path) -> None:
    """An open feed gets each event once, and one opened meanwhile starts at its position."""
    async with running_api(tmp_path / "data") as (service, client):
        assert (await client.put("/jobs", json=job_body("first"))).status_code == 200
        await service.projector.wait_live()
        from jobledger.projections.subscriptions.filters import EventFilter

        hub: FeedHub = service.hub
        async with await hub.open(EventFilter(), after=0) as live:
            assert [event.sequence for event in await live.next() or ()] == [1]
            async with rebuilding(service):
                assert (await client.put("/jobs", json=job_body("second"))).status_code == 200
                late = await hub.open(EventFilter(), after=0)
            async with late:
                found: list[int] = []
                async with asyncio.timeout(20):
                    while len(found) < 2:
                        found += [event.sequence for event in await late.next() or ()]
                assert found == [1, 2]
            more: list[int] = []
            async with asyncio.timeout(20):
                while not more:
                    more = [event.sequence for event in await live.next() or ()]
            assert more == [2]


async def test_a_full_disk_under_the_view_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until there is space, writes continue, a new job is read from the log, and /readyz is 503."""
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        monkeypatch.setattr(wiring, "VIEW_FILE", str(disk / "view.sqlite"))  # the log's disk is not full
        async with running_api(tmp_path / "data") as (service, client):
            await client.put("/jobs", json=job_body("before"))
            await service.projector.wait_for(1)
            filler = fill(disk)
            for number in range(1, 100):
                await client.put("/jobs", json=job_body(f"job-{number}", Meta={"x": "y" * 4_000}))
            await eventually(lambda: service.projector.state is ProjectorState.WAITING)
            assert (await client.get("/jobs/job-99")).status_code == 200

            async def is_reported() -> bool:
                """Between two attempts the projector reads the file again, and is not waiting."""
                service.monitor._observed_at = float("-inf")
                ready = await client.get(f"{ROOT}/readyz?verbose")
                assert ready.status_code == 503
                found = re.search(r"\[-\]projector failed: waiting: (.*)", ready.text)
                assert found is None or "is full" in found[1]
                return found is not None

            await eventually(is_reported)
            filler.unlink()
            await service.projector.wait_live(20)
            assert len((await client.get("/jobs?limit=1000")).json()["Items"]) == 100


# --- a service of its own process -------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    os.truncate(path, 4096)


def remove(path: Path) -> None:
    path.unlink()


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


def junk(path: Path) -> None:
    path.write_bytes(b"no database" * 5_000)


def _jobs(service: RunningService) -> list[Any]:
    answer = httpx.get(f"{service.url}{PREFIX}/jobs?limit=100", timeout=10)
    return list(answer.json()["Items"]) if answer.status_code == 200 else []


def _until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("damage", [cut_short, remove, overwrite, junk])
def test_a_service_heals_its_view_while_it_runs_and_at_the_next_start(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """The same damage while the service runs and before a start: it lives, and all jobs are there."""
    flags = ("--view-check-seconds", "1")
    with running_service(tmp_path, *flags) as service:
        for number in range(30):
            body = job_body(f"job-{number}", Labels={"n": f"{number}"})
            assert httpx.put(f"{service.url}{PREFIX}/jobs", json=body, timeout=10).status_code == 200
        whole = _jobs(service)
        assert len(whole) == 30
        path = service.data_dir / "view.sqlite"
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        damage(path)
        _until(lambda: any("rebuilding the view from the log" in line for line in service.output), "no line")
        _until(lambda: _jobs(service) == whole, "not healed")
        _until(lambda: httpx.get(f"{service.url}/readyz", timeout=10).status_code == 200, "not ready")
        metrics = f"{service.url}/metrics"  # what it shows was seen a moment ago
        _until(
            lambda: "jobledger_view_rebuilds_total 1.0" in httpx.get(metrics, timeout=10).text, "no metric"
        )
        assert service.process.poll() is None
    path.with_name("view.sqlite-wal").unlink(missing_ok=True)
    damage(path)
    with running_service(tmp_path, *flags) as service:
        assert _jobs(service) == whole
