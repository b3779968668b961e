"""On a cluster of three nodes: replicas, compression and the rewrite, with the deployed users' rights."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobledger import JetStreamLog, StreamSettings
from jobledger.store.jetstream import refill
from jobledger.store.jetstream.declarations import LOG, STREAMS, SUBSCRIPTIONS
from jobledger.store.jetstream.rewrite import find_blocks
from jobledger.store.log import Appended
from jobledger.store.model.errors import LogNotPermitted, LogUnavailable
from tests.support.cluster import Cluster
from tests.support.logs import append_all, ask, draft, eventually, unchecked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NAMES = [each.name("JOBS") for each in STREAMS]
SETTINGS = StreamSettings(replicas=3)


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three nodes, ready."""
    async with Cluster(tmp_path, streams=False) as running:
        yield running


@pytest.fixture
async def operator(cluster: Cluster) -> AsyncIterator[JetStreamLog]:
    """A log of a user who may change streams; no stream exists yet."""
    log = await unchecked(cluster.operator_url)
    yield log
    await log.close()


async def replicas_of(log: JetStreamLog) -> dict[str, int]:
    """By stream."""
    return {each.name: each.replicas for each in await log.report_streams()}


async def create(log: JetStreamLog, *, compression: str = "none", **replicas: int) -> None:
    """The streams of an earlier release."""
    for each in STREAMS:
        config = each.config(SETTINGS, replicas=replicas.get(each.suffix.strip("_"), 3))
        config |= {"compression": compression, "metadata": {}}

        async def created(verb: str = f"STREAM.CREATE.{each.name('JOBS')}", config: Any = config) -> bool:
            return "error" not in await ask(log, verb, config)

        await eventually(created, within_seconds=30)  # a node may not have joined yet


async def test_every_stream_has_the_replicas_of_the_log(cluster: Cluster) -> None:
    """Also if a library user with other settings connects next, and opens its bucket first."""
    log = await JetStreamLog.connect(cluster.operator_url, SETTINGS)
    subscriber = await JetStreamLog.connect(cluster.url)  # its settings say 1
    await subscriber.key_value("SUBSCRIPTIONS")
    assert await replicas_of(log) == dict.fromkeys(NAMES, 3)
    await subscriber.close()
    await log.close()


async def test_subscriber_takes_the_replicas_from_the_log(cluster: Cluster, operator: JetStreamLog) -> None:
    """The subscriber creates the missing stream of an earlier release with the log's replicas."""
    config = LOG.config(SETTINGS, replicas=3) | {"metadata": {}}
    assert "error" not in await ask(operator, "STREAM.CREATE.JOBS", config)
    await append_all(operator, [draft("one")])
    subscriber = await JetStreamLog.connect(cluster.operator_url)  # its settings say 1
    await subscriber.key_value("SUBSCRIPTIONS")
    info = await ask(operator, f"STREAM.INFO.{SUBSCRIPTIONS.name('JOBS')}")
    assert info["config"]["num_replicas"] == 3
    await subscriber.close()


async def test_too_few_replicas_are_repaired_or_reported(cluster: Cluster, operator: JetStreamLog) -> None:
    """The service may not change streams and reports who may; the operator's user repairs them."""
    await create(operator, compression="s2", SUBSCRIPTIONS=1)
    service = await JetStreamLog.connect(cluster.url, SETTINGS)
    problems = {each.name: " ".join(each.problems) for each in await service.prepare_streams()}
    assert "JOBS_SUBSCRIPTIONS has 1 replicas and must have 3" in problems["JOBS_SUBSCRIPTIONS"]
    assert "$JS.API.STREAM.UPDATE.JOBS_SUBSCRIPTIONS" in problems["JOBS_SUBSCRIPTIONS"]
    assert all("is compressed (s2)" in problems[name] for name in NAMES)
    repaired = await operator.prepare_streams()
    assert not any(each.problems for each in repaired)
    assert {each.compression for each in repaired} == {"none"}

    async def filled() -> bool:
        cluster_info = (await ask(operator, "STREAM.INFO.JOBS_SUBSCRIPTIONS"))["cluster"]
        peers = cluster_info.get("replicas", ())
        return len(peers) == 2 and all(each["current"] for each in peers)

    await eventually(filled, within_seconds=60)
    await service.close()


async def test_rewrite_names_a_missing_right_and_a_node_that_is_down(
    cluster: Cluster, operator: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing right to change the stream, and a missing node for the copy, both end the rewrite soon."""
    await create(operator, compression="s2")
    service = await JetStreamLog.connect(cluster.url, SETTINGS)
    async with asyncio.timeout(3):
        with pytest.raises(LogNotPermitted, match=r"\$JS\.API\.STREAM\.UPDATE\.JOBS.*streams create"):
            await service.rewrite_replicas(print)
    await service.close()
    await cluster.kill(3)
    monkeypatch.setattr(refill, "REPLICA_STALL_SECONDS", 0.5)
    async with asyncio.timeout(45):
        with pytest.raises(LogUnavailable, match=r"nats-3 .*run this again|no node .* nodes running"):
            await operator.rewrite_replicas(print)


async def test_replicas_are_rewritten_under_writes(
    cluster: Cluster, operator: JetStreamLog, tmp_path: Path
) -> None:
    """Every block of every node is new, no acknowledged event is lost, and there are three replicas.

    The first run is interrupted, and a service that starts meanwhile goes back to three replicas; the next
    run leaves what the first one has done.
    """
    await create(operator, compression="s2")
    for start in range(12):
        await append_all(operator, [draft(f"j-{start}-{n}", b"x" * 900) for n in range(1_000)])
    admin = await JetStreamLog.connect(cluster.operator_url, SETTINGS)
    await admin.prepare_streams()
    assert set(compressed(tmp_path)) == {1, 2, 3}
    writer = await JetStreamLog.connect(cluster.url, SETTINGS)
    acked: dict[str, int] = {}
    writing = asyncio.create_task(write(writer, acked))
    steps: list[str] = []

    def interrupt(step: str) -> None:
        steps.append(step)
        if sum(each.startswith("JOBS_KEYS: moving") for each in steps) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await admin.rewrite_replicas(interrupt)
    assert (await replicas_of(admin))["JOBS_KEYS"] == 2
    await admin.prepare_streams()
    assert (await replicas_of(admin))["JOBS_KEYS"] == 3
    steps.clear()
    await admin.rewrite_replicas(steps.append)
    assert steps[0] == "JOBS: nothing is compressed"
    assert len([each for each in steps if each.startswith("JOBS_KEYS: moving")]) < 2, steps
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert len(acked) > 20
    reports = await admin.report_streams()
    assert [each.replicas for each in reports] == [3] * len(NAMES)
    assert not any(each.once_compressed or each.problems for each in reports)
    assert not compressed(tmp_path), steps
    for name, sequence in acked.items():
        record = await admin.read_at(sequence)
        assert record is not None
        assert name in record.subject
    await writer.close()
    await admin.close()


async def write(log: JetStreamLog, acked: dict[str, int]) -> None:
    """Appends events continuously; records the acknowledged ones."""
    number = 0
    while True:
        number += 1
        answer: Any = (await append_all(log, [draft(f"w-{number}", b"y" * 300)]))[0]
        if isinstance(answer, Appended):
            acked[f"w-{number}"] = answer.sequence


def compressed(directory: Path) -> dict[int, int]:
    """The number of compressed blocks of each node."""
    counts = {
        node: sum(each.compressed for each in find_blocks(directory / f"nats-{node}", NAMES))
        for node in (1, 2, 3)
    }
    return {node: count for node, count in counts.items() if count}
