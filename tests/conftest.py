"""Shared fixtures: real servers, logs, and jobs."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from jobledger import EmbeddedServer, JetStreamLog, JobSpec, MemoryLog, SpecConfig, StreamSettings, Task
from jobledger.service.audit import log_pass
from jobledger.store.jetstream.declarations import LOG
from jobledger.store.log import EventLog
from jobledger.store.model import truncation as doubts
from tests.support.logs import ask, ordinary_path, unchecked

# The fast suite uses fixed examples; the slow suite searches with a seed that it prints.
hypothesis.settings.register_profile("fixed", max_examples=40, derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("search", max_examples=500, deadline=None, print_blob=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """Run a real nats-server for the test."""
    async with EmbeddedServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the time after which lost events are believed, with the same number of responses."""
    monkeypatch.setattr(doubts, "TRUNCATION_PROOF_SECONDS", 0.2)
    monkeypatch.setattr(log_pass, "TRUNCATION_POLL_SECONDS", 0.05)


@pytest.fixture
async def jetstream_log(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    """Connect a log to the server."""
    log = await JetStreamLog.connect(server.url)
    yield log
    await log.close()


@pytest.fixture
async def loose(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    """Connect a log to a stream that allows deletion, without checks and without the other streams."""
    log = await unchecked(server.url)
    config = LOG.config(StreamSettings(), replicas=1) | {
        "deny_delete": False,
        "deny_purge": False,
        "metadata": {},
    }
    assert "error" not in await ask(log, "STREAM.CREATE.JOBS", config)
    yield log
    await log.close()


@pytest.fixture(params=["direct", pytest.param("ordinary", marks=pytest.mark.slow)])
def both_paths(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Receive on the direct path; and in the slow suite also through the client library."""
    if request.param == "ordinary":
        ordinary_path(monkeypatch)


@pytest.fixture(params=["memory", "jetstream"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    """Yield each adapter."""
    if request.param == "memory":
        memory = MemoryLog()
        yield memory
        await memory.close()
        return
    async with EmbeddedServer(tmp_path / "nats") as running:
        jetstream = await JetStreamLog.connect(running.url)
        yield jetstream
        await jetstream.close()


def make_spec(name: str = "", image: str = "busybox:1.37.0", **fields: Any) -> JobSpec:
    """Return a small valid spec with these fields."""
    task = Task(name="main", engine=SpecConfig(type="docker", params={"Image": image}))
    return JobSpec(**{"name": name, "type": "batch", "tasks": (task,), **fields})
