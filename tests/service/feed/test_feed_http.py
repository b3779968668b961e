"""The live feed over HTTP: Server-Sent Events on a real socket, and the wait for a state."""

import asyncio
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.wiring import Service
from tests.support.api import PREFIX, job_body
from tests.support.logs import eventually
from tests.support.sse import Message, Reader, feed, served_api


async def submit(client: httpx.AsyncClient, name: str = "etl", **fields: Any) -> int:
    """Submit a job; returns the sequence of its event."""
    answer = await client.put(f"{PREFIX}/jobs", json=job_body(name, **fields))
    assert answer.status_code == 200, answer.text
    return int(answer.json()["Sequence"])


async def report(client: httpx.AsyncClient, state: str, name: str = "etl", message: str = "") -> int:
    """Report a state; returns the sequence of its event."""
    body = {"StateType": state, "Message": message}
    answer = await client.put(f"{PREFIX}/jobs/{name}/state", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["Sequence"])


def limit(service: Service, **limits: Any) -> None:
    """Change the feed limits of a running service."""
    service.hub.limits = msgspec.structs.replace(service.hub.limits, **limits)


async def test_an_event_has_its_cursor_type_and_position(tmp_path: Path) -> None:
    """`id`, `event` and `data` are as documented; the first comment precedes any event."""
    async with served_api(tmp_path) as (service, client), feed(client) as reader:
        assert reader.response.headers["content-type"] == "text/event-stream; charset=utf-8"
        sequence = await submit(client, Labels={"env": "prod"})
        [message] = await reader.take(1)
        assert reader.comments == [f"heartbeat {service.stream_tag}-0"]
        assert message.id == reader.last_id == f"{service.stream_tag}-{sequence}"
        assert message.event == message.data["type"] == "jobledger.job.created.v1"
        extra = {key: message.data[key] for key in ("sequence", "revision", "version", "specversion")}
        assert extra == {"sequence": f"{sequence:020}", "revision": 1, "version": 1, "specversion": "1.0"}
        assert message.data["streamtime"].endswith("Z")
        assert message.data["data"]["Spec"]["Labels"] == {"env": "prod"}
        assert message.data["source"] == f"/jobledger/{service.stream_tag}"
        await report(client, "Running")
        [message] = await reader.take(1)
        assert (message.data["name"], message.data["namespace"]) == ("etl", "default")
        assert "matches" not in message.data


async def test_an_update_that_removes_a_label_is_sent_live_and_from_the_log(tmp_path: Path) -> None:
    """A feed of `env=prod` gets the event of a job that loses the label, from the ring and the log."""
    async with served_api(tmp_path) as (service, client), feed(client, labels="env=prod") as live:
        await submit(client, Labels={"env": "prod"})
        await report(client, "Running")
        left = await submit(client, Labels={"env": "dev"})
        await report(client, "Failed")
        back = await submit(client, Labels={"env": "prod"})
        wanted = [(1, "after"), (2, "both"), (left, "before"), (back, "after")]
        assert [(each.sequence, each.data["matches"]) for each in await live.take(4)] == wanted
        service.hub.ring.restart(service.hub.sequence)
        async with feed(client, after="0", labels="env=prod") as late, feed(client, after="0") as whole:
            assert [(each.sequence, each.data["matches"]) for each in await late.take(4)] == wanted
            assert not any("matches" in each.data for each in await whole.take(5))


async def test_a_feed_resumes_with_last_event_id(tmp_path: Path) -> None:
    """`Last-Event-ID` overrides `after`; `after=0` is the start, and a bare sequence is accepted."""
    async with served_api(tmp_path) as (service, client):
        for number in range(5):
            await submit(client, f"job-{number}")

        async def first(last_event_id: str = "", **query: Any) -> Message:
            async with feed(client, last_event_id, **query) as reader:
                return (await reader.take(1))[0]

        assert (await first(after="0")).sequence == 1
        assert (await first(after="2")).sequence == 3
        assert (await first(after=f"{service.stream_tag}-3")).sequence == 4
        assert (await first(f"{service.stream_tag}-4", after="0")).sequence == 5


async def test_filters_come_from_the_query(tmp_path: Path) -> None:
    """Each parameter filters; values of one parameter are alternatives, and all parameters must match."""
    async with served_api(tmp_path) as (_, client):
        await submit(client, "a", Labels={"env": "prod"})
        await submit(client, "b", Labels={"env": "dev"})
        await submit(client, "c", Namespace="other", Labels={"env": "prod"})
        await report(client, "Running", "a")
        await report(client, "Running", "b")
        await report(client, "Completed", "a")
        last = await submit(client, "last", Namespace="other", Labels={"env": "prod"})

        async def all_of(count: int, **query: Any) -> list[int]:
            async with feed(client, after="0", **query) as reader:
                return [message.sequence for message in await reader.take(count)]

        assert await all_of(7) == [1, 2, 3, 4, 5, 6, last]
        assert await all_of(7, namespace="*") == [1, 2, 3, 4, 5, 6, last]
        assert await all_of(2, namespace="other") == [3, last]
        assert await all_of(3, job="a") == [1, 4, 6]
        assert await all_of(1, job="c", namespace="other") == [3]
        assert await all_of(3, type="state") == [4, 5, 6]
        assert await all_of(7, type=["state", "jobledger.job.created.v1"]) == [1, 2, 3, 4, 5, 6, last]
        assert await all_of(3, state="running,COMPLETED") == [4, 5, 6]
        assert await all_of(5, labels="env=prod") == [1, 3, 4, 6, last]
        assert await all_of(2, labels="env=prod", type="state", namespace="default") == [4, 6]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ({"after": "nonsense"}, 400, "BadRequest"),
        ({"after": "0123456789ab-1"}, 410, "CursorGone"),
        ({"after": "99"}, 410, "CursorGone"),
        ({"type": "removed"}, 400, "BadRequest"),
        ({"state": "Dead"}, 400, "BadRequest"),
        ({"labels": "a in"}, 400, "BadRequest"),
        ({"job": "nobody"}, 404, "NotFound"),
    ],
)
async def test_an_invalid_request_is_refused_before_the_feed_starts(
    tmp_path: Path, query: dict[str, str], status: int, code: str
) -> None:
    """It is a problem document with its status, never an empty stream."""
    async with served_api(tmp_path) as (_, client):
        answer = await client.get("/api/v1/events", params=query)
        assert (answer.status_code, answer.json()["Code"]) == (status, code)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_a_scoped_token_sees_its_namespaces_only(tmp_path: Path) -> None:
    """Without a namespace the feed has all of them; another one is refused; other jobs are not found."""
    async with served_api(tmp_path) as (service, client):
        _, admin = service.tokens.create("root", Role.ADMIN)
        _, scoped = service.tokens.create("two", Role.READER, ["a", "b"])
        client.headers["Authorization"] = f"Bearer {admin}"
        for namespace in ("a", "secret", "b"):
            await submit(client, "x", Namespace=namespace)
        client.headers["Authorization"] = f"Bearer {scoped}"
        async with feed(client, after="0") as reader:
            assert [message.data["namespace"] for message in await reader.take(2)] == ["a", "b"]
        assert (await client.get("/api/v1/events?namespace=secret")).status_code == 403
        assert (await client.get("/api/v1/events?job=x&namespace=secret")).status_code in {403, 404}
        assert (await client.get(f"{PREFIX}/jobs/x/wait?namespace=secret&state=Running")).status_code == 404


async def test_a_revoked_token_ends_its_feeds_with_their_cursor(tmp_path: Path) -> None:
    """Within moments, even without events; another token can resume at the cursor."""
    async with served_api(tmp_path) as (service, client):
        limit(service, tick_seconds=0.02)
        record, secret = service.tokens.create("root", Role.ADMIN)
        client.headers["Authorization"] = f"Bearer {secret}"
        sequence = await submit(client)
        async with feed(client) as reader:
            service.tokens.create("other", Role.ADMIN)
            service.tokens.revoke(record.id)
            message = await reader.next()
            assert message is not None
            assert (message.event, message.data["reason"]) == ("close", "the token is no longer valid")
            assert message.data["cursor"] == message.id == f"{service.stream_tag}-{sequence}"
            assert await reader.next() is None


async def test_too_many_feeds_of_one_client_are_refused(tmp_path: Path) -> None:
    """429 with Retry-After; a feed whose client disconnected no longer counts."""
    async with served_api(tmp_path, feeds_per_client=2) as (service, client):
        async with feed(client), feed(client):
            answer = await client.get("/api/v1/events")
            assert (answer.status_code, answer.json()["Code"]) == (429, "TooManyRequests")
            assert answer.headers["Retry-After"]
        await eventually(lambda: len(service.hub) == 0)
        async with feed(client):
            pass


async def test_heartbeats_advance_a_silent_feed(tmp_path: Path) -> None:
    """The last event ID of an EventSource is after all events that did not match."""
    async with served_api(tmp_path) as (service, client):
        limit(service, heartbeat_seconds=0.05, tick_seconds=0.01)
        async with feed(client, namespace="elsewhere") as reader:
            sequence = await submit(client)
            reading = asyncio.create_task(reader.next())
            await eventually(lambda: reader.last_id == f"{service.stream_tag}-{sequence}")
            assert f"heartbeat {service.stream_tag}-{sequence}" in reader.comments
            assert not reading.done()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def test_a_drain_closes_feeds_with_their_cursor(tmp_path: Path) -> None:
    """`event: close` is the last event; afterwards no feed can be opened."""
    async with served_api(tmp_path) as (service, client), feed(client, after="0") as reader:
        sequence = await submit(client)
        await reader.take(1)
        service.draining.set()
        await service.hub.close()
        message = await reader.next()
        assert message is not None
        assert (message.event, message.id) == ("close", f"{service.stream_tag}-{sequence}")
        assert await reader.next() is None
        assert (await client.get("/api/v1/events")).status_code == 503


@pytest.mark.slow
async def test_a_reader_that_accepts_nothing_is_disconnected(tmp_path: Path) -> None:
    """A blocked socket is closed after the send timeout; other readers get everything meanwhile."""
    async with served_api(tmp_path) as (service, client):
        limit(service, send_timeout_seconds=0.5, tick_seconds=0.05)
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", client.base_url.port or 0))
            sock.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            await asyncio.to_thread(sock.recv, 16)
            async with feed(client) as reader:
                message = "x" * 16_000
                taking = asyncio.create_task(reader.take(1_001))
                await submit(client)
                for number in range(1_000):
                    await report(client, "Running", message=f"{number} {message}")
                messages = await taking
                assert [each.sequence for each in messages] == list(range(1, 1_002))
                await eventually(lambda: len(service.hub) == 1, within_seconds=20)
            sock.settimeout(10)
            left = await asyncio.to_thread(_read_to_the_end, sock)
            assert left < 16_000 * 1_000


def _read_to_the_end(sock: socket.socket) -> int:
    size = 0
    try:
        while data := sock.recv(65_536):
            size += len(data)
    except ConnectionResetError:
        pass
    return size


@pytest.mark.slow
async def test_five_hundred_feeds_over_http(tmp_path: Path) -> None:
    """One process serves 500 readers, each with every event once, in order."""
    async with served_api(tmp_path, feeds_per_client=500) as (_, client), AsyncExitStack() as stack:
        readers: list[Reader] = [await stack.enter_async_context(feed(client)) for _ in range(500)]
        sequences = [await submit(client, f"job-{number}") for number in range(20)]
        for messages in await asyncio.gather(*(reader.take(20) for reader in readers)):
            assert [message.sequence for message in messages] == sequences
