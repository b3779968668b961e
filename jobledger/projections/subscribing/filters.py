"""Which events a feed or a subscription lets through. Pure, but for the labels, which the caller looks up."""

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec

from jobledger.projections.selectors import Requirement
from jobledger.store.errors import InvalidInput
from jobledger.store.events import JobAccepted, JobCreated, JobStateChanged, JobTagged, JobUpdated, event_type
from jobledger.store.job import JobStatus, StateType
from jobledger.store.subjects import job_subject, job_subject_anywhere, namespace_subjects

_TYPES: Final = {
    "created": event_type(JobCreated),
    "updated": event_type(JobUpdated),
    "state": event_type(JobStateChanged),
    "tagged": event_type(JobTagged),
    "accepted": event_type(JobAccepted),
}
_TAGGED: Final = _TYPES["tagged"]


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
        selector: only events of jobs whose labels, as of the event, meet this.
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
