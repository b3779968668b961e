"""`jobledger audit watch`: an auditor that stays."""

import asyncio
from contextlib import ExitStack
from pathlib import Path

import click

from jobledger.service.cli.auditing import FOUND_CODE, key_option
from jobledger.service.cli.examples import examples
from jobledger.service.cli.logoptions import reading_log
from jobledger.service.cli.shared import INTERRUPTED_CODE, Session, end_on_sigterm
from jobledger.service.cli.text import say
from jobledger.service.cli.times import Duration
from jobledger.service.limits import WATCH_REREAD_MAX_SECONDS

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "jobledger audit watch --key KEY --state watch.json",
        "jobledger audit watch --key KEY --state watch.json --once",
    )
)
@key_option
@click.option(
    "--state", "state_file", type=_FILE, required=True, help="Where the watcher keeps what it remembers."
)
@click.option("--once", is_flag=True, help="Look at all there is, and come back.")
@click.option("--keep-going", is_flag=True, help="Stay after an alarm; the metric goes on telling it.")
@click.option(
    "--reread",
    type=Duration(),
    default="24h",
    show_default=True,
    help="Read all of the log again so often, at most 30d; 0 with --once: always. Until then a change of"
    " events that a seal covers is not noticed.",
)
@click.option("--max-seal-age", type=Duration(), default=None, help="Alarm if events wait longer for a seal.")
@click.option("--webhook", metavar="URL", default="", help="POST each alarm there, as a CloudEvent.")
@click.option(
    "--metrics-port", type=click.IntRange(1, 65_535), default=None, help="Serve metrics there, on 127.0.0.1."
)
@click.option("--metrics-file", type=_FILE, default=None, help="Write metrics there, for a text collector.")
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

    An auditor in a process, with a memory, of its own: it follows the log and its seals, and notices a
    rewrite, a truncation, a stream that was made again, seals that fork, do not fit, or are by an unknown
    key. An alarm ends it with exit code 9, and is raised again at the next start: what it remembers stays as
    it was before. Lost connections are ridden out.
    """
    if reread > WATCH_REREAD_MAX_SECONDS:
        raise click.UsageError(
            f"--reread {reread:g}s is more than {WATCH_REREAD_MAX_SECONDS:g}s (30 days): so long a change of"
            " old events could stay unnoticed"
        )
    if webhook and not webhook.startswith(("http://", "https://")):
        raise click.UsageError(f"--webhook {webhook!r} is no URL; write https://host/path")
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
        say("all that there is was looked at: nothing is wrong")
    ctx.exit(FOUND_CODE if alarms else 0)
