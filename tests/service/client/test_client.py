"""The client on an unreliable connection: no repeated writes, no leaks, no unbounded growth."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from jobledger.service.client import transport as transport_module
from jobledger.service.client.client import Client, Target
from jobledger.service.client.responses import WriteResponse, read_response
from jobledger.service.errors import PayloadTooLarge, RemoteError, ServiceUnreachable, Timeout, Unauthorized
from jobledger.service.limits import CLIENT_WRITE_MAX_TRIES
from jobledger.store.model.errors import InvalidInput, OutcomeUnknown
from tests.conftest import make_spec
from tests.support.http_servers import QuietHandler, served

RECEIPT = {"JobID": "j-1", "EvaluationID": "e", "Warnings": None, "Version": 1, "Revision": 1, "Sequence": 1}
JOB = {
    "ID": "j-1",
    "Name": "a",
    "Namespace": "default",
    "Type": "batch",
    "State": {"StateType": "Pending"},
    "Version": 1,
    "Revision": 1,
    "CreateTime": 1,
    "ModifyTime": 1,
}
Answer = Callable[[BaseHTTPRequestHandler], None]


def says(body: object, status: int = 200, **headers: str) -> Answer:
    """A response with this JSON."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        raw = json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(raw))}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(raw)

    return answer


def hangs_up(_: BaseHTTPRequestHandler) -> None:
    """Closes the connection without a response."""


@contextmanager
def scripted(*answers: Answer) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A server with one scripted response per request (the last one repeats); records the headers."""
    asked: list[dict[str, str]] = []
    left = list(answers)

    class Handler(QuietHandler):
        def _answer(self) -> None:
            asked.append({"path": self.path, **{name.lower(): value for name, value in self.headers.items()}})
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            (left.pop(0) if len(left) > 1 else left[0])(self)
            self.close_connection = True

        do_GET = do_PUT = do_DELETE = _answer  # noqa: N815

    with served(Handler) as url:
        yield url, asked


def client_of(url: str, waits: list[float] | None = None, token: str = "", actor: str = "") -> Client:
    return Client(Target(url, token, actor), sleep=(waits if waits is not None else []).append)


def test_lost_response_is_requested_again_with_the_same_key() -> None:
    """The service knows the key, so the retry writes nothing."""
    with scripted(hangs_up, says(RECEIPT)) as (url, asked), client_of(url) as client:
        assert client.submit(make_spec("a")).job_id == "j-1"
    assert len(asked) == 2
    assert asked[0]["idempotency-key"] == asked[1]["idempotency-key"]


def test_write_without_response_has_an_unknown_outcome() -> None:
    """After the maximum number of tries."""
    waits: list[float] = []
    with scripted(hangs_up) as (url, asked), client_of(url, waits) as client:
        with pytest.raises(OutcomeUnknown, match="the write may have happened"):
            client.stop("a")
        with pytest.raises(ServiceUnreachable, match="connection was lost"):
            client.job("a")
    assert len(asked) == CLIENT_WRITE_MAX_TRIES + 1
    assert len(waits) == CLIENT_WRITE_MAX_TRIES - 1


def test_rejected_write_is_not_retried() -> None:
    """Only an unknown outcome is retried; each command has its own key."""
    refusal = says({"Code": "Unauthorized", "detail": "no token", "Hint": "Send X"}, 401)
    with scripted(refusal) as (url, asked), client_of(url) as client:
        for _ in range(2):
            with pytest.raises(Unauthorized) as caught:
                client.rerun("a")
    assert "--token-file" in caught.value.__notes__[0]
    assert len(asked) == 2
    assert asked[0]["idempotency-key"] != asked[1]["idempotency-key"]


def test_conditions_actor_and_token_are_sent() -> None:
    """If-Match as an entity tag, the user's name in ASCII, the token as a bearer token."""
    with scripted(says(RECEIPT)) as (url, asked):
        with client_of(url, token="t-1", actor="jörg") as client:
            client.set_state("a", "Running", revision=7)
        with client_of(url) as client:
            client.submit(make_spec("a"), create_only=True)
    assert asked[0]["if-match"] == '"7"'
    assert asked[0]["authorization"] == "Bearer t-1"
    assert asked[0]["jobledger-actor"] == "j\\xf6rg"
    assert asked[1]["if-none-match"] == "*"
    assert "authorization" not in asked[1]


def test_redirect_is_not_followed() -> None:
    """A token is sent only to the configured address."""
    with scripted(says(JOB)) as (elsewhere, there):
        with (
            scripted(says({}, 307, Location=elsewhere)) as (url, _),
            client_of(url, token="t") as client,
            pytest.raises(RemoteError, match="HTTP 307"),
        ):
            client.job("a")
        assert there == []
    assert "secret" not in repr(Target("http://x", "secret"))


def test_endless_response_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the limit is kept in memory."""
    monkeypatch.setattr(transport_module, "CLIENT_RESPONSE_MAX_BYTES", 1_000)
    with (
        scripted(says("x" * 10_000)) as (url, _),
        client_of(url) as client,
        pytest.raises(PayloadTooLarge, match="--limit"),
    ):
        client.job("a")


@pytest.mark.parametrize("body", [None, [], {"Job": None}, {"Job": {"ID": 7}}, "text"])
def test_unexpected_response_is_an_error_without_traceback(body: object) -> None:
    """The service may be another program or another release."""
    with (
        scripted(says(body)) as (url, _),
        client_of(url) as client,
        pytest.raises(RemoteError, match="Jobledger"),
    ):
        client.job("a")


def test_unknown_fields_stay_in_the_wire_document() -> None:
    """New fields of a newer service reach `-o json`."""
    with (
        scripted(says({"Items": [{**JOB, "New": 1}], "NextToken": ""})) as (url, _),
        client_of(url) as client,
    ):
        (job,) = client.jobs({}).items
    assert job.wire["New"] == 1


def test_a_list_is_paged_to_its_end_or_to_its_limit() -> None:
    """Each page uses the token of the previous one, and no more than the limit is requested."""
    page = says({"Items": [JOB] * 2, "NextToken": "t"})
    with scripted(page, says({"Items": [JOB], "NextToken": ""})) as (url, asked), client_of(url) as client:
        assert [len(each.items) for each in client.job_pages({}, limit=5)] == [2, 1]
    assert ["limit=5" in asked[0]["path"], "limit=3" in asked[1]["path"]] == [True, True]
    assert "next_token=t" in asked[1]["path"]
    with scripted(page) as (url, asked), client_of(url) as client:
        assert len(list(client.job_pages({}, limit=2))) == 1
    assert len(asked) == 1


@pytest.mark.parametrize("url", ["http://", "http://a b", "http://[::1", "http://x:99999"])
def test_invalid_address_is_rejected(url: str) -> None:
    """The message names it."""
    with pytest.raises((InvalidInput, RemoteError), match="http:"):
        Client(Target(url)).job("a")


def test_long_wait_is_split_into_requests() -> None:
    """No request is longer than a proxy allows; together they last the whole timeout."""
    now = [0.0]

    def late(handler: BaseHTTPRequestHandler) -> None:
        now[0] += 60
        says({"Code": "Timeout", "detail": "still Pending"}, 504)(handler)

    job = {"Job": {**JOB, "Revision": 1, "State": {"StateType": "Pending"}}}
    pattern = "is Pending .revision 1. and did not become Completed within 150 s"
    answers = (late, late, late, says(job))
    with scripted(*answers) as (url, asked), client_of(url) as client, pytest.raises(Timeout, match=pattern):
        client.wait("a", ("Completed",), timeout_seconds=150, clock=lambda: now[0])
    timeouts = [request["path"].partition("timeout=")[2] for request in asked[:3]]
    assert timeouts == ["60000ms", "60000ms", "30000ms"]


def test_wait_survives_interruptions_of_the_service() -> None:
    """A closed long poll, a draining service and a busy one are retried until the timeout."""
    done = {"Job": {**JOB, "Revision": 2, "State": {"StateType": "Completed"}}}
    draining = says({"Code": "NotReady", "detail": "draining"}, 503)
    busy = says({"Code": "TooManyRequests", "detail": "busy"}, 429)
    waits: list[float] = []
    answers = (says(done), hangs_up, draining, busy, hangs_up, says(done))
    with scripted(*answers) as (url, asked), client_of(url, waits) as client:
        client.job("a")  # it has answered once
        assert client.wait("a", ("Completed",), timeout_seconds=60).revision == 2
    assert len(asked) == 6
    limits = [0.5, 1.0, 2.0, 4.0]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))


def test_wait_ends_with_its_timeout_while_the_service_is_unreachable() -> None:
    """Retries do not exceed the timeout, and the error names the cause."""
    now = [0.0]
    pattern = "did not respond within 7 s"
    with scripted(says({"Job": JOB}), hangs_up) as (url, _), client_of(url) as client:
        client.job("a")
        client._sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)
        with pytest.raises(Timeout, match=pattern):
            client.wait("a", ("Completed",), timeout_seconds=7, clock=lambda: now[0])
    assert 0 < now[0] <= 7


def test_wait_for_a_service_that_never_responded_fails_immediately() -> None:
    """The first connection is refused."""
    waits: list[float] = []
    with client_of("http://127.0.0.1:9", waits) as client, pytest.raises(ServiceUnreachable):
        client.wait("a", ("Completed",), timeout_seconds=60)
    assert waits == []


def test_wait_after_a_write_ignores_older_states() -> None:
    """A lagging replica may still respond with the state before the write."""
    old, new = (
        {"Job": {**JOB, "Revision": revision, "State": {"StateType": "Completed"}}} for revision in (1, 3)
    )
    answers = (says(old), says(old), says(new), says(new))  # read, wait, read, wait
    with scripted(*answers) as (url, asked), client_of(url) as client:
        after = read_response({**RECEIPT, "Revision": 2, "Sequence": 9}, WriteResponse)
        assert client.wait("a", ("Completed",), timeout_seconds=5, after=after).revision == 3
    assert [("wait_for=9" in request["path"]) for request in asked] == [True, False, True, False]


def test_text_that_is_not_utf8_is_rejected() -> None:
    """For example, half of a surrogate pair."""
    with scripted(says(RECEIPT)) as (url, asked), client_of(url) as client:
        with pytest.raises(InvalidInput, match="udcff"):
            client.stop("a", reason="\udcff")
        with pytest.raises(InvalidInput, match="udcff"):
            client.stop("a", namespace="\udcff")
        with pytest.raises(InvalidInput, match="udcff"):
            client.stop("\udcff")
    assert asked == []
