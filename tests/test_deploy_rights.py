"""The rights that the docs give to a subscriber are enough for it, and for nothing else."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jobledger import JetStreamLog, Ledger, State, StateType, Subscriptions, subscribe
from jobledger.store.embedded import find_program
from jobledger.store.jetstream.connection import Connection
from tests.conftest import make_spec
from tests.logs import eventually

PASSWORD = "not-much-of-a-secret"
PAGE = (Path(__file__).parent.parent / "docs" / "DEPLOY.md").read_text()
WAIT_SECONDS = 60.0


def subscriber() -> str:
    """The user of the page, as it is written."""
    found = re.search(r"```\n(\{\n  user: billing\n.*?\n\})\n```", PAGE, re.DOTALL)
    assert found
    return found[1]


@asynccontextmanager
async def two_users(directory: Path) -> AsyncIterator[str]:
    """A nats-server with the service's user and the page's; its address."""
    directory.mkdir()
    ports = directory / "ports"
    ports.mkdir()
    (directory / "nats.conf").write_text(
        f"""
        listen: "127.0.0.1:-1"
        ports_file_dir: "{ports}"
        jetstream {{ store_dir: "{directory / "store"}" }}
        authorization {{ users: [ {{ user: jobledger, password: "{PASSWORD}" }}, {subscriber()} ] }}
        """
    )
    with (directory / "out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            find_program(),
            "-c",
            directory / "nats.conf",
            stdout=out,
            stderr=out,
            env={"BILLING_PASSWORD": PASSWORD},
        )
    try:
        await eventually(
            lambda: any(file.stat().st_size for file in ports.glob("*.ports")), within_seconds=WAIT_SECONDS
        )
        (file,) = ports.glob("*.ports")
        yield str(json.loads(file.read_text())["nats"][0])
    finally:
        process.terminate()
        await process.wait()


def login(user: str) -> dict[str, Any]:
    own = {"inbox_prefix": b"_INBOX_billing"} if user == "billing" else {}
    return {"user": user, "password": PASSWORD, **own}


async def test_a_subscriber_needs_no_more_rights_than_the_page_says(tmp_path: Path) -> None:
    """It subscribes, folds, sets a job aside, tries again, goes on where it was, and begins at a time."""
    async with two_users(tmp_path / "nats") as address:
        service = await JetStreamLog.connect(address, **login("jobledger"))
        await Subscriptions(service).list()  # as a running service does, which makes the stream
        ledger = Ledger(service)
        for name in ("one", "two"):
            receipt = await ledger.create(make_spec(name))
            await ledger.set_state(receipt.job_id, State(StateType.RUNNING))
        log = await JetStreamLog.connect(address, **login("billing"))
        handled: list[tuple[int, int]] = []
        failing = True

        async def handle(event: Any) -> None:
            nonlocal failing
            if event.sequence == 2 and failing:
                failing = False
                raise ValueError("once")
            handled.append((event.sequence, event.revision))
            if len(handled) == 4:
                done.set()

        done = asyncio.Event()
        async with subscribe(log, "billing", with_jobs=True) as events:
            running = asyncio.create_task(events.run(handle))
            async with asyncio.timeout(WAIT_SECONDS):
                await done.wait()
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert sorted(handled) == [(1, 1), (2, 2), (3, 1), (4, 2)]
        await ledger.set_state(receipt.job_id, State(StateType.COMPLETED))
        async with subscribe(log, "billing") as events, asyncio.timeout(WAIT_SECONDS):
            async for event in events:
                assert (event.sequence, event.revision) == (5, 3)
                break
        await log.close()
        await service.close()


REFUSED = {
    "an event": ("jobs.default.00.j-1", {}),
    "another subscription's consumer": ("$JS.API.CONSUMER.CREATE.JOBS.other", {}),
    "another subscription's place": ("$JS.API.CONSUMER.RESET.JOBS.other", {}),
    "deleting its own place": ("$JS.API.CONSUMER.DELETE.JOBS.billing", {}),
    "another subscription's events": ("$JS.API.CONSUMER.MSG.NEXT.JOBS.other", {"batch": 1}),
    "another subscription's acknowledgement": ("$JS.ACK.JOBS.other.1.1.1.1.0", {}),
    "another subscription's record": ("JOBS_SUBSCRIPTIONS.definition.other", {}),
    "a webhook": ("JOBS_WEBHOOKS.webhooks.other", {}),
    "a webhook's secret": ("$JS.API.DIRECT.GET.JOBS_WEBHOOKS", {"seq": 1}),
    "what requests were answered": ("$JS.API.DIRECT.GET.JOBS_KEYS", {"seq": 1}),
    "a seal": ("jobledger.seals.x", {}),
    "a limit of the log": ("$JS.API.STREAM.UPDATE.JOBS", {}),
    "the log": ("$JS.API.STREAM.DELETE.JOBS", {}),
}


async def test_a_subscriber_can_do_nothing_else(tmp_path: Path) -> None:
    """Events, other subscriptions, webhooks, seals and the stream itself are out of its reach."""
    async with two_users(tmp_path / "nats") as address:
        service = await JetStreamLog.connect(address, **login("jobledger"))
        async with subscribe(service, "other"):
            pass
        allowed = await Connection.open(address, **login("jobledger"))
        refused = await Connection.open(address, **login("billing"))
        for what, (subject, body) in REFUSED.items():
            assert not refused._errors
            await refused.publish(subject, json.dumps(body).encode())
            await eventually(lambda: bool(refused._errors), within_seconds=WAIT_SECONDS)
            assert "permissions violation for publish" in str(refused._errors.pop()).lower(), what
        await refused.request("$JS.API.STREAM.INFO.JOBS", b"{}")
        await refused._client.subscribe("_INBOX.>")
        await eventually(lambda: bool(refused._errors), within_seconds=WAIT_SECONDS)
        assert "permissions violation for subscription" in str(refused._errors.pop()).lower()
        await allowed.close()
        await refused.close()
        await service.close()
