"""A job's history in the API: Bacalhau's history items with additional fields. Pure."""

from typing import Any, Final

import msgspec

from jobledger.service.cursor import format_cursor
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


def history_item(job_id: str, item: HistoryItem, mark: str = "") -> dict[str, Any]:
    """Return one event of a job.

    Args:
        job_id: of the job.
        item: the event.
        mark: the tag of the stream, for the cursor; empty: no cursor.
    """
    time = format_rfc3339(item.time)
    wire: dict[str, Any] = {
        "SeqNum": item.revision,
        "Type": "JobLevel",
        "JobID": job_id,
        "JobVersion": item.version,
        "Event": _event(item, time),
        "Time": time,
        "Sequence": item.sequence,
        "Revision": item.revision,
        "EventID": item.event_id,
        "EventType": item.type,
        "State": msgspec.to_builtins(item.state),
        "Actor": item.actor,
        "Reason": item.reason,
    }
    if item.tag:
        wire |= {"Tag": item.tag, "TagVersion": item.tag_version}
    if item.quarantine:
        wire["Quarantine"] = item.anomaly or item.quarantine
    if item.accepted:
        wire["AcceptedSequence"] = item.accepted
    if mark:
        wire["Cursor"] = format_cursor(mark, item.sequence)
    return wire


def tag_words(tag: str, version: int) -> str:
    """Return a description of a tag's event."""
    return f"Version {version} tagged {tag}" if version else f"Tag {tag} removed"


def _event(item: HistoryItem, time: str) -> dict[str, Any]:
    """Return the part that Bacalhau's clients show."""
    if item.type == _TAGGED:
        return {
            "Topic": "Tag",
            "Message": tag_words(item.tag, item.tag_version),
            "Timestamp": time,
            "Details": {"Reason": item.reason} if item.reason else {},
        }
    if item.quarantine and item.anomaly:
        return {
            "Topic": "Quarantine",
            "Message": item.anomaly,
            "Timestamp": time,
            "Details": {"IsError": "true"},
        }
    if item.type == _ACCEPTED:
        return {
            "Topic": "Quarantine",
            "Message": f"Event {item.accepted} accepted as unreadable",
            "Timestamp": time,
            "Details": {"Reason": item.reason} if item.reason else {},
        }
    if item.type != _STATE_CHANGED or item.state is None:
        details = {"Reason": item.reason} if item.reason else {}
        message = _RERUN if item.rerun else _SUBMISSION.get(item.type, "")
        return {"Topic": "Submission", "Message": message, "Timestamp": time, "Details": details}
    name, words = item.state.state_type.value, item.state.message
    details = {**item.state.details, "NewState": name}
    if item.state.state_type is StateType.FAILED:
        details["IsError"] = "true"  # otherwise `bacalhau job run` does not show the reason
    if item.reason:
        details["Reason"] = item.reason
    return {
        "Topic": "State Update",
        "Message": f"{name}: {words}" if words else name,
        "Timestamp": time,
        "Details": details,
    }
