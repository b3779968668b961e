"""Two replicas of the service on the deployed cluster return the same data."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.support.cluster import PASSWORD, Cluster
from tests.support.logs import eventually
from tests.support.service_process import RunningService, clean_env, running_service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

API = "/api/v1/orchestrator"
WRITERS = 8
PATIENCE_SECONDS = 60.0  # for one request, and for a whole failover


class Deployment(NamedTuple):
    """What docker-compose.yml starts, on loopback."""

    cluster: Cluster
    replicas: tuple[RunningService, RunningService]
    doors: tuple[httpx.AsyncClient, httpx.AsyncClient]
    tokens_file: Path


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    """Three nodes, two replicas with a view each, one file of tokens."""
    tokens_file = tmp_path / "tokens" / "tokens.json"
    tokens_file.parent.mkdir()
    token = jobledger(tmp_path, "token", "create", "--name", "me", "--role", "admin", tokens=tokens_file)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(Cluster(tmp_path))
        processes = stack.enter_context(ExitStack())
        flags = ("--nats-url", cluster.addresses, "--stream-replicas", "3")
        env = {
            "JOBLEDGER_NATS_USER": "jobledger",
            "JOBLEDGER_NATS_PASSWORD": PASSWORD,
            "JOBLEDGER_TOKENS_FILE": str(tokens_file),
        }
        replicas, doors = [], []
        for name in ("one", "two"):
            # Without `verbose`, /readyz asks for no token; the helper asks with it.
            service = running_service(
                tmp_path, *flags, "--data-dir", str(tmp_path / name), env=env, ready=False
            )
            replicas.append(processes.enter_context(service))
            client = httpx.AsyncClient(
                base_url=replicas[-1].url,
                headers={"Authorization": f"Bearer {token}"},
                timeout=PATIENCE_SECONDS,
                trust_env=False,
            )
            doors.append(await stack.enter_async_context(client))
            await eventually(partial(is_ready, replicas[-1].url), within_seconds=PATIENCE_SECONDS)
        yield Deployment(cluster, (replicas[0], replicas[1]), (doors[0], doors[1]), tokens_file)


async def is_ready(url: str) -> bool:
    """What the image's health check asks, without a token."""
    async with httpx.AsyncClient(trust_env=False) as client:
        return (await client.get(f"{url}/readyz")).status_code == httpx.codes.OK


def jobledger(home: Path, *arguments: str, tokens: Path) -> str:
    """What a command prints, on the file of tokens of both."""
    command = [sys.executable, "-m", "jobledger.service.cli.main", *arguments, "--tokens-file", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, env=clean_env(home), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def job(name: str) -> dict[str, Any]:
    """The body of a submission."""
    engine = {"Type": "docker", "Params": {"Image": "busybox:1.37.0"}}
    return {"Job": {"Name": name, "Type": "batch", "Count": 1, "Tasks": [{"Name": "main", "Engine": engine}]}}


async def submit(door: httpx.AsyncClient, name: str) -> dict[str, Any]:
    """Create a job."""
    answer = await door.put(f"{API}/jobs", json=job(name))
    assert answer.status_code == httpx.codes.OK, answer.text
    return dict(answer.json())


async def revisions(door: httpx.AsyncClient, job_id: str) -> list[int]:
    """Of a job's whole history."""
    parameters = {"limit": "1000", "all_job_versions": "true"}
    answer = await door.get(f"{API}/jobs/{job_id}/history", params=parameters)
    assert answer.status_code == httpx.codes.OK, answer.text
    return [item["Revision"] for item in answer.json()["Items"]]


class Writer:
    """Sets the state of a job of its own, through both doors in turn, for ever."""

    def __init__(self, doors: tuple[httpx.AsyncClient, ...], number: int) -> None:
        self.acked: list[int] = []  # revisions
        self.refused: list[str] = []
        self.job_id = ""
        self._doors = doors
        self._number = number
        self._stop = False
        self._progress = asyncio.Event()
        self._task = asyncio.create_task(self._write())

    async def _write(self) -> None:
        self.job_id = (await submit(self._doors[0], f"writer-{self._number}"))["JobID"]
        step = 0
        while not self._stop:
            step += 1
            body = {"StateType": "Running", "Message": f"step {step}"}
            try:
                answer = await self._doors[step % len(self._doors)].put(
                    f"{API}/jobs/{self.job_id}/state", json=body
                )
            except httpx.TransportError as error:  # a door that was killed
                self.refused.append(repr(error))
                await asyncio.sleep(0)
                continue
            if answer.status_code == httpx.codes.OK:
                self.acked.append(answer.json()["Revision"])
                self._progress.set()
            else:
                assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE, answer.text
                self.refused.append(answer.text)

    async def more(self, count: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = len(self.acked) + count
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.acked) < wanted:
                assert not self._task.done(), self._task
                self._progress.clear()
                await self._progress.wait()

    async def stop(self) -> None:
        """Finish what is under way."""
        self._stop = True
        await self._task


async def test_a_write_on_one_replica_is_read_on_the_other(deployment: Deployment) -> None:
    """With `wait_for`, immediately, in both directions, in get, list and history, with the same cursor."""
    here, there = deployment.doors
    for number in range(20):
        written = await submit(here, f"job-{number}")
        after = {"wait_for": written["Sequence"]}
        answer = await there.get(f"{API}/jobs/{written['JobID']}", params=after)
        assert answer.status_code == httpx.codes.OK, answer.text
        assert answer.json()["Job"]["Name"] == f"job-{number}"
        listed = await there.get(f"{API}/jobs", params=after | {"limit": "1000"})
        assert f"job-{number}" in {item["Name"] for item in listed.json()["Items"]}
        by_cursor = await there.get(f"{API}/jobs", params={"wait_for": written["Cursor"]})
        assert by_cursor.status_code == httpx.codes.OK, by_cursor.text
        assert await revisions(there, written["JobID"]) == [1]
        here, there = there, here


async def test_a_killed_leader_loses_no_acknowledged_write(deployment: Deployment) -> None:
    """During writes on both replicas: both keep serving, and the revisions of each job have no gap."""
    writers = [Writer(deployment.doors, number) for number in range(WRITERS)]
    await asyncio.gather(*(writer.more(10) for writer in writers))
    leader = await deployment.cluster.leader()
    await deployment.cluster.kill(leader)
    await asyncio.gather(*(writer.more(10) for writer in writers))
    await deployment.cluster.start(leader)
    await asyncio.gather(*(writer.more(5) for writer in writers))
    await asyncio.gather(*(writer.stop() for writer in writers))
    for writer in writers:
        for door in deployment.doors:
            reported = await revisions(door, writer.job_id)
            assert reported == list(range(1, len(reported) + 1))
            assert set(writer.acked) <= set(reported)
            state = await door.get(f"{API}/jobs/{writer.job_id}", params={"timeout": "30s"})
            assert state.status_code == httpx.codes.OK
    assert all(replica.process.poll() is None for replica in deployment.replicas)


async def test_the_other_replica_serves_when_one_is_killed(deployment: Deployment) -> None:
    """It has every write that the killed one acknowledged, and accepts writes."""
    writers = [Writer(deployment.doors, number) for number in range(WRITERS)]
    await asyncio.gather(*(writer.more(10) for writer in writers))
    deployment.replicas[0].process.kill()
    await asyncio.gather(*(writer.more(10) for writer in writers))
    await asyncio.gather(*(writer.stop() for writer in writers))
    for writer in writers:
        reported = await revisions(deployment.doors[1], writer.job_id)
        assert reported == list(range(1, len(reported) + 1))
        assert set(writer.acked) <= set(reported)


async def test_both_replicas_are_ready_again_after_a_failover(deployment: Deployment) -> None:
    """A node is killed and returns; each view catches up, and /readyz succeeds."""
    leader = await deployment.cluster.leader()
    await deployment.cluster.kill(leader)
    written = await submit(deployment.doors[0], "during")
    await deployment.cluster.start(leader)
    async with asyncio.timeout(PATIENCE_SECONDS):
        for door in deployment.doors:
            found = await door.get(
                f"{API}/jobs/{written['JobID']}", params={"wait_for": written["Sequence"], "timeout": "30s"}
            )
            assert found.status_code == httpx.codes.OK, found.text
    for replica in deployment.replicas:  # its checks look at the log every few seconds
        await eventually(partial(is_ready, replica.url), within_seconds=PATIENCE_SECONDS)


async def test_a_token_is_valid_and_revoked_on_both_replicas(deployment: Deployment, tmp_path: Path) -> None:
    """They share the token file."""
    tokens = deployment.tokens_file
    token = jobledger(
        tmp_path, "token", "create", "--name", "guest", "--role", "reader", "--all-namespaces", tokens=tokens
    )
    headers = {"Authorization": f"Bearer {token}"}
    for door in deployment.doors:
        assert (await door.get(f"{API}/jobs", headers=headers)).status_code == httpx.codes.OK
    jobledger(tmp_path, "token", "revoke", "guest", tokens=tokens)
    for door in deployment.doors:
        assert (await door.get(f"{API}/jobs", headers=headers)).status_code == httpx.codes.UNAUTHORIZED
