"""The HTTP API in the test's process: the real app on a real nats-server, without a socket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from jobledger.service.api.app import create_app
from jobledger.service.settings import Settings
from jobledger.service.wiring import Service, open_service

PREFIX = "/api/v1/orchestrator"


@asynccontextmanager
async def running_api(
    directory: Path, headers: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Run a service in this directory; yields it and a client whose base path is `/api/v1/orchestrator`."""
    directory.mkdir(exist_ok=True)
    settings.setdefault("tokens_file", directory / "tokens.json")
    async with (
        open_service(Settings(data_dir=directory, **settings)) as service,
        client_of(service, headers) as client,
    ):
        yield service, client


def client_of(
    service: Service, headers: dict[str, str] | None = None, *, app: Any = None
) -> httpx.AsyncClient:
    """Return a client of the service; `app` instead of the service's own."""
    transport = httpx.ASGITransport(app or create_app(service))
    return httpx.AsyncClient(transport=transport, base_url=f"http://127.0.0.1{PREFIX}", headers=headers)


def job_body(name: str = "etl", **fields: Any) -> dict[str, Any]:
    """Return the body of a submission with these fields."""
    task = {"Name": "main", "Engine": {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}}
    return {"Job": {"Name": name, "Type": "batch", "Tasks": [task], **fields}}


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


async def submitted(client: httpx.AsyncClient, name: str, *priorities: int) -> str:
    """Submit a job with a version of each priority; returns its path."""
    for number, priority in enumerate(priorities or (1, 2, 3), start=1):
        body = {**job_body(name, Priority=priority, Labels={"v": str(number)}), "Reason": f"try {number}"}
        body = ok(await client.put("/jobs", json=body))
    return f"/jobs/{body['JobID']}"


async def tag(client: httpx.AsyncClient, path: str, name: str, version: int | str, **more: Any) -> Any:
    return ok(await client.put(f"{path}/tags/{name}", json={"JobVersion": version, **more}))
