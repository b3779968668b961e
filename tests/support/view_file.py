"""A view's file without a projector: the schema from the migrations, rows from `job_row`."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobledger.projections.migrations import migrations
from jobledger.projections.query.planner import page_statement
from jobledger.projections.query.query import ListQuery
from jobledger.projections.rows import JOB_ROW_COLUMNS, STATUS_COLUMNS, job_row
from jobledger.store.model.fold import SpecHead
from jobledger.store.model.job import JobStatus, State, StateType
from jobledger.store.model.subjects import named_job_id


class ViewFile:
    """The file, and a connection that writes like a projector."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.connection = sqlite3.connect(path, isolation_level=None)
        self.execute("PRAGMA journal_mode = WAL")
        self.execute("PRAGMA synchronous = OFF")
        self.execute("CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL) STRICT")
        for number, name, sql in migrations():
            self.connection.executescript(sql)
            self.execute("INSERT INTO migrations VALUES (?, ?)", number, name)
        self.execute(
            "INSERT INTO checkpoint (only_row, epoch, sequence, anomalies, projection)"
            " VALUES (1, 'epoch', 0, 0, 1)"
        )

    def execute(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Run a statement."""
        return self.connection.execute(sql, parameters).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def add(
        self,
        sequence: int,
        name: str | None = None,
        *,
        namespace: str = "default",
        job_id: str | None = None,
        state: State | StateType = StateType.PENDING,
        job_type: Any = "batch",
        labels: dict[str, str] | None = None,
        created: int | None = None,
        modified: int | None = None,
    ) -> str:
        """Add a job created by the event of this sequence; returns its id."""
        name = name if name is not None else job_id or f"job-{sequence}"
        created = sequence if created is None else created
        status = JobStatus(
            id=job_id or named_job_id(namespace, name),
            namespace=namespace,
            name=name,
            state=state if isinstance(state, State) else State(state_type=state),
            version=1,
            revision=1,
            create_time=created,
            modify_time=created if modified is None else modified,
            created_sequence=sequence,
            spec_sequence=sequence,
            sequence=sequence,
        )
        head = SpecHead(name=name, namespace=namespace, type=job_type, count=1, labels=labels or {})
        marks = ", ".join("?" * len(JOB_ROW_COLUMNS))
        self.execute(
            f"INSERT INTO jobs ({', '.join(JOB_ROW_COLUMNS)}) VALUES ({marks})", *job_row(status, head)
        )
        self.add_spec(sequence, sequence, 1)
        for key, value in head.labels.items():
            self.execute("INSERT INTO labels VALUES (?, ?, ?)", sequence, key, value)
        self.checkpoint(sequence)
        return status.id

    def add_spec(self, created_sequence: int, sequence: int, version: int) -> None:
        """Add a version of a job's spec."""
        spec = b'{"v":%d}' % version
        self.execute(
            "INSERT INTO specs VALUES (?, ?, ?, ?, ?)", sequence, created_sequence, version, sequence, spec
        )

    def checkpoint(self, sequence: int) -> None:
        """Set the checkpoint."""
        self.execute("UPDATE checkpoint SET sequence = ?", sequence)

    def touch(self, created_sequence: int, modified: int) -> None:
        """Change a job."""
        self.execute("UPDATE jobs SET modify_time = ? WHERE created_sequence = ?", modified, created_sequence)

    def keys(self, query: ListQuery, driver: Any = None) -> list[int]:
        """Return the creation sequences on the first page of a list with this query plan."""
        rows = self.execute(*_spread(page_statement(query, driver)))
        key = 1 + STATUS_COLUMNS.index("created_sequence")
        return [row[key] for row in rows if row[key] is not None]

    def plan(self, statement: tuple[str, Iterable[Any]]) -> list[str]:
        """Return SQLite's query plan."""
        sql, parameters = statement
        return [row[3] for row in self.execute(f"EXPLAIN QUERY PLAN {sql}", *parameters)]


def _spread(statement: tuple[str, Iterable[Any]]) -> tuple[Any, ...]:
    sql, parameters = statement
    return (sql, *parameters)
