"""Bodies: only JSON, complete before a handler runs, and limited in bytes and time."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from jobledger.service.access.principal import Role
from jobledger.service.api.capacity import ByteBudget
from jobledger.service.limits import BODY_MAX_BYTES, SIGN_IN_MAX_BYTES
from jobledger.service.wire import paths
from tests.support.middleware import JSON, Guarded

FORM = {"content-type": "application/x-www-form-urlencoded"}


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "PATCH"])
@pytest.mark.parametrize(
    "media",
    [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/jsonp",
        "text/json",
        "application/json; charset=utf-16",
        "application/json, text/plain",
        "text/plain; application/json",
        "application/json\x00",
        "*/*",
    ],
)
async def test_a_write_that_is_not_declared_as_json_is_refused(
    guarded: Guarded, method: str, media: str
) -> None:
    """A page of another site can make a browser send forms and plain text, but not JSON."""
    for body in (b"{}", (b"{", b"}")):
        headers = {"content-type": media} if media else {}
        answer = await guarded.ask(method=method, headers=headers, body=body)
        assert (answer.status, answer.problem["Code"]) == (415, "UnsupportedMediaType")
    assert guarded.scopes == []


@pytest.mark.parametrize(
    "media",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/merge-patch+json",
    ],
)
async def test_json_is_taken_whole_and_unchanged(guarded: Guarded, media: str) -> None:
    """In one piece or in many."""
    for body in (b'{"a":1}', (b'{"a"', b"", b":1}")):
        answer = await guarded.ask(method="PUT", headers={"content-type": media}, body=body)
        assert (answer.status, answer.body) == (200, b'{"a":1}')


@pytest.mark.parametrize("in_parts", [False, True])
async def test_a_stranger_signs_in_within_a_small_budget(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, in_parts: bool
) -> None:
    """The form is small, with or without a length, and uses no memory that other bodies may use."""
    guarded.tokens.create("root", Role.ADMIN)

    async def sign_in(size: int) -> int:
        body = b"a" * size
        parts = (body[:1], body[1:]) if in_parts else body
        return (await guarded.ask(paths.UI_SIGN_IN, FORM, method="POST", body=parts)).status

    assert await sign_in(SIGN_IN_MAX_BYTES) == 200
    assert await sign_in(SIGN_IN_MAX_BYTES + 1) == 413
    monkeypatch.setattr(guarded.gate, "_bodies", ByteBudget("bodies", "", 0, 0))
    assert await sign_in(SIGN_IN_MAX_BYTES) == 200
    monkeypatch.setattr(guarded.gate, "_sign_ins", ByteBudget("forms", "", 9, 9))
    assert await sign_in(10) == 429


@pytest.mark.parametrize("body", [b"", (), (b"",), (b"", b"")])
async def test_without_a_body_no_type_is_needed(guarded: Guarded, body: bytes | Iterable[bytes]) -> None:
    """`DELETE` has none, and some clients announce an empty one."""
    assert (await guarded.ask(method="DELETE", body=body)).status in {200, 400}  # 400: it ended
    assert (await guarded.ask(method="DELETE", headers={"content-length": "0"})).status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
async def test_a_compressed_body_is_refused(guarded: Guarded, encoding: str) -> None:
    """A small one could expand to a very large one."""
    answer = await guarded.ask(method="PUT", headers={**JSON, "content-encoding": encoding}, body=b"{}")
    assert answer.status == 415
    assert "Content-Encoding" in answer.problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {"transfer-encoding": "gzip, chunked"},
        {"transfer-encoding": "identity"},
        {"content-length": "-1"},
        {"content-length": "1_0"},
        {"content-length": "٣"},
        {"content-length": ""},
    ],
)
async def test_a_body_of_unclear_extent_is_refused(guarded: Guarded, headers: dict[str, str]) -> None:
    """The service and a proxy in front of it must agree on it."""
    sent = {name: value.encode().decode("latin-1") for name, value in headers.items()}
    assert (await guarded.ask(method="PUT", headers={**JSON, **sent}, body=(b"{}",))).status == 400


async def test_a_body_over_the_limit_is_refused_before_it_is_kept(guarded: Guarded) -> None:
    """With or without a Content-Length; one of exactly the limit is accepted."""
    whole = b" " * BODY_MAX_BYTES
    assert (await guarded.ask(method="PUT", headers=JSON, body=whole)).body == whole
    assert (await guarded.ask(method="PUT", headers=JSON, body=(whole[1:], b"x"))).status == 200
    bodies: tuple[Any, ...] = (whole + b"x", (whole, b"x"), [b"x" * 65_536] * 100)
    for body in bodies:
        answer = await guarded.ask(method="PUT", headers=JSON, body=body)
        assert (answer.status, answer.problem["Code"]) == (413, "PayloadTooLarge")
    announced = {**JSON, "content-length": "9" * 400}
    assert (await guarded.ask(method="PUT", headers=announced, body=(b"",))).status == 413
    assert len(guarded.scopes) == 2
    assert guarded.gate.held_bytes == 0


async def test_all_bodies_together_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many large requests at once must not fill the memory; finished ones free it."""
    monkeypatch.setattr("jobledger.service.api.middleware.BODIES_MAX_BYTES", 100)
    entered, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Any, receive: Any, send: Any) -> None:
        await receive()
        entered.set()
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guarded = Guarded(tmp_path, app=slow)
    first = asyncio.create_task(guarded.ask(method="PUT", headers=JSON, body=b"x" * 80))
    await entered.wait()
    assert guarded.gate.held_bytes == 80
    refused = await guarded.ask(method="PUT", headers=JSON, body=(b"x" * 20, b"x"))
    assert (refused.status, refused.headers["retry-after"]) == (429, "1")
    go.set()
    assert (await first).status == 200
    assert (await guarded.ask(method="PUT", headers=JSON, body=b"x" * 100)).status == 200
    assert guarded.gate.held_bytes == 0


async def test_a_body_that_does_not_arrive_in_time_is_refused(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow senders hold nothing for long."""
    monkeypatch.setattr("jobledger.service.api.body_budget.BODY_TIMEOUT_SECONDS", 0.01)
    sent: list[Any] = []
    parts = [{"type": "http.request", "body": b"{", "more_body": True}]

    async def receive() -> Any:
        if parts:
            return parts.pop()
        await asyncio.Event().wait()
        return None

    async def send(message: Any) -> None:
        sent.append(message)

    monkeypatch.setattr("jobledger.service.api.body_budget.DISCARD_TIMEOUT_SECONDS", 0.01)
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "PUT", "path": "/x", "query_string": b"", "headers": headers}
    await guarded.gate(scope, receive, send)
    assert sent[0]["status"] == 400
    assert b"did not arrive" in sent[1]["body"]
    assert guarded.scopes == []
    assert guarded.gate.held_bytes == 0


async def test_a_body_that_is_not_whole_or_has_malformed_chunks_is_a_bad_request(guarded: Guarded) -> None:
    """The server reports both as a disconnect; a client that is still connected gets the reason."""
    answer = await guarded.ask(method="PUT", headers=JSON, body=(b'{"a"',), ends=False)
    assert (answer.status, answer.problem["Code"]) == (400, "BadRequest")
    assert "chunks are malformed" in answer.problem["detail"]
    assert guarded.scopes == []
    assert guarded.counted == [("PUT", "", 499)]
    assert guarded.gate.held_bytes == 0


async def test_the_app_sees_that_the_client_goes_after_its_body(tmp_path: Path) -> None:
    """What comes after the body is passed on."""
    seen: list[str] = []

    async def watching(_: Any, receive: Any, send: Any) -> None:
        seen.extend([(await receive())["type"], (await receive())["type"]])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    await Guarded(tmp_path, app=watching).ask(method="PUT", headers=JSON, body=b"{}")
    assert seen == ["http.request", "http.disconnect"]


async def test_a_body_of_the_announced_length_is_complete(guarded: Guarded) -> None:
    """The end that the server reports separately is not awaited; that of a chunked body is."""
    body = b'{"a":1}'
    guarded.silent = asyncio.Event()  # after the body, nothing arrives
    headers = {**JSON, "content-length": str(len(body))}
    answer = await guarded.ask(method="PUT", headers=headers, body=[body], ends=False)
    assert (answer.status, answer.body) == (200, body)
    waiting = asyncio.create_task(guarded.ask(method="PUT", headers=JSON, body=[body], ends=False))
    async with asyncio.timeout(10):
        while len(guarded.scopes) < 2 and not guarded.gate.held_bytes:  # noqa: ASYNC110 - no event for it
            await asyncio.sleep(0)
    assert not waiting.done()
    guarded.silent.set()
    assert (await waiting).status == 400
