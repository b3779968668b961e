"""The worked example of docs/AUDIT.md matches the code."""

import re
from pathlib import Path

from jobledger.projections.merkle.frontier import root_of
from jobledger.projections.merkle.hashing import EMPTY_ROOT, leaf_hash, node_hash, record_bytes
from jobledger.service.audit.model.checkpoint import open_seal
from jobledger.service.audit.model.note import VerifierKey
from jobledger.store.model.events import Record

PAGE = (Path(__file__).parents[3] / "docs" / "AUDIT.md").read_text()


def records_of_the_example() -> list[Record]:
    """The table of records, as the page has it."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `([^`]+)` \| `([^`]+)` \|$", PAGE, re.MULTILINE)
    return [
        Record(int(sequence), int(time), subject, payload.encode())
        for sequence, time, subject, payload in rows
    ]


def test_the_worked_example_is_right() -> None:
    """Every record, leaf, node and root on the page follows from the table of records."""
    records = records_of_the_example()
    assert len(records) == 3
    leaves = [leaf_hash(record) for record in records]
    reported = {
        **{f"record {record.sequence}": record_bytes(record).hex() for record in records},
        **{f"leaf {index}": leaf.hex() for index, leaf in enumerate(leaves)},
        "node 0-1": node_hash(leaves[0], leaves[1]).hex(),
        "root": root_of(leaves).hex(),
    }
    shown = re.findall(r"^((?:record|leaf|node|root)(?: [\d-]+)?) +([0-9a-f]{64,})$", PAGE, re.MULTILINE)
    assert dict(shown) == reported
    first, last = re.findall(r"`([0-9a-f]{8})…([0-9a-f]{4})`", PAGE)[0]
    assert EMPTY_ROOT.hex().startswith(first)
    assert EMPTY_ROOT.hex().endswith(last)


def test_the_seal_on_the_page_is_valid() -> None:
    """It is signed by the key below it, over the root of the example."""
    [note] = [block for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) if "\N{EM DASH}" in block]
    [vkey] = re.findall(r"`(example\.com/jobs\+\S+)`", PAGE)
    seal = open_seal(note, [VerifierKey.parse(vkey)])
    assert (seal.size, seal.root) == (3, root_of(map(leaf_hash, records_of_the_example())))
