"""`kill -9` of the projector at any moment: the view is always the fold of the log up to its checkpoint."""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Projector
from tests.histories import append_all, random_drafts, records_of
from tests.oracle import checkpoint_of, fold_of, rows_of


@asynccontextmanager
async def projecting(url: str, path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A projector process, killed at the end in any case."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.projecting",
        str(path),
        env={**os.environ, "NATS_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def kill_and_compare(server: EmbeddedServer, path: Path, *, events: int, kills: int, seed: int) -> None:
    """Write a load; kill the projector again and again while it folds; compare each time, and at the end."""
    rng = random.Random(seed)
    log = await JetStreamLog.connect(server.url)
    try:
        writing = asyncio.create_task(append_all(log, random_drafts(rng, 30, events)))
        for _ in range(kills):
            async with projecting(server.url, path) as process:
                assert process.stdout is not None
                for _ in range(rng.randint(1, 12)):
                    async with asyncio.timeout(60):
                        assert await process.stdout.readline()
                    if writing.done() and checkpoint_of(path)[1] >= events:
                        break
            sequence = checkpoint_of(path)[1]
            known = (await log.info()).last_sequence
            assert sequence <= known
            assert rows_of(path) == fold_of((await records_of(log))[:sequence])
        await writing
        async with Projector(log, path) as running:
            await running.wait_for(events, 60)
        assert rows_of(path) == fold_of(await records_of(log))
    finally:
        await log.close()


async def test_a_projector_killed_in_the_middle_loses_and_repeats_nothing(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """After each kill the rows are the fold of exactly the events up to the checkpoint."""
    await kill_and_compare(server, tmp_path / "view.db", events=2_000, kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
async def test_a_projector_killed_many_times_loses_and_repeats_nothing(
    server: EmbeddedServer, tmp_path: Path, seed: int
) -> None:
    """The same, at many more moments."""
    await kill_and_compare(server, tmp_path / "view.db", events=20_000, kills=12, seed=seed)
