"""Blame: for every field, the event that set its current value."""

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from jobledger import JobSpec, Ledger, MemoryLog, SpecConfig, State, StateType, Task, named_job_id
from jobledger.service import blame as module
from jobledger.service.blame import Blame
from jobledger.service.errors import PayloadTooLarge
from jobledger.service.structural_diff import path_text
from jobledger.store.model.events import JobTagged, Record, TagData
from jobledger.store.model.history import HistoryItem
from jobledger.store.spec.spec import decode_spec
from tests.conftest import make_spec
from tests.support.histories import draft, records_of
from tests.support.ledgers import put, put_junk

ID = named_job_id("default", "etl")
RUNNING = State(StateType.RUNNING, "on node 3", {"Node": "3"})


def blamed(records: list[Record]) -> Blame:
    blame = Blame()
    for record in records:
        blame.add(record)
    return blame


async def told(log: MemoryLog) -> dict[str, tuple[Any, int]]:
    """Path to value and sequence."""
    blame = blamed(await records_of(log))
    return {path_text(each.path): (each.value, each.event.sequence) for each in blame.fields()}


def tasks(*names: str, **env: str) -> tuple[Task, ...]:
    return tuple(Task(name=name, engine=SpecConfig(type="noop"), env=env) for name in names)


async def test_every_field_is_blamed_on_the_event_that_set_it() -> None:
    """Spec, state and tags, each with actor and reason of its event."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl", labels={"env": "test"}), actor="alice", reason="new")
    await ledger.update(ID, make_spec("etl", labels={"env": "prod", "team": "a"}), actor="bob", reason="live")
    await ledger.set_state(ID, RUNNING, actor="scheduler", reason="capacity")
    await ledger.tag(ID, "golden", 2, actor="carol", reason="proven")
    found = {path_text(each.path): each for each in blamed(await records_of(log)).fields()}
    who = {
        "Name": ("etl", "alice", "new", 1),
        "Labels.env": ("prod", "bob", "live", 2),
        "Labels.team": ("a", "bob", "live", 2),
        "State.StateType": ("Running", "scheduler", "capacity", 3),
        "State.Message": ("on node 3", "scheduler", "capacity", 3),
        "State.Details.Node": ("3", "scheduler", "capacity", 3),
        "Tags.golden": (2, "carol", "proven", 4),
    }
    for path, (value, actor, reason, sequence) in who.items():
        event = found[path].event
        assert (found[path].value, event.actor, event.reason, event.sequence) == (
            value,
            actor,
            reason,
            sequence,
        )
    assert (found["Tags.golden"].event.version, found["Tags.golden"].event.revision) == (2, 3)


async def test_a_restored_value_is_blamed_on_the_event_that_restored_it() -> None:
    """A revert sets a field again; fields that it does not change keep their event."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl", priority=1, labels={"a": "1"}))
    first = (await ledger.load(ID)).spec
    await ledger.update(ID, make_spec("etl", priority=2, labels={"a": "1"}))
    await ledger.revert(ID, first)
    fields = await told(log)
    assert fields["Priority"] == (1, 3)
    assert fields["Labels.a"] == ("1", 1)


async def test_a_list_is_blamed_element_by_element() -> None:
    """A task inserted in front does not change the events of the others."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl", tasks=tasks("a", "b", KEY="1")))
    await ledger.update(
        ID, make_spec("etl", tasks=(*tasks("new"), *tasks("a", KEY="1"), *tasks("b", KEY="2")))
    )
    fields = await told(log)
    assert [fields[f"Tasks[{at}].Name"] for at in range(3)] == [("new", 2), ("a", 1), ("b", 1)]
    assert [fields[f"Tasks[{at}].Env.KEY"] for at in (1, 2)] == [("1", 1), ("2", 2)]
    await ledger.update(ID, make_spec("etl", tasks=tasks("b", KEY="2")))
    fields = await told(log)
    assert (fields["Tasks[0].Name"], fields["Tasks[0].Env.KEY"]) == (("b", 1), ("2", 2))


async def test_an_element_that_only_moved_keeps_its_events() -> None:
    """Tasks (by name), constraints (by key) and texts; a change inside a moved one is blamed on the mover."""
    ledger = Ledger(log := MemoryLog())
    a, b, c = tasks("a", "b", "c", KEY="1")
    await ledger.create(make_spec("etl", tasks=(a, b, c)))
    (changed,) = tasks("c", KEY="2")
    await ledger.update(ID, make_spec("etl", tasks=(changed, a, b)))
    fields = await told(log)
    assert [fields[f"Tasks[{at}].Name"] for at in range(3)] == [("c", 1), ("a", 1), ("b", 1)]
    assert [fields[f"Tasks[{at}].Env.KEY"] for at in range(3)] == [("2", 2), ("1", 1), ("1", 1)]
    await ledger.update(ID, make_spec("etl", tasks=(b, a, changed)))
    fields = await told(log)
    assert [fields[f"Tasks[{at}].Env.KEY"] for at in range(3)] == [("1", 1), ("1", 1), ("2", 2)]
    blame = Blame()
    blame._enter(HistoryItem(sequence=1, time=0), blame._rest, {"list": ["a", "b", "c"]})
    blame._enter(HistoryItem(sequence=2, time=0), {"list": ["a", "b", "c"]}, {"list": ["c", "a", "b", "d"]})
    assert [*blame._tree.at("list").sequences()] == [2, 1, 1, 1, 2]  # the list itself, then its elements


async def test_an_empty_value_is_blamed_on_the_event_that_emptied_it() -> None:
    """An empty list or object is a value like any other."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl", labels={"a": "1"}))
    await ledger.update(ID, make_spec("etl", labels={}, priority=1))
    assert (await told(log))["Labels"] == ({}, 2)
    assert (await told(log))["Meta"] == ({}, 1)


async def test_the_state_after_an_update_is_blamed_on_the_update() -> None:
    """A new spec makes the job Pending again."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    await ledger.set_state(ID, RUNNING)
    await ledger.update(ID, make_spec("etl", priority=1))
    fields = await told(log)
    assert fields["State.StateType"] == ("Pending", 3)
    assert "State.Message" not in fields


async def test_a_moved_or_removed_tag_is_blamed_as_it_is() -> None:
    """The last event counts; a removed tag is not listed."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    await ledger.update(ID, make_spec("etl", priority=1))
    for tag, version in (("a", 1), ("b", 1), ("a", 2)):
        await ledger.tag(ID, tag, version)
    await ledger.untag(ID, "b")
    assert {path: each for path, each in (await told(log)).items() if "Tags" in path} == {"Tags.a": (2, 5)}


async def test_an_anomaly_is_blamed_for_nothing() -> None:
    """It changed nothing."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    await put_junk(log, ID)
    await put(log, draft(JobTagged, ID, TagData("golden", 9), 7))
    assert {sequence for _, sequence in (await told(log)).values()} == {1}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["", "x", "y"]), st.booleans()), max_size=8))
def test_the_blamed_event_is_the_last_change_of_the_value(steps: list[tuple[int, str, bool]]) -> None:
    """For any history: the value differs before the event, and is the same after every later one."""
    import asyncio

    async def check() -> None:
        ledger = Ledger(log := MemoryLog())
        await ledger.create(make_spec("etl"))
        for priority, label, running in steps:
            if running:
                await ledger.set_state(ID, State(StateType.RUNNING, label))
            else:
                spec: JobSpec = make_spec("etl", priority=priority, labels={"l": label} if label else {})
                await ledger.update(ID, spec)
        records = await records_of(log)
        moments = [
            {path_text(each.path): each.value for each in blamed(records[:count]).fields()}
            for count in range(len(records) + 1)
        ]
        for each in blamed(records).fields():
            path, at = path_text(each.path), each.event.sequence
            assert moments[at - 1].get(path, None) != each.value or path not in moments[at - 1]
            assert all(moment[path] == each.value for moment in moments[at:])

    asyncio.run(check())


async def test_blame_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bytes and in fields, at the limit and one beyond, naming the version that is too large."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    spec = (await ledger.load(ID)).spec
    records = await records_of(log)
    fields = sum(1 for each in blamed(records).fields() if each.path[0] != "State")
    for name, most in (("DIFF_MAX_BYTES", len(spec)), ("BLAME_MAX_FIELDS", fields)):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, most)
            blamed(records)
            patch.setattr(module, name, most - 1)
            with pytest.raises(PayloadTooLarge, match="version 1 of the spec has"):
                blamed(records)
    assert decode_spec(spec).name == "etl"


async def test_a_long_history_does_not_stay_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Events without a blamed field are dropped."""
    ledger = Ledger(log := MemoryLog())
    await ledger.create(make_spec("etl"))
    for number in range(100):
        await ledger.set_state(ID, State(StateType.RUNNING, str(number)))
    records = await records_of(log)
    monkeypatch.setattr(module, "BLAME_MAX_FIELDS", 25)
    blame = blamed(records)
    assert len(blame._events) <= 2 * 25
    assert {path_text(each.path): each.event.sequence for each in blame.fields()}["State.Message"] == 101
