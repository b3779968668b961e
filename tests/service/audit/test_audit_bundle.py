"""Proof bundles: what one proves offline, and that no altered one passes."""

import subprocess
import sys

import msgspec
import pytest
from hypothesis import given, settings, strategies as st

from jobledger.service.audit.bundle_check import Verdict, check_bundle
from jobledger.service.audit.model.bundle import ProvenRecord, read_bundle, write_bundle
from jobledger.service.errors import PayloadTooLarge
from jobledger.service.limits import BUNDLE_MAX_BYTES, BUNDLE_MAX_RECORDS
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import job_subject
from tests.support.proofs import ETL, ORIGIN, OTHER_SIGNER, REPORT, SIGNER, prove, two_jobs

KEYS = (SIGNER.key,)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """The log that bundles are made of."""
    import asyncio

    return asyncio.run(two_jobs())


def failed(verdict: Verdict) -> dict[str, str]:
    """The failed checks with their texts."""
    assert verdict.ok == all(check.ok for check in verdict.checks)
    return {check.name: check.text for check in verdict.checks if not check.ok}


def test_a_bundle_proves_what_the_job_is(records: list[Record]) -> None:
    """Every record of the job is in the sealed tree, and they fold to the job as it was."""
    verdict = check_bundle(read_bundle(write_bundle(prove(records))), KEYS, job=ETL)
    assert failed(verdict) == {}
    assert [check.name for check in verdict.checks] == [
        *("seal", "origin", "job", "order", "inclusion", "story")
    ]
    assert verdict.status is not None
    assert verdict.status.state.state_type is StateType.PENDING
    assert (verdict.status.revision, verdict.status.version) == (5, 2)
    assert (verdict.events, verdict.last_sequence, verdict.size, verdict.unlinked) == (5, 8, 8, 0)
    assert (verdict.origin, verdict.job, verdict.namespace) == (ORIGIN, ETL, "default")
    assert verdict.signers == (SIGNER.key.short,)


def test_a_bundle_is_the_same_after_it_was_written_and_read(records: list[Record]) -> None:
    """Nothing is lost or added, and a record is on a line of its own."""
    bundle = prove(records)
    text = write_bundle(bundle)
    assert read_bundle(text) == bundle
    assert text.count(b"\n") == len(bundle.records) + 2
    assert text.endswith(b"]}\n")


def test_a_seal_by_another_key_proves_nothing(records: list[Record]) -> None:
    """Tree and signature are right but the key is unknown; an additional known signature is enough."""
    bundle = prove(records, signers=(OTHER_SIGNER,))
    assert "no known key signed this note" in failed(check_bundle(bundle, KEYS))["seal"]
    assert failed(check_bundle(bundle, ())).keys() >= {"seal", "inclusion"}
    assert check_bundle(prove(records, signers=(OTHER_SIGNER, SIGNER)), KEYS).ok


def test_a_bundle_of_another_job_fails_the_check(records: list[Record]) -> None:
    """A valid bundle of another job than expected, and one whose header names another job."""
    other = prove(records, REPORT)
    assert check_bundle(other, KEYS).ok
    found = failed(check_bundle(other, KEYS, job=ETL))
    assert found["job"] == f"the bundle is about the job {REPORT!r}, expected {ETL!r}"
    renamed = prove(records, REPORT, job=ETL)
    assert "which is not that of the job" in failed(check_bundle(renamed, KEYS, job=ETL))["job"]
    elsewhere = prove(records, namespace="prod")
    assert "job" in failed(check_bundle(elsewhere, KEYS))


def test_records_of_two_jobs_fail_the_check(records: list[Record]) -> None:
    """A record of another job is found although it is in the tree."""
    both = (*prove(records).records, *prove(records, REPORT).records)
    mixed = prove(records, records=tuple(sorted(both, key=lambda each: each.sequence)))
    assert "job" in failed(check_bundle(mixed, KEYS))


def test_a_seal_of_another_log_fails_the_check(records: list[Record]) -> None:
    """The origin of the bundle must be that of the seal."""
    assert "origin" in failed(check_bundle(prove(records, origin="jobledger/other"), KEYS))


def test_an_event_omitted_in_the_middle_is_detected(records: list[Record]) -> None:
    """Each event names its predecessor, so a bundle without any one of them fails."""
    whole = prove(records).records
    for at, left_out in enumerate(whole[:-1]):
        bundle = prove(records, records=whole[:at] + whole[at + 1 :])
        story = failed(check_bundle(bundle, KEYS))["story"]
        assert f"names event {left_out.sequence} as its predecessor" in story


def test_a_bundle_may_omit_the_newest_events_and_the_verdict_states_the_last_sequence(
    records: list[Record],
) -> None:
    """Completeness at the end is not proven; the verdict has the last sequence and the job's state there."""
    verdict = check_bundle(prove(records, records=prove(records).records[:4]), KEYS)
    assert verdict.ok
    assert verdict.last_sequence == 7
    assert verdict.status is not None
    assert verdict.status.state.state_type is StateType.FAILED


def test_events_out_of_order_fail_the_check(records: list[Record]) -> None:
    """Sequences must increase; a duplicate fails as well."""
    whole = prove(records).records
    for wrong in (whole[::-1], (whole[0], *whole)):
        assert "order" in failed(check_bundle(prove(records, records=wrong), KEYS))


def test_an_event_beyond_the_seal_is_not_proven(records: list[Record]) -> None:
    """A seal covers the events that existed when it was made."""
    early = prove(records, size=4)
    late = prove(records, records=prove(records).records, seal=early.seal)
    assert {"order", "inclusion"} <= failed(check_bundle(late, KEYS)).keys()


@pytest.mark.parametrize("field", ["sequence", "time", "payload", "leaf", "proof"])
def test_a_changed_record_is_not_in_the_tree(records: list[Record], field: str) -> None:
    """The leaf covers sequence, time and payload; a proof fits only one leaf."""
    first, *rest = prove(records).records
    change = {
        "sequence": 2,
        "time": first.time + 1,
        "payload": first.payload.replace(b"alice", b"mallo"),
        "leaf": bytes(32),
        "proof": first.proof[1:],
    }[field]
    changed = msgspec.structs.replace(first, **{field: change})
    bundle = prove(records, records=(changed, *rest))
    assert "inclusion" in failed(check_bundle(bundle, KEYS))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_byte_of_a_bundle_can_be_changed(records: list[Record], data: st.DataObject) -> None:
    """A bundle with one changed byte is rejected, fails its check, or has the same content."""
    text = write_bundle(prove(records))
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.one_of(st.integers(0, 255), st.sampled_from([text[at] ^ 1, text[at] ^ 0x20])))
    assert_harmless(text, text[:at] + bytes([byte]) + text[at + 1 :])


@pytest.mark.slow
def test_no_bit_of_a_bundle_can_be_flipped(records: list[Record]) -> None:
    """Every bit of a small bundle."""
    text = write_bundle(prove(records, REPORT))
    for at in range(len(text)):
        for bit in range(8):
            assert_harmless(text, text[:at] + bytes([text[at] ^ (1 << bit)]) + text[at + 1 :])


@settings(deadline=None)
@given(st.data())
def test_no_byte_of_a_bundle_can_be_removed_or_inserted(records: list[Record], data: st.DataObject) -> None:
    """The same for one byte less or more."""
    text = write_bundle(prove(records))
    at = data.draw(st.integers(0, len(text) - 1))
    assert_harmless(text, text[:at] + text[at + 1 :])
    assert_harmless(text, text[:at] + data.draw(st.binary(min_size=1, max_size=3)) + text[at:])


def assert_harmless(text: bytes, changed: bytes) -> None:
    """Assert that the changed document does not pass with other content."""
    good = check_bundle(read_bundle(text), KEYS)
    try:
        verdict = check_bundle(read_bundle(changed), KEYS)
    except InvalidInput:
        return
    assert not verdict.ok or verdict == good


GARBLED: dict[str, tuple[bytes, bytes, str]] = {
    "not JSON": (b"{", b"[", "not a JSON document"),
    "a key twice": (b'"version":1', b'"version":1,"version":1', "duplicate key 'version'"),
    "a key too many": (b'"version":1', b'"version":1,"note":""', "unknown field `note`"),
    "a key too many in a record": (b'"time":', b'"comment":"","time":', "unknown field `comment`"),
    "a key too few": (b'"job":"%b",' % ETL.encode(), b"", "missing required field `job`"),
    "another format": (b"jobledger-proof", b"jobledger-other", "not a proof bundle"),
    "a newer version": (b'"version":1', b'"version":2', "upgrade"),
    "a version that is true": (b'"version":1', b'"version":true', "version True"),
    "a fraction": (b'"sequence":1,', b'"sequence":1.0,', "1.0 is not an integer"),
    "not a number": (b'"sequence":1,', b'"sequence":NaN,', "NaN is not an integer"),
    "a number too large": (b'"sequence":1,', b'"sequence":' + b"9" * 19 + b",", r"<= 9\d+"),
    "a number beyond all": (b'"sequence":1,', b'"sequence":' + b"9" * 5000 + b",", "not a JSON document"),
    "a number as text": (b'"sequence":1,', b'"sequence":"1",', "got `str`"),
    "a sequence of zero": (b'"sequence":1,', b'"sequence":0,', ">= 1"),
    "a byte order mark": (b'{"format"', b'\xef\xbb\xbf{"format"', "not a JSON document"),
    "bytes that are no text": (b"jobledger-proof", b"jobledger-\xff", "not a JSON document"),
    "half a surrogate pair": (b'"namespace":"default"', b'"namespace":"\\ud800"', "not Unicode"),
    "too deep": (b'"version":1', b'"version":' + b"[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("name", GARBLED)
def test_an_invalid_document_is_rejected(records: list[Record], name: str) -> None:
    """The message names an unknown, missing, duplicate or mistyped key."""
    old, new, message = GARBLED[name]
    text = write_bundle(prove(records))
    assert old in text
    with pytest.raises(InvalidInput, match=message):
        read_bundle(text.replace(old, new, 1))


def test_only_canonical_base64_is_accepted(records: list[Record]) -> None:
    """Unused bits, other alphabets and missing padding are rejected."""
    bundle = prove(records)
    leaf = msgspec.to_builtins(bundle)["records"][0]["leaf"]
    assert leaf.endswith("=")
    spare = leaf[:-2] + chr(ord(leaf[-2]) + 1) + "="
    for other in (spare, leaf[:-1], f"{leaf}=", f"{leaf[:-1]}\\n="):
        with pytest.raises(InvalidInput):
            read_bundle(write_bundle(bundle).replace(leaf.encode(), other.encode()))


def test_a_bundle_has_limits(records: list[Record]) -> None:
    """A job with too many or too large records has no bundle, and such a bundle is not read."""
    bundle = prove(records)
    first = bundle.records[0]
    fat = msgspec.structs.replace(first, payload=bytes(BUNDLE_MAX_BYTES * 3 // 4))
    with pytest.raises(PayloadTooLarge, match="the maximum of a bundle"):
        write_bundle(msgspec.structs.replace(bundle, records=(fat,)))
    with pytest.raises(InvalidInput, match="at most"):
        read_bundle(bytes(BUNDLE_MAX_BYTES + 1))
    slim = ProvenRecord(sequence=1, time=0, subject="s", payload=b"", leaf=first.leaf, proof=())
    most = msgspec.structs.replace(bundle, records=(slim,) * BUNDLE_MAX_RECORDS)
    assert len(read_bundle(write_bundle(most)).records) == BUNDLE_MAX_RECORDS
    many = msgspec.structs.replace(bundle, records=(slim,) * (BUNDLE_MAX_RECORDS + 1))
    with pytest.raises(InvalidInput, match="records"):
        read_bundle(write_bundle(many))


def test_records_of_other_writers_are_counted_and_prove_nothing(records: list[Record]) -> None:
    """A record that is not an event is in the tree, changes nothing, and is counted."""
    *before, last = records
    garbage = Record(8, last.time, job_subject("default", ETL), b"{not an event")
    verdict = check_bundle(prove([*before, garbage]), KEYS)
    assert verdict.ok
    assert verdict.unlinked == 1
    assert "invalid records, which changed nothing: 1" in verdict.checks[-1].text


def test_an_event_of_a_newer_release_is_reported(records: list[Record]) -> None:
    """The records are proven, but this release can't interpret them."""
    *before, last = records
    newer = Record(8, last.time, job_subject("default", ETL), b'{"type":"jobledger.job.moved.v1"}')
    assert (
        "the job is quarantined: event 8 has the type 'jobledger.job.moved.v1'"
        in failed(check_bundle(prove([*before, newer]), KEYS))["story"]
    )


def test_a_bundle_without_a_job_fails_the_check(records: list[Record]) -> None:
    """No record creates the job."""
    without = [Record(each.sequence, each.time, each.subject, b"{}") for each in records]
    assert "no record creates the job" in failed(check_bundle(prove(without), KEYS))["story"]


def test_checking_needs_no_nats_no_sqlite_and_no_service() -> None:
    """The offline checker imports none of them."""
    code = (
        "import sys, jobledger.service.audit.bundle_check, jobledger.service.audit.model.bundle;"
        "print(sorted({'nats', 'aiosqlite', 'sqlite3', 'httpx', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
