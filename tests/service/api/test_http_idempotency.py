"""The `Idempotency-Key` over HTTP: which requests are the same, and what a replayed answer brings along."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.wiring import Service
from tests.support.api import job_body, running_api

KEY = {"Idempotency-Key": "key-1"}
Api = tuple[Service, httpx.AsyncClient]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A service with an embedded nats-server, and its client."""
    async with running_api(tmp_path / "one") as running:
        yield running


async def last_sequence(service: Service) -> int:
    """Where the log ends."""
    return (await service.log.info()).last_sequence


async def test_the_same_request_again_is_answered_as_before_and_writes_nothing(api: Api) -> None:
    """Byte for byte, with the same ETag, and marked as a repeat."""
    service, client = api
    first = await client.put("/jobs", json=job_body(), headers=KEY)
    again = await client.put("/jobs", json=job_body(), headers=KEY)
    assert (first.status_code, again.status_code) == (200, 200)
    assert (again.content, again.headers["ETag"]) == (first.content, first.headers["ETag"])
    assert "Idempotency-Replayed" not in first.headers
    assert again.headers["Idempotency-Replayed"] == "true"
    assert await last_sequence(service) == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"json": job_body("other")},
        {"url": "/jobs/etl"},
        {"params": {"reason": "another"}},
        {"headers": {**KEY, "If-Match": '"1"'}},
        {"headers": {**KEY, "If-None-Match": "*"}},
    ],
    ids=lambda changed: "-".join(changed) + str(changed.get("headers", ""))[-20:-1],
)
async def test_the_key_of_another_request_is_refused(api: Api, changed: dict[str, Any]) -> None:
    """Body, method, path, query and conditions make a request what it is: 422, and nothing is written."""
    service, client = api
    request = {"method": "PUT", "url": "/jobs", "json": job_body(), "headers": KEY}
    assert (await client.request(**request)).status_code == 200  # type: ignore[arg-type]
    refused = await client.request(**{**request, **changed})
    assert (refused.status_code, refused.json()["Code"]) == (422, "IdempotencyKeyReused")
    assert await last_sequence(service) == 1


async def test_a_request_is_the_same_however_it_is_written(api: Api) -> None:
    """POST for PUT, and the same JSON in another order and spacing: clients don't write bytes twice alike."""
    service, client = api
    first = await client.put("/jobs", json=job_body(), headers=KEY)
    body = {"job": dict(reversed(job_body()["Job"].items()))}
    again = await client.post(
        "/jobs", content=json.dumps(body, indent=3), headers={**KEY, "Content-Type": "application/json"}
    )
    assert (again.json(), again.headers["Idempotency-Replayed"]) == (first.json(), "true")
    assert await last_sequence(service) == 1


async def test_whoever_got_a_replayed_answer_sees_that_write(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where another replica wrote it: a read there waits for its view, without `wait_for`."""
    service, client = api
    assert service.server is not None
    async with running_api(tmp_path / "two", nats_url=service.server.url) as (other, other_client):
        let_go, write = asyncio.Event(), other.projector._writer.write

        async def held(batch: Any) -> None:
            await let_go.wait()
            await write(batch)

        monkeypatch.setattr(other.projector._writer, "write", held)
        assert (await client.put("/jobs", json=job_body(), headers=KEY)).status_code == 200
        replayed = await other_client.put("/jobs", json=job_body(), headers=KEY)
        assert replayed.headers["Idempotency-Replayed"] == "true"
        read = asyncio.create_task(other_client.get("/jobs/etl"))
        asyncio.get_running_loop().call_later(0.1, let_go.set)
        assert (await read).status_code == 200


async def test_the_trace_of_a_request_is_kept_in_its_event(api: Api) -> None:
    """`traceparent` leads from a trace to the event, and back."""
    service, client = api
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    answer = await client.put("/jobs", json=job_body(), headers={"traceparent": trace})
    record = await service.log.read_at(answer.json()["Sequence"])
    assert record is not None
    assert f'"traceparent":"{trace}"'.encode() in record.payload
