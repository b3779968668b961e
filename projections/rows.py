"""Conversion between jobs and rows of the view. Pure."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from jobledger.store.model.fold import SpecHead, lost
from jobledger.store.model.job import Job, JobStatus, Quarantine, State, StateType

JOB_COLUMNS: Final = (
    "created_sequence",
    "id",
    "namespace",
    "name",
    "type",
    "priority",
    "count",
    "state",
    "message",
    "details",
    "version",
    "revision",
    "create_time",
    "modify_time",
    "spec_sequence",
    "sequence",
    "tags",
    "passed",
    "quarantine",
)
"""The columns of the table `jobs`, in schema order. The digest of a view depends on this order."""

STATUS_COLUMNS: Final = tuple(name for name in JOB_COLUMNS if name not in {"type", "priority", "count"})
"""The columns that `status_of` reads; `job_of` reads the spec after them."""

# A write sets all columns, those that a new spec changes, or those that a new state or tag changes. Each list
# extends the smaller one, as each row extends the smaller row; all start with the key.
STATE_CHANGE_COLUMNS: Final = (
    "created_sequence",
    "state",
    "message",
    "details",
    "revision",
    "modify_time",
    "sequence",
    "tags",
    "passed",
    "quarantine",
)
SPEC_CHANGE_COLUMNS: Final = (
    *STATE_CHANGE_COLUMNS,
    "type",
    "priority",
    "count",
    "version",
    "spec_sequence",
)
JOB_ROW_COLUMNS: Final = (*SPEC_CHANGE_COLUMNS, "id", "namespace", "name", "create_time")

LOST_COLUMNS: Final = ("namespace", "id", "sequence", "passed", "quarantine")
"""The columns of the table `lost_jobs`: jobs whose creating event cannot be read."""

_STATUS_LIST: Final = ", ".join(STATUS_COLUMNS)
_LOST_LIST: Final = ", ".join(LOST_COLUMNS)

SELECT_STATUSES: Final = f"SELECT {_STATUS_LIST} FROM jobs WHERE id IN (SELECT value FROM json_each(?))"
SELECT_LOST: Final = f"SELECT {_LOST_LIST} FROM lost_jobs WHERE id IN (SELECT value FROM json_each(?))"
SELECT_QUARANTINED: Final = (
    f"SELECT {_STATUS_LIST} FROM jobs WHERE quarantine != '' AND created_sequence > ?"
    " ORDER BY created_sequence LIMIT ?"
)
SELECT_LOST_PAGE: Final = (
    f"SELECT {_LOST_LIST} FROM lost_jobs"
    " WHERE sequence > 0 AND (id, namespace) > (?, ?) ORDER BY id, namespace LIMIT ?"
)
SELECT_SPECS: Final = "SELECT sequence, spec FROM specs WHERE sequence IN (SELECT value FROM json_each(?))"

NO_DETAILS: Final = ""
NO_TAGS: Final = ""
NO_QUARANTINE: Final = ""

Row = Sequence[Any]

_details_encoder = msgspec.json.Encoder(order="deterministic")
_details_decoder: Final = msgspec.json.Decoder(dict[str, str])
_quarantine_decoder: Final = msgspec.json.Decoder(Quarantine)
_tags_decoder: Final = msgspec.json.Decoder(dict[str, int])
# Most states have neither message nor details; all jobs in such a state share one frozen State.
_PLAIN_STATES: Final = {kind.value: State(state_type=kind) for kind in StateType}


def job_row(status: JobStatus, head: SpecHead) -> tuple[Any, ...]:
    """The values of `JOB_ROW_COLUMNS`: a whole row of `jobs`."""
    more = (status.id, status.namespace, status.name, status.create_time)
    return spec_change_row(status, head) + more  # faster than unpacking, and done for every new job


def spec_change_row(status: JobStatus, head: SpecHead) -> tuple[Any, ...]:
    """The values of `SPEC_CHANGE_COLUMNS`."""
    more = (head.type, head.priority, head.count, status.version, status.spec_sequence)
    return state_change_row(status) + more


def state_change_row(status: JobStatus) -> tuple[Any, ...]:
    """The values of `STATE_CHANGE_COLUMNS`."""
    state = status.state
    return (
        status.created_sequence,
        state.state_type.value,
        state.message,
        encode_details(state),
        status.revision,
        status.modify_time,
        status.sequence,
        _encode_tags(status),
        status.passed,
        _encode_quarantine(status),
    )


def encode_details(state: State) -> str:
    """The column `details`: JSON with sorted keys, so that equal views have equal bytes; empty if unset."""
    return _details_encoder.encode(state.details).decode() if state.details else NO_DETAILS


def _encode_tags(status: JobStatus) -> str:
    return _details_encoder.encode(status.tags).decode() if status.tags else NO_TAGS


def _encode_quarantine(status: JobStatus) -> str:
    quarantine = status.quarantine
    return _details_encoder.encode(quarantine).decode() if quarantine is not None else NO_QUARANTINE


def lost_row(status: JobStatus) -> tuple[Any, ...]:
    """A row of the table `lost_jobs`: a job whose creating event cannot be read."""
    sequence = status.quarantine.sequence if status.quarantine is not None else 0
    return (status.namespace, status.id, sequence, status.passed, _encode_quarantine(status))


def lost_status_of(row: Row) -> JobStatus:
    """The status of a row of `lost_jobs`."""
    namespace, job_id, _, passed, quarantine = row
    return msgspec.structs.replace(
        lost(namespace, job_id, passed),
        quarantine=_quarantine_decoder.decode(quarantine) if quarantine else None,
    )


def status_of(row: Row) -> JobStatus:
    """The status of a row that starts with `STATUS_COLUMNS`."""
    kind, message, details = row[4], row[5], row[6]
    if message or details:
        state = State(
            state_type=StateType(kind),
            message=message,
            details=_details_decoder.decode(details) if details else {},
        )
    else:
        state = _PLAIN_STATES[kind]
    return JobStatus(
        created_sequence=row[0],
        id=row[1],
        namespace=row[2],
        name=row[3],
        state=state,
        version=row[7],
        revision=row[8],
        create_time=row[9],
        modify_time=row[10],
        spec_sequence=row[11],
        sequence=row[12],
        tags=_tags_decoder.decode(row[13]) if row[13] else {},
        passed=row[14],
        quarantine=_quarantine_decoder.decode(row[15]) if row[15] else None,
    )


def job_of(row: Row) -> Job:
    """The job of a row with `STATUS_COLUMNS` followed by the spec."""
    return Job(status=status_of(row), spec=row[len(STATUS_COLUMNS)])
