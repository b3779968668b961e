"""`/wait`: the response comes when the job has reached the state, or can no longer reach it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.wiring import Service
from tests.support.api import job_body, running_api
from tests.support.sse import served_api


def wait(client: httpx.AsyncClient, **query: Any) -> asyncio.Task[httpx.Response]:
    """Start to wait for the job."""
    return asyncio.create_task(client.get("/jobs/etl/wait", params=query))


async def pending_waits(service: Service, waits: int = 1) -> None:
    """Return when this many requests wait."""
    async with asyncio.timeout(10):
        while len(service.hub._clients) != waits:  # noqa: ASYNC110 - they make no sound
            await asyncio.sleep(0)


async def submit(client: httpx.AsyncClient, **fields: Any) -> dict[str, Any]:
    """Submit the job; returns its receipt."""
    answer = await client.put("/jobs", json=job_body(**fields))
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def report(client: httpx.AsyncClient, state: str, message: str = "") -> None:
    """Report the job's state."""
    answer = await client.put("/jobs/etl/state", json={"StateType": state, "Message": message})
    assert answer.status_code == 200, answer.text


async def test_a_wait_returns_at_once_if_the_state_is_reached(tmp_path: Path) -> None:
    """The job with its ETag; states in any case, comma-separated or repeated."""
    async with running_api(tmp_path) as (_, client):
        await submit(client)
        for state in ("running,pending", ["Failed", "PENDING"]):
            answer = await wait(client, state=state)
            assert (answer.status_code, answer.headers["ETag"]) == (200, '"1"')
            assert answer.json()["Job"]["State"]["StateType"] == "Pending"


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_event_during_the_lookup_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A state after the lookup is seen; one that ended before the lookup does not count."""
    async with running_api(tmp_path) as (service, client):
        await submit(client)
        look = service.view.get

        async def pass_through() -> None:
            await report(client, "Running")
            await report(client, "Queued")
            await service.projector.wait_for(3)

        async def slow_look(*of: Any, **how: Any) -> Any:
            monkeypatch.undo()  # the reports look the job up as well
            if when == "before":
                await pass_through()
            job = await look(*of, **how)
            if when == "after":
                await pass_through()
            return job

        monkeypatch.setattr(service.view, "get", slow_look)
        answer = await wait(client, state="Running", timeout="300ms")
        assert answer.status_code == (504 if when == "before" else 200), answer.text


async def test_a_wait_returns_the_job_at_the_moment_of_the_state(tmp_path: Path) -> None:
    """A state that the job only passes through is seen, with its spec and revision at that time."""
    async with running_api(tmp_path) as (service, client):
        created = await submit(client, Priority=1)
        waiting = wait(client, state="Running")
        await pending_waits(service)
        await report(client, "Queued")
        # Together, so that the view is past the state before the waiter reads.
        await asyncio.gather(report(client, "Running", "here"), submit(client, Priority=2))
        answer = await waiting
        job = answer.json()["Job"]
        assert job["State"] == {"StateType": "Running", "Message": "here"}
        assert (job["ID"], job["Version"], job["Priority"]) in {
            (created["JobID"], 1, 1),
            (created["JobID"], 2, 2),
        }
        assert answer.headers["ETag"] == f'"{job["Revision"]}"'


@pytest.mark.parametrize(("state", "ends"), [("Completed", 200), ("Failed", 200), ("Running", 409)])
async def test_terminal_is_any_of_the_three(tmp_path: Path, state: str, ends: int) -> None:
    """`terminal` matches any final state; a state that the finished job cannot reach is a conflict."""
    async with running_api(tmp_path) as (service, client):
        await submit(client)
        asked = "terminal" if ends == 200 else state
        waiting = wait(client, state=asked)
        await pending_waits(service)
        await report(client, state if ends == 200 else "Failed", "no disk")
        answer = await waiting
        assert answer.status_code == ends
        if ends == 409:
            assert answer.json()["Code"] == "ConflictJobState"
            assert "is Failed (no disk) and will not become Running" in answer.json()["Message"]
            again = await wait(client, state="Running")  # also if it has ended before
            assert again.status_code == 409


async def test_a_wait_that_times_out_has_the_present_state(tmp_path: Path) -> None:
    """504, with the job at that time."""
    async with running_api(tmp_path) as (service, client):
        await submit(client)
        waiting = wait(client, state="terminal", timeout="300ms")
        await pending_waits(service)
        await report(client, "Running")
        answer = await waiting
        assert (answer.status_code, answer.json()["Code"]) == (504, "Timeout")
        assert "is Running (revision 2)" in answer.json()["Message"]
        await pending_waits(service, 0)


@pytest.mark.parametrize("query", [{}, {"state": "Dead"}, {"state": "Running", "timeout": "301s"}])
async def test_an_invalid_wait_is_refused(tmp_path: Path, query: dict[str, str]) -> None:
    """No state, an unknown state, a timeout beyond the limit."""
    async with running_api(tmp_path) as (_, client):
        await submit(client)
        assert (await wait(client, **query)).status_code == 400


async def test_a_hundred_waits_are_woken_by_their_job_alone(tmp_path: Path) -> None:
    """Waits do not count as feeds; each ends with its own job's event."""
    async with running_api(tmp_path, feeds_per_client=1) as (service, client):
        await submit(client)
        waits = [wait(client, state="Running") for _ in range(100)]
        await pending_waits(service, 100)
        assert len(service.hub) == 0
        await client.put("/jobs", json=job_body("other"))
        assert not any(each.done() for each in waits)
        await report(client, "Running")
        assert {answer.status_code for answer in await asyncio.gather(*waits)} == {200}


async def test_a_wait_ends_with_the_drain_and_with_its_client(tmp_path: Path) -> None:
    """503 when the service stops; a client that disconnects leaves nothing."""
    async with served_api(tmp_path) as (service, client):
        client.base_url = client.base_url.join("/api/v1/orchestrator")
        await submit(client)
        left = wait(client, state="Running")
        await pending_waits(service)
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        await pending_waits(service, 0)
        waiting = wait(client, state="Running")
        await pending_waits(service)
        service.draining.set()
        await service.hub.close()
        answer = await waiting
        assert (answer.status_code, answer.json()["Code"]) == (503, "NotReady")
