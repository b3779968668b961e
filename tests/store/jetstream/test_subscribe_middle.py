"""A subscription that starts in the middle of the log has the same numbers as one from the beginning."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from jobledger import JetStreamLog, subscribe
from jobledger.projections.subscriptions import state_tracker
from tests.support.exports import write_history
from tests.support.feed_hub import truth_of

EVENTS = 240
MIDDLE = 100
WAIT_SECONDS = 60.0


async def numbers(
    log: JetStreamLog, wanted: set[int], parts: Sequence[dict[str, Any]]
) -> set[tuple[int, int, int]]:
    """Sequence, revision and version of each event, as members of a group get them."""
    found: set[tuple[int, int, int]] = set()
    done = asyncio.Event()

    async def read(how: dict[str, Any]) -> None:
        async with subscribe(log, "group", start=MIDDLE, **how) as events:
            async for event in events:
                found.add((event.sequence, event.revision, event.version))
                await event.ack()
                if {sequence for sequence, _, _ in found} >= wanted:
                    done.set()

    tasks = [asyncio.create_task(read(how)) for how in parts]
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            await done.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return found


@pytest.mark.parametrize("factor", [0, 50], ids=["job by job", "all that was before"])
@pytest.mark.parametrize(
    "parts",
    [
        [{}],
        [{"with_jobs": True}],
        [{"namespace": "default"}],
        [{"members": 2, "member": 1}, {"members": 2, "member": 2}],
        [{"elastic": True, "partitions": 4}],
    ],
    ids=["alone", "with jobs", "a namespace", "members", "elastic"],
)
async def test_numbers_do_not_depend_on_the_start(
    jetstream_log: JetStreamLog,
    monkeypatch: pytest.MonkeyPatch,
    parts: Sequence[dict[str, Any]],
    factor: int,
) -> None:
    """Alone and in every form of a group, for every way to read the earlier events."""
    monkeypatch.setattr(state_tracker, "TRACKER_SCAN_FACTOR", factor)
    await write_history(jetstream_log, events=EVENTS, jobs=30)
    truth = {
        (event.sequence, event.status.revision, event.status.version)
        for event in await truth_of(jetstream_log)
        if event.sequence > MIDDLE
    }
    assert await numbers(jetstream_log, {sequence for sequence, _, _ in truth}, parts) == truth
