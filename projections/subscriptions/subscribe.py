"""`subscribe`: how a service in a process of its own gets the log's events."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from types import NoneType
from typing import Any

from jobledger.projections.limits import (
    RETRIES_DEFAULT,
    RETRIES_MAX,
    SUBSCRIPTION_MEMBERS_MAX,
    SUBSCRIPTION_PARTITIONS,
)
from jobledger.projections.subscriptions.creation import Start, said
from jobledger.projections.subscriptions.definition import define
from jobledger.projections.subscriptions.subscription import Subscription
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType

_NOBODY = "anonymous"  # names what has no name, where a name is asked for


def subscribe(
    log: EventLog | str | None = None,
    name: str = "",
    *,
    namespace: str | None = None,
    job: str | None = None,
    types: Iterable[str] = (),
    states: Iterable[str | StateType] = (),
    labels: str = "",
    start: Start = "beginning",
    members: int = 0,
    member: int = 0,
    elastic: bool = False,
    partitions: int = SUBSCRIPTION_PARTITIONS,
    with_jobs: bool = False,
    retries: int = RETRIES_DEFAULT,
) -> Subscription:
    """Events of a log, filtered, in order, each with what the job was and became.

    Args:
        log: a log, or the URL of its nats-server, to which it has a connection of its own; None: the log of
            this machine's service, as of `JetStreamLog.connect`.
        name: keeps the place on the server; empty: nothing is kept.
        namespace: only events of its jobs.
        job: only events of the job of this id.
        types: only these: `created`, `updated`, `state`, `tagged`, or full CloudEvents types.
        states: only events that bring the job into one of these.
        labels: a label selector; only events of jobs that meet it, as of the event.
        start: where a new subscription begins: `beginning`, `now`, after a sequence or a cursor, or at a time
            (with its zone). One that exists goes on where it was.
        members: share it among so many processes, each with its own part of the jobs.
        member: which of them this one is, from 1.
        elastic: share it among processes that come and go.
        partitions: into how many parts it is cut for that; as many members can take part.
        with_jobs: give each event the job before and after it.
        retries: of an event that fails, before its job is parked.

    Raises:
        InvalidInput: naming what is wrong.
    """
    if not isinstance(log, str | None) and not callable(getattr(log, "follow", None)):
        raise InvalidInput(
            f"log is of type {type(log).__name__}; use a log, the URL of a nats-server,"
            " or None for the log of this machine's service"
        )
    _check_kinds(
        {
            "name": (name, str, "text"),
            "namespace": (namespace, (str, NoneType), "text, or None for all"),
            "job": (job, (str, NoneType), "the id of a job as text, or None for all"),
            "labels": (labels, str, "a label selector as text"),
            "start": (start, (str, int, datetime), "`beginning`, `now`, a sequence, a cursor, or a time"),
            "members": (members, int, "a whole number"),
            "member": (member, int, "a whole number"),
            "elastic": (elastic, bool, "True or False"),
            "partitions": (partitions, int, "a whole number"),
            "with_jobs": (with_jobs, bool, "True or False"),
            "retries": (retries, int, "a whole number"),
        }
    )
    types, states = _texts(types, "types"), _texts(states, "states")
    _check_sharing(name, members=members, member=member, partitions=partitions if elastic else None)
    if not 0 <= retries <= RETRIES_MAX:
        raise InvalidInput(f"retries is {retries!r}; it may be 0 to {RETRIES_MAX}")
    definition = define(
        name=name or _NOBODY,
        namespace=namespace,
        job=job,
        types=types,
        states=states,
        labels=labels,
        start=said(start),
        members=members,
        partitions=partitions if elastic else 0,
    )
    return Subscription(
        log,
        definition,
        is_durable=bool(name),
        member=member,
        with_jobs=with_jobs,
        retries=retries,
    )


def _check_kinds(arguments: Mapping[str, tuple[object, Any, str]]) -> None:
    """Refuse arguments of a wrong type; each comes with the types that it may have, and these in words."""
    for name, (value, kinds, words) in arguments.items():
        is_number_by_accident = isinstance(value, bool) and kinds is not bool
        if is_number_by_accident or not isinstance(value, kinds):
            raise InvalidInput(f"{name} is {value!r:.80}, of type {type(value).__name__}; use {words}")


def _texts(values: Iterable[str], name: str) -> tuple[str, ...]:
    """A list of texts; a single text would be taken for a list of letters."""
    found = None
    if not isinstance(values, str | bytes) and isinstance(values, Iterable):
        found = tuple(values)
    if found is None or not all(isinstance(each, str) for each in found):
        example = "state" if name == "types" else "Failed"
        raise InvalidInput(f'{name} is {values!r:.80}; use a list of texts, for one ["{example}"]')
    return found


def _check_sharing(name: str, *, members: int, member: int, partitions: int | None) -> None:
    elastic = partitions is not None
    if elastic and (members or member):
        raise InvalidInput("elastic and members exclude each other: leave one out")
    if bool(members) != bool(member) or not 0 <= member <= members:
        raise InvalidInput(f"member {member!r} of members {members!r} won't do; member is 1 to members")
    if partitions is not None and partitions < 1:
        raise InvalidInput(f"partitions is {partitions!r}; it may be 1 to {SUBSCRIPTION_MEMBERS_MAX}")
    if not name and (elastic or members):
        raise InvalidInput("members and elastic need a name: what they share is kept on the server under it")
