"""The expected contents of a view, computed by folding all records in memory, one by one."""

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobledger.projections.limits import ANOMALIES_KEPT
from jobledger.projections.projector import Projector
from jobledger.projections.rows import JOB_ROW_COLUMNS, job_row, lost_row
from jobledger.store.log import EventLog
from jobledger.store.model.events import Record, Recorded, SpecData, read_record
from jobledger.store.model.fold import Anomaly, fold, fold_on, spec_head
from jobledger.store.model.job import JobStatus

Tables = dict[str, list[tuple[Any, ...]]]

_ORDERS = {
    "jobs": f"SELECT {', '.join(JOB_ROW_COLUMNS)} FROM jobs ORDER BY created_sequence",
    "specs": "SELECT sequence, created_sequence, version, time, spec FROM specs ORDER BY sequence",
    "lost_jobs": "SELECT namespace, id, sequence, passed, quarantine FROM lost_jobs ORDER BY id, namespace",
    "labels": "SELECT created_sequence, key, value FROM labels ORDER BY created_sequence, key, value",
    "anomalies": "SELECT sequence, job_id, reason FROM anomalies ORDER BY sequence",
}


def fold_of(records: Iterable[Record]) -> Tables:
    """Return the expected rows of these records."""
    statuses: dict[str, JobStatus] = {}
    lost: dict[tuple[str, str], JobStatus] = {}
    bodies: dict[int, bytes] = {}
    specs: list[tuple[Any, ...]] = []
    anomalies: list[tuple[Any, ...]] = []
    for record in records:
        recorded = read_record(record)
        event = recorded.event if isinstance(recorded, Recorded) else None
        job_id = event.subject if event else recorded.job_id  # type: ignore[union-attr]
        namespace = event.namespace if event else recorded.namespace  # type: ignore[union-attr]
        before = statuses.get(job_id) or lost.get((namespace, job_id))
        folded = fold(before, recorded)
        if isinstance(folded, Anomaly):
            anomalies.append((folded.sequence, folded.job_id, folded.reason))
        status = fold_on(before, recorded)
        if status is None:
            continue
        if status.is_lost:
            lost[namespace, job_id] = status
        else:
            statuses[job_id] = status
            lost.pop((namespace, job_id), None)
        real = status.quarantine.beyond if status.quarantine else status
        if event and isinstance(event.data, SpecData) and real and real.spec_sequence == record.sequence:
            spec = bodies[record.sequence] = bytes(event.data.spec)
            specs.append((record.sequence, real.created_sequence, real.version, record.time, spec))
    heads = {job_id: spec_head(bodies[status.spec_sequence]) for job_id, status in statuses.items()}
    labels = [
        (statuses[job_id].created_sequence, key, value)
        for job_id, head in heads.items()
        for key, value in head.labels.items()
    ]
    return {
        "jobs": sorted(job_row(status, heads[job_id]) for job_id, status in statuses.items()),
        "lost_jobs": [lost_row(lost[key]) for key in sorted(lost, key=lambda key: key[::-1])],
        "specs": specs,
        "labels": sorted(labels),
        "anomalies": anomalies[:ANOMALIES_KEPT],
    }


def rows_of(path: Path, tables: Iterable[str] = tuple(_ORDERS)) -> Tables:
    """Return the rows of a view, of all tables or of these."""
    connection = sqlite3.connect(path)
    try:
        return {table: connection.execute(_ORDERS[table]).fetchall() for table in tables}
    finally:
        connection.close()


def checkpoint_of(path: Path) -> tuple[str, int, int]:
    """Return epoch, sequence and anomaly count of a view."""
    connection = sqlite3.connect(path)
    try:
        row: tuple[str, int, int] = connection.execute(
            "SELECT epoch, sequence, anomalies FROM checkpoint"
        ).fetchone()
        return row
    finally:
        connection.close()


async def project_all(log: EventLog, path: Path, *, tree: bool = True) -> None:
    """Run a projector until everything is in the view."""
    async with Projector(log, path, tree=tree) as running:
        await running.wait_for((await log.info()).last_sequence, timeout_seconds=30)
