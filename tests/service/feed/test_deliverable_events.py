"""An event is delivered as it was written, with its source and extensions replaced."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from jobledger.projections.batch import NumberedEvent
from jobledger.projections.subscriptions.filters import Match
from jobledger.service.cursor import format_sequence
from jobledger.service.feed.events import _extended_foreign, _Extensions, deliverable_event, deliverable_line
from jobledger.store.model.events import (
    JobCreated,
    JobEvent,
    JobStateChanged,
    Record,
    SpecData,
    StateData,
    encode_event,
)
from jobledger.store.model.job import JobStatus, State, StateType
from jobledger.store.timestamps import format_rfc3339

_GOLDEN = sorted((Path(__file__).parents[2] / "golden").glob("*.json"))
_TIME = 1_700_000_000_123_456_789
_STATUS = JobStatus(
    id="j-1",
    namespace="default",
    name="nightly",
    state=State(StateType.RUNNING),
    version=2,
    revision=5,
    create_time=1,
    modify_time=2,
    created_sequence=1,
    spec_sequence=3,
    sequence=9,
)
_ADDED = {
    "source": "//here",
    "name": "nightly",
    "sequence": format_sequence(9),
    "revision": 5,
    "version": 2,
    "streamtime": format_rfc3339(_TIME),
}
_EVENT = {
    "type": "jobledger.job.state.v1",
    "specversion": "1.0",
    "id": "1",
    "source": "/jobledger",
    "subject": "j-1",
    "time": "2026-01-01T00:00:00Z",
    "datacontenttype": "application/json",
    "namespace": "default",
    "data": {"State": {"StateType": "Running"}},
}
_values = st.one_of(
    st.none(), st.integers(), st.text(max_size=5), st.dictionaries(st.text(max_size=3), st.none())
)
_keys = st.sampled_from(["actor", "reason", "traceparent", "previous", "other", *_ADDED, "matches", "data"])


def _deliver(payload: bytes, matches: Match | None) -> bytes:
    return deliverable_event(payload, 9, _TIME, _STATUS, source="//here", matches=matches)


@pytest.mark.parametrize("matches", [None, "after"])
@pytest.mark.parametrize("path", _GOLDEN, ids=lambda path: path.stem)
def test_every_event_ever_written_is_delivered_with_the_same_bytes(path: Path, matches: Match | None) -> None:
    """Those that this release writes take the quick way; the result is that of the general one."""
    payload = json.dumps(json.loads(path.read_bytes()), separators=(",", ":")).encode()
    other: Match | UnsetType = UNSET if matches is None else matches
    added = _Extensions("nightly", format_sequence(9), 5, 2, format_rfc3339(_TIME), other)
    assert _deliver(payload, matches) == _extended_foreign(payload, "//here", added)


@given(
    changes=st.dictionaries(_keys, _values, max_size=4),
    missing=st.sets(st.sampled_from(sorted(_EVENT)), max_size=1),
    indent=st.sampled_from([None, 2]),
    matches=st.sampled_from([None, "before"]),
)
def test_any_event_has_its_fields_and_the_added_ones(
    changes: dict[str, Any], missing: set[str], indent: int | None, matches: Match | None
) -> None:
    """Whatever fields a writer sets, on one line."""
    fields = {key: value for key, value in (_EVENT | changes).items() if key not in missing}
    delivered = _deliver(json.dumps(fields, indent=indent).encode(), matches)
    fields.pop("matches", None)
    assert json.loads(delivered) == fields | _ADDED | ({} if matches is None else {"matches": matches})
    assert b"\n" not in delivered


_spec = st.sampled_from(
    [b'{"Name":"n"}', b'{"Name":\n"n"}', '{"Name":"\u00e9"}'.encode(), b'{"Name":"\xff"}', b"{}"]
)
_text = st.one_of(
    st.text(max_size=8), st.sampled_from(['"source":"/jobledger"', ',"name":"a","data":', '\\"source":'])
)


@given(
    texts=st.lists(_text, min_size=5, max_size=5),
    source=st.sampled_from(["/jobledger", "/jobledger", "/other", '"']),
    spec=st.one_of(st.none(), _spec),
)
def test_a_decoded_event_is_delivered_with_the_same_bytes(
    texts: list[str], source: str, spec: bytes | None
) -> None:
    """Whatever its texts contain, and also if its spec is not ASCII or has several lines."""
    event_id, actor, reason, previous, name = texts
    envelope = {
        "specversion": "1.0",
        "id": event_id,
        "source": source,
        "subject": "j-1",
        "time": "2026-01-01T00:00:00Z",
        "datacontenttype": "application/json",
        "namespace": "default",
        "actor": actor,
        "reason": reason,
        "previous": previous,
        "name": name,
    }
    event: JobEvent = (
        JobStateChanged(**envelope, data=StateData(State(StateType.FAILED, reason, {name: actor})))  # type: ignore[arg-type]
        if spec is None
        else JobCreated(**envelope, data=SpecData(Raw(spec)))  # type: ignore[arg-type]
    )
    record = Record(9, _TIME, "jobs.default.00.j-1", encode_event(event))
    for is_exact in (False, True):
        numbered = NumberedEvent(record, event, _STATUS.name, 5, 2, is_exact)
        assert deliverable_line(numbered, source="//here") == _deliver(record.payload, None)
    longer = replace(record, payload=b'{"later":1,"name":"n",' + record.payload[1:])
    numbered = NumberedEvent(longer, event, _STATUS.name, 5, 2)
    assert deliverable_line(numbered, source="//here") == _deliver(longer.payload, None)
