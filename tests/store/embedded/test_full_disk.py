"""A full disk under `jobledger serve`, from the first refused write to ready again, without an operator."""

import asyncio
import time
from pathlib import Path

import httpx
import pytest

from jobledger.store.model.limits import LABEL_MAX_CHARACTERS
from tests.support.api import PREFIX, job_body
from tests.support.disks import fill, small_disk
from tests.support.logs import eventually
from tests.support.service_process import RunningService, running_service

READY_SECONDS = 10.0  # the promise, from the fault to /readyz
AT_ONCE_SECONDS = 2.0  # for a refusal, on a busy machine; a write that waits takes 30 s
RESTART_SECONDS = 60.0
RESTARTING = "restarting the embedded nats-server"
WEDGED = "critical write error"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


async def test_a_server_wedged_by_a_full_disk_is_named_and_restarted_when_space_returns(
    tmp_path: Path,
) -> None:
    """Writes are refused at once with the disk named, /readyz is 503; with space it is ready by itself.

    nats-server meets the full disk (nothing stops the appends before, as if the disk filled up in a moment)
    and refuses every write from then on, also when there is space again.
    """
    with small_disk(tmp_path / "disk", megabytes=64) as disk:
        flags = ("--data-dir", str(disk / "data"), "--disk-stop-free-bytes", "0")
        with running_service(tmp_path, *flags) as service:
            async with httpx.AsyncClient(base_url=service.url, timeout=60.0, trust_env=False) as client:
                full = FullDisk(service, client)
                await full.write_all(range(20))
                filler = fill(disk)
                await full.write_until_wedged(disk / "data" / "nats" / "nats.log")
                await full.is_named(str(disk))
                assert (await client.get(f"{PREFIX}/jobs/job-0")).status_code == httpx.codes.OK
                filler.unlink()
                await full.recovers()
                await full.write_all(range(1_000, 1_010))
                await full.has_all_that_was_acknowledged()
            assert any(RESTARTING in line for line in service.output), "\n".join(service.output[-30:])
            assert service.process.poll() is None


class FullDisk:
    """A service, and the jobs that it acknowledged."""

    def __init__(self, service: RunningService, client: httpx.AsyncClient) -> None:
        self._service = service
        self._client = client
        self._acknowledged: set[str] = set()
        self._waiting: list[asyncio.Task[httpx.Response]] = []

    async def write(self, name: str, pads: int = 0) -> httpx.Response:
        body = job_body(name, Meta={f"pad{number}": "x" * LABEL_MAX_CHARACTERS for number in range(pads)})
        answer = await self._client.put(f"{PREFIX}/jobs", json=body)
        if answer.status_code == httpx.codes.OK:
            self._acknowledged.add(name)
        return answer

    async def write_all(self, numbers: range) -> None:
        for number in numbers:
            answer = await self.write(f"job-{number}")
            assert answer.status_code == httpx.codes.OK, answer.text

    async def write_until_wedged(self, nats_log: Path) -> None:
        """Appends events that do not fit until nats-server gives up; answers may arrive later."""
        self._waiting = [asyncio.create_task(self.write(f"big-{number}", 5)) for number in range(30)]

        def is_wedged() -> bool:
            return WEDGED in nats_log.read_text(errors="replace").lower()

        await eventually(is_wedged, within_seconds=30)

    async def is_named(self, disk: str) -> None:
        """Asserts that /readyz is 503 in time, and that writes are refused at once with the reason."""
        started = time.monotonic()

        async def not_ready() -> bool:
            answer = await self._client.get("/readyz?verbose")
            return answer.status_code == httpx.codes.SERVICE_UNAVAILABLE and disk in answer.text

        await eventually(not_ready, within_seconds=READY_SECONDS)

        async def refused() -> bool:
            try:
                body = job_body("refused")
                answer = await self._client.put(f"{PREFIX}/jobs", json=body, timeout=AT_ONCE_SECONDS)
            except httpx.ReadTimeout:
                return False
            problem = answer.json()
            return (answer.status_code, problem["Code"]) == (
                httpx.codes.SERVICE_UNAVAILABLE,
                "LogUnavailable",
            ) and disk in problem["Message"]

        await eventually(refused, within_seconds=READY_SECONDS + started - time.monotonic())

    async def recovers(self) -> None:
        text = ""

        async def ready() -> bool:
            nonlocal text
            answer = await self._client.get("/readyz?verbose")
            text = answer.text
            return answer.status_code == httpx.codes.OK

        try:
            await eventually(ready, within_seconds=RESTART_SECONDS)
        except TimeoutError:
            pytest.fail("\n".join((text, *self._service.output[-40:])))

    async def has_all_that_was_acknowledged(self) -> None:
        """Asserts that late answers are in the log too."""
        for answer in await asyncio.gather(*self._waiting):
            assert answer.status_code in {httpx.codes.OK, httpx.codes.SERVICE_UNAVAILABLE}, answer.text
        for name in self._acknowledged:
            answer = await self._client.get(f"{PREFIX}/jobs/{name}")
            assert (name, answer.status_code) == (name, httpx.codes.OK)
