"""The wire format of events: every event ever written stays readable, and a foreign record has no effect."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from jobledger.store.model.events import (
    EVENT_TYPES,
    AcceptData,
    JobAccepted,
    JobCreated,
    JobEvent,
    JobStateChanged,
    JobTagged,
    JobUpdated,
    NotUnderstood,
    Read,
    Record,
    Recorded,
    SpecData,
    StateData,
    TagData,
    Unreadable,
    decode_event,
    encode_event,
    event_type,
    read_record,
)
from jobledger.store.model.job import State, StateType
from jobledger.store.model.limits import QUARANTINE_REASON_CHARACTERS
from jobledger.store.model.subjects import job_subject, shard_of

GOLDEN = Path(__file__).parents[2] / "golden"
JOB_ID = "j-abbd3073-d01b-5f6a-b188-08a70705350d"
ENVELOPE: dict[str, Any] = {
    "specversion": "1.0",
    "id": "0198c0de-0000-7000-8000-000000000001",
    "source": "/jobledger",
    "subject": JOB_ID,
    "time": "2026-01-02T03:04:05.678Z",
    "datacontenttype": "application/json",
    "namespace": "default",
}
ALL_FIELDS = ENVELOPE | {
    "namespace": "team.a 🦜",
    "actor": "alice",
    "reason": 'said "so"',
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
}
SPEC = SpecData(msgspec.Raw(b'{"Name":"hello","Namespace":"default","Type":"batch"}'))
EVENTS: dict[str, JobEvent] = {
    "created-full": JobCreated(**ALL_FIELDS, data=SPEC),
    "created-minimal": JobCreated(**ENVELOPE, data=SPEC),
    "updated-full": JobUpdated(**ALL_FIELDS, data=SPEC),
    "updated-minimal": JobUpdated(**ENVELOPE, data=SPEC),
    "state-full": JobStateChanged(
        **ALL_FIELDS, data=StateData(State(StateType.FAILED, "exit code 1", {"ExitCode": "1", "Node": "n-1"}))
    ),
    "state-minimal": JobStateChanged(**ENVELOPE, data=StateData(State(StateType.RUNNING))),
    "tagged-full": JobTagged(**ALL_FIELDS, data=TagData("golden", 3)),
    "tagged-minimal": JobTagged(**ENVELOPE, data=TagData("golden", 0)),
    "accepted-full": JobAccepted(**ALL_FIELDS, data=AcceptData(7)),
    "accepted-minimal": JobAccepted(**ENVELOPE, data=AcceptData(1)),
}
# As written since events carry the job's name.
EVENTS |= {
    "created-named": JobCreated(**ENVELOPE, name="hello", data=SPEC),
    "updated-named": JobUpdated(**ENVELOPE, name="hello", data=SPEC),
    "state-named": JobStateChanged(**ENVELOPE, name="hello", data=StateData(State(StateType.RUNNING))),
    "tagged-named": JobTagged(**ENVELOPE, name="hello", data=TagData("golden", 1)),
}
MINIMAL = EVENTS["state-minimal"]


def record(payload: bytes, subject: str = job_subject("default", JOB_ID)) -> Record:
    """A payload as a record of the log."""
    return Record(7, 1_700_000_000_000_000_000, subject, payload)


def unreadable(found: Read) -> Unreadable:
    """Return the result of reading, which must not be an event."""
    assert isinstance(found, Unreadable)
    return found


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_events_written_by_this_release_are_the_golden_bytes(name: str) -> None:
    """Every event type, with all fields and with the fewest, is written byte for byte as before."""
    assert encode_event(EVENTS[name]) == (GOLDEN / f"{name}.json").read_bytes()


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_events_ever_written_are_read(name: str) -> None:
    """Every event ever written is read, field by field, and encoded to the same bytes."""
    golden = (GOLDEN / f"{name}.json").read_bytes()
    event = decode_event(golden)
    assert event == EVENTS[name]
    assert encode_event(event) == golden


def test_every_event_type_has_golden_bytes() -> None:
    """Each event type has golden bytes, and all golden bytes are tested."""
    assert {type(event) for event in EVENTS.values()} == set(EVENT_TYPES)
    assert {path.stem for path in GOLDEN.iterdir()} == set(EVENTS)


def test_type_names_are_a_storage_format() -> None:
    """The CloudEvents types never change: for readers another name is another type."""
    assert [event_type(kind) for kind in EVENT_TYPES] == [
        "jobledger.job.created.v1",
        "jobledger.job.updated.v1",
        "jobledger.job.state.v1",
        "jobledger.job.tagged.v1",
        "jobledger.job.accepted.v1",
    ]


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_unknown_fields_are_ignored(name: str) -> None:
    """A field of a newer release, at any level, does not prevent reading the event."""
    wire = msgspec.json.decode(encode_event(EVENTS[name]))
    wire["dataschema"] = {"new": [1]}
    wire["data"]["New"] = {"a": 1}
    if "State" in wire["data"]:
        wire["data"]["State"]["New"] = 1
    assert decode_event(msgspec.json.encode(wire)) == EVENTS[name]


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_field_order_does_not_matter(name: str) -> None:
    """Another writer can order the fields differently, for example with the type last."""
    wire = msgspec.json.decode(encode_event(EVENTS[name]))
    assert decode_event(msgspec.json.encode(dict(reversed(wire.items())))) == EVENTS[name]


@pytest.mark.parametrize("name", sorted(EVENTS))
def test_event_on_its_own_subject_is_recorded(name: str) -> None:
    """The event gets the sequence and time of the stream."""
    event = EVENTS[name]
    subject = job_subject(event.namespace, event.subject)
    assert read_record(record(encode_event(event), subject)) == Recorded(7, 1_700_000_000_000_000_000, event)


@pytest.mark.parametrize(
    "kind", ["jobledger.job.created.v2", "jobledger.job.deleted.v1", "jobledger.", "jobledger.é"]
)
def test_an_unknown_type_of_ours_is_not_understood(kind: str) -> None:
    """An unknown type with our prefix names its job, its sequence and the remedy."""
    wire = msgspec.json.decode(encode_event(MINIMAL)) | {"type": kind}
    found = read_record(record(msgspec.json.encode(wire)))
    assert isinstance(found, NotUnderstood)
    assert (found.sequence, found.namespace, found.job_id) == (7, "default", JOB_ID)
    assert re.search(r"event 7 has the type .* upgrade", found.reason)


@pytest.mark.parametrize(
    "payload",
    [
        encode_event(MINIMAL).replace(b"Running", b"Walking"),
        encode_event(EVENTS["tagged-minimal"]).replace(b":0}", b":-3}"),
        encode_event(EVENTS["tagged-minimal"]).replace(b":0}", b":" + b"3" * 5_000 + b"}"),
        encode_event(MINIMAL).replace(b"1.0", b"0.3"),
        encode_event(MINIMAL).replace(b"application/json", b"application/xml"),
        encode_event(MINIMAL).replace(b'"data"', b'"dato"'),
        b'{"type":"jobledger.job.state.v1"}',
        b'{"type":"jobledger.job.created.v1","id":"\xff"}',
        encode_event(MINIMAL).replace(b"Running", b"Run\xffing"),
    ],
    ids=lambda payload: repr(payload[-60:]),
)
def test_invalid_content_of_a_known_type_is_not_understood(payload: bytes) -> None:
    """On the subject of a job, it concerns that job."""
    found = read_record(record(payload))
    assert isinstance(found, NotUnderstood)
    assert found.reason.startswith("event 7 (jobledger.job.")
    assert len(found.reason) <= QUARANTINE_REASON_CHARACTERS


@pytest.mark.parametrize(
    "changed", [{"namespace": "other"}, {"subject": "another"}, {"type": "com.example.x"}]
)
def test_a_record_that_claims_another_job_is_foreign(changed: dict[str, str]) -> None:
    """An event that can't be read freezes the job of its own subject, or none."""
    wire = msgspec.json.decode(encode_event(MINIMAL)) | {"type": "jobledger.job.deleted.v1"} | changed
    assert isinstance(read_record(record(msgspec.json.encode(wire))), Unreadable)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x00",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'"text"',
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"type":"com.example.other","specversion":"1.0"}',
        b'{"type":7}',
        b'{"type":"\xff"}',
        encode_event(MINIMAL)[:-1],
        encode_event(MINIMAL) + b"x",
    ],
    ids=lambda payload: repr(payload[:40]),
)
def test_garbage_is_unreadable(payload: bytes) -> None:
    """A record that is not an event is counted for the job of its subject, and has no other effect."""
    found = unreadable(read_record(record(payload)))
    assert (found.sequence, found.job_id) == (7, JOB_ID)
    assert found.reason


@given(payload=st.binary(max_size=200) | st.text(max_size=100).map(str.encode), subject=st.text(max_size=40))
def test_any_bytes_on_any_subject_are_read(payload: bytes, subject: str) -> None:
    """Reading never raises."""
    unreadable(read_record(record(payload, subject)))


@given(data=st.data())
def test_damaged_event_is_an_event_or_unreadable(data: st.DataObject) -> None:
    """An event with a changed byte is an event, foreign, or not understood."""
    payload = bytearray(encode_event(EVENTS[data.draw(st.sampled_from(sorted(EVENTS)))]))
    payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    assert isinstance(read_record(record(bytes(payload))), Recorded | NotUnderstood | Unreadable)


WRONG_SHARD = f"{(int(shard_of(JOB_ID)) + 1) % 32:02d}"


@pytest.mark.parametrize(
    "subject",
    [
        job_subject("default", "another"),
        job_subject("other", JOB_ID),
        job_subject("default", JOB_ID.upper()),
        f"jobs.default.{WRONG_SHARD}.{JOB_ID}",
        f"jobs.default.{shard_of(JOB_ID)}.{JOB_ID}.x",
        f"jobs.defaul%74.{shard_of(JOB_ID)}.{JOB_ID}",
        f"jobs.{JOB_ID}",
        JOB_ID,
    ],
)
def test_event_of_another_job_than_its_subjects_is_unreadable(subject: str) -> None:
    """An event is valid only on the exact subject of its job, with the shard."""
    found = unreadable(read_record(record(encode_event(MINIMAL), subject)))
    assert "another job" in found.reason
    assert subject in found.reason
