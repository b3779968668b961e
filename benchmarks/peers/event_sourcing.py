"""The Python library eventsourcing on SQLite: an aggregate per job, its events are the record.

SQLite runs in this process, in WAL mode with `synchronous=FULL`: a commit is on disk before it returns. The
library is synchronous and each command is a transaction, so callers wait for each other. Aggregates are
cached in the way that is fastest with one process. The library cannot query aggregates, so it has no
page.
"""

import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, Final

from benchmarks.peers.jobs import TERMINAL, new_job
from benchmarks.peers.peer import Store, bytes_in, library, version_of
from benchmarks.workload import ACTOR, REASON, job_key
from jobledger.store.model.job import StateType

_PACKAGE: Final = "eventsourcing"
_FILE: Final = "events.db"
_IDS: Final = uuid.UUID("7d1b2c52-6f0f-4f0e-8a39-9a1c6f3d1d57")
_CACHED_AGGREGATES: Final = 20_000


class EventSourcing:
    """The peer."""

    name = _PACKAGE
    missing_operations = frozenset({"page"})

    def check(self) -> None:
        """Look for the library."""
        library("eventsourcing.sqlite", _PACKAGE)
        self.name = f"{_PACKAGE} {version_of(_PACKAGE)} on SQLite"

    @asynccontextmanager
    async def open(self, directory: Path) -> AsyncIterator[Store]:
        """Create an application on a new file."""
        application, job_class = _classes()
        app = application(
            env={
                "PERSISTENCE_MODULE": "eventsourcing.sqlite",
                "SQLITE_DBNAME": str(directory / _FILE),
                "AGGREGATE_CACHE_MAXSIZE": str(_CACHED_AGGREGATES),
                "AGGREGATE_CACHE_FASTFORWARD": "no",  # no other process writes
                "DEEPCOPY_FROM_AGGREGATE_CACHE": "no",
            }
        )
        try:
            yield _Aggregates(self.name, app, job_class, directory)
        finally:
            app.close()


def _classes() -> tuple[Any, Any]:
    """The application and its aggregate; their base classes exist only if the library is installed."""
    domain = library("eventsourcing.domain", _PACKAGE)
    aggregate: Any = domain.Aggregate
    application = library("eventsourcing.application", _PACKAGE)

    class Job(aggregate):  # type: ignore[misc]  # the library is optional, so its classes are Any
        @domain.event("Created")
        def __init__(
            self, *, namespace: str, name: str, labels: str, spec: str, actor: str, reason: str
        ) -> None:
            self.namespace = namespace
            self.name = name
            self.labels = labels
            self.spec = spec
            self.state = str(StateType.PENDING)
            self.actor = actor
            self.reason = reason

        @staticmethod
        def create_id(namespace: str, name: str) -> uuid.UUID:
            return uuid.uuid5(_IDS, f"{namespace}/{name}")

        @domain.event("StateChanged")
        def set_state(self, state: str, message: str, actor: str) -> None:
            if self.state in TERMINAL:
                raise ValueError(self.state)
            self.state = state
            self.message = message
            self.actor = actor

    # Events are stored with the path of their class.
    Job.__qualname__ = "Job"
    return application.Application, Job


class _Aggregates:
    def __init__(self, name: str, app: Any, job_class: Any, directory: Path) -> None:
        self.name = name
        self._app = app
        self._job_class = job_class
        self._directory = directory

    async def create(self, number: int) -> None:
        job = new_job(number)
        aggregate = self._job_class(
            namespace=job.namespace,
            name=job.name,
            labels=job.labels,
            spec=job.spec,
            actor=ACTOR,
            reason=REASON,
        )
        self._app.save(aggregate)

    async def set_state(self, number: int, state: StateType) -> None:
        aggregate = self._app.repository.get(self._id(number))
        aggregate.set_state(str(state), "", ACTOR)
        self._app.save(aggregate)

    async def get(self, number: int) -> None:
        assert self._app.repository.get(self._id(number)).spec

    async def page(self, namespace: str) -> int:
        raise NotImplementedError(namespace)

    def forget(self) -> None:
        self._app.repository.cache = type(self._app.repository.cache)(maxsize=_CACHED_AGGREGATES)

    async def settle(self) -> None:
        pass

    async def used_bytes(self) -> int:
        with closing(sqlite3.connect(self._directory / _FILE)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return bytes_in(self._directory)

    def pids(self) -> list[int]:
        return []

    def _id(self, number: int) -> Any:
        key = job_key(number)
        return self._job_class.create_id(key.namespace, key.name)
