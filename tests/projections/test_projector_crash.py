"""`kill -9` of the projector at any moment: the view is always the fold of the log up to its checkpoint."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Projector, TreeReader, View
from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import leaf_hashes
from jobledger.store.model.errors import EmbeddedServerError
from tests.support.histories import append_all, random_drafts, records_of
from tests.support.oracle import Tables, checkpoint_of, fold_of, rows_of


@asynccontextmanager
async def projecting(url: str, path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A projector process, killed at the end in any case."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.support.projector_process",
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


async def root_in(path: Path) -> bytes:
    """The root of a view's tree at its checkpoint."""
    async with await View.open(path) as view:
        reader = TreeReader(view)
        state = await reader.state()
        assert state.size == state.sequence
        return await reader.root(state.size)


async def kill_and_compare(server: EmbeddedServer, path: Path, *, events: int, kills: int, seed: int) -> None:
    """Write a load; kill the projector repeatedly while it folds; compare each time, and at the end."""
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
            records = (await records_of(log))[:sequence]
            assert rows_of(path) == fold_of(records)
            assert await root_in(path) == root_of(leaf_hashes(records))
        await writing
        async with Projector(log, path) as running:
            await running.wait_for(events, 60)
        records = await records_of(log)
        assert rows_of(path) == fold_of(records)
        assert await root_in(path) == root_of(leaf_hashes(records))
    finally:
        await log.close()


@pytest.mark.slow
async def test_a_projector_killed_in_the_middle_loses_and_repeats_nothing(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """After each kill rows and tree are those of exactly the events up to the checkpoint."""
    await kill_and_compare(server, tmp_path / "view.db", events=2_000, kills=4, seed=1)


def has_tables(path: Path) -> bool:
    """Whether a view has its tables yet: its projector may have been killed before."""
    with contextlib.suppress(sqlite3.OperationalError):
        return path.exists() and bool(checkpoint_of(path))
    return False


async def kill_both_and_compare(
    server: EmbeddedServer, path: Path, *, events: int, kills: int, seed: int
) -> None:
    """The same with the server killed as well, in the middle of the projector's work; compare at the end."""
    rng = random.Random(seed)
    log = await JetStreamLog.connect(server.url)
    seen: list[tuple[int, Tables]] = []
    try:
        writing = asyncio.create_task(append_all(log, random_drafts(rng, 30, events)))
        for _ in range(kills):
            async with projecting(server.url, path) as process:
                assert process.stdout is not None
                for _ in range(rng.randint(1, 6)):
                    async with asyncio.timeout(60):
                        await process.stdout.readline()  # empty if it found no server
                    if writing.done() and has_tables(path) and checkpoint_of(path)[1] >= events:
                        break
                with contextlib.suppress(ProcessLookupError, EmbeddedServerError):
                    os.kill(server.pid, signal.SIGKILL)
            if has_tables(path):
                seen.append((checkpoint_of(path)[1], rows_of(path)))
        await writing
        async with Projector(log, path) as running:
            await running.wait_for(events, 60)
        records = await records_of(log)
        assert len(records) == events
        assert rows_of(path) == fold_of(records)
        assert await root_in(path) == root_of(leaf_hashes(records))
        for sequence, rows in seen:
            assert rows == fold_of(records[:sequence])
    finally:
        await log.close()


@pytest.mark.slow
async def test_server_and_projector_killed_together_leave_the_fold_of_the_log(
    server: EmbeddedServer, tmp_path: Path
) -> None:
    """Every acknowledged event is there once, and every view is the fold of a prefix."""
    await kill_both_and_compare(server, tmp_path / "view.db", events=1_000, kills=2, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(4))
async def test_server_and_projector_killed_many_times_leave_the_fold_of_the_log(
    server: EmbeddedServer, tmp_path: Path, seed: int
) -> None:
    """The same, at more moments."""
    await kill_both_and_compare(server, tmp_path / "view.db", events=6_000, kills=6, seed=seed)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(5))
async def test_a_projector_killed_many_times_loses_and_repeats_nothing(
    server: EmbeddedServer, tmp_path: Path, seed: int
) -> None:
    """The same, at many more moments."""
    await kill_and_compare(server, tmp_path / "view.db", events=20_000, kills=12, seed=seed)
