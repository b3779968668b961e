"""A token sees its namespaces and nothing else, on every route."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobledger import named_job_id
from jobledger.service.access.principal import Role
from jobledger.service.wiring import Service
from tests.support.api import PREFIX, client_of, job_body, running_api

SECRET = named_job_id("theirs", "secret")


class Tokens:
    """A service with a job in `mine` and one in `theirs`, and clients with tokens of each kind."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def client(self, name: str, role: Role, *namespaces: str) -> httpx.AsyncClient:
        """A client with a new token."""
        token = self.service.tokens.create(name=name, role=role, namespaces=namespaces or None)[1]
        return client_of(self.service, {"Authorization": f"Bearer {token}"})


@pytest.fixture
async def tokens(tmp_path: Path) -> AsyncIterator[Tokens]:
    """The service; the jobs were made by an administrator."""
    async with running_api(tmp_path / "data") as (service, _):
        tokens = Tokens(service)
        root = tokens.client("root", Role.ADMIN)
        for namespace, name in (("mine", "etl"), ("theirs", "secret")):
            answer = await root.put("/jobs", json=job_body(name, Namespace=namespace))
            assert answer.status_code == 200, answer.text
        yield tokens


async def test_a_job_of_another_namespace_is_not_there(tokens: Tokens) -> None:
    """404 on every route, by id, short id and name: exactly as for a job that never was."""
    writer = tokens.client("alice", Role.WRITER, "mine")
    missing = named_job_id("theirs", "missing")
    routes = [
        ("GET", "/jobs/{}"),
        ("GET", "/jobs/{}/history"),
        ("GET", "/jobs/{}/versions"),
        ("GET", "/jobs/{}/executions"),
        ("GET", "/jobs/{}/results"),
        ("GET", "/jobs/{}/wait?state=terminal&timeout=1s"),
        ("PUT", "/jobs/{}"),
        ("PUT", "/jobs/{}/state"),
        ("PUT", "/jobs/{}/rerun"),
        ("DELETE", "/jobs/{}"),
    ]
    body = {**job_body("secret", Namespace="theirs"), "StateType": "Running", "Namespace": "theirs"}
    for method, path in routes:
        for ref, other in ((SECRET, missing), (SECRET[:12], missing[:12]), ("secret", "missing")):
            answers = [
                await writer.request(method, path.format(one), json=body if method != "GET" else None)
                for one in (ref, other)
            ]
            assert [answer.status_code for answer in answers] == [404, 404], (method, path, answers[0].text)
            texts = [answer.text.replace(ref, "X").replace(other, "X") for answer in answers]
            ids = [answer.headers["X-Request-ID"] for answer in answers]
            assert texts[0].replace(ids[0], "") == texts[1].replace(ids[1], ""), path


async def test_a_list_shows_only_what_may_be_seen(tokens: Tokens) -> None:
    """Without a namespace, the jobs of all of the token's namespaces; another namespace is refused."""
    alice = tokens.client("alice", Role.READER, "mine")
    for query in ("", "?namespace=*", "?namespace="):
        items = (await alice.get(f"/jobs{query}")).json()["Items"]
        assert [job["Namespace"] for job in items] == ["mine"]
    assert (await alice.get("/jobs?namespace=theirs")).status_code == 403
    bob = tokens.client("bob", Role.READER, "mine", "theirs")
    root = tokens.client("other", Role.ADMIN)
    assert (await root.put("/jobs", json=job_body("hidden", Namespace="third"))).status_code == 200
    for query in ("", "?namespace=*", "?namespace=", "?at=now", "?namespace=*&order_by=modified_at&limit=1"):
        items, token = [], ""
        while True:
            page = (await bob.get(f"/jobs{query}{'&' if query else '?'}next_token={token}")).json()
            items += page["Items"]
            token = page["NextToken"]
            if not token:
                break
        assert sorted(job["Namespace"] for job in items) == ["mine", "theirs"]
    assert (await bob.get("/jobs?namespace=third")).status_code == 403
    assert len((await bob.get("/jobs?namespace=theirs")).json()["Items"]) == 1


async def test_nobody_submits_into_another_namespace(tokens: Tokens) -> None:
    """Nor compares with what is there."""
    alice = tokens.client("alice", Role.WRITER, "mine")
    body = job_body("secret", Namespace="theirs")
    assert (await alice.put("/jobs", json=body)).status_code == 403
    assert (await alice.put("/jobs/diff", json=body)).status_code == 404
    assert (await alice.put("/jobs", json=job_body())).status_code == 403  # the default namespace is not hers
    root = tokens.client("again", Role.ADMIN)
    assert (await root.get(f"/jobs/{SECRET}")).json()["Job"]["Revision"] == 1


async def test_a_reader_reads_and_a_writers_name_is_in_the_log(tokens: Tokens) -> None:
    """The token's name is the event's actor, even if the request names another one."""
    reader = tokens.client("alice", Role.READER, "mine")
    assert (await reader.get("/jobs/etl?namespace=mine")).status_code == 200
    refused = await reader.delete("/jobs/etl?namespace=mine")
    assert (refused.status_code, refused.json()["Code"]) == (403, "Forbidden")
    writer = tokens.client("bob", Role.WRITER, "mine")
    stopped = await writer.delete("/jobs/etl?namespace=mine", headers={"Jobledger-Actor": "root"})
    assert stopped.status_code == 200
    history = (await writer.get("/jobs/etl/history?namespace=mine")).json()["Items"]
    assert [item["Actor"] for item in history] == ["root", "bob"]


async def test_without_a_token_nothing_is_told(tokens: Tokens) -> None:
    """401 on every route of jobs, as soon as there is one token."""
    async with client_of(tokens.service) as anonymous:
        for path in ("/jobs", f"/jobs/{SECRET}", "/none"):
            answer = await anonymous.get(path)
            assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
            assert SECRET not in answer.text.replace(f"{PREFIX}{path}", "")
