"""Real spec files through the ledger: the stored spec is the normal form of the file, and stays the same."""

from pathlib import Path

import msgspec
import pytest

from jobledger import JobSpec, Ledger, MemoryLog, State, StateType, load_spec
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.spec import decode_spec, encode_spec

FILES = sorted(
    file for file in (Path(__file__).parents[2] / "specs").iterdir() if file.suffix in {".yaml", ".json"}
)


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def spec(request: pytest.FixtureRequest) -> JobSpec:
    """The spec of a file."""
    path: Path = request.param
    return load_spec(path.read_bytes(), strict=False).spec


async def test_the_stored_spec_is_the_normal_form_of_the_file(spec: JobSpec) -> None:
    """And it is its own normal form."""
    ledger = Ledger(MemoryLog())
    receipt = await ledger.create(spec)
    job = await ledger.load(receipt.job_id)
    named = msgspec.structs.replace(spec, name=spec.name or receipt.job_id)
    assert job.spec == encode_spec(normalize(named))
    stored = decode_spec(job.spec)
    assert encode_spec(normalize(stored)) == job.spec
    assert (job.status.name, job.status.namespace) == (stored.name, stored.namespace)
    wire = job.to_wire()
    assert encode_spec(msgspec.json.decode(msgspec.json.encode(wire), type=JobSpec)) == job.spec


async def test_submitting_it_again_is_a_no_op(spec: JobSpec) -> None:
    """The same file or the stored spec again changes nothing, through any ledger."""
    log = MemoryLog()
    receipt = await Ledger(log).create(spec)
    stored = decode_spec((await Ledger(log).load(receipt.job_id)).spec)
    for again in (spec, stored):
        assert not (await Ledger(log).update(receipt.job_id, again)).changed
    assert not (await Ledger(log).apply(stored)).changed
    assert (await log.info()).last_sequence == 1


async def test_an_update_stores_the_changed_file(spec: JobSpec) -> None:
    """Under the same name; the first file again is version 3."""
    ledger = Ledger(MemoryLog())
    receipt = await ledger.create(spec)
    before = await ledger.load(receipt.job_id)
    await ledger.set_state(receipt.job_id, State(StateType.RUNNING))
    labels = {**spec.labels, "changed": "yes"}
    assert (await ledger.update(receipt.job_id, msgspec.structs.replace(spec, labels=labels))).version == 2
    job = await ledger.load(receipt.job_id)
    assert decode_spec(job.spec) == msgspec.structs.replace(decode_spec(before.spec), labels=labels)
    assert (job.status.name, job.status.namespace) == (before.status.name, before.status.namespace)
    assert (await ledger.update(receipt.job_id, spec)).version == 3
    assert (await ledger.load(receipt.job_id)).spec == before.spec
