"""Which events a feed or a subscription lets through. Pure, but for the labels, which the caller looks up.

`types` and `states` look at the event: what it is, and which state it sets. Labels belong to the job and can
change, so a selector looks at the job before *and* after the event: an update that removes a label is
delivered to the subscribers of that label, which else would keep the job as it was for ever.
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
    """When a job met a label selector: before an event, after it, or both."""

    BEFORE = "before"  # the event took the job out of the selection; later events are not delivered
    AFTER = "after"  # the event brought the job into the selection
    BOTH = "both"


class Filtered(Protocol):
    """An event, as far as a filter looks at it."""

    @property
    def type(self) -> str:
        """Its CloudEvents type."""
        ...

    @property
    def status(self) -> JobStatus:
        """Of the job after it."""
        ...


class EventFilter(msgspec.Struct, frozen=True, kw_only=True):
    """All conditions must hold; an empty tuple or None asks nothing.

    Attributes:
        namespaces: only events of their jobs.
        job: only events of the job of this namespace (None: whatever it is) and id.
        types: only these CloudEvents types.
        states: only events that bring the job into one of these, or say so again; a tag does neither.
        selector: only events of jobs whose labels meet this before the event, after it, or both: see
            `match_labels`.
    """

    namespaces: frozenset[str] | None = None
    job: tuple[str | None, str] | None = None
    types: tuple[str, ...] = ()
    states: tuple[StateType, ...] = ()
    selector: tuple[Requirement, ...] = ()

    def passes(self, event: Filtered) -> bool:
        """Whether all but the labels lets an event through."""
        status = event.status
        return (
            (self.namespaces is None or status.namespace in self.namespaces)
            and (self.job is None or status.id == self.job[1])
            and (not self.types or event.type in self.types)
            and (not self.states or (event.type != _TAGGED and status.state.state_type in self.states))
        )

    @property
    def asks_nothing(self) -> bool:
        """Whether everything passes, apart from what the log itself filters and from the labels."""
        return not (self.types or self.states)

    @property
    def subjects(self) -> str:
        """The log's filter for what may pass; the narrowest that there is."""
        if self.job is not None:
            namespace, job_id = self.job
            return job_subject_anywhere(job_id) if namespace is None else job_subject(namespace, job_id)
        if self.namespaces is not None and len(self.namespaces) == 1:
            return namespace_subjects(next(iter(self.namespaces)))
        return namespace_subjects(None)


def match_labels(
    selector: Sequence[Requirement], before: Mapping[str, str] | None, after: Mapping[str, str]
) -> Match | None:
    """When the job met the selector; None if neither before nor after the event, which then does not pass.

    Args:
        selector: all of it must hold.
        before: the job's labels right before the event; None if the event created the job.
        after: its labels right after it.
    """
    was = before is not None and matches(selector, before)
    if matches(selector, after):
        return Match.BOTH if was else Match.AFTER
    return Match.BEFORE if was else None


def parse_types(texts: Iterable[str]) -> tuple[str, ...]:
    """Event types by their full names or their short ones.

    Raises:
        InvalidInput: if there is no such type.
    """
    found = []
    for text in texts:
        full = _TYPES.get(text.lower(), text)
        if full not in _TYPES.values():
            known = ", ".join((*_TYPES, *_TYPES.values()))
            raise InvalidInput(f"type: {text!r:.60} is no event type; use one of {known}")
        found.append(full)
    return tuple(dict.fromkeys(found))


def parse_states(texts: Iterable[str]) -> tuple[StateType, ...]:
    """States by their names, in any case.

    Raises:
        InvalidInput: if there is no such state.
    """
    known = {state.lower(): state for state in StateType}
    found = []
    for text in texts:
        state = known.get(text.lower())
        if state is None:
            raise InvalidInput(f"state: {text!r:.60} is no state; use one of {', '.join(StateType)}")
        found.append(state)
    return tuple(dict.fromkeys(found))
