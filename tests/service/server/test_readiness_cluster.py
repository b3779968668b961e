"""Three nodes: a missing replica is a warning; without a majority the service is not ready."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.disks import fill, small_disk
from tests.support.logs import eventually
from tests.support.readiness import Watched, watched

SUSPENDED_SECONDS = 40.0  # until appends are refused, on a machine that is busy with three nodes
HEALED_SECONDS = 60.0

pytestmark = pytest.mark.slow


@asynccontextmanager
async def service_on(cluster: Cluster, directory: Path) -> AsyncIterator[Watched]:
    """A service whose log has three replicas."""
    async with watched(directory, nats_url=cluster.url, stream_replicas=3) as at:
        yield at


async def warned(at: Watched, node: str) -> None:
    """Wait until a node is named as missing."""

    async def named() -> bool:
        return node in (await at.problems()).get("replicas", "")

    await eventually(named, within_seconds=HEALED_SECONDS)


async def refused(at: Watched) -> None:
    """Wait until appends are refused, then make sure that they are refused at once."""
    await eventually(lambda: bool(at.service.log.refusal), within_seconds=SUSPENDED_SECONDS)
    await at.refuses_at_once("refused")


async def test_missing_replica_is_a_warning_and_missing_majority_is_not_ready(tmp_path: Path) -> None:
    """Both name the nodes; with one node back, the service recovers."""
    async with Cluster(tmp_path) as cluster, service_on(cluster, tmp_path / "data") as at:
        leader = await cluster.leader()
        first, second = (node for node in (1, 2, 3) if node != leader)
        await cluster.kill(first)
        await warned(at, f"nats-{first}")
        await at.recovers(HEALED_SECONDS)
        assert (await at.write("second")).status_code == 200
        await cluster.kill(second)
        reason = await at.fails("quorum", "replicas")
        assert "of 3" in reason
        await refused(at)
        await cluster.start(first)
        await at.recovers(HEALED_SECONDS)
        assert (await at.write("third")).status_code == 200


@pytest.mark.parametrize("full", [1, 2])
async def test_full_nodes_are_seen_as_missing_replicas(tmp_path: Path, full: int) -> None:
    """One of three: a warning, appends continue. Two: not ready, and appends are refused immediately."""
    with ExitStack() as stack:
        disks = {
            node: stack.enter_context(small_disk(tmp_path / f"nats-{node}", megabytes=48)) for node in (1, 2)
        }
        async with Cluster(tmp_path) as cluster, service_on(cluster, tmp_path / "data") as at:
            fillers = [fill(disks[node]) for node in list(disks)[:full]]
            # Whatever is written next does not fit on these nodes.
            writing = [asyncio.create_task(at.write(f"job-{number}")) for number in range(20)]
            if full == 1:
                await warned(at, "nats-1")
                await at.recovers(HEALED_SECONDS)
            else:
                await at.fails("append", within_seconds=20.0)
                await refused(at)
            await asyncio.gather(*writing)
            for filler in fillers:
                filler.unlink()
            for node in list(disks)[:full]:  # a node whose disk was full stays out until it is restarted
                await cluster.kill(node)
                await cluster._launch(node)
            await at.recovers(HEALED_SECONDS)
            assert (await at.write("after")).status_code == 200
