"""`jobledger audit check`: a proof bundle, with nothing but keys."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobledger.service.cli.auditing import FOUND_CODE, key_option
from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import plain

if TYPE_CHECKING:
    from jobledger.service.audit.bundle_check import Verdict


@click.command(
    epilog=examples(
        "jobledger audit check my-job.proof --key KEY", "jobledger audit check my-job.proof --key KEY -o json"
    )
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(dir_okay=False, path_type=Path))
@key_option
@click.option("--job", metavar="ID", default="", help="The bundle must be about this job: its whole id.")
@click.option("--origin", metavar="TEXT", default="", help="The bundle must be of this log.")
@output_option("table", "json")
@click.pass_context
def check(
    ctx: click.Context, *, bundle: Path, keys: tuple[str, ...], job: str, origin: str, form: str
) -> None:
    """Check a proof bundle, offline.

    No service is asked, no NATS and no view. BUNDLE is a file that `audit prove` wrote, or `-` for standard
    input. Each check is a line; the exit code is 0 if all are good, 9 if one is not, and 1 if it is no bundle
    at all.
    """
    from jobledger.service.audit.bundle import read_bundle
    from jobledger.service.audit.bundle_check import check_bundle
    from jobledger.service.audit.keys import read_keys

    trusted = read_keys(keys)
    verdict = check_bundle(read_bundle(_content(bundle)), trusted, job=job, origin=origin)
    if form == "json":
        Output(form).document(verdict_wire(verdict))
    else:
        _print(verdict)
    ctx.exit(0 if verdict.ok else FOUND_CODE)


def _content(path: Path) -> bytes:
    from jobledger.service.limits import BUNDLE_MAX_BYTES
    from jobledger.store.model.errors import InvalidInput

    try:
        if str(path) == "-":
            return sys.stdin.buffer.read(BUNDLE_MAX_BYTES + 1)
        with path.open("rb") as file:
            return file.read(BUNDLE_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"the bundle {path} can't be read: {error.strerror}") from error


def verdict_wire(verdict: "Verdict") -> dict[str, object]:
    """The verdict as plain values; what the bundle says only if it is proven."""
    status = verdict.status
    proven: dict[str, object] = {}
    if verdict.ok and status is not None:
        proven = {
            "Origin": verdict.origin,
            "Signers": list(verdict.signers),
            "Size": verdict.size,
            "JobID": verdict.job,
            "Namespace": verdict.namespace,
            "Name": status.name,
            "State": status.state.state_type.value,
            "Version": status.version,
            "Revision": status.revision,
            "Events": verdict.events,
            "Sequence": verdict.last_sequence,
            "Time": verdict.last_time,
            "Unlinked": verdict.unlinked,
        }
    checks = [{"Name": each.name, "OK": each.ok, "Text": each.text} for each in verdict.checks]
    return {"OK": verdict.ok, "Checks": checks, "Proven": proven or None}


def _print(verdict: "Verdict") -> None:
    for each in verdict.checks:
        word = click.style("ok  ", fg="green") if each.ok else click.style("FAIL", fg="red", bold=True)
        click.echo(f"{word}  {each.name:<9}  {plain(each.text)}")
    if not verdict.ok:
        click.echo(click.style("not proven", fg="red", bold=True))
        return
    from jobledger.service.cli.times import exact

    status = verdict.status
    assert status is not None  # else a check has failed
    click.echo(
        f"{click.style('proven', fg='green', bold=True)}: job {plain(status.name)} ({verdict.job}) in"
        f" namespace {plain(verdict.namespace)} was {status.state.state_type}, version {status.version},"
        f" revision {status.revision}, after event {verdict.last_sequence} of {exact(verdict.last_time)}"
    )
