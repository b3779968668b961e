"""`jobledger audit verify`: log, seals and view, each against the others."""

import asyncio
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobledger.service.cli.auditing import (
    FOUND_CODE,
    Progress,
    key_option,
    print_findings,
    trusted_keys,
)
from jobledger.service.cli.examples import examples
from jobledger.service.cli.logoptions import reading_log
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.shared import Session
from jobledger.service.cli.text import say

if TYPE_CHECKING:
    from jobledger.service.audit.verification import Verification

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog=examples("jobledger audit verify", "jobledger audit verify --key KEY --no-view -o json")
)
@partial(key_option, is_required=False)
@click.option("--seals", multiple=True, type=_FILE, help="A file with more seals; repeatable.")
@click.option(
    "--view", type=_FILE, default=None, help="The view; default: that in --data-dir, if it is there."
)
@click.option("--no-view", is_flag=True, help="Look at log and seals only.")
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Folder with room for a second view; default: that for temporary files.",
)
@output_option("table", "json")
@reading_log
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    keys: tuple[str, ...],
    seals: tuple[Path, ...],
    view: Path | None,
    no_view: bool,
    scratch: Path | None,
    form: str,
    session: Session,
) -> None:
    """Hold log, seals and view against each other.

    The log is read itself, from its first event to its last: its Merkle tree is computed anew and every seal
    held against it, and the view is compared, row by row, with a fresh fold. The first event, or job and
    column, that is not as it must be is named. The exit code is 0 if all is well, 9 if something is not, and
    6 if the log can't be read.
    """
    if no_view and view is not None:
        raise click.UsageError("--view and --no-view contradict each other; give one of them")
    trusted = trusted_keys(keys, session.settings)
    path = None if no_view else view or _view_of(session)
    files = [*seals, *_seals_of(session)]
    progress = Progress()

    async def run() -> "Verification":
        from jobledger.service.audit.verification import verify as run_verification
        from jobledger.service.log_access import open_log

        async with open_log(session.settings) as log:
            return await run_verification(
                log, trusted, progress.tell, seal_files=files, view=path, scratch=scratch
            )

    try:
        found = asyncio.run(run())
    finally:
        progress.clear()
    _print(found, Output(form), path)
    ctx.exit(FOUND_CODE if found.findings else 0)


def _view_of(session: Session) -> Path | None:
    from jobledger.service.log_access import VIEW_FILE

    path = session.settings.data_dir / VIEW_FILE
    return path if path.exists() else None


def _seals_of(session: Session) -> list[Path]:
    """The seals that a service on this directory has kept."""
    from jobledger.service.audit.sealer import SEALS_FILE

    path = session.settings.data_dir / SEALS_FILE
    return [path] if path.exists() else []


def _print(found: "Verification", output: Output, view: Path | None) -> None:
    report = found.log
    print_findings(
        found.findings,
        output,
        Origin=found.origin,
        Size=report.size,
        Root=report.root.hex(),
        Read=report.read,
        Seals=report.seals,
        Unjudged=report.unjudged,
        View=str(view) if view is not None else None,
        More=report.more,
    )
    if output.for_machines:
        return
    if report.more:
        say(f"and {report.more} findings more")
    if report.unjudged:
        say(f"{report.unjudged} seals cover events after the first hole, and could not be compared")
    if report.unlinked:
        say(f"{report.unlinked} events were not checked for the event before them: too many jobs")
    looked = "the view was not looked at" if view is None else f"the view {view} is compared"
    say(
        f"{found.origin}: {report.size:,} events, root {report.root.hex()}; seals that fit: {report.seals};"
        f" {looked}"
    )
    if not found.findings:
        click.echo(click.style("all is as it must be", fg="green"))
