"""`jobledger webhook`: send events to a URL, signed; and look at, change and test what is sent."""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.filter_text import created, events, lag
from jobledger.service.cli.lists import Shape, list_output_option, print_list
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.shared import EVENT_WORDS, Session, StateChoice, connected, namespace_filter
from jobledger.service.cli.text import BOLD, Cell, Column, plain, print_table, say, styled
from jobledger.service.cli.times import Duration, exact_of

if TYPE_CHECKING:
    from jobledger.service.webhooks.secret_keys import WebhookKeys

FAILED_CODE = 1
_SECRET_VARIABLE = "WEBHOOK_SECRET"  # noqa: S105  # of the environment
_STATE_STYLES = {"enabled": "green", "paused": "yellow", "disabled": "red"}
_LABEL_WIDTH = 14
_LISTED = Shape(
    id="Name",
    name="Name",
    columns=("Name", "URL", "State", "Types", "States", "Namespace", "Labels", "Created"),
)

_name = click.argument("name", metavar="NAME")
_secret = click.option(
    "--secret",
    default="",
    envvar=_SECRET_VARIABLE,
    metavar="TEXT",
    help=f"`whsec_…` to sign with. Others on this machine can see it; {_SECRET_VARIABLE} is read, too.",
)
_secret_file = click.option(
    "--secret-file", type=click.Path(dir_okay=False, path_type=Path), help="File with the secret."
)


@click.group(
    epilog=examples("jobledger webhook add https://example.com/hook --name orders", "jobledger webhook list")
)
def webhook() -> None:
    """Send events to a URL, signed.

    Each event is POSTed as a CloudEvent, signed as Standard Webhooks says, in order per job, until the
    receiver takes it. Changing anything needs an admin's token.
    """


@webhook.command(
    epilog=examples(
        "jobledger webhook add https://example.com/hook --name orders",
        "jobledger webhook add https://example.com/failed --state Failed --namespace prod",
    )
)
@click.argument("target", metavar="URL")
@click.option("--name", default="", help="Of the webhook; the host's, if none is given.")
@click.option(
    "--type", "types", multiple=True, type=click.Choice(EVENT_WORDS), help="Only events of these types."
)
@click.option(
    "--state", "states", multiple=True, metavar="STATE", type=StateChoice(), help="Only into these states."
)
@namespace_filter
@click.option(
    "-l",
    "--selector",
    "labels",
    multiple=True,
    metavar="TEXT",
    help="Only jobs with labels: `env=prod,tier in (web, api)`.",
)
@_secret
@_secret_file
@click.option(
    "--from-beginning", is_flag=True, help="Begin with the first event ever, not with the next one."
)
@click.option("--after", default="", metavar="POINT", help="Begin behind a cursor, a sequence, or a time.")
@output_option("table", "json", "yaml")
@quiet_option
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
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Add a webhook; show the secret that was made for it, once.

    Standard output is the secret alone, for a file or a variable; none if you gave one. Without --after or
    --from-beginning it begins with the next event.
    """
    if from_beginning and after:
        raise click.UsageError("--from-beginning and --after contradict each other; give one of them")
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
    with session.operators() as operators:
        answer = operators.add_webhook(body)
    _tell_written(answer, Output(form, quiet=quiet), verb="added")


@webhook.command("list", epilog=examples("jobledger webhook list", "jobledger webhook list -o csv"))
@list_output_option
@quiet_option
@connected
def list_webhooks(*, form: str, quiet: bool, session: Session) -> None:
    """List the webhooks."""
    output = Output(form, quiet=quiet)
    with session.operators() as operators:
        found = operators.webhooks()
    print_list(
        output,
        found,
        _LISTED,
        lambda whole: _print_all(found, whole),
        empty="No webhooks: `jobledger webhook add URL` adds one",
    )


def _print_all(found: Sequence[Mapping[str, Any]], whole: bool) -> None:
    columns = [
        Column("Name"),
        Column("URL", flexible=True),
        Column("State"),
        Column("Events", flexible=True, leaves=1),
        Column("Trouble", flexible=True, leaves=2),
    ]
    print_table(columns, [_row(each) for each in found], whole=whole)


@webhook.command(epilog=examples("jobledger webhook show orders"))
@_name
@output_option("table", "json", "yaml")
@connected
def show(*, name: str, form: str, session: Session) -> None:
    """Show a webhook, and how far it is."""
    output = Output(form)
    with session.operators() as operators:
        found = operators.webhook(name)
        if output.for_machines:
            output.document(found)
            return
        progress = operators.find_subscription(_text(found, "Subscription"))
    _print(found, progress)


@webhook.command(epilog=examples("jobledger webhook test orders"))
@_name
@output_option("table", "json", "yaml")
@connected
@click.pass_context
def test(ctx: click.Context, *, name: str, form: str, session: Session) -> None:
    """Send a test event now, and tell what became of it.

    The exit code is 1 if it was not taken. The event is in no log.
    """
    output = Output(form)
    with session.operators() as operators:
        answer = operators.test_webhook(name)
    delivered = answer.get("Delivered") is True
    if output.for_machines:
        output.document(answer)
    elif delivered:
        click.echo(f"{plain(name)}: taken, with {answer.get('Status')}, after {answer.get('Seconds')} s")
    else:
        click.echo(f"{plain(name)}: not taken: {plain(_text(answer, 'Problem'))}")
    ctx.exit(0 if delivered else FAILED_CODE)


@webhook.command(epilog=examples("jobledger webhook rotate orders --overlap 24h"))
@_name
@_secret
@_secret_file
@click.option(
    "--overlap",
    type=Duration(),
    default=None,
    metavar="DURATION",
    help="How long the old one still signs: a day.",
)
@output_option("table", "json", "yaml")
@quiet_option
@connected
def rotate(
    *,
    name: str,
    secret: str,
    secret_file: Path | None,
    overlap: float | None,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Sign with a new secret; for a while also with the old one.

    Standard output is the new secret alone; none if you gave one.
    """
    with session.operators() as operators:
        answer = operators.rotate_webhook_secret(name, _read_secret(secret, secret_file), overlap)
    _tell_written(answer, Output(form, quiet=quiet), verb="has a new secret")


@webhook.command(epilog=examples("jobledger webhook pause orders"))
@_name
@connected
def pause(*, name: str, session: Session) -> None:
    """Send nothing, and keep the place."""
    with session.operators() as operators:
        operators.set_webhook_state(name, "paused")
    click.echo(
        f"{plain(name)} paused; `jobledger webhook resume {plain(name)}` goes on where it is", err=True
    )


@webhook.command(epilog=examples("jobledger webhook resume orders"))
@_name
@connected
def resume(*, name: str, session: Session) -> None:
    """Send again, from where it stopped; also after a 410."""
    with session.operators() as operators:
        operators.set_webhook_state(name, "enabled")
    click.echo(f"{plain(name)} resumed", err=True)


@webhook.command(epilog=examples("jobledger webhook delete orders --yes"))
@_name
@click.option("--yes", is_flag=True, help="Do not ask.")
@connected
def delete(*, name: str, yes: bool, session: Session) -> None:
    """Delete a webhook, its place, and its parked jobs."""
    if not yes:
        click.confirm(
            f"Delete the webhook {plain(name)}, its place and its parked jobs?", abort=True, err=True
        )
    with session.operators() as operators:
        operators.delete_webhook(name)
    click.echo(f"{plain(name)} deleted", err=True)


@webhook.group(epilog=examples("jobledger webhook key show", "jobledger webhook key rotate"))
def key() -> None:
    """Show and rotate the keys that the secrets of webhooks are encrypted with.

    They are in a file of the service (`webhook_keys_file`), the same on every replica. A service makes the
    first one by itself.
    """


def _with_keys(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say which file of keys, and it as `keys`."""

    @wraps(function)
    def run(**kwargs: Any) -> None:
        from jobledger.service.settings import load_settings
        from jobledger.service.webhooks.secret_keys import WebhookKeys

        flags = {name: kwargs.pop(name) for name in ("data_dir", "webhook_keys_file", "config")}
        function(keys=WebhookKeys(load_settings(flags, os.environ).settings.webhook_keys_file), **kwargs)

    for option in (
        click.option("--config", type=click.Path(path_type=Path), help="File with settings (TOML)."),
        click.option("--webhook-keys-file", type=click.Path(path_type=Path), help="The file of keys itself."),
        click.option("--data-dir", type=click.Path(path_type=Path), help="Directory of the service."),
    ):
        option(run)
    return run


@key.command("show", epilog=examples("jobledger webhook key show"))
@_with_keys
def show_keys(*, keys: "WebhookKeys") -> None:
    """Show the ids of the keys, the newest first; it encrypts."""
    for each in reversed(keys.records()):
        click.echo(f"{each.id}  {each.created}")


@key.command("rotate", epilog=examples("jobledger webhook key rotate --data-dir /var/lib/jobledger"))
@_with_keys
def rotate_keys(*, keys: "WebhookKeys") -> None:
    """Add a key, which encrypts from now on; a service encrypts all secrets with it within a minute.

    Copy the file to every replica that does not share it. Older keys stay in it, eight in all.
    """
    new = keys.rotate()
    click.echo(new.id)
    say(f"{keys.path} has a new key; copy the file to the replicas that do not share it")


def _read_secret(secret: str, file: Path | None) -> str:
    if file is None:
        return secret
    if secret:
        raise click.UsageError(f"--secret (or {_SECRET_VARIABLE}) and --secret-file contradict each other")
    from jobledger.service.access.secret_files import read_secret

    return read_secret(file, "--secret-file").decode("ascii", "replace").strip()


def _tell_written(answer: dict[str, Any], output: Output, *, verb: str) -> None:
    """The answer to what made a secret: that on standard output, everything else beside it."""
    found = answer.get("Webhook") or {}
    for warning in answer.get("Warnings") or ():
        say(f"Warning: {warning}")
    if output.for_machines:
        output.document(answer)
        return
    name, secret = _text(found, "Name"), _text(answer, "Secret")
    if output.quiet:
        click.echo(plain(name))
    if secret:
        click.echo(secret)
    say(f"{name} {verb}: {_text(found, 'URL')}")
    if secret:
        say(
            "This is the only time that the secret is shown. Give it to the receiver, which verifies with it."
        )


def _row(found: Mapping[str, Any]) -> list[str | Cell]:
    state = _text(found, "State")
    shown = "down" if found.get("Down") and state == "enabled" else state
    trouble = _text(found, "Reason") or _text(found, "Problem")
    style = "red" if shown == "down" else _STATE_STYLES.get(state, "")
    return [_text(found, "Name"), _text(found, "URL"), Cell(shown, style), events(found), trouble or "-"]


def _print(found: Mapping[str, Any], progress: Mapping[str, Any] | None) -> None:
    name, url, state, filtered, trouble = _row(found)
    created_by = f" by {_text(found, 'CreatedBy')}" if found.get("CreatedBy") else ""
    lines: list[tuple[str, str | Cell]] = [
        ("Name", name),
        ("URL", url),
        ("State", state),
        ("Trouble", trouble),
        ("Events", filtered),
        ("Began after", _text(found, "After")),
        ("Created", created(found) + created_by),
        *(("Secret", _shown_secret(each)) for each in found.get("Secrets") or ()),
        ("Subscription", _text(found, "Subscription")),
    ]
    if progress is not None:
        lines += [
            ("Gap", f"{progress.get('Gap')} events, {lag(progress)}"),
            ("Set aside", f"jobs: {progress.get('Retrying')} retrying, {progress.get('Parked')} parked"),
        ]
    for label, value in lines:
        click.echo(styled(Cell(f"{label:<{_LABEL_WIDTH}}", BOLD)) + styled(value))


def _shown_secret(each: Mapping[str, Any]) -> str:
    until = f" until {exact_of(each.get('Expires'))}" if each.get("Expires") else ""
    return f"{each.get('Secret')}{until}"


def _text(wire: Mapping[str, Any], name: str) -> str:
    value = wire.get(name)
    return value if isinstance(value, str) else ""
