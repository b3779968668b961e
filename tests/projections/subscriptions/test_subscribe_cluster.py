"""A subscription on three nodes loses no event while the leader of its consumer is killed repeatedly."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from jobledger import JetStreamLog, StreamSettings, SubscribedEvent, subscribe
from tests.support.cluster import Cluster
from tests.support.log_writer import Writer
from tests.support.logs import ask, eventually
from tests.support.readers import reading, sequences

ROUND = 100


async def consumer_leader(log: JetStreamLog, name: str) -> int:
    """The node that leads a consumer; 0 without one."""
    info = await ask(log, f"CONSUMER.INFO.JOBS.{name}")
    return int(info.get("cluster", {}).get("leader", "nats-0").removeprefix("nats-"))


def in_order(found: Sequence[SubscribedEvent]) -> bool:
    """Whether each event follows the one before, or restarts at an earlier one.

    Between two readers the position continues where the first one was.
    """
    return all(
        after.sequence == before.sequence + 1 or after.sequence <= before.sequence
        for before, after in pairwise(found)
    )


@pytest.mark.slow
async def test_elections_lose_no_event(tmp_path: Path) -> None:
    """The leader of the consumer is killed while it is read: every event is delivered, in order."""
    async with Cluster(tmp_path) as cluster:
        log = await JetStreamLog.connect(cluster.url, StreamSettings(replicas=3))
        writer = Writer(log, ROUND)
        await writer.round()
        async with reading(subscribe(log, "elected")) as reader:
            for part in range(1, 4):
                await eventually(partial(_seen, reader.found, part * ROUND), within_seconds=60)
                node = await consumer_leader(log, "elected")
                await cluster.kill(node)
                await writer.round()
                await eventually(partial(_seen, reader.found, (part + 1) * ROUND), within_seconds=60)
                await cluster.start(node)
        assert in_order(reader.found)
        assert set(sequences(reader.found)) == set(writer.revisions)
        await log.close()


def _seen(found: Sequence[SubscribedEvent], count: int) -> bool:
    return len({event.sequence for event in found}) >= count
