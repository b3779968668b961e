"""The middleware: who is let in, in which order requests are refused, and the common headers."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from jobledger.service.access.principal import ANONYMOUS, Role
from jobledger.store.model.errors import JobNotFound
from jobledger.store.model.limits import ACTOR_MAX_CHARACTERS
from tests.support.middleware import JSON, Guarded

EVIL = "evil.example"
PROBES = ("/livez", "/readyz", "/api/v1/agent/alive")
PUBLIC = (
    *PROBES,
    "/",
    "/docs",
    "/openapi.json",
    "/asyncapi.json",
    "/version",
    "/api/v1/agent/version",
    "/api/v1/agent/authconfig",
    "/api/v1/auth",
    "/api/v1/auth/clientkey",
)


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


def with_token(guarded: Guarded, role: Role, *namespaces: str) -> dict[str, str]:
    """The header of a new token."""
    _, text = guarded.tokens.create("ci", role, namespaces or None)
    return {"authorization": f"Bearer {text}"}


async def test_without_tokens_local_callers_may_do_everything(guarded: Guarded) -> None:
    """They may name themselves as the actor."""
    assert (await guarded.ask()).status == 200
    assert guarded.principal.name == ""
    assert guarded.principal.visible is None
    # Nothing of another request's.
    assert guarded.scopes[-1]["state"].keys() == {"request_id", "service", "headers", "principal"}
    await guarded.ask(headers={"jobledger-actor": "zoë".encode().decode("latin-1")})
    assert (guarded.principal.name, guarded.principal.role) == ("zoë", Role.ADMIN)


@pytest.mark.parametrize("actor", ["\xff\xfe", "a\tb", "x" * (ACTOR_MAX_CHARACTERS + 1)])
async def test_an_actor_that_cannot_stand_in_the_record_is_refused(guarded: Guarded, actor: str) -> None:
    """A bad request, not an internal error."""
    answer = await guarded.ask(headers={"jobledger-actor": actor})
    assert answer.status == 400
    assert "Jobledger-Actor" in answer.problem["detail"]


async def test_with_a_token_its_name_is_the_actor_whatever_the_client_says(guarded: Guarded) -> None:
    """The actor cannot be forged."""
    header = with_token(guarded, Role.WRITER, "a")
    assert (await guarded.ask(headers={**header, "jobledger-actor": "boss"})).status == 200
    assert guarded.principal.name == "ci"
    assert guarded.principal.visible == frozenset({"a"})


async def test_with_tokens_a_request_without_one_is_refused(guarded: Guarded) -> None:
    """From the very first token on, with a challenge."""
    assert (await guarded.ask()).status == 200
    with_token(guarded, Role.READER)
    seen = len(guarded.scopes)
    for path in ("/api/v1/orchestrator/jobs", "/api/v1/events", "/nowhere"):
        answer = await guarded.ask(path)
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
    assert len(guarded.scopes) == seen


async def test_a_revoked_token_is_refused_at_once(guarded: Guarded) -> None:
    """With the next request."""
    header = with_token(guarded, Role.ADMIN)
    assert (await guarded.ask(headers=header)).status == 200
    guarded.tokens.revoke("ci")
    assert (await guarded.ask(headers=header)).status == 401
    assert (await guarded.ask()).status == 401


async def test_a_token_in_the_url_is_none(guarded: Guarded) -> None:
    """URLs end up in logs."""
    text = with_token(guarded, Role.ADMIN)["authorization"].removeprefix("Bearer ")
    for query in (f"token={text}", f"access_token={text}"):
        assert (await guarded.ask(f"/api/v1/events?{query}")).status == 401


@pytest.mark.parametrize("path", PUBLIC)
async def test_public_paths_are_answered_without_a_token(guarded: Guarded, path: str) -> None:
    """Health and the description of the API; as an anonymous caller, even with a token."""
    header = with_token(guarded, Role.ADMIN)
    for headers in ({}, header):
        assert (await guarded.ask(path, headers)).status == 200
        assert guarded.principal == ANONYMOUS


@pytest.mark.parametrize(
    "path",
    ["/livez/", "//livez", "/readyz?verbose", "/readyz?verbose=1", "/docs/../metrics", "/Docs", "/metrics"],
)
async def test_everything_else_needs_a_token(guarded: Guarded, path: str) -> None:
    """What is open is a list of exact paths, so that no spelling of another path slips through."""
    with_token(guarded, Role.READER)
    assert (await guarded.ask(path)).status == 401


@pytest.mark.parametrize(
    "path", ["/metrics", "/metrics/", "//metrics", "/readyz?verbose", "/readyz/?verbose"]
)
async def test_figures_of_the_whole_are_not_for_a_token_of_some_namespaces(
    guarded: Guarded, path: str
) -> None:
    """In every spelling that the router accepts."""
    some = with_token(guarded, Role.WRITER, "a")
    whole = with_token(guarded, Role.READER)
    assert (await guarded.ask(path, some)).status == 403
    assert (await guarded.ask(path, whole)).status == 200


async def test_a_damaged_token_file_closes_all_but_health_and_says_nothing(guarded: Guarded) -> None:
    """503: it is not the client's fault."""
    header = with_token(guarded, Role.ADMIN)
    guarded.tokens.path.write_text("{")
    for headers in ({}, header):
        answer = await guarded.ask(headers=headers)
        assert answer.status == 503
        assert str(guarded.tokens.path) not in answer.body.decode()
    assert (await guarded.ask("/livez")).status == 200


async def test_a_service_that_others_can_reach_is_never_open(tmp_path: Path) -> None:
    """Not even if its token file goes away unseen."""
    guarded = Guarded(tmp_path, host="192.0.2.1", allowed_hosts=("jobs.example",))
    for host in ("192.0.2.1", "jobs.example", "localhost"):
        assert (await guarded.ask(host=host)).status == 503
    assert (await guarded.ask("/livez", host="localhost")).status == 200
    header = with_token(guarded, Role.ADMIN)
    assert (await guarded.ask(headers=header)).status == 200
    guarded.tokens.path.unlink()
    assert (await guarded.ask(headers=header)).status == 503


@pytest.mark.parametrize(
    "name",
    ["host", "authorization", "origin", "content-type", "content-length", "x-request-id", "jobledger-actor"],
)
async def test_a_header_that_says_two_things_is_refused(guarded: Guarded, name: str) -> None:
    """A proxy before us may have believed the other one."""
    answer = await guarded.ask(
        headers=[(name, "127.0.0.1"), (name, "2")], host=None if name == "host" else "localhost"
    )
    assert answer.status in {400, 403}
    assert guarded.scopes == []


async def test_the_second_of_two_tokens_does_not_count(guarded: Guarded) -> None:
    """Nor does the first."""
    header = with_token(guarded, Role.ADMIN)["authorization"]
    for pair in ((header, "Bearer x"), ("Bearer x", header), (header, header)):
        answer = await guarded.ask(headers=[("authorization", each) for each in pair])
        assert answer.status in {400, 401}
    assert guarded.scopes == []


async def test_a_draining_service_takes_nothing_new_and_answers_for_its_health(guarded: Guarded) -> None:
    """With Retry-After; also without a token."""
    with_token(guarded, Role.READER)
    guarded.draining.set()
    answer = await guarded.ask(method="PUT", body=b"{}", headers=JSON)
    assert (answer.status, answer.problem["Code"]) == (503, "NotReady")
    assert int(answer.headers["retry-after"]) > 0
    for path in PROBES:
        assert (await guarded.ask(path)).status == 200


async def test_every_answer_carries_the_request_id_and_cautious_headers(guarded: Guarded) -> None:
    """Refusals as well; the id is the client's if it is one."""
    for path, status in (("/livez", 200), ("nowhere", 400)):
        answer = await guarded.ask(path, {"x-request-id": "a-1.b_2"})
        assert answer.status == status
        assert answer.headers["x-request-id"] == "a-1.b_2"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-frame-options"] == "DENY"
    assert answer.problem["RequestID"] == "a-1.b_2"


@pytest.mark.parametrize("given", ["", "a b", "a\nset-cookie: x", "é", "x" * 129, '"><script>'])
async def test_a_request_id_that_is_none_is_replaced(guarded: Guarded, given: str) -> None:
    """It goes into headers and logs."""
    first = await guarded.ask(headers={"x-request-id": given})
    second = await guarded.ask(headers={"x-request-id": given})
    assert first.headers["x-request-id"] not in {given, second.headers["x-request-id"]}


async def test_what_the_app_says_of_caching_stands(tmp_path: Path) -> None:
    """A response may set its own Cache-Control."""

    async def cached(_: Any, __: Any, send: Any) -> None:
        headers = [(b"cache-control", b"max-age=60")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    assert (await Guarded(tmp_path, app=cached).ask()).headers["cache-control"] == "max-age=60"


async def test_an_error_of_ours_tells_the_client_nothing_of_the_inside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has it, with the request's id; expected errors are not logged."""

    async def broken(scope: Any, _: Any, __: Any) -> None:
        if scope["path"] == "/foreseen":
            raise JobNotFound("there is no job")
        raise RuntimeError("the password is hunter2")

    guarded = Guarded(tmp_path, app=broken)
    with caplog.at_level(logging.INFO):
        assert (await guarded.ask("/foreseen")).status == 404
        assert [record.name for record in caplog.records] == ["jobledger.access"]
        caplog.clear()
        answer = await guarded.ask(headers={"x-request-id": "abc"})
    assert (answer.status, answer.problem["Code"]) == (500, "InternalError")
    assert b"hunter2" not in answer.body
    assert "abc" in caplog.text
    assert guarded.counted == [("GET", "", 404), ("GET", "", 500)]


async def test_every_request_is_counted_by_its_route(tmp_path: Path) -> None:
    """Never by its path: clients can't make up new figures."""

    async def routed(scope: Any, _: Any, send: Any) -> None:
        scope["path_template"] = "/jobs/{id}"
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guarded = Guarded(tmp_path, app=routed)
    await guarded.ask("/jobs/a")
    await guarded.ask(host=EVIL)
    assert guarded.counted == [("GET", "/jobs/{id}", 204), ("GET", "", 403)]


async def test_a_websocket_is_refused_before_its_handshake(guarded: Guarded) -> None:
    """Only a job's logs are served that way; the request passes every check, as over HTTP."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    await guarded.gate({"type": "websocket", "path": "/"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"]
    assert guarded.scopes == []


async def test_a_token_that_is_revoked_while_the_body_arrives_writes_nothing(tmp_path: Path) -> None:
    """The app never sees the request."""
    guarded = Guarded(tmp_path)
    header = with_token(guarded, Role.WRITER) | JSON
    guarded.silent = asyncio.Event()
    asked = asyncio.create_task(
        guarded.ask(headers=header, method="PUT", body=[b"{", b"}"], ends=True, pause=1)
    )
    while not guarded.gate.capacity.uploads.count:  # noqa: ASYNC110 - the gate has no event for it
        await asyncio.sleep(0)
    guarded.tokens.revoke("ci")
    guarded.silent.set()
    assert (await asked).status == 401
    assert guarded.scopes == []


async def test_an_answer_to_a_read_begins_only_with_a_token_that_is_still_good(tmp_path: Path) -> None:
    """A read gets 401 without the data; a write that was completed reports its result."""
    guarded: Guarded

    async def slow(_: Any, __: Any, send: Any) -> None:
        guarded.tokens.revoke("ci")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data"})

    guarded = Guarded(tmp_path, app=slow)
    answer = await guarded.ask(headers=with_token(guarded, Role.WRITER))
    assert (answer.status, answer.problem["Code"]) == (401, "Unauthorized")
    assert b"data" not in answer.body
    answer = await guarded.ask(headers=with_token(guarded, Role.WRITER) | JSON, method="PUT", body=b"{}")
    assert (answer.status, answer.body) == (200, b"data")
