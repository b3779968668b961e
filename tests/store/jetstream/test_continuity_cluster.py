"""Three nodes are isolated one after the other: no reader takes a lagging server for a truncated log."""

import asyncio
import os
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from jobledger import JetStreamLog, Ledger, Projector, ProjectorState, StreamSettings, subscribe
from jobledger.service.audit.watch_command import Watch, WatchOptions
from jobledger.service.settings import Settings
from jobledger.store.model.errors import JobledgerError, LogBehind, LogTruncated
from jobledger.store.model.limits import TRUNCATION_PROOF_SECONDS
from tests.conftest import make_spec
from tests.support.cluster import Cluster
from tests.support.histories import records_of
from tests.support.logs import eventually
from tests.support.namespaces import NamespaceCluster, why_no_namespaces
from tests.support.oracle import fold_of, rows_of
from tests.support.readers import Reader, reading, sequences

pytestmark = pytest.mark.slow

ROUNDS = int(os.environ.get("JOBLEDGER_ISOLATIONS", "4"))
SEED = int(os.environ.get("JOBLEDGER_SEED", "1"))
REPLICATED = StreamSettings(replicas=3)
WRITE_SECONDS = 0.025  # between two writes: about 40 a second
RECOVERED_SECONDS = 60.0


def cut(log: JetStreamLog) -> None:
    """Cuts a log's connection, like a network that resets it."""
    transport = log._connection._client._transport
    assert transport is not None
    transport._io_writer.transport.abort()  # type: ignore[attr-defined]


@asynccontextmanager
async def writing(url: str) -> AsyncIterator[list[int]]:
    """Creates jobs continuously; records the acknowledged sequences."""
    log = await JetStreamLog.connect(url, REPLICATED)
    ledger, acknowledged = Ledger(log), list[int]()

    async def write() -> None:
        for number in range(1_000_000):
            with suppress(JobledgerError):
                acknowledged.append((await ledger.create(make_spec(f"job-{number}"))).sequence)
            await asyncio.sleep(WRITE_SECONDS)

    task = asyncio.create_task(write())
    try:
        yield acknowledged
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await log.close()


@pytest.mark.timeout(120 + 60 * ROUNDS)
async def test_isolated_nodes_truncate_nothing(tmp_path: Path) -> None:
    """A follower is isolated for 3 to 8 s, then the leader for 3 s: all readers get every event.

    JOBLEDGER_ISOLATIONS and JOBLEDGER_SEED make it longer, or another one.
    """
    if reason := why_no_namespaces():
        pytest.skip(reason)
    chance = random.Random(SEED)
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(NamespaceCluster(tmp_path))
        log = await JetStreamLog.connect(cluster.url, REPLICATED)
        stack.push_async_callback(log.close)
        writers = await stack.enter_async_context(AsyncExitStack())
        acknowledged = await writers.enter_async_context(writing(cluster.url))
        view = tmp_path / "view.sqlite"
        projector = await stack.enter_async_context(Projector(log, view))
        ephemeral = await stack.enter_async_context(reading(subscribe(log)))
        durable = await stack.enter_async_context(reading(subscribe(log, "durable")))
        said: list[str] = []
        options = WatchOptions(keys=(), state_file=tmp_path / "watch.json")
        watch = Watch(
            Settings(nats_url=cluster.url, stream_replicas=3, data_dir=tmp_path), options, said.append
        )
        watching = asyncio.create_task(watch.run())
        stack.callback(watching.cancel)
        for _ in range(ROUNDS):
            leader = await cluster.leader()
            follower = chance.choice([node for node in (1, 2, 3) if node != leader])
            cluster.isolate(follower)
            await asyncio.sleep(chance.uniform(3, 8))
            cluster.reconnect(follower)
            cut(log)
            cluster.isolate(leader)
            await asyncio.sleep(3)
            cluster.reconnect(leader)
            await cluster.wait_ready(RECOVERED_SECONDS)
            await eventually(partial(_grew, acknowledged, len(acknowledged) + 20), within_seconds=60)
            await projector.wait_for(acknowledged[-1], RECOVERED_SECONDS)
            for reader in (ephemeral, durable):
                await eventually(partial(_has, reader, acknowledged[-1]), within_seconds=RECOVERED_SECONDS)
            assert not watch.alarms, said
            assert not watching.done()
        await writers.aclose()
        await projector.wait_live(RECOVERED_SECONDS)  # it may have just come back, and be catching up
        records = await records_of(log)
        assert {record.sequence for record in records} >= set(acknowledged)
        await projector.wait_for(records[-1].sequence, RECOVERED_SECONDS)
        assert rows_of(view) == fold_of(records)
        for reader in (ephemeral, durable):
            await eventually(partial(_has, reader, records[-1].sequence), within_seconds=RECOVERED_SECONDS)
            assert set(sequences(reader.found)) == {record.sequence for record in records}


def _grew(acknowledged: list[int], size: int) -> bool:
    return len(acknowledged) >= size


def _has(reader: Reader, sequence: int) -> bool:
    return bool(reader.found) and reader.found[-1].sequence >= sequence


async def _append(log: JetStreamLog, prefix: str, count: int = 10) -> int:
    ledger = Ledger(log)
    for number in range(count):
        receipt = await ledger.create(make_spec(f"{prefix}-{number}"))
    return receipt.sequence


@pytest.mark.timeout(240)
async def test_a_cluster_rolled_back_to_older_files_is_found_within_the_bound(tmp_path: Path) -> None:
    """All three nodes get older files: the projector first reconnects, then stops with LogTruncated."""
    loop = asyncio.get_running_loop()
    async with Cluster(tmp_path) as cluster:
        log = await JetStreamLog.connect(cluster.url, REPLICATED)
        await _append(log, "kept")
        await cluster.stop()
        for node in (1, 2, 3):
            shutil.copytree(tmp_path / f"nats-{node}", tmp_path / f"older-{node}")
        await cluster.start()
        end = await _append(log, "lost")
        async with Projector(log, tmp_path / "view.sqlite") as projector:
            await projector.wait_for(end)
            await cluster.stop()
            for node in (1, 2, 3):
                shutil.rmtree(tmp_path / f"nats-{node}")
                shutil.copytree(tmp_path / f"older-{node}", tmp_path / f"nats-{node}")
            await cluster.start()
            await cluster.leader()
            started = loop.time()
            with pytest.raises(
                LogBehind, match="ends at 10, and 20 was read before; not counted as lost yet"
            ):
                await log.continues(epoch=None, after=end)
            await eventually(lambda: projector.state is ProjectorState.RECONNECTING)
            with pytest.raises(LogTruncated, match="ends at 10, and 20 was read before"):
                async with asyncio.timeout(TRUNCATION_PROOF_SECONDS + 30):
                    await projector.wait_stopped()
            assert loop.time() - started > TRUNCATION_PROOF_SECONDS - 1
        await log.close()


async def test_an_event_that_any_replica_has_is_found(tmp_path: Path) -> None:
    """Before an event counts as lost, all replicas are read: one that has it proves that it is not lost."""
    async with Cluster(tmp_path) as cluster:
        log = await JetStreamLog.connect(cluster.url, REPLICATED)
        end = await _append(log, "job")
        assert await log._continuity._is_kept(end, None)
        assert not await log._continuity._is_kept(end, lambda _: False)
        assert not await log._continuity._is_kept(end + 1, None)
        await log.close()
