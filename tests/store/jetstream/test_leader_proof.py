"""What proves that a stream's leader is current, and what is not answered without that proof."""

from collections.abc import Callable
from itertools import count
from typing import Any, cast

import pytest

from jobledger import Ledger, MemoryLog
from jobledger.store.jetstream.api import ClusterInfo, ReplicaInfo, StreamInfo, leader_of
from jobledger.store.jetstream.connection import Connection, Message
from jobledger.store.jetstream.log_reader import Continuity
from jobledger.store.jetstream.reader import replica_get
from jobledger.store.jetstream.stream import log_info
from jobledger.store.log import LogInfo
from jobledger.store.model.errors import JobNotFound, LogBehind, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.job import State, StateType
from jobledger.store.model.limits import LEADER_CONTACT_SECONDS
from tests.conftest import make_spec

MISSING = "j-00000000-0000-5000-8000-000000000000"
SINCE = "2026-11-30T12:00:00Z"
NOW = 200_000_000
LONG_AGO = int((LEADER_CONTACT_SECONDS + 0.1) * 1e9)


def replicas(*active: int, offline: bool = False) -> list[ReplicaInfo]:
    """The other replicas, with the nanoseconds since the last contact; 0: never."""
    return [ReplicaInfo(current=True, offline=offline, active=each) for each in active]


@pytest.mark.parametrize(
    ("cluster", "is_current"),
    [
        pytest.param(None, True, id="a server without a cluster"),
        pytest.param(ClusterInfo("nats-1"), True, id="one replica in a cluster"),
        pytest.param(ClusterInfo("nats-1", SINCE, replicas(NOW, NOW)), True, id="all are heard"),
        pytest.param(ClusterInfo("nats-1", SINCE, replicas(NOW, LONG_AGO)), True, id="a majority is heard"),
        pytest.param(ClusterInfo("nats-1", SINCE, replicas(LONG_AGO, LONG_AGO)), False, id="cut off"),
        pytest.param(ClusterInfo("nats-1", SINCE, replicas(0, 0)), False, id="never heard"),
        pytest.param(ClusterInfo("nats-1", SINCE, replicas(NOW, NOW, offline=True)), False, id="offline"),
        pytest.param(ClusterInfo("nats-1", SINCE, replicas(NOW, LONG_AGO, LONG_AGO, 0)), False, id="2 of 5"),
        pytest.param(ClusterInfo("nats-1", None, replicas(NOW, NOW)), False, id="it does not lead"),
        pytest.param(ClusterInfo("", None, replicas(NOW, 0, 0)), False, id="no leader"),
    ],
)
def test_a_leader_is_current_if_it_heard_from_a_majority(
    cluster: ClusterInfo | None, *, is_current: bool
) -> None:
    """`leader_since` proves that it has applied what was committed; contact, that no other server leads."""
    assert bool(leader_of(StreamInfo(cluster=cluster))) is is_current


def test_description_by_a_follower_is_rejected() -> None:
    """Without a leader each replica answers for itself, and may lack hundreds of events."""
    answer = StreamInfo(created=SINCE, cluster=ClusterInfo("", None, replicas(NOW, 0, 0)))
    with pytest.raises(LogUnavailable, match="no leader at the moment"):
        log_info(answer, "JOBS")


class CutOff(MemoryLog):
    """A log whose leader has lost contact with the others."""

    async def confirm_current(self) -> None:
        raise LogUnavailable("another one may lead")


async def test_isolated_leader_does_not_decide_a_refusal() -> None:
    """The expectation guards an append; a refusal has no guard, so it is 503 instead."""
    log = CutOff()
    ledger = Ledger(log)
    created = await ledger.create(make_spec("a"))
    with pytest.raises(LogUnavailable, match="may lead"):
        await ledger.create(make_spec("a"))
    with pytest.raises(LogUnavailable, match="may lead"):
        await ledger.set_state(
            "j-00000000-0000-5000-8000-000000000000", State(StateType.RUNNING), namespace="x"
        )
    assert (await ledger.set_state(created.job_id, State(StateType.RUNNING))).changed


class Lagging(MemoryLog):
    """A log that is described by a server without the last events."""

    short = False

    async def read_last(self, subject: str) -> Record | None:
        return None if self.short else await super().read_last(subject)

    async def continues(
        self, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
    ) -> LogInfo:
        if self.short:
            raise LogBehind("ends at 0")
        return await super().continues(epoch=epoch, after=after, same=same)


async def test_lagging_server_does_not_make_a_job_missing() -> None:
    """The ledger has appended to the job: an answer without it does not prove that it is missing."""
    log = Lagging()
    ledger = Ledger(log)
    job_id = (await ledger.create(make_spec("a"))).job_id
    log.short = True
    with pytest.raises(LogBehind):
        await ledger.load(job_id)
    log.short = False
    assert (await ledger.load(job_id)).status.id == job_id
    with pytest.raises(JobNotFound):
        await ledger.load(MISSING)


HAS = {
    "Nats-Sequence": "7",
    "Nats-Time-Stamp": "2026-11-30T12:00:00Z",
    "Nats-Subject": "jobs.x",
}
LACKS = {"Status": "404"}


def three_replicas(*answers: dict[str, str] | None) -> Connection:
    """Direct gets, each answered by the next replica; None: that one is silent."""
    looks = count()

    class Replicas:
        async def request(self, *_: object, **__: object) -> Message:
            headers = answers[next(looks) % len(answers)]
            if headers is None:
                raise LogUnavailable("no answer")
            return Message("", "", b"{}", headers)

    return cast("Connection", cast("Any", Replicas()))


async def test_silent_replica_may_have_the_event() -> None:
    """It is lost only if all replicas answered and none has it."""
    for answers in ((LACKS, LACKS, HAS), (None, None, HAS)):
        found = await replica_get(three_replicas(*answers), "JOBS", {"seq": 7})
        assert found is not None
        assert found.sequence == 7
    assert await replica_get(three_replicas(LACKS, LACKS, LACKS), "JOBS", {"seq": 7}) is None
    with pytest.raises(
        LogUnavailable, match=r"a replica .* does not answer .4 of 12 reads failed.*lack message 7"
    ):
        await replica_get(three_replicas(LACKS, LACKS, None), "JOBS", {"seq": 7})
    with pytest.raises(LogBehind, match="event 7 is not counted as lost yet"):
        await Continuity(three_replicas(LACKS, None, LACKS), "JOBS")._is_kept(7, None)
