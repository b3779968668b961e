"""Other writers: of another namespace, of invalid events, and a log that loses events."""

import asyncio
import os
import shutil
import signal

import msgspec
import pytest

from jobledger import EmbeddedServer, JetStreamLog, Ledger, MemoryLog, State, StateType, named_job_id
from jobledger.store.log import EventLog, PendingEvent
from jobledger.store.model.errors import JobExists, JobNotFound, JobTerminal, LogError
from jobledger.store.model.events import (
    EventClass,
    JobCreated,
    JobStateChanged,
    JobUpdated,
    SpecData,
    StateData,
)
from jobledger.store.model.subjects import job_subject
from jobledger.store.spec.spec import decode_spec
from tests.conftest import make_spec
from tests.support.histories import draft, spec_data, state_data
from tests.support.ledgers import event_id, full_history, put, put_junk

ID = named_job_id("default", "etl")
NAMELESS = f"j-{event_id(1)}"
RUNNING = State(StateType.RUNNING)
UNKNOWN = b'{"type":"jobledger.job.deleted.v9"}'


async def attack(log: EventLog, job_id: str) -> None:
    """Do all that a writer with rights on the namespace `evil` can do to a job of another one."""
    name = job_id if job_id == NAMELESS else "etl"
    events: list[tuple[EventClass, SpecData | StateData]] = [
        (JobStateChanged, state_data(StateType.STOPPED)),
        (JobCreated, spec_data("etl")),
        (JobCreated, spec_data(name, "evil")),
        (JobUpdated, spec_data(name, "evil", priority=9)),
        (JobStateChanged, state_data(StateType.STOPPED)),
    ]
    for number, (kind, data) in enumerate(events):
        await put(log, draft(kind, job_id, data, 100 + number, "evil"))
    await put_junk(log, job_id, namespace="evil")


@pytest.mark.parametrize("job_id", [ID, NAMELESS])
async def test_another_namespace_hides_no_job(jetstream_log: JetStreamLog, job_id: str) -> None:
    """Events with the id of a job under another namespace change and hide nothing, also for reads by id."""
    log = jetstream_log
    await Ledger(log).create(make_spec("etl" if job_id == ID else ""), event_id=event_id(1))
    await attack(log, job_id)
    await put(log, PendingEvent(job_subject("evil", job_id), "unknown", UNKNOWN))
    remembering = Ledger(log)
    for ledger in (remembering, remembering, Ledger(log)):
        job = await ledger.load(job_id)
        assert (job.status.namespace, job.status.state.state_type) == ("default", StateType.PENDING)
        assert {item.anomaly for item in await full_history(ledger, job_id)} == {""}
    before = job.status.revision
    assert (await Ledger(log).set_state(job_id, RUNNING)).revision == before + 1
    assert (await remembering.update(job_id, make_spec(priority=1))).revision == before + 2
    assert (await Ledger(log).stop(job_id)).revision == before + 3


async def test_events_of_another_namespace_are_not_cached_as_the_job(
    jetstream_log: JetStreamLog,
) -> None:
    """A ledger that read the other namespace's events still finds the job by its id."""
    ledger = Ledger(jetstream_log)
    await ledger.create(make_spec(), event_id=event_id(1))
    await attack(jetstream_log, NAMELESS)
    with pytest.raises(JobNotFound):
        await ledger.load(NAMELESS, namespace="evil")
    assert (await ledger.load(NAMELESS)).status.namespace == "default"
    assert (await ledger.set_state(NAMELESS, RUNNING)).namespace == "default"


async def test_an_attack_before_the_job_has_no_effect(jetstream_log: JetStreamLog) -> None:
    """The id of a name is known before the job exists; events for it do not matter."""
    log = jetstream_log
    await attack(log, ID)
    with pytest.raises(JobNotFound):
        await Ledger(log).load(ID)
    with pytest.raises(JobNotFound):
        await Ledger(log).load(ID, namespace="evil")
    with pytest.raises(JobNotFound):
        await anext(Ledger(log).history(ID))
    ledger = Ledger(log)
    assert (await ledger.create(make_spec("etl"))).revision == 1
    assert (await ledger.load(ID)).status.namespace == "default"
    assert (await Ledger(log).set_state(ID, RUNNING)).revision == 2
    with pytest.raises(JobExists):
        await Ledger(log).create(make_spec("etl"))


@pytest.mark.parametrize("tail", [b',"Tasks":5}', b',"Tasks":[{"Engine":7}],"Extra":[1]}'])
async def test_an_invalid_spec_can_be_replaced(log: EventLog, tail: bytes) -> None:
    """A job with an invalid spec of another writer can be loaded, stopped, and updated."""
    spec = b'{"Name":"etl","Namespace":"default","Type":"batch","Count":1' + tail
    await put(log, draft(JobCreated, ID, SpecData(msgspec.Raw(spec)), 1))
    ledger = Ledger(log)
    assert (await ledger.load(ID)).to_wire()["Name"] == "etl"
    await ledger.stop(ID)
    assert (await ledger.update(ID, make_spec("etl"))).version == 2
    assert decode_spec((await ledger.load(ID)).spec).tasks == make_spec().tasks


def forgetting(log: MemoryLog, keep: int) -> None:
    """Make a log lose its end, as a server without sync does at a power loss; it keeps its name."""
    del log._records[keep:]
    for records in log._by_subject.values():
        records[:] = [record for record in records if record.sequence <= keep]


@pytest.mark.parametrize("by", ["another ledger's words", "its own words"])
async def test_a_ledger_survives_a_log_that_lost_its_end(by: str) -> None:
    """Cached events that are gone are dropped, and the ledger continues from the log."""
    log = MemoryLog()
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    await ledger.load(ID)
    await ledger.set_state(ID, RUNNING)
    await ledger.set_state(ID, State(StateType.FAILED))
    if by == "another ledger's words":
        await ledger.load(ID)
    forgetting(log, 1)
    assert (await ledger.load(ID)).status == (await Ledger(log).load(ID)).status
    assert (await ledger.set_state(ID, RUNNING)).revision == 2
    assert (await ledger.load(ID)).status.sequence == 2


async def test_a_ledger_survives_a_log_that_lost_the_job() -> None:
    """A cached job that is gone is not found, and can be created again."""
    log = MemoryLog()
    ledger = Ledger(log)
    await ledger.create(make_spec("etl"))
    await ledger.set_state(ID, RUNNING)
    forgetting(log, 0)
    for command in (ledger.load(ID), ledger.load(ID, namespace="default"), ledger.set_state(ID, RUNNING)):
        with pytest.raises(JobNotFound):
            await command
    assert (await ledger.create(make_spec("etl"))).revision == 1
    assert (await ledger.set_state(ID, RUNNING)).revision == 2
    remembered = ledger._reader.cached(ID, "default")
    assert remembered is not None
    assert remembered.sequence == 2


async def test_a_recreated_stream_is_not_decided_on_from_the_cache(server: EmbeddedServer) -> None:
    """After another ledger created the same job on the new stream, the old ledger uses that one."""
    log = await JetStreamLog.connect(server.url)
    old = Ledger(log)
    receipt = await old.create(make_spec("etl"))
    await old.set_state(receipt.job_id, RUNNING)
    os.kill(server.pid, signal.SIGKILL)
    shutil.rmtree(server.directory / "jetstream")
    async with asyncio.timeout(30):
        while True:
            try:
                other = await JetStreamLog.connect(server.url)
                break
            except LogError:
                await asyncio.sleep(0)  # until the restarted server listens on its port
    new = Ledger(other)
    await new.create(make_spec("etl", priority=7))
    await new.set_state(receipt.job_id, State(StateType.COMPLETED))
    await log.info()  # connected again
    assert (await old.load(receipt.job_id)).status == (await new.load(receipt.job_id)).status
    with pytest.raises(JobTerminal):
        await old.set_state(receipt.job_id, State(StateType.FAILED))
    await other.close()
    await log.close()
