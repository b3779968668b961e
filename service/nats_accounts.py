"""The accounts of a nats-server that keep every client of the log from administering it. Pure.

    LOG       owns the streams; its only user is the operator
    SERVICE   the service: no JetStream; reaches LOG through the service imports below, and nothing else
    SUBSCRIBER_<name>   one for each subscription: the same, with fewer imports

Within one account, a user who may publish a single JetStream request may publish anything: the server checks
the subject of a request and not its reply subject, and sends its answer there with the rights of the account.
Through a service import the server replaces the reply subject, and the answer stays in the importing account.

Which requests each role needs is written here once; `deploy/nats/accounts.conf` and the tests of rights come
from here.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from jobledger.projections.limits import SUBSCRIPTION_PARTITIONS
from jobledger.projections.subscriptions.definition import Definition, define
from jobledger.store.jetstream.declarations import STREAMS, SUBSCRIPTIONS
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.subjects import STREAM_NAME

LOG: Final = "LOG"
SERVICE: Final = "SERVICE"
SYSTEM: Final = "SYS"
OPERATOR_USER: Final = "operator"
SERVICE_USER: Final = "jobledger"
SYSTEM_USER: Final = "system"
_SUBSCRIBER: Final = "SUBSCRIBER_"
_API: Final = "$JS.API"
_FORM: Final = re.compile(r"([^:]*)(?::([0-9]{1,4})(e?))?(?::(plain))?", re.ASCII)

# Requests that are answered with more than one message.
_STREAMED: Final = (f"{_API}.CONSUMER.MSG.NEXT.", f"{_API}.DIRECT.GET.")


class Subscriber(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription that a program with an account of its own reads.

    Attributes:
        name: of the subscription.
        consumers: that keep its place: one, or one for each member or partition.
        plain: read by a program in another language: it needs fewer rights.
    """

    name: str
    consumers: tuple[str, ...]
    plain: bool = False

    @property
    def account(self) -> str:
        """The name of its account."""
        return f"{_SUBSCRIBER}{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable that its password comes from."""
        return f"NATS_{re.sub('[^A-Z0-9]', '_', self.name.upper())}_PASSWORD"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """How a user logs in: with a password from the environment, or with an nkey.

    Attributes:
        name: of the user.
        variable: the environment variable of the password.
        nkey: the public key; if it is given, there is no password.
    """

    name: str
    variable: str = ""
    nkey: str = ""


def subscriber_of(definition: Definition) -> Subscriber:
    """The rights that a subscription's program needs, by its definition."""
    names = tuple(definition.consumer_name(part) for part in range(definition.parts))
    return Subscriber(name=definition.name, consumers=names, plain=definition.plain)


def parse_subscriber(text: str) -> Subscriber:
    """`billing`, `shipping:4` (four members), `audit:32e` (elastic), `node:plain`, `node:4:plain` (both).

    Raises:
        InvalidInput: if it is none of these.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"invalid subscription {text!r:.80}: use NAME, NAME:4 for four members,"
            f" NAME:{SUBSCRIPTION_PARTITIONS}e for an elastic group, or NAME:plain"
        )
    name, count, elastic, plain = found.groups()
    number = int(count or 0)
    if count and not number:
        raise InvalidInput(f"invalid subscription {text!r:.80}: it needs 1 member or partition at least")
    return subscriber_of(
        define(
            name=name,
            namespace=None,
            job=None,
            types=(),
            states=(),
            labels="",
            start="beginning",
            members=0 if elastic else number,
            partitions=number if elastic else 0,
            plain=bool(plain),
        )
    )


def service_requests() -> tuple[str, ...]:
    """The subjects that the service publishes to.

    It writes records and reads every stream. It can neither create nor change, purge or delete a stream. It
    does create consumers, of the log alone.
    """
    consumers = ("CREATE", "INFO", "MSG.NEXT", "RESET", "UNPIN", "DELETE")
    return (
        f"{_API}.INFO",
        *(each.subject.format(name=each.name(STREAM_NAME)) for each in STREAMS),
        *(
            f"{_API}.{verb}.{each.name(STREAM_NAME)}"
            for each in STREAMS
            for verb in ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET")
        ),
        *(f"{_API}.CONSUMER.{verb}.{STREAM_NAME}.*" for verb in consumers),
        f"{_API}.CONSUMER.LIST.{STREAM_NAME}",
        f"$JS.ACK.{STREAM_NAME}.>",
    )


def subscriber_requests(subscriber: Subscriber) -> tuple[str, ...]:
    """The subjects that the program of a subscription publishes to.

    Without `$JS.API.INFO` the account would get the whole API of the server, which then answers that there is
    no JetStream.
    """
    log, records = STREAM_NAME, SUBSCRIPTIONS.name(STREAM_NAME)
    verbs = ("INFO", "MSG.NEXT") if subscriber.plain else ("INFO", "MSG.NEXT", "RESET", "UNPIN")
    reading = (
        ()
        if subscriber.plain
        else (
            f"{_API}.STREAM.MSG.GET.{log}",
            f"{_API}.DIRECT.GET.{log}",
            f"{_API}.STREAM.INFO.{records}",
            f"{_API}.STREAM.MSG.GET.{records}",
            f"{_API}.DIRECT.GET.{records}",
            f"{records}.parked.{subscriber.name}.*",
        )
    )
    return (
        f"{_API}.INFO",
        f"{_API}.STREAM.INFO.{log}",
        *reading,
        *(f"{_API}.CONSUMER.{verb}.{log}.{name}" for name in subscriber.consumers for verb in verbs),
        *(f"$JS.ACK.{log}.{name}.>" for name in subscriber.consumers),
    )


def accounts_config(subscribers: Sequence[Subscriber], nkeys: Mapping[str, str] | None = None) -> str:
    """All accounts, as nats-server's configuration reads them.

    Args:
        subscribers: those that have an account of their own.
        nkeys: public keys by user; a user without one logs in with a password from the environment.

    Raises:
        InvalidInput: if two subscriptions would have the same account or the same variable.
    """
    _check_distinct(subscribers)
    keys = nkeys or {}
    importers: dict[str, list[str]] = {}
    for subject in service_requests():
        importers.setdefault(subject, []).append(SERVICE)
    for subscriber in subscribers:
        for subject in subscriber_requests(subscriber):
            importers.setdefault(subject, []).append(subscriber.account)
    exports = [_export(subject, accounts) for subject, accounts in importers.items()]
    operator = User(name=OPERATOR_USER, variable="NATS_OPERATOR_PASSWORD", nkey=keys.get(OPERATOR_USER, ""))
    service = User(name=SERVICE_USER, variable="NATS_PASSWORD", nkey=keys.get(SERVICE_USER, ""))
    system = User(name=SYSTEM_USER, variable="NATS_OPERATOR_PASSWORD", nkey=keys.get(SYSTEM_USER, ""))
    blocks = [
        "  # Owns every stream. Nothing but the operator logs in here.",
        f"  {LOG} {{",
        "    jetstream: enabled",
        f"    users: [ {_user(operator)} ]",
        "    exports: [",
        *(f"      {line}" for line in exports),
        "    ]",
        "  }",
        "  # The service. It can neither create nor change, purge or delete a stream.",
        *_importing(SERVICE, service, service_requests()),
    ]
    for subscriber in subscribers:
        user = User(name=subscriber.name, variable=subscriber.variable, nkey=keys.get(subscriber.name, ""))
        blocks += [
            f"  # Reads the subscription {subscriber.name}.",
            *_importing(subscriber.account, user, subscriber_requests(subscriber)),
        ]
    return "\n".join(
        [
            "# Made by `jobledger nats accounts`; see docs/DEPLOY.md. Make it again instead of editing it.",
            "accounts {",
            *blocks,
            "  # For `nats server …`: who is connected, which node leads, replacing a lost node.",
            f"  {SYSTEM} {{",
            f"    users: [ {_user(system)} ]",
            "  }",
            "}",
            f"system_account: {SYSTEM}",
            "",
        ]
    )


def users_of(subscribers: Sequence[Subscriber]) -> tuple[str, ...]:
    """The names of all users, those of the log and of the service first."""
    return (OPERATOR_USER, SERVICE_USER, SYSTEM_USER, *(each.name for each in subscribers))


def _check_distinct(subscribers: Sequence[Subscriber]) -> None:
    seen: dict[str, str] = dict.fromkeys(users_of(()), "the service or the operator")
    seen |= dict.fromkeys(("NATS_OPERATOR_PASSWORD", "NATS_CLUSTER_PASSWORD"), "the service or the operator")
    for subscriber in subscribers:
        for taken in (subscriber.name, subscriber.variable):
            if taken in seen:
                raise InvalidInput(
                    f"the subscription {subscriber.name} and {seen[taken]} would both be {taken} in the"
                    " configuration: leave one out, or give one another name"
                )
        seen[subscriber.name] = seen[subscriber.variable] = subscriber.name


def _export(subject: str, accounts: Sequence[str]) -> str:
    response = " response_type: stream," if subject.startswith(_STREAMED) else ""
    return f"{{ service: {json.dumps(subject)},{response} accounts: [{', '.join(accounts)}] }}"


def _importing(account: str, user: User, subjects: Sequence[str]) -> list[str]:
    return [
        f"  {account} {{",
        f"    users: [ {_user(user)} ]",
        "    imports: [",
        *(f"      {{ service: {{ account: {LOG}, subject: {json.dumps(each)} }} }}" for each in subjects),
        "    ]",
        "  }",
    ]


def _user(user: User) -> str:
    return f"{{ nkey: {user.nkey} }}" if user.nkey else f"{{ user: {user.name}, password: ${user.variable} }}"
