"""`jobledger nats`: addresses and configuration of the nats-server that keeps the log."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import Session, connected, reading_log
from jobledger.service.cli.output import to_json
from jobledger.service.cli.text import say

if TYPE_CHECKING:
    from jobledger.service.nats_auth import Subscriber


@click.group(epilog=examples("jobledger nats url", "jobledger nats accounts"))
def nats() -> None:
    """Print addresses and configuration of nats-server."""


@nats.command(epilog=examples("jobledger nats url", "jobledger nats url -o env"))
@click.option(
    "-o",
    "--output",
    "form",
    type=click.Choice(["url", "json", "env"]),
    default="url",
    show_default=True,
    help="One complete URL; its parts as JSON; or as lines for `eval` in a shell.",
)
@reading_log
def url(*, form: str, session: Session) -> None:
    """Print the address of the NATS servers that keep the log.

    These are the embedded nats-server of the service that runs on the data directory, with a new port and
    password at every start, or the servers of `nats_url` with the credentials of the settings. The output
    contains the password. Clients that ignore user and password in a URL, such as nats.js, need the parts.
    """
    import shlex

    from jobledger.service.nats_auth import nats_address

    address = nats_address(session.settings)
    if form == "json":
        click.echo(to_json(address.wire(), compact=False))
    elif form == "env":
        for name, value in address.variables().items():
            click.echo(f"export {name}={shlex.quote(value)}")
    else:
        click.echo(address.url)


@nats.command(epilog=examples("jobledger nats accounts", "jobledger nats accounts --subscription billing"))
@click.option(
    "-s",
    "--subscription",
    "named",
    multiple=True,
    metavar="NAME[:FORM]",
    help="With an account: `billing`, `shipping:4` (members), `audit:32e` (elastic), `node:plain`.",
)
@click.option(
    "--from-service", is_flag=True, help="Include the subscriptions of the service, except webhooks."
)
@click.option(
    "--nkeys",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Use nkeys; write their seeds to this directory, one file per user, mode 0600.",
)
@connected
def accounts(*, named: tuple[str, ...], from_service: bool, nkeys: Path | None, session: Session) -> None:
    """Print the accounts of the log, the service and subscriptions.

    This is the content of `deploy/nats/accounts.conf`. Without --nkeys, each user's password is read from an
    environment variable of nats-server that the configuration names. With --nkeys, existing seeds are kept,
    so that the same command can add a subscription later; no secret is printed.
    """
    from jobledger.service.nats_auth import accounts_config, parse_subscriber, users_of

    found = {each.name: each for each in map(parse_subscriber, named)}
    if from_service:
        for each in _of_service(session):
            found.setdefault(each.name, each)
    subscribers = [found[name] for name in sorted(found)]
    keys = _nkeys(nkeys, users_of(subscribers)) if nkeys is not None else None
    click.echo(accounts_config(subscribers, keys), nl=False)
    if keys is None:
        variables = ["NATS_OPERATOR_PASSWORD", "NATS_PASSWORD", *(each.variable for each in subscribers)]
        say(f"Set these variables for nats-server: {', '.join(variables)}")


def _of_service(session: Session) -> "list[Subscriber]":
    from jobledger.service.nats_auth import parse_subscriber
    from jobledger.service.webhooks.records import SUBSCRIPTION_PREFIX

    with session.admin() as admin:
        found = admin.subscriptions()
    forms = {"alone": "", "members": ":{}", "elastic": ":{}e", "plain": ":plain"}
    return [
        parse_subscriber(f"{each['Name']}{_suffix(forms, each)}")
        for each in found
        if not str(each["Name"]).startswith(SUBSCRIPTION_PREFIX)
    ]


def _suffix(forms: dict[str, str], subscription: dict[str, object]) -> str:
    form, parts = str(subscription.get("Form")), subscription.get("Partitions")
    count = len(parts) if isinstance(parts, list) else 0
    if form == "plain" and count > 1:
        return f":{count}:plain"
    return forms.get(form, "").format(count)


def _nkeys(directory: Path, users: tuple[str, ...]) -> dict[str, str]:
    """The public keys of users; creates missing seeds."""
    from jobledger.service.nats_auth import public_nkey

    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return {user: public_nkey(directory / f"{user}.nk") for user in users}
