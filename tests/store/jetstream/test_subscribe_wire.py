"""The plain JetStream requests of docs/SUBSCRIBE.md, sent as documented, do what the page describes."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from jobledger.store.jetstream.api import status_of
from jobledger.store.jetstream.connection import Connection, Message, read_message
from tests.support.other_languages import SECTION, WAIT_SECONDS, write_jobs


def requests() -> list[tuple[str, Any]]:
    """The page's requests, in its order: subject and body."""
    return [
        (subject, json.loads(body))
        for subject, body in re.findall(r"`(\$JS\.API\.[^`]+)`\n\n```json\n(.*?)```", SECTION, re.DOTALL)
    ]


class Reader:
    """A client that follows the page, with plain requests."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arrived: asyncio.Queue[Message] = asyncio.Queue()
        self.inbox = ""

    def _arrive(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        self.arrived.put_nowait(read_message(subject, reply, payload, header))

    async def ask_for(self, subject: str, body: object) -> None:
        self.inbox = self.inbox or await self.connection.subscribe(self._arrive)
        await self.connection.publish(subject, json.dumps(body).encode(), f"{self.inbox}events")

    async def fall_silent(self) -> None:
        """Close the inbox."""
        await self.connection.unsubscribe(self.inbox)
        self.inbox, self.arrived = "", asyncio.Queue()

    async def begin_anew(self, subject: str, body: object) -> None:
        """Closes the inbox and resets the consumer; later events arrive in a new inbox."""
        await self.fall_silent()
        await say(self, subject, body)

    async def event(self) -> tuple[int, int, Message]:
        """The next event: its sequence in the stream, and in the consumer."""
        while True:
            message = await self.next()
            if not status_of(message):
                fields = message.reply.split(".")
                return int(fields[5]), int(fields[6]), message

    async def status(self) -> str:
        """The next status except heartbeats."""
        while True:
            status = status_of(await self.next())
            if status != "100":
                return status

    async def next(self) -> Message:
        async with asyncio.timeout(WAIT_SECONDS):
            return await self.arrived.get()


def pin_of(message: Message) -> str:
    assert message.headers
    return message.headers["Nats-Pin-Id"]


@asynccontextmanager
async def two_readers(server: EmbeddedServer) -> AsyncIterator[tuple[Reader, Reader]]:
    """Two clients, each with a connection of its own."""
    connections = [await Connection.open(server.url) for _ in range(2)]
    try:
        yield Reader(connections[0]), Reader(connections[1])
    finally:
        for each in connections:
            await each.close()


async def say(reader: Reader, subject: str, body: object) -> dict[str, Any]:
    """Sends a request; returns its answer, which must not be an error."""
    answer = json.loads((await reader.connection.request(subject, json.dumps(body).encode())).payload)
    assert "error" not in answer, (subject, answer)
    return dict(answer)


def test_the_page_shows_every_request() -> None:
    """The requests in this order: create, pull, reset, unpin, info, reset to a sequence."""
    verbs = [subject.removeprefix("$JS.API.CONSUMER.").partition(".JOBS.")[0] for subject, _ in requests()]
    assert verbs == ["CREATE", "MSG.NEXT", "RESET", "UNPIN", "INFO", "RESET"]


@pytest.mark.slow
async def test_the_plain_requests_do_what_the_page_says(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """Pinned, reset, acknowledged up to an event, and reset to the first, as documented."""
    await write_jobs(jetstream_log, "plain")
    create, pull, reset, _, info, to_first = requests()
    async with two_readers(server) as (one, two):
        await say(one, *create)
        await say(one, *create)
        await one.ask_for(*pull)
        sequence, number, first = await one.event()
        assert (sequence, number) == (1, 1)
        pin = pin_of(first)
        await two.ask_for(*pull)
        assert status_of(await two.next()) == "100"
        with_pin = {**pull[1], "id": pin}
        await one.begin_anew(*reset)
        await one.ask_for(pull[0], with_pin)
        for expected in range(1, 6):
            sequence, number, message = await one.event()
            assert (sequence, number, pin_of(message)) == (expected, expected, pin)
        await one.connection.request(message.reply, b"+ACK")
        state = await say(one, *info)
        assert state["ack_floor"]["stream_seq"] == 5
        assert state["num_waiting"] >= 1
        assert state["priority_groups"][0]["pinned_client_id"] == pin
        await one.begin_anew(*to_first)
        await one.ask_for(pull[0], with_pin)
        sequence, number, message = await one.event()
        assert (sequence, number, pin_of(message)) == (1, 1, pin)


@pytest.mark.slow
async def test_waiting_client_takes_over_as_documented(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """A silent client loses its pin, an old pin is refused, unpinning is immediate; no event is skipped."""
    await write_jobs(jetstream_log, "plain")
    create, pull, reset, unpin, _, _ = requests()
    async with two_readers(server) as (one, two):
        await say(one, *create)
        await one.ask_for(*pull)
        _, _, first = await one.event()
        await one.connection.request(first.reply, b"+ACK")
        await two.ask_for(*pull)
        await one.fall_silent()
        await write_jobs(jetstream_log, "more")  # `one` had received all earlier events
        sequence, _, taken = await two.event()
        assert sequence > 2
        assert pin_of(taken) != pin_of(first)
        await one.ask_for(pull[0], {**pull[1], "id": pin_of(first)})
        assert await one.status() == "423"
        await two.begin_anew(*reset)
        await two.ask_for(pull[0], {**pull[1], "id": pin_of(taken)})
        sequence, number, again = await two.event()
        assert (sequence, number, pin_of(again)) == (2, 1, pin_of(taken))
        await one.fall_silent()
        await one.ask_for(*pull)
        await two.fall_silent()
        await say(two, *unpin)
        await write_jobs(jetstream_log, "last")
        _, _, last = await one.event()
        assert pin_of(last) not in {pin_of(first), pin_of(taken)}
