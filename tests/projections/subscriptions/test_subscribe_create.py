"""Creating subscriptions, adopting consumers of earlier ones, and reading one from two tasks."""

import asyncio
from typing import Any

import pytest

from jobledger import InvalidInput, JetStreamLog, LogUnfit, SubscriptionNotFound, Subscriptions, subscribe
from tests.support.log_writer import Writer
from tests.support.logs import ask
from tests.support.readers import sequences, take, take_later


@pytest.fixture
async def writer(jetstream_log: JetStreamLog) -> Writer:
    """Two rounds of five jobs: ten events."""
    writer = Writer(jetstream_log, 5)
    for _ in range(2):
        await writer.round()
    return writer


# --- creating -----------------------------------------------------------------------------------------------


async def test_a_created_subscription_is_opened_as_it_is(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """With the same filters, start and sharing; `now` is the time of its creation."""
    subscriptions = Subscriptions(jetstream_log)
    made = await subscriptions.create("billing", types=["state"], start="5")
    assert [part.name for part in made.parts] == ["billing"]
    assert made.position == 5
    again = await subscriptions.create("billing", types=["state"], start="5")
    assert again.definition == made.definition
    await writer.round()
    async with subscribe(jetstream_log, "billing", types=["state"], start=5) as events:
        assert min(sequences(await take(events, 3))) > 5
    with pytest.raises(InvalidInput, match="types"):
        await subscriptions.create("billing", start="5")
    with pytest.raises(InvalidInput, match="types"):
        async with subscribe(jetstream_log, "billing", start=5):
            pass


@pytest.mark.parametrize(
    ("how", "names"),
    [
        ({"members": 3}, [f"group-{part}of3" for part in (1, 2, 3)]),
        ({"partitions": 32}, [f"group-{part}of32e" for part in range(1, 33)]),
        ({"plain": True}, ["group"]),
        ({"plain": True, "members": 2}, ["group-1of2", "group-2of2"]),
    ],
)
async def test_each_form_gets_all_its_consumers(
    jetstream_log: JetStreamLog, how: dict[str, Any], names: list[str]
) -> None:
    """One per member or partition; a plain one acknowledges each event by itself."""
    made = await Subscriptions(jetstream_log).create("group", **how)
    assert [part.name for part in made.parts] == names
    for name in names:
        config = (await ask(jetstream_log, f"CONSUMER.INFO.JOBS.{name}"))["config"]
        is_plain = (config["ack_policy"], config["max_ack_pending"]) == ("explicit", 1)
        assert is_plain is bool(how.get("plain"))


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"members": 2, "partitions": 2}, "members excludes partitions"),
        ({"members": 33}, "members"),
        ({"plain": True, "types": ["state"]}, "types"),
        ({"plain": True, "partitions": 4}, "plain excludes elastic"),
        ({"start": "soon"}, "start"),
        ({"labels": "=="}, "label"),
    ],
)
async def test_invalid_arguments_of_create_are_named(
    jetstream_log: JetStreamLog, how: dict[str, Any], named: str
) -> None:
    """And nothing is created."""
    subscriptions = Subscriptions(jetstream_log)
    with pytest.raises(InvalidInput, match=named):
        await subscriptions.create("wrong", **how)
    with pytest.raises(SubscriptionNotFound):
        await subscriptions.show("wrong")


async def test_subscribe_does_not_read_a_plain_subscription(jetstream_log: JetStreamLog) -> None:
    """Its consumers are for other clients."""
    await Subscriptions(jetstream_log).create("node", plain=True)
    with pytest.raises(InvalidInput, match="plain"):
        async with subscribe(jetstream_log, "node"):
            pass


# --- what is left of an earlier one -------------------------------------------------------------------------


async def forget_definition(log: JetStreamLog, name: str) -> None:
    """Delete the definition only, as if the bucket had been lost."""
    records = await log.key_value("SUBSCRIPTIONS")
    entry = await records.get(f"definition.{name}")
    assert entry is not None
    assert await records.delete(f"definition.{name}", expect=entry.revision)


@pytest.mark.parametrize("start", [4, "now"])
async def test_a_consumer_with_another_start_is_not_adopted(
    jetstream_log: JetStreamLog, writer: Writer, start: Any
) -> None:
    """The same filters and another start: refused, nothing is written, and the remedy works."""
    subscriptions = Subscriptions(jetstream_log)
    await subscriptions.create("left")
    await forget_definition(jetstream_log, "left")
    for _ in range(2):
        with pytest.raises(LogUnfit, match=r"(?s)'beginning'.*jobledger subscriptions delete left"):
            async with subscribe(jetstream_log, "left", start=start):
                pass
    assert await subscriptions.delete("left") == 0
    with pytest.raises(SubscriptionNotFound):
        await subscriptions.delete("left")
    await writer.round()
    async with subscribe(jetstream_log, "left", start=4) as events:
        assert sequences(await take(events, 2)) == [5, 6]


async def test_a_consumer_with_an_earlier_now_is_not_adopted(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """The same word means another sequence."""
    await Subscriptions(jetstream_log).create("left", start="now")
    await forget_definition(jetstream_log, "left")
    await writer.round()
    with pytest.raises(LogUnfit, match="sequence 10"):
        async with subscribe(jetstream_log, "left", start="now"):
            pass


async def test_a_consumer_with_the_same_start_is_adopted(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """If only the records were lost, the position is not."""
    del writer
    async with subscribe(jetstream_log, "kept") as events:
        found = await take(events, 4)
        await found[-1].ack()
    await forget_definition(jetstream_log, "kept")
    async with subscribe(jetstream_log, "kept") as events:
        assert sequences(await take(events, 2)) == [5, 6]


# --- two tasks ----------------------------------------------------------------------------------------------


async def test_a_second_task_is_refused_while_the_first_handles_an_event(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """It would acknowledge the first task's event; the first one is not disturbed."""
    del writer
    async with subscribe(jetstream_log, "shared") as events:
        assert sequences(await take(events, 2)) == [1, 2]
        with pytest.raises(InvalidInput, match=r"another task .* handles an event"):
            await asyncio.create_task(take(events, 1))
        with pytest.raises(InvalidInput, match="another task"):
            await asyncio.create_task(events.run(_nothing))
        assert sequences(await take(events, 1)) == [3]
        assert events.status.handled == 2


async def test_a_second_task_is_refused_while_the_first_waits(
    jetstream_log: JetStreamLog, writer: Writer
) -> None:
    """Of two waiting tasks only one could get the next event."""
    async with subscribe(jetstream_log, start="now") as events:
        waiting = take_later(events, 1)
        await asyncio.sleep(0)
        with pytest.raises(InvalidInput, match="waits for the next event"):
            await anext(events)
        await writer.round()
        assert sequences(await waiting) == [11]


async def test_one_task_after_the_other_may_read(jetstream_log: JetStreamLog, writer: Writer) -> None:
    """Tasks that ended, as `asyncio.wait_for` creates them, and tasks that acknowledged their event."""
    del writer
    async with subscribe(jetstream_log, "relay") as events:
        found = [await asyncio.wait_for(asyncio.create_task(take(events, 1)), 30) for _ in range(3)]
        assert [each[0].sequence for each in found] == [1, 2, 3]
        (event,) = await take(events, 1)
        await event.ack()
        assert sequences(await asyncio.create_task(take(events, 1))) == [5]


async def _nothing(_: object) -> None:
    """Handle an event by doing nothing."""


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"log": 7}, "log must be .*got int"),
        ({"name": None}, "name must be .*got None"),
        ({"name": b"billing"}, "name must be .*got b'billing'"),
        ({"namespace": 3}, "namespace must be .*got 3"),
        ({"job": ["j-1"]}, "job must be .*got"),
        ({"types": "state"}, "types must be .*got 'state'"),
        ({"types": None}, "types must be .*got None"),
        ({"types": [1]}, r"types must be .*got \[1\]"),
        ({"states": "Failed"}, "states must be .*got 'Failed'"),
        ({"states": 5}, "states must be .*got 5"),
        ({"labels": ["env=prod"]}, "labels must be .*got"),
        ({"labels": None}, "labels must be .*got None"),
        ({"start": None}, "start must be .*got None"),
        ({"start": 1.5}, "start must be .*got 1.5"),
        ({"start": True}, "start must be .*got True"),
        ({"members": "4", "member": 1}, "members must be .*got '4'"),
        ({"members": 4, "member": 1.0}, "member must be .*got 1.0"),
        ({"members": True, "member": True}, "members must be .*got True"),
        ({"elastic": "yes"}, "elastic must be .*got 'yes'"),
        ({"elastic": True, "partitions": None}, "partitions must be .*got None"),
        ({"with_jobs": 1}, "with_jobs must be .*got 1"),
        ({"retries": "3"}, "retries must be .*got '3'"),
    ],
)
def test_an_argument_of_a_wrong_type_is_named(how: dict[str, Any], named: str) -> None:
    """With its value and the expected type, before anything is connected to."""
    log = how.pop("log", "nats://127.0.0.1:1")
    name = how.pop("name", "billing")
    with pytest.raises(InvalidInput, match=named):
        subscribe(log, name, **how)
