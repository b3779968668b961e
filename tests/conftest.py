"""What several tests need: a real server each, logs on it, and jobs to put there."""

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
from tests.support.logs import ask, unchecked

# The fast suite tries the same examples each time; the slow suite searches with a seed that it prints.
hypothesis.settings.register_profile("fixed", max_examples=40, derandomize=True, database=None, deadline=None)
hypothesis.settings.register_profile("search", max_examples=500, deadline=None, print_blob=True)
hypothesis.settings.load_profile("fixed")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    """A real nats-server of the test's own."""
    async with EmbeddedServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lost events are believed after a moment instead of half a minute, by as many answers."""
    monkeypatch.setattr(doubts, "TRUNCATION_PROOF_SECONDS", 0.2)
    monkeypatch.setattr(log_pass, "TRUNCATION_LOOK_SECONDS", 0.05)


@pytest.fixture
async def jetstream_log(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    """A log on that server."""
    log = await JetStreamLog.connect(server.url)
    yield log
    await log.close()


@pytest.fixture
async def loose(server: EmbeddedServer) -> AsyncIterator[JetStreamLog]:
    """A log on a stream that lets records be deleted, which `connect` would refuse; it has no companions."""
    log = await unchecked(server.url)
    config = LOG.config(StreamSettings(), replicas=1) | {
        "deny_delete": False,
        "deny_purge": False,
        "metadata": {},
    }
    assert "error" not in await ask(log, "STREAM.CREATE.JOBS", config)
    yield log
    await log.close()


@pytest.fixture(params=["memory", "jetstream"])
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[EventLog]:
    """Each adapter in turn."""
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
    """A small valid spec; say only what the test is about."""
    task = Task(name="main", engine=SpecConfig(type="docker", params={"Image": image}))
    return JobSpec(**{"name": name, "type": "batch", "tasks": (task,), **fields})
