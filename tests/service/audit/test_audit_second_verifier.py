"""docs/AUDIT.md suffices to write a verifier of proofs: one written from it agrees with the product."""

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from jobledger.service.audit.bundle_check import check_bundle
from jobledger.service.audit.model.bundle import Bundle, ProvenRecord, read_bundle, write_bundle
from jobledger.service.audit.model.findings import Kind
from jobledger.service.audit.watch_command import WatchMetrics
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from tests.support.proofs import OTHER_SIGNER, REPORT, SIGNER, prove, two_jobs
from tests.support.second_verifier import NotProvenError, verify

PAGE = (Path(__file__).parents[3] / "docs" / "AUDIT.md").read_text()
VKEY = str(SIGNER.key)


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """The log that bundles are made of."""
    return asyncio.run(two_jobs())


def ours(document: bytes) -> dict[str, Any] | None:
    """What our verifier proves; None: nothing."""
    try:
        bundle = read_bundle(document)
        verdict = check_bundle(bundle, (SIGNER.key,))
    except InvalidInput:
        return None
    if not verdict.ok:
        return None
    assert verdict.status is not None
    return {
        "job": verdict.job,
        "namespace": verdict.namespace,
        "origin": verdict.origin,
        "size": verdict.size,
        "records": [(each.sequence, each.time) for each in bundle.records],
        "revision": verdict.status.revision,
    }


def theirs(document: bytes) -> dict[str, Any] | None:
    """What the second verifier proves."""
    try:
        return verify(document, VKEY)
    except NotProvenError:
        return None


def test_both_accept_a_valid_bundle(records: list[Record]) -> None:
    """The same result for each job at every size of the log."""
    for size in range(2, len(records) + 1):
        for job in (None, REPORT):
            bundle = prove(records, job, size=size) if job else prove(records, size=size)
            document = write_bundle(bundle)
            assert ours(document) is not None
            assert ours(document) == theirs(document)


def test_both_reject_an_invalid_bundle(records: list[Record]) -> None:
    """Another key, another job's records, an event omitted in the middle, a duplicate record."""
    good = prove(records)
    wrong = [
        prove(records, signers=(OTHER_SIGNER,)),
        prove(records, job=REPORT),
        prove(records, namespace="prod"),
        prove(records, origin="jobledger/other"),
        prove(records, records=(good.records[0], *good.records[2:])),
        prove(records, records=good.records[1:]),
        prove(records, records=good.records[::-1]),
        prove(records, records=(good.records[0], *good.records)),
    ]
    for bundle in wrong:
        document = write_bundle(bundle)
        assert (ours(document), theirs(document)) == (None, None)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_both_agree_on_a_changed_bundle(records: list[Record], data: st.DataObject) -> None:
    """For any change of a byte, a value or a key."""
    document = write_bundle(prove(records, REPORT))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(document) - 1))
        document = document[:at] + data.draw(st.binary(max_size=2)) + document[at + 1 :]
    else:
        wire = json.loads(document)
        part = data.draw(st.sampled_from([wire, *wire["records"]]))
        key = data.draw(st.sampled_from([*part, "more"]))
        part[key] = data.draw(
            st.sampled_from(
                [0, 1, 2**63, True, None, "", "AA==", 1.5, [], part.get("sequence"), "x" * 16_385]
            )
        )
        document = json.dumps(wire).encode()
    assert ours(document) == theirs(document)


def test_the_page_documents_every_key_of_a_bundle() -> None:
    """The tables list exactly the keys of the document and of its records."""
    section = PAGE.partition("### Format")[2].partition("### Verification")[0]
    reported = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert reported == [*Bundle.__struct_fields__, *ProvenRecord.__struct_fields__]


def test_the_page_documents_every_check_finding_and_metric(records: list[Record]) -> None:
    """The tables list exactly what the commands can print."""
    checks = PAGE.partition("## Proof of a job")[2].partition("### Format")[0]
    verdict = check_bundle(prove(records), (SIGNER.key,))
    assert re.findall(r"^\| `(\w+)` \|", checks, re.MULTILINE) == [each.name for each in verdict.checks]
    kinds = PAGE.partition("## Audit an installation")[2].partition("## Watch a log")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", kinds, re.MULTILINE)) == sorted(kind.value for kind in Kind)
    metrics = PAGE.partition("## Watch a log")[2].partition("## What is proven")[0]
    reported = re.findall(r"^\| `(jobledger_watch_\w+)", metrics, re.MULTILINE)
    exposed = {family.name for family in WatchMetrics().registry.collect()}
    assert {name.removesuffix("_total") for name in reported} == exposed
