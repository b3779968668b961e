"""`jobledger job accept-unreadable`: let a job in quarantine go on without an event that can't be read."""

import click

from jobledger.service.cli.change import reason_option
from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.receipts import print_receipt
from jobledger.service.cli.shared import (
    Session,
    WholeNumber,
    connected,
    job_argument,
    namespace_option,
)


@click.command(
    "accept-unreadable",
    epilog=examples(
        "jobledger job accept-unreadable my-job --sequence 812 --reason 'written by a broken client'"
    ),
)
@job_argument
@click.option(
    "--sequence",
    type=WholeNumber(),
    metavar="N",
    required=True,
    help="Of the event, as `job describe` names it.",
)
@namespace_option
@reason_option
@output_option()
@quiet_option
@connected
def accept_unreadable(
    *,
    job: str,
    sequence: int,
    namespace: str | None,
    reason: str,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Accept that an event of a job can't be read.

    JOB is a name, an id, or the beginning of an id; it is in quarantine. It becomes what its other events
    make of it, also those that came after. This is an event of the job, with who and why, and can't be
    undone. A release that can read the event ignores it. Needs an admin's token.
    """
    with session.client() as client:
        answer = client.accept_unreadable(
            job, sequence, namespace=session.namespace(namespace), reason=reason
        )
    output = Output(form, quiet=quiet)
    print_receipt(answer, output, verb=f"goes on without event {sequence}", name=job)
