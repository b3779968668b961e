"""The owner's side: what it answers for workers, and what it tells them."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from jobledger.projections.projector import ProjectorState
from jobledger.service.access.principal import local_principal
from jobledger.service.wiring import Service
from jobledger.service.workers import messages
from jobledger.service.workers.pool import Worker, WorkerPool
from jobledger.store.model.errors import JobledgerError
from jobledger.store.model.job import State, StateType
from tests.support.api import PREFIX, job_body, ok, running_api

Owner = tuple[WorkerPool, Service, httpx.AsyncClient]


@pytest.fixture
async def owner(tmp_path: Path) -> AsyncIterator[Owner]:
    """A service whose workers are not started, and a client that does not go through one."""
    async with running_api(tmp_path, workers=2, port=0) as (service, client):
        pool = WorkerPool(service, service.settings, "127.0.0.1")
        try:
            yield pool, service, client
        finally:
            await pool.stop()


async def passed_on(pool: WorkerPool, path: str, *headers: tuple[bytes, bytes]) -> messages.Forwarded:
    """The answer to a read that a worker has passed on."""
    request = messages.Forward(
        "GET", PREFIX + path, b"", [*headers], b"", local_principal(""), "r-1", "@", "http", ""
    )
    answer = await pool.answer(request)
    assert isinstance(answer, messages.Forwarded)
    return answer


async def test_a_read_that_is_passed_on_has_what_a_worker_acknowledged(owner: Owner) -> None:
    """Although the view lacks it: the owner reads the job from the log."""
    pool, service, client = owner
    job = ok(await client.put("/jobs", json=job_body("late")))
    await service.projector.wait_for(job["Sequence"])
    await service.projector.stop()  # from now on, the view lags
    created = await service.ledger.set_state(job["JobID"], State(StateType.QUEUED), namespace="default")
    assert service.positions is not None
    service.positions.set_acknowledged(2, created.sequence)  # as worker 2 does before it answers
    answer = await passed_on(pool, "/jobs/late")
    assert answer.status == httpx.codes.OK, answer.body
    assert msgspec.json.decode(answer.body)["Job"]["Revision"] == 2


async def test_the_first_of_repeated_headers_counts_in_a_request_that_is_passed_on(owner: Owner) -> None:
    """As in one that is not."""
    pool, service, client = owner
    created = ok(await client.put("/jobs", json=job_body("tagged")))
    await service.projector.wait_for(created["Sequence"])
    tag = (await client.get("/jobs/tagged")).headers["etag"].encode()
    for first, second, status in ((tag, b'"r9"', 304), (b'"r9"', tag, 200)):
        headers = ((b"if-none-match", first), (b"if-none-match", second))
        assert (await client.get("/jobs/tagged", headers=[*headers])).status_code == status
        assert (await passed_on(pool, "/jobs/tagged", *headers)).status == status


class Listener(Worker):
    """A worker without a process, which keeps what it is sent."""

    def __init__(self, pool: WorkerPool) -> None:
        super().__init__(pool, 1)
        self.states: asyncio.Queue[tuple[ProjectorState, str]] = asyncio.Queue()

    def post(self, message: messages.Message) -> None:
        if isinstance(message, messages.StateChanged):
            self.states.put_nowait((message.state, message.trouble))


async def test_workers_learn_of_a_new_trouble_in_the_same_state(owner: Owner) -> None:
    """The reason for which the projector is reconnecting can change."""
    pool, service, _ = owner
    projector: Any = service.projector
    listener = pool._workers[1] = Listener(pool)
    announcing = asyncio.create_task(pool._announce_states())
    try:
        assert (await listener.states.get())[1] == ""
        for text in ("the log does not answer", "the log lacks events"):
            pausing = asyncio.create_task(projector._pause(ProjectorState.RECONNECTING, JobledgerError(text)))
            found = await asyncio.wait_for(listener.states.get(), 10)
            assert found == (ProjectorState.RECONNECTING, text)
            pausing.cancel()
    finally:
        announcing.cancel()
        del pool._workers[1]
