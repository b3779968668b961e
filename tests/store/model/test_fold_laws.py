"""The laws of the fold for any history: total, replayable, splittable, deterministic, and like `decide`."""

from collections.abc import Sequence
from unittest.mock import patch

import msgspec
from hypothesis import given, strategies as st

from jobledger.store.model import fold as fold_module
from jobledger.store.model.decide import (
    Decision,
    decide_apply,
    decide_create,
    decide_state,
    decide_stop,
    decide_tag,
    decide_untag,
    decide_update,
)
from jobledger.store.model.errors import JobNotFound, Refused
from jobledger.store.model.events import (
    EventClass,
    EventData,
    JobCreated,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    Read,
    Record,
    Recorded,
    SpecData,
    StateData,
    TagData,
    encode_event,
    read_record,
)
from jobledger.store.model.fold import Anomaly, fold, fold_appended, fold_job, fold_job_on, fold_on
from jobledger.store.model.job import Job, JobStatus, State, StateType
from jobledger.store.model.subjects import job_subject, named_job_id
from tests.support.histories import draft, spec_data

ID = named_job_id("default", "etl")
OTHER_ID = named_job_id("default", "other")
NAMELESS_ID = "j-0190a5b2-7c3d-7e4f-8a5b-6c7d8e9fa0b1"
SPECS = [spec_data("etl", priority=number) for number in range(3)]
STRANGE = [
    spec_data("other"),
    spec_data("etl", "evil"),
    spec_data(NAMELESS_ID),
]

states = st.builds(State, st.sampled_from(StateType), st.sampled_from(["", "why"]))
specs = st.sampled_from(SPECS)
strange_specs = st.sampled_from(STRANGE)
tags = st.builds(TagData, st.sampled_from(["golden", "a.b"]), st.integers(0, 3))
strange_tags = st.builds(
    TagData, st.sampled_from(["", "7", "no tag", "a" * 65]) | st.text(), st.integers(0, 9)
)
times = st.integers(min_value=0, max_value=2**62)


@st.composite
def records(draw: st.DrawFn, *, strange: bool = True) -> Record:
    """A record on the subject of the job or of another one; its sequence is set later."""
    if strange and draw(st.integers(0, 9)) == 0:
        return Record(0, draw(times), job_subject("default", ID), draw(st.binary(max_size=40)))
    kinds: list[EventClass] = [JobCreated, JobUpdated, JobStateChanged, JobStateChanged, JobTagged]
    kind = draw(st.sampled_from(kinds))
    data: EventData
    if kind is JobStateChanged:
        data = StateData(draw(states))
    elif kind is JobTagged:
        data = draw(st.one_of(tags, tags, strange_tags) if strange else tags)
    else:
        data = draw(st.one_of(specs, specs, strange_specs) if strange else specs)
    namespace = draw(st.sampled_from(["default", "default", "default", "evil"])) if strange else "default"
    job_id = draw(st.sampled_from([ID, ID, ID, OTHER_ID, NAMELESS_ID])) if strange else ID
    written = draft(kind, job_id, data, draw(st.integers(0, 5)), namespace)
    return Record(0, draw(times), written.subject, written.payload)


@st.composite
def histories(draw: st.DrawFn, *, strange: bool = True) -> list[Record]:
    """Records in stream order, with gaps between their sequences."""
    history: list[Record] = []
    sequence = 0
    for record in draw(st.lists(records(strange=strange), max_size=12)):
        sequence += draw(st.integers(1, 3))
        history.append(msgspec.structs.replace(record, sequence=sequence))
    return history


def run(history: Sequence[Record], status: JobStatus | None = None) -> tuple[JobStatus | None, list[Anomaly]]:
    """Fold on from a status; return the status after, and the anomalies."""
    anomalies: list[Anomaly] = []
    for record in history:
        folded = fold(status, read_record(record))
        if isinstance(folded, Anomaly):
            anomalies.append(folded)
        status = fold_on(status, read_record(record))
    return status, anomalies


def _is_tagged(recorded: Read) -> bool:
    return isinstance(recorded, Recorded) and isinstance(recorded.event, JobTagged)


def as_bytes(status: JobStatus | None) -> bytes:
    return msgspec.json.encode(status, order="deterministic")


@given(histories())
def test_the_fold_is_total(history: list[Record]) -> None:
    """No records in any order raise; the revision counts the events that make sense, except tags."""
    status, anomalies = run(history)
    sensible = sorted({record.sequence for record in history} - {each.sequence for each in anomalies})
    by_sequence = {record.sequence: read_record(record) for record in history}
    counted = [each for each in sensible if not _is_tagged(by_sequence[each])]
    assert (status.revision if status else 0) == len(counted)
    if status is not None:
        assert 1 <= status.version <= status.revision
        assert status.created_sequence <= status.spec_sequence <= status.sequence
        assert status.create_time <= status.modify_time
        assert status.sequence == sensible[-1]
        assert all(1 <= version <= status.version for version in status.tags.values())
        assert list(status.tags) == sorted(status.tags)


@given(histories(), st.data())
def test_any_order_and_repetition_is_folded(history: list[Record], data: st.DataObject) -> None:
    """Shuffled and repeated records never raise, and an old one is never counted again."""
    shuffled = data.draw(st.permutations(history + history))
    status: JobStatus | None = None
    for record in shuffled:
        folded = fold(status, read_record(record))
        if isinstance(folded, Anomaly):
            continue
        risen = 0 if _is_tagged(read_record(record)) else 1
        assert status is None or folded is status or folded.revision == status.revision + risen
        assert status is None or folded.sequence >= status.sequence
        status = folded


@given(histories())
def test_modify_time_never_decreases(history: list[Record]) -> None:
    """For any stream times, the modify time only increases, and identity and create time stay the same."""
    status: JobStatus | None = None
    for record in history:
        folded = fold(status, read_record(record))
        if isinstance(folded, JobStatus):
            if status is not None:
                is_tagged = _is_tagged(read_record(record))
                assert folded.modify_time == max(status.modify_time, 0 if is_tagged else record.time)
                kept = ("id", "namespace", "name", "create_time", "created_sequence")
                assert all(getattr(folded, field) == getattr(status, field) for field in kept)
            status = folded


@given(histories())
def test_a_tag_changes_only_the_tags(history: list[Record]) -> None:
    """Without its tags a history makes the same job, except for the sequence."""
    said: dict[str, int] = {}
    with_tags: JobStatus | None = None
    without: JobStatus | None = None
    for record in history:
        recorded = read_record(record)
        folded = fold(with_tags, recorded)
        with_tags = fold_on(with_tags, recorded)
        tagged = recorded.event if isinstance(recorded, Recorded) else None
        if isinstance(folded, JobStatus) and isinstance(tagged, JobTagged):
            said[tagged.data.tag] = tagged.data.version
        if not _is_tagged(recorded):
            without = fold_on(without, recorded)
    if with_tags is not None and without is not None:
        changed = {"tags": {}, "sequence": without.sequence, "passed": without.passed}
        assert msgspec.structs.replace(with_tags, **changed) == without
        assert with_tags.tags == {tag: version for tag, version in said.items() if version}


@given(histories())
def test_replaying_is_harmless(history: list[Record]) -> None:
    """After a history, each of its valid events folds into the same status."""
    status, anomalies = run(history)
    wrong = {anomaly.sequence for anomaly in anomalies}
    if status is not None:
        for record in history:
            if record.sequence not in wrong:
                assert fold(status, read_record(record)) is status
        again, _ = run(history, status)
        assert again is status


@given(histories())
def test_two_parts_equal_one_at_every_split(history: list[Record]) -> None:
    """Folding a history up to any point and on from there equals folding it at once."""
    whole, anomalies = run(history)
    for split in range(len(history) + 1):
        first, before = run(history[:split])
        second, after = run(history[split:], first)
        assert as_bytes(second) == as_bytes(whole)
        assert before + after == anomalies


@given(histories())
def test_the_same_history_gives_the_same_bytes(history: list[Record]) -> None:
    """The result depends on nothing but the history."""
    copy = msgspec.json.decode(msgspec.json.encode(history), type=list[Record])
    assert as_bytes(run(copy)[0]) == as_bytes(run(history)[0])


@given(histories() | histories(strange=False), st.data())
def test_the_inlined_case_of_the_fold_agrees_with_the_general_one(
    history: list[Record], data: st.DataObject
) -> None:
    """Also if an event names the one before it, rightly or not, or its job is quarantined or lost."""
    first = draft(JobCreated, ID, SPECS[0], 9)
    linked = [Record(1, 0, first.subject, first.payload)]
    for each in history:
        record = msgspec.structs.replace(each, sequence=each.sequence + 1)
        read, before = read_record(record), ["", *(str(earlier.sequence) for earlier in linked[-2:])]
        previous = data.draw(st.sampled_from(before))
        if previous and isinstance(read, Recorded):
            event = msgspec.structs.replace(read.event, previous=previous)
            linked.append(msgspec.structs.replace(record, payload=encode_event(event)))
        else:
            linked.append(record)
    inlined = run(linked)
    with patch.object(fold_module, "_TERMINAL", {each.value for each in StateType}):  # nothing is inlined
        assert run(linked) == inlined


@given(histories())
def test_the_fold_with_the_spec_agrees_with_the_fold(history: list[Record]) -> None:
    """`fold_job` has the status of `fold`, and the spec of the event that the status names."""
    job: Job | None = None
    by_sequence: dict[int, Read] = {}
    for record in history:
        by_sequence[record.sequence] = read_record(record)
        job = fold_job_on(job, by_sequence[record.sequence])
    status, _ = run(history)
    assert (job.status if job else None) == status
    if job is not None:
        source = by_sequence[job.status.spec_sequence]
        assert isinstance(source, Recorded)
        assert isinstance(source.event.data, SpecData)
        assert job.spec == bytes(source.event.data.spec)


@given(histories(strange=False), st.lists(records(), max_size=6), st.data())
def test_another_namespace_cannot_touch_a_job(
    history: list[Record], attack: list[Record], data: st.DataObject
) -> None:
    """Events with the id of a job under another namespace, before or after, have no effect on it."""
    foreign = [
        (True, msgspec.structs.replace(record, subject=job_subject("evil", ID))) for record in attack
    ] + [
        (True, Record(0, 1, written.subject, written.payload))
        for kind in (JobCreated, JobUpdated)
        for written in [draft(kind, ID, data.draw(st.one_of(specs, strange_specs)), 9, "evil")]
    ]
    mixed = [(False, record) for record in history]
    for item in foreign:
        mixed.insert(data.draw(st.integers(0, len(mixed))), item)
    sequenced = [
        (evil, msgspec.structs.replace(record, sequence=n)) for n, (evil, record) in enumerate(mixed, 1)
    ]
    attacked, anomalies = run([record for _, record in sequenced])
    alone, _ = run([record for evil, record in sequenced if not evil])
    assert attacked == alone
    assert {record.sequence for evil, record in sequenced if evil} <= {item.sequence for item in anomalies}


commands = st.one_of(
    st.tuples(st.sampled_from(["create", "apply", "update"]), specs),
    st.tuples(st.just("state"), states),
    st.tuples(st.just("stop"), st.sampled_from(["", "why"])),
    st.tuples(st.just("tag"), tags),
)
Said = SpecData | State | TagData | str


def decide(job: Job | None, verb: str, what: Said) -> Decision | None:
    if isinstance(what, TagData):
        if what.version == 0:
            return decide_untag(job, what.tag, job_id=ID)
        return decide_tag(job, what.tag, what.version, job_id=ID)
    if isinstance(what, State):
        return decide_state(job, what, job_id=ID)
    if isinstance(what, str):
        return decide_stop(job, what, job_id=ID)
    spec = bytes(what.spec)
    if verb == "create":
        return decide_create(job, spec)
    return (decide_apply if verb == "apply" else decide_update)(job, spec, job_id=ID)


@given(st.lists(st.tuples(commands, times), max_size=20))
def test_a_decision_is_never_an_anomaly(
    sequence_of_commands: list[tuple[tuple[str, Said], int]],
) -> None:
    """The fold accepts every decision, and the same command again is a no-op or refused."""
    job: Job | None = None
    for number, ((verb, what), time) in enumerate(sequence_of_commands, start=1):
        try:
            decision = decide(job, verb, what)
        except (Refused, JobNotFound):
            continue
        if decision is None:
            continue
        written = draft(decision.event, ID, decision.data, number)
        recorded = read_record(Record(number, time, written.subject, written.payload))
        folded = fold_job(job, recorded)
        assert isinstance(folded, Job), folded
        assert isinstance(recorded, Recorded)
        named = msgspec.structs.replace(recorded.event, name="etl")  # as every event of the ledger
        assert fold_appended(job, named, number) == fold_job(job, Recorded(number, 0, named))
        job = folded
        if verb != "create":  # which the existing job refuses
            assert decide(job, verb, what) is None
