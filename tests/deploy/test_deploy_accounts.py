"""The service and subscribers work through the deployed accounts."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jobledger import (
    InvalidInput,
    JetStreamLog,
    Ledger,
    LogNotPermitted,
    State,
    StateType,
    SubscribedEvent,
    Subscriptions,
    subscribe,
)
from tests.conftest import make_spec
from tests.support.api import job_body, running_api
from tests.support.cluster import CONFIGS, PASSWORD
from tests.support.http_servers import receiving
from tests.support.logs import ask, eventually
from tests.support.rights import WAIT_SECONDS, one_server
from tests.support.webhooks import LOCAL


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """A server with the accounts of `deploy/nats/accounts-example.conf`, and no stream yet."""
    async with one_server(tmp_path / "nats", (CONFIGS / "accounts-example.conf").read_text()) as found:
        yield found


async def connect(address: str, user: str) -> JetStreamLog:
    return await JetStreamLog.connect(address, user=user, password=PASSWORD)


@pytest.fixture
async def service(address: str) -> AsyncIterator[JetStreamLog]:
    """The service's log, on streams that the operator made."""
    operator = await connect(address, "operator")
    await operator.prepare_streams()
    await operator.close()
    log = await connect(address, "jobledger")
    yield log
    await log.close()


async def write(log: JetStreamLog, *names: str) -> list[str]:
    """Two events for each job; the jobs' ids."""
    ledger = Ledger(log)
    found = []
    for name in names:
        receipt = await ledger.create(make_spec(name))
        await ledger.set_state(receipt.job_id, State(StateType.RUNNING))
        found.append(receipt.job_id)
    return found


async def test_a_subscriber_subscribes_folds_parks_and_resumes(address: str, service: JetStreamLog) -> None:
    """It opens a subscription that the service created, parks and retries a job, and resumes."""
    await Subscriptions(service).create("billing")
    log = await connect(address, "billing")  # the log is still empty
    _, job_id = await write(service, "one", "two")
    handled: list[tuple[int, int]] = []
    failing, done = True, asyncio.Event()

    async def handle(event: SubscribedEvent) -> None:
        nonlocal failing
        if event.sequence == 2 and failing:
            failing = False
            raise ValueError("once")
        handled.append((event.sequence, event.revision))
        if len(handled) == 4:
            done.set()

    async with subscribe(log, "billing", with_jobs=True) as events:
        running = asyncio.create_task(events.run(handle))
        async with asyncio.timeout(WAIT_SECONDS):
            await done.wait()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert sorted(handled) == [(1, 1), (2, 2), (3, 1), (4, 2)]
    await Ledger(service).set_state(job_id, State(StateType.COMPLETED))
    async with subscribe(log, "billing") as events, asyncio.timeout(WAIT_SECONDS):
        async for event in events:
            assert (event.sequence, event.revision) == (5, 3)
            break
    await log.close()


async def test_a_held_subscription_of_another_account_is_reset(address: str, service: JetStreamLog) -> None:
    """The reader may not change its consumer: it resets its position and records that."""
    subscriptions = Subscriptions(service)
    await subscriptions.create("billing")
    await write(service, "one", "two", "three")
    log = await connect(address, "billing")
    handled: list[int] = []

    async def handle(event: SubscribedEvent) -> None:
        handled.append(event.sequence)

    async with subscribe(log, "billing") as events:
        running = asyncio.create_task(events.run(handle))
        await eventually(lambda: handled == [1, 2, 3, 4, 5, 6], within_seconds=WAIT_SECONDS)
        info = await subscriptions.reset("billing", after=2)
        assert info.parts[0].held
        await eventually(lambda: handled[6:] == [3, 4, 5, 6], within_seconds=WAIT_SECONDS)
        await subscriptions.reset("billing", after=6)
        labels = (await ask(service, "CONSUMER.INFO.JOBS.billing"))["config"]["metadata"]
        assert not [each for each in labels if each.startswith("jobledger.reset")]
        await write(service, "four")
        await eventually(lambda: handled[10:] == [7, 8], within_seconds=WAIT_SECONDS)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    async with subscribe(log, "billing") as events:  # by another process, it is not done a second time
        await write(service, "five")
        async with asyncio.timeout(WAIT_SECONDS):
            assert (await anext(events)).sequence == 9
    await log.close()


async def test_an_interrupted_reset_is_done_once(address: str, service: JetStreamLog) -> None:
    """The service dies after the request: the reader performs it once, and the request is removed."""
    subscriptions = Subscriptions(service)
    await subscriptions.create("billing")
    await write(service, "one", "two")
    log = await connect(address, "billing")
    async with subscribe(log, "billing") as events, asyncio.timeout(WAIT_SECONDS):
        assert [(await anext(events)).sequence for _ in range(4)] == [1, 2, 3, 4]
        resetting = asyncio.create_task(subscriptions.reset("billing", after=1))

        async def is_asked_for() -> bool:
            labels = (await ask(service, "CONSUMER.INFO.JOBS.billing"))["config"]["metadata"]
            return "jobledger.reset" in labels

        await eventually(is_asked_for, within_seconds=WAIT_SECONDS)
        resetting.cancel()
        await asyncio.gather(resetting, return_exceptions=True)
        assert [(await anext(events)).sequence for _ in range(3)] == [2, 3, 4]
        await write(service, "three")
        assert (await anext(events)).sequence == 5
        assert await is_asked_for()
    async with subscribe(log, "billing") as events, asyncio.timeout(WAIT_SECONDS):
        assert (await anext(events)).sequence == 6
        await events.ack(events._event)  # type: ignore[arg-type]
    info = await subscriptions.show("billing")
    assert info.position >= 5
    assert not await is_asked_for()
    await log.close()


async def test_an_account_without_rights_gets_the_command_for_the_operator(
    address: str, service: JetStreamLog
) -> None:
    """If the definition or a consumer is missing, the error names the command immediately."""
    log = await connect(address, "shipping")
    async with asyncio.timeout(WAIT_SECONDS / 2):
        with pytest.raises(LogNotPermitted, match="jobledger subscriptions create shipping"):
            async with subscribe(log, "shipping", members=4, member=1):
                pass
        await Subscriptions(service).create("shipping", members=4)
        await service.consumers().delete("shipping-2of4")
        with pytest.raises(LogNotPermitted, match=r"(?s)shipping-2of4.*jobledger subscriptions create"):
            async with subscribe(log, "shipping", members=4, member=2):
                pass
        async with subscribe(log, "shipping", members=4, member=1):
            pass
        with pytest.raises(InvalidInput, match="members"):
            async with subscribe(log, "shipping"):
                pass
    await log.close()


async def test_a_subscriber_can_not_open_other_subscriptions(address: str, service: JetStreamLog) -> None:
    """Neither an existing one nor a new name: permission denied."""
    await Subscriptions(service).create("billing")
    log = await connect(address, "shipping")
    with pytest.raises(LogNotPermitted):
        async with subscribe(log, "billing"):
            pass
    await log.close()


@pytest.mark.slow
async def test_groups_share_the_events_through_their_accounts(address: str, service: JetStreamLog) -> None:
    """Four members, and an elastic group of two on 32 partitions: each event is handled once."""
    subscriptions = Subscriptions(service)
    await subscriptions.create("shipping", members=4)
    await subscriptions.create("audit", partitions=32)
    await write(service, *(f"job-{number}" for number in range(40)))

    async def handled(user: str, readers: list[dict[str, Any]]) -> None:
        log, found = await connect(address, user), set[int]()

        async def handle(event: SubscribedEvent) -> None:
            found.add(event.sequence)

        async def read(how: dict[str, Any]) -> None:
            async with subscribe(log, user, **how) as events:
                await events.run(handle)

        tasks = [asyncio.create_task(read(how)) for how in readers]
        await eventually(lambda: len(found) == 80, within_seconds=WAIT_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await log.close()

    await handled("shipping", [{"members": 4, "member": number} for number in (1, 2, 3, 4)])
    await handled("audit", [{"elastic": True}, {"elastic": True}])


async def test_the_service_works_on_the_operators_streams(
    address: str, service: JetStreamLog, tmp_path: Path
) -> None:
    """It writes, repeats, reads, seals, delivers and creates subscriptions, but can not create streams."""
    del service
    login: dict[str, Any] = {"nats_url": address, "nats_user": "jobledger", "nats_password": PASSWORD}
    async with (
        receiving() as receiver,
        running_api(tmp_path / "data", webhook_allow=LOCAL, **login) as (_, client),
    ):
        key = {"Idempotency-Key": "abc"}
        first = await client.put("/jobs", json=job_body(), headers=key)
        assert (await client.put("/jobs", json=job_body(), headers=key)).json() == first.json()
        job_id = first.json()["JobID"]
        assert (await client.get(f"/jobs/{job_id}/history")).json()["Items"]
        hook = {"URL": receiver.url("/hook"), "Name": "hook", "After": "0"}
        api = "http://127.0.0.1/api/v1"
        assert (await client.post(f"{api}/webhooks", json=hook)).status_code == 200
        (delivered,) = await receiver.wait_for(1)
        assert delivered.event["subject"] == job_id
        assert (await client.post(f"{api}/audit/seals")).status_code == 200
        made = await client.post(f"{api}/subscriptions", json={"Name": "audit", "Partitions": 32})
        assert len(made.json()["Subscription"]["Partitions"]) == 32


async def test_without_streams_the_service_names_the_operators_command(address: str) -> None:
    """It has no right to create them, and names the right and the command."""
    with pytest.raises(LogNotPermitted, match=r"(?s)STREAM\.CREATE\.JOBS.*jobledger streams create"):
        await connect(address, "jobledger")
