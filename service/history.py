"""A job's history in the API: Bacalhau's history items with additional fields. Pure."""

from typing import Final

from jobledger.service.cursor import format_cursor
from jobledger.service.wire import jobs as wire
from jobledger.store.model.events import (
    JobAccepted,
    JobCreated,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    event_type,
)
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import StateType
from jobledger.store.timestamps import format_rfc3339

_SUBMISSION: Final = {event_type(JobCreated): "Job submitted", event_type(JobUpdated): "Job updated"}
_RERUN: Final = "Job rerun requested"
_STATE_CHANGED: Final = event_type(JobStateChanged)
_TAGGED: Final = event_type(JobTagged)
_ACCEPTED: Final = event_type(JobAccepted)


def history_item(job_id: str, item: HistoryItem, stream_tag: str = "") -> wire.HistoryItem:
    """Return one event of a job; without a `stream_tag`, it has no cursor."""
    time = format_rfc3339(item.time)
    found = wire.HistoryItem(
        seq_num=item.revision,
        type="JobLevel",
        job_id=job_id,
        job_version=item.version,
        event=_event(item, time),
        time=time,
        sequence=item.sequence,
        revision=item.revision,
        event_id=item.event_id,
        event_type=item.type,
        state=item.state,
        actor=item.actor,
        reason=item.reason,
    )
    if item.tag:
        found.tag, found.tag_version = item.tag, item.tag_version
    if item.quarantine:
        found.quarantine = item.anomaly or item.quarantine
    if item.accepted:
        found.accepted_sequence = item.accepted
    if stream_tag:
        found.cursor = format_cursor(stream_tag, item.sequence)
    return found


def tag_words(tag: str, version: int) -> str:
    """Return a description of a tag's event."""
    return f"Version {version} tagged {tag}" if version else f"Tag {tag} removed"


def _event(item: HistoryItem, time: str) -> wire.Event:
    """Return the part that Bacalhau's clients show."""
    reason = {"Reason": item.reason} if item.reason else {}
    if item.type == _TAGGED:
        return wire.Event("Tag", tag_words(item.tag, item.tag_version), time, reason)
    if item.quarantine and item.anomaly:
        return wire.Event("Quarantine", item.anomaly, time, {"IsError": "true"})
    if item.type == _ACCEPTED:
        return wire.Event("Quarantine", f"Event {item.accepted} accepted as unreadable", time, reason)
    if item.type != _STATE_CHANGED or item.state is None:
        message = _RERUN if item.rerun else _SUBMISSION.get(item.type, "")
        return wire.Event("Submission", message, time, reason)
    name, words = item.state.state_type.value, item.state.message
    details = {**item.state.details, "NewState": name}
    if item.state.state_type is StateType.FAILED:
        details["IsError"] = "true"  # otherwise `bacalhau job run` does not show the reason
    return wire.Event("State Update", f"{name}: {words}" if words else name, time, {**details, **reason})
