"""`jobledger webhook`: manage webhooks and the keys that their secrets are encrypted with."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import Shape, list_output_option, print_fields, print_list, text_field
from jobledger.service.cli.options import (
    Session,
    confirm,
    connected,
    event_state_filter,
    event_type_filter,
    labels_filter,
    name_argument,
    namespace_filter,
    with_settings,
    yes_option,
)
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.subscriptions import filter_text, lag_text
from jobledger.service.cli.text import Cell, Column, plain, say
from jobledger.service.cli.times import Duration, exact_of

if TYPE_CHECKING:
    from jobledger.service.webhooks.secret_keys import WebhookKeys

FAILED_CODE: Final = 1
_SECRET_VARIABLE: Final = "WEBHOOK_SECRET"  # noqa: S105  # an environment variable
_STATE_STYLES: Final = {"enabled": "green", "paused": "yellow", "disabled": "red"}
_LABEL_WIDTH: Final = 14
_LISTED: Final = Shape(
    id="Name",
    name="Name",
    columns=("Name", "URL", "State", "Types", "States", "Namespace", "Labels", "Created"),
)

_secret_option = click.option(
    "--secret",
    default="",
    envvar=_SECRET_VARIABLE,
    metavar="TEXT",
    help=f"`whsec_…` to sign with. Other users of this machine can see it; {_SECRET_VARIABLE} is safer.",
)
_secret_file_option = click.option(
    "--secret-file", type=click.Path(dir_okay=False, path_type=Path), help="File with the secret."
)


@click.group(
    epilog=examples("jobledger webhook add https://example.com/hook --name orders", "jobledger webhook list")
)
def webhook() -> None:
    """Manage webhooks, which send signed events to a URL.

    Each event is POSTed as a CloudEvent, signed according to Standard Webhooks, and retried until the
    receiver accepts it; the order of each job's events is kept. Changes require an admin token.
    """


@webhook.command(
    epilog=examples(
        "jobledger webhook add https://example.com/hook --name orders",
        "jobledger webhook add https://example.com/failed --state Failed --namespace prod",
    )
)
@click.argument("target", metavar="URL")
@click.option("--name", default="", help="Name of the webhook; default: the host of the URL.")
@event_type_filter
@event_state_filter
@namespace_filter
@labels_filter
@_secret_option
@_secret_file_option
@click.option("--from-beginning", is_flag=True, help="Start with the first event, not with the next one.")
@click.option("--after", default="", metavar="POINT", help="Start after a cursor, a sequence, or a time.")
@output_option("table", "json", "yaml", quiet=True)
@connected
def add(
    *,
    target: str,
    name: str,
    types: tuple[str, ...],
    states: tuple[str, ...],
    namespace: str | None,
    labels: tuple[str, ...],
    secret: str,
    secret_file: Path | None,
    from_beginning: bool,
    after: str,
    output: Output,
    session: Session,
) -> None:
    """Add a webhook, and show the generated secret once.

    Standard output is the secret alone, and empty if you passed one. Without --after or --from-beginning, the
    webhook starts with the next event.
    """
    if from_beginning and after:
        raise click.UsageError("--from-beginning and --after contradict each other; use one of them")
    body = {
        "URL": target,
        "Name": name,
        "Types": list(types),
        "States": list(states),
        "Namespace": session.namespace(namespace),
        "Labels": list(labels),
        "Secret": _read_secret(secret, secret_file),
        "After": "0" if from_beginning else after,
    }
    with session.admin() as admin:
        result = admin.add_webhook(body)
    _print_written(result, output, verb="added")


@webhook.command("list", epilog=examples("jobledger webhook list", "jobledger webhook list -o csv"))
@list_output_option()
@connected
def list_webhooks(*, output: Output, session: Session) -> None:
    """List the webhooks."""
    with session.admin() as admin:
        found = admin.webhooks()
    print_list(
        output,
        found,
        _LISTED,
        (
            Column("Name"),
            Column("URL", flexible=True),
            Column("State"),
            Column("Events", flexible=True, leaves=1),
            Column("Trouble", flexible=True, leaves=2),
        ),
        lambda: map(_row, found),
        empty="No webhooks. Add one with `jobledger webhook add URL`.",
    )


@webhook.command(epilog=examples("jobledger webhook show orders"))
@name_argument
@output_option("table", "json", "yaml")
@connected
def show(*, name: str, output: Output, session: Session) -> None:
    """Show a webhook and its progress."""
    with session.admin() as admin:
        found = admin.webhook(name)
        if output.for_machines:
            output.document(found)
            return
        progress = admin.find_subscription(text_field(found, "Subscription"))
    shown_name, url, state, events, trouble = _row(found)
    created_by = f" by {text_field(found, 'CreatedBy')}" if found.get("CreatedBy") else ""
    fields: list[tuple[str, str | Cell]] = [
        ("Name", shown_name),
        ("URL", url),
        ("State", state),
        ("Trouble", trouble),
        ("Events", events),
        ("Started after", text_field(found, "After")),
        ("Created", exact_of(found.get("Created")) + created_by),
        *(("Secret", _secret_text(each)) for each in found.get("Secrets") or ()),
        ("Subscription", text_field(found, "Subscription")),
    ]
    if progress is not None:
        fields += [
            ("Gap", f"{progress.get('Gap')} events, {lag_text(progress)}"),
            ("Failing jobs", f"{progress.get('Retrying')} retrying, {progress.get('Parked')} parked"),
        ]
    print_fields(fields, width=_LABEL_WIDTH)


@webhook.command(epilog=examples("jobledger webhook test orders"))
@name_argument
@output_option("table", "json", "yaml")
@connected
@click.pass_context
def test(ctx: click.Context, *, name: str, output: Output, session: Session) -> None:
    """Send a test event now, and show the result.

    The exit code is 1 if the receiver did not accept it. The event is not part of the log.
    """
    with session.admin() as admin:
        result = admin.test_webhook(name)
    delivered = result.get("Delivered") is True
    if output.for_machines:
        output.document(result)
    elif delivered:
        click.echo(
            f"{plain(name)}: accepted with status {result.get('Status')} after {result.get('Seconds')} s"
        )
    else:
        click.echo(f"{plain(name)}: not accepted: {plain(text_field(result, 'Problem'))}")
    ctx.exit(0 if delivered else FAILED_CODE)


@webhook.command(epilog=examples("jobledger webhook rotate orders --overlap 24h"))
@name_argument
@_secret_option
@_secret_file_option
@click.option(
    "--overlap",
    type=Duration(),
    default=None,
    metavar="DURATION",
    help="How long to sign with the old secret as well; default: a day.",
)
@output_option("table", "json", "yaml", quiet=True)
@connected
def rotate(
    *,
    name: str,
    secret: str,
    secret_file: Path | None,
    overlap: float | None,
    output: Output,
    session: Session,
) -> None:
    """Sign with a new secret, and for a while also with the old one.

    Standard output is the new secret alone, and empty if you passed one.
    """
    with session.admin() as admin:
        result = admin.rotate_webhook_secret(name, _read_secret(secret, secret_file), overlap)
    _print_written(result, output, verb="has a new secret")


@webhook.command(epilog=examples("jobledger webhook pause orders"))
@name_argument
@connected
def pause(*, name: str, session: Session) -> None:
    """Stop sending, and keep the position."""
    with session.admin() as admin:
        admin.set_webhook_state(name, "paused")
    say(f"{name} paused; continue with `jobledger webhook resume {name}`")


@webhook.command(epilog=examples("jobledger webhook resume orders"))
@name_argument
@connected
def resume(*, name: str, session: Session) -> None:
    """Continue sending from the kept position, also after a 410."""
    with session.admin() as admin:
        admin.set_webhook_state(name, "enabled")
    say(f"{name} resumed")


@webhook.command(epilog=examples("jobledger webhook delete orders --yes"))
@name_argument
@yes_option
@connected
def delete(*, name: str, yes: bool, session: Session) -> None:
    """Delete a webhook, its position, and its parked jobs."""
    confirm(yes, f"Delete the webhook {name}, its position, and its parked jobs?")
    with session.admin() as admin:
        admin.delete_webhook(name)
    say(f"{name} deleted")


@webhook.group(epilog=examples("jobledger webhook key show", "jobledger webhook key rotate"))
def key() -> None:
    """Show and rotate the keys that encrypt the secrets of webhooks.

    The keys are in a file of the service (`webhook_keys_file`), the same on every replica. The service
    creates the first key.
    """


_key_settings = with_settings("data_dir", "webhook_keys_file")


def _key_file(session: Session) -> "WebhookKeys":
    from jobledger.service.webhooks.secret_keys import WebhookKeys

    return WebhookKeys(session.settings.webhook_keys_file)


@key.command("show", epilog=examples("jobledger webhook key show"))
@_key_settings
def show_keys(*, session: Session) -> None:
    """Show the IDs of the keys, newest first."""
    for each in reversed(_key_file(session).records()):
        click.echo(f"{each.id}  {each.created}")


@key.command("rotate", epilog=examples("jobledger webhook key rotate --data-dir /var/lib/jobledger"))
@_key_settings
def rotate_keys(*, session: Session) -> None:
    """Add a key for encryption.

    The service encrypts all secrets with it within a minute. Copy the file to every replica that does not
    share it. The file keeps at most eight keys.
    """
    keys = _key_file(session)
    click.echo(keys.rotate().id)
    say(f"{keys.path} has a new key; copy the file to the replicas that do not share it")


def _read_secret(secret: str, file: Path | None) -> str:
    if file is None:
        return secret
    if secret:
        raise click.UsageError(
            f"--secret (or {_SECRET_VARIABLE}) and --secret-file contradict each other; use one of them"
        )
    from jobledger.service.access.secret_files import read_secret

    return read_secret(file, "--secret-file").decode("ascii", "replace").strip()


def _print_written(result: dict[str, Any], output: Output, *, verb: str) -> None:
    """Print a generated secret on standard output, and everything else on standard error."""
    found = result.get("Webhook") or {}
    for warning in result.get("Warnings") or ():
        say(f"Warning: {warning}")
    if output.for_machines:
        output.document(result)
        return
    name, secret = text_field(found, "Name"), text_field(result, "Secret")
    if output.quiet:
        click.echo(plain(name))
    if secret:
        click.echo(secret)
    say(f"{name} {verb}: {text_field(found, 'URL')}")
    if secret:
        say("The secret is shown only this once. Give it to the receiver, which verifies signatures with it.")


def _row(found: Mapping[str, Any]) -> list[str | Cell]:
    state = text_field(found, "State")
    shown = "down" if found.get("Down") and state == "enabled" else state
    trouble = text_field(found, "Reason") or text_field(found, "Problem")
    style = "red" if shown == "down" else _STATE_STYLES.get(state, "")
    return [
        text_field(found, "Name"),
        text_field(found, "URL"),
        Cell(shown, style),
        filter_text(found),
        trouble or "-",
    ]


def _secret_text(each: Mapping[str, Any]) -> str:
    until = f" until {exact_of(each.get('Expires'))}" if each.get("Expires") else ""
    return f"{each.get('Secret')}{until}"
