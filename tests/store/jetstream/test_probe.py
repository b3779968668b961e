"""While batches are sent, single publishes are measured now and then; nobody waits for that measurement."""

import asyncio

import pytest

from jobledger import JetStreamLog
from jobledger.store.jetstream import batching
from jobledger.store.jetstream.publisher import PORTION_EVENTS, Publisher
from tests.support.logs import append_all, draft, force_batches


async def test_appends_of_a_committed_batch_are_answered_before_a_probe(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than one portion: the rest does not wait for the single publishes."""
    monkeypatch.setattr(batching, "PROBE_EVERY_BATCHES", 1)
    force_batches(jetstream_log)
    waited: list[int] = []
    send = Publisher._send_queued_singles

    async def counted(publisher: Publisher, most: int) -> None:
        waited.append(len(publisher._answers))
        await send(publisher, most)

    monkeypatch.setattr(Publisher, "_send_queued_singles", counted)
    drafts = [draft(f"job-{number}") for number in range(3 * PORTION_EVENTS)]
    first = asyncio.create_task(append_all(jetstream_log, drafts[: 2 * PORTION_EVENTS]))
    while not jetstream_log.publisher._answers:  # noqa: ASYNC110 - a queue
        await asyncio.sleep(0)
    second = asyncio.create_task(append_all(jetstream_log, drafts[2 * PORTION_EVENTS :]))
    await asyncio.gather(first, second)
    assert waited
    assert set(waited) == {0}
