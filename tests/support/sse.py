"""A Server-Sent Events client that follows the specification, and a service with a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from jobledger.service.api.app import create_app
from jobledger.service.server.http_server import HttpServer
from jobledger.service.wiring import Service
from tests.support.api import running_api


class Message(NamedTuple):
    """An event of a feed."""

    id: str
    event: str
    data: dict[str, Any]

    @property
    def sequence(self) -> int:
        """The sequence of its cursor."""
        return int(self.id.rpartition("-")[2])


class Reader:
    """A feed over HTTP, read like an EventSource.

    Attributes:
        last_id: the last event ID, to resume from.
        comments: every comment so far.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.last_id = ""
        self.comments: list[str] = []
        self._lines = response.aiter_lines()

    async def next(self) -> Message | None:
        """Return the next event; None at the end."""
        event, given = "", self.last_id
        data: list[str] = []
        async for line in self._lines:
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if line == "":
                self.last_id = given
                if data:
                    return Message(given, event, json.loads("\n".join(data)))
                event = ""
            elif not field:
                self.comments.append(value)
            elif field == "id":
                given = value
            elif field == "event":
                event = value
            elif field == "data":
                data.append(value)
        return None

    async def take(self, count: int) -> list[Message]:
        """Return the next events."""
        found: list[Message] = []
        async with asyncio.timeout(30):
            while len(found) < count:
                message = await self.next()
                assert message is not None, "the feed ended"
                found.append(message)
        return found


@asynccontextmanager
async def served_api(
    directory: Path, headers: dict[str, str] | None = None, **settings: Any
) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Run a service on a socket; yields it and a client whose base path is `/`."""
    async with running_api(directory, headers, port=0, **settings) as (service, _):
        http = await HttpServer.start(create_app(service), service.settings, "127.0.0.1")
        try:
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{http.port}", headers=headers, limits=limits, timeout=30
            ) as client:
                yield service, client
        finally:
            http.stop_accepting()
            await service.hub.close()
            await http.stop()


@asynccontextmanager
async def feed(client: httpx.AsyncClient, last_event_id: str = "", **query: Any) -> AsyncIterator[Reader]:
    """Open a feed."""
    headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
    async with client.stream("GET", "/api/v1/events", params=query, headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        yield Reader(response)
