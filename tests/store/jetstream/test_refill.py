"""The wait for a stream whose replicas move is bounded, shows progress, and ends a stall."""

from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from jobledger.store.jetstream import refill
from jobledger.store.jetstream.api import (
    ClusterInfo,
    DesiredReplicas,
    MoveStatus,
    ReplicaInfo,
    StreamInfo,
    StreamState,
)
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.declarations import OLD_REPLICAS_KEY
from jobledger.store.model.errors import LogDamaged, LogUnavailable
from jobledger.store.model.limits import REFILL_STALLS_MAX

CONFIG = {"name": "JOBS", "num_replicas": 3, "deny_delete": True, "max_msgs_per_subject": -1, "max_age": 0}
FULL = (ReplicaInfo("n2", current=True), ReplicaInfo("n3", current=True))


def info(*replicas: ReplicaInfo, desired: DesiredReplicas | None = None, **state: int) -> StreamInfo:
    """A description of the stream by the leader n1."""
    cluster = ClusterInfo("n1", "2026-11-30T00:00:00Z", [*(replicas or FULL)], desired)
    found = StreamState(
        state.get("first_seq", 1), state.get("last_seq", 0), messages=state.get("messages", 0)
    )
    return StreamInfo(config=CONFIG, state=found, cluster=cluster)


class Leader:
    """Answers as configured; records the requests that would move a replica."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answer: Callable[[int], StreamInfo]) -> None:
        self.verbs: list[str] = []
        self.said: list[str] = []
        self.looks = 0
        self._answer = answer
        for name in ("REPLICA_STALL_SECONDS", "REFILL_POLL_SECONDS", "REFILL_PROGRESS_SECONDS"):
            monkeypatch.setattr(refill, name, 0.0)
        monkeypatch.setattr(refill, "stream_info", self._info)
        monkeypatch.setattr(refill, "call", self._call)

    async def _info(self, *_: object, **__: object) -> StreamInfo:
        self.looks += 1
        return self._answer(self.looks)

    async def _call(self, _: object, verb: str, *__: object, **___: object) -> None:
        self.verbs.append(verb)

    async def rewrite(self) -> None:
        """Rewrites the stream, up to the first error."""
        await refill.rewrite_replicas(cast("Any", Connection), "JOBS", self.said.append)


async def test_a_move_without_progress_gets_another_leader_a_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Then the wait ends, and reports what it waited for; changes in between count as progress."""
    status = MoveStatus("waiting for desired peers to catch up")
    stuck = DesiredReplicas((ReplicaInfo("n1"), ReplicaInfo("n4")), status)
    leader = Leader(monkeypatch, lambda _: info(desired=stuck))
    with pytest.raises(LogUnavailable, match=r"catch up; n4 is not added yet; .*run this again"):
        await leader.rewrite()
    assert leader.verbs == ["STREAM.LEADER.STEPDOWN.JOBS"] * REFILL_STALLS_MAX
    assert "JOBS: 0 s: waiting for desired peers to catch up; n4 is not added yet" in leader.said


async def test_a_node_that_is_down_ends_the_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another leader would wait for it too."""
    leader = Leader(monkeypatch, lambda _: info(FULL[0], ReplicaInfo("n3", offline=True)))
    with pytest.raises(LogUnavailable, match="n3 is down"):
        await leader.rewrite()
    assert leader.verbs == []


async def test_replicas_are_not_copied_from_a_leader_that_lacks_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fresh ones would lack them too, and the old ones with them would be dropped."""
    for state in ({"last_seq": 10, "messages": 9}, {"first_seq": 4, "last_seq": 10, "messages": 7}):
        leader = Leader(monkeypatch, lambda _, state=state: info(**state))  # type: ignore[misc]
        with pytest.raises(LogDamaged, match="the replica of JOBS on n1 lacks"):
            await leader.rewrite()
        assert leader.verbs == []


async def test_changing_leaders_are_not_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that changes all the time is not settled either: both waits end."""

    def comes_and_goes(look: int) -> StreamInfo:
        if look % 2:
            raise LogUnavailable("an election")
        return info(FULL[0], ReplicaInfo("n3", lag=9))

    leader = Leader(monkeypatch, comes_and_goes)
    monkeypatch.setattr(refill, "REPLICA_STALL_SECONDS", 0.01)
    with pytest.raises(LogUnavailable, match="has made no progress"):
        await leader.rewrite()
    assert leader.verbs == ["STREAM.LEADER.STEPDOWN.JOBS"] * REFILL_STALLS_MAX

    def changes(look: int) -> StreamInfo:
        return info(FULL[0], ReplicaInfo(f"n{look + 3}"))

    leader = Leader(monkeypatch, changes)
    monkeypatch.setattr(refill, "REPLICA_STALL_SECONDS", 10.0)
    monkeypatch.setattr(refill, "REFILL_GIVE_UP_SECONDS", -50.0)
    with pytest.raises(LogUnavailable, match=r"has not settled in .* s: n4 lags"):
        await leader.rewrite()


@pytest.mark.parametrize("has", [(), (9,), (2,)], ids=["none", "one inside", "one at the beginning"])
async def test_what_no_replica_has_does_not_stop_a_rewrite(
    monkeypatch: pytest.MonkeyPatch, has: tuple[int, ...]
) -> None:
    """A copy then loses nothing; it would if another replica had one of the events that the leader lacks."""

    async def look(_: object, __: str, request: dict[str, int]) -> int | None:
        return request["seq"] if request["seq"] in has else None

    def damaged(_: int) -> StreamInfo:
        found = info(first_seq=4, last_seq=10, messages=5)
        state = msgspec.structs.replace(found.state, deleted=[8, 9])
        config = {**CONFIG, "allow_direct": True, "metadata": {OLD_REPLICAS_KEY: ""}}
        return msgspec.structs.replace(found, state=state, config=config)

    async def update(_: object, found: StreamInfo, changes: dict[str, Any]) -> StreamInfo:
        return msgspec.structs.replace(found, config={**found.config, **changes})

    leader = Leader(monkeypatch, damaged)
    monkeypatch.setattr(refill, "replica_get", look)
    monkeypatch.setattr(refill, "update_stream", update)
    if has:
        with pytest.raises(LogDamaged, match="lacks 5 messages"):
            await leader.rewrite()
        return
    await leader.rewrite()
    assert leader.said[0] == "JOBS: 5 messages are lost on all replicas; the rest is copied"
    assert leader.said[-1] == "JOBS: 3 fresh replicas"
