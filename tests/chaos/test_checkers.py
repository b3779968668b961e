"""The checkers find violations; a checker that accepts everything would prove nothing."""

import random
from pathlib import Path

import pytest

from jobledger import EmbeddedServer, JetStreamLog
from tests.chaos.blocks import blocks_of, corrupt_blocks, flip_bit, problem_of, records
from tests.chaos.checks import Received, problems_of_feed, problems_of_subscription
from tests.chaos.history import Call, Recorder, read_calls
from tests.chaos.linearizable import Logged, problems_of_job
from tests.support.logs import fill, whole

EVENTS = (Logged(10, 1, "e1", "a"), Logged(12, 2, "e2", "b"), Logged(17, 3, "e3", "c"))


def write(token: str, revision: int, started: float, ended: float, **more: object) -> Call:
    """Return an acknowledged write."""
    fields = {"outcome": "ok", "verb": "state", "job": "j", "client": "x", **more}
    return Call(token=token, revision=revision, started=started, ended=ended, **fields)  # type: ignore[arg-type]


def history() -> dict[str, Call]:
    """Return three consecutive writes, and a read between the last two."""
    return {
        "a": write("a", 1, 0, 1, sequence=10, event_id="e1", expected=0),
        "b": write("b", 2, 2, 3, sequence=12, event_id="e2", expected=1),
        "r": write("r", 2, 4, 5, verb="read", changed=False, strong=True),
        "c": write("c", 3, 6, 7, sequence=17, event_id="e3"),
    }


def test_a_history_explained_by_the_log_passes() -> None:
    """A refused call and a call with an unknown outcome are allowed."""
    calls = history()
    calls["d"] = write("d", 3, 8, 9, outcome="refused", expected=2)
    calls["e"] = write("e", 0, 8, 9, outcome="unknown")
    assert problems_of_job("j", EVENTS, calls.values()) == []


@pytest.mark.parametrize(
    ("token", "change", "problem"),
    [
        ("c", {"token": "z"}, "is not in the log"),
        ("c", {"outcome": "refused"}, "was refused and is in the log"),
        ("c", {"changed": False}, "was called a no-op and is in the log"),
        ("c", {"sequence": 18}, "the log has it as revision 3 at 17"),
        ("c", {"revision": 2}, "the log has it as revision 3 at 17"),
        ("c", {"event_id": "e9"}, "with the id e3"),
        ("c", {"expected": 1}, "it made revision 3"),
        ("r", {"revision": 1}, "contradicts time"),  # a stale read
        ("r", {"revision": 3}, "contradicts time"),  # of a later write
        ("r", {"revision": 4}, "names revision 4 of 3"),
        ("b", {"started": 8.0, "ended": 9.0}, "contradicts time"),
    ],
)
def test_a_history_contradicted_by_the_log_is_reported(
    token: str, change: dict[str, object], problem: str
) -> None:
    """Each case has one impossible response."""
    calls = history()
    for field, value in change.items():
        setattr(calls[token], field, value)
    found = problems_of_job("j", EVENTS, calls.values())
    assert any(problem in each for each in found), found


def test_a_duplicate_event_is_reported() -> None:
    """The call never had a response."""
    calls = history()
    calls["c"].outcome = "unknown"
    found = problems_of_job("j", [*EVENTS, Logged(18, 4, "e3", "c")], calls.values())
    assert any("in the log 2 times" in each for each in found)


def test_a_gap_in_revisions_is_reported() -> None:
    """One event is missing."""
    found = problems_of_job("j", [EVENTS[0], EVENTS[2]], [history()["a"]])
    assert any("has revision 3, and is number 2" in each for each in found)


async def test_missing_and_disordered_deliveries_are_reported(jetstream_log: JetStreamLog) -> None:
    """Feeds must not repeat events; subscriptions may."""
    await fill(jetstream_log, 4)
    log = await whole(jetstream_log)
    got = [Received(record.sequence, record.subject, 0) for record in log]
    assert problems_of_feed("f", got, log) == []
    assert problems_of_feed("f", [*got[:2], *got[3:]], log)
    assert problems_of_feed("f", [got[0], *got], log)
    assert problems_of_subscription("s", [got[0], *got], log) == []
    assert problems_of_subscription("s", got[1:], log)
    same = [each._replace(job_id="one") for each in got]
    assert problems_of_subscription("s", [same[1], same[0], *same[2:]], log)


def test_a_call_without_a_recorded_response_is_unknown(tmp_path: Path) -> None:
    """The start of a call is written before it is sent."""
    path = tmp_path / "calls.jsonl"
    recorder = Recorder(path)
    call = write("a", 1, 0, 0)
    call.outcome = "unknown"
    recorder.begin(call)
    recorder.close()
    path.write_bytes(path.read_bytes() + b'{"token":"a","outco')
    (read,) = read_calls([path])
    assert read.outcome == "unknown"
    assert not read.acknowledged


async def test_a_block_of_a_real_server_is_read_and_its_damage_is_found(tmp_path: Path) -> None:
    """Complete records pass; raw records after a compressed block and other bytes do not."""
    async with EmbeddedServer(tmp_path) as server:
        log = await JetStreamLog.connect(server.url)
        await fill(log, 20)
        await log.close()
    (path,) = blocks_of(tmp_path)
    content = path.read_bytes()
    assert corrupt_blocks(tmp_path) == []
    assert [span.sequence for span in records(content)] == list(range(1, 21))
    assert problem_of(content[:-5]) == ""  # a write interrupted by a kill
    assert "no record at byte" in problem_of(content[:100] + bytes(200) + content[300:])
    second = next(span for span in records(content) if span.sequence == 2)
    assert "sequence 1 after 1" in problem_of(content[: second.offset] + content)
    stream = b"cmp\x01\x10" + b"\xff\x06\x00\x00S2sTwO" + b"\x01\x08\x00\x00" + bytes(8)
    checksum = bytes(8)
    assert problem_of(stream + checksum) == ""
    assert "records were appended" in problem_of(stream + checksum + content)
    path.write_bytes(content)
    before = path.read_bytes()
    flip_bit(path, random.Random(1).randrange(len(before)))
    assert sum(a != b for a, b in zip(before, path.read_bytes(), strict=True)) == 1
