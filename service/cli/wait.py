"""`jobledger job wait`: come back when a job has come to a state."""

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.receipts import ENDED_OTHERWISE_CODE, wait_for
from jobledger.service.cli.shared import Session, connected, job_argument, namespace_option
from jobledger.service.cli.times import Duration

WAIT_DEFAULT = "5m"


@click.command(
    epilog=examples("jobledger job wait my-job", "jobledger job wait my-job --for Running --timeout 30s")
)
@job_argument
@namespace_option
@click.option(
    "--for",
    "state",
    metavar="STATE",
    default="Completed",
    show_default=True,
    help="The state, or `terminal` for any end.",
)
@click.option("--timeout", type=Duration(), default=WAIT_DEFAULT, show_default=True, help="At most so long.")
@output_option()
@quiet_option
@connected
@click.pass_context
def wait(
    ctx: click.Context,
    *,
    job: str,
    namespace: str | None,
    state: str,
    timeout: float,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Wait until a job has come to a state.

    JOB is a name, an id, or the beginning of an id. The exit code is 0 when it has, 4 when the job has ended
    in another way, and 8 when the time is over.
    """
    with session.client() as client:
        reached = wait_for(
            client,
            job,
            state,
            timeout_seconds=timeout,
            output=Output(form, quiet=quiet),
            namespace=session.namespace(namespace),
        )
    ctx.exit(0 if reached else ENDED_OTHERWISE_CODE)
