"""Attacks on the log by its clients: requests whose response goes to a forbidden subject."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jobledger import JetStreamLog, Ledger, State, StateType, Subscriptions
from jobledger.store.embedded import find_program
from jobledger.store.jetstream import declarations
from jobledger.store.jetstream.connection import Connection, Message, NoResponders
from tests.conftest import make_spec
from tests.support.cluster import PASSWORD, SUBSCRIBERS
from tests.support.logs import eventually

SECRET = b'{"secret":"whsec_only-the-service-may-read-this"}'
WAIT_SECONDS = 60.0

# Subjects that the service may write, with names that no other test uses.
STORED = (
    *("jobs.stored.", "jobledger.keys.stored", "jobledger.seals.stored", "jobledger.heartbeat.stored"),
    *("JOBS_SUBSCRIPTIONS.stored.", "JOBS_WEBHOOKS.stored."),
)
STREAMS = tuple(each.name("JOBS") for each in declarations.STREAMS)

# The earlier deployment: all users in the account of the log, the service with a list of denied subjects, and
# a subscriber with the documented permissions.
OLD = """
accounts {
  JOBLEDGER {
    jetstream: enabled
    users: [
      { user: operator, password: $NATS_OPERATOR_PASSWORD }
      {
        user: jobledger
        password: $NATS_PASSWORD
        permissions { publish { deny: [
          "$JS.API.STREAM.UPDATE.>", "$JS.API.STREAM.DELETE.>", "$JS.API.STREAM.PURGE.>"
          "$JS.API.STREAM.MSG.DELETE.>", "$JS.API.STREAM.RESTORE.>", "$JS.API.STREAM.PEER.REMOVE.>"
          "$JS.API.STREAM.LEADER.STEPDOWN.>"
        ] } }
      }
      {
        user: billing
        password: $NATS_BILLING_PASSWORD
        permissions {
          publish { allow: [
            "$JS.API.INFO", "$JS.API.STREAM.INFO.JOBS", "$JS.API.STREAM.MSG.GET.JOBS"
            "$JS.API.DIRECT.GET.JOBS", "$JS.API.CONSUMER.CREATE.JOBS.billing"
            "$JS.API.CONSUMER.INFO.JOBS.billing", "$JS.API.CONSUMER.MSG.NEXT.JOBS.billing"
            "$JS.API.CONSUMER.RESET.JOBS.billing", "$JS.API.CONSUMER.UNPIN.JOBS.billing"
            "$JS.ACK.JOBS.billing.>", "$JS.API.STREAM.INFO.JOBS_SUBSCRIPTIONS"
            "$JS.API.STREAM.MSG.GET.JOBS_SUBSCRIPTIONS", "$JS.API.DIRECT.GET.JOBS_SUBSCRIPTIONS"
            "JOBS_SUBSCRIPTIONS.definition.billing", "JOBS_SUBSCRIPTIONS.parked.billing.*"
          ] }
          subscribe { allow: ["_INBOX.>"] }
        }
      }
    ]
  }
}
"""

VARIABLES = ("NATS_OPERATOR_PASSWORD", "NATS_PASSWORD", *SUBSCRIBERS)


@asynccontextmanager
async def one_server(directory: Path, accounts: str) -> AsyncIterator[str]:
    """Run a nats-server with these accounts; yields its URL."""
    ports = directory / "ports"
    ports.mkdir(parents=True)
    (directory / "nats.conf").write_text(
        f'listen: "127.0.0.1:-1"\nports_file_dir: "{ports}"\n'
        f'jetstream {{ store_dir: "{directory / "store"}" }}\n{accounts}'
    )
    with (directory / "out").open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            find_program(),
            "-c",
            directory / "nats.conf",
            stdout=out,
            stderr=out,
            env=os.environ | dict.fromkeys(VARIABLES, json.dumps(PASSWORD)),
        )
    try:
        await eventually(
            lambda: process.returncode is not None or any(f.stat().st_size for f in ports.glob("*.ports")),
            within_seconds=WAIT_SECONDS,
        )
        assert process.returncode is None, (directory / "out").read_text()
        (file,) = ports.glob("*.ports")
        yield str(json.loads(file.read_text())["nats"][0])
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def prepare(operator: JetStreamLog) -> None:
    """Create all streams, jobs, two subscriptions, a webhook with its secret, a key and a seal."""
    await operator.prepare_streams()
    ledger = Ledger(operator)
    for name in ("one", "two"):
        receipt = await ledger.create(make_spec(name))
        await ledger.set_state(receipt.job_id, State(StateType.RUNNING))
    for name in ("billing", "other"):
        await Subscriptions(operator).create(name)
    connection = operator._connection
    for subject in ("jobledger.keys.known", "jobledger.seals.known", "jobledger.heartbeat.known"):
        await connection.request(subject, b"{}")
    await connection.request("JOBS_WEBHOOKS.webhooks.known", SECRET)


async def ask(connection: Connection, subject: str, body: object = None) -> dict[str, Any]:
    payload = b"" if body is None else json.dumps(body).encode()
    answer = await connection.request(subject, payload)
    return dict(json.loads(answer.payload))


async def state_of(operator: Connection, *, but: Sequence[str] = ()) -> dict[str, object]:
    """Return everything that an attack could change: streams, records and consumer positions.

    Args:
        operator: the client that reads it.
        but: prefixes of the attacker's own subjects, and of `<stream>/<consumer>`.
    """
    names = (await ask(operator, "$JS.API.STREAM.NAMES"))["streams"] or []
    found: dict[str, object] = {}
    for name in sorted(names):
        info = await ask(operator, f"$JS.API.STREAM.INFO.{name}", {"subjects_filter": ">"})
        if "state" not in info:  # deleted meanwhile
            continue
        subjects = info["state"].get("subjects") or {}
        last = {}
        for subject in subjects:
            if not subject.startswith(tuple(but)):
                stored = await ask(operator, f"$JS.API.STREAM.MSG.GET.{name}", {"last_by_subj": subject})
                last[subject] = (subjects[subject], stored.get("message", {}).get("seq"))
        found[name] = (info["config"], last)
        listed = await ask(operator, f"$JS.API.CONSUMER.LIST.{name}")
        for consumer in listed.get("consumers") or []:
            if f"{name}/{consumer['name']}".startswith(tuple(but)):
                continue
            found[f"{name}/{consumer['name']}"] = (consumer["config"], consumer["ack_floor"]["stream_seq"])
    return found


def laundering() -> dict[str, object]:
    """Return subjects that no subscriber may publish to, each with a harmful payload."""
    spy = {"deliver_subject": "_INBOX.spy.webhooks", "ack_policy": "none", "name": "spy"}
    return {
        "jobs.default.00.forged": {"type": "jobledger.job.created.v1", "actor": "the boss"},
        "JOBS_WEBHOOKS.webhooks.evil": {"url": "https://evil.example"},
        "JOBS_SUBSCRIPTIONS.definition.other": {"name": "other"},
        "JOBS_SUBSCRIPTIONS.parked.other.job": {"job": "theirs"},
        "jobledger.keys.forged": {"answer": 200},
        "jobledger.seals.forged": {"seal": 1},
        "jobledger.heartbeat.forged": {},
        "$JS.API.CONSUMER.CREATE.JOBS_WEBHOOKS.spy": {"stream_name": "JOBS_WEBHOOKS", "config": spy},
        "$JS.API.CONSUMER.DELETE.JOBS.other": {},
        "$JS.API.CONSUMER.RESET.JOBS.other": {"seq": 4},
        "$JS.API.CONSUMER.UNPIN.JOBS.other": {"group": "m"},
        "$JS.ACK.JOBS.other.1.1.1.1.0": "+ACK",
        **destructive(),
    }


HARMLESS = (
    "$JS.API.CONSUMER.UNPIN.JOBS.other",
    "$JS.ACK.JOBS.other.1.1.1.1.0",
    "$JS.API.CONSUMER.RESET.JOBS.other",
)
"""Targets where the state of the server does not show whether an attack succeeded."""


def destructive() -> dict[str, object]:
    """Subjects that administer a stream, for the operator only."""
    thief = {"name": "THIEF", "sources": [{"name": "JOBS_WEBHOOKS"}]}
    log = {
        "name": "JOBS",
        "subjects": ["jobs.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
        "allow_atomic": True,
        "num_replicas": 1,
        "duplicate_window": 120_000_000_000,
        "max_msgs": 1,
    }
    return {
        "$JS.API.STREAM.CREATE.THIEF": thief,
        "$JS.API.STREAM.CREATE.KILLER": {
            "name": "KILLER",
            "subjects": ["killer"],
            "republish": {"src": "killer", "dest": "$JS.API.STREAM.DELETE.JOBS"},
        },
        "$JS.API.STREAM.UPDATE.JOBS_KEYS": {
            "name": "JOBS_KEYS",
            "subjects": ["jobledger.keys.*"],
            "max_msgs": 1,
        },
        "$JS.API.STREAM.UPDATE.JOBS": log,
        "$JS.API.STREAM.PURGE.JOBS_KEYS": {},
        "$JS.API.STREAM.MSG.DELETE.JOBS_WEBHOOKS": {"seq": 1},
        "$JS.API.STREAM.SNAPSHOT.JOBS_WEBHOOKS": {"deliver_subject": "_INBOX.spy.snapshot"},
        **{f"$JS.API.STREAM.DELETE.{name}": {} for name in reversed(STREAMS)},
    }


def bodies(subject: str, own: str) -> Iterable[bytes]:
    """Return requests to a subject, one for each kind of response.

    Args:
        subject: of the request.
        own: a subject that the attacker may write, with the payload to send; empty: none.
    """
    stream = own.partition(".")[0]
    if own and subject.endswith((f"MSG.GET.{stream}", f"DIRECT.GET.{stream}")):
        yield json.dumps({"last_by_subj": own}).encode()  # the response is the payload of the attacker
    if "STREAM.MSG.GET" in subject or "DIRECT.GET" in subject:
        yield json.dumps({"seq": 1}).encode()
        yield json.dumps({"seq": 4_000_000}).encode()  # an empty response: enough for STREAM.DELETE
    elif "MSG.NEXT" in subject:
        yield json.dumps({"batch": 1, "no_wait": True, "group": "m"}).encode()
        yield json.dumps({"batch": 1, "no_wait": True}).encode()
    elif "UNPIN" in subject:
        yield json.dumps({"group": "m"}).encode()
    elif subject.startswith("$JS.ACK"):
        yield b"+ACK"
    else:
        yield b"{}"


def concrete(subject: str, consumer: str) -> str:
    """Return a subject without wildcards that a permission allows."""
    if subject.startswith("$JS.ACK."):
        return f"$JS.ACK.JOBS.{consumer}.1.1.1.1.0"
    if "CONSUMER" in subject:
        return subject.replace("*", consumer)
    return subject.replace("*", "stored").replace(">", "stored.by.attacker")


class Attacker:
    """A client that exceeds its permissions."""

    def __init__(self, connection: Connection, requests: Sequence[str], *, own: str, consumer: str) -> None:
        self.connection = connection
        self.got: list[Message] = []
        self._requests = [concrete(each, consumer) for each in requests]
        self._own = own

    async def listen(self) -> None:
        """Collect messages to the inboxes used by the attacks."""

        async def deliver(message: Any) -> None:
            self.got.append(Message(message.subject, message.reply, message.data, message.headers))

        await self.connection._client.subscribe("_INBOX.spy.>", cb=deliver)

    async def attack(self, targets: dict[str, object]) -> int:
        """Send every allowed request with every target as reply subject; returns the number sent."""
        count = 0
        for target, content in targets.items():
            payload = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            await self.store(payload)
            for subject in self._requests:
                for body in bodies(subject, self._own):
                    await self.connection.publish(subject, body, target)
                    count += 1
                if not subject.startswith("$JS"):
                    await self.connection.publish(subject, payload, target)
        await self.settle()
        return count

    async def store(self, payload: bytes) -> None:
        """Store a payload where it can be requested from, if possible."""
        if self._own:
            await self.connection.request(self._own, payload)

    async def direct(self, targets: dict[str, object]) -> None:
        """Publish forbidden messages with an inbox for the response, which must not arrive."""
        for target, content in targets.items():
            payload = content.encode() if isinstance(content, str) else json.dumps(content).encode()
            try:
                answer = await self.connection.request(target, payload, timeout_seconds=1)
            except NoResponders:
                continue
            raise AssertionError(f"{target} answered {answer.payload!r:.200}")

    async def settle(self) -> None:
        """Wait until the server has processed everything sent."""
        await self.connection._client.flush()
        await ask(self.connection, "$JS.API.STREAM.INFO.JOBS")
