"""A request that waits: its token is checked again afterwards, and others are served meanwhile."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger import named_job_id
from jobledger.service import limits
from jobledger.service.access.principal import Role
from jobledger.service.api.app import create_app
from jobledger.service.api.middleware import Middleware
from jobledger.service.cursor import format_cursor
from jobledger.service.wiring import Service
from tests.support.api import PREFIX, job_body, running_api

TIMEOUT_SECONDS = 30.0


class Api:
    """A service with a job, and its clients, through one middleware."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.gate: Middleware = create_app(service)

    def client(self, role: Role, *namespaces: str, name: str = "ci") -> httpx.AsyncClient:
        """A client with a token of its own, whose name is unique here."""
        text = self.service.tokens.create(name, role, namespaces or None)[1]
        return self.with_token(text)

    def with_token(self, text: str) -> httpx.AsyncClient:
        """A client with this token."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(self.gate),
            base_url=f"http://127.0.0.1{PREFIX}",
            headers={"Authorization": f"Bearer {text}"},
            timeout=TIMEOUT_SECONDS,
        )

    async def waits(self, count: int) -> None:
        """Until so many requests wait."""
        async with asyncio.timeout(TIMEOUT_SECONDS):
            while self.gate.capacity.waits.count != count:  # noqa: ASYNC110 - the gate has no event for it
                await asyncio.sleep(0)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """The service; it looks at the token file at every request."""
    async with running_api(tmp_path / "data") as (service, _):
        service.tokens._poll_seconds = 0
        made = Api(service)
        root = made.client(Role.ADMIN, name="root")
        assert (await root.put("/jobs", json=job_body("etl"))).status_code == 200
        await service.projector.wait_for(1, TIMEOUT_SECONDS)
        yield made


WAITS: dict[str, Any] = {
    "a list": "/jobs",
    "a job": "/jobs/etl",
    "a history": "/jobs/etl/history",
    "a wait": "/jobs/etl/wait?state=Running",
    "the versions": "/jobs/etl/versions",
    "changes": "/../diff?from=1",
    "a missing job": "/jobs/none",
}


@pytest.mark.parametrize("path", WAITS.values(), ids=WAITS)
async def test_a_token_that_is_revoked_during_a_wait_gets_nothing(api: Api, path: str) -> None:
    """Neither the data nor whether it exists."""
    client, root = api.client(Role.READER, name="gone"), api.client(Role.ADMIN, name="boss")
    params = {"wait_for": format_cursor(api.service.stream_tag, 2), "timeout": "20s"}
    url = client.base_url.copy_with(path="/api/v1/diff") if path.startswith("/..") else path
    params |= {"from": "1"} if path.startswith("/..") else {}
    params |= {"state": "Running"} if "state" in path else {}
    asked = asyncio.create_task(client.get(str(url).partition("?")[0], params=params))
    await api.waits(1)
    api.service.tokens.revoke("gone")
    assert (await root.put("/jobs/etl/state", json={"StateType": "Running"})).status_code == 200
    answer = await asked
    assert (answer.status_code, answer.json()["Code"]) == (401, "Unauthorized")
    assert b"Running" not in answer.content


async def test_a_long_poll_of_a_revoked_token_ends_at_once(api: Api) -> None:
    """With 401, regardless of the job."""
    client = api.client(Role.READER, name="gone")
    asked = asyncio.create_task(client.get("/jobs/etl/wait", params={"state": "Running", "timeout": "20s"}))
    await api.waits(1)
    api.service.tokens.revoke("gone")
    assert (await asked).status_code == 401


async def test_a_write_whose_token_is_revoked_while_it_waits_writes_nothing(api: Api) -> None:
    """If the idempotency key's turn, or the body, came after the revocation."""
    client = api.client(Role.WRITER, name="gone")
    idempotent = api.service.idempotent
    keyed = {"Idempotency-Key": "k"}
    hold = idempotent._turns.hold
    held: list[Any] = []

    def noted(name: str, *more: Any) -> Any:
        held.append(name)
        return hold(name, *more)

    idempotent._turns.hold = noted  # type: ignore[method-assign,assignment]
    assert (await client.put("/jobs", json=job_body("first"), headers=keyed)).status_code == 200
    async with hold(held[0]):
        again = asyncio.create_task(client.put("/jobs", json=job_body("first"), headers=keyed))
        await api.waits(1)
        api.service.tokens.revoke("gone")
    assert (await again).status_code == 401


@pytest.mark.parametrize("kind", ["wait", "wait_for"])
async def test_a_thousand_waits_of_two_tokens_block_no_one_else(api: Api, kind: str) -> None:
    """Each has its own limit; reads, writes and health of others, and their own reads, continue."""
    readers = [api.client(Role.READER, name=f"r{number}") for number in range(2)]
    params = {"timeout": "25s"}
    params |= (
        {"state": "Failed"} if kind == "wait" else {"wait_for": format_cursor(api.service.stream_tag, 99)}
    )
    path = "/jobs/etl/wait" if kind == "wait" else "/jobs/etl"
    tasks = [
        asyncio.create_task(reader.get(path, params=params))
        for reader in readers
        for _ in range(limits.WAITS_MAX_PER_CLIENT + 5)
    ]
    await api.waits(2 * limits.WAITS_MAX_PER_CLIENT)
    root = api.client(Role.ADMIN, name="boss")
    assert (await root.get("/jobs/etl")).status_code == 200
    assert (await root.put("/jobs", json=job_body("other"))).status_code == 200
    assert (await root.get(root.base_url.copy_with(path="/livez"))).status_code == 200
    assert (await root.get(root.base_url.copy_with(path="/metrics"))).status_code == 200
    assert (await readers[0].get("/jobs/etl")).status_code == 200
    refused = [task.result() for task in tasks if task.done()]
    assert {answer.status_code for answer in refused} == {429}
    assert all(int(answer.headers["retry-after"]) > 0 for answer in refused)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await api.waits(0)


async def test_only_namespaces_of_the_token_are_searched(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, id and short id: the duration of a search reveals nothing about other namespaces."""
    root = api.client(Role.ADMIN, name="boss")
    for namespace, name in (("theirs", "secret"), ("mine", "own")):
        assert (await root.put("/jobs", json=job_body(name, Namespace=namespace))).status_code == 200
    client = api.client(Role.WRITER, "mine", "other", name="limited")
    asked: list[str] = []
    for method in ("read", "read_last", "follow"):
        real = getattr(api.service.log, method)

        async def noted(subject: str = "", *args: Any, real: Any = real, **kwargs: Any) -> Any:
            asked.append(subject)
            return await real(subject, *args, **kwargs)

        monkeypatch.setattr(api.service.log, method, noted)
    traces = []
    for ref in (named_job_id("theirs", "secret"), named_job_id("theirs", "missing")):
        asked.clear()
        for namespace in ("", "theirs", "mine"):
            query = {"namespace": namespace}
            for answer in (
                await client.put(f"/jobs/{ref}/state", json={"StateType": "Running"}, params=query),
                await client.get(f"/jobs/{ref}", params=query),
                await client.get(f"/jobs/{ref}/history", params=query),
                await client.get(f"/jobs/{ref}/wait", params={"state": "terminal", **query}),
            ):
                assert answer.status_code == 404
        traces.append([re.sub(r"\d+\.j-[\w-]+", "SHARD.ID", subject) for subject in asked])
    assert traces[0] == traces[1]
    assert traces[0]
    assert not any("theirs" in subject or "*" in subject for subject in asked)
    by_id = f"/jobs/{named_job_id('mine', 'own')}/state"
    assert (await client.put(by_id, json={"StateType": "Running"})).status_code == 200
