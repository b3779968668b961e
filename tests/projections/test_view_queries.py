"""Queries of the view about one job and about itself. Lists are in `test_view_lists.py`."""

import asyncio
from pathlib import Path

import pytest

from jobledger.projections import view_diff as digest
from jobledger.projections.errors import (
    AmbiguousId,
    VersionNotFound,
    ViewError,
    ViewFromNewerRelease,
    ViewMissing,
    WaitTimeout,
)
from jobledger.projections.limits import CANDIDATES_SHOWN, LIST_MAX_LIMIT, READERS_MAX, WAIT_MAX_SECONDS
from jobledger.projections.query.query import ListQuery
from jobledger.projections.rows import STATUS_COLUMNS, encode_details, job_of, status_of
from jobledger.projections.view import View
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.job import State, StateType
from tests.support.view_file import ViewFile

NAMELESS = "j-01890000-0000-7000-8000-00000000000a"


# --- opening ------------------------------------------------------------------------------------------------


async def test_a_view_without_a_file_is_missing(tmp_path: Path) -> None:
    """The error says to start a projector."""
    with pytest.raises(ViewMissing, match="projector"):
        await View.open(tmp_path / "none.db")


@pytest.mark.parametrize("sql", ["DROP TABLE labels", "DELETE FROM checkpoint", "DELETE FROM migrations"])
async def test_a_view_that_no_projector_finished_is_missing(file: ViewFile, sql: str) -> None:
    """A file without all tables and a checkpoint is not a view yet."""
    file.execute(sql)
    with pytest.raises(ViewMissing, match="projector"):
        await View.open(file.path)


async def test_a_view_of_another_release_is_refused(file: ViewFile) -> None:
    """A newer and an older schema have different errors, before any query fails."""
    file.execute("INSERT INTO migrations VALUES (9999, 'later')")
    with pytest.raises(ViewFromNewerRelease):
        await View.open(file.path)
    file.execute("DELETE FROM migrations")
    file.execute("INSERT INTO migrations VALUES (0, 'earlier')")
    with pytest.raises(ViewError, match="older"):
        await View.open(file.path)


@pytest.mark.parametrize("readers", [0, READERS_MAX + 1])
async def test_the_number_of_readers_is_bounded(file: ViewFile, readers: int) -> None:
    """From one to the limit, inclusive."""
    with pytest.raises(InvalidInput, match="readers"):
        await View.open(file.path, readers=readers)
    await (await View.open(file.path, readers=READERS_MAX)).close()


async def test_reads_of_a_closed_view_are_refused(file: ViewFile) -> None:
    """Closing twice is harmless; a read afterwards raises ViewError."""
    view = await View.open(file.path)
    await view.close()
    await view.close()
    for asked in (view.checkpoint(), view.list()):
        with pytest.raises(ViewError, match="closed"):
            await asked


async def test_many_reads_at_once_are_all_answered(file: ViewFile, view: View) -> None:
    """More callers than readers only wait for each other."""
    ids = [file.add(sequence) for sequence in range(1, 41)]
    jobs, pages = await asyncio.gather(
        asyncio.gather(*(view.get(job_id) for job_id in ids * 5)),
        asyncio.gather(*(view.list() for _ in range(10))),
    )
    assert [job.status.id for job in jobs] == ids * 5
    assert all(len(page.jobs) == 40 for page in pages)


# --- one job ------------------------------------------------------------------------------------------------


async def test_a_job_is_found_by_id_name_and_short_id(file: ViewFile, view: View) -> None:
    """All three lead to the same job, with its spec."""
    job_id = file.add(7, "train")
    found = [await view.get(ref) for ref in (job_id, "train", job_id[:10])]
    found += [await view.get_by_id(job_id), await view.get_by_name("default", "train")]
    found.append(await view.get_by_name("", "train"))
    assert {job.status.id for job in found} == {job_id}
    assert {job.spec for job in found} == {b'{"v":1}'}


async def test_an_id_is_found_in_any_namespace_a_name_only_in_its_own(file: ViewFile, view: View) -> None:
    """An id names one job; the same name in two namespaces is two jobs."""
    first, second = file.add(1, "x", namespace="a"), file.add(2, "x", namespace="b")
    assert (await view.get(first, namespace="b")).status.id == first
    assert (await view.get("x", namespace="a")).status.id == first
    assert (await view.get("x", namespace="b")).status.id == second
    for asked in (view.get("x"), view.get("x", namespace="c"), view.get_by_name("c", "x")):
        with pytest.raises(JobNotFound):
            await asked


async def test_a_name_is_case_sensitive_and_may_hold_anything(file: ViewFile, view: View) -> None:
    """Names are compared exactly."""
    job_id = file.add(1, "My-job_1.2 %'\"ü")
    assert (await view.get("My-job_1.2 %'\"ü")).status.id == job_id
    with pytest.raises(JobNotFound):
        await view.get("my-job_1.2 %'\"ü")


async def test_a_name_takes_precedence_over_the_id_of_another_job(file: ViewFile, view: View) -> None:
    """Only in its own namespace."""
    other = file.add(1, "other")
    named = file.add(2, other)
    assert (await view.get(other)).status.id == named
    assert (await view.get(other, namespace="elsewhere")).status.id == other
    assert (await view.get_by_id(other)).status.id == other
    assert (await view.get_by_name("default", other)).status.id == named


async def test_an_unnamed_job_is_found_by_its_id_as_name(file: ViewFile, view: View) -> None:
    """Its id is its name, in its namespace."""
    file.add(1, job_id=NAMELESS, namespace="a")
    assert (await view.get(NAMELESS)).status.id == NAMELESS
    assert (await view.get_by_name("a", NAMELESS)).status.id == NAMELESS
    with pytest.raises(JobNotFound):
        await view.get_by_name("default", NAMELESS)


async def test_an_exact_id_is_never_a_prefix(file: ViewFile, view: View) -> None:
    """An id that is a prefix of another one is found; a full id that no job has is not tried as a prefix."""
    file.add(1, job_id="j-abcdef")
    file.add(2, job_id="j-abcdef01")
    file.add(3, job_id=f"{NAMELESS}0")
    assert (await view.get("j-abcdef")).status.created_sequence == 1
    with pytest.raises(JobNotFound):
        await view.get(NAMELESS)


async def test_a_job_of_an_invisible_namespace_is_not_found(file: ViewFile, view: View) -> None:
    """By id, name and short id; it neither makes a short id ambiguous nor is it a candidate."""
    other = file.add(1, "secret", namespace="other")
    mine = file.add(2, job_id=f"{other[:8]}{'x' * 30}", namespace="mine")
    assert (await view.get(other[:8], visible=frozenset({"mine"}))).status.id == mine
    for ref in (other, other[:9], "secret"):
        assert (await view.get(ref, namespace="other")).status.id == other
        with pytest.raises(JobNotFound):
            await view.get(ref, namespace="other", visible=frozenset({"mine"}))
    with pytest.raises(JobNotFound):
        await view.get(other[:8], visible=frozenset())


async def test_a_short_id_of_several_jobs_is_ambiguous(file: ViewFile, view: View) -> None:
    """The error has the first candidates, in order, up to the limit."""
    ids = [file.add(number, job_id=f"j-aa{number:034}") for number in range(1, CANDIDATES_SHOWN + 2)]
    with pytest.raises(AmbiguousId, match="…") as caught:
        await view.get("j-aa")
    assert caught.value.candidates == tuple(ids[:CANDIDATES_SHOWN])
    file.execute("DELETE FROM jobs WHERE created_sequence > 2")
    with pytest.raises(AmbiguousId) as caught:
        await view.get("j-aa")
    assert caught.value.candidates == tuple(ids[:2])


@pytest.mark.parametrize(
    "ref", ["", "j-", "J-ABC", "abc", "j-ab%", "j-ab_", "j-abé", "x\0y", "\ud800", "j-\0", "j" * 9999]
)
async def test_an_invalid_reference_is_not_found(file: ViewFile, view: View, ref: str) -> None:
    """Too short, without `j-`, with wildcards or text that no job can have: never an error of SQLite."""
    file.add(1, job_id="j-abc")
    for asked in (view.get(ref), view.get_by_id(ref), view.get_by_name("default", ref), view.version(ref, 1)):
        with pytest.raises(JobNotFound):
            await asked
    with pytest.raises(JobNotFound):
        await view.get_by_name(ref or "none", "job-1")


async def test_a_short_id_needs_one_character_of_the_id(file: ViewFile, view: View) -> None:
    """`j-a` is the shortest."""
    job_id = file.add(1, job_id="j-abc")
    assert (await view.get("j-a")).status.id == job_id


async def test_a_status_round_trips_through_its_row(file: ViewFile, view: View) -> None:
    """Details are written in sorted order."""
    state = State(state_type=StateType.FAILED, message="böse", details={"b": "2", "a": "1\0"})
    job_id = file.add(5, state=state, modified=9)
    status = (await view.get(job_id)).status
    assert status.state == state
    assert (status.create_time, status.modify_time) == (5, 9)
    assert encode_details(state) == '{"a":"1\\u0000","b":"2"}'
    [row] = file.execute(f"SELECT {', '.join(STATUS_COLUMNS)}, x'' FROM jobs")
    assert status_of(row) == job_of(row).status == status


# --- versions -----------------------------------------------------------------------------------------------


async def test_every_version_of_a_spec_is_kept(file: ViewFile, view: View) -> None:
    """Each by its number, and all in ascending order, page by page."""
    job_id = file.add(1)
    for version in (2, 3):
        file.add_spec(1, version * 10, version)
    file.execute("UPDATE jobs SET version = 3, revision = 3")
    assert (await view.version(job_id, 2)).spec == b'{"v":2}'
    assert [item.version for item in await view.versions(job_id)] == [1, 2, 3]
    assert [item.sequence for item in await view.versions(job_id, after=1, limit=1)] == [20]
    assert await view.versions(job_id, after=2**64) == ()


@pytest.mark.parametrize("version", [-1, 0, 2, 2**63 - 1, 2**63, 2**64 - 1])
async def test_a_missing_version_is_not_found(file: ViewFile, view: View, version: int) -> None:
    """For any number; a missing job has another error."""
    job_id = file.add(1)
    with pytest.raises(VersionNotFound):
        await view.version(job_id, version)
    for asked in (view.version("j-none", version), view.versions("j-none")):
        with pytest.raises(JobNotFound) as caught:
            await asked
        assert not isinstance(caught.value, VersionNotFound)


@pytest.mark.parametrize("limit", [0, LIST_MAX_LIMIT + 1])
async def test_page_limits_are_bounded(file: ViewFile, view: View, limit: int) -> None:
    """Versions, anomalies and jobs: from one to the limit, inclusive."""
    job_id = file.add(1)
    for asked in (view.versions(job_id, limit=limit), view.anomalies(limit=limit)):
        with pytest.raises(InvalidInput, match="limit"):
            await asked
    with pytest.raises(InvalidInput, match="limit"):
        ListQuery(limit=limit)
    assert len(await view.versions(job_id, limit=LIST_MAX_LIMIT)) == 1
    assert len((await view.list(ListQuery(limit=LIST_MAX_LIMIT))).jobs) == 1


# --- the view itself ----------------------------------------------------------------------------------------


async def test_the_checkpoint_and_the_anomalies_are_readable(file: ViewFile, view: View) -> None:
    """The position, the log, and the anomalies, oldest first."""
    file.execute("UPDATE checkpoint SET sequence = 9, anomalies = 2")
    file.execute("INSERT INTO anomalies VALUES (8, 'j-b', 'two'), (3, 'j-a', 'one')")
    checkpoint = await view.checkpoint()
    assert (checkpoint.epoch, checkpoint.sequence, checkpoint.anomalies) == ("epoch", 9, 2)
    assert [anomaly.reason for anomaly in await view.anomalies()] == ["one", "two"]
    assert [anomaly.reason for anomaly in await view.anomalies(after=3, limit=1)] == ["two"]


async def test_waiting_ends_when_another_connection_gets_there(file: ViewFile, view: View) -> None:
    """A reader in another process sees the projector's commit."""
    waiting = asyncio.create_task(view.wait_for(5, timeout_seconds=30))
    await view.checkpoint()
    assert not waiting.done()
    file.checkpoint(5)
    await waiting
    await view.wait_for(5, timeout_seconds=0)


async def test_a_wait_times_out_with_the_sequence_reached(file: ViewFile, view: View) -> None:
    """The error has the requested sequence and the current one."""
    file.checkpoint(3)
    for timeout in (0, 0.02):
        with pytest.raises(WaitTimeout, match=r"is at 3 .* reach 4 "):
            await view.wait_for(4, timeout_seconds=timeout)


async def test_a_wait_is_bounded(view: View) -> None:
    """A negative sequence, and a timeout outside the limits, are refused."""
    await view.wait_for(0, timeout_seconds=WAIT_MAX_SECONDS)
    for sequence, timeout in ((-1, 0.0), (0, WAIT_MAX_SECONDS + 0.1), (0, -0.1), (0, float("nan"))):
        with pytest.raises(InvalidInput):
            await view.wait_for(sequence, timeout_seconds=timeout)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE jobs SET message = 'x' WHERE created_sequence = 2",
        "UPDATE jobs SET priority = 1 WHERE created_sequence = 2",
        "UPDATE specs SET spec = x'00' WHERE sequence = 1",
        "UPDATE labels SET value = 'other'",
        "DELETE FROM labels",
        "INSERT INTO anomalies VALUES (1, '', '')",
        "UPDATE checkpoint SET anomalies = 1",
        "UPDATE checkpoint SET sequence = 77",
    ],
)
async def test_the_digest_detects_one_changed_cell(
    file: ViewFile, view: View, sql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not depend on how the rows are chunked."""
    for sequence in range(1, 6):
        file.add(sequence, labels={"k": "v", "l": "w"} if sequence < 4 else {})
    before = await view.digest()
    tables = tuple(table._replace(chunk_rows=2) for table in digest.TABLES)
    with monkeypatch.context() as patch:
        patch.setattr(digest, "TABLES", tables)
        assert await view.digest() == before
    file.execute("UPDATE checkpoint SET epoch = 'another', projection = 2")
    assert await view.digest() == before
    file.execute(sql)
    assert await view.digest() != before


async def test_counts_have_every_state(file: ViewFile, view: View) -> None:
    """All six states, including zeros, of one namespace or of all."""
    file.add(1, state=StateType.RUNNING)
    file.add(2, state=StateType.RUNNING, namespace="a")
    file.add(3, state=StateType.FAILED, namespace="a")
    zero = dict.fromkeys(StateType, 0)
    assert await view.counts() == zero | {StateType.RUNNING: 2, StateType.FAILED: 1}
    assert await view.counts("a") == zero | {StateType.RUNNING: 1, StateType.FAILED: 1}
    assert await view.counts("none") == await view.counts("\ud800") == zero
