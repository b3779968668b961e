"""The service process with TLS and tokens."""

import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile
from jobledger.service.limits import BODY_MAX_BYTES
from tests.support.api import PREFIX, job_body, running_api
from tests.support.nats_servers import make_certificates
from tests.support.service_process import clean_env, running_service


def bearer(tokens: TokenFile, role: Role, *namespaces: str) -> dict[str, str]:
    """Create a token and return its header."""
    _, text = tokens.create("-".join([role, *namespaces]), role, namespaces or None)
    return {"authorization": f"Bearer {text}"}


async def test_a_job_of_another_namespace_is_not_found(tmp_path: Path) -> None:
    """By name, id or short id, to read or to change: 404, with the same message as for a missing job."""
    async with running_api(tmp_path) as (service, client):
        theirs = bearer(service.tokens, Role.WRITER, "theirs")
        mine = bearer(service.tokens, Role.WRITER, "mine")
        made = await client.put("/jobs", json=job_body("etl", Namespace="theirs"), headers=theirs)
        job_id = made.json()["JobID"]
        (await client.get(f"/jobs/{job_id}", headers=theirs)).raise_for_status()
        never = "j-00000000-0000-5000-8000-000000000000"
        for there, other, query in (
            (job_id, never, ""),
            (job_id[:10], never[:10], ""),
            ("etl", "not", "namespace=theirs"),
        ):
            for method, path in (
                ("GET", f"/jobs/{there}"),
                ("GET", f"/jobs/{there}/history"),
                ("GET", f"/jobs/{there}/versions"),
                ("GET", f"/jobs/{there}/executions"),
                ("GET", f"/jobs/{there}/wait"),
                ("PUT", f"/jobs/{there}/state"),
                ("DELETE", f"/jobs/{there}"),
            ):
                body = {"StateType": "Running"} if method == "PUT" else None
                url = f"{path}?state=Running&timeout=1&{query}"
                answer = await client.request(method, url, headers=mine, json=body)
                assert answer.status_code == 404, (method, path, answer.text)
                url = url.replace(there, other)
                unknown = await client.request(method, url, headers=mine, json=body)
                assert _words(answer).replace(there, other) == _words(unknown)
        compared = [
            await client.put("/jobs/diff", json=job_body(name, Namespace="theirs"), headers=mine)
            for name in ("etl", "not")
        ]
        assert [answer.status_code for answer in compared] == [404, 404]
        assert _words(compared[0]).replace("etl", "not") == _words(compared[1])
        assert (await client.get("/jobs", headers=mine)).json()["Items"] == []
        refused = await client.put("/jobs", json=job_body("etl", Namespace="theirs"), headers=mine)
        assert refused.status_code == 403
        history = (await client.get(f"/jobs/{job_id}/history", headers=theirs)).json()["Items"]
        assert [item["Actor"] for item in history] == ["writer-theirs"]


def _words(answer: httpx.Response) -> str:
    """The response without the request's id."""
    document = answer.json()
    del document["RequestID"]
    return json.dumps(document)


async def test_a_reader_changes_nothing(tmp_path: Path) -> None:
    """Every write: 403."""
    async with running_api(tmp_path) as (service, client):
        admin, reader = bearer(service.tokens, Role.ADMIN), bearer(service.tokens, Role.READER, "default")
        job_id = (await client.put("/jobs", json=job_body(), headers=admin)).json()["JobID"]
        for method, path, body in (
            ("PUT", "/jobs", job_body()),
            ("POST", "/jobs", job_body("new")),
            ("PUT", f"/jobs/{job_id}", job_body()),
            ("PUT", f"/jobs/{job_id}/state", {"StateType": "Running"}),
            ("PUT", f"/jobs/{job_id}/rerun", {}),
            ("DELETE", f"/jobs/{job_id}", {}),
        ):
            answer = await client.request(method, path, json=body, headers=reader)
            assert answer.status_code == 403, (method, path, answer.text)
        assert (await client.get(f"/jobs/{job_id}", headers=reader)).json()["Job"]["Revision"] == 1


@pytest.mark.timeout(180)
def test_the_service_serves_tls_and_requires_a_token(tmp_path: Path) -> None:
    """On any address, once there is a token, which is written nowhere."""
    make_certificates(tmp_path)
    tokens = TokenFile(tmp_path / "data" / "tokens.json")
    header = bearer(tokens, Role.ADMIN)
    tls = ("--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key"))
    with running_service(tmp_path, "--host", "0.0.0.0", *tls, ready=False) as service:
        url = f"https://127.0.0.1:{service.url.rpartition(':')[2]}"
        context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        with httpx.Client(base_url=url, verify=context, trust_env=False) as client:
            assert client.get("/livez").status_code == 200
            assert client.get(f"{PREFIX}/jobs").status_code == 401
            assert client.get(f"{PREFIX}/jobs", headers=header).status_code == 200
            assert client.get("/readyz?verbose").status_code == 401
            assert client.put(f"{PREFIX}/jobs", json=job_body(), headers=header).status_code == 200
            tokens.revoke("admin")
            deadline = time.monotonic() + 1  # a look at the file counts for TOKENS_POLL_SECONDS
            while client.get(f"{PREFIX}/jobs", headers=header).status_code == 200:
                assert time.monotonic() < deadline
            assert client.get(f"{PREFIX}/jobs", headers=header).status_code == 401
        with pytest.raises(httpx.TransportError):
            httpx.get(url.replace("https", "http") + "/livez", trust_env=False)
    reported = "\n".join(service.output)
    assert header["authorization"].removeprefix("Bearer ") not in reported


@pytest.mark.slow
def test_without_a_token_the_service_refuses_other_addresses(tmp_path: Path) -> None:
    """The start fails with the remedies."""
    command = [
        sys.executable,
        "-m",
        "jobledger.service.cli.main",
        "serve",
        "--host",
        "0.0.0.0",
        "--port",
        "0",
    ]
    ended = subprocess.run(
        [*command, "--data-dir", str(tmp_path / "data")],
        check=False,
        capture_output=True,
        text=True,
        env=clean_env(tmp_path),
        cwd=Path(__file__).parents[3],
        timeout=60,
    )
    assert ended.returncode == 2
    assert "jobledger token create" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_malformed_requests_do_not_bypass_the_middleware(tmp_path: Path) -> None:
    """Two hosts, none, an absolute URL, an ambiguous or too large body: a response, and no job."""
    with running_service(tmp_path) as service:
        port = int(service.url.rpartition(":")[2])
        path = f"{PREFIX}/jobs"
        body = json.dumps(job_body()).encode()
        media = b"Content-Type: application/json\r\n"
        length = b"Content-Length: %d\r\n" % len(body)
        put = f"PUT {path} HTTP/1.1\r\n".encode()
        cases = [
            (
                put + b"Host: localhost\r\nHost: evil.example\r\n" + media + length + b"\r\n" + body,
                {400, 403},
            ),
            (put + media + length + b"\r\n" + body, {400, 403}),
            (
                b"PUT http://localhost"
                + put[4:]
                + b"Host: evil.example\r\n"
                + media
                + length
                + b"\r\n"
                + body,
                {403},
            ),
            (put + b"Host: localhost.evil.example\r\n" + media + length + b"\r\n" + body, {403}),
            (put + b"Host: localhost\r\nOrigin: null\r\n" + media + length + b"\r\n" + body, {403}),
            (put + b"Host: localhost\r\nContent-Type: text/plain\r\n" + length + b"\r\n" + body, {415}),
            (put + b"Host: localhost\r\n" + media + length + b"Content-Length: 1\r\n\r\n" + body, {400}),
            (
                put + b"Host: localhost\r\n" + media + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
                {400},
            ),
            (put + b"Host: localhost\r\n" + media + b"Content-Length: 99999999999\r\n\r\n", {413}),
            (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", {400}),
            (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", {400, 405}),
        ]
        for request, statuses in cases:
            assert _status(port, request) in statuses, request[:200]
        huge = b" " * (BODY_MAX_BYTES + 1)
        with httpx.Client(base_url=service.url, trust_env=False) as client:
            for content in (huge, iter([huge] * 5)):
                headers = {"content-type": "application/json"}
                assert client.put(path, content=content, headers=headers).status_code == 413
            assert client.get(path).json()["Items"] == []


def _status(port: int, request: bytes) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(request)
        answer = connection.recv(4096)
    return int(answer.split(b" ", 2)[1])


@pytest.mark.slow
def test_a_feed_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    """Within a moment, with its cursor; one opened before there was a token ends with the first token."""
    with running_service(tmp_path) as service:
        tokens = TokenFile(service.data_dir / "tokens.json")
        with httpx.Client(base_url=service.url, trust_env=False, timeout=20.0) as client:
            with client.stream("GET", "/api/v1/events") as feed:
                lines = feed.iter_lines()
                next(lines)
                header = bearer(tokens, Role.READER, "a")
                assert "event: close" in list(lines)
            with client.stream("GET", "/api/v1/events", headers=header) as feed:
                lines = feed.iter_lines()
                next(lines)
                tokens.revoke("reader-a")
                assert "event: close" in list(lines)
            assert client.get("/api/v1/events", headers=header).status_code == 401
