"""SQLite alone, as a baseline: the rows that a projector writes, through the standard library's `sqlite3`.

One thread, the same schema, pragmas and transactions. The rows are made beforehand: only SQLite is timed.
"""

import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jobledger.projections import writer as viewwriter
from jobledger.projections.batch import fold_batch, label_rows, read_events
from jobledger.projections.database import _pragmas, remove_view
from jobledger.projections.limits import PAGE_CACHE_BYTES, WAL_CHECKPOINT_PAGES
from jobledger.projections.rows import STATE_CHANGE_COLUMNS, job_row, state_change_row
from jobledger.projections.writer import ViewWriter
from jobledger.store.model.events import Record
from jobledger.store.model.job import JobStatus

# An UPDATE of one row in its plainest form; the projector's own is made for many rows at once.
_KEY, *_CHANGED = STATE_CHANGE_COLUMNS
_UPDATE_ONE = f"UPDATE jobs SET {', '.join(f'{column} = ?' for column in _CHANGED)} WHERE {_KEY} = ?"
_MOVE_CHECKPOINT = "UPDATE checkpoint SET sequence = ?"


class Statement(NamedTuple):
    """SQL, and the rows of parameters that `executemany` runs it with."""

    sql: str
    rows: Sequence[Sequence[Any]]


Rows = list[list[Statement]]
"""Everything that is to be written, by transaction."""


def prepare(records: Sequence[Record], ends: Sequence[int]) -> Rows:
    """The writes that these records come to, by `executemany`.

    Args:
        records: the whole log, in order, without a gap.
        ends: the last sequence of each transaction.
    """
    known: dict[str, JobStatus] = {}
    transactions: Rows = []
    start = 0
    for end in ends:
        batch = fold_batch(read_events(records[start:end]), known)
        known.update(batch.statuses)
        start = end
        assert not batch.spec_changed
        assert not batch.anomalies
        state_changed = [state_change_row(status) for status in batch.state_changed.values()]
        work: list[tuple[str, Sequence[Sequence[Any]]]] = [
            (_UPDATE_ONE, [(*row[1:], row[0]) for row in state_changed]),
            (viewwriter._INSERT_JOB, [job_row(status, head) for status, head in batch.created.values()]),
            (viewwriter._INSERT_SPEC, batch.specs),
            (viewwriter._INSERT_LABEL, label_rows(batch.created.values())),
        ]
        statements = [Statement(_MOVE_CHECKPOINT, [(batch.last_sequence,)])]
        for sql, rows in work:
            if rows:
                values = f"({', '.join('?' * len(rows[0]))})"
                statements.append(Statement(sql.format(values=values), rows))
        transactions.append(statements)
    return transactions


async def fresh_file(path: Path) -> None:
    """An empty view of today's schema, made by the projector's own writer."""
    remove_view(path)
    writer = await ViewWriter.open(path)
    await writer.close()


def write_rows(path: Path, rows: Rows) -> float:
    """Seconds from the first transaction's begin to the last one's commit."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in _pragmas(PAGE_CACHE_BYTES):
            connection.execute(pragma)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
        started = time.perf_counter()
        for statements in rows:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                connection.executemany(statement.sql, statement.rows)
            connection.execute("COMMIT")
        return time.perf_counter() - started
    finally:
        connection.close()
