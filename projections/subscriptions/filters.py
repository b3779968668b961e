"""Filters of the events of a feed or a subscription. Pure; the caller looks up labels.

`types` and `states` test the event. Labels belong to the job and can change, so a selector tests the
job before *and* after the event: an update that removes a label is delivered to the subscribers of that
label, who otherwise would keep the job as it was forever.
"""

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from jobledger.projections.query.selectors import Requirement, matches
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import (
    JobAccepted,
    JobCreated,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    event_type,
)
from jobledger.store.model.job import JobStatus, StateType
from jobledger.store.model.subjects import job_subject, job_subject_anywhere, namespace_subjects

_TYPES: Final = {
    "created": event_type(JobCreated),
    "updated": event_type(JobUpdated),
    "state": event_type(JobStateChanged),
    "tagged": event_type(JobTagged),
    "accepted": event_type(JobAccepted),
}
_TAGGED: Final = _TYPES["tagged"]


class Match(enum.StrEnum):
    """When a job matched a label selector: before an event, after it, or both."""

    BEFORE = "before"  # the event removed the job from the selection; its later events are not delivered
    AFTER = "after"  # the event added the job to the selection
    BOTH = "both"


class Filtered(Protocol):
    """The part of an event that a filter tests."""

    @property
    def type(self) -> str:
        """The CloudEvents type."""
        ...

    @property
    def status(self) -> JobStatus:
        """The job's status after the event."""
        ...


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Conditions that an event must meet, all of them; an empty tuple or None is no condition.

    Attributes:
        namespaces: only events of these namespaces.
        job: only events of the job with this namespace (None: any) and id.
        types: only these CloudEvents types.
        states: only events that set one of these states, or confirm it; a tag does neither.
        selector: only events of jobs whose labels match before the event, after it, or both (`match_labels`).
    """

    namespaces: frozenset[str] | None = None
    job: tuple[str | None, str] | None = None
    types: tuple[str, ...] = ()
    states: tuple[StateType, ...] = ()
    selector: tuple[Requirement, ...] = ()

    def passes(self, event: Filtered) -> bool:
        """Whether the event meets all conditions except `selector`."""
        status = event.status
        return (
            (self.namespaces is None or status.namespace in self.namespaces)
            and (self.job is None or status.id == self.job[1])
            and (not self.types or event.type in self.types)
            and (not self.states or (event.type != _TAGGED and status.state.state_type in self.states))
        )

    @property
    def is_covered_by_subjects(self) -> bool:
        """Whether there is no condition except those that `subjects` covers, and `selector`."""
        return not (self.types or self.states)

    @property
    def subjects(self) -> str:
        """The narrowest subject filter that covers every event that passes."""
        if self.job is not None:
            namespace, job_id = self.job
            return job_subject_anywhere(job_id) if namespace is None else job_subject(namespace, job_id)
        if self.namespaces is not None and len(self.namespaces) == 1:
            return namespace_subjects(next(iter(self.namespaces)))
        return namespace_subjects(None)


def match_labels(
    selector: Sequence[Requirement], before: Mapping[str, str] | None, after: Mapping[str, str]
) -> Match | None:
    """When the job matched the selector; None if neither before nor after the event: it does not pass.

    Args:
        selector: the requirements, all of which must hold.
        before: the job's labels before the event; None if the event created the job.
        after: the job's labels after the event.
    """
    matched_before = before is not None and matches(selector, before)
    if matches(selector, after):
        return Match.BOTH if matched_before else Match.AFTER
    return Match.BEFORE if matched_before else None


def parse_types(texts: Iterable[str]) -> tuple[str, ...]:
    """Parse event types given by full or short name.

    Raises:
        InvalidInput: if one does not exist.
    """
    found = []
    for text in texts:
        full = _TYPES.get(text.lower(), text)
        if full not in _TYPES.values():
            known = ", ".join((*_TYPES, *_TYPES.values()))
            raise InvalidInput(f"type: unknown event type {text!r:.60}: use one of {known}")
        found.append(full)
    return tuple(dict.fromkeys(found))


def parse_states(texts: Iterable[str]) -> tuple[StateType, ...]:
    """Parse names of states, in any case.

    Raises:
        InvalidInput: if one does not exist.
    """
    known = {state.lower(): state for state in StateType}
    found = []
    for text in texts:
        state = known.get(text.lower())
        if state is None:
            raise InvalidInput(f"state: unknown state {text!r:.60}: use one of {', '.join(StateType)}")
        found.append(state)
    return tuple(dict.fromkeys(found))
