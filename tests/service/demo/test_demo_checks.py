"""The demo's checks: each passes on correct evidence, and finds what is wrong with incorrect evidence."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from jobledger.projections.projector import Projector
from jobledger.projections.view import View
from jobledger.service.demo.checks import (
    Check,
    Evidence,
    Kill,
    ViewedJob,
    check_acknowledged,
    check_all,
    check_counters,
    check_killed,
    check_race,
    check_rebuilt,
    check_revisions,
    check_view,
)
from jobledger.service.demo.environment import QUEUED, Environment, NamedSpec
from jobledger.store.memory_log import MemoryLog
from jobledger.store.model.job import State, StateType
from tests.conftest import make_spec


@pytest.fixture
async def evidence(tmp_path: Path) -> AsyncIterator[Evidence]:
    """Correct evidence: two jobs, a real race, a real view; only the kill is made up."""
    log = MemoryLog()
    path = tmp_path / "view.sqlite"
    async with Projector(log, path) as projector, await View.open(path) as view:
        stage = Environment("", path, [log, log])
        stage._view = view
        one, two = [await stage.submit(NamedSpec(name, make_spec(name))) for name in ("one", "two")]
        await projector.wait_for(two.sequence)
        snapshot = await stage.snapshot()
        race = await stage.race(one)
        await stage.run(one)
        await stage.update(one, make_spec("one", priority=1), "a change")
        await stage.queue(two)
        await stage.end(two, State(state_type=StateType.STOPPED))
        await projector.wait_for(await stage.last_sequence())
        digest = await view.digest()
        yield Evidence(
            records=await stage.read_log(),
            receipts=tuple(stage.receipts),
            race=race,
            kill=Kill(exit_code=-9, acknowledged=5, events=10, view_sequence=3, log_sequence=9),
            checkpoint=await view.checkpoint(),
            viewed=await stage.viewed(),
            snapshots=(snapshot,),
            digest=digest,
            rebuilt_digest=digest,
        )


def problems_of(check: Check) -> str:
    """The problems of a failed check."""
    assert not check.ok
    return "\n".join(check.problems)


def without(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    return items[:index] + items[index + 1 :]


def with_status(viewed: tuple[ViewedJob, ...], **changes: Any) -> tuple[ViewedJob, ...]:
    """The rows, the first with another status."""
    first = viewed[0]
    job = replace(first.job, status=replace(first.job.status, **changes))
    return (replace(first, job=job), *viewed[1:])


async def test_correct_evidence_passes_every_check(evidence: Evidence) -> None:
    """There are no false alarms."""
    checks = check_all(evidence)
    assert [check.problems for check in checks] == [()] * 7


async def test_a_gap_in_the_revisions_fails(evidence: Evidence) -> None:
    """A lost event is found at the start and in the middle, and a wrong revision in a receipt too."""
    records, receipts = evidence.records, evidence.receipts
    assert "there is no such job" in problems_of(check_revisions(records[1:], receipts))
    assert "has revision" in problems_of(check_revisions(without(records, 2), receipts))
    skipped = replace(receipts[-1], revision=receipts[-1].revision + 1)
    assert "has revision" in problems_of(check_revisions(records, [*receipts[:-1], skipped]))


async def test_a_missing_repeated_or_moved_event_fails(evidence: Evidence) -> None:
    """Every receipt's event is in the log once, at its sequence, and there are no others."""
    records, receipts = evidence.records, evidence.receipts
    assert "in the log 0 times" in problems_of(check_acknowledged(without(records, 3), receipts))
    repeated = replace(records[3], sequence=len(records) + 1)
    assert "in the log 2 times" in problems_of(check_acknowledged([*records, repeated], receipts))
    moved = replace(receipts[0], sequence=99)
    assert "event 99 is at 1" in problems_of(check_acknowledged(records, [moved, *receipts[1:]]))
    assert "is in the log without a receipt" in problems_of(check_acknowledged(records, receipts[1:]))
    broken = replace(records[0], payload=b"{}")
    assert "cannot be read" in problems_of(check_acknowledged([broken, *records[1:]], receipts))


async def test_two_winners_or_none_fail(evidence: Evidence) -> None:
    """Exactly one of the writers must have won."""
    race = evidence.race
    winner = next(attempt for attempt in race.attempts if attempt.won)
    loser = next(attempt for attempt in race.attempts if not attempt.won)
    both = replace(race, attempts=(winner, winner))
    assert "2 writers won instead of one: scheduler" in problems_of(check_race(evidence.records, both))
    none = replace(race, attempts=(loser, loser))
    assert "0 writers won instead of one: none" in problems_of(check_race(evidence.records, none))


async def test_a_loser_that_wrote_or_got_a_wrong_error_fails(evidence: Evidence) -> None:
    """A loser wrote nothing, and its error has the revision and the event that it missed."""
    race = evidence.race
    winner = next(attempt for attempt in race.attempts if attempt.won)
    loser = next(attempt for attempt in race.attempts if not attempt.won)
    for change, problem in (
        ({"event_id": winner.event_id}, "its event is in the log"),
        ({"seen_revision": 7}, "has revision 7, not 2"),
        ({"seen_missed": ()}, "has 0 missed events"),
    ):
        wrong = replace(race, attempts=(winner, replace(loser, **change)))
        assert problem in problems_of(check_race(evidence.records, wrong))
    assert winner.won is not None
    far = replace(winner, won=replace(winner.won, revision=5))
    assert "won revision 5" in problems_of(check_race(evidence.records, replace(race, attempts=(far, loser))))


async def test_a_kill_without_effect_fails(evidence: Evidence) -> None:
    """It must have been signal 9, during the load, with events left to catch up on."""
    kill = evidence.kill
    assert "exit code 0" in problems_of(check_killed(replace(kill, exit_code=0)))
    assert "not in the middle" in problems_of(check_killed(replace(kill, acknowledged=kill.events)))
    assert "not in the middle" in problems_of(check_killed(replace(kill, acknowledged=0)))
    assert "the view was at 9" in problems_of(check_killed(replace(kill, view_sequence=kill.log_sequence)))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"state": QUEUED},
        {"version": 9},
        {"revision": 9},
        {"create_time": 1},
        {"modify_time": 1},
        {"spec_sequence": 1},
        {"sequence": 1},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_a_row_that_differs_fails(evidence: Evidence, changes: dict[str, Any]) -> None:
    """Every field of a row is compared with the fold."""
    viewed = with_status(evidence.viewed, **changes)
    check = check_view(evidence.records, evidence.checkpoint, viewed)
    assert f"{next(iter(changes))} differs" in problems_of(check)


async def test_a_row_too_many_or_too_few_or_another_spec_fails(evidence: Evidence) -> None:
    """Rows, specs, versions, checkpoint and anomalies are compared as well."""
    records, checkpoint, viewed = evidence.records, evidence.checkpoint, evidence.viewed
    assert "is missing from the view" in problems_of(check_view(records, checkpoint, viewed[1:]))
    unknown = with_status(viewed, id="j-stranger")[0]
    assert "not in the log" in problems_of(check_view(records, checkpoint, [*viewed, unknown]))
    other = replace(viewed[0], job=replace(viewed[0].job, spec=b"{}"))
    assert "spec differs" in problems_of(check_view(records, checkpoint, [other, *viewed[1:]]))
    fewer = replace(viewed[0], versions=viewed[0].versions[1:])
    assert "versions differs" in problems_of(check_view(records, checkpoint, [fewer, *viewed[1:]]))
    assert "the view is at 1," in problems_of(check_view(records, replace(checkpoint, sequence=1), viewed))
    assert "counted 3 anomalies" in problems_of(check_view(records, replace(checkpoint, anomalies=3), viewed))


async def test_a_counter_or_a_time_against_the_rules_fails(evidence: Evidence) -> None:
    """Version, Revision and both times are computed from the log; ModifyTime never decreases."""
    records, viewed, snapshots = evidence.records, evidence.viewed, evidence.snapshots
    for field, name in (
        ("version", "Version"),
        ("revision", "Revision"),
        ("create_time", "CreateTime"),
        ("modify_time", "ModifyTime"),
    ):
        wrong = with_status(viewed, **{field: 77})
        assert f"{name} is 77, not" in problems_of(check_counters(records, wrong, snapshots))
    later = {job_id: replace(status, modify_time=2**62) for job_id, status in snapshots[0].items()}
    assert "ModifyTime decreased" in problems_of(check_counters(records, viewed, [later]))


async def test_another_digest_fails(evidence: Evidence) -> None:
    """A rebuilt view that differs has another digest."""
    check = check_rebuilt("a" * 64, "b" * 64, evidence.checkpoint)
    assert problems_of(check) == "digest aaaaaaaaaaaa became bbbbbbbbbbbb"
