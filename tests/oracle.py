"""What the view must hold, computed the plain way: all records folded in memory, one by one."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobledger.projections.limits import ANOMALIES_KEPT
from jobledger.projections.rows import JOB_COLUMNS, row_of
from jobledger.store.events import Record, Recorded, SpecData, read_record
from jobledger.store.fold import Anomaly, SpecHead, fold, spec_head
from jobledger.store.job import JobStatus

Tables = dict[str, list[tuple[Any, ...]]]

_ORDERS = {
    "jobs": f"SELECT {', '.join(JOB_COLUMNS)} FROM jobs ORDER BY created_sequence",
    "specs": "SELECT sequence, created_sequence, version, time, spec FROM specs ORDER BY sequence",
    "labels": "SELECT created_sequence, key, value FROM labels ORDER BY created_sequence, key, value",
    "anomalies": "SELECT sequence, job_id, reason FROM anomalies ORDER BY sequence",
}


def fold_of(records: Iterable[Record]) -> Tables:
    """The rows that these records come to."""
    statuses: dict[str, JobStatus] = {}
    heads: dict[str, SpecHead] = {}
    specs: list[tuple[Any, ...]] = []
    anomalies: list[tuple[Any, ...]] = []
    for record in records:
        recorded = read_record(record)
        job_id = recorded.event.subject if isinstance(recorded, Recorded) else ""
        status = fold(statuses.get(job_id), recorded)
        if isinstance(status, Anomaly):
            anomalies.append((status.sequence, status.job_id, status.reason))
            continue
        statuses[job_id] = status
        assert isinstance(recorded, Recorded)
        data = recorded.event.data
        if isinstance(data, SpecData):
            spec = bytes(data.spec)
            heads[job_id] = spec_head(spec)
            specs.append((record.sequence, status.created_sequence, status.version, record.time, spec))
    labels = [
        (statuses[job_id].created_sequence, key, value)
        for job_id, head in heads.items()
        for key, value in head.labels.items()
    ]
    return {
        "jobs": sorted(row_of(status, heads[job_id]) for job_id, status in statuses.items()),
        "specs": specs,
        "labels": sorted(labels),
        "anomalies": anomalies[:ANOMALIES_KEPT],
    }


def rows_of(path: Path, tables: Iterable[str] = tuple(_ORDERS)) -> Tables:
    """The rows that a view holds, in all of its tables or in these."""
    connection = sqlite3.connect(path)
    try:
        return {table: connection.execute(_ORDERS[table]).fetchall() for table in tables}
    finally:
        connection.close()


def checkpoint_of(path: Path) -> tuple[str, int, int]:
    """Epoch, sequence and count of anomalies of a view."""
    connection = sqlite3.connect(path)
    try:
        row: tuple[str, int, int] = connection.execute(
            "SELECT epoch, sequence, anomalies FROM checkpoint"
        ).fetchone()
        return row
    finally:
        connection.close()
