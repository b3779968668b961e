"""Jobledger as a peer of the others: the library, with the log alone or with the view as well."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from benchmarks.peers.peer import PAGE_JOBS, bytes_in
from benchmarks.workload import ACTOR, REASON, job_key, named_spec
from jobledger.projections.projector import Projector
from jobledger.projections.query.query import ListQuery
from jobledger.projections.view import View
from jobledger.projections.view_jobs import ViewJobs
from jobledger.store.embedded import EmbeddedServer
from jobledger.store.jetstream import JetStreamLog
from jobledger.store.ledger import Ledger
from jobledger.store.model.job import State, StateType

_CATCH_UP_SECONDS: Final = 600.0


class Jobledger:
    """The library on an embedded server. A write is acknowledged when it is on disk.

    The projector runs only while `project` is true.
    """

    name = "Jobledger"

    def __init__(self, directory: Path, server: EmbeddedServer, log: JetStreamLog) -> None:
        self.project = False
        self._directory = directory
        self._server = server
        self._log = log
        self._ledger = Ledger(log)
        self._projector: Projector | None = None
        self._view: View | None = None
        self._last = 0

    async def create(self, number: int) -> None:
        """Validate, normalize and append."""
        receipt = await self._ledger.create(named_spec(number), actor=ACTOR, reason=REASON)
        self._last = max(self._last, receipt.sequence)

    async def set_state(self, number: int, state: StateType) -> None:
        """Decide and append."""
        key = job_key(number)
        receipt = await self._ledger.set_state(key.job_id, State(state), namespace=key.namespace, actor=ACTOR)
        self._last = max(self._last, receipt.sequence)

    async def get(self, number: int) -> None:
        """Read from the view."""
        assert self._view is not None
        assert (await self._view.get_by_id(job_key(number).job_id)).spec

    async def page(self, namespace: str) -> int:
        """Read from the view."""
        assert self._view is not None
        return len((await self._view.list(ListQuery(namespace=namespace, limit=PAGE_JOBS))).jobs)

    def forget(self) -> None:
        """Start a ledger without cached jobs, which starts from the rows of the view if there is one."""
        known = ViewJobs(self._view, self._log) if self._view is not None else None
        self._ledger = Ledger(self._log, known=known)

    async def settle(self) -> None:
        """Wait until the view has everything, if the projector runs."""
        if self._projector is not None:
            await self._projector.wait_for(self._last, _CATCH_UP_SECONDS)

    async def set_projecting(self, wanted: bool) -> None:
        """Start the projector and wait until it has caught up, or stop it."""
        if wanted and self._projector is None:
            path = self._directory / "view.db"
            self._projector = await Projector(self._log, path).start()
            await self.settle()
            self._view = self._view or await View.open(path)
        elif not wanted and self._projector is not None:
            await self._projector.stop()
            self._projector = None

    async def used_bytes(self) -> int:
        """Return the bytes of the log and the view."""
        await self.set_projecting(True)
        await self.set_projecting(False)
        return bytes_in(self._directory)

    def pids(self) -> list[int]:
        """Return the nats-server."""
        return [self._server.pid]

    async def close(self) -> None:
        """Close the view and stop the projector."""
        await self.set_projecting(False)
        if self._view is not None:
            await self._view.close()


@asynccontextmanager
async def open_jobledger(directory: Path) -> AsyncIterator[Jobledger]:
    """Start it on an empty directory."""
    async with EmbeddedServer(directory / "nats") as server:
        log = await JetStreamLog.connect(server.url)
        await server.stage()  # as `serve` does
        try:
            store = Jobledger(directory, server, log)
            try:
                yield store
            finally:
                await store.close()
        finally:
            await log.close()
