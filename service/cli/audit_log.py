"""`jobledger audit verify`, `scrub` and `watch`: checks of the whole log, and shared helpers."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import INTERRUPTED_CODE, Session, end_on_sigterm, reading_log
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import StatusLine, plain, say
from jobledger.service.cli.times import Duration
from jobledger.service.errors import ERROR_KINDS, AuditFailed
from jobledger.service.limits import WATCH_REREAD_MAX_SECONDS
from jobledger.store.model.errors import InvalidInput, LogError

if TYPE_CHECKING:
    from jobledger.service.audit.model.findings import Finding
    from jobledger.service.audit.model.note import VerifierKey
    from jobledger.service.audit.scrub import ScrubState
    from jobledger.service.audit.verification import Verification
    from jobledger.service.settings import Settings

FOUND_CODE: Final = ERROR_KINDS[AuditFailed].exit_code
_UNREAD_CODE: Final = ERROR_KINDS[LogError].exit_code
_PROGRESS_SECONDS: Final = 0.2
_FILE: Final = click.Path(dir_okay=False, path_type=Path)
F = TypeVar("F", bound=Callable[..., Any])


def key_option(*, required: bool = True, more: str = "") -> Callable[[F], F]:
    """`--key`, repeatable; the command receives `keys`."""
    return click.option(
        "--key",
        "keys",
        multiple=True,
        required=required,
        metavar="KEY",
        help=f"A trusted key, as printed by `audit key show`, or a file with one per line.{more}",
    )


def trusted_keys(keys: tuple[str, ...], settings: "Settings") -> tuple["VerifierKey", ...]:
    """The keys of `--key`, or those that the service in the data directory trusts.

    Raises:
        InvalidInput: a key is invalid, or there is no key.
    """
    from jobledger.service.audit.keys import KeyFile, read_keys

    if keys:
        return read_keys(keys)
    path = settings.audit_keys_file
    found = tuple(dict.fromkeys((*KeyFile(path).trusted(), *read_keys(settings.audit_trusted_keys))))
    if not found:
        raise InvalidInput(
            f"no key to check seals with: {path} does not exist; pass --key with the output of"
            " `jobledger audit key show --quiet`"
        )
    say(
        f"Seals are checked with the service's own keys, in {path}. Pass --key to check them with keys that"
        " you got independently of the service."
    )
    return found


def print_findings(findings: Iterable["Finding"], output: Output, **facts: object) -> None:
    """Print findings on a line each, or as one document with `facts`."""
    found = list(findings)
    if output.for_machines:
        wires = [
            {
                "Kind": each.kind.value,
                "Message": each.message,
                "Sequence": each.sequence,
                "Last": each.last or each.sequence,
                "JobID": each.job_id,
                "Column": each.column,
            }
            for each in found
        ]
        output.document({"OK": not found, "Findings": wires, **facts})
        return
    for each in found:
        click.echo(f"{click.style(each.kind.value, fg='red', bold=True)}: {plain(each.message)}")


class Progress:
    """The progress of a check on the status line."""

    def __init__(self) -> None:
        self._line = StatusLine(interval_seconds=_PROGRESS_SECONDS)
        self.clear = self._line.clear

    def show(self, doing: str, done: int, of: int) -> None:
        """Show the progress, unless it was shown less than an interval ago; `of` 0: the total is unknown."""
        if self._line.is_due(force=not of):
            self._line.show(f"{doing}: {100 * done // of} %, {done:,} of {of:,}" if of else f"{doing} …")


def _view_path(session: Session, view: Path | None, *, no_view: bool) -> Path | None:
    """The view to compare with: the named one, else that in the data directory if it exists."""
    from jobledger.service.log_access import VIEW_FILE

    if no_view and view is not None:
        raise click.UsageError("--view and --no-view contradict each other; use one of them")
    default = session.settings.data_dir / VIEW_FILE
    return None if no_view else view or (default if default.exists() else None)


@click.command(
    epilog=examples("jobledger audit verify", "jobledger audit verify --key KEY --no-view -o json")
)
@key_option(required=False, more=" Default: the keys of the service in --data-dir.")
@click.option("--seals", multiple=True, type=_FILE, help="A file with more seals; repeatable.")
@click.option("--view", type=_FILE, default=None, help="The view; default: that in --data-dir, if it exists.")
@click.option("--no-view", is_flag=True, help="Check the log and the seals only.")
@click.option(
    "--scratch",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Directory with space for a second view; default: the directory for temporary files.",
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
    output: Output,
    session: Session,
) -> None:
    """Check the log, the seals and the view against each other.

    Reads the log from its first event to its last, computes its Merkle tree, compares every seal with it, and
    compares the view row by row with a new fold. Each difference is reported with its first event, or its job
    and column. The exit code is 0 if there are none, 9 if there are some, and 6 if the log cannot be read.
    """
    from jobledger.service.audit.sealer import SEALS_FILE

    path = _view_path(session, view, no_view=no_view)
    trusted = trusted_keys(keys, session.settings)
    kept = session.settings.data_dir / SEALS_FILE
    files = [*seals, *([kept] if kept.exists() else [])]
    progress = Progress()

    async def run() -> "Verification":
        from jobledger.service.audit.verification import verify as run_verification
        from jobledger.service.log_access import open_log

        async with open_log(session.settings) as log:
            return await run_verification(
                log, trusted, progress.show, seal_files=files, view=path, scratch=scratch
            )

    try:
        found = asyncio.run(run())
    finally:
        progress.clear()
    _print_verification(found, output, path)
    ctx.exit(FOUND_CODE if found.findings else 0)


def _print_verification(found: "Verification", output: Output, view: Path | None) -> None:
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
        say(f"and {report.more} more findings")
    if report.unjudged:
        say(f"{report.unjudged} seals cover events after the first gap, and could not be compared")
    if report.unlinked:
        say(f"{report.unlinked} events were not checked against their previous event: too many jobs")
    compared = "the view was not compared" if view is None else f"the view {view} was compared"
    say(
        f"{found.origin}: {report.size:,} events, root {report.root.hex()}; matching seals: {report.seals};"
        f" {compared}"
    )
    if not found.findings:
        click.echo(click.style("no differences found", fg="green"))


@click.command(epilog=examples("jobledger audit scrub", "jobledger audit scrub --for 10m -o json"))
@key_option(required=False, more=" The tree must also match the newest seal by one of them.")
@click.option(
    "--view",
    type=_FILE,
    default=None,
    help="The view with the tree; default: that in --data-dir, if it exists.",
)
@click.option("--no-view", is_flag=True, help="Use no view: compare with the majority of the replicas.")
@click.option(
    "--state",
    "state_file",
    type=_FILE,
    default=None,
    help="Keep the position in this file.",
)
@click.option(
    "--for", "seconds", type=Duration(), default=None, help="Stop after this long; the next run resumes."
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
    output: Output,
    session: Session,
) -> None:
    """Compare every replica of the log with the Merkle tree.

    nats-server never repairs a damaged replica: it serves the log as if some events did not exist. This
    command reads the log from the store of each server, and compares each event with the tree of the view.
    For a damaged replica it prints the commands that replace it. The exit code is 0 if all replicas are
    intact, 9 if one is damaged, and 6 if one cannot be read.
    """
    path = _view_path(session, view, no_view=no_view)
    if seconds is not None and state_file is None:
        raise click.UsageError("--for requires --state FILE, from which the next run resumes")
    from jobledger.service.audit.keys import read_keys
    from jobledger.service.audit.scrub import findings_of, scrub_log

    progress = Progress()
    try:
        state = asyncio.run(
            scrub_log(
                session.settings,
                read_keys(keys),
                progress.show,
                view=path,
                state_file=state_file,
                seconds=seconds,
            )
        )
    finally:
        progress.clear()
    _print_scrub(state, output, path)
    ctx.exit(FOUND_CODE if findings_of(state) else _UNREAD_CODE if state.unread else 0)


def _print_scrub(state: "ScrubState", output: Output, view: Path | None) -> None:
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
        say(f"the replica on {plain(server)} was not compared completely: {plain(why)}; run this again later")
    for remedy in remedies:
        click.echo(plain(remedy))
    against = "the tree of the view" if view is not None else "the majority"
    say(
        f"{state.origin}: events 1 to {state.position:,} of {state.last:,} compared with {against}, on"
        f" {len(state.servers)} {'server' if len(state.servers) == 1 else 'servers'}"
    )
    if not state.done:
        say("not finished: the next run with this --state resumes")
    elif not findings_of(state) and not state.unread:
        click.echo(click.style("all replicas are intact", fg="green"))


@click.command(
    epilog=examples(
        "jobledger audit watch --key KEY --state watch.json",
        "jobledger audit watch --key KEY --state watch.json --once",
    )
)
@key_option()
@click.option(
    "--state", "state_file", type=_FILE, required=True, help="File in which the watcher keeps its state."
)
@click.option("--once", is_flag=True, help="Check everything that is there, then exit.")
@click.option("--keep-going", is_flag=True, help="Continue after an alarm; the metric keeps its value.")
@click.option(
    "--reread",
    type=Duration(),
    default="24h",
    show_default=True,
    help="Read the whole log again at this interval, at most 30d; 0 with --once: always. Until then a change"
    " of events that a seal covers is not noticed.",
)
@click.option(
    "--max-seal-age", type=Duration(), default=None, help="Raise an alarm if events wait longer for a seal."
)
@click.option("--webhook", metavar="URL", default="", help="POST each alarm to this URL, as a CloudEvent.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65_535), default=None, help="Serve metrics on 127.0.0.1."
)
@click.option("--metrics-file", type=_FILE, default=None, help="Write metrics to this file.")
@reading_log
@click.pass_context
def watch(
    ctx: click.Context,
    *,
    keys: tuple[str, ...],
    state_file: Path,
    once: bool,
    keep_going: bool,
    reread: float,
    max_seal_age: float | None,
    webhook: str,
    metrics_port: int | None,
    metrics_file: Path | None,
    session: Session,
) -> None:
    """Watch a log, and raise an alarm if its past changes.

    An auditor with its own process and its own memory: it follows the log and its seals, and detects a
    rewrite, a truncation, a recreated stream, and seals that fork, do not match, or are signed by an unknown
    key. An alarm ends it with exit code 9, and is raised again at the next start, because its state is kept
    from before. Lost connections are retried.
    """
    if reread > WATCH_REREAD_MAX_SECONDS:
        raise click.UsageError(
            f"--reread must be at most {WATCH_REREAD_MAX_SECONDS:g}s (30 days), got {reread:g}s: until then a"
            " change of old events is not noticed"
        )
    if webhook and not webhook.startswith(("http://", "https://")):
        raise click.UsageError(f"invalid --webhook {webhook!r}: use https://host/path")
    from jobledger.service.audit.keys import read_keys
    from jobledger.service.audit.watch_command import Watch, WatchMetrics, WatchOptions

    options = WatchOptions(
        keys=read_keys(keys),
        state_file=state_file,
        once=once,
        keep_going=keep_going,
        again_seconds=reread,
        seal_age_seconds=max_seal_age,
        webhook=webhook,
        metrics_file=metrics_file,
    )
    end_on_sigterm()
    with ExitStack() as stack:
        metrics = WatchMetrics() if metrics_port is not None or metrics_file is not None else None
        if metrics is not None and metrics_port is not None:
            stack.callback(metrics.serve(metrics_port))
        watching = Watch(session.settings, options, say, metrics)
        try:
            alarms = asyncio.run(watching.run())
        except KeyboardInterrupt:
            ctx.exit(FOUND_CODE if watching.alarms else INTERRUPTED_CODE)
    if not alarms:
        say("everything was checked: no differences found")
    ctx.exit(FOUND_CODE if alarms else 0)
