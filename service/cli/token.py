"""`jobledger token`: create, list and revoke the tokens in a service's token file."""

from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.options import Session, with_settings
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import Column, say
from jobledger.service.cli.times import Duration, exact_of

if TYPE_CHECKING:
    from jobledger.service.access.token_records import TokenRecord
    from jobledger.service.access.tokens import TokenFile

ROLES: Final = ("reader", "writer", "admin")  # `access.Role`, repeated for a fast start
_SHAPE: Final = Shape(
    id="ID", name="Name", columns=("ID", "Name", "Role", "Namespaces", "Created", "Expires", "Revoked")
)
_service_files = with_settings("data_dir", "tokens_file")


@click.group(
    epilog=examples("jobledger token create --name ci --role writer --namespace prod", "jobledger token list")
)
def token() -> None:
    """Create, list and revoke tokens.

    Tokens are stored in a file of the service, so these commands run on its machine; changes apply
    immediately. Without any token, the service listens on this machine only and requires none.
    """


def _token_file(session: Session) -> "TokenFile":
    from jobledger.service.access.tokens import TokenFile

    return TokenFile(session.settings.tokens_file)


@token.command(
    epilog=examples(
        "jobledger token create --name ci --role writer --namespace prod --expires 90d",
        "jobledger token create --name root --role admin",
    )
)
@click.option("--name", required=True, help="Its owner: the actor of events written with it.")
@click.option("--role", required=True, type=click.Choice(ROLES), help="What it permits.")
@click.option(
    "--namespace", "namespaces", multiple=True, metavar="NAME", help="Namespace it is valid in; repeatable."
)
@click.option("--all-namespaces", is_flag=True, help="Valid in all namespaces, like every admin token.")
@click.option(
    "--expires",
    type=Duration(),
    metavar="DURATION",
    help="Lifetime, such as `30d` or `12h`; default: until it is revoked.",
)
@output_option("table", "json")
@_service_files
def create(
    *,
    name: str,
    role: str,
    namespaces: tuple[str, ...],
    all_namespaces: bool,
    expires: float | None,
    output: Output,
    session: Session,
) -> None:
    """Create a token, and show it once.

    Standard output is the token alone; only its hash is stored. After the first token is created, the service
    requires tokens.
    """
    from jobledger.service.access.principal import Role

    if all_namespaces and namespaces:
        raise click.UsageError("--namespace and --all-namespaces contradict each other; use one of them")
    if not all_namespaces and not namespaces and role != Role.ADMIN:
        raise click.UsageError(f"a {role} token requires --namespace NAME or --all-namespaces")
    tokens = _token_file(session)
    record, text = tokens.create(name, Role(role), namespaces or None, expires_seconds=expires)
    if output.for_machines:
        output.document({**_wire(record), "Token": text})
        return
    click.echo(text)
    until = f", expires {exact_of(record.expires)}" if record.expires else ""
    say(
        f"{record.role} {record.name!r} in {_namespaces(record)}: ID {record.id}{until}, hash stored in"
        f" {tokens.path}.\n"
        "The token is shown only this once. Put it into JOBLEDGER_TOKEN, or into a file of mode 600 for"
        " --token-file."
    )


@token.command("list", epilog=examples("jobledger token list", "jobledger token list -o csv"))
@list_output_option()
@_service_files
def list_tokens(*, output: Output, session: Session) -> None:
    """List all tokens.

    Includes revoked and expired ones; never shows the tokens themselves.
    """
    tokens = _token_file(session)
    records = tokens.records()
    print_list(
        output,
        [_wire(record) for record in records],
        _SHAPE,
        [Column(name, flexible=name in {"Name", "Namespaces"}) for name in _SHAPE.columns],
        lambda: [
            (
                one.id,
                one.name,
                str(one.role),
                _namespaces(one),
                *map(exact_of, (one.created, one.expires, one.revoked)),
            )
            for one in records
        ],
        empty=f"No tokens in {tokens.path}: the service requires none.",
    )


@token.command(epilog=examples("jobledger token revoke ci"))
@click.argument("which", metavar="ID|NAME")
@_service_files
def revoke(*, which: str, session: Session) -> None:
    """Revoke a token, immediately and permanently.

    A name can be used if only one valid token has it. The service continues to require tokens.
    """
    record = _token_file(session).revoke(which)
    say(f"revoked {record.id} ({record.role} {record.name!r})")


def _wire(record: "TokenRecord") -> dict[str, Any]:
    """All fields but the hash, with keys like those of the API."""
    fields = msgspec.to_builtins(record)
    return {
        "ID": fields["id"],
        "Name": fields["name"],
        "Role": fields["role"],
        "Namespaces": fields.get("namespaces"),
        "Created": fields["created"],
        "Expires": fields.get("expires"),
        "Revoked": fields.get("revoked"),
    }


def _namespaces(record: "TokenRecord") -> str:
    return "all namespaces" if record.namespaces is None else ", ".join(record.namespaces)
