"""The one place that knows how a job becomes a row of the view, and a row a job again. Pure."""

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
"""The columns of the table `jobs`, in its order; what `row_of` returns."""

STATUS_COLUMNS: Final = (
    "id",
    "namespace",
    "name",
    "state",
    "message",
    "details",
    "version",
    "revision",
    "create_time",
    "modify_time",
    "created_sequence",
    "spec_sequence",
    "sequence",
    "tags",
    "passed",
    "quarantine",
)
"""The columns that make a `JobStatus`; what `status_of` takes, and `job_of` with the spec behind them."""

RESPECIFIED_COLUMNS: Final = (
    "created_sequence",
    "type",
    "priority",
    "count",
    "state",
    "message",
    "details",
    "version",
    "revision",
    "modify_time",
    "spec_sequence",
    "sequence",
    "tags",
    "passed",
    "quarantine",
)
"""The columns that a new spec changes, behind the key; what `respecified_row` returns."""

RESTATED_COLUMNS: Final = (
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
"""The columns that a new state or tag changes, behind the key; what `restated_row` returns."""

NO_DETAILS: Final = ""
NO_TAGS: Final = ""
NO_QUARANTINE: Final = ""

Row = Sequence[Any]

_details_encoder = msgspec.json.Encoder(order="deterministic")
_details_decoder: Final = msgspec.json.Decoder(dict[str, str])
_quarantine_decoder: Final = msgspec.json.Decoder(Quarantine)
_tags_decoder: Final = msgspec.json.Decoder(dict[str, int])
# Most states say nothing but their type, and a frozen State can be shared by all jobs that are in it.
_PLAIN_STATES: Final = {kind.value: State(state_type=kind) for kind in StateType}


def row_of(status: JobStatus, head: SpecHead) -> tuple[Any, ...]:
    """A job as a row of the table `jobs`: its status, and the columns that its current spec fills."""
    state = status.state
    return (
        status.created_sequence,
        status.id,
        status.namespace,
        status.name,
        head.type,
        head.priority,
        head.count,
        state.state_type.value,
        state.message,
        details_of(state),
        status.version,
        status.revision,
        status.create_time,
        status.modify_time,
        status.spec_sequence,
        status.sequence,
        tags_of(status),
        status.passed,
        quarantine_of(status),
    )


def respecified_row(status: JobStatus, head: SpecHead) -> tuple[Any, ...]:
    """What a new spec changes in a job's row."""
    state = status.state
    return (
        status.created_sequence,
        head.type,
        head.priority,
        head.count,
        state.state_type.value,
        state.message,
        details_of(state),
        status.version,
        status.revision,
        status.modify_time,
        status.spec_sequence,
        status.sequence,
        tags_of(status),
        status.passed,
        quarantine_of(status),
    )


def restated_row(status: JobStatus) -> tuple[Any, ...]:
    """What a new state or tag changes in a job's row."""
    state = status.state
    return (
        status.created_sequence,
        state.state_type.value,
        state.message,
        details_of(state),
        status.revision,
        status.modify_time,
        status.sequence,
        tags_of(status),
        status.passed,
        quarantine_of(status),
    )


def details_of(state: State) -> str:
    """The column `details`: JSON with sorted keys, so that equal views have equal bytes; empty for none."""
    return _details_encoder.encode(state.details).decode() if state.details else NO_DETAILS


def tags_of(status: JobStatus) -> str:
    """The column `tags`: JSON with sorted keys; empty for none."""
    return _details_encoder.encode(status.tags).decode() if status.tags else NO_TAGS


def quarantine_of(status: JobStatus) -> str:
    """The column `quarantine`: JSON, also with what the job is beyond it; empty for none."""
    quarantine = status.quarantine
    return _details_encoder.encode(quarantine).decode() if quarantine is not None else NO_QUARANTINE


def lost_row(status: JobStatus) -> tuple[Any, ...]:
    """A job of which no creating event can be read, as a row of the table `lost_jobs`."""
    sequence = status.quarantine.sequence if status.quarantine is not None else 0
    return (status.namespace, status.id, sequence, status.passed, quarantine_of(status))


def lost_status_of(row: Row) -> JobStatus:
    """The status in a row of `lost_jobs`."""
    namespace, job_id, _, passed, quarantine = row
    return msgspec.structs.replace(
        lost(namespace, job_id, passed),
        quarantine=_quarantine_decoder.decode(quarantine) if quarantine else None,
    )


def status_of(row: Row) -> JobStatus:
    """The status in a row of `STATUS_COLUMNS`; columns behind them are left alone."""
    kind, message, details = row[3], row[4], row[5]
    if message or details:
        state = State(
            state_type=StateType(kind),
            message=message,
            details=_details_decoder.decode(details) if details else {},
        )
    else:
        state = _PLAIN_STATES[kind]
    return JobStatus(
        id=row[0],
        namespace=row[1],
        name=row[2],
        state=state,
        version=row[6],
        revision=row[7],
        create_time=row[8],
        modify_time=row[9],
        created_sequence=row[10],
        spec_sequence=row[11],
        sequence=row[12],
        tags=_tags_decoder.decode(row[13]) if row[13] else {},
        passed=row[14],
        quarantine=_quarantine_decoder.decode(row[15]) if row[15] else None,
    )


def job_of(row: Row) -> Job:
    """The job in a row of `STATUS_COLUMNS` followed by the spec."""
    return Job(status=status_of(row), spec=row[len(STATUS_COLUMNS)])
