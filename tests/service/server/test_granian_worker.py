"""Requests that are answered on the server's thread, over sockets."""

import asyncio
import logging
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from jobledger.service.api.middleware import Middleware
from jobledger.service.server import granian_worker
from tests.support.api import PREFIX, job_body, ok
from tests.support.sse import served_api

_JOBS: Final = f"{PREFIX}/jobs"


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The threads on which requests were answered without the event loop."""
    threads: list[int] = []
    answer_now = Middleware.answer_now

    def noted(self: Middleware, scope: Any) -> Any:
        answer = answer_now(self, scope)
        if answer is not None:
            threads.append(threading.get_ident())
        return answer

    monkeypatch.setattr(Middleware, "answer_now", noted)
    return threads


async def test_a_repeated_read_is_answered_on_the_servers_thread(
    tmp_path: Path, answered: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """With the same headers, an access line and a count, as the first one."""
    caplog.set_level(logging.INFO, "jobledger.access")
    async with served_api(tmp_path) as (service, client):
        ok(await client.put(_JOBS, json=job_body("etl")))
        await service.own_writes.visible()
        first, second = [await client.get(f"{_JOBS}/etl", headers={"x-request-id": "same"}) for _ in range(2)]
        metrics = service.metrics.text().decode()
    assert len(answered) == 1
    assert answered[0] != threading.get_ident()
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert dict(first.headers) | {"date": ""} == dict(second.headers) | {"date": ""}
    labels = f'method="GET",route="{_JOBS}/{{job_id}}",status="200"'
    assert f"jobledger_http_requests_total{{{labels}}} 2.0" in metrics
    lines = [record.getMessage() for record in caplog.records if "GET" in record.getMessage()]
    assert len(lines) == 2
    assert all("request_id=same" in line for line in lines)


async def test_the_event_loop_answers_what_fails_on_the_servers_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With a message in the log; the client sees nothing of it."""

    def broken(_: Middleware, __: Any) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(Middleware, "answer_now", broken)
    async with served_api(tmp_path) as (_, client):
        ok(await client.put(_JOBS, json=job_body("etl")))
        ok(await client.get(f"{_JOBS}/etl"))
    assert "can't answer a request on the server's thread" in caplog.text


async def test_the_event_loop_answers_what_cannot_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Granian refuses a message of an unknown type."""
    unknown = {"type": "http.response.unknown"}
    monkeypatch.setattr(Middleware, "answer_now", lambda *_: (unknown, unknown))
    async with served_api(tmp_path) as (_, client):
        ok(await client.put(_JOBS, json=job_body("etl")))
        ok(await client.get(f"{_JOBS}/etl"))
    assert "can't send an answer on the server's thread" in caplog.text


@pytest.mark.parametrize("writes", [5, pytest.param(80, marks=pytest.mark.slow)])
async def test_a_client_reads_its_own_write_while_others_write(
    tmp_path: Path, answered: list[int], writes: int
) -> None:
    """Each write is in the next read, and no read is older than the one before, however it was answered."""
    async with served_api(tmp_path) as (service, client):
        ends = asyncio.Event()

        async def write(name: str) -> None:
            path = f"{_JOBS}/{name}"
            for number in range(writes):
                state = {"StateType": "Running", "Message": f"{number}"}
                revision = ok(await client.put(f"{path}/state", json=state))["Revision"]
                await read(path, revision)
                if number % 4 == 0:  # so that answers are kept, and dropped again
                    await service.own_writes.visible()
                    await read(path, revision)
                    await read(path, revision)

        async def read(path: str, revision: int) -> None:
            found = ok(await client.get(path))["Job"]
            assert found["Revision"] == revision

        async def follow(name: str) -> None:
            last = 0
            while not ends.is_set():
                for query in ("", "?namespace=default"):  # what is kept, and the view
                    revision = ok(await client.get(f"{_JOBS}/{name}{query}"))["Job"]["Revision"]
                    assert revision >= last
                    last = revision

        names = [f"job-{number}" for number in range(6)]
        for name in names:
            ok(await client.put(_JOBS, json=job_body(name)))
        async with asyncio.TaskGroup() as group:
            for name in names[:2]:
                group.create_task(follow(name))
            await asyncio.gather(*map(write, names))
            ends.set()
    assert answered


async def test_another_release_of_granian_answers_on_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, answered: list[int]
) -> None:
    """A worker with other parameters is not replaced, and a warning says so."""
    monkeypatch.setattr(granian_worker, "_KNOWN_PARAMETERS", "other")
    async with served_api(tmp_path) as (service, client):
        ok(await client.put(_JOBS, json=job_body("etl")))
        await service.own_writes.visible()
        for _ in range(3):
            ok(await client.get(f"{_JOBS}/etl"))
    assert answered == []
    assert "has another worker than expected" in caplog.text
