"""One client must not slow down others: unauthenticated bodies, long comparisons, large pages."""

import asyncio
import random
from pathlib import Path
from time import perf_counter
from typing import Any

import pytest

from jobledger.projections.limits import PAGE_MAX_BYTES
from jobledger.service.access.principal import Role
from jobledger.service.limits import DIFF_MAX_BYTES, DIFF_MAX_LINES
from jobledger.store.model.limits import SPEC_MAX_BYTES
from tests.support.api import job_body, running_api
from tests.support.middleware import Guarded

COMPARING_MAX_SECONDS = 10.0  # on two busy cores; without the limit it takes minutes


async def test_a_body_without_a_token_uses_no_memory_budget(tmp_path: Path) -> None:
    """Otherwise a few unfinished ones would block every writer with a token."""
    guarded = Guarded(tmp_path)
    guarded.tokens.create("ops", Role.ADMIN)
    held: list[int] = []
    parts = [b"{", b" " * 1_000_000, b"}"]

    async def receive() -> Any:
        held.append(guarded.gate.held_bytes)
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    async def send(message: Any) -> None:
        pass

    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope: Any = {
        "type": "http",
        "method": "POST",
        "path": "/livez",
        "query_string": b"",
        "headers": headers,
    }
    await guarded.gate(scope, receive, send)
    assert parts == []
    assert held == [0, 0, 0]


def _params(values: list[int]) -> dict[str, Any]:
    engine = {"Type": "docker", "Params": {"Image": "busybox", "Values": values}}
    return job_body("bomb", Tasks=[{"Name": "main", "Engine": engine}])


async def test_a_comparison_that_would_take_minutes_is_refused(tmp_path: Path) -> None:
    """It would delay all requests, and the shutdown: a thread cannot be cancelled."""
    count = DIFF_MAX_BYTES // 4
    chance = random.Random(1)
    async with running_api(tmp_path / "a") as (_, client):
        await client.put("/jobs", json=_params([index % 101 for index in range(count)]))
        start = perf_counter()
        answer = await client.put("/jobs/diff", json=_params([chance.randrange(101) for _ in range(count)]))
    assert (answer.status_code, answer.json()["Code"]) == (413, "PayloadTooLarge")
    assert str(DIFF_MAX_LINES) in answer.json()["detail"]
    assert perf_counter() - start < COMPARING_MAX_SECONDS


async def test_comparisons_run_one_after_the_other(tmp_path: Path) -> None:
    """Regardless of their number, the shutdown waits for at most one."""
    async with running_api(tmp_path / "a") as (service, client):
        await client.put("/jobs", json=job_body())
        async with service.comparing.turn():
            asked = asyncio.create_task(client.put("/jobs/diff", json=job_body(Priority=1)))
            done, _ = await asyncio.wait([asked], timeout=0.1)
            assert not done
        assert (await asked).status_code == 200


@pytest.mark.parametrize("path", ["/jobs", "/jobs/fat/versions"])
async def test_a_page_of_fat_specs_is_bounded_and_followed_to_the_end(tmp_path: Path, path: str) -> None:
    """A client that requests pages and never reads them must not fill the memory; nothing is omitted."""
    meta = {str(index): "m" * 4_000 for index in range(SPEC_MAX_BYTES // 4_100)}
    count = PAGE_MAX_BYTES // SPEC_MAX_BYTES + 3
    found: list[Any] = []
    async with running_api(tmp_path / "a") as (_, client):
        for index in range(count):
            name = "fat" if "versions" in path else f"fat-{index}"
            await client.put("/jobs", json=job_body(name, Meta=meta, Priority=index))
        token, pages = "", 0
        while token or not pages:
            answer = await client.get(path, params={"limit": 1_000, "next_token": token})
            assert len(answer.content) < PAGE_MAX_BYTES + 1_048_576
            found += [(job["Name"], job["Version"]) for job in answer.json()["Items"]]
            token, pages = answer.json()["NextToken"], pages + 1
    assert pages == 2
    assert len(set(found)) == len(found) == count


async def test_two_conditions_are_refused_rather_than_one_of_them_taken(tmp_path: Path) -> None:
    """A proxy would read the two lines as one list."""
    async with running_api(tmp_path / "a") as (_, client):
        await client.put("/jobs", json=job_body())
        conditions = [("If-Match", '"1"'), ("If-Match", '"2"')]
        answer = await client.put("/jobs/etl/state", json={"StateType": "Running"}, headers=conditions)
        assert (answer.status_code, answer.json()["Code"]) == (400, "BadRequest")
        assert (await client.get("/jobs/etl")).headers["etag"] == '"1"'
