"""A durable subscription delivers every event once, in order, and resumes after the last handled event."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from jobledger import (
    EmbeddedServer,
    InvalidInput,
    JetStreamLog,
    Job,
    JobStatus,
    Ledger,
    MemoryLog,
    State,
    StateType,
    SubscriptionState,
    named_job_id,
    subscribe,
)
from jobledger.store.log import EventLog
from tests.conftest import make_spec
from tests.support.feed_hub import ExpectedEvent, truth_of
from tests.support.histories import append_all, random_drafts
from tests.support.log_writer import Writer
from tests.support.logs import ask, eventually
from tests.support.readers import finish, reading, sequences, take, take_later, take_to


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """Four rounds of five jobs."""
    writer = Writer(jetstream_log, 5)
    for _ in range(4):
        await writer.round()
    return writer


async def test_every_event_is_delivered_once_and_in_order(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """From the beginning to the end, and while more are written."""
    async with subscribe(jetstream_log, "all") as events:
        assert sequences(await take(events, 20)) == list(range(1, 21))
        waiting = take_later(events, 5)
        await events.wait_state(SubscriptionState.LIVE, timeout_seconds=30)
        await writer.round()
        assert sequences(await waiting) == list(range(21, 26))


@pytest.mark.usefixtures("writer")
async def test_requesting_the_next_event_acknowledges_the_one_before(jetstream_log: JetStreamLog) -> None:
    """So does leaving the block without an exception."""
    async with subscribe(jetstream_log, "left") as events:
        await take(events, 7)
    async with subscribe(jetstream_log, "left") as events:
        assert sequences(await take(events, 1)) == [8]


@pytest.mark.usefixtures("writer")
async def test_an_exception_leaves_its_event_unacknowledged(jetstream_log: JetStreamLog) -> None:
    """An event whose handling raised is delivered again, and none before it."""
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is left
        async with subscribe(jetstream_log, "raised") as events:
            await take_to(events, 9)
            raise ZeroDivisionError
    async with subscribe(jetstream_log, "raised") as events:
        assert sequences(await take(events, 2)) == [9, 10]


@pytest.mark.usefixtures("writer")
async def test_an_event_can_be_acknowledged_at_once(jetstream_log: JetStreamLog) -> None:
    """`ack` acknowledges an event without requesting the next one."""
    async with subscribe(jetstream_log, "at-once") as events:
        (*_, event) = await take(events, 3)
        await event.ack()

        async def is_acknowledged() -> bool:
            info = await jetstream_log.consumers().info("at-once")
            return info is not None and info.acknowledged == 3

        await eventually(is_acknowledged)
        await event.ack()  # a second time: no effect
        assert sequences(await take(events, 1)) == [4]


async def test_an_event_has_the_fields_of_the_fold(jetstream_log: JetStreamLog) -> None:
    """Sequence, counters of the job after it, actor and reason are those of a fold of the log."""
    await append_all(jetstream_log, random_drafts(random.Random(7), jobs=6, events=120))
    truth = await truth_of(jetstream_log)
    async with subscribe(jetstream_log, "fields") as events:
        for expected in truth:
            event = (await take(events, 1))[0]
            assert (event.sequence, event.type, event.status) == (
                expected.sequence,
                expected.type,
                expected.status,
            )
            assert (event.revision, event.version) == (expected.status.revision, expected.status.version)
            assert event.name == expected.status.name
            assert event.namespace == expected.status.namespace
            assert event.job_id == expected.status.id
            assert event.state == expected.status.state
            assert event.actor == "tester"
            assert event.reason == ""
            assert event.id.startswith("00000000-")
            assert event.before is None
            assert event.after is None
            assert (event.spec is not None) == (event.status.spec_sequence == event.sequence)


@pytest.mark.usefixtures("writer")
async def test_the_job_before_and_after_on_request(jetstream_log: JetStreamLog) -> None:
    """With `with_jobs` an event has the whole job before and after it."""
    before: dict[str, Job] = {}
    async with subscribe(jetstream_log, "jobs", with_jobs=True) as events:
        for event in await take(events, 20):
            assert event.before == before.get(event.job_id)
            assert event.after is not None
            assert event.after.status == event.status
            before[event.job_id] = event.after


async def test_a_reader_that_starts_in_the_middle_knows_the_jobs(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """Revision and version are those of the whole history, wherever the subscription starts."""
    async with subscribe(jetstream_log, "middle", start=12) as events:
        for event in await take(events, 8):
            assert event.revision == writer.revisions[event.sequence]


def _of_a_or_b(labels: dict[str, str]) -> bool:
    return labels.get("owner") in ("a", "b")


@pytest.mark.parametrize("name", ["", "kept"])
async def test_an_update_that_removes_a_matching_label_is_delivered_as_such(
    jetstream_log: JetStreamLog, name: str
) -> None:
    """A mirror of `env=prod` gets the events by which a job loses and gains the label."""
    ledger = Ledger(jetstream_log)
    job_id = named_job_id("default", "etl")
    await ledger.apply(make_spec("etl", labels={"env": "prod"}))
    await ledger.set_state(job_id, State(StateType.RUNNING))
    left = await ledger.apply(make_spec("etl", labels={"env": "dev"}))
    await ledger.set_state(job_id, State(StateType.FAILED))
    back = await ledger.apply(make_spec("etl", labels={"env": "prod", "tier": "1"}))
    async with subscribe(jetstream_log, name, labels="env=prod", with_jobs=True) as events:
        found = await take(events, 4)
    assert [(event.sequence, event.matches) for event in found] == [
        (1, "after"),
        (2, "both"),
        (left.sequence, "before"),
        (back.sequence, "after"),
    ]
    assert {(event.name, event.namespace) for event in found} == {("etl", "default")}
    # `states` looks at the event: one that sets another state does not pass, regardless of the state before.
    async with subscribe(jetstream_log, name and "failed", states=["Failed"]) as events:
        assert sequences(await take(events, 1)) == [4]


async def test_filters_pass_the_matching_events(jetstream_log: JetStreamLog) -> None:
    """Namespace, job, types, states and labels, compared with a fold of the whole log."""
    await append_all(jetstream_log, random_drafts(random.Random(11), jobs=8, events=150))
    truth = await truth_of(jetstream_log)
    job = truth[0].status
    cases: dict[str, tuple[dict[str, Any], Callable[[ExpectedEvent], bool]]] = {
        "namespace": ({"namespace": "default"}, lambda expected: expected.status.namespace == "default"),
        "job": ({"job": job.id}, lambda expected: expected.status.id == job.id),
        "job-in": (
            {"job": job.id, "namespace": job.namespace},
            lambda expected: expected.status.id == job.id,
        ),
        "types": ({"types": ["state"]}, lambda expected: expected.type == "jobledger.job.state.v1"),
        "states": (
            {"states": ["running", "Failed"], "types": ["state", "created"]},
            lambda expected: (
                expected.status.state.state_type in ("Running", "Failed")
                and expected.type in ("jobledger.job.state.v1", "jobledger.job.created.v1")
            ),
        ),
        "labels": ({"labels": "owner in (a, b)"}, lambda expected: expected.matches(_of_a_or_b) is not None),
    }
    for name, (how, passes) in cases.items():
        for label in (name, ""):
            wanted = [expected.sequence for expected in truth if passes(expected)]
            async with subscribe(jetstream_log, label, **how) as events:
                found = await take(events, len(wanted))
            assert sequences(found) == wanted, name
            matches = [
                expected.matches(_of_a_or_b) if name == "labels" else None
                for expected in truth
                if passes(expected)
            ]
            assert [event.matches for event in found] == matches, name


@pytest.mark.usefixtures("writer")
async def test_without_a_name_nothing_is_stored(jetstream_log: JetStreamLog) -> None:
    """Two anonymous readers each get every event, and leave nothing on the server."""
    for _ in range(2):
        async with subscribe(jetstream_log) as events:
            assert sequences(await take(events, 20)) == list(range(1, 21))

    async def freed() -> bool:
        return bool((await ask(jetstream_log, "CONSUMER.NAMES.JOBS"))["total"] == 0)

    await eventually(freed)


async def test_an_anonymous_reader_accepts_any_log() -> None:
    """Without a name any log is accepted; with one it must be a JetStream log."""
    log: EventLog = MemoryLog()
    await append_all(log, random_drafts(random.Random(3), jobs=3, events=40))
    truth = await truth_of(log)
    async with subscribe(log) as events:
        found = await take_to(events, truth[-1].sequence)
        assert [event.status for event in found] == [expected.status for expected in truth]
        assert isinstance(found[0].status, JobStatus)
    with pytest.raises(InvalidInput, match="needs a log on NATS"):
        async with subscribe(log, "named"):
            pass
    await log.close()


@pytest.mark.usefixtures("writer")
async def test_a_url_gets_a_connection_of_its_own(server: EmbeddedServer) -> None:
    """The subscription opens and closes it."""
    async with subscribe(server.url, "by-url") as events:
        assert sequences(await take(events, 2)) == [1, 2]


@pytest.mark.usefixtures("writer")
async def test_the_status_shows_position_and_state(jetstream_log: JetStreamLog) -> None:
    """Position, gap, lag and state, while catching up, live, and closed."""
    events = subscribe(jetstream_log, "where")
    assert events.status.state is SubscriptionState.STOPPED
    async with events:
        await take(events, 5)
        status = events.status
        assert status.state is SubscriptionState.CATCHING_UP
        assert (status.position, status.gap, status.handled) == (4, 16, 4)
        assert status.lag_seconds > 0
        assert status.held == (1,)
        await take_to(events, 20)
        waiting = take_later(events, 1)
        await events.wait_state(SubscriptionState.LIVE, timeout_seconds=30)
        status = events.status
        assert (status.position, status.gap, status.lag_seconds, status.handled) == (20, 0, 0.0, 20)
        waiting.cancel()
    assert events.status.state is SubscriptionState.STOPPED
    with pytest.raises(InvalidInput, match="closed"):
        await anext(events)


@pytest.mark.usefixtures("writer")
async def test_a_cancelled_wait_loses_nothing(jetstream_log: JetStreamLog) -> None:
    """A reader that stops waiting at any moment gets the event the next time."""
    found: list[int] = []
    async with subscribe(jetstream_log, "impatient") as events:
        turns = 0
        while len(found) < 20:
            waiting = asyncio.ensure_future(anext(events))
            for _ in range(turns % 23):
                await asyncio.sleep(0)
            turns += 1
            waiting.cancel()
            outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
            if not isinstance(outcome, BaseException):
                found.append(outcome.sequence)
            assert turns < 20_000
    assert found == list(range(1, 21))


@pytest.mark.usefixtures("writer")
async def test_an_unread_subscription_keeps_its_position(jetstream_log: JetStreamLog) -> None:
    """Opened and closed without a read, repeatedly: nothing is lost or acknowledged."""
    for _ in range(3):
        async with subscribe(jetstream_log, "idle"):
            pass
    async with reading(subscribe(jetstream_log, "idle")) as reader:
        await reader.until(20)
        assert sequences(reader.found) == list(range(1, 21))


@pytest.mark.usefixtures("writer")
async def test_reopening_after_every_event_continues_with_the_next(jetstream_log: JetStreamLog) -> None:
    """However many events were handled before it was closed."""
    seen: list[int] = []
    for count in (1, 2, 3, 4, 5, 5):
        async with subscribe(jetstream_log, "steps") as events:
            seen += sequences(await take(events, count))
            await finish(events)
    assert seen == list(range(1, 21))
