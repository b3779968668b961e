"""`jobledger audit prove`: the proof of a job's events, from the service into a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.shared import Session, connected, job_argument, namespace_option
from jobledger.service.cli.text import say

if TYPE_CHECKING:
    from jobledger.service.client.audit import Fetched
    from jobledger.service.client.client import Client


@click.command(epilog=examples("jobledger audit prove my-job --output-file my-job.proof"))
@job_argument
@namespace_option
@click.option(
    "-o",
    "--output-file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Write to this file, `-` for standard output; default: <job id>.proof.json, here.",
)
@click.option("--no-seal", is_flag=True, help="Take the newest seal, also if it does not cover all events.")
@connected
def prove(
    *, job: str, namespace: str | None, output_file: Path | None, no_seal: bool, session: Session
) -> None:
    """Write the proof of a job's events into a file.

    JOB is a name, an id, or the beginning of an id. The newest seal is taken; if it does not cover the job's
    last event and you are an admin, a new one is made. `audit check` verifies the file offline.
    """
    from jobledger.service.audit.bundle import read_bundle

    with session.client() as client:
        fetched = _fetch(client, job, session.namespace(namespace), may_seal=not no_seal)
    bundle = read_bundle(fetched.text)
    path = output_file or Path(f"{bundle.job}.proof.json")
    if str(path) == "-":
        sys.stdout.buffer.write(fetched.text)
    else:
        _write(path, fetched.text)
    count = len(bundle.records)
    say(
        f"{path}: {count} event{'s' if count != 1 else ''} of job {bundle.job}, the last at"
        f" {bundle.records[-1].sequence}; check it with: jobledger audit check {path} --key …"
    )
    if fetched.uncovered:
        say(
            f"Not covered: {fetched.uncovered} later events of the job, which no seal covers yet; one is made"
            " every so often, or by an admin: jobledger audit seal"
        )


def _fetch(client: "Client", job: str, namespace: str, *, may_seal: bool) -> "Fetched":
    """The bundle; where its seal leaves events open, and we may, by a new seal."""
    from jobledger.service.client.audit import Audits
    from jobledger.service.client.seals import Seals
    from jobledger.service.errors import Forbidden, NotSealed

    audits, fetched = Audits(client), None
    try:
        fetched = audits.proof(job, namespace=namespace)
    except NotSealed:
        if not may_seal:
            raise
    if not may_seal or (fetched is not None and not fetched.uncovered):
        assert fetched is not None
        return fetched
    try:
        Seals(client).seal()
    except (Forbidden, NotSealed):
        if fetched is not None:
            return fetched
    return audits.proof(job, namespace=namespace)


def _write(path: Path, content: bytes) -> None:
    from jobledger.store.model.errors import InvalidInput

    try:
        path.write_bytes(content)
    except OSError as error:
        raise InvalidInput(f"{path} can't be written: {error.strerror}") from error
