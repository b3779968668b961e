"""`subscribe`: the events of a log, for a service in a process of its own."""

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
from jobledger.projections.subscriptions.creation import Start, format_start
from jobledger.projections.subscriptions.definition import define
from jobledger.projections.subscriptions.subscription import Subscription
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.job import StateType

_ANONYMOUS = "anonymous"  # the name of a definition that is never stored


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
    """Subscribe to the events of a log: filtered, in order, each with its job's status after it.

    Args:
        log: a log; or the URL of its nats-server, for a connection of its own; or None for the log of this
            machine's service, found as by `JetStreamLog.connect`.
        name: keeps the position on the server under this name; empty: no position is kept.
        namespace: only events of this namespace.
        job: only events of the job with this id.
        types: only these: `created`, `updated`, `state`, `tagged`, `accepted`, or full CloudEvents types.
        states: only events after which the job is in one of these states.
        labels: a label selector; only events of jobs that match it before or after the event.
        start: where a new subscription starts: `beginning`, `now`, after a sequence or a cursor, or at a time
            (with a time zone). An existing one resumes at its position.
        members: share it among this number of processes, each with its own part of the jobs.
        member: which of them this process is, from 1.
        elastic: share it among processes that come and go.
        partitions: number of parts for `elastic`, and so the most members.
        with_jobs: add the job before and after to each event.
        retries: retries of a failed event before its job is parked.

    Raises:
        InvalidInput: naming the invalid argument.
    """
    if not isinstance(log, str | None) and not callable(getattr(log, "follow", None)):
        raise InvalidInput(
            f"log must be a log, the URL of a nats-server, or None for the log of this machine's service; got"
            f" {type(log).__name__}"
        )
    _check_kinds(
        {
            "name": (name, str, "a string"),
            "namespace": (namespace, (str, NoneType), "a string, or None for all"),
            "job": (job, (str, NoneType), "the id of a job, or None for all"),
            "labels": (labels, str, "a label selector"),
            "start": (start, (str, int, datetime), "`beginning`, `now`, a sequence, a cursor, or a time"),
            "members": (members, int, "an integer"),
            "member": (member, int, "an integer"),
            "elastic": (elastic, bool, "True or False"),
            "partitions": (partitions, int, "an integer"),
            "with_jobs": (with_jobs, bool, "True or False"),
            "retries": (retries, int, "an integer"),
        }
    )
    types, states = _strings(types, "types"), _strings(states, "states")
    _check_sharing(name, members=members, member=member, partitions=partitions if elastic else None)
    if not 0 <= retries <= RETRIES_MAX:
        raise InvalidInput(f"retries must be 0..{RETRIES_MAX}, got {retries!r}")
    definition = define(
        name=name or _ANONYMOUS,
        namespace=namespace,
        job=job,
        types=types,
        states=states,
        labels=labels,
        start=format_start(start),
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
    """Check the types of arguments, each given with its types and a description of them."""
    for name, (value, kinds, words) in arguments.items():
        is_bool_as_number = isinstance(value, bool) and kinds is not bool
        if is_bool_as_number or not isinstance(value, kinds):
            raise InvalidInput(f"{name} must be {words}, got {value!r:.80} of type {type(value).__name__}")


def _strings(values: Iterable[str], name: str) -> tuple[str, ...]:
    """Check a list of strings; a single string would be taken for a list of its letters."""
    found = None
    if not isinstance(values, str | bytes) and isinstance(values, Iterable):
        found = tuple(values)
    if found is None or not all(isinstance(each, str) for each in found):
        example = "state" if name == "types" else "Failed"
        raise InvalidInput(f'{name} must be a list of strings, such as ["{example}"], got {values!r:.80}')
    return found


def _check_sharing(name: str, *, members: int, member: int, partitions: int | None) -> None:
    elastic = partitions is not None
    if elastic and (members or member):
        raise InvalidInput("elastic excludes members: omit one of them")
    if bool(members) != bool(member) or not 0 <= member <= members:
        raise InvalidInput(f"member must be 1..members, got member {member!r} of members {members!r}")
    if partitions is not None and partitions < 1:
        raise InvalidInput(f"partitions must be 1..{SUBSCRIPTION_MEMBERS_MAX}, got {partitions!r}")
    if not name and (elastic or members):
        raise InvalidInput("members and elastic need a name: the server keeps the shared position under it")
