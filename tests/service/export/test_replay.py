"""An export contains the events of a range of the log, each once, in order, with their revisions."""

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet  # type: ignore[import-untyped]
import pytest

from jobledger import MemoryLog
from jobledger.service.cursor import stream_tag
from jobledger.service.errors import CursorGone, InvalidSettings, OutputFailed
from jobledger.service.export import parquet, sources
from jobledger.service.export.exporter import Export
from jobledger.service.export.output_file import open_output
from jobledger.service.export.query import Chunk, ExportQuery, ExportRange
from jobledger.service.export.sources import LogSource
from jobledger.service.export.text_format import JSONLines
from jobledger.service.limits import REPLAY_CHUNK_EVENTS
from jobledger.store.log import EventLog
from jobledger.store.model.errors import InvalidInput, JobNotFound
from jobledger.store.model.events import JobCreated, JobStateChanged, event_type
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import named_job_id
from tests.support.exports import Kept, exported, write_history
from tests.support.feed_hub import truth_of
from tests.support.histories import append_all, draft, spec_data, state_data

CREATED, STATE = event_type(JobCreated), event_type(JobStateChanged)


def numbers(events: Sequence[dict[str, Any]]) -> list[tuple[int, int, int, str]]:
    return [(int(each["sequence"]), each["revision"], each["version"], each["type"]) for each in events]


async def truth(log: EventLog) -> list[tuple[int, int, int, str]]:
    return [
        (each.sequence, each.status.revision, each.status.version, each.type) for each in await truth_of(log)
    ]


async def test_whole_log_is_exported(log: EventLog) -> None:
    """Every event that changed a job, unchanged, with its position; other records are counted."""
    await write_history(log)
    events, export = await exported(log)
    true = await truth(log)
    assert numbers(events) == true
    assert export.events == len(true)
    assert export.anomalies == 200 - len(true) > 0
    assert export.cursor == f"{stream_tag((await log.info()).epoch)}-200"
    record = await log.read_at(int(events[0]["sequence"]))
    assert record is not None
    written = msgspec.json.decode(record.payload)
    place = ("name", "sequence", "revision", "version", "streamtime")
    assert list(events[0]) == [*written, *place]
    mark = stream_tag((await log.info()).epoch)
    assert {key: events[0][key] for key in written} == written | {"source": f"/jobledger/{mark}"}
    assert [each["name"] for each in events] == [each.status.name for each in await truth_of(log)]
    texts = [each["sequence"] for each in events]
    assert texts == sorted(texts)
    assert {len(each) for each in texts} == {20}


@pytest.mark.parametrize("factor", [0, 500], ids=["job by job", "all that was before"])
@pytest.mark.parametrize("after", [1, 57, 199, 200])
async def test_revisions_do_not_depend_on_the_start(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, after: int, factor: int
) -> None:
    """Nor on how the events before it are read."""
    monkeypatch.setattr(sources, "REPLAY_SCAN_FACTOR", factor)
    await write_history(log)
    true = [each for each in await truth(log) if each[0] > after]
    events, export = await exported(log, after=str(after))
    assert numbers(events) == true
    assert export.anomalies == 200 - after - len(true)
    in_namespace, _ = await exported(log, after=str(after), namespace="default")
    assert numbers(in_namespace) == true


async def test_earlier_events_are_read_only_if_that_is_faster(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the limit all are read, and reported as read; beyond it, only jobs in the range."""
    monkeypatch.setattr(sources, "REPLAY_SCAN_FACTOR", 3)
    await write_history(log)

    async def first_read(after: int) -> int:
        replay = await LogSource.open(log, ExportQuery(after=str(after)), now=time.time_ns())
        async with aclosing(replay.chunks()) as chunks:
            async for chunk in chunks:
                assert chunk.reached >= after
                return chunk.read
        raise AssertionError("no chunk")

    assert await first_read(150) <= 150
    assert await first_read(151) > 151


async def test_resumed_export_loses_and_repeats_nothing(log: EventLog) -> None:
    """Two parts, joined at the cursor, are the whole."""
    await write_history(log)
    first, export = await exported(log, until="90")
    assert export.reached == 90
    second, _ = await exported(log, after=export.cursor)
    assert numbers(first + second) == await truth(log)


async def test_since_and_until_are_inclusive_and_after_is_exclusive(log: EventLog) -> None:
    """For sequences and times."""
    await append_all(
        log, [draft(JobCreated, named_job_id("default", f"{n}"), spec_data(f"{n}"), n) for n in range(9)]
    )
    events, _ = await exported(log)
    stamps = [each["streamtime"] for each in events]

    async def found(**asked: str) -> list[int]:
        return [int(each["sequence"]) for each in (await exported(log, **asked))[0]]

    assert await found(since="3", until="5") == [3, 4, 5]
    assert await found(after="3", until="5") == [4, 5]
    assert await found(since="0", until="0") == []
    assert await found(until="9") == await found() == list(range(1, 10))
    since = [n + 1 for n, stamp in enumerate(stamps) if stamp >= stamps[3]]
    until = [n + 1 for n, stamp in enumerate(stamps) if stamp <= stamps[5]]
    assert await found(since=stamps[3], until=stamps[5]) == sorted({*since} & {*until})
    assert await found(since="1h") == list(range(1, 10))
    assert await found(until="1h") == []


async def test_export_ends_at_the_end_of_the_log_when_it_started(log: EventLog) -> None:
    """Events written meanwhile are not exported; the cursor is after the last exported event."""
    await write_history(log, events=50)
    replay = await LogSource.open(log, ExportQuery(), now=time.time_ns())
    await append_all(log, [draft(JobCreated, named_job_id("default", "late"), spec_data("late"), 999)])
    kept = Kept()
    export = Export(replay.range, kept, lambda _: None)
    await export.run(replay.chunks())
    assert export.reached == 50
    assert all(int(msgspec.json.decode(each)["sequence"]) <= 50 for each in kept.documents)


async def test_filters_do_not_change_revisions(log: EventLog) -> None:
    """Namespace, job, type and actor omit events; the others keep their numbers."""
    jobs = [("a", "one"), ("a", "two"), ("b", "one")]
    drafts = []
    for number, (namespace, name) in enumerate(jobs):
        job_id = named_job_id(namespace, name)
        drafts.append(draft(JobCreated, job_id, spec_data(name, namespace), 10 * number, namespace))
        drafts.append(
            draft(JobStateChanged, job_id, state_data(StateType.RUNNING), 10 * number + 1, namespace)
        )
    await append_all(log, drafts)

    async def found(**asked: Any) -> list[tuple[int, int]]:
        return [(int(each["sequence"]), each["revision"]) for each in (await exported(log, **asked))[0]]

    assert await found(namespace="a") == [(1, 1), (2, 2), (3, 1), (4, 2)]
    assert await found(namespace="a", job="two") == [(3, 1), (4, 2)]
    assert await found(job=named_job_id("b", "one")) == [(5, 1), (6, 2)]
    assert await found(types=frozenset({STATE})) == [(2, 2), (4, 2), (6, 2)]
    assert await found(types=frozenset({STATE}), namespace="b", after="5") == [(6, 2)]
    assert await found(namespace="a", until="1") == [(1, 1)]
    assert await found(actors=frozenset({"tester"}), types=frozenset({CREATED})) == [(1, 1), (3, 1), (5, 1)]
    assert await found(actors=frozenset({"somebody"})) == []
    assert await found(namespace="nobody's") == []
    with pytest.raises(JobNotFound, match="job 'one' not found in namespace 'default'"):
        await exported(log, job="one")


async def test_points_outside_the_log_are_rejected(log: EventLog) -> None:
    """A position of another stream or beyond the end, or a future time."""
    await write_history(log, events=10)
    with pytest.raises(CursorGone, match=r"beyond the end of the log \(last sequence: 10\)"):
        await exported(log, after="11")
    with pytest.raises(CursorGone, match="another stream"):
        await exported(log, after="0123456789ab-3")
    with pytest.raises(InvalidInput, match="until is the sequence 11"):
        await exported(log, until="11")
    with pytest.raises(InvalidInput, match=r"since is .* in the future"):
        await exported(log, since="2999-01-01T00:00:00Z")
    with pytest.raises(InvalidInput, match="a revision needs a job"):
        await exported(log, until="r3")


async def test_empty_log_is_an_empty_export(log: EventLog) -> None:
    """It ends immediately, at sequence 0."""
    events, export = await exported(log)
    assert (events, export.reached) == ([], 0)


async def test_chunks_are_bounded() -> None:
    """However long the log is, at most the limit of events is held in memory."""
    log = MemoryLog()
    count = REPLAY_CHUNK_EVENTS + 1
    spec = spec_data("x")
    job_id = named_job_id("default", "x")
    states = (StateType.QUEUED, StateType.RUNNING)
    drafts = [draft(JobCreated, job_id, spec, 0)]
    drafts += [draft(JobStateChanged, job_id, state_data(states[n % 2]), n) for n in range(1, count)]
    await append_all(log, drafts)
    replay = await LogSource.open(log, ExportQuery(), now=time.time_ns())
    sizes = [len(chunk.documents) async for chunk in replay.chunks()]
    assert max(sizes) <= REPLAY_CHUNK_EVENTS
    assert sum(sizes) == count


async def test_cancelled_export_counts_what_was_written() -> None:
    """The cursor is exactly after what the reader has received."""
    kept = Kept()
    seen = asyncio.Event()

    async def chunks() -> AsyncGenerator[Chunk, None]:
        for sequence in range(1, 4):
            yield Chunk([b"%d" % sequence], sequence)
        seen.set()
        await asyncio.Event().wait()

    export = Export(ExportRange("0123456789ab", 0, 9), kept, lambda _: None)
    running = asyncio.create_task(export.run(chunks()))
    await seen.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (kept.documents, export.cursor) == ([b"1", b"2", b"3"], "0123456789ab-3")


async def test_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    """Until then the old file stays; abandoned, nothing remains; a link stays a link."""
    path = tmp_path / "events.ndjson"
    path.write_text("old\n")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    target = open_output(link)
    JSONLines(target).write([b"{}", b"[]"])
    assert path.read_text() == "old\n"
    target.abandon()
    assert path.read_text() == "old\n"
    assert sorted(tmp_path.iterdir()) == [path, link]
    target = open_output(link)
    JSONLines(target).write([b"{}", b"[]"])
    target.finish()
    assert path.read_text() == "{}\n[]\n"
    assert path.stat().st_mode & 0o777 == 0o640
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [path, link]
    with pytest.raises(OutputFailed, match="No such file or directory; nothing there was changed"):
        open_output(tmp_path / "nowhere" / "x")


@pytest.mark.parametrize(
    ("rows", "size", "groups"),
    [(10, 10**9, [10, 10, 5]), (10**9, 1, [1] * 25), (25, 10**9, [25]), (26, 10**9, [25])],
)
def test_row_groups_of_parquet_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, size: int, groups: list[int]
) -> None:
    """In rows and bytes; the rest is a group, and no row is lost."""
    monkeypatch.setattr(parquet, "PARQUET_GROUP_ROWS", rows)
    monkeypatch.setattr(parquet, "PARQUET_GROUP_BYTES", size)
    path = tmp_path / "events.parquet"
    target = open_output(path)
    form = parquet.Parquet(target)
    document = (
        b'{"type":"t","id":"e","subject":"j","namespace":"n","data":{},"sequence":%d,"revision":1,"version":1,'
        b'"streamtime":"2026-01-31T12:00:00.123456789Z"}'
    )
    documents = [document % number for number in range(24)]
    documents.append(documents[0].replace(b'"sequence":0', b'"name":"x","sequence":"%020d"' % 24))
    form.write(documents[:7])
    form.write(documents[7:])
    form.finish()
    target.finish()
    file = pyarrow.parquet.ParquetFile(path)
    found = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
    assert found == groups
    assert file.read().column("sequence").to_pylist() == list(range(25))
    assert file.read().column("name").to_pylist() == [None] * 24 + ["x"]


async def test_missing_pyarrow_is_an_error_with_the_command_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is an extra."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InvalidSettings, match=r"pip install 'jobledger\[parquet\]'"):
        parquet.Parquet(open_output(tmp_path / "x"))


async def test_export_of_one_namespace_omits_events_of_other_writers(log: EventLog) -> None:
    """A job without a name belongs to the namespace of its creation; other events are counted."""
    job_id = "j-0198c0de-0000-7000-8000-000000000001"
    drafts = [
        draft(JobCreated, job_id, spec_data(job_id, "a"), 1, "a"),
        draft(JobCreated, job_id, spec_data(job_id, "b"), 2, "b"),
        draft(JobStateChanged, job_id, state_data(StateType.RUNNING), 3, "b"),
    ]
    await append_all(log, drafts)
    events, export = await exported(log, namespace="b")
    assert (events, export.anomalies) == ([], 2)
    with pytest.raises(JobNotFound):
        await exported(log, namespace="b", job=job_id)
