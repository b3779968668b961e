"""The direct path delivers what the client library delivers, in the same order, however the bytes are cut."""

import asyncio
import logging
from typing import Any, NamedTuple

import pytest
from hypothesis import given, strategies as st
from nats.errors import ProtocolError

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.jetstream.connection import Connection, _QuickClient
from jobledger.store.jetstream.direct import is_supported
from jobledger.store.log import Appended
from tests.support.logs import draft, ordinary_path, whole

Arrived = tuple[str, str, bytes, bytes]
OURS, ALSO_OURS, OTHER = 1, 2, 3  # ids of the subscriptions


class Received(NamedTuple):
    """What a stream of bytes led to."""

    ours: list[Arrived]
    also_ours: list[Arrived]
    other: list[tuple[str, bytes]]
    pongs: int
    problem: str
    is_refused: bool


class Client(_QuickClient):
    """A client without a server: bytes are given to its parser."""

    def __init__(self) -> None:
        super().__init__()
        self._flush_queue = asyncio.Queue()
        self._current_server = self  # type: ignore[assignment]

    async def _process_op_err(self, e: Exception) -> None:
        del e
        self._ps.reset()  # as the library does before it reconnects


async def receive(chunks: list[bytes], *, directly: bool) -> Received:
    """Give the bytes to a client in these pieces, until it refuses them."""
    ours: list[Arrived] = []
    also_ours: list[Arrived] = []
    other: list[tuple[str, bytes]] = []
    client = Client()
    if not directly:
        client.parse_directly = lambda _on_error: None  # type: ignore[method-assign,assignment]
    connection = Connection(client)
    client._error_cb = connection._on_error

    async def foreign(message: Any) -> None:
        other.append((message.subject, message.data))

    await connection.subscribe(lambda *arrived: ours.append(arrived))
    await connection.subscribe(lambda *arrived: also_ours.append(arrived))
    await client.subscribe("other", cb=foreign)
    assert list(client._subs) == [OURS, ALSO_OURS, OTHER]
    assert (connection._direct is not None) is directly
    is_refused = False
    for chunk in chunks:
        try:
            await client._ps.parse(chunk)
        except ProtocolError:
            is_refused = True
            break
    for subscription in tuple(client._subs.values()):
        await subscription._pending_queue.join()
        await subscription.unsubscribe()
        assert not (directly and subscription._id != OTHER and subscription.delivered)
    pongs = client._pending.count(b"PONG\r\n")
    return Received(ours, also_ours, other, pongs, connection.problem, is_refused)


_words = st.text("abc.$_-é🦜", min_size=1, max_size=12)
_subjects = st.one_of(_words.map(str.encode), st.sampled_from([b"\xff\xfe.x", b"a" * 300]))
_contents = st.one_of(st.binary(max_size=40), st.sampled_from([b"", b"\r\n", b"MSG a 1 2\r\n", b"x" * 5_000]))
_header_blocks = st.sampled_from(
    [
        b"NATS/1.0\r\nNats-Msg-Id: 1\r\n\r\n",
        b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 3\r\nNats-Pending-Bytes: 0\r\n\r\n",
        b"NATS/1.0 409 Leadership Change\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
    ]
)


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    sid = draw(st.sampled_from([OURS, OURS, ALSO_OURS, OTHER, 77]))
    subject, content = draw(_subjects), draw(_contents)
    reply = draw(st.one_of(st.just(b""), _subjects.map(lambda subject: subject + b" ")))
    space = draw(st.sampled_from([b" ", b" ", b" ", b"  ", b"\t"]))
    if draw(st.booleans()):
        header = draw(_header_blocks)
        sizes = b"%d%b%d" % (len(header), space, len(header) + len(content))
        return b"HMSG %b%b%d %b%b\r\n%b%b\r\n" % (subject, space, sid, reply, sizes, header, content)
    return b"MSG %b%b%d %b%d\r\n%b\r\n" % (subject, space, sid, reply, len(content), content)


_control_lines = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"INFO {}\r\n",
        b"INFO " + b'{"x":"' + b"y" * 5_000 + b'"}\r\n',
        b"-ERR 'Permissions Violation for Publish to \"jobs.x\"'\r\n",
    ]
)
_malformed = st.sampled_from(  # not an empty line: the library accepts it after PING, if it arrives with it
    [
        b"",
        b"GARBAGE\r\n",
        b"msg a 1 2\r\nhi\r\n",
        b"MSG\r\n",
        b"MSG a\r\n",
        b"MSG a 1\r\n",
        b"MSG a 1 -2\r\nhi\r\n",
        b"MSG a 1 2_0\r\nhi\r\n",
        b"MSG a 1 two\r\nhi\r\n",
        b"MSG a one 2\r\nhi\r\n",
        b"MSG a 1 b c 2\r\nhi\r\n",
        b"HMSG a 1 2\r\nhi\r\n",
        b"HMSG a 1 x 2\r\nhi\r\n",
        b"HMSG a 1 0 2\r\nhi\r\n",
        b"HMSG a 1 b 0 x\r\nhi\r\n",
    ]
)


@st.composite
def _streams(draw: st.DrawFn) -> list[bytes]:
    """Bytes of a server, cut anywhere; the last lines may be invalid, and the end may be missing."""
    frames = draw(st.lists(st.one_of(_messages(), _messages(), _control_lines), max_size=12))
    stream = b"".join([*frames, draw(_malformed), *draw(st.lists(st.just(b"PING\r\n"), max_size=2))])
    stream = stream[: len(stream) - draw(st.sampled_from([0, 0, 0, 1, 2, 9]))]
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(chunks=_streams())
async def test_both_paths_deliver_the_same(chunks: list[bytes]) -> None:
    """The same messages in the same order, the same responses to the server, and the same refusal."""
    assert await receive(chunks, directly=True) == await receive(chunks, directly=False)


@given(chunks=_streams())
async def test_every_cut_delivers_the_same(chunks: list[bytes]) -> None:
    """Messages do not depend on how the network cuts the bytes."""
    stream = b"".join(chunks)
    single = [stream[at : at + 1] for at in range(min(len(stream), 2_000))] + [stream[2_000:]]
    assert await receive(single, directly=True) == await receive([stream], directly=True)


async def test_a_message_of_the_largest_size_arrives_in_any_pieces() -> None:
    """8 MiB in the pieces in which the library reads."""
    content = b"z" * 8_388_608
    stream = b"MSG a %d 0 %d\r\n%b\r\nPING\r\n" % (OURS, len(content), content)
    received = await receive(
        [stream[at : at + 32_768] for at in range(0, len(stream), 32_768)], directly=True
    )
    assert received.ours == [("a", "0", content, b"")]
    assert received.pongs == 1


@pytest.mark.parametrize("directly", [True, False])
async def test_a_handler_that_fails_stops_no_other_message(directly: bool) -> None:
    """As in the client library."""
    client, got = Client(), []
    if not directly:
        client.parse_directly = lambda _on_error: None  # type: ignore[method-assign,assignment]
    connection = Connection(client)
    client._error_cb = connection._on_error

    def handle(*arrived: object) -> None:
        got.append(arrived[2])
        raise ValueError(arrived[2])

    await connection.subscribe(handle)
    await client._ps.parse(b"MSG a 1 1\r\nx\r\nMSG a 1 1\r\ny\r\n")
    await client._subs[1]._pending_queue.join()
    assert got == [b"x", b"y"]
    await client._subs[1].unsubscribe()


@pytest.mark.parametrize("cut", [3, 9, 12, 13, 15])
async def test_a_new_connection_forgets_the_bytes_of_the_old_one(cut: int) -> None:
    """Whatever part of a message had arrived."""
    client, got = Client(), []
    connection = Connection(client)
    await connection.subscribe(lambda *arrived: got.append(arrived[2]))
    await client._ps.parse(b"MSG a 1 3\r\nold\r\n"[:cut])
    client._ps.reset()
    await client._ps.parse(b"MSG a 1 3\r\nnew\r\n")
    assert got == [b"new"]


@pytest.mark.parametrize("directly", [True, False])
async def test_nothing_after_an_error_that_ends_the_connection_is_delivered(directly: bool) -> None:
    """The bytes after it in the same piece belong to the connection that has ended."""
    received = await receive(
        [b"MSG a 1 1\r\nx\r\n-ERR 'stale connection'\r\nMSG a 1 1\r\ny\r\n", b"MSG a 1 1\r\nz\r\n"],
        directly=directly,
    )
    assert [payload for _, _, payload, _ in received.ours] == [b"x", b"z"]


async def test_a_closed_inbox_receives_nothing() -> None:
    """Late messages are dropped."""
    client, got = Client(), []
    connection = Connection(client)
    inbox = await connection.subscribe(lambda *arrived: got.append(arrived))
    await connection.unsubscribe(inbox)
    await client._ps.parse(b"MSG a 1 1\r\nx\r\n")
    assert not got


class Changed:
    """A parser of another version."""

    def __init__(self, _client: object) -> None:
        self.buf = bytearray()
        self.state = "start"

    async def parse(self, data: bytes) -> None:
        self.buf += data

    def reset(self) -> None:
        self.buf.clear()


async def test_another_parser_is_reported_once_and_the_ordinary_path_works(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A release of nats-py with other internals makes the log slower, and does not fail."""
    with caplog.at_level(logging.WARNING, "jobledger.store"):
        assert not any(is_supported(Changed) for _ in range(3))
        assert not is_supported(lambda _client: None)
    assert [record.message.partition(" has ")[2][:14] for record in caplog.records] == ["another parser"] * 2
    ordinary_path(monkeypatch)
    log = await JetStreamLog.connect(server.url)
    assert log._connection._direct is None
    assert await log.append(draft(), expect=0) == Appended(1)
    assert [record.sequence for record in await whole(log)] == [1]
    await log.close()


async def test_the_direct_path_is_used(jetstream_log: JetStreamLog) -> None:
    """The library's subscriptions receive nothing."""
    await jetstream_log.append(draft(), expect=0)
    assert len(await whole(jetstream_log)) == 1
    subscriptions = jetstream_log._connection._subscriptions.values()
    assert [subscription.delivered for subscription in subscriptions] == [0] * len(subscriptions)
