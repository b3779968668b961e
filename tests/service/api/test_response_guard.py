"""Outgoing responses: large ones are sent in parts, are counted, and time out."""

import asyncio
import sys
from typing import Any

import pytest

from jobledger.service.api import response_guard as outgoing
from jobledger.service.api.asgi import Message
from jobledger.service.api.body_budget import Disconnected
from jobledger.service.api.capacity import ByteBudget
from jobledger.service.api.response import Response
from jobledger.service.api.response_guard import GuardedResponse
from jobledger.service.errors import TooManyRequests
from jobledger.service.limits import RESPONSE_PART_BYTES, RESPONSES_MAX_BYTES, RESPONSES_MAX_BYTES_PER_CLIENT
from tests.support.api import client_of, job_body, running_api


class Taken:
    """What the server was given."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.stuck_after = sys.maxsize

    async def send(self, message: Message) -> None:
        if len(self.messages) >= self.stuck_after:
            await asyncio.Event().wait()
        self.messages.append(message)

    @property
    def bodies(self) -> list[bytes]:
        return [each["body"] for each in self.messages if each["type"] == "http.response.body"]


def budget(max_bytes: int = RESPONSES_MAX_BYTES) -> ByteBudget:
    return ByteBudget(
        "responses", "ask for smaller pages", max_bytes, RESPONSES_MAX_BYTES_PER_CLIENT, allows_first=True
    )


async def answer(out: GuardedResponse, body: bytes) -> None:
    await out.send_whole(Response(body))


@pytest.mark.parametrize(
    ("size", "parts"),
    [(0, 1), (RESPONSE_PART_BYTES, 1), (RESPONSE_PART_BYTES + 1, 2), (3 * RESPONSE_PART_BYTES, 3)],
)
async def test_a_large_response_is_sent_in_parts(size: int, parts: int) -> None:
    """So that a client that does not read applies backpressure; only the last part ends the response."""
    taken, held = Taken(), budget()
    out = GuardedResponse(taken.send, "r", held, head=False)
    body = b"x" * size
    await answer(out, body)
    assert (b"".join(taken.bodies), len(taken.bodies)) == (body, parts)
    assert [each["more_body"] for each in taken.messages[1:]] == [True] * (parts - 1) + [False]
    out.release()
    assert held.held_bytes == 0


async def test_unread_responses_are_limited_together() -> None:
    """One beyond the limit is refused before anything is sent; later there is held again."""
    size = RESPONSE_PART_BYTES + 1
    held, taken, late = budget(2 * size - 1), Taken(), Taken()
    first, second = (GuardedResponse(each.send, "r", held, head=False) for each in (taken, late))
    await answer(first, b"x" * size)
    with pytest.raises(TooManyRequests, match="ask for smaller pages"):
        await answer(second, b"x" * size)
    assert late.messages == []
    assert not second.started
    first.release()
    await answer(second, b"x" * size)


async def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time limit; its bytes return to the budget."""
    monkeypatch.setattr(outgoing, "SEND_TIMEOUT_SECONDS", 0.01)
    taken, held = Taken(), budget()
    out = GuardedResponse(taken.send, "r", held, head=False)
    taken.stuck_after = 1  # the headers
    with pytest.raises(Disconnected):
        await answer(out, b"x" * (RESPONSE_PART_BYTES + 1))
    out.release()
    assert held.held_bytes == 0


async def test_head_returns_what_get_would(tmp_path: Any) -> None:
    """The same status and headers, and no body (RFC 9110, 9.3.2)."""
    async with running_api(tmp_path / "data") as (service, client):
        await client.put("/jobs", json=job_body())
        full, head = await client.get("/jobs/etl"), await client.head("/jobs/etl")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["ETag"] == full.headers["ETag"]
        assert head.headers["Content-Length"] == full.headers["Content-Length"]
        assert (await client.head("/jobs/none")).status_code == 404
        async with client_of(service) as other:
            assert (await other.head("http://127.0.0.1/docs")).status_code == 200


async def test_an_encoded_slash_is_never_taken_for_a_slash(tmp_path: Any) -> None:
    """`/jobs/a%2Frerun` is the job of that name, and does not rerun the job `a`."""
    async with running_api(tmp_path / "data") as (_, client):
        result = (await client.put("/jobs", json=job_body("a/rerun"))).json()
        await client.put("/jobs", json=job_body("a"))
        await client.delete("/jobs/a")
        answer = await client.put("/jobs/a%2Frerun", json=job_body("a/rerun", Priority=3))
        assert (answer.status_code, answer.json()["JobID"]) == (200, result["JobID"])
        assert (await client.get("/jobs/a%2frerun/versions")).json()["Items"][0]["Version"] in (1, 2)
        assert (await client.get("/jobs/a%2F%00rerun")).status_code == 400
        assert (await client.get("/jobs/a%00rerun")).status_code == 400
        assert (await client.get("/jobs/a")).json()["Job"]["Version"] == 1
        assert (await client.get(f"/jobs/{result['JobID']}")).json()["Job"]["Name"] == "a/rerun"


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match", "Idempotency-Key"])
async def test_an_empty_condition_does_not_count_as_none(tmp_path: Any, name: str) -> None:
    """An empty header, from an unset variable for example: nothing is written."""
    async with running_api(tmp_path / "data") as (_, client):
        answer = await client.put("/jobs", json=job_body(), headers={name: ""})
        assert (answer.status_code, answer.json()["Code"]) == (400, "BadRequest")
        assert (await client.get("/jobs")).json()["Items"] == []


async def test_one_response_may_be_larger_than_the_limit_if_no_other_is_held() -> None:
    """With several processes each has a share, and a proof may be larger than that."""
    held, taken, late = budget(RESPONSE_PART_BYTES), Taken(), Taken()
    first, second = (GuardedResponse(each.send, "r", held, head=False) for each in (taken, late))
    await answer(first, b"x" * (RESPONSE_PART_BYTES + 1))
    with pytest.raises(TooManyRequests):
        await answer(second, b"x" * (RESPONSE_PART_BYTES + 1))
    first.release()
