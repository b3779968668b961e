"""`jobledger token`: make, list and revoke the tokens of a service, in its token file."""

import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.text import Column, print_table, say
from jobledger.service.cli.times import Duration, exact_of

if TYPE_CHECKING:
    from jobledger.service.access.token_records import TokenRecord
    from jobledger.service.access.tokens import TokenFile

ROLES = ("reader", "writer", "admin")  # `access.Role`, which is imported only when it is needed
_SHAPE = Shape(
    id="ID", name="Name", columns=("ID", "Name", "Role", "Namespaces", "Created", "Expires", "Revoked")
)
F = TypeVar("F", bound=Callable[..., Any])

_WHERE = (
    click.option(
        "--data-dir", type=click.Path(path_type=Path), help="Directory of the service, with its token file."
    ),
    click.option("--tokens-file", type=click.Path(path_type=Path), help="The token file itself."),
    click.option(
        "--config",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File with the service's settings (TOML).",
    ),
)


@click.group(
    epilog=examples("jobledger token create --name ci --role writer --namespace prod", "jobledger token list")
)
def token() -> None:
    """Make, list and revoke the tokens of a service.

    They are in a file that the service reads, so this is done on its machine, and counts at once. While
    there is no token, the service listens on this machine only and asks for none.
    """


def with_token_file(function: F) -> F:
    """Give a command the options that say which token file, and what they lead to as `tokens`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        from jobledger.service.access.tokens import TokenFile
        from jobledger.service.settings import load_settings

        flags = {name: kwargs.pop(name) for name in ("data_dir", "tokens_file", "config")}
        return function(
            *args, tokens=TokenFile(load_settings(flags, os.environ).settings.tokens_file), **kwargs
        )

    for option in reversed(_WHERE):
        option(run)
    return run  # type: ignore[return-value]


@token.command(
    epilog=examples(
        "jobledger token create --name ci --role writer --namespace prod --expires 90d",
        "jobledger token create --name root --role admin",
    )
)
@click.option("--name", required=True, help="Whose it is: the actor of the events that come with it.")
@click.option("--role", required=True, type=click.Choice(ROLES), help="What it may do.")
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="NAME", help="Where; give it again for more of them."
)
@click.option("--all-namespaces", is_flag=True, help="Everywhere; an admin always is.")
@click.option(
    "--expires",
    type=Duration(),
    metavar="DURATION",
    help="How long it counts, as `30d` or `12h`; without it, until it is revoked.",
)
@output_option("table", "json")
@with_token_file
def create(
    *,
    name: str,
    role: str,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    expires: float | None,
    form: str,
    tokens: "TokenFile",
) -> None:
    """Make a token, and show it, once.

    Standard output is the token alone, for a file or a variable; only its hash is kept. The first one
    closes a service that runs without tokens.
    """
    from jobledger.service.access.principal import Role

    if all_namespaces and namespaces:
        raise click.UsageError("--namespace and --all-namespaces contradict each other: keep one of them")
    if not all_namespaces and not namespaces and role != Role.ADMIN:
        raise click.UsageError("where may it? Say --namespace NAME, or --all-namespaces")
    record, text = tokens.create(name, Role(role), namespaces or None, expires_seconds=expires)
    if form == "json":
        Output(form).document({**_shown(record), "Token": text})
        return
    click.echo(text)
    until = f", expires {exact_of(record.expires)}" if record.expires else ""
    say(
        f"{record.role} {record.name!r} in {_where(record)}: id {record.id}{until}, kept hashed in"
        f" {tokens.path}.\n"
        "This is the only time that it is shown. Put it into JOBLEDGER_TOKEN, or into a file of mode 600 for"
        " --token-file."
    )


@token.command("list", epilog=examples("jobledger token list", "jobledger token list -o csv"))
@list_output_option
@quiet_option
@with_token_file
def list_tokens(form: str, quiet: bool, tokens: "TokenFile") -> None:
    """List all tokens, also revoked and expired ones; never the tokens themselves."""
    output = Output(form, quiet=quiet)
    records = tokens.records()
    print_list(
        output,
        [_shown(record) for record in records],
        _SHAPE,
        lambda whole: _print(records, whole),
        empty=f"No tokens in {tokens.path}: the service asks for none",
    )


def _print(records: "Sequence[TokenRecord]", whole: bool) -> None:
    names = ("ID", "Name", "Role", "Namespaces", "Created", "Expires", "Revoked")
    rows = [
        (
            one.id,
            one.name,
            str(one.role),
            _where(one),
            *map(exact_of, (one.created, one.expires, one.revoked)),
        )
        for one in records
    ]
    print_table([Column(name, flexible=name in {"Name", "Namespaces"}) for name in names], rows, whole=whole)


@token.command(epilog=examples("jobledger token revoke ci"))
@click.argument("which", metavar="ID|NAME")
@with_token_file
def revoke(which: str, tokens: "TokenFile") -> None:
    """End a token, at once and for good.

    A name will do if only one token that counts has it. The service stays closed to requests without a token.
    """
    record = tokens.revoke(which)
    say(f"revoked {record.id} ({record.role} {record.name!r})")


def _shown(record: "TokenRecord") -> dict[str, Any]:
    """All but the hash, with the keys of the API's kind."""
    plain = msgspec.to_builtins(record)
    return {
        "ID": plain["id"],
        "Name": plain["name"],
        "Role": plain["role"],
        "Namespaces": plain.get("namespaces"),
        "Created": plain["created"],
        "Expires": plain.get("expires"),
        "Revoked": plain.get("revoked"),
    }


def _where(record: "TokenRecord") -> str:
    return "all namespaces" if record.namespaces is None else ", ".join(record.namespaces)
