"""`jobledger audit scrub`: every replica of the log compared with the Merkle tree."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobledger.service.cli.auditing import FOUND_CODE, Progress, print_findings
from jobledger.service.cli.examples import examples
from jobledger.service.cli.logoptions import reading_log
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.shared import Session
from jobledger.service.cli.text import plain, say
from jobledger.service.cli.times import Duration

if TYPE_CHECKING:
    from jobledger.service.audit.scrub import ScrubState

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(epilog=examples("jobledger audit scrub", "jobledger audit scrub --for 10m -o json"))
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="KEY",
    help="A key that is trusted, as of `audit check`: the tree must also fit the newest seal by one of them.",
)
@click.option(
    "--view",
    type=_FILE,
    default=None,
    help="The view with the tree; default: that in --data-dir, if it is there.",
)
@click.option(
    "--no-view", is_flag=True, help="Use no view: what the majority of the replicas has counts as right."
)
@click.option(
    "--state", "state_file", type=_FILE, default=None, help="Keep the place there, and go on from it."
)
@click.option(
    "--for", "seconds", type=Duration(), default=None, help="Stop after so long; the next run goes on."
)
@output_option("table", "json")
@reading_log
@click.pass_context
def scrub(
    ctx: click.Context,
    *,
    keys: tuple[str, ...],
    view: Path | None,
    no_view: bool,
    state_file: Path | None,
    seconds: float | None,
    form: str,
    session: Session,
) -> None:
    """Compare every replica of the log with the Merkle tree.

    nats-server never heals a damaged replica: it serves the log as if some events did not exist. This reads
    the log from the store of each server in turn, and compares each event with the tree of the view. A bad
    replica is named, with the commands that replace it. The exit code is 0 if all replicas are right, 9 if
    one is not, and 6 if one can't be read.
    """
    if no_view and view is not None:
        raise click.UsageError("--view and --no-view contradict each other; give one of them")
    if seconds is not None and state_file is None:
        raise click.UsageError("--for needs --state FILE, from which the next run goes on")
    from jobledger.service.audit.keys import read_keys
    from jobledger.service.audit.scrub import scrub_log
    from jobledger.service.log_access import VIEW_FILE

    default = session.settings.data_dir / VIEW_FILE
    path = None if no_view else view or (default if default.exists() else None)
    progress = Progress()
    try:
        state = asyncio.run(
            scrub_log(
                session.settings,
                read_keys(keys),
                progress.tell,
                view=path,
                state_file=state_file,
                seconds=seconds,
            )
        )
    finally:
        progress.clear()
    _print(state, Output(form), path)
    from jobledger.service.audit.scrub import findings_of
    from jobledger.service.errors import EXIT_CODES
    from jobledger.store.model.errors import LogError

    unread_code = next(code for kind, code in EXIT_CODES if issubclass(LogError, kind))
    ctx.exit(FOUND_CODE if findings_of(state) else unread_code if state.unread else 0)


def _print(state: "ScrubState", output: Output, view: Path | None) -> None:
    from jobledger.service.audit.scrub import findings_of, remedy_of

    remedies = remedy_of(state)
    print_findings(
        findings_of(state),
        output,
        Origin=state.origin,
        Compared=state.position,
        Last=state.last,
        Done=state.done,
        Servers=list(state.servers),
        Unread=state.unread,
        Remedies=remedies,
        View=str(view) if view is not None else None,
    )
    if output.for_machines:
        return
    for server, why in state.unread.items():
        say(f"the replica on {plain(server)} was not compared as a whole: {plain(why)}; run this again later")
    for remedy in remedies:
        click.echo(plain(remedy))
    against = "the tree of the view" if view is not None else "the majority"
    say(
        f"{state.origin}: events 1 to {state.position:,} of {state.last:,} compared with {against}, on"
        f" {len(state.servers)} {'server' if len(state.servers) == 1 else 'servers'}"
    )
    if not state.done:
        say("not finished: the next run with this --state goes on")
    elif not findings_of(state) and not state.unread:
        click.echo(click.style("all replicas are right", fg="green"))
