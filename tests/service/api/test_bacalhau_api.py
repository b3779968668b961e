"""What Bacalhau's clients and typed clients send and expect, beyond the job operations."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger import named_job_id
from jobledger.service.access.principal import Role
from jobledger.service.api.app import create_app
from jobledger.service.wiring import Service
from tests.support.api import PREFIX, client_of, job_body, running_api
from tests.support.sse import served_api

ROOT = "http://127.0.0.1"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_api(tmp_path / "data") as running:
        yield running


async def test_a_client_without_a_credential_logs_in_where_there_are_no_tokens(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """Before its first request it lists the login methods, and gets a token that the service ignores."""
    _, client = api
    methods = (await client.get(f"{ROOT}/api/v1/auth")).json()["Methods"]
    assert methods["clientkey"]["type"] == "challenge"
    assert base64.b64decode(methods["clientkey"]["params"]["InputPhrase"], validate=True)
    answer = await client.post(
        f"{ROOT}/api/v1/auth/clientkey", json={"Name": "clientkey", "MethodData": "e30="}
    )
    assert (answer.status_code, answer.json()["Authentication"]["success"]) == (200, True)
    token = answer.json()["Authentication"]["token"]
    headers = {"Authorization": f"Bearer {token}"}
    assert (await client.put("/jobs", json=job_body(), headers=headers)).status_code == 200


async def test_a_service_with_tokens_offers_no_login(api: tuple[Service, httpx.AsyncClient]) -> None:
    """The client then mentions API keys; the login operations need no token and issue none."""
    service, _ = api
    service.tokens.create(name="root", role=Role.ADMIN)
    async with client_of(service) as client:
        answer = await client.get(f"{ROOT}/api/v1/auth")
        assert (answer.status_code, answer.json()) == (200, {"Methods": {}})
        assert (await client.post(f"{ROOT}/api/v1/auth/clientkey", json={})).status_code == 401
        assert (await client.get(f"{ROOT}/api/v1/agent/authconfig")).json() == {
            "Version": "1.0.0",
            "Config": {},
        }
        assert (await client.get("/jobs")).status_code == 401


async def test_the_version_is_what_go_decodes(api: tuple[Service, httpx.AsyncClient]) -> None:
    """`time.Time` takes no empty string, and architectures have Go's names."""
    _, client = api
    version = (await client.get(f"{ROOT}/api/v1/agent/version")).json()
    assert all(version.values())
    assert datetime.fromisoformat(version["BuildDate"][:19]).year > 2000
    assert version["BuildDate"].endswith("Z")
    assert version["GOARCH"] not in {"x86_64", "aarch64"}


ZEROS: list[dict[str, Any]] = [
    {"State": {"StateType": "Undefined"}},
    {"State": {"StateType": ""}},
    {"State": {"StateType": "Undefined", "Message": "", "Details": {}}},
    {"State": {}, "Version": 0, "Revision": 0, "CreateTime": 0, "ModifyTime": 0, "ID": ""},
    {"State": None, "Version": None, "state": None},
]


@pytest.mark.parametrize("zeros", ZEROS)
async def test_zero_values_of_typed_clients_are_ignored_silently(
    api: tuple[Service, httpx.AsyncClient], zeros: dict[str, Any]
) -> None:
    """No warning, and nothing to refuse when strict; a value that is meant is both."""
    _, client = api
    for query in ("", "?strict=true"):
        answer = await client.put(f"/jobs{query}", json=job_body(**zeros))
        assert (answer.status_code, (answer.json()["Warnings"] or [])[:0]) == (200, [])
        assert not [
            warning for warning in answer.json()["Warnings"] or [] if "State" in warning.partition(":")[0]
        ]
    meant = job_body(State={"StateType": "Running"}, Version=3)
    assert (await client.put("/jobs?strict=true", json=meant)).status_code == 400
    assert len((await client.put("/jobs", json=meant)).json()["Warnings"]) >= 2


async def test_a_failures_reason_reaches_the_history(api: tuple[Service, httpx.AsyncClient]) -> None:
    """`bacalhau job run` shows items with IsError; the state's details do not override the reserved ones."""
    _, client = api
    await client.put("/jobs", json=job_body())
    details = {"ErrorCode": "Docker:ImageNotFound", "IsError": "no", "Hint": "check the name"}
    state = {"StateType": "Failed", "Message": "image not found", "Details": details}
    await client.put("/jobs/etl/state", json=state)
    item = (await client.get("/jobs/etl/history")).json()["Items"][-1]
    assert item["Event"]["Message"] == "Failed: image not found"
    assert item["Event"]["Details"] == {**details, "NewState": "Failed", "IsError": "true"}
    running = {"StateType": "Running", "Details": {"node": "3"}}
    await client.put("/jobs/etl/rerun", json={"Reason": "again"})
    await client.put("/jobs/etl/state", json=running)
    items = (await client.get("/jobs/etl/history")).json()["Items"]
    assert items[-2]["Event"]["Message"] == "Job rerun requested"
    assert items[-2]["Event"]["Details"]["Reason"] == "again"
    assert items[-1]["Event"]["Details"] == {"node": "3", "NewState": "Running"}
    await client.put("/jobs", json=job_body(Priority=2))
    assert (await client.get("/jobs/etl/history")).json()["Items"][-1]["Event"]["Message"] == "Job updated"


async def test_if_match_any_creates_no_job(api: tuple[Service, httpx.AsyncClient]) -> None:
    """`*` is any revision of a job that exists (RFC 9110, 13.1.1)."""
    service, client = api
    for name in ("etl", ""):
        refused = await client.put("/jobs", json=job_body(name), headers={"If-Match": "*"})
        assert (refused.status_code, refused.json()["Code"]) == (412, "ConflictJobRevision")
    assert (await service.log.info()).last_sequence == 0
    await client.put("/jobs", json=job_body())
    updated = await client.put("/jobs", json=job_body(Priority=3), headers={"If-Match": " * "})
    assert (updated.status_code, updated.json()["Revision"]) == (200, 2)


@pytest.mark.parametrize("path", ["/jobs/", "/jobs//", "/jobs//state", "/jobs/etl/state/"])
async def test_a_write_with_an_empty_name_is_not_found(
    api: tuple[Service, httpx.AsyncClient], path: str
) -> None:
    """The router ignores empty segments: `PUT /jobs/` would submit a job."""
    service, client = api
    answer = await client.put(path, json={**job_body(), "StateType": "Running"})
    assert answer.status_code == 404
    assert (await service.log.info()).last_sequence == 0


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/jobs", "GET, HEAD, OPTIONS, POST, PUT"),
        ("/jobs/x", "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/jobs/x/state", "OPTIONS, PUT"),
        (f"{ROOT}/livez", "GET, HEAD, OPTIONS"),
    ],
)
async def test_options_and_405_name_every_method(
    api: tuple[Service, httpx.AsyncClient], path: str, methods: str
) -> None:
    """The framework names those of one handler."""
    _, client = api
    assert (await client.options(path)).headers["Allow"] == methods
    refused = await client.request("PATCH", path, json={})
    assert (refused.status_code, refused.headers["Allow"]) == (405, methods)


async def test_two_tokens_of_one_name_share_no_idempotency_key(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """Tokens of other namespaces are other clients, even with the same name."""
    service, _ = api
    service.tokens.create(name="root", role=Role.ADMIN)
    for namespace in ("a", "b"):
        token = service.tokens.create(name="ci", role=Role.WRITER, namespaces=(namespace,))[1]
        headers = {"Authorization": f"Bearer {token}", "Idempotency-Key": "build-1"}
        async with client_of(service, headers) as client:
            answer = await client.put("/jobs", json=job_body("etl", Namespace=namespace))
            assert (answer.status_code, answer.json()["JobID"]) == (200, named_job_id(namespace, "etl"))


async def over_websocket(service: Service, path: str, token: str = "") -> list[dict[str, Any]]:
    """The messages sent to a client that opens a WebSocket."""
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), *([(b"authorization", f"Bearer {token}".encode())] if token else [])]
    scope = {"type": "websocket", "path": path, "raw_path": path.encode(), "query_string": b"follow=true"}
    scope |= {"http_version": "1.1", "headers": headers, "client": ("127.0.0.1", 1), "scheme": "ws"}
    await create_app(service)(scope, receive, send)
    return sent


async def test_logs_over_a_websocket_are_refused_with_a_message_that_the_client_shows(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """One message of Bacalhau's log stream with the error, then a normal close; over HTTP a plain 404."""
    service, client = api
    sequence = (await client.put("/jobs", json=job_body())).json()["Sequence"]
    refused = await client.get("/jobs/etl/logs", params={"wait_for": str(sequence)})
    assert refused.status_code == 404
    assert "Jobledger does not store the output of executions" in refused.json()["detail"]
    accepted, message, closed = await over_websocket(service, f"{PREFIX}/jobs/etl/logs")
    assert accepted["type"] == "websocket.accept"
    assert "Jobledger does not store the output of executions" in json.loads(message["text"])["error"]
    assert json.loads(message["text"])["value"] == {"Type": 0, "Line": ""}
    assert (closed["type"], closed["code"]) == ("websocket.close", 1000)
    _, missing, _ = await over_websocket(service, f"{PREFIX}/jobs/other/logs")
    assert "other" in json.loads(missing["text"])["error"]


async def test_a_job_named_logs_is_not_sent_over_a_websocket(api: tuple[Service, httpx.AsyncClient]) -> None:
    """Its path ends like that of logs; the handshake is refused."""
    service, client = api
    sequence = (await client.put("/jobs", json=job_body("logs"))).json()["Sequence"]
    assert (await client.get("/jobs/logs", params={"wait_for": str(sequence)})).status_code == 200
    [closed] = await over_websocket(service, f"{PREFIX}/jobs/logs")
    assert closed["type"] == "websocket.close"


async def test_the_real_server_answers_a_websocket_handshake(tmp_path: Path) -> None:
    """101, one text frame with the error, and a close frame; no handshake on another path."""
    key = base64.b64encode(bytes(16)).decode()
    async with served_api(tmp_path) as (_, client):
        read = []
        for path in ("/jobs/none/logs", "/jobs/none"):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.base_url.port)
            head = f"GET {PREFIX}{path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
            head += "Upgrade: websocket\r\n"
            writer.write(f"{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode())
            async with asyncio.timeout(20):
                answer = await reader.readuntil(b"\r\n\r\n")
                if answer.startswith(b"HTTP/1.1 101 "):
                    answer += await reader.readuntil(b"\x88\x02\x03\xe8")  # close, with code 1000
            read.append(answer)
            writer.close()
            await writer.wait_closed()
    assert b'"error":"' in read[0]
    assert read[0].startswith(b"HTTP/1.1 101 ")
    assert read[1].startswith(b"HTTP/1.1 403 ")


async def test_a_websocket_is_checked_as_a_request_over_http_is(
    api: tuple[Service, httpx.AsyncClient],
) -> None:
    """It needs a token if the service has tokens, and only logs are served this way."""
    service, client = api
    await client.put("/jobs", json=job_body())
    _, token = service.tokens.create(name="b", role=Role.READER, namespaces=("b",))
    for given, words in (("", "token"), (token, "etl")):
        _, message, _ = await over_websocket(service, f"{PREFIX}/jobs/etl/logs", given)
        assert words in json.loads(message["text"])["error"]
        assert "does not store the output" not in message["text"]
    [closed] = await over_websocket(service, f"{PREFIX}/jobs/etl", token)
    assert closed["type"] == "websocket.close"


@pytest.mark.parametrize("digits", [12, 13, 16, 19])
async def test_a_history_since_other_units_than_seconds_is_refused(
    api: tuple[Service, httpx.AsyncClient], digits: int
) -> None:
    """Nanoseconds would be read as a time in the far future, and the history would be empty."""
    _, client = api
    sequence = (await client.put("/jobs", json=job_body())).json()["Sequence"]
    query = {"since": str(1_796_053_958_476_586_276)[:digits], "wait_for": str(sequence)}
    refused = await client.get("/jobs/etl/history", params=query)
    assert refused.status_code == 400
    assert "must be Unix seconds" in refused.json()["detail"]
    kept = await client.get("/jobs/etl/history", params={**query, "since": "1796053958"[:9]})
    assert len(kept.json()["Items"]) == 1
