"""Histories to fold: valid and invalid events appended directly to a log."""

import random
from typing import Any

import msgspec

from jobledger.store.log import Appended, EventLog, PendingEvent
from jobledger.store.model.events import (
    SOURCE,
    EventClass,
    EventData,
    JobCreated,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    Record,
    SpecData,
    StateData,
    TagData,
    encode_event,
)
from jobledger.store.model.job import State, StateType
from jobledger.store.model.subjects import job_subject, named_job_id
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.spec import encode_spec
from tests.conftest import make_spec


def spec_data(name: str, namespace: str = "default", **fields: Any) -> SpecData:
    """Return the data of a created or updated event."""
    spec = normalize(make_spec(name, namespace=namespace, **fields))
    return SpecData(msgspec.Raw(encode_spec(spec)))


def state_data(state: StateType, message: str = "") -> StateData:
    """Return the data of a state event."""
    return StateData(State(state, message))


def draft(
    kind: EventClass, job_id: str, data: EventData, number: int, namespace: str = "default"
) -> PendingEvent:
    """Return a pending event whose id is derived from `number`."""
    event_id = f"00000000-0000-7000-8000-{number:012x}"
    event = kind(
        specversion="1.0",
        id=event_id,
        source=SOURCE,
        subject=job_id,
        time="2026-01-01T00:00:00.000Z",
        datacontenttype="application/json",
        namespace=namespace,
        actor="tester",
        data=data,  # type: ignore[arg-type]
    )
    return PendingEvent(job_subject(namespace, job_id), event_id, encode_event(event))


def random_drafts(rng: random.Random, jobs: int, events: int) -> list[PendingEvent]:
    """Return events of some jobs, mostly valid; others are a state before the job, or garbage."""
    names = [f"job-{number}" for number in range(jobs)]
    drafts: list[PendingEvent] = []
    for number in range(events):
        name = rng.choice(names)
        job_id = named_job_id("default", name)
        kind = rng.choices(("created", "updated", "state", "tagged", "garbage"), (4, 2, 6, 2, 0.3))[0]
        labels = {key: rng.choice("abc") for key in rng.sample(["env", "tier", "owner"], rng.randint(0, 3))}
        if kind == "state":
            data = state_data(rng.choice(list(StateType)), rng.choice(["", "why"]))
            drafts.append(draft(JobStateChanged, job_id, data, number))
        elif kind == "tagged":
            tag = TagData(rng.choice(["golden", "a", "z.9", "no tag"]), rng.randint(0, 3))
            drafts.append(draft(JobTagged, job_id, tag, number))
        elif kind == "garbage":
            drafts.append(PendingEvent(job_subject("default", job_id), f"garbage-{number}", b"{not an event"))
        else:
            event = JobCreated if kind == "created" else JobUpdated
            spec = spec_data(name, priority=rng.randint(0, 5), labels=labels)
            drafts.append(draft(event, job_id, spec, number))
    return drafts


async def append_all(log: EventLog, drafts: list[PendingEvent]) -> None:
    """Append events in order, each after the last of its subject."""
    last: dict[str, int] = {}
    for item in drafts:
        known = last.get(item.subject)
        if known is None:
            record = await log.read_last(item.subject)
            known = record.sequence if record else 0
        outcome = await log.append(item, expect=known)
        assert isinstance(outcome, Appended)
        last[item.subject] = outcome.sequence


async def records_of(log: EventLog) -> list[Record]:
    """Return all records of a log."""
    records: list[Record] = []
    last = (await log.info()).last_sequence
    feed = await log.follow(after=0)
    while len(records) < last:
        records.extend(await feed.take(1_000))
    await feed.close()
    return records
