"""SQLite alone, as a baseline: the rows that a projector writes, through the standard library's `sqlite3`.

One thread, the same schema, pragmas and transactions. The rows are made beforehand: only SQLite is timed.
"""

import sqlite3
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from jobledger.projections import viewwriter
from jobledger.projections.batch import fold_batch, label_rows, read_all
from jobledger.projections.database import _pragmas, remove_view
from jobledger.projections.limits import PAGE_CACHE_BYTES, ROWS_PER_STATEMENT, WAL_CHECKPOINT_PAGES
from jobledger.projections.rows import row_of
from jobledger.projections.viewwriter import ViewWriter
from jobledger.store.events import Record
from jobledger.store.job import JobStatus

# An UPDATE of one row in its plainest form; the projector's own is made for many rows at once.
_RESTATE_ONE = (
    "UPDATE jobs SET state = ?, message = ?, details = ?, revision = ?, modify_time = ?, sequence = ?"
    " WHERE created_sequence = ?"
)
_MOVE_CHECKPOINT = "UPDATE checkpoint SET sequence = ?"


class Statement(NamedTuple):
    """SQL, and what to run it with: one row of parameters, or many, for `executemany`."""

    sql: str
    parameters: Sequence[Any]
    each: bool


class Rows(NamedTuple):
    """Everything that is to be written, by transaction.

    Attributes:
        form: how the rows are handed over, in words.
        transactions: their statements.
    """

    form: str
    transactions: list[list[Statement]]


def prepare(records: Sequence[Record], ends: Sequence[int], *, many_rows: bool) -> Rows:
    """The writes that these records come to.

    Args:
        records: the whole log, in order, without a gap.
        ends: the last sequence of each transaction.
        many_rows: `ROWS_PER_STATEMENT` rows in a statement; otherwise `executemany`, a row at a time.
    """
    known: dict[str, JobStatus] = {}
    transactions: list[list[Statement]] = []
    start = 0
    for end in ends:
        batch = fold_batch(read_all(records[start:end]), known)
        known.update(batch.statuses)
        start = end
        assert not batch.respecified
        assert not batch.anomalies
        restated = [viewwriter._restated(status) for status in batch.restated.values()]
        statements: list[Statement] = [Statement(_MOVE_CHECKPOINT, (batch.last_sequence,), each=False)]
        inserts: list[tuple[str, Sequence[Sequence[Any]]]] = [
            (viewwriter._INSERT_JOB, [row_of(status, head) for status, head in batch.created.values()]),
            (viewwriter._INSERT_SPEC, batch.specs),
            (viewwriter._INSERT_LABEL, label_rows(batch.created.values())),
        ]
        if many_rows:
            inserts.append((viewwriter._RESTATE, restated))
        elif restated:
            statements.append(Statement(_RESTATE_ONE, [(*row[1:], row[0]) for row in restated], each=True))
        for sql, rows in inserts:
            statements += _statements(sql, rows, many_rows=many_rows)
        transactions.append(statements)
    form = f"{ROWS_PER_STATEMENT} rows a statement" if many_rows else "by executemany"
    return Rows(form, transactions)


async def fresh_file(path: Path) -> None:
    """An empty view of today's schema, made by the projector's own writer."""
    remove_view(path)
    writer = await ViewWriter.open(path)
    await writer.close()


def write_rows(path: Path, rows: Rows) -> float:
    """Seconds from the first transaction's begin to the last one's commit."""
    connection = sqlite3.connect(path, isolation_level=None, cached_statements=256)
    try:
        for pragma in _pragmas(PAGE_CACHE_BYTES):
            connection.execute(pragma)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
        started = time.perf_counter()
        for statements in rows.transactions:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements:
                if statement.each:
                    connection.executemany(statement.sql, statement.parameters)
                else:
                    connection.execute(statement.sql, statement.parameters)
            connection.execute("COMMIT")
        return time.perf_counter() - started
    finally:
        connection.close()


def _statements(sql: str, rows: Sequence[Sequence[Any]], *, many_rows: bool) -> list[Statement]:
    if not rows:
        return []
    row = f"({', '.join('?' * len(rows[0]))})"
    found: list[Statement] = []
    start = 0
    if many_rows:
        many = sql.format(values=", ".join([row] * ROWS_PER_STATEMENT))
        while len(rows) - start >= ROWS_PER_STATEMENT:
            chunk = rows[start : start + ROWS_PER_STATEMENT]
            found.append(Statement(many, tuple(chain.from_iterable(chunk)), each=False))
            start += ROWS_PER_STATEMENT
    if start < len(rows):
        found.append(Statement(sql.format(values=row), rows[start:], each=True))
    return found
