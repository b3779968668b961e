"""While a handler hangs the log grows, and the process does not."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from jobledger import EmbeddedServer, JetStreamLog
from tests.support.log_writer import Writer
from tests.support.subscriber_group import group
from tests.support.subscriber_process import Plan

JOBS = 500
MESSAGE_CHARACTERS = 8_000
ROUNDS = 20  # of JOBS events, so 80 MB
FLAT_BYTES = 4 * 1_048_576  # the most that the process may grow while the second half is written
MOST_BYTES = 32 * 1_048_576  # and in total: the events of two pull requests are buffered


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
async def test_memory_is_flat_while_a_handler_hangs(
    server: EmbeddedServer, jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """The buffer for the handler is bounded; the rest stays in the log, and the position is kept."""
    writer = Writer(jetstream_log, JOBS, message="x" * MESSAGE_CHARACTERS)
    await writer.round()
    plan = Plan(name="hanging", how={"start": "beginning"}, hangs_at=JOBS // 2, marks=str(tmp_path))
    async with group() as members:
        pid = await members.start(server.url, plan)
        await members.until(lambda: bool(members.lines) and members.lines[-1].sequence == plan.hangs_at)
        at_first = resident_bytes(pid)
        for _ in range(ROUNDS // 2):
            await writer.round()
        half = resident_bytes(pid)
        for _ in range(ROUNDS // 2):
            await writer.round()
        at_last = resident_bytes(pid)
        assert at_last - half < FLAT_BYTES
        assert at_last - at_first < MOST_BYTES
        assert members.lines[-1].sequence == plan.hangs_at
        await members.kill(pid)
        await members.start(server.url, replace(plan, hangs_at=0))
        await members.until_handled(writer.revisions)
