"""Many writers on one job: no gap in the revisions, each event once, and no wrong receipt."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack

import pytest

from jobledger import EmbeddedServer, JetStreamLog, Ledger, MemoryLog, Receipt, State, StateType, named_job_id
from jobledger.store.log import Appended, EventLog, PendingEvent, WrongSequence
from jobledger.store.model.errors import Contention, JobExists, LogUnavailable, OutcomeUnknown
from jobledger.store.model.events import JobStateChanged
from jobledger.store.model.limits import COMMAND_MAX_ATTEMPTS, MISSED_MAX_EVENTS
from tests.conftest import make_spec
from tests.support.histories import draft, state_data
from tests.support.ledgers import event_ids, full_history, put, records_of
from tests.support.proxy import Proxy

ID = named_job_id("default", "etl")
WRITERS = 50
CONNECTIONS = 5
EVENTS_EACH = 4


@pytest.fixture
async def logs(server: EmbeddedServer) -> AsyncIterator[list[JetStreamLog]]:
    """Several connections to one server."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(CONNECTIONS):
            opened.append(await JetStreamLog.connect(server.url))
            stack.push_async_callback(opened[-1].close)
        yield opened


async def insist(command: Callable[..., Awaitable[Receipt]]) -> Receipt:
    """Repeat a command as its errors say, until it returns."""
    event_id: str | None = None
    while True:
        try:
            return await command(event_id=event_id)
        except OutcomeUnknown as error:
            event_id = error.event_id
        except (Contention, LogUnavailable):
            pass


async def write(ledger: Ledger, writer: int) -> list[Receipt]:
    """Change the state of the job several times, to states that no other writer sets."""
    receipts = []
    for number in range(EVENTS_EACH):
        state = State(StateType.RUNNING, f"{writer}.{number}")
        receipts.append(await insist(lambda state=state, **about: ledger.set_state(ID, state, **about)))
    return receipts


async def write_all(logs: Sequence[EventLog]) -> list[list[Receipt]]:
    """Run all writers at once, distributed over the logs."""
    ledgers = [Ledger(logs[writer % len(logs)]) for writer in range(WRITERS)]
    return await asyncio.gather(*(write(ledger, writer) for writer, ledger in enumerate(ledgers)))


async def check(log: EventLog, created: Receipt, answers: Sequence[Sequence[Receipt]]) -> None:
    """Compare the receipts with the log."""
    receipts = [created, *(receipt for one in answers for receipt in one)]
    assert all(receipt.changed for receipt in receipts)
    for one in answers:
        assert [receipt.revision for receipt in one] == sorted(receipt.revision for receipt in one)
    written = await full_history(Ledger(log), ID)
    assert [item.revision for item in written] == list(range(1, 2 + WRITERS * EVENTS_EACH))
    assert sorted(event_ids(await records_of(log))) == sorted(receipt.event_id for receipt in receipts)
    told = {receipt.event_id: (receipt.sequence, receipt.revision, receipt.version) for receipt in receipts}
    assert told == {item.event_id: (item.sequence, item.revision, item.version) for item in written}


async def test_fifty_writers_on_one_job(jetstream_log: JetStreamLog, logs: list[JetStreamLog]) -> None:
    """Fifty ledgers on five connections change one job: revisions 1…N, every event once."""
    created = await Ledger(jetstream_log).create(make_spec("etl"))
    await check(jetstream_log, created, await write_all(logs))


@pytest.mark.slow
async def test_fifty_writers_with_connections_cut(
    server: EmbeddedServer, jetstream_log: JetStreamLog
) -> None:
    """The same while connections are cut before the server's answer arrives."""
    created = await Ledger(jetstream_log).create(make_spec("etl"))
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(Proxy(server.url)) for _ in range(CONNECTIONS)]
        logs = []
        for proxy in proxies:
            logs.append(await JetStreamLog.connect(proxy.url))
            stack.push_async_callback(logs[-1].close)
        writing = asyncio.create_task(write_all(logs))
        cutting = asyncio.create_task(keep_cutting(jetstream_log, proxies, logs))
        try:
            answers = await writing
        finally:
            cutting.cancel()
            await asyncio.wait([cutting])
            for proxy in proxies:
                proxy.release()
        assert sum(proxy.connections for proxy in proxies) >= 2 * CONNECTIONS
        await check(jetstream_log, created, answers)


async def keep_cutting(observer: EventLog, proxies: Sequence[Proxy], logs: Sequence[JetStreamLog]) -> None:
    """At every tenth event, lose an answer and the connection of another log."""
    feed = await observer.follow(after=0)
    for proxy, log in itertools.cycle(zip(proxies, logs, strict=True)):
        for _ in range(10):
            await feed.take(1)
        await log._connection.wait_up(60)
        proxy.withhold()
        await proxy.withheld(b"MSG ")  # an acknowledgement, or the answer to a read
        proxy.cut()


@pytest.mark.parametrize("verb", ["create", "apply", "apply another"])
async def test_first_submissions_race(logs: list[JetStreamLog], verb: str) -> None:
    """One of many first submissions of a name creates the job; the others are told so."""

    async def submit(writer: int) -> Receipt | JobExists:
        ledger = Ledger(logs[writer % CONNECTIONS])
        try:
            if verb == "create":
                return await ledger.create(make_spec("etl"))
            return await ledger.apply(make_spec("etl", priority=writer if verb == "apply another" else 0))
        except JobExists as refused:
            return refused

    answers = await asyncio.gather(*(submit(writer) for writer in range(10)))
    receipts = [answer for answer in answers if isinstance(answer, Receipt)]
    written = [receipt for receipt in receipts if receipt.changed]
    assert {answer.job_id for answer in answers} == {ID}
    if verb == "create":
        assert len(receipts) == 1
    elif verb == "apply":
        assert (len(receipts), len(written)) == (10, 1)
    else:
        assert sorted(receipt.version for receipt in written) == list(range(1, 11))
    items = await full_history(Ledger(logs[0]), ID)
    assert sorted(item.event_id for item in items) == sorted(receipt.event_id for receipt in written)


numbers = itertools.count(1)


class Adversary:
    """A log in which another writer is always first."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.races = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def append(self, item: PendingEvent, *, expect: int) -> Appended | WrongSequence:
        """Append after another writer."""
        self.races += 1
        state = state_data((StateType.QUEUED, StateType.RUNNING)[self.races % 2], str(self.races))
        await put(self._log, draft(JobStateChanged, ID, state, next(numbers)))
        return await self._log.append(item, expect=expect)


@pytest.mark.parametrize("remembers", [True, False])
async def test_contention_has_the_revision_and_the_missed_events(
    remembers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After COMMAND_MAX_ATTEMPTS lost races nothing was written; the error has the events since the start."""
    monkeypatch.setattr("jobledger.store.ledger.COMMAND_MAX_WAIT_SECONDS", 0.0)
    log = MemoryLog()
    await Ledger(log).create(make_spec("etl"))
    adversary = Adversary(log)
    ledger = Ledger(adversary)  # type: ignore[arg-type]
    if remembers:
        await ledger.load(ID)
    with pytest.raises(Contention, match="lost the race") as contention:
        await ledger.update(ID, make_spec(priority=1))
    assert adversary.races == COMMAND_MAX_ATTEMPTS < MISSED_MAX_EVENTS
    assert (await log.info()).last_sequence == COMMAND_MAX_ATTEMPTS + 1
    error = contention.value
    assert (error.job_id, error.revision) == (ID, COMMAND_MAX_ATTEMPTS + 1)
    assert [item.revision for item in error.missed] == list(range(2, COMMAND_MAX_ATTEMPTS + 2))
    assert len(ledger._turns) == 0


async def test_a_lost_race_is_decided_again() -> None:
    """The command decides on the job as it is then."""
    log = MemoryLog()
    await Ledger(log).create(make_spec("etl"))

    class Once(Adversary):
        """A log in which another writer is first once."""

        async def append(self, item: PendingEvent, *, expect: int) -> Appended | WrongSequence:
            if self.races:
                return await self._log.append(item, expect=expect)
            return await super().append(item, expect=expect)

    won = State(StateType.RUNNING, "1")  # the state that the other writer sets
    receipt = await Ledger(Once(log)).set_state(ID, won)  # type: ignore[arg-type]
    assert (receipt.changed, receipt.revision) == (False, 2)
    await Ledger(log).set_state(ID, State(StateType.PENDING))
    receipt = await Ledger(Once(log)).set_state(ID, State(StateType.FAILED))  # type: ignore[arg-type]
    assert (receipt.changed, receipt.revision) == (True, 5)


async def test_commands_of_one_ledger_take_turns() -> None:
    """Commands on one job through one ledger never race each other: each is appended at once."""
    log = MemoryLog()

    class Counting:
        """The log, with a count of appends."""

        appends = 0

        def __getattr__(self, name: str) -> object:
            return getattr(log, name)

        async def append(self, item: PendingEvent, *, expect: int) -> Appended | WrongSequence:
            self.appends += 1
            await asyncio.sleep(0)
            return await log.append(item, expect=expect)

    counting = Counting()
    ledger = Ledger(counting)  # type: ignore[arg-type]
    await ledger.create(make_spec("etl"))
    states = [State(StateType.RUNNING, str(number)) for number in range(20)]
    receipts = await asyncio.gather(*(ledger.set_state(ID, state) for state in states))
    assert sorted(receipt.revision for receipt in receipts) == list(range(2, 22))
    assert counting.appends == 21
