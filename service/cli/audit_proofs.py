"""`jobledger audit prove`, `check` and `consistency`: proofs of a job's events and of a log's growth."""

import asyncio
import re
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from jobledger.service.cli.audit_log import FOUND_CODE, Progress, key_option, print_findings
from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import Session, connected, job_argument, namespace_option, reading_log
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import plain, say
from jobledger.service.cli.times import exact

if TYPE_CHECKING:
    from jobledger.service.audit.bundle_check import Verdict
    from jobledger.service.audit.model.checkpoint import Seal
    from jobledger.service.audit.model.findings import Finding
    from jobledger.service.audit.model.note import VerifierKey
    from jobledger.service.client.admin import AdminClient, ProofBundle

_NUMBER: Final = re.compile(r"seal:([1-9][0-9]{0,18})", re.ASCII)
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_NEWEST: Final = "newest"


@click.command(epilog=examples("jobledger audit prove my-job --output-file my-job.proof"))
@job_argument
@namespace_option
@click.option(
    "-o",
    "--output-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write to this file, `-` is standard output; default: <job ID>.proof.json in this directory.",
)
@click.option("--no-seal", is_flag=True, help="Use the newest seal even if it does not cover all events.")
@connected
def prove(
    *, job: str, namespace: str | None, output_file: Path | None, no_seal: bool, session: Session
) -> None:
    """Write a proof of a job's events to a file.

    JOB is a name, an ID, or the beginning of an ID. The proof uses the newest seal; if that does not cover
    the job's last event and you are an admin, a new seal is made. `audit check` verifies the file offline.
    """
    from jobledger.service.audit.model.bundle import read_bundle
    from jobledger.store.model.errors import InvalidInput

    with session.admin() as admin:
        fetched = _fetch_proof(admin, job, session.namespace(namespace), may_seal=not no_seal)
    bundle = read_bundle(fetched.content)
    path = output_file or Path(f"{bundle.job}.proof.json")
    if str(path) == "-":
        sys.stdout.buffer.write(fetched.content)
    else:
        try:
            path.write_bytes(fetched.content)
        except OSError as error:
            raise InvalidInput(f"{path} can't be written: {error.strerror}") from error
    count = len(bundle.records)
    say(
        f"{path}: {count} event{'s' if count != 1 else ''} of job {bundle.job}, the last at sequence"
        f" {bundle.records[-1].sequence}; check it with: jobledger audit check {path} --key …"
    )
    if fetched.uncovered:
        say(
            f"Not covered: {fetched.uncovered} later events of the job. The service makes seals at an"
            " interval, and an admin can make one now: jobledger audit seal"
        )


def _fetch_proof(admin: "AdminClient", job: str, namespace: str, *, may_seal: bool) -> "ProofBundle":
    """The proof; if its seal does not cover all events, and we may, by a new seal."""
    from jobledger.service.errors import Forbidden, NotSealed

    fetched = None
    try:
        fetched = admin.proof(job, namespace=namespace)
    except NotSealed:
        if not may_seal:
            raise
    if fetched is not None and not (may_seal and fetched.uncovered):
        return fetched
    try:
        admin.seal()
    except (Forbidden, NotSealed):
        if fetched is not None:
            return fetched
    return admin.proof(job, namespace=namespace)


@click.command(
    epilog=examples(
        "jobledger audit check my-job.proof --key KEY", "jobledger audit check my-job.proof --key KEY -o json"
    )
)
@click.argument("bundle", metavar="BUNDLE", type=click.Path(dir_okay=False, path_type=Path))
@key_option()
@click.option(
    "--job", metavar="ID", default="", help="Require that the bundle is about this job: its full ID."
)
@click.option("--origin", metavar="TEXT", default="", help="Require that the bundle is of this log.")
@output_option("table", "json")
@click.pass_context
def check(
    ctx: click.Context, *, bundle: Path, keys: tuple[str, ...], job: str, origin: str, output: Output
) -> None:
    """Check a proof bundle offline.

    Uses no service, no NATS and no view. BUNDLE is a file that `audit prove` wrote, or `-` for standard
    input. Each check is printed on a line; the exit code is 0 if all passed, 9 if one failed, and 1 if the
    file is not a bundle.
    """
    from jobledger.service.audit.bundle_check import check_bundle
    from jobledger.service.audit.keys import read_keys
    from jobledger.service.audit.model.bundle import read_bundle

    trusted = read_keys(keys)
    verdict = check_bundle(read_bundle(_read_bundle_file(bundle)), trusted, job=job, origin=origin)
    if output.for_machines:
        output.document(verdict_wire(verdict))
    else:
        _print_verdict(verdict)
    ctx.exit(0 if verdict.ok else FOUND_CODE)


def _read_bundle_file(path: Path) -> bytes:
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
    """The verdict as plain values; the content of the bundle only if it is proven."""
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


def _print_verdict(verdict: "Verdict") -> None:
    for each in verdict.checks:
        word = click.style("ok  ", fg="green") if each.ok else click.style("FAIL", fg="red", bold=True)
        click.echo(f"{word}  {each.name:<9}  {plain(each.text)}")
    if not verdict.ok:
        click.echo(click.style("not proven", fg="red", bold=True))
        return
    status = verdict.status
    assert status is not None  # otherwise a check has failed
    click.echo(
        f"{click.style('proven', fg='green', bold=True)}: job {plain(status.name)} ({verdict.job}) in"
        f" namespace {plain(verdict.namespace)} was {status.state.state_type}, version {status.version},"
        f" revision {status.revision}, after event {verdict.last_sequence} of {exact(verdict.last_time)}"
    )


@click.command(epilog=examples("jobledger audit consistency old.seal new.seal --key KEY"))
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@key_option()
@click.option("--log", "from_log", is_flag=True, help="Build the proof from the log itself.")
@output_option("table", "json")
@reading_log
@click.pass_context
def consistency(
    ctx: click.Context,
    *,
    old: str,
    new: str,
    keys: tuple[str, ...],
    from_log: bool,
    output: Output,
    session: Session,
) -> None:
    """Prove that one seal extends another.

    A and B are seals, the older one first: a file, the number of events that it covers, `seal:N` for the N-th
    published seal, or `newest`. Both must be signed by a trusted key. The proof is requested from the
    service, or built from the log with --log, and verified here, so neither must be trusted. The exit code is
    0 if B extends A, otherwise 9.
    """
    from jobledger.service.audit.keys import read_keys
    from jobledger.service.audit.model.checkpoint import check_order

    trusted = read_keys(keys)
    with ExitStack() as stack:
        files = [Path(each) if Path(each).is_file() else None for each in (old, new)]
        admin = None if from_log and all(files) else stack.enter_context(session.admin())
        first, second = (
            _open_trusted(each, file, trusted, admin) for each, file in zip((old, new), files, strict=True)
        )
        found = check_order(first, second)
        if found is None and from_log:
            found = _check_by_log(first, second, session)
        elif found is None:
            assert admin is not None
            found = _check_by_service(first, second, admin)
    print_findings([found] if found else [], output, From=first.size, To=second.size, Origin=first.origin)
    if found is None and not output.for_machines:
        by = ", ".join(dict.fromkeys((*first.signers, *second.signers)))
        click.echo(
            f"{click.style('extends', fg='green', bold=True)}: the {second.size} events of B begin with the"
            f" {first.size} of A; signed by {by}"
        )
    ctx.exit(FOUND_CODE if found else 0)


def _open_trusted(
    text: str, file: Path | None, trusted: "tuple[VerifierKey, ...]", admin: "AdminClient | None"
) -> "Seal":
    from jobledger.projections.errors import ProofError
    from jobledger.service.audit.model.checkpoint import open_seal
    from jobledger.service.errors import AuditFailed

    note = _last_note(file) if file is not None else _published_note(text, admin)
    try:
        return open_seal(note, trusted)
    except ProofError as error:
        raise AuditFailed(f"the seal {text}: {error}") from error


def _last_note(path: Path) -> str:
    from jobledger.service.audit.seals import notes_in
    from jobledger.store.model.errors import InvalidInput

    note = ""
    for note in notes_in(path):  # noqa: B007 - the last one is used
        pass
    if not note:
        raise InvalidInput(f"{path} contains no seal")
    return note


def _published_note(text: str, admin: "AdminClient | None") -> str:
    from jobledger.service.errors import NotSealed

    number, size = _NUMBER.fullmatch(text), _SIZE.fullmatch(text)
    if not (number or size or text == _NEWEST):
        raise click.UsageError(
            f"invalid seal {text!r}: use an existing file, the number of covered events, seal:N, or newest"
        )
    assert admin is not None
    for wire in admin.seals(1 if text == _NEWEST else None):
        matches = text == _NEWEST
        matches = matches or (number is not None and wire.get("Sequence") == int(number[1]))
        if matches or (size is not None and wire.get("Size") == int(text)):
            return str(wire.get("Note", ""))
    named = f"over {text} events" if size else text
    raise NotSealed(f"the service has published no seal {named}; `jobledger audit seals` lists them")


def _check_by_service(old: "Seal", new: "Seal", admin: "AdminClient") -> "Finding | None":
    from jobledger.service.audit.model.checkpoint import check_extends

    proof = admin.consistency(old.size, new.size)
    return check_extends(old, new, proof.proof, old_root=proof.from_root, new_root=proof.to_root)


def _check_by_log(old: "Seal", new: "Seal", session: Session) -> "Finding | None":
    """Hash the log, and compare both seals with it."""
    from jobledger.service.audit.log_check import check_log
    from jobledger.service.audit.log_pass import SealedTree
    from jobledger.service.audit.seals import SealList
    from jobledger.service.log_access import open_log

    progress = Progress()

    async def run() -> "Finding | None":
        async with open_log(session.settings) as log:
            seals = SealList([SealedTree("A", old.size, old.root), SealedTree("B", new.size, new.root)])
            report = await check_log(log, seals, progress.show)
            return report.findings[0] if report.findings else None

    try:
        return asyncio.run(run())
    finally:
        progress.clear()
