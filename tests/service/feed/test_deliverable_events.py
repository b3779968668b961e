"""An event is delivered as it was written, with its source and extensions replaced."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET, UnsetType

from jobledger.projections.subscriptions.filters import Match
from jobledger.service.cursor import format_sequence
from jobledger.service.feed.events import _extended_foreign, _Extensions, deliverable_event
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
