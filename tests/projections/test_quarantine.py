"""An event that cannot be read quarantines its job and nothing else: in the ledger, in views, for readers."""

import random
from pathlib import Path

import msgspec
import pytest

from jobledger import Job, Ledger, MemoryLog, Projector, State, StateType, View, subscribe
from jobledger.projections.query.query import ListQuery
from jobledger.projections.rows import JOB_ROW_COLUMNS
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobNotFound, JobNotQuarantined, JobQuarantined
from jobledger.store.model.events import (
    JobCreated,
    JobStateChanged,
    JobUpdated,
    NotUnderstood,
    Read,
    Record,
    read_record,
)
from jobledger.store.model.fold import fold_job_on, fold_on
from jobledger.store.model.job import JobStatus
from jobledger.store.model.limits import QUARANTINE_MAX_EVENTS
from jobledger.store.model.subjects import named_job_id, nameless_job_id
from tests.conftest import make_spec
from tests.support.api import running_api
from tests.support.histories import records_of, spec_data, state_data
from tests.support.oracle import fold_of, rows_of
from tests.support.unreadable_events import HoleyLog, Writer

ID = named_job_id("default", "etl")
ROOT = "http://127.0.0.1"
RUNNING = state_data(StateType.RUNNING)


async def project(log: EventLog, path: Path) -> None:
    async with Projector(log, path) as running:
        await running.wait_live()


async def quarantined_job(log: EventLog) -> Writer:
    """A running job whose third event has an unknown type, with events after it."""
    writer = Writer(log, ID)
    await writer.write(JobCreated, spec_data("etl"))
    await writer.write(JobStateChanged, RUNNING)
    await writer.write_unknown()
    await writer.write(JobUpdated, spec_data("etl", priority=7))
    await writer.write(JobStateChanged, state_data(StateType.QUEUED, "again"))
    return writer


async def status_of(log: EventLog, job_id: str = ID) -> JobStatus | None:
    status = None
    for record in await records_of(log):
        recorded = read_record(record)
        if record.subject == Writer(log, job_id).subject:
            status = fold_on(status, recorded)
    return status


# --- the write side -----------------------------------------------------------------------------------------


async def test_a_quarantined_job_refuses_every_write_with_the_reason() -> None:
    """The ledger decides from the log alone, and names the event, the reason and the remedy."""
    log = MemoryLog()
    await quarantined_job(log)
    ledger = Ledger(log)
    for write in (
        ledger.set_state(ID, State(StateType.COMPLETED)),
        ledger.stop(ID),
        ledger.apply(make_spec("etl")),
        ledger.create(make_spec("etl")),
        ledger.update(ID, make_spec("etl", priority=3)),
        ledger.rerun(ID),
        ledger.tag(ID, "golden", 1),
        ledger.untag(ID, "golden"),
    ):
        with pytest.raises(
            JobQuarantined, match=r"since event 3: event 3 has the type .* accept-unreadable"
        ) as received:
            await write
        assert (received.value.job_id, received.value.sequence) == (ID, 3)
    assert (await log.info()).last_sequence == 5
    assert (await ledger.create(make_spec("other"))).revision == 1


async def test_a_quarantined_job_keeps_its_state() -> None:
    """Events after the unreadable one do not show; the status has the sequence and the reason."""
    log = MemoryLog()
    await quarantined_job(log)
    job = await Ledger(log).load(ID)
    assert (job.status.revision, job.status.version, job.status.state.state_type) == (2, 1, StateType.RUNNING)
    assert job.status.quarantine is not None
    assert job.status.quarantine.sequence == 3
    assert "jobledger.job.paused.v1" in job.status.quarantine.reason
    wire = job.to_wire()
    assert wire["Quarantine"]["Sequence"] == 3
    assert wire["Quarantine"]["Unread"] == [{"Sequence": 3, "Reason": job.status.quarantine.reason}]


async def test_an_accepted_event_is_skipped_and_all_others_count() -> None:
    """After the acceptance the job is the fold of its other events, with revisions without a gap."""
    log = MemoryLog()
    await quarantined_job(log)
    ledger = Ledger(log)
    receipt = await ledger.accept_unreadable(ID, 3, actor="ann", reason="lost with node-2")
    assert (receipt.changed, receipt.sequence, receipt.revision, receipt.version) == (True, 6, 4, 2)
    job = await ledger.load(ID)
    assert job.status.quarantine is None
    assert (job.status.revision, job.status.version, job.status.sequence) == (4, 2, 6)
    assert job.status.state == State(StateType.QUEUED, "again")
    assert b'"Priority":7' in job.spec
    assert (await ledger.stop(ID)).revision == 5
    items = [item async for item in ledger.history(ID)]
    assert [item.revision for item in items] == [1, 2, 2, 3, 4, 4, 5]
    assert [bool(item.quarantine) for item in items] == [False, False, True, True, True, False, False]
    assert (items[5].accepted, items[5].actor, items[5].reason) == (3, "ann", "lost with node-2")


async def test_accepting_twice_is_a_no_op_and_accepting_anything_else_is_refused() -> None:
    """A repeat changes nothing; for a wrong sequence the error names the right ones."""
    log = MemoryLog()
    await quarantined_job(log)
    ledger = Ledger(log)
    with pytest.raises(JobNotQuarantined, match=r"event 4 does not quarantine .* it is quarantined by: 3"):
        await ledger.accept_unreadable(ID, 4)
    await ledger.accept_unreadable(ID, 3)
    again = await ledger.accept_unreadable(ID, 3)
    assert not again.changed
    assert (await log.info()).last_sequence == 6
    with pytest.raises(JobNotQuarantined, match="it is not quarantined"):
        await ledger.accept_unreadable(ID, 2)
    with pytest.raises(JobNotFound):
        await ledger.accept_unreadable("j-none", 2)


async def test_every_unreadable_event_of_a_job_must_be_accepted() -> None:
    """The job stays quarantined while one is left, and then reflects all that could be read."""
    log = MemoryLog()
    writer = await quarantined_job(log)
    second = await writer.write_unknown("jobledger.job.resumed.v1")
    await writer.write(JobStateChanged, RUNNING)
    ledger = Ledger(log)
    await ledger.accept_unreadable(ID, second)
    status = (await ledger.load(ID)).status
    assert status.quarantine is not None
    assert [each.sequence for each in status.quarantine.unread] == [3]
    assert status.revision == 2
    await ledger.accept_unreadable(ID, 3)
    assert (await ledger.load(ID)).status.revision == 5


async def test_more_events_than_the_limit_can_not_be_accepted_one_by_one() -> None:
    """Beyond QUARANTINE_MAX_EVENTS the job needs a release that reads them."""
    log = MemoryLog()
    writer = Writer(log, ID)
    await writer.write(JobCreated, spec_data("etl"))
    for _ in range(QUARANTINE_MAX_EVENTS + 1):
        await writer.write_unknown()
    ledger = Ledger(log)
    status = (await ledger.load(ID)).status
    assert status.quarantine is not None
    assert len(status.quarantine.unread) == QUARANTINE_MAX_EVENTS
    assert status.quarantine.overflows
    for each in status.quarantine.unread:
        await ledger.accept_unreadable(ID, each.sequence)
    after = (await ledger.load(ID)).status.quarantine
    assert after is not None
    assert "more than 64 events" in after.reason


async def test_a_job_whose_first_event_can_not_be_read_can_not_be_created_again() -> None:
    """Its name is taken by the unreadable event; once that is accepted, the job starts at revision 1."""
    log = MemoryLog()
    writer = Writer(log, ID)
    await writer.write_unknown("jobledger.job.created.v2")
    ledger = Ledger(log)
    for write in (ledger.apply(make_spec("etl")), ledger.create(make_spec("etl")), ledger.stop(ID)):
        with pytest.raises(JobQuarantined, match=r"job\.created\.v2"):
            await write
    with pytest.raises(JobQuarantined):
        await ledger.load(ID)
    await ledger.accept_unreadable(ID, 1)
    assert (await ledger.create(make_spec("etl"))).revision == 1


async def test_a_lost_event_quarantines_the_job_that_names_it() -> None:
    """The missing event is the one to accept."""
    log = HoleyLog()
    writer = Writer(log, ID)
    await writer.write(JobCreated, spec_data("etl"))
    lost = await writer.write(JobUpdated, spec_data("etl", priority=2))
    await writer.write(JobStateChanged, RUNNING)
    log.lost.add(lost)
    ledger = Ledger(log)
    with pytest.raises(JobQuarantined, match=r"event 2 is missing from the log: event 3 of the job names it"):
        await ledger.stop(ID)
    await ledger.accept_unreadable(ID, lost)
    assert (await ledger.load(ID)).status.revision == 2


async def test_foreign_records_on_a_jobs_subject_quarantine_nothing() -> None:
    """A record that is no event of Jobledger is an anomaly, even if the next event names it."""
    log = MemoryLog()
    writer = Writer(log, ID)
    await writer.write_raw(b"{not json")
    await writer.write(JobCreated, spec_data("etl"))
    await writer.write_raw(b'{"type":"com.example.other","specversion":"1.0"}')
    await writer.write_unknown(namespace="other")
    await writer.write_unknown(subject="j-other")
    await writer.write(JobStateChanged, RUNNING)
    status = (await Ledger(log).load(ID)).status
    assert status.quarantine is None
    assert status.revision == 2
    assert (await Ledger(log).stop(ID)).revision == 3


async def test_a_writer_of_another_namespace_can_not_quarantine_a_job() -> None:
    """Neither before the job exists nor after; neither in the ledger nor in a view."""
    job_id = nameless_job_id("01a2055d-a34b-7208-94a5-f139d400013c")
    for is_first in (True, False):
        log = MemoryLog()
        mine, evil = Writer(log, job_id), Writer(log, job_id, "evil")
        if is_first:
            await evil.write_unknown()
        await mine.write(JobCreated, spec_data(job_id))
        await evil.write_unknown()
        await evil.write(JobStateChanged, RUNNING, previous=1)
        await mine.write(JobStateChanged, RUNNING)
        for namespace in ("default", None):
            status = (await Ledger(log).load(job_id, namespace=namespace)).status
            assert (status.namespace, status.revision, status.quarantine) == ("default", 2, None)
        assert (await Ledger(log).stop(job_id)).revision == 3


# --- the view -----------------------------------------------------------------------------------------------


async def test_the_view_lists_quarantined_jobs(tmp_path: Path) -> None:
    """They are in every list unless filtered out; one parameter selects them alone."""
    log = MemoryLog()
    await quarantined_job(log)
    await Ledger(log).create(make_spec("fine"))
    path = tmp_path / "view.db"
    await project(log, path)
    async with await View.open(path) as view:
        job = await view.get("etl")
        assert (job.status.revision, job.status.quarantine is not None) == (2, True)
        assert [version.version for version in await view.versions(ID)] == [1]
        names = {
            shown: [each.status.name for each in (await view.list(ListQuery(quarantined=shown))).jobs]
            for shown in (None, True, False)
        }
        assert names == {None: ["etl", "fine"], True: ["etl"], False: ["fine"]}


async def test_the_view_after_an_acceptance_is_that_of_the_fold(tmp_path: Path) -> None:
    """Even if the specs of later events are in the file already, and for all batches."""
    log = MemoryLog()
    writer = await quarantined_job(log)
    path, again = tmp_path / "view.db", tmp_path / "again.db"
    await project(log, path)
    await writer.accept(3)
    await project(log, path)
    await project(log, again)
    assert rows_of(path) == rows_of(again) == fold_of(await records_of(log))
    async with await View.open(path) as view:
        job = await view.get("etl")
        assert (job.status.revision, job.status.version) == (4, 2)
        assert b'"Priority":7' in job.spec


@pytest.mark.parametrize("seed", range(12))
async def test_views_are_equal_whatever_can_not_be_read(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown events, holes, foreign records and acceptances at random positions: one view for one log.

    For all batches and restarts, its rows are the fold's, and its digest that of a rebuild.
    """
    rng = random.Random(seed)
    log = HoleyLog()
    await random_events(rng, log, 120)
    records = log.left()
    paths = [tmp_path / "whole.db", tmp_path / "cut.db"]
    await project(log, paths[0])
    monkeypatch.setattr("jobledger.projections.projector.COMMIT_MAX_EVENTS", rng.randint(1, 9))
    for stop in sorted(rng.sample(range(1, 120), 3)):
        async with Projector(log, paths[1]) as running:
            await running.wait_for(min(stop, records[-1].sequence))
    await project(log, paths[1])
    expected = fold_of(records)
    digests = set()
    for path in paths:
        assert rows_of(path) == expected
        async with await View.open(path) as view:
            digests.add(await view.digest())
    assert len(digests) == 1
    ledger = Ledger(log)
    rows = (dict(zip(JOB_ROW_COLUMNS, row, strict=True)) for row in expected["jobs"])
    by_id = {row["id"]: row for row in rows}
    for job_id in {
        read.job_id for read in [Writer(log, named_job_id("default", f"job-{n}")) for n in range(5)]
    }:
        try:
            job = await ledger.load(job_id, namespace="default")
        except (JobNotFound, JobQuarantined):
            assert job_id not in by_id
            continue
        row = by_id[job_id]
        assert (row["version"], row["revision"]) == (job.status.version, job.status.revision)
        assert bool(row["quarantine"]) == (job.status.quarantine is not None)


async def random_events(rng: random.Random, log: HoleyLog, events: int, *, accepts: bool = True) -> None:
    """Events of five jobs, with unreadable ones in between."""
    writers = [(f"job-{n}", Writer(log, named_job_id("default", f"job-{n}"))) for n in range(5)]
    unread: dict[str, list[int]] = {name: [] for name, _ in writers}
    exists: set[str] = set()
    for number in range(events):
        name, writer = rng.choice(writers)
        what = rng.choices(
            ("event", "unknown", "foreign", "lost", "accept", "strange"), (12, 1, 1, 1, 2, 0.5)
        )[0]
        if what == "unknown":
            unread[name].append(await writer.write_unknown())
        elif what == "foreign":
            await writer.write_raw(rng.choice([b"junk", b"{}", b'{"type":"x"}']))
        elif what == "accept" and unread[name] and accepts:
            await writer.accept(rng.choice(unread[name]))
        elif what == "strange":
            spec = msgspec.json.decode(writer.payload(JobUpdated, spec_data(name)))
            spec["data"] = {"Spec": 7}
            unread[name].append(await writer.write_raw(msgspec.json.encode(spec)))
        else:
            if name not in exists:
                exists.add(name)
                sequence = await writer.write(JobCreated, spec_data(name, labels={"n": str(number)}))
            elif rng.random() < 0.4:
                sequence = await writer.write(JobUpdated, spec_data(name, priority=number))
            else:
                data = state_data(rng.choice([StateType.RUNNING, StateType.QUEUED]), str(number))
                sequence = await writer.write(JobStateChanged, data)
            if what == "lost" and number < events - 6:
                log.lost.add(sequence)
                unread[name].append(sequence)
    last = Writer(log, named_job_id("default", "last"))
    await last.write(JobCreated, spec_data("last"))


async def test_a_subscription_skips_a_quarantined_job_and_continues() -> None:
    """Its events are skipped, those of other jobs are delivered, and so is the acceptance."""
    log = MemoryLog()
    writer = await quarantined_job(log)
    await Ledger(log).create(make_spec("fine"))
    await writer.accept(3)
    async with subscribe(log) as events:
        received = []
        async for event in events:
            received.append((event.sequence, event.name, event.revision, event.type.split(".")[2]))
            if event.sequence == 7:
                break
    assert received == [
        (1, "etl", 1, "created"),
        (2, "etl", 2, "state"),
        (6, "fine", 1, "created"),
        (7, "etl", 4, "accepted"),
    ]


async def test_the_spec_beyond_a_quarantine_is_kept() -> None:
    """`fold_job` agrees with `fold`, and has the spec that the status names, before and after."""
    log = MemoryLog()
    await (await quarantined_job(log)).accept(3)
    job: Job | None = None
    status = None
    for record in await records_of(log):
        job = fold_job_on(job, read_record(record))
        status = fold_on(status, read_record(record))
        assert job is not None
        assert job.status == status
        assert (b'"Priority":7' in job.spec) == (record.sequence == 6)


# --- healing ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
async def test_a_healed_view_equals_a_rebuild(tmp_path: Path, seed: int) -> None:
    """After the log was repaired, quarantined jobs are refolded, and nothing else changes."""
    rng = random.Random(100 + seed)
    log = HoleyLog()
    await random_events(rng, log, 120, accepts=False)
    path = tmp_path / "view.db"
    async with Projector(log, path) as running:
        await running.wait_live()
        before = await running.heal()
        assert before.changed == 0
        log.lost.clear()
        healed = await running.heal()
        assert healed.jobs == before.jobs
        assert healed.changed > 0
        assert rows_of(path) == fold_of(log.left())
        await Writer(log, named_job_id("default", "later")).write(JobCreated, spec_data("later"))
        await running.wait_for((await log.info()).last_sequence)
    assert rows_of(path) == fold_of(log.left())


async def test_a_release_that_reads_more_events_heals_its_view_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of quarantined jobs, folded by a release with fewer event types, are refolded."""
    log = MemoryLog()
    writer = Writer(log, ID)
    await writer.write(JobCreated, spec_data("etl"))
    await Ledger(log).create(make_spec("fine"))
    await writer.write(JobStateChanged, RUNNING)
    path = tmp_path / "view.db"

    def old_read(record: Record) -> Read:
        if b"job.state" in record.payload:
            return NotUnderstood(record.sequence, "default", ID, "a newer release wrote it")
        return read_record(record)

    with monkeypatch.context() as older:
        older.setattr("jobledger.projections.batch.read_record", old_read)
        older.setattr("jobledger.projections.projector.VOCABULARY", "older")
        await project(log, path)
        async with await View.open(path) as view:
            assert (await view.troubles()).quarantined == 1
    await project(log, path)
    assert rows_of(path) == fold_of(await records_of(log))
    async with await View.open(path) as view:
        assert (await view.troubles()).quarantined == 0


# --- holes --------------------------------------------------------------------------------------------------


async def test_a_hole_is_recorded_and_other_jobs_continue(tmp_path: Path) -> None:
    """First and last sequence, and the jobs that miss an event there; the tree ends before it."""
    log = HoleyLog()
    writer = Writer(log, ID)
    await writer.write(JobCreated, spec_data("etl"))
    for name in ("a", "b"):
        await Ledger(log).create(make_spec(name))
    await writer.write(JobUpdated, spec_data("etl", priority=2))
    await writer.write(JobStateChanged, RUNNING)
    log.lost |= {3, 4}
    path = tmp_path / "view.db"
    await project(log, path)
    async with await View.open(path) as view:
        [hole] = await view.damage()
        assert hole == (3, 4)
        assert [each.name for each in await view.missing_events(hole)] == ["etl"]
        troubles = await view.troubles()
        assert (troubles.quarantined, troubles.damaged_events, troubles.first_damaged) == (1, 2, 3)
        assert (await view.get("a")).status.quarantine is None


# --- over HTTP ----------------------------------------------------------------------------------------------


async def test_a_quarantined_job_over_http(tmp_path: Path) -> None:
    """Its row, lists, the refusal, metrics and readiness; the acceptance ends the quarantine."""
    async with running_api(tmp_path) as (service, client):
        log = service.log
        writer = await quarantined_job(log)
        await service.projector.wait_for(writer.last)
        jobs = f"{ROOT}/api/v1/orchestrator/jobs"
        shown = (await client.get(f"{jobs}/etl")).json()["Job"]
        assert shown["Quarantine"]["Sequence"] == 3
        assert (shown["Revision"], shown["State"]["StateType"]) == (2, "Running")
        for asked, count in (("only", 1), ("exclude", 0), ("include", 1)):
            assert len((await client.get(f"{jobs}?quarantined={asked}")).json()["Items"]) == count
        assert (await client.get(f"{jobs}?quarantined=x")).status_code == 400
        refused = await client.put(f"{jobs}/etl/state", json={"StateType": "Completed"})
        assert (refused.status_code, refused.json()["Code"]) == (409, "JobQuarantined")
        assert "since event 3" in refused.json()["detail"]
        other = {"Name": "fine", "Type": "batch", "Tasks": [{"Name": "m", "Engine": {"Type": "docker"}}]}
        assert (await client.put(jobs, json={"Job": other})).status_code == 200
        listed = (await client.get(f"{ROOT}/api/v1/view/quarantine")).json()["Items"]
        assert [(each["Name"], each["Sequence"]) for each in listed] == [("etl", 3)]
        ready = await client.get(f"{ROOT}/readyz?verbose")
        assert "[!]quarantine failed: 1 jobs are in quarantine" in ready.text
        assert b"jobledger_quarantined_jobs 1.0" in service.metrics.text()
        history = (await client.get(f"{jobs}/etl/history?all_job_versions=true")).json()["Items"]
        assert "jobledger.job.paused.v1" in history[2]["Quarantine"]
        wrong = await client.post(f"{jobs}/etl/accept-unreadable", json={"Sequence": 2})
        assert (wrong.status_code, wrong.json()["Code"]) == (409, "JobNotQuarantined")
        body = {"Sequence": 3, "Reason": "gone for good"}
        done = await client.post(f"{jobs}/etl/accept-unreadable", json=body)
        assert (done.status_code, done.json()["Revision"]) == (200, 4)
        again = await client.post(f"{jobs}/etl/accept-unreadable", json=body)
        assert again.json()["Warnings"] == ["that event was already accepted: nothing was written"]
        after = (await client.get(f"{jobs}/etl?wait_for={done.json()['Sequence']}")).json()["Job"]
        assert "Quarantine" not in after
        assert (after["Revision"], after["Priority"]) == (4, 7)
        healed = await client.post(f"{ROOT}/api/v1/view/heal")
        assert healed.json() == {"Jobs": 0, "Changed": 0, "Quarantined": 0}


async def test_a_lost_job_is_refused_over_http(tmp_path: Path) -> None:
    """Its creating event cannot be read: reads and writes report this, and it can be accepted."""
    async with running_api(tmp_path) as (service, client):
        writer = Writer(service.log, ID)
        await writer.write_unknown("jobledger.job.created.v2")
        await service.projector.wait_for(writer.last)
        jobs = f"{ROOT}/api/v1/orchestrator/jobs"
        for answer in (await client.get(f"{jobs}/etl"), await client.delete(f"{jobs}/etl")):
            assert (answer.status_code, answer.json()["Code"]) == (409, "JobQuarantined")
        listed = (await client.get(f"{ROOT}/api/v1/view/quarantine")).json()["Items"]
        assert [each["JobID"] for each in listed] == [ID]
        done = await client.post(f"{jobs}/etl/accept-unreadable", json={"Sequence": writer.last})
        assert done.status_code == 200
        await service.projector.wait_for(done.json()["Sequence"])
        assert (await client.get(f"{jobs}/etl")).status_code == 404
