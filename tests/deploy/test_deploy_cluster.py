"""The guarantees of the library on the deployed cluster: three nodes, three copies, and kills."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from jobledger import (
    JetStreamLog,
    JobExists,
    JobledgerError,
    Ledger,
    LogUnavailable,
    OutcomeUnknown,
    Projector,
    State,
    StateType,
    StreamSettings,
    SubscribedEvent,
    Subscriptions,
    subscribe,
)
from jobledger.service.nats_auth import parse_subscriber, service_requests, subscriber_requests
from jobledger.store.jetstream import reconcile, stream
from jobledger.store.jetstream.connection import Connection
from jobledger.store.log import Appended, WrongSequence
from tests.conftest import make_spec
from tests.support.cluster import Cluster
from tests.support.ledgers import full_history
from tests.support.logs import append_all, ask, draft, eventually, force_batches, stored_ids, whole
from tests.support.rights import SECRET, STORED, Attacker, destructive, laundering, prepare, state_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SETTINGS = StreamSettings(replicas=3)
FAILOVER_SECONDS = 60.0  # an election takes 4 to 9 on a machine that has nothing else to do


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three nodes, ready."""
    async with Cluster(tmp_path) as running:
        yield running


@pytest.fixture
async def logs(cluster: Cluster) -> AsyncIterator[list[JetStreamLog]]:
    """Three connections of the service to all of it."""
    opened = await asyncio.gather(*(JetStreamLog.connect(cluster.url, SETTINGS) for _ in range(3)))
    yield list(opened)
    await asyncio.gather(*(log.close() for log in opened))


class Writers:
    """Several that set states, for ever, each on a job of its own; what was acknowledged to them."""

    def __init__(self, logs: list[JetStreamLog], count: int = 12) -> None:
        self.acked: dict[str, list[int]] = {}  # revisions by job
        self.total = 0
        self._enough = asyncio.Condition()
        self._stop = False
        self._tasks = [asyncio.create_task(self._write(logs[n % len(logs)], n)) for n in range(count)]

    async def _write(self, log: JetStreamLog, number: int) -> None:
        ledger = Ledger(log)
        job_id = (await ledger.create(make_spec(f"writer-{number}"))).job_id
        self.acked[job_id] = [1]
        step = 0
        while not self._stop:
            step += 1
            try:
                receipt = await ledger.set_state(job_id, State(StateType.RUNNING, f"step {step}"))
            except (LogUnavailable, OutcomeUnknown):  # said so: not acknowledged
                continue
            self.acked[job_id].append(receipt.revision)
            async with self._enough:
                self.total += 1
                self._enough.notify_all()

    async def more(self, events: int) -> None:
        """Wait until so many more were acknowledged."""
        wanted = self.total + events
        async with asyncio.timeout(FAILOVER_SECONDS), self._enough:
            await self._enough.wait_for(lambda: self.total >= wanted)

    async def stop(self) -> None:
        """Let each finish what it does."""
        self._stop = True
        async with asyncio.timeout(FAILOVER_SECONDS):
            await asyncio.gather(*self._tasks)


async def test_concurrent_starts_create_one_stream_of_three_copies(tmp_path: Path) -> None:
    """Also while the stream has no leader yet, and on each node of the cluster."""
    async with Cluster(tmp_path, streams=False) as cluster:
        logs = await asyncio.gather(*(JetStreamLog.connect(cluster.operator_url, SETTINGS) for _ in range(3)))
        assert len({(await log.info()).epoch for log in logs}) == 1
        info = await ask(logs[0], "STREAM.INFO.JOBS")
        assert info["config"]["num_replicas"] == 3
        assert {peer["name"] for peer in info["cluster"]["replicas"]} | {info["cluster"]["leader"]} == {
            "nats-1",
            "nats-2",
            "nats-3",
        }
        assert await cluster.leader() in (1, 2, 3)
        for log in logs:
            await log.close()


async def test_no_acknowledged_event_is_lost_when_the_leader_is_killed(
    logs: list[JetStreamLog], cluster: Cluster, tmp_path: Path
) -> None:
    """Twice during writes: writers continue, revisions have no gap, the views follow."""
    views = [Projector(log, tmp_path / f"view-{number}.db") for number, log in enumerate(logs)]
    for view in views:
        await view.start()
    writers = Writers(logs)
    for _ in range(2):
        await writers.more(300)
        leader = await cluster.leader()
        await cluster.kill(leader)
        await writers.more(300)
        await cluster.start(leader)
    await writers.stop()
    last = (await logs[0].info()).last_sequence
    await asyncio.gather(*(view.wait_for(last, FAILOVER_SECONDS) for view in views))
    ledger = Ledger(logs[0])
    for job_id, acked in writers.acked.items():
        revisions = [item.revision for item in await full_history(ledger, job_id)]
        assert revisions == list(range(1, len(revisions) + 1))
        assert set(acked) <= set(revisions)
    ids = await stored_ids(logs[1])
    assert len(ids) == len(set(ids)) == last
    for view in views:
        await view.stop()


async def test_the_epoch_is_the_same_under_each_leader_and_after_a_restart_of_all(cluster: Cluster) -> None:
    """A cursor and a view stay valid on other nodes."""
    log = await JetStreamLog.connect(cluster.url, SETTINGS)
    assert isinstance(await log.append(draft(), expect=0), Appended)
    seen = {(await log.info()).epoch}
    leader = await cluster.leader()
    await cluster.kill(leader)
    await cluster.leader()
    seen.add((await log.info()).epoch)
    await cluster.start(leader)
    for node in (1, 2, 3):
        await cluster.kill(node)
    await cluster.start()
    await cluster.leader()
    again = await JetStreamLog.connect(cluster.url, SETTINGS)
    info = await again.info()
    seen.add(info.epoch)
    assert len(seen) == 1
    assert info.last_sequence == 1
    await log.close()
    await again.close()


async def test_of_writers_on_different_nodes_exactly_one_wins(
    logs: list[JetStreamLog], cluster: Cluster
) -> None:
    """Also while the first event is still being replicated (10164): the others get WrongSequence."""
    others = [await JetStreamLog.connect(cluster.url_of(node), SETTINGS) for node in (1, 2, 3)]
    for number in range(30):
        job = f"race-{number}"
        answers = await asyncio.gather(*(log.append(draft(job), expect=0) for log in (*logs, *others)))
        (won,) = [answer for answer in answers if isinstance(answer, Appended)]
        assert [answer for answer in answers if answer is not won] == [WrongSequence(won.sequence)] * 5
    for log in others:
        await log.close()


async def test_batches_are_atomic_and_answered_correctly_on_a_cluster(logs: list[JetStreamLog]) -> None:
    """Three publishers send batches with conflicts: each event is once at its acknowledged sequence."""
    for log in logs:
        force_batches(log)
    drafts = [[draft(f"job-{number}") for number in range(400)] for _ in logs]
    answers = await asyncio.gather(*(append_all(log, each) for log, each in zip(logs, drafts, strict=True)))
    places = {}
    for each, given in zip(drafts, answers, strict=True):
        for one, answer in zip(each, given, strict=True):
            assert isinstance(answer, (Appended, WrongSequence)), answer
            if isinstance(answer, Appended):
                places[answer.sequence] = one
    records = await whole(logs[0])
    assert len(records) == 400
    assert {record.sequence: record.subject for record in records} == {
        sequence: one.subject for sequence, one in places.items()
    }
    assert await stored_ids(logs[0]) == [places[record.sequence].event_id for record in records]


async def test_a_lagging_replica_changes_no_answer(cluster: Cluster) -> None:
    """A node that just returned is asked: it waits for the events that it lacks."""
    await (await JetStreamLog.connect(cluster.url, SETTINGS)).close()
    leader = await cluster.leader()
    behind = leader % 3 + 1
    writing = await JetStreamLog.connect(cluster.url_of(leader), SETTINGS)
    reading = await JetStreamLog.connect(cluster.url_of(behind), SETTINGS)
    writer = Ledger(writing)
    job_id = (await writer.create(make_spec("lag"))).job_id
    for round_ in range(5):
        os.kill(cluster.pids()[behind], signal.SIGSTOP)
        try:
            for step in range(40):
                receipt = await writer.set_state(job_id, State(StateType.RUNNING, f"{round_}-{step}"))
        finally:
            os.kill(cluster.pids()[behind], signal.SIGCONT)
        job = await Ledger(reading).load(job_id)
        assert job.status.revision == receipt.revision
        items = await full_history(Ledger(reading), job_id)
        assert [item.revision for item in items] == list(range(1, receipt.revision + 1))
    for log in (writing, reading):
        await log.close()


async def test_a_service_starts_and_writes_while_a_node_is_down(cluster: Cluster) -> None:
    """Two of three are enough, also during an election of the cluster's leader."""
    log = await JetStreamLog.connect(cluster.url, SETTINGS)
    await log.close()
    await cluster.kill(await cluster.meta_leader())
    log = await JetStreamLog.connect(cluster.url, SETTINGS)
    receipt = await Ledger(log).create(make_spec("one-down"))
    with pytest.raises(JobExists):
        await Ledger(log).create(make_spec("one-down"))
    assert receipt.revision == 1
    await log.close()


async def test_without_a_majority_nothing_is_acknowledged_until_it_returns(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One node alone accepts nothing; an append with an unknown outcome is resolved once there are two."""
    monkeypatch.setattr(reconcile, "APPEND_TIMEOUT_SECONDS", 3.0)
    log = await JetStreamLog.connect(cluster.url, SETTINGS)
    assert isinstance(await log.append(draft("before"), expect=0), Appended)
    leader = await cluster.leader()
    for node in {1, 2, 3} - {leader}:
        await cluster.kill(node)
    event = draft("during")
    with pytest.raises((OutcomeUnknown, LogUnavailable)):
        await log.append(event, expect=0)
    await cluster.start(leader % 3 + 1)
    await cluster.leader()

    async def reported() -> bool:
        try:
            return isinstance(await log.append(event, expect=0), Appended)
        except JobledgerError:
            return False

    await eventually(reported, within_seconds=FAILOVER_SECONDS)
    assert (await stored_ids(log)).count(event.event_id) == 1
    await log.close()


async def test_a_start_without_a_majority_ends_with_a_reason(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After retries for a limited time; a restart policy tries it again."""
    monkeypatch.setattr(stream, "STREAM_TIMEOUT_SECONDS", 2.0)
    await (await JetStreamLog.connect(cluster.url, SETTINGS)).close()
    await cluster.kill(1)
    await cluster.kill(2)
    await eventually(partial(cluster.is_alone, 3), within_seconds=FAILOVER_SECONDS)
    with pytest.raises(LogUnavailable):
        await JetStreamLog.connect(cluster.url, SETTINGS)


@pytest.mark.parametrize("user", ["billing", "jobledger"])
async def test_no_client_administers_the_log_of_a_cluster(tmp_path: Path, user: str) -> None:
    """Every request of a subscriber or the service, with every forbidden reply subject."""
    async with Cluster(tmp_path, accounts="accounts-example.conf") as cluster:
        operator = await JetStreamLog.connect(cluster.operator_url, SETTINGS)
        await prepare(operator)
        is_service = user == "jobledger"
        own = (
            "JOBS_SUBSCRIPTIONS.stored.by.attacker"
            if is_service
            else "JOBS_SUBSCRIPTIONS.parked.billing.mine"
        )
        requests = service_requests() if is_service else subscriber_requests(parse_subscriber("billing"))
        targets = destructive() if is_service else laundering()
        but = STORED if is_service else ("JOBS_SUBSCRIPTIONS.parked.billing.", "JOBS/billing")
        before = await state_of(operator._connection, but=but)
        for node in (1, 2, 3):
            connection = await Connection.open(cluster.url_of(node, user=user))
            consumer = "stored" if is_service else "billing"
            attacker = Attacker(connection, requests, own=own, consumer=consumer)
            await attacker.listen()
            assert await attacker.attack(targets) > 200
            await attacker.direct(targets)
            assert await state_of(operator._connection, but=but) == before
            assert not [each for each in attacker.got if SECRET in each.payload]
            await connection.close()
        await operator.close()


async def test_the_operator_may_change_a_stream_and_wrong_credentials_are_reported(cluster: Cluster) -> None:
    """No other user has these rights."""
    operator = await JetStreamLog.connect(cluster.operator_url, SETTINGS)
    config = (await ask(operator, "STREAM.INFO.JOBS"))["config"]
    changed = await ask(operator, "STREAM.UPDATE.JOBS", config | {"description": "looked after"})
    assert changed["config"]["description"] == "looked after"
    with pytest.raises(LogUnavailable, match="refuses these credentials"):
        await JetStreamLog.connect(cluster.url_of(1, password="wrong"), SETTINGS)
    await operator.close()


async def test_a_subscriber_in_its_own_account_outlives_the_leader(tmp_path: Path) -> None:
    """Every event is handled although the leading node is killed; a reset reaches it afterwards."""
    async with Cluster(tmp_path, accounts="accounts-example.conf") as cluster:
        service = await JetStreamLog.connect(cluster.url, SETTINGS)
        subscriptions = Subscriptions(service)
        await subscriptions.create("billing")
        url = cluster.url_of(1, 2, 3, user="billing")
        handled: list[int] = []
        async with subscribe(url, "billing") as events:

            async def handle(event: SubscribedEvent) -> None:
                handled.append(event.sequence)

            running = asyncio.create_task(events.run(handle))
            ledger = Ledger(service)
            await asyncio.gather(*(ledger.create(make_spec(f"job-{number}")) for number in range(50)))
            await eventually(lambda: len(handled) >= 50, within_seconds=FAILOVER_SECONDS)
            leader = await cluster.leader()
            await cluster.kill(leader)
            await asyncio.gather(*(ledger.create(make_spec(f"job-{number}")) for number in range(50, 100)))
            await eventually(lambda: 100 in handled, within_seconds=FAILOVER_SECONDS)
            assert sorted(set(handled)) == list(range(1, 101))
            await cluster.start(leader)
            del handled[:]
            await subscriptions.reset("billing", after=90)
            await eventually(lambda: 100 in handled, within_seconds=FAILOVER_SECONDS)
            assert handled[0] == 91
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        await service.close()


async def test_a_node_that_lost_its_disk_is_filled_by_the_others(
    logs: list[JetStreamLog], cluster: Cluster, tmp_path: Path
) -> None:
    """Started empty under its old name, it gets the whole log, and can then replace another node."""
    await append_all(logs[0], [draft(f"job-{number}") for number in range(200)])
    leader = await cluster.leader()
    lost, other = leader % 3 + 1, (leader + 1) % 3 + 1
    await cluster.kill(lost)
    shutil.rmtree(tmp_path / f"nats-{lost}")
    await cluster.start(lost)
    await cluster.kill(other)
    answer = await logs[1].append(draft("after"), expect=0)
    assert answer == Appended(201)
    assert [record.sequence for record in await whole(logs[2])] == list(range(1, 202))
