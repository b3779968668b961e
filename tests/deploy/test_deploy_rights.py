"""No client of the log can administer it: every allowed request, with every forbidden reply subject."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jobledger import InvalidInput, JetStreamLog
from jobledger.service.nats_auth import (
    Subscriber,
    accounts_config,
    parse_subscriber,
    service_requests,
    subscriber_requests,
)
from jobledger.store.jetstream.connection import Connection
from tests.support.cluster import CONFIGS, PASSWORD
from tests.support.logs import eventually
from tests.support.rights import (
    HARMLESS,
    OLD,
    SECRET,
    STORED,
    STREAMS,
    WAIT_SECONDS,
    Attacker,
    ask,
    destructive,
    laundering,
    one_server,
    prepare,
    state_of,
)

BILLING = parse_subscriber("billing")
EXAMPLE = [parse_subscriber(text) for text in ("audit:32e", "billing", "node-billing:plain", "shipping:4")]
OWN_RECORD = "JOBS_SUBSCRIPTIONS.parked.billing.mine"
OWN = ("JOBS_SUBSCRIPTIONS.parked.billing.", "JOBS/billing")


class Deployment(NamedTuple):
    """A running server.

    Attributes:
        address: of it.
        operator: who may see everything.
    """

    address: str
    operator: JetStreamLog

    async def connect(self, user: str) -> Connection:
        return await Connection.open(self.address, user=user, password=PASSWORD)

    async def state(self, *but: str) -> dict[str, object]:
        return await state_of(self.operator._connection, but=but)


async def _opened(directory: Path, accounts: str) -> AsyncIterator[Deployment]:
    async with one_server(directory, accounts) as address:
        operator = await JetStreamLog.connect(address, user="operator", password=PASSWORD)
        await prepare(operator)
        yield Deployment(address, operator)
        await operator.close()


@pytest.fixture
async def old(tmp_path: Path) -> AsyncIterator[Deployment]:
    """One account for all, as it was deployed before."""
    async for place in _opened(tmp_path / "old", OLD):
        yield place


@pytest.fixture
async def deployed(tmp_path: Path) -> AsyncIterator[Deployment]:
    """The accounts of `deploy/nats/accounts-example.conf`."""
    async for place in _opened(tmp_path / "new", (CONFIGS / "accounts-example.conf").read_text()):
        yield place


async def billing(place: Deployment) -> Attacker:
    """The subscriber of the page, who attacks."""
    connection = await place.connect("billing")
    attacker = Attacker(connection, subscriber_requests(BILLING), own=OWN_RECORD, consumer="billing")
    await attacker.listen()
    return attacker


def test_the_deployed_accounts_are_what_the_command_prints() -> None:
    """For the service alone, and with one subscription of each form."""
    assert (CONFIGS / "accounts.conf").read_text() == accounts_config([])
    assert (CONFIGS / "accounts-example.conf").read_text() == accounts_config(EXAMPLE)
    assert "include accounts.conf" in (CONFIGS / "common.conf").read_text()


@pytest.mark.parametrize("target", [each for each in laundering() if each not in HARMLESS])
async def test_each_attack_would_succeed_within_one_account(old: Deployment, target: str) -> None:
    """The attacks are real: within one account each one succeeds."""
    attacker = await billing(old)
    before = await old.state(*OWN)

    async def harmed() -> bool:
        return bool(attacker.got) or await old.state(*OWN) != before

    await attacker.store(json.dumps(laundering()[target]).encode())
    await attacker.connection.publish(
        "$JS.API.DIRECT.GET.JOBS_SUBSCRIPTIONS", json.dumps({"last_by_subj": OWN_RECORD}).encode(), target
    )
    await eventually(harmed, within_seconds=WAIT_SECONDS)
    await attacker.connection.close()


async def test_no_answer_to_a_subscriber_goes_where_it_may_not_publish(deployed: Deployment) -> None:
    """Every allowed request with every forbidden reply subject: nothing is changed or revealed."""
    attacker = await billing(deployed)
    before = await deployed.state(*OWN)
    assert await attacker.attack(laundering()) > 200
    assert await deployed.state(*OWN) == before
    assert not [each for each in attacker.got if SECRET in each.payload]
    await attacker.direct(laundering())
    assert await deployed.state(*OWN) == before
    await attacker.connection.close()


async def test_the_service_could_delete_the_log_within_one_account(old: Deployment) -> None:
    """A deny list is not enough: a stream that republishes sends what the list forbids."""
    service = await old.connect("jobledger")
    await ask(service, "$JS.API.STREAM.CREATE.KILLER", destructive()["$JS.API.STREAM.CREATE.KILLER"])
    await service.publish("killer", b"")

    async def is_gone() -> bool:
        return "JOBS" not in await old.state()

    await eventually(is_gone, within_seconds=WAIT_SECONDS)
    await service.close()


async def the_service(place: Deployment) -> Attacker:
    """Somebody who has the service's credentials."""
    connection = await place.connect("jobledger")
    own = "JOBS_SUBSCRIPTIONS.stored.by.attacker"
    attacker = Attacker(connection, service_requests(), own=own, consumer="stored")
    await attacker.listen()
    return attacker


async def test_no_answer_to_the_service_administers_a_stream(deployed: Deployment) -> None:
    """Every request of the service, with every administrative subject as the reply subject."""
    attacker = await the_service(deployed)
    before = await deployed.state(*STORED)
    assert await attacker.attack(destructive()) > 300
    await attacker.direct(destructive())
    assert await deployed.state(*STORED) == before
    assert set(before) >= set(STREAMS)
    await attacker.connection.close()


@pytest.mark.parametrize(
    "more", [{}, {"idle_heartbeat": 100_000_000, "flow_control": True}, {"headers_only": True}]
)
async def test_no_consumer_of_the_service_delivers_to_an_administrative_subject(
    deployed: Deployment, more: dict[str, object]
) -> None:
    """Through the `deliver_subject` of a push consumer, which the service may create."""
    attacker = await the_service(deployed)
    before = await deployed.state(*STORED)
    for number, target in enumerate(destructive()):
        name = f"stored-{number}"
        config = {"name": name, "deliver_subject": target, "ack_policy": "none", "mem_storage": True, **more}
        request = {"stream_name": "JOBS", "config": config}
        await ask(attacker.connection, f"$JS.API.CONSUMER.CREATE.JOBS.{name}", request)
    content = json.dumps(destructive()["$JS.API.STREAM.CREATE.THIEF"]).encode()
    await attacker.connection.request("jobs.stored.by.attacker", content)
    await attacker.settle()
    for number in range(len(destructive())):
        await ask(attacker.connection, f"$JS.API.CONSUMER.DELETE.JOBS.stored-{number}")
    assert await deployed.state(*STORED) == before
    await attacker.connection.close()


@pytest.mark.parametrize("user", ["node-billing", "shipping", "audit"])
async def test_other_forms_of_subscribers_have_no_more_rights(deployed: Deployment, user: str) -> None:
    """A member, an elastic group, a program in another language: each request with each reply subject."""
    (subscriber,) = [each for each in EXAMPLE if each.name == user]
    connection = await deployed.connect(user)
    own = f"JOBS_SUBSCRIPTIONS.parked.{user}."
    attacker = Attacker(
        connection, _few(subscriber), own="" if subscriber.plain else f"{own}mine", consumer=f"{user}"
    )
    await attacker.listen()
    mine = (own, f"JOBS/{user}")
    before = await deployed.state(*mine)
    assert await attacker.attack(laundering()) > 50
    await attacker.direct(laundering())
    assert await deployed.state(*mine) == before
    await connection.close()


def _few(subscriber: Subscriber) -> list[str]:
    """The requests of a subscriber, of one consumer instead of 32."""
    others = subscriber.consumers[1:]
    return [each for each in subscriber_requests(subscriber) if not each.removesuffix(".>").endswith(others)]


@pytest.mark.parametrize(
    "text", ["", "a.b", "x:0", "x:33", "x:4e4", "x:plain:4", "x:4e:plain", "x-1of4", "jobledger"]
)
def test_an_invalid_subscription_is_rejected(text: str) -> None:
    """With the accepted forms; also a name that collides with a user of the log."""
    with pytest.raises(InvalidInput):
        accounts_config([parse_subscriber(text)])


def test_two_subscriptions_never_share_an_account_or_a_password() -> None:
    """Names with the same environment variable are rejected."""
    with pytest.raises(InvalidInput, match="NATS_A_B_PASSWORD"):
        accounts_config([parse_subscriber("a-b"), parse_subscriber("a_b")])
