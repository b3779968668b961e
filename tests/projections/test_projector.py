"""The view is the fold of the log: catching up, live, after a restart or a rebuild, with two projectors."""

import asyncio
import random
import re
import sqlite3
import threading
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from jobledger import JetStreamLog, Ledger, MemoryLog, Projector, ProjectorState, State, StateType, View
from jobledger.projections import database, limits, projector, writer as viewwriter
from jobledger.projections.batch import Batch
from jobledger.projections.database import Writer, remove_view
from jobledger.projections.errors import WaitTimeout
from jobledger.projections.writer import ViewWriter
from jobledger.store.log import EventLog, PendingEvent
from jobledger.store.model.errors import LogReplaced, LogTruncated
from jobledger.store.model.events import JobCreated
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import job_subject, named_job_id
from tests.conftest import make_spec
from tests.support.histories import append_all, draft, random_drafts, records_of, spec_data
from tests.support.oracle import checkpoint_of, fold_of, project_all, rows_of


@given(seed=st.integers(0, 2**32), jobs=st.integers(1, 12), events=st.integers(1, 120))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_view_equals_the_pure_fold_of_the_log(
    tmp_path_factory: pytest.TempPathFactory, seed: int, jobs: int, events: int
) -> None:
    """For any history and any batches, the rows are those of the plain fold."""
    path = tmp_path_factory.mktemp("view") / "view.db"
    rng = random.Random(seed)

    async def run() -> None:
        log = MemoryLog(clock=lambda: rng.randint(1, 1_000))  # a stream clock that jumps
        drafts = random_drafts(rng, jobs, events)
        cut = rng.randint(0, len(drafts))
        await append_all(log, drafts[:cut])
        await project_all(log, path)
        await append_all(log, drafts[cut:])
        await project_all(log, path)
        records = await records_of(log)
        expected = fold_of(records)
        assert rows_of(path) == expected
        assert checkpoint_of(path)[1:] == (len(records), len(expected["anomalies"]))

    asyncio.run(run())


async def test_the_backlog_is_folded_and_later_events_are_live(log: EventLog, tmp_path: Path) -> None:
    """A projector becomes live, and shows each later event to a reader that waits for it."""
    ledger = Ledger(log)
    for number in range(20):
        await ledger.create(make_spec(f"job-{number}"))
    path = tmp_path / "view.db"
    async with Projector(log, path) as running:
        await running.wait_live()
        assert running.state is ProjectorState.LIVE
        assert running.sequence == 20
        receipt = await ledger.create(make_spec("live"))
        await running.wait_for(receipt.sequence)
        async with await View.open(path) as view:
            job = await view.get(receipt.job_id)
            assert job == await ledger.load(receipt.job_id)
    assert running.error is None


async def test_a_read_that_waits_sees_its_own_write(log: EventLog, tmp_path: Path) -> None:
    """After `wait_for` with the receipt's sequence, the row has the receipt's revision, for every write."""
    ledger = Ledger(log)
    path = tmp_path / "view.db"
    async with Projector(log, path) as running, await View.open(path) as view:
        receipt = await ledger.create(make_spec("mine"))
        for state in (StateType.QUEUED, StateType.RUNNING, StateType.COMPLETED):
            receipt = await ledger.set_state(receipt.job_id, State(state))
            await running.wait_for(receipt.sequence)
            status = (await view.get(receipt.job_id)).status
            assert (status.revision, status.state.state_type) == (receipt.revision, state)


async def test_a_restart_continues_from_the_checkpoint(tmp_path: Path) -> None:
    """A second run folds only new events, and the rows are those of one run."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(1), 5, 50))
    await project_all(log, tmp_path / "twice.db")
    await append_all(log, [draft(JobCreated, named_job_id("default", "late"), spec_data("late"), 999)])
    async with Projector(log, tmp_path / "twice.db") as running:
        assert running.sequence == 50
        await running.wait_for(51)
    assert rows_of(tmp_path / "twice.db") == fold_of(await records_of(log))


async def test_two_projectors_on_one_file_end_with_the_same_rows(tmp_path: Path) -> None:
    """The guard lets one win each batch; the other one continues after it; nothing is folded twice."""
    log = MemoryLog()
    drafts = random_drafts(random.Random(2), 8, 400)
    path = tmp_path / "view.db"
    async with Projector(log, path) as one, Projector(log, path) as two:
        for start in range(0, 400, 10):
            await append_all(log, drafts[start : start + 10])
        await asyncio.gather(one.wait_for(400, 30), two.wait_for(400, 30))
        assert one.error is None
        assert two.error is None
    assert rows_of(path) == fold_of(await records_of(log))


async def test_a_deleted_view_is_rebuilt_byte_for_byte(tmp_path: Path) -> None:
    """Delete the file and project again: the digest of all rows is the same."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(3), 10, 200))
    path = tmp_path / "view.db"
    digests = []
    for _ in range(2):
        await project_all(log, path)
        async with await View.open(path) as view:
            digests.append(await view.digest())
        remove_view(path)
    assert digests[0] == digests[1]


async def test_replicas_hold_the_same_rows_whatever_their_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of one event and batches of all events give the same digest."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(4), 10, 300))
    digests = set()
    for size in (1, 7, 300):
        monkeypatch.setattr(projector, "COMMIT_MAX_EVENTS", size)
        path = tmp_path / f"{size}.db"
        await project_all(log, path)
        async with await View.open(path) as view:
            digests.add(await view.digest())
    assert len(digests) == 1


async def test_a_small_status_cache_changes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Statuses that were evicted are read from the view."""
    monkeypatch.setattr(viewwriter, "FOLD_CACHE_JOBS", 2)
    monkeypatch.setattr(viewwriter, "LOOKUP_CHUNK", 3)
    monkeypatch.setattr(projector, "COMMIT_MAX_EVENTS", 5)
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(5), 20, 300))
    path = tmp_path / "view.db"
    async with Projector(log, path) as running:
        await running.wait_for(300, 30)
        assert len(running._writer._statuses) <= 2
    assert rows_of(path) == fold_of(await records_of(log))


async def test_the_sizes_of_statements_change_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are divided into statements of a power of two of rows, one row at least."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(7), 20, 300))
    expected = fold_of(await records_of(log))
    for parameters in (1, 64, 20_480):
        monkeypatch.setattr(database, "PARAMETERS_PER_STATEMENT", parameters)
        path = tmp_path / f"{parameters}.db"
        await project_all(log, path)
        assert rows_of(path) == expected


async def test_a_statement_has_at_most_the_parameters_that_sqlite_accepts() -> None:
    """The widest row times the most rows stays below the limit of the library in use."""
    with closing(sqlite3.connect(":memory:")) as connection:
        most = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
    assert most >= limits.PARAMETERS_PER_STATEMENT


async def test_statuses_are_read_while_a_batch_is_being_written(tmp_path: Path) -> None:
    """The next batch is folded meanwhile: it sees what is committed, and what `remember` was given."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(8), 5, 50))
    path = tmp_path / "view.db"
    await project_all(log, path)
    ids = [record.subject.rpartition(".")[2] for record in await records_of(log)]
    writer = await ViewWriter.open(path, tree=True)
    try:
        known = await writer.statuses(ids)
        assert len(known) == 5
        async with writer._writer.transaction():
            await writer._writer.execute("DELETE FROM jobs")
            writer._writer._connection._tx.put_nowait((None, (held := threading.Event()).wait))
            try:
                assert await writer.statuses(ids) == known
            finally:
                held.set()
    finally:
        await writer.close()


async def test_a_few_statuses_are_read_without_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to LOOKUP_ON_LOOP_MAX ids, a busy thread of the reading connection delays nothing."""
    monkeypatch.setattr(viewwriter, "LOOKUP_ON_LOOP_MAX", 3)
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(8), 4, 40))
    path = tmp_path / "view.db"
    await project_all(log, path)
    ids = sorted({record.subject.rpartition(".")[2] for record in await records_of(log)})
    writer = await ViewWriter.open(path, tree=True)
    try:
        reader: Any = writer._lookups
        reader._connection._tx.put_nowait((None, (held := threading.Event()).wait))
        try:
            assert set(await writer.statuses(ids[:3])) == set(ids[:3])
            four = asyncio.create_task(writer.statuses(ids))
            await asyncio.sleep(0)
            assert not four.done()
        finally:
            held.set()
        assert set(await four) == set(ids)
    finally:
        await writer.close()


async def test_commits_continue_during_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From CHECKPOINT_ROWS on it runs on another connection; afterwards SQLite reuses the write-ahead log."""
    monkeypatch.setattr(database, "CHECKPOINT_ROWS", 10)
    path = tmp_path / "view.db"
    writer = await Writer.open(path)
    wal = tmp_path / "view.db-wal"
    insert = "INSERT INTO filler VALUES {values}"

    async def commit(rows: int) -> None:
        assert await writer.commit(("UPDATE one SET at = at + 1", ()), [(insert, [("x" * 4_000,)] * rows)])

    def running() -> asyncio.Task[None] | None:
        return writer._checkpoint_task

    try:
        await writer.execute("CREATE TABLE one (at)")
        await writer.execute("INSERT INTO one VALUES (1)")
        await writer.execute("CREATE TABLE filler (text)")
        await commit(8)  # and the guard's row
        assert running() is None
        checkpoints: Any = writer._checkpoints
        checkpoints._tx.put_nowait((None, (held := threading.Event()).wait))
        try:
            await commit(0)  # the guard's row alone
            checkpoint = running()
            assert checkpoint is not None
            for _ in range(20):
                await commit(10)
            assert running() is checkpoint
        finally:
            held.set()
        await checkpoint
        grown = wal.stat().st_size
        assert path.stat().st_size > 200 * 4_000  # all of it is in the file
        await commit(8)
        assert wal.stat().st_size == grown
    finally:
        await writer.close()


@pytest.mark.parametrize("events", [49, 50])
async def test_limits_of_catching_up_end_when_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: int
) -> None:
    """A long way behind the log the page cache is larger and checkpoints are rare; then as usual again."""
    monkeypatch.setattr(projector, "CATCH_UP_MIN_EVENTS", 50)
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(9), 5, events))
    seen: list[tuple[int, int]] = []
    write = ViewWriter.write

    async def recording(self: ViewWriter, batch: Batch) -> None:
        seen.append(await limits_of(self))
        await write(self, batch)

    async def limits_of(view: ViewWriter) -> tuple[int, int]:
        [(cache,)] = await view._writer.rows("PRAGMA cache_size")
        [(pages,)] = await view._writer.rows("PRAGMA wal_autocheckpoint")
        return -cache * 1024, pages

    monkeypatch.setattr(ViewWriter, "write", recording)
    usual = (limits.PAGE_CACHE_BYTES, limits.WAL_CHECKPOINT_PAGES)
    larger = (limits.CATCH_UP_PAGE_CACHE_BYTES, limits.CATCH_UP_CHECKPOINT_PAGES)
    async with Projector(log, tmp_path / "view.db") as running:
        await running.wait_live()
        assert set(seen) == {usual if events < 50 else larger}
        assert await limits_of(running._writer) == usual


async def test_a_transaction_is_bounded_in_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Payloads above the limit are split over transactions; a larger one has its own transaction."""
    monkeypatch.setattr(projector, "COMMIT_MAX_BYTES", 2_000)
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(6), 10, 100))
    records = await records_of(log)
    chunks = projector._chunks(records)
    assert [record for chunk in chunks for record in chunk] == records
    assert len(chunks) > 1
    assert all(len(chunk) == 1 or sum(len(r.payload) for r in chunk) <= 2_000 for chunk in chunks)
    path = tmp_path / "view.db"
    await project_all(log, path)
    assert rows_of(path) == fold_of(records)


async def test_anomalies_are_all_counted_and_some_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of anomalies stop at the limit, also across batches; the count continues."""
    monkeypatch.setattr(viewwriter, "ANOMALIES_KEPT", 3)
    monkeypatch.setattr(projector, "COMMIT_MAX_EVENTS", 2)
    log = MemoryLog()
    subject = job_subject("default", named_job_id("default", "x"))
    await append_all(log, [PendingEvent(subject, f"g{number}", b"junk") for number in range(5)])
    path = tmp_path / "view.db"
    await project_all(log, path)
    assert checkpoint_of(path)[1:] == (5, 5)
    assert [row[0] for row in rows_of(path)["anomalies"]] == [1, 2, 3]
    assert limits.ANOMALIES_KEPT >= 1_000


async def test_an_event_type_of_a_newer_release_quarantines_its_job(tmp_path: Path) -> None:
    """The job's row has the sequence and the reason; other jobs continue."""
    log = MemoryLog()
    good = draft(JobCreated, named_job_id("default", "a"), spec_data("a"), 1)
    newer = PendingEvent(good.subject, "n2", good.payload.replace(b"job.created.v1", b"job.created.v9"))
    other = draft(JobCreated, named_job_id("default", "b"), spec_data("b"), 3)
    await append_all(log, [good, newer, other])
    path = tmp_path / "view.db"
    await project_all(log, path)
    assert checkpoint_of(path)[1:] == (3, 0)
    async with await View.open(path) as view:
        frozen = (await view.get("a")).status.quarantine
        assert frozen is not None
        assert frozen.sequence == 2
        assert re.search(r"event 2 .*job\.created\.v9.*upgrade", frozen.reason)
        assert (await view.get("b")).status.quarantine is None


async def test_a_replaced_log_is_refused(tmp_path: Path) -> None:
    """A view of another log is not extended; the message has the remedy."""
    first, second = MemoryLog(), MemoryLog()
    await append_all(first, random_drafts(random.Random(7), 3, 10))
    await append_all(second, random_drafts(random.Random(8), 3, 20))
    path = tmp_path / "view.db"
    await project_all(first, path)
    with pytest.raises(LogReplaced, match="delete the view's file"):
        await Projector(second, path).start()


async def test_a_truncated_log_is_refused(tmp_path: Path) -> None:
    """A log that ends before the checkpoint has lost events; the message has the numbers."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(9), 3, 10))
    path = tmp_path / "view.db"
    await project_all(log, path)
    del log._records[6:]
    with pytest.raises(LogTruncated, match="ends at 6, and 10 was read"):
        await Projector(log, path).start()


async def test_waiting_for_a_missing_event_times_out_with_the_position(tmp_path: Path) -> None:
    """The error has the sequences."""
    async with Projector(MemoryLog(), tmp_path / "view.db") as running:
        await running.wait_live()
        with pytest.raises(WaitTimeout, match=r"is at 0 \(live\) and did not reach event 1"):
            await running.wait_for(1, timeout_seconds=0.01)


async def test_a_stop_in_the_middle_of_a_transaction_lets_it_finish(tmp_path: Path) -> None:
    """Whenever it is stopped, the rows are the fold of exactly the events up to the checkpoint."""
    log = MemoryLog()
    await append_all(log, random_drafts(random.Random(10), 10, 300))
    records = await records_of(log)
    path = tmp_path / "view.db"
    while True:
        running = await Projector(log, path).start()
        await running.wait_for(min(running.sequence + 1, 300))
        await running.stop()
        sequence = checkpoint_of(path)[1]
        assert rows_of(path) == fold_of(records[:sequence])
        if sequence == 300:
            break


async def test_a_projector_survives_an_outage_of_the_log(
    jetstream_log: JetStreamLog, tmp_path: Path, server: object
) -> None:
    """The server is killed and restarted; the projector continues without a gap or a repeat."""
    import os
    import signal

    from jobledger import EmbeddedServer

    assert isinstance(server, EmbeddedServer)
    ledger = Ledger(jetstream_log)
    path = tmp_path / "view.db"
    async with Projector(jetstream_log, path) as running:
        receipt = await ledger.create(make_spec("before"))
        await running.wait_for(receipt.sequence)
        os.kill(server.pid, signal.SIGKILL)
        receipt = await ledger.set_state(receipt.job_id, State(StateType.RUNNING))
        await running.wait_for(receipt.sequence, timeout_seconds=30)
        assert running.error is None
    assert rows_of(path) == fold_of(await records_of(jetstream_log))


class RowsAtEachReport:
    """Reads the view's file, and the projector's sequence, whenever rows are reported."""

    def __init__(self, path: Path, running: Projector) -> None:
        self.seen: list[tuple[str, str, int]] = []
        self._file = sqlite3.connect(path)
        self._running = running
        self._names: list[str] = []

    def changing(self, statuses: Iterable[JobStatus] | None) -> None:
        self._names = [] if statuses is None else [status.name for status in statuses]
        self._note("changing")

    def settled(self) -> None:
        self._note("settled")

    def _note(self, what: str) -> None:
        for name in self._names:
            row = self._file.execute("SELECT state FROM jobs WHERE name = ?", (name,)).fetchone()
            self.seen.append((what, row[0] if row else "", self._running.sequence))

    def close(self) -> None:
        self._file.close()


async def test_rows_are_reported_before_they_change_and_when_they_are_visible(tmp_path: Path) -> None:
    """Between the two reports, the file and the sequence change; nothing else changes them."""
    log = MemoryLog()
    ledger = Ledger(log)
    async with Projector(log, tmp_path / "view.db") as running:
        await running.wait_live()
        with closing(RowsAtEachReport(tmp_path / "view.db", running)) as watcher:
            running.watch_rows(watcher)
            receipt = await ledger.create(make_spec("mine"))
            await running.wait_for(1)
            await ledger.set_state(receipt.job_id, State(StateType.RUNNING))
            await running.wait_for(2)
        assert watcher.seen == [
            ("changing", "", 0),
            ("settled", "Pending", 1),
            ("changing", "Pending", 1),
            ("settled", "Running", 2),
        ]


async def test_a_file_that_another_projector_moved_is_reported_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not say which of its rows changed."""
    log = MemoryLog()
    path = tmp_path / "view.db"
    reports: list[bool] = []

    class Watcher:
        def changing(self, statuses: Iterable[JobStatus] | None) -> None:
            reports.append(statuses is None)

        def settled(self) -> None: ...

    async with Projector(log, path) as one, Projector(log, path) as two:
        one.watch_rows(Watcher())
        reports.clear()
        writer = one._writer
        write = writer.write

        async def write_second(batch: Batch) -> None:
            await two.wait_for(batch.last_sequence)
            await write(batch)

        monkeypatch.setattr(writer, "write", write_second)
        await append_all(log, random_drafts(random.Random(4), 8, 20))
        await one.wait_for(20)
        assert reports[:2] == [False, True]
