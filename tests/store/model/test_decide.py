"""Decisions: for each command on a job in each state, an event, nothing, or a refusal."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from jobledger.store.command import is_nameless_job_id, prepare_new, prepare_update
from jobledger.store.model.decide import (
    Decision,
    check_revision,
    contention,
    decide_apply,
    decide_create,
    decide_rerun,
    decide_state,
    decide_stop,
    decide_update,
)
from jobledger.store.model.errors import (
    Contention,
    InvalidInput,
    InvalidSpec,
    JobExists,
    JobNotFound,
    JobNotRerunnable,
    JobTerminal,
    RevisionMismatch,
)
from jobledger.store.model.events import JobCreated, JobStateChanged, JobUpdated, SpecData, StateData
from jobledger.store.model.job import Job, JobStatus, State, StateType
from jobledger.store.model.subjects import named_job_id
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.spec import JobSpec, Resources, SpecConfig, Task, encode_spec
from tests.conftest import make_spec

ID = named_job_id("default", "etl")
EVENT_ID = "0190a5b2-7c3d-7e4f-8a5b-6c7d8e9fa0b1"
STATES = list(StateType)


def spec_bytes(**fields: Any) -> bytes:
    return encode_spec(normalize(make_spec("etl", **fields)))


SPEC = spec_bytes()


def job(state: State | StateType = StateType.PENDING, *, spec: bytes = SPEC, revision: int = 3) -> Job:
    status = JobStatus(
        id=ID,
        namespace="default",
        name="etl",
        state=state if isinstance(state, State) else State(state),
        version=2,
        revision=revision,
        create_time=1,
        modify_time=3,
        created_sequence=1,
        spec_sequence=2,
        sequence=3,
    )
    return Job(status=status, spec=spec)


def with_params(**params: Any) -> JobSpec:
    engine = SpecConfig(type="docker", params={"Image": "busybox", **params})
    return make_spec("etl", tasks=(Task(name="main", engine=engine),))


def prepared(spec: JobSpec) -> bytes:
    return prepare_update(spec, job().status).spec


# --- create, update, apply ----------------------------------------------------------------------------


def test_create_makes_a_job_that_does_not_exist() -> None:
    """Create appends a created event with the spec."""
    assert decide_create(None, SPEC) == Decision(JobCreated, SpecData(msgspec.Raw(SPEC)))


@pytest.mark.parametrize("state", STATES)
def test_create_refuses_a_name_that_is_taken(state: StateType) -> None:
    """A job in any state refuses another create of its name."""
    with pytest.raises(
        JobExists, match=r"'etl' already exists in namespace 'default'.*use update or apply"
    ) as refused:
        decide_create(job(state), SPEC)
    assert refused.value.job_id == ID


@pytest.mark.parametrize("state", STATES)
def test_update_gives_a_new_spec_from_every_state(state: StateType) -> None:
    """A job in any state accepts another spec."""
    new = spec_bytes(priority=5)
    assert decide_update(job(state), new, job_id=ID) == Decision(JobUpdated, SpecData(msgspec.Raw(new)))


@pytest.mark.parametrize("state", STATES)
def test_an_equal_spec_is_a_no_op_in_every_state(state: StateType) -> None:
    """A job in any state ignores its current spec."""
    assert decide_update(job(state), SPEC, job_id=ID) is None
    assert decide_apply(job(state), SPEC, job_id=ID) is None


def test_apply_creates_or_updates() -> None:
    """Apply creates a job that does not exist, and updates one with another spec."""
    new = spec_bytes(priority=5)
    assert decide_apply(None, new, job_id=ID) == decide_create(None, new)
    assert decide_apply(job(), new, job_id=ID) == decide_update(job(), new, job_id=ID)


def test_a_missing_job_is_not_found() -> None:
    """Update, state change and stop of a job that does not exist raise JobNotFound."""
    decisions: list[Callable[[], Decision | None]] = [
        lambda: decide_update(None, SPEC, job_id=ID),
        lambda: decide_state(None, State(StateType.RUNNING), job_id=ID),
        lambda: decide_stop(None, "", job_id=ID),
    ]
    for decide in decisions:
        with pytest.raises(JobNotFound, match=f"job not found: {ID}; check the id"):
            decide()


def test_a_spec_in_another_writers_order_is_the_same() -> None:
    """The order of keys in the stored spec does not matter."""
    reordered = msgspec.json.encode(dict(reversed(msgspec.json.decode(SPEC).items())))
    assert reordered != SPEC
    assert decide_update(job(spec=reordered), SPEC, job_id=ID) is None


@pytest.mark.parametrize("unusable", [b'{"Name":"etl","Tasks":5}', b'{"Priority":1e999}', b"[]", b""])
def test_a_spec_that_we_cannot_read_can_be_replaced(unusable: bytes) -> None:
    """An invalid spec of another writer is replaced by a valid one."""
    decision = decide_update(job(spec=unusable), SPEC, job_id=ID)
    assert decision is not None
    assert decision.event is JobUpdated


# --- what counts as the same spec ---------------------------------------------------------------------


def with_resources(engine: str, **resources: str) -> JobSpec:
    task = Task(name="main", engine=SpecConfig(type=engine), resources=Resources(**resources))
    return make_spec("etl", tasks=(task,))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (with_params(A=1, B={"c": 1, "d": 2}), with_params(B={"d": 2, "c": 1}, A=1)),
        (make_spec("etl", labels={"a": "1", "b": "2"}), make_spec("etl", labels={"b": "2", "a": "1"})),
        (make_spec("etl"), make_spec("etl", count=1)),
        (make_spec("etl"), make_spec("")),
        (make_spec("etl"), make_spec("etl", namespace="default")),
        (
            with_resources("docker", memory="1Gi", cpu="100m"),
            with_resources(" docker ", memory="1 gi", cpu="100m"),
        ),
        (with_resources("docker"), with_resources("docker", memory=" ")),
    ],
    ids=["keys of Params", "keys of Labels", "Count", "Name", "Namespace", "case and space", "empty"],
)
def test_equal_after_normalization_is_a_no_op(before: JobSpec, after: JobSpec) -> None:
    """A spec with the same normal form changes nothing."""
    assert decide_update(job(spec=prepared(before)), prepared(after), job_id=ID) is None


@pytest.mark.parametrize(
    ("before", "after"),
    [(1, 1.0), (1, True), (0, False), (1.0, True), ("1", 1), ("a", "A"), ([1], [1, 1]), ([], {}), (None, "")],
)  # fmt: skip
def test_another_value_in_params_is_a_change(before: object, after: object) -> None:
    """Another JSON value of a parameter is an update: 1 is not 1.0."""
    old, new = prepared(with_params(A=before)), prepared(with_params(A=after))
    assert decide_update(job(spec=old), new, job_id=ID) is not None
    assert decide_update(job(spec=new), old, job_id=ID) is not None
    assert decide_update(job(spec=new), new, job_id=ID) is None


def test_the_order_of_a_list_is_a_change() -> None:
    """A list of parameters in another order is an update."""
    old, new = prepared(with_params(A=["x", "y"])), prepared(with_params(A=["y", "x"]))
    assert decide_update(job(spec=old), new, job_id=ID) is not None


# --- states and stop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted", STATES)
@pytest.mark.parametrize("current", STATES)
def test_the_transition_table(current: StateType, wanted: StateType) -> None:
    """A state that is not terminal moves to any other one, a terminal one to none; the same is a no-op."""
    if current is wanted:
        assert decide_state(job(current), State(wanted), job_id=ID) is None
    elif current in (StateType.COMPLETED, StateType.FAILED, StateType.STOPPED):
        with pytest.raises(
            JobTerminal, match=f"in terminal state {current} and cannot transition to {wanted};"
        ):
            decide_state(job(current), State(wanted), job_id=ID)
    else:
        decision = decide_state(job(current), State(wanted), job_id=ID)
        assert decision == Decision(JobStateChanged, StateData(State(wanted)))


@pytest.mark.parametrize("current", STATES)
def test_another_message_is_another_state(current: StateType) -> None:
    """Another message is a state change, unless the state is terminal."""
    before, wanted = job(State(current, "before")), State(current, "now")
    if current.is_terminal:
        with pytest.raises(JobTerminal):
            decide_state(before, wanted, job_id=ID)
    else:
        assert decide_state(before, wanted, job_id=ID) == Decision(JobStateChanged, StateData(wanted))


@pytest.mark.parametrize("details", [{}, {"node": "2"}, {"node": "1", "Progress": "55"}])
@pytest.mark.parametrize("current", STATES)
def test_other_details_are_another_state(current: StateType, details: dict[str, str]) -> None:
    """Other details are a state change, unless the state is terminal."""
    before, wanted = job(State(current, "why", {"node": "1"})), State(current, "why", details)
    if current.is_terminal:
        with pytest.raises(JobTerminal):
            decide_state(before, wanted, job_id=ID)
    else:
        assert decide_state(before, wanted, job_id=ID) == Decision(JobStateChanged, StateData(wanted))


def test_the_event_has_the_whole_state() -> None:
    """The event has message and details."""
    wanted = State(StateType.FAILED, "disk full", {"node": "3"})
    assert decide_state(job(), wanted, job_id=ID) == Decision(JobStateChanged, StateData(wanted))


@pytest.mark.parametrize("current", [StateType.PENDING, StateType.QUEUED, StateType.RUNNING])
def test_stop_uses_the_reason_as_the_message(current: StateType) -> None:
    """A job that is not terminal becomes Stopped with the reason as its message."""
    decision = decide_stop(job(current), "too dear", job_id=ID)
    assert decision == Decision(JobStateChanged, StateData(State(StateType.STOPPED, "too dear")))


def test_stopping_a_stopped_job_is_a_no_op() -> None:
    """Also with another reason."""
    assert decide_stop(job(State(StateType.STOPPED, "first")), "second", job_id=ID) is None


@pytest.mark.parametrize("current", [StateType.COMPLETED, StateType.FAILED])
def test_a_completed_or_failed_job_cannot_be_stopped(current: StateType) -> None:
    """Stop raises JobTerminal."""
    with pytest.raises(JobTerminal, match=f"terminal state {current}.*only a new spec or a rerun reopens it"):
        decide_stop(job(current), "", job_id=ID)


# --- revisions and conflicts --------------------------------------------------------------------------


@pytest.mark.parametrize("expected", [None, 3])
def test_any_or_the_right_revision_passes(expected: int | None) -> None:
    """At revision 3, a command that expects 3 or nothing passes."""
    check_revision(job(), expected, job_id=ID)
    check_revision(None, None if expected is None else 0, job_id=ID)


@pytest.mark.parametrize("expected", [0, 2, 4])
def test_another_revision_is_a_conflict(expected: int) -> None:
    """At revision 3, a command that expects another one is a conflict that names both."""
    with pytest.raises(
        RevisionMismatch, match=f"has revision 3 but expected {expected}; read the job again"
    ) as conflict:
        check_revision(job(), expected, job_id=ID)
    assert (conflict.value.job_id, conflict.value.revision) == (ID, 3)


def test_a_job_that_does_not_exist_has_revision_zero() -> None:
    """Any other expected revision is a conflict."""
    with pytest.raises(RevisionMismatch) as conflict:
        check_revision(None, 1, job_id=ID)
    assert conflict.value.revision == 0


def test_contention_names_the_remedy() -> None:
    """The error names the job, the number of attempts and the remedy."""
    known = job()
    error = contention(known, job_id=ID)
    assert isinstance(error, Contention)
    assert (error.job_id, error.revision, error.sequence) == (ID, 3, known.status.sequence)
    assert "50 attempts lost the race" in str(error)
    assert "try again later" in str(error)


# --- the spec on its way in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields", [{"name": "other"}, {"namespace": "other"}, {"name": "other", "namespace": "x"}]
)
def test_name_and_namespace_never_change(fields: dict[str, str]) -> None:
    """An update with another name or namespace is refused."""
    spec = msgspec.structs.replace(make_spec("etl"), **fields)
    with pytest.raises(
        InvalidInput, match=r"cannot change job name or namespace during update.*leave it out"
    ):
        prepare_update(spec, job().status)


def test_an_update_keeps_name_and_namespace() -> None:
    """A spec without name and namespace gets those of the job."""
    taken = prepare_update(make_spec(""), job().status)
    assert taken == (ID, "default", "etl", SPEC)


def test_a_new_spec_determines_its_job() -> None:
    """The id of a named job is derived from namespace and name, that of a nameless one from its event."""
    assert prepare_new(make_spec("etl"), EVENT_ID) == (ID, "default", "etl", SPEC)
    nameless = prepare_new(make_spec(""), EVENT_ID)
    assert nameless.job_id == f"j-{EVENT_ID}"
    assert f'"Name":"j-{EVENT_ID}"'.encode() in nameless.spec
    assert is_nameless_job_id(nameless.job_id)
    assert not is_nameless_job_id(ID)
    assert not is_nameless_job_id("nightly-report-27")


def test_a_spec_is_refused_with_every_problem() -> None:
    """All broken rules of a spec are reported, each with its path."""
    bad = make_spec("etl", type="daemon", count=3, tasks=())
    with pytest.raises(InvalidSpec) as new:
        prepare_new(bad, EVENT_ID)
    with pytest.raises(InvalidSpec) as changed:
        prepare_update(bad, job().status)
    for refused in (new, changed):
        assert {problem.path for problem in refused.value.problems} == {"Count", "Tasks"}


@pytest.mark.parametrize("state", [s for s in StateType if s not in {StateType.PENDING, StateType.QUEUED}])
def test_a_rerun_is_a_new_version_with_the_spec_of_an_old_one(state: StateType) -> None:
    """Also if that is the current spec (BACALHAU's rerunnable states)."""
    old = spec_bytes(priority=3)
    rerun = Decision(JobUpdated, SpecData(msgspec.Raw(old), rerun=True))
    assert decide_rerun(job(state), old, job_id=ID) == rerun
    rerun = Decision(JobUpdated, SpecData(msgspec.Raw(SPEC), rerun=True))
    assert decide_rerun(job(state), None, job_id=ID) == rerun


@pytest.mark.parametrize("state", [StateType.PENDING, StateType.QUEUED])
def test_a_job_that_has_not_started_cannot_be_rerun(state: StateType) -> None:
    """A Pending or Queued job refuses a rerun."""
    with pytest.raises(JobNotRerunnable, match=f"is {state} and cannot be rerun"):
        decide_rerun(job(state), None, job_id=ID)


def test_force_makes_a_new_version_of_an_equal_spec() -> None:
    """As with Force in Bacalhau."""
    for decide in (decide_update, decide_apply):
        assert decide(job(), SPEC, job_id=ID, force=True) == Decision(JobUpdated, SpecData(msgspec.Raw(SPEC)))
