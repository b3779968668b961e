"""What a feed lets through. Pure, but for the labels, which the hub looks up."""

from collections.abc import Iterable
from typing import Final

import msgspec

from jobledger.projections.selectors import Requirement
from jobledger.service.feed.events import FeedEvent
from jobledger.store.errors import InvalidInput
from jobledger.store.events import JobCreated, JobStateChanged, JobUpdated, event_type
from jobledger.store.job import StateType
from jobledger.store.subjects import job_subject, namespace_subjects

_TYPES: Final = {
    "created": event_type(JobCreated),
    "updated": event_type(JobUpdated),
    "state": event_type(JobStateChanged),
}


class FeedFilter(msgspec.Struct, frozen=True, kw_only=True):
    """All conditions must hold; an empty tuple or None asks nothing.

    Attributes:
        namespaces: only events of their jobs.
        job: only events of the job of this namespace and id.
        types: only these CloudEvents types.
        states: only events that leave the job in one of these.
        selector: only events of jobs whose labels, as of the event, meet this.
    """

    namespaces: frozenset[str] | None = None
    job: tuple[str, str] | None = None
    types: tuple[str, ...] = ()
    states: tuple[StateType, ...] = ()
    selector: tuple[Requirement, ...] = ()

    def passes(self, event: FeedEvent) -> bool:
        """Whether all but the labels lets an event through."""
        status = event.status
        return (
            (self.namespaces is None or status.namespace in self.namespaces)
            and (self.job is None or status.id == self.job[1])
            and (not self.types or event.type in self.types)
            and (not self.states or status.state.state_type in self.states)
        )

    @property
    def subjects(self) -> str:
        """The log's filter for what may pass; the narrowest that there is."""
        if self.job is not None:
            return job_subject(*self.job)
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
