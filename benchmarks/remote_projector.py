"""A service whose projector runs in another process, for the experiment `apart`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

from jobledger.projections.projector import ProjectorState
from jobledger.projections.view import View
from jobledger.service import wiring
from jobledger.service.demo.projector_process import ProjectorProcess
from jobledger.store.embedded import EmbeddedServer


class _RemoteProjector:
    """The part of a projector that the service uses, on a view that another process projects."""

    state = ProjectorState.LIVE
    error = None
    url = ""

    def __init__(self, _: object, path: Path) -> None:
        self._path = path

    async def __aenter__(self) -> Self:
        self._process = await ProjectorProcess.start(self.url, self._path)
        self._view = await View.open(self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._view.close()
        await self._process.stop()

    @property
    def sequence(self) -> int:
        """Always unknown: each read that needs the position reads it from the file."""
        return 0

    async def wait_for(self, sequence: int, timeout_seconds: float) -> None:
        await self._view.wait_for(sequence, timeout_seconds)

    def attach(self, _: object) -> None:
        """Ignore listeners: the experiment has no feeds."""


@asynccontextmanager
async def _noting_server(directory: Path) -> AsyncIterator[EmbeddedServer]:
    async with EmbeddedServer(directory) as server:
        _RemoteProjector.url = server.url
        yield server


def set_projector_apart() -> None:
    """Make services of this process use a projector in another process."""
    patched: Any = wiring
    patched.Projector, patched.EmbeddedServer = _RemoteProjector, _noting_server
