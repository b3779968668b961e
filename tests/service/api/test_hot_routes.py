"""Hot routes: the answer of the fast way is that of the ordinary way."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from hypothesis import event, given, strategies as st

from jobledger.service.access.principal import Role
from jobledger.service.api import request
from jobledger.service.api.app import create_app
from jobledger.service.api.asgi import Receive, Scope, Send
from jobledger.service.limits import REQUESTS_KEPT_FOR_WRITES, REQUESTS_MAX_IN_FLIGHT
from jobledger.service.server import event_loop
from jobledger.service.wiring import Service
from jobledger.store.model.subjects import named_job_id
from jobledger.store.spec import formats, reader
from tests.support.api import client_of, job_body, running_api

# Names that exist, do not exist, are ids, short ids or invalid, with what a client may do to a path.
_REFS: Final = (
    "etl",
    "a%2Fb",
    "a/b",
    "other",
    "none",
    "%00",
    "j-",
    "%ff",
    "",
    "etl/",
    "/etl",
    "%65tl",
    "*",
    "é",
)
_QUERIES: Final = (
    "",
    "namespace=default",
    "namespace=theirs",
    "namespace=%00",
    "include=history",
    "include=",
    "job_version=1",
    "job_version=x",
    "at=1",
    "at=999999",
    "wait_for=1",
    "wait_for=x",
    "strict=true",
    "reason=why",
    "unknown=1",
    "%ff",
    "&".join("a=1" for _ in range(200)),
)
_HEADERS: Final = (
    ("If-None-Match", '"1"'),
    ("If-None-Match", 'W/"1", "2"'),
    ("If-None-Match", "*"),
    ("If-None-Match", ""),
    ("If-Match", '"1"'),
    ("If-Match", "*"),
    ("If-Match", '"x"'),
    ("Idempotency-Key", "k"),
    ("Idempotency-Key", "k" * 300),
    ("X-Request-ID", "mine"),
    ("X-Request-ID", "not valid"),
    ("Jobledger-Actor", "me"),
    ("Host", "elsewhere.example"),
    ("Origin", "https://elsewhere.example"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("Content-Type", "text/plain"),
    ("Content-Encoding", "gzip"),
    ("Accept", "text/html"),
)
_BODIES: Final = (
    b"",
    b"{}",
    b"[]",
    b"{",
    b'{"StateType":"Running"}',
    b'{"statetype":"running","Message":"m","Details":{"a":"b"}}',
    b'{"StateType":"Completed","Reason":"done"}',
    b'{"StateType":"Nope"}',
    b'{"StateType":"Running","StateType":"Failed"}',
    b'{"StateType":"Running","StateType":"Failed","Message":"\\u003a"}',
    b'{"StateType": "Running", "Message": "a: \\u003cb\\u003e"}',
    b'{"StateType":null,"Details":{"a":1}}',
    b'{"StateType":"Running","Unknown":1}',
    b'{"StateType":"Running","Namespace":"theirs"}',
    b'{"Job":{"Name":"etl","Type":"batch","Tasks":[]}}',
    b'{"Job":{"Name":"new","Type":"batch","Tasks":[{"Name":"m","Engine":{"Type":"docker","Params":{"Image":"x"}}}]}}',
    b'{"Job":{"Name":"etl","Type":"batch","Priority":7,"Tasks":[{"Name":"m","Engine":{"Type":"docker"}}]},"Force":true}',
    b'{"Job":{"Name":"etl","Type":"batch","ID":"x","Meta":{"bacalhau.org/a":"b"},"Tasks":[{"name":"m"},{}]}}',
    b'{"Job":{"Name":"etl","Type":"batch","Tasks":[{"Name":"m","Engine":{"Type":"x","Type":"y"}}]}}',
    b'{"Job":{"Name":"etl","Meta":' + b'{"a":' * 70 + b"1" + b"}" * 72,
    b'{"Job":{"Name":"etl","Constraints":[' + b"1," * 50_000 + b"1]}}",
)
_TOKENS: Final = ("", "root", "limited", "reader", "wrong")
# What differs between two services, or from one request to the next. Times come first: their year followed by
# a month also has the shape of a log's generation followed by a sequence.
_VARIES: Final = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]+Z|[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}|\d{19}"
    r"|[0-9a-z]{4,12}-(?=\d+\b)"
)


class ServerThread:
    """The app as the server calls it: what is kept is answered before the event loop would be asked."""

    def __init__(self, service: Service) -> None:
        self._app = create_app(service)
        self.answered = False  # whether the last request was

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self._app.answer_now(scope)
        self.answered = answer is not None
        if answer is None:
            await self._app(scope, receive, send)
        else:
            for message in answer:
                await send(message)


class Twins:
    """Two services with the same past: one answers as it does, the other without any fast way."""

    def __init__(self, fast: Service, ordinary: Service, texts: dict[str, str]) -> None:
        self._services = (fast, ordinary)
        self.app = ServerThread(fast)
        self._clients = (client_of(fast, app=self.app), client_of(ordinary))
        self.fast = fast
        self._tokens = texts
        self._patch = pytest.MonkeyPatch()

    async def ask(
        self, method: str, url: str, token: str, headers: list[tuple[str, str]], body: bytes
    ) -> tuple[Any, Any]:
        """The answers of both, without what always differs."""
        answers = []
        for service, client in zip(self._services, self._clients, strict=True):
            self._patch.undo()
            if service is self._services[1]:
                _without_fast_ways(self._patch)
            sent = list(headers)
            if text := self._tokens.get(token, ""):
                sent.append(("Authorization", f"Bearer {text}"))
            if body and not any(name == "Content-Type" for name, _ in sent):
                sent.append(("Content-Type", "application/json"))
            answer = await client.request(method, url, headers=sent, content=body)
            await service.own_writes.visible()
            shown = sorted((name, _VARIES.sub("~", value)) for name, value in answer.headers.items())
            answers.append((answer.status_code, shown, _VARIES.sub("~", answer.text)))
        self._patch.undo()
        return answers[0], answers[1]


def _without_fast_ways(patch: pytest.MonkeyPatch) -> None:
    """Read bodies the complete way; the view of that service has no fast way either."""
    patch.setattr(formats, "_has_all_members", lambda *_: False)
    patch.setattr(request, "is_small", lambda _: False)
    patch.setattr(reader, "_exact", lambda _: None)


@asynccontextmanager
async def twins(directory: Path) -> AsyncIterator[Twins]:
    async with running_api(directory / "a") as (fast, _), running_api(directory / "b") as (ordinary, _):
        texts = {"wrong": f"jlt_abcdefgh_{'x' * 43}"}
        made = fast.tokens
        for name, role, namespaces in (
            ("root", Role.ADMIN, None),
            ("limited", Role.WRITER, ("default",)),
            ("reader", Role.READER, ("theirs",)),
        ):
            texts[name] = made.create(name, role, namespaces)[1]
        ordinary.tokens.path.write_bytes(made.path.read_bytes())
        ordinary.tokens.path.chmod(0o600)
        ordinary.tokens._checked_at = float("-inf")
        ordinary.view.get_now = lambda *_, **__: None  # type: ignore[method-assign]
        found = Twins(fast, ordinary, texts)
        for name, namespace in (("etl", "default"), ("a/b", "default"), ("other", "theirs")):
            body = httpx.Request("PUT", "http://x", json=job_body(name, Namespace=namespace)).content
            one, other = await found.ask("PUT", "/jobs", "root", [], body)
            assert one == other
            assert one[0] == 200
        yield found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Twins]]:
    """Both services, on a loop that the examples share."""
    with asyncio.Runner(loop_factory=event_loop.loop_factory()) as runner:
        opened = twins(tmp_path_factory.mktemp("twins"))
        found = runner.run(opened.__aenter__())
        yield runner, found
        runner.run(opened.__aexit__(None, None, None))


_PATHS: Final = {
    "GET": st.sampled_from(("etl", "a%2Fb")) | st.sampled_from(_REFS),
    "HEAD": st.sampled_from(_REFS),
    "PUT": st.just(""),
    "PUT state": st.sampled_from(("etl", "a%2Fb")) | st.sampled_from(_REFS),
}


@pytest.mark.parametrize("route", _PATHS)
@given(data=st.data())
def test_the_fast_answer_is_the_ordinary_answer(
    pair: tuple[asyncio.Runner, Twins], route: str, data: st.DataObject
) -> None:
    """Status, headers and body, for any path, query, token, condition and body, valid or not."""
    runner, services = pair
    method, _, suffix = route.partition(" ")
    ref = data.draw(_PATHS[route], "job")
    path = "/".join(filter(None, ("/jobs", ref, suffix))) if ref else "/jobs"
    query = data.draw(st.just("") | st.sampled_from(_QUERIES), "query")
    token = data.draw(st.just("root") | st.sampled_from(_TOKENS), "token")
    headers = data.draw(st.lists(st.sampled_from(_HEADERS), max_size=2), "headers")
    body = data.draw(st.sampled_from(_BODIES[4:7]) | st.sampled_from(_BODIES), "body")
    sent = body if method == "PUT" else b""
    fast, ordinary = runner.run(
        services.ask(method, f"{path}?{query}" if query else path, token, headers, sent)
    )
    event(f"{method} {fast[0]}{' kept' * services.app.answered}")
    assert fast == ordinary


@pytest.mark.parametrize(
    ("path", "headers", "token", "is_kept"),
    [
        ("etl", [], "root", True),
        ("etl", [], "limited", True),
        ("etl", [("X-Request-ID", "mine"), ("Accept", "text/html")], "root", True),
        ("other", [], "root", False),  # in another namespace: not found
        ("etl", [], "reader", False),
        ("etl", [], "wrong", False),
        ("etl", [("If-None-Match", '"1"')], "root", False),
        ("etl", [("Host", "a b")], "root", False),
        ("etl?namespace=default", [], "root", False),
        ("a%2Fb", [], "root", False),
        ("etl/history", [], "root", False),
    ],
)
def test_only_the_usual_read_is_answered_from_what_is_kept(
    pair: tuple[asyncio.Runner, Twins], path: str, headers: list[tuple[str, str]], token: str, is_kept: bool
) -> None:
    """The second of two equal requests; all others are answered by the event loop."""
    runner, services = pair
    for _ in range(2):
        fast, ordinary = runner.run(services.ask("GET", f"/jobs/{path}", token, headers, b""))
        assert fast == ordinary
    assert services.app.answered is is_kept


def test_a_job_that_gets_the_name_of_a_kept_id_is_found_instead(pair: tuple[asyncio.Runner, Twins]) -> None:
    """A name takes precedence over an id; for a caller who may see both, and for one who sees the other."""
    runner, services = pair
    ref = named_job_id("theirs", "other")
    asked: list[Any] = [("GET", f"/jobs/{ref}", token, [], b"") for token in ("root", "reader")]
    body = httpx.Request("PUT", "http://x", json=job_body(ref)).content
    for request_ in (*asked, ("PUT", "/jobs", "root", [], body), *asked, *asked):
        fast, ordinary = runner.run(services.ask(*request_))
        assert fast == ordinary
    assert services.app.answered is False  # the reader gets the job that its namespace has


def test_a_kept_answer_is_not_sent_while_the_service_is_full_or_ends(
    pair: tuple[asyncio.Runner, Twins], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop refuses such requests."""
    runner, services = pair
    ask: Any = ("GET", "/jobs/etl", "root", [], b"")
    for _ in range(2):
        runner.run(services.ask(*ask))
    assert services.app.answered
    work = services.app._app.capacity.work
    monkeypatch.setattr(work, "count", REQUESTS_MAX_IN_FLIGHT - REQUESTS_KEPT_FOR_WRITES)
    assert runner.run(services.ask(*ask))[0][0] == 429
    monkeypatch.undo()
    services.fast.draining.set()
    assert runner.run(services.ask(*ask))[0][0] == 503
    services.fast.draining.clear()
    assert runner.run(services.ask(*ask))[0][0] == 200
    assert services.app.answered
