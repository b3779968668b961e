"""A service whose readiness is observed as `jobledger serve` does it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.wiring import Service
from tests.support.api import job_body, running_api
from tests.support.logs import eventually

ROOT = "http://127.0.0.1"
FAULT_SECONDS = 10.0  # what is promised, from the fault to /readyz
AT_ONCE_SECONDS = 1.0  # for a whole request, on a busy machine


class Watched:
    """A service that is observed as `jobledger serve` does it."""

    def __init__(self, service: Service, client: httpx.AsyncClient) -> None:
        self.service = service
        self.client = client

    async def problems(self) -> dict[str, str]:
        """The checks that fail, with their reasons."""
        answer = await self.client.get(f"{ROOT}/readyz?verbose")
        lines = [line.partition(" failed: ") for line in answer.text.splitlines()[:-1]]
        return {name[3:]: reason for name, _, reason in lines if reason}

    async def fails(self, check: str, *words: str, within_seconds: float = FAULT_SECONDS) -> str:
        """Wait until /readyz is 503 for this check; returns the reason, which has these words."""
        found = ""

        async def failing() -> bool:
            nonlocal found
            found = (await self.problems()).get(check, "")
            return bool(found) and all(word in found for word in words)

        try:
            await eventually(failing, within_seconds=within_seconds)
        except TimeoutError:
            pytest.fail(f"{check} did not fail with {words} in time: {await self.problems()}")
        assert (await self.client.get(f"{ROOT}/readyz")).status_code == 503
        assert f'jobledger_check_failed{{check="{check}"}} 1.0' in self.service.metrics.text().decode()
        assert (await self.client.get(f"{ROOT}/livez")).status_code == 200
        return found

    async def recovers(self, within_seconds: float = FAULT_SECONDS) -> None:
        """Wait until /readyz is 200."""

        async def ready() -> bool:
            return (await self.client.get(f"{ROOT}/readyz")).status_code == 200

        try:
            await eventually(ready, within_seconds=within_seconds)
        except TimeoutError:
            pytest.fail(f"not ready in time: {await self.problems()}")

    async def write(self, name: str) -> httpx.Response:
        """Submit a job."""
        return await self.client.put("/jobs", json=job_body(name))

    async def refuses_at_once(self, name: str, *words: str) -> None:
        """A write gets 503, immediately, and the reason, and was not written."""
        async with asyncio.timeout(AT_ONCE_SECONDS):
            answer = await self.write(name)
        problem = answer.json()
        assert (answer.status_code, problem["Code"]) == (503, "LogUnavailable"), problem
        for word in ("nothing was written", *words):
            assert word in problem["Message"]


@asynccontextmanager
async def watched(directory: Path, **settings: Any) -> AsyncIterator[Watched]:
    """A ready service with one job, and its monitor at work."""
    async with running_api(directory, **settings) as (service, client):
        monitor = service.monitor

        async def watch() -> None:
            while True:
                with suppress(Exception):
                    await monitor.observe()
                await asyncio.sleep(0.05)

        watching = asyncio.create_task(watch())
        found = Watched(service, client)
        try:
            await found.recovers()
            assert (await found.write("first")).status_code == 200
            yield found
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await monitor.close()
