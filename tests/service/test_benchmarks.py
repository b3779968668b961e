"""The benchmarks measure the documented cases, report them in one format and leave no files."""

import json
import math
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from benchmarks import (
    append,
    as_of,
    audit,
    export,
    feed,
    harness,
    http,
    memory,
    neighbor,
    projection,
    reads,
    subscription,
    ui,
)
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.harness import BOUNDS, Bound, Case, Output, judge, percentile, table, take_turns
from benchmarks.peers import run as peers
from benchmarks.peers.ours import open_jobledger
from benchmarks.peers.peer import Store
from benchmarks.sizes import FULL, QUICK, Load, Sizes
from benchmarks.workload import created_payload, state_payload
from jobledger.store.ledger import new_event_id
from jobledger.store.model.job import StateType

TINY = Sizes(
    rounds=2,
    append={"append/always/256": Load(300, 300), "append/always/1": Load(5, 5)},
    create=Load(300, 300),
    set_state=Load(100, 300),
    project_jobs=60,
    large_jobs=120,
    new_jobs=8,
    hot_jobs=40,
    live_rate=100,
    live_round_seconds=0.2,
    read_small_jobs=100,
    read_large_jobs=300,
    read_calls=10,
    memory_jobs=200,
    memory_every=50,
    http_get=Load(30, 30),
    http_put=Load(100, 100),
    http_pages=5,
    http_small_jobs=100,
    http_large_jobs=200,
    neighbor_jobs=300,
    neighbor_versions=3,
    neighbor_writes=10,
    feed_rate=50,
    feed_readers=5,
    feed_round_seconds=0.2,
    replay_jobs=60,
    replay_rounds=2,
    subscribe_jobs=60,
    asof_jobs=120,
    asof_calls=10,
    audit_jobs=50,
    audit_calls=5,
    disk_space_jobs=20,
    peers_jobs=60,
    peers_round_seconds=0.02,
)

DOCUMENTED_BOUNDS = {
    "append/always/256": ">= 8",
    "append/always/64": ">= 4",
    "append/always/16": ">= 2.5",
    "append/always/1": ">= 0.8",
    "append/2m/256": ">= 1.3",
    "create/always/256": ">= 3",
    "set_state/always/64": ">= 3.5",
    "project/fetch": ">= 1.4",
    "project/sqlite3": ">= 0.6",
    "project/large": ">= 0.5",
    "project/new": ">= 0.8",
    "tree/project": ">= 0.85",
    "live/p50": "<= 2",
    "live/p99": "<= 10",
    "read/get": ">= 0.7",
    "read/get/large": "<= 2",
    "read/page/common/large": "<= 2",
    "read/page/rare/large": "<= 2",
    "memory/most": "<= 300",
    "memory/flat": "<= 1.1",
    "http/get": ">= 0.65",
    "http/put": ">= 0.5",
    "http/page/large": "<= 2",
    "neighbor/p50": "<= 3",
    "neighbor/p99": "<= 3",
    "feed/p99": "<= 100",
    "replay/pull": ">= 0.8",
    "replay/most": "<= 300",
    "replay/flat": "<= 1.1",
    "subscribe/pull": ">= 1.2",
    "asof/job": "<= 5",
    "asof/first": "<= 15",
    "asof/built": "<= 15",
    "asof/first/alive": "<= 15",
    "asof/built/alive": "<= 15",
    "asof/created": "<= 1",
    "asof/created/alive": "<= 1",
    "asof/near": "<= 2000",
    "audit/proof": "<= 20",
    "ui/first": "<= 300",
    "ui/list/large": "<= 2",
    "ui/filter/large": "<= 300",
}


WITHOUT_BASELINE = {"live", "asof", "audit"}


def test_every_case_has_its_documented_bound() -> None:
    """Each documented case is measured, against the documented limit."""
    assert {key: str(bound) for key, bound in BOUNDS.items()} == DOCUMENTED_BOUNDS
    assert [*dict.fromkeys(key.partition("/")[0] for key in BOUNDS)] == [*BENCHMARKS]


def test_the_full_sizes_are_the_documented_ones() -> None:
    """Documented sizes are measured; quick runs are smaller, with enough rounds."""
    assert (FULL.project_jobs * 4, FULL.large_jobs, FULL.hot_jobs) == (200_000, 1_000_000, 50_000)
    assert (FULL.read_small_jobs, FULL.read_large_jobs) == (10_000, 1_000_000)
    assert FULL.memory_jobs == 1_000_000
    assert FULL.replay_jobs * 4 == 1_000_000
    assert (FULL.feed_rate, FULL.feed_readers) == (100, 1_000)
    assert (FULL.http_small_jobs, FULL.http_large_jobs) == (10_000, 1_000_000)
    assert {*FULL.append} == {*QUICK.append} == {key for key in BOUNDS if key.startswith("append")}
    for sizes in (FULL, QUICK):
        assert sizes.rounds >= 5
        assert sizes.live_rate == 1_000
        assert sizes.rounds * sizes.live_round_seconds >= 5


def test_the_payloads_have_the_documented_size() -> None:
    """A spec event of about 900 bytes; a state event is little more than its envelope."""
    assert 850 <= len(created_payload(7, new_event_id())) <= 950
    assert 200 <= len(state_payload(7, new_event_id(), StateType.RUNNING)) <= 330


@pytest.mark.parametrize(
    ("run", "cases"),
    [
        pytest.param(append.run, 2, marks=pytest.mark.slow),
        (append.run_create, 1),
        pytest.param(append.run_set_state, 1, marks=pytest.mark.slow),
        pytest.param(projection.run, 4, marks=pytest.mark.slow),
        pytest.param(projection.run_tree, 1, marks=pytest.mark.slow),
        (projection.run_live, 2),
        pytest.param(reads.run, 4, marks=pytest.mark.slow),
        pytest.param(memory.run, 2, marks=pytest.mark.slow),
        pytest.param(http.run, 3, marks=pytest.mark.slow),
        pytest.param(neighbor.run, 14, marks=pytest.mark.slow),
        pytest.param(feed.run, 1, marks=pytest.mark.slow),
        pytest.param(export.run, 3, marks=pytest.mark.slow),
        pytest.param(subscription.run, 1, marks=pytest.mark.slow),
        pytest.param(as_of.run, 8, marks=pytest.mark.slow),
        (audit.run, 1),
        pytest.param(ui.run, 3, marks=pytest.mark.slow),
    ],
    ids=[*BENCHMARKS],
)
async def test_every_benchmark_prints_its_cases_as_json(
    run: Callable[..., object],
    cases: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One object per case and line, with exactly the documented keys, and numbers as values."""
    monkeypatch.setattr(
        projection, "_SHARE_ON_TIME", 0.0
    )  # other tests run at the same time; nothing is measured here
    output = Output(as_json=True)
    await run(TINY, output)  # type: ignore[misc]  # each is a coroutine function
    output.finish()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == cases
    for line in lines:
        assert [*json.loads(line)] == [
            "name",
            "case",
            "value",
            "unit",
            "baseline",
            "ratio",
            "spread",
            "bound",
            "ok",
        ]
        case = msgspec.json.decode(line, type=Case)
        assert case.name in BENCHMARKS
        assert case.case
        assert case.unit
        assert case.value > 0
        assert (case.baseline is None) is (case.ratio is None)
        if case.name in WITHOUT_BASELINE:
            assert case.ratio is None
        measured = case.value if case.ratio is None else case.ratio
        side, limit = case.bound.split()
        assert case.ok is (measured >= float(limit) if side == ">=" else measured <= float(limit))


@pytest.mark.slow
async def test_a_case_names_the_sizes_that_were_used(capsys: pytest.CaptureFixture[str]) -> None:
    """A quick run never claims the full size."""
    output = Output(as_json=True)
    await reads.run(TINY, output)
    assert all("at 100 jobs" in case.case or "at 300 jobs" in case.case for case in output.cases)
    assert "1,000,000" not in capsys.readouterr().out


async def test_sides_take_turns() -> None:
    """Baseline and product alternate, so that a disturbance affects both."""
    order: list[str] = []

    async def side(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = await take_turns(3, lambda: side("baseline"), lambda: side("ours"))
    assert order == ["baseline", "ours"] * 3
    assert figures == [[1, 3, 5], [2, 4, 6]]
    assert harness.compare([2, 4, 9], [1, 4, 3]).ratio == 2


def test_the_ratio_is_judged_where_there_is_a_baseline_and_the_value_where_not() -> None:
    """The judged figure is the printed, rounded one."""
    assert judge("append/always/256", "", 1, "", baseline=2, ratio=7.9996).ok
    assert not judge("append/always/256", "", 1_000, "", baseline=2, ratio=7.99).ok
    assert judge("live/p50", "", 2.0, "ms").ok
    assert not judge("live/p50", "", 2.01, "ms").ok
    assert str(Bound("<=", 1.1)) == "<= 1.1"


def test_percentiles_are_values_that_occurred() -> None:
    """The smallest value that the share does not exceed."""
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)) == (50, 99, 100)
    assert percentile([4.0], 0.5) == 4
    assert math.isclose(percentile([1.0, 2.0], 0.99), 2)


def test_the_table_is_aligned() -> None:
    """Every column starts where its header does."""
    lines = table(
        [
            judge("live/p50", "short", 1.5, "ms"),
            judge("append/always/1", "rather longer", 20_000, "events/s", baseline=10, ratio=0.5),
        ]
    )
    assert len({line.index(text) for line, text in zip(lines, ("bound", "<= 2", ">= 0.8"), strict=True)}) == 1
    assert lines[1].endswith("ok")
    assert lines[2].endswith("NOT OK")


@pytest.mark.parametrize("arguments", [["nothing"], ["append", "nothing"], ["--slow"]])
def test_a_wrong_command_line_is_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is measured."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize(("ratio", "code"), [(9.0, 0), (1.0, 1)])
def test_the_exit_code_shows_whether_all_bounds_hold(
    ratio: float, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 if they do, 1 if one does not."""

    async def run(sizes: Sizes, output: Output) -> None:
        assert sizes is QUICK
        output.report(judge("append/always/256", "a case", 1, "events/s", baseline=1, ratio=ratio))

    monkeypatch.setitem(BENCHMARKS, "append", run)
    assert main(["append", "--quick"]) == code
    assert "a case" in capsys.readouterr().out


@pytest.mark.parametrize("name", peers.NAMES)
def test_a_missing_peer_is_exit_code_3_and_how_to_install_it(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is measured; the project does not depend on a peer."""
    for module in ("asyncpg", "aetcd", "eventsourcing.sqlite", "litestar"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("PATH", "")
    assert main(["peers", name, "--json"]) == 3
    printed = capsys.readouterr()
    assert not printed.out
    assert re.search(r"is not installed: (make peers|apt-get install)", printed.err)


def test_without_any_peer_every_one_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only what is installed is measured; if that is nothing, the exit code is 3."""
    for module in ("asyncpg", "aetcd", "eventsourcing.sqlite", "litestar"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main(["peers"]) == 3
    printed = capsys.readouterr().err
    assert all(f"{name} is left out" in printed for name in peers.NAMES)


@pytest.mark.slow
async def test_a_peer_is_compared_in_every_operation_at_every_concurrency(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rate and CPU of each, and the bytes per job; the peer of this test is a second store of our own."""

    class Itself:
        name = "second"
        missing_operations = frozenset({"page"})

        def check(self) -> None:
            pass

        @asynccontextmanager
        async def open(self, directory: Path) -> AsyncIterator[Store]:
            async with open_jobledger(directory) as store:
                store.name = self.name
                yield store

    monkeypatch.setitem(peers.PEERS, "etcd", (Itself(),))
    output = Output(as_json=True)
    await peers.run(["etcd"], TINY, output)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    writes, reads, callers = 3, 1, 3
    assert len(found) == 1 + (2 * writes + reads) * callers * 2
    assert all(case["value"] > 0 and case["baseline"] > 0 for case in found)
    assert {case["bound"] for case in found if case["unit"] == "/s"} == {">= 1"}
    assert all(
        case["spread"][0] <= case["ratio"] <= case["spread"][1] for case in found if case["unit"] != "B"
    )


@pytest.mark.slow
async def test_a_failed_benchmark_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Temporary directories are removed when a benchmark ends, also with an error."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    class Broken(Output):
        def report(self, case: Case) -> None:
            assert [*tmp_path.iterdir()]
            raise OSError(case.name)

    with pytest.raises(OSError, match="read"):
        await reads.run(TINY, Broken(as_json=True))
    assert not [*tmp_path.iterdir()]
