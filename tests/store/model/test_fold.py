"""The fold, case by case: the effect of each event, and the events that make no sense."""

import msgspec
import pytest

from jobledger.store.model.events import (
    EventClass,
    JobCreated,
    JobStateChanged,
    JobUpdated,
    Read,
    Record,
    Recorded,
    SpecData,
    StateData,
    read_record,
)
from jobledger.store.model.fold import Anomaly, fold, fold_job
from jobledger.store.model.history import HistoryItem, build_history_item
from jobledger.store.model.job import PENDING, Job, JobStatus, State, StateType
from jobledger.store.model.subjects import job_subject, named_job_id, nameless_job_id
from tests.support.histories import draft, spec_data, state_data

ID = named_job_id("default", "etl")
SPEC = spec_data("etl")


def recorded(
    kind: EventClass,
    data: SpecData | StateData,
    sequence: int,
    *,
    time: int = 0,
    job_id: str = ID,
    namespace: str = "default",
) -> Read:
    written = draft(kind, job_id, data, sequence, namespace)
    return read_record(Record(sequence, time or 1_000 * sequence, written.subject, written.payload))


def created(sequence: int = 1, **place: object) -> Read:
    return recorded(JobCreated, SPEC, sequence, **place)  # type: ignore[arg-type]


def state(state_type: StateType, sequence: int, message: str = "", **place: object) -> Read:
    return recorded(JobStateChanged, state_data(state_type, message), sequence, **place)  # type: ignore[arg-type]


def updated(sequence: int, *, priority: int = 1, **place: object) -> Read:
    return recorded(JobUpdated, spec_data("etl", priority=priority), sequence, **place)  # type: ignore[arg-type]


def status_after(*events: Read) -> JobStatus:
    """Return the status after events that all make sense."""
    status: JobStatus | None = None
    for event in events:
        folded = fold(status, event)
        assert isinstance(folded, JobStatus), folded
        status = folded
    assert status is not None
    return status


def test_created_is_pending_at_version_and_revision_one() -> None:
    """A new job is Pending with version 1, revision 1, and the stream time as both of its times."""
    status = status_after(created(7, time=5_000))
    assert status == JobStatus(
        id=ID,
        namespace="default",
        name="etl",
        state=PENDING,
        version=1,
        revision=1,
        create_time=5_000,
        modify_time=5_000,
        created_sequence=7,
        spec_sequence=7,
        sequence=7,
    )


def test_a_state_increases_only_the_revision() -> None:
    """A state change sets state and message, increases the revision, and keeps the version."""
    status = status_after(created(1), state(StateType.RUNNING, 4, "on node 3", time=9_000))
    assert status.state == State(StateType.RUNNING, "on node 3")
    assert (status.version, status.revision) == (1, 2)
    assert (status.create_time, status.modify_time) == (1_000, 9_000)
    assert (status.created_sequence, status.spec_sequence, status.sequence) == (1, 1, 4)


def test_an_update_increases_version_and_revision_and_clears_the_state() -> None:
    """A job with a new spec is Pending without a message."""
    status = status_after(created(1), state(StateType.RUNNING, 2, "on node 3"), updated(5, time=8_000))
    assert status.state == State(StateType.PENDING)
    assert (status.version, status.revision) == (2, 3)
    assert (status.create_time, status.modify_time) == (1_000, 8_000)
    assert (status.spec_sequence, status.sequence) == (5, 5)


@pytest.mark.parametrize("terminal", [state for state in StateType if state.is_terminal])
@pytest.mark.parametrize("wanted", list(StateType))
def test_terminal_is_final_until_an_update_reopens(terminal: StateType, wanted: StateType) -> None:
    """After a terminal state any state is an anomaly, also the same one; a new spec reopens the job."""
    ended = status_after(created(1), state(terminal, 2))
    assert fold(ended, state(wanted, 3)) == Anomaly(3, ID, f"{wanted} after {terminal}, which is final")
    reopened = fold(ended, updated(3))
    assert isinstance(reopened, JobStatus)
    assert reopened.state == PENDING
    assert isinstance(fold(reopened, state(wanted, 4)), JobStatus)


def test_modify_time_never_decreases() -> None:
    """A stream time that goes back changes neither the modify time nor the create time."""
    status = status_after(
        created(1, time=5_000), state(StateType.QUEUED, 2, time=3_000), updated(3, time=4_000)
    )
    assert (status.create_time, status.modify_time) == (5_000, 5_000)


def test_only_a_creation_starts_a_job() -> None:
    """An update or a state without a job is an anomaly, and creates no job."""
    assert fold(None, updated(1)) == Anomaly(1, ID, "updated, but there is no such job")
    assert fold(None, state(StateType.RUNNING, 1)) == Anomaly(1, ID, "a state, but there is no such job")


def test_a_second_creation_is_an_anomaly() -> None:
    """A job is created once."""
    assert fold(status_after(created(1)), created(2)) == Anomaly(2, ID, "created, but the job exists")


def test_an_event_that_was_folded_changes_nothing() -> None:
    """Sequences up to that of the status are skipped, with any content."""
    status = status_after(created(1), state(StateType.RUNNING, 5))
    for old in (created(1), updated(3), state(StateType.FAILED, 5)):
        assert fold(status, old) is status


def test_an_unreadable_record_is_an_anomaly() -> None:
    """A record that is not an event is counted, and changes nothing."""
    junk = read_record(Record(3, 0, job_subject("default", ID), b"\xffnot json"))
    folded = fold(status_after(created(1)), junk)
    assert isinstance(folded, Anomaly)
    assert (folded.sequence, folded.job_id) == (3, ID)


def test_events_of_another_namespace_do_not_change_the_job() -> None:
    """Events with the id of a job on the subject of another namespace are anomalies."""
    status = status_after(created(1))
    for event in (
        recorded(JobCreated, spec_data("etl", "evil"), 2, namespace="evil"),
        recorded(JobUpdated, spec_data("etl", "evil"), 2, namespace="evil"),
        recorded(JobUpdated, SPEC, 2, namespace="evil"),
        state(StateType.STOPPED, 2, namespace="evil"),
    ):
        assert isinstance(event, Recorded)
        assert fold(status, event) == Anomaly(2, ID, "the job is not in namespace 'evil'")


@pytest.mark.parametrize("claimed", ["default", "evil"])
def test_a_stolen_id_creates_nothing_also_when_it_comes_first(claimed: str) -> None:
    """An id belongs to one namespace and name: elsewhere a creation is an anomaly, also as the first."""
    theft = recorded(JobCreated, spec_data("etl", claimed), 1, namespace="evil")
    assert fold(None, theft) == Anomaly(1, ID, f"the spec names another job ({claimed}/etl)")


@pytest.mark.parametrize("kind", [JobCreated, JobUpdated])
def test_a_job_is_never_renamed(kind: EventClass) -> None:
    """A spec with another name or namespace than the job is an anomaly."""
    before = None if kind is JobCreated else status_after(created(1))
    for spec in (spec_data("other"), spec_data("etl", "elsewhere")):
        assert isinstance(fold(before, recorded(kind, spec, 2)), Anomaly)


def test_the_name_of_a_nameless_job_is_its_id() -> None:
    """The id of a nameless job is made from a UUIDv7; no other name is valid for it."""
    job_id = nameless_job_id("0190a5b2-7c3d-7e4f-8a5b-6c7d8e9fa0b1")
    status = fold(None, recorded(JobCreated, spec_data(job_id), 1, job_id=job_id))
    assert isinstance(status, JobStatus)
    assert (status.id, status.name) == (job_id, job_id)
    assert isinstance(fold(None, recorded(JobCreated, spec_data("etl"), 1, job_id=job_id)), Anomaly)


_HEAD = b'{"Name":"etl","Namespace":"default","Type":"batch","Count":1'
_DEEP = 100_000


@pytest.mark.parametrize(
    "spec",
    [
        b"null",
        b"[]",
        b"{}",
        b'"spec"',
        _HEAD.replace(b'"batch"', b'"cron"') + b"}",
        _HEAD.replace(b":1", b":-1") + b"}",
        _HEAD.replace(b":1", b":1.5") + b"}",
        _HEAD.replace(b":1", b":9223372036854775808") + b"}",
        _HEAD + b',"Labels":{"a":1}}',
        _HEAD + b',"Labels":{"a":"\xff"}}',
        _HEAD + b',"Labels":{"\xed\xa0\x80":""}}',
        _HEAD + b',"Meta":{"a":"\xff"}}',
        _HEAD + b',"Tasks":1e999}',
    ],
    ids=lambda spec: spec[:90].decode(errors="replace"),
)
def test_a_spec_that_cannot_be_read_freezes_its_job(spec: bytes) -> None:
    """For any bytes as a spec, the fold neither raises nor creates a job that can't be read."""
    event = created(1)
    assert isinstance(event, Recorded)
    broken = msgspec.structs.replace(event.event, data=SpecData(msgspec.Raw(spec)))
    folded = fold(None, Recorded(1, 1_000, broken))
    assert isinstance(folded, JobStatus)
    assert folded.is_lost
    assert folded.quarantine is not None
    assert folded.quarantine.sequence == 1
    assert folded.quarantine.reason.startswith("event 1 has a spec that can't be understood: ")


@pytest.mark.parametrize(
    "spec",
    [
        _HEAD + b',"Tasks":' + b"[" * 300 + b"]" * 300 + b"}",
        _HEAD + b',"Tasks":' + b'{"[":' * 300 + b"1" + b"}" * 300 + b"}",
        _HEAD + b',"Tasks":' + b"[" * _DEEP + b"]" * _DEEP + b"}",
    ],
    ids=lambda spec: spec[:90].decode(errors="replace"),
)
def test_a_spec_that_is_too_deep_is_an_anomaly(spec: bytes) -> None:
    """The depth is checked first, so that the result does not depend on the caller's stack."""
    event = created(1)
    assert isinstance(event, Recorded)
    broken = msgspec.structs.replace(event.event, data=SpecData(msgspec.Raw(spec)))
    folded = fold(None, Recorded(1, 1_000, broken))
    assert isinstance(folded, Anomaly)
    assert folded.reason.startswith("not a normalised spec: ")


def test_brackets_in_strings_do_not_count_as_depth() -> None:
    """Neither do many brackets side by side."""
    flat = _HEAD + b',"Meta":{"a":"' + b'[{\\"' * 1_000 + b'"},"Tasks":[' + b"[]," * 1_000 + b"[]]}"
    event = created(1)
    assert isinstance(event, Recorded)
    fitting = msgspec.structs.replace(event.event, data=SpecData(msgspec.Raw(flat)))
    assert isinstance(fold(None, Recorded(1, 1_000, fitting)), JobStatus)


def test_a_job_carries_the_spec_of_its_version() -> None:
    """`fold_job` keeps the bytes of the spec of the last creation or update through state changes."""
    newer = spec_data("etl", priority=1)
    job = fold_job(None, created(1))
    for event, spec in (
        (state(StateType.RUNNING, 2), SPEC),
        (updated(3), newer),
        (state(StateType.QUEUED, 4), newer),
    ):
        assert isinstance(job, Job)
        job = fold_job(job, event)
        assert isinstance(job, Job)
        assert job.spec == bytes(spec.spec)
    assert isinstance(fold_job(job if isinstance(job, Job) else None, created(5)), Anomaly)


def test_fields_of_the_ledger_are_not_taken_from_a_spec() -> None:
    """Keys that the ledger sets are ignored in a spec."""
    forged = _HEAD + b',"ID":"j-forged","State":{},"Version":9,"Revision":9,"CreateTime":9,"ModifyTime":9}'
    event = created(1)
    assert isinstance(event, Recorded)
    job = fold_job(
        None, Recorded(1, 7, msgspec.structs.replace(event.event, data=SpecData(msgspec.Raw(forged))))
    )
    assert isinstance(job, Job)
    assert job.to_wire() == {
        "ID": ID,
        "Name": "etl",
        "Namespace": "default",
        "Type": "batch",
        "Priority": 0,
        "Count": 1,
        "Constraints": [],
        "Meta": {},
        "Labels": {},
        "Tasks": [],
        "State": {"StateType": "Pending"},
        "Version": 1,
        "Revision": 1,
        "CreateTime": 7,
        "ModifyTime": 7,
    }


def test_history_items_describe_each_event_and_its_effect() -> None:
    """Items have the actor, the content and the counters after each event; an anomaly changes none."""
    drafts = [
        draft(JobStateChanged, ID, state_data(StateType.RUNNING), 1),
        draft(JobCreated, ID, SPEC, 2),
        draft(JobStateChanged, ID, state_data(StateType.FAILED, "disk full"), 3),
        draft(JobStateChanged, ID, state_data(StateType.RUNNING), 4),
    ]
    records = [
        Record(number, number, item.subject, item.payload) for number, item in enumerate(drafts, start=1)
    ]
    records.append(Record(5, 5, records[0].subject, b"junk"))
    items: list[HistoryItem] = []
    status: JobStatus | None = None
    for record in records:
        item, status = build_history_item(record, status)
        items.append(item)
    assert [(item.revision, item.version, bool(item.anomaly)) for item in items] == [
        (0, 0, True),
        (1, 1, False),
        (2, 1, False),
        (2, 1, True),
        (2, 1, True),
    ]
    assert [item.state for item in items] == [None, PENDING, *[State(StateType.FAILED, "disk full")] * 3]
    assert [item.type.split(".")[-2] if item.type else "" for item in items] == [
        "state",
        "created",
        "state",
        "state",
        "",
    ]
    assert items[1].actor == "tester"
    assert [item.event_id for item in items] == [*(item.event_id for item in drafts), ""]
