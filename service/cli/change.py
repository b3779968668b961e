"""`jobledger job update | set-state | stop | rerun`: change a job that exists."""

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.receipts import print_receipt
from jobledger.service.cli.shared import (
    Session,
    StateChoice,
    VersionName,
    WholeNumber,
    connected,
    job_argument,
    namespace_option,
)

reason_option = click.option("--reason", default="", help="Why; it is kept in the log.")
if_revision_option = click.option(
    "--if-revision",
    type=WholeNumber(),
    metavar="N",
    help="Only if the job is still at this revision.",
)


@click.command(
    epilog=examples(
        "jobledger job update my-job job.yaml --reason 'more memory'",
        "jobledger job update my-job job.yaml --if-revision 7",
    )
)
@job_argument
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@namespace_option
@if_revision_option
@click.option("--force", is_flag=True, help="Make a new version also of a spec that did not change.")
@reason_option
@output_option()
@quiet_option
@connected
@click.pass_context
def update(
    ctx: click.Context,
    *,
    job: str,
    file: str,
    namespace: str | None,
    if_revision: int | None,
    force: bool,
    reason: str,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Give a job a new spec.

    JOB is a name, an id, or the beginning of an id. FILE is the whole new spec, or - for standard input; it
    may leave out Name and Namespace, and can't change them. With --if-revision, another writer's change in
    between is refused, and told.
    """
    from jobledger.service.cli.specs import good_specs  # reads YAML: only who sends a spec needs it

    (spec,) = good_specs(ctx, [file], "")
    with session.client() as client:
        answer = client.update(
            job,
            spec,
            namespace=session.namespace(namespace),
            revision=if_revision,
            force=force,
            reason=reason,
        )
    print_receipt(answer, Output(form, quiet=quiet), verb="updated", name=job)


def _details(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        found[key] = rest
    return found


@click.command(
    "set-state",
    epilog=examples(
        "jobledger job set-state my-job Running --message 'on node 3'",
        "jobledger job set-state my-job Running --detail Progress=55",
    ),
)
@job_argument
@click.argument("state", metavar="STATE", type=StateChoice())
@namespace_option
@click.option("--message", default="", help="For people.")
@click.option(
    "--detail", "details", multiple=True, metavar="KEY=VALUE", callback=_details, help="For machines."
)
@if_revision_option
@reason_option
@output_option()
@quiet_option
@connected
def set_state(
    *,
    job: str,
    state: str,
    namespace: str | None,
    message: str,
    details: dict[str, str],
    if_revision: int | None,
    reason: str,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Say which state a job has come to.

    JOB is a name, an id, or the beginning of an id. STATE is Pending, Queued, Running, Completed, Failed or
    Stopped; the last three are ends, which only a new spec or a rerun undoes.
    """
    with session.client() as client:
        answer = client.set_state(
            job,
            state,
            namespace=session.namespace(namespace),
            message=message,
            details=details,
            reason=reason,
            revision=if_revision,
        )
    print_receipt(answer, Output(form, quiet=quiet), verb=f"is {state}", name=job)


@click.command(epilog=examples("jobledger job stop my-job --reason 'no longer needed'"))
@job_argument
@namespace_option
@reason_option
@output_option()
@quiet_option
@connected
def stop(*, job: str, namespace: str | None, reason: str, form: str, quiet: bool, session: Session) -> None:
    """Stop a job.

    JOB is a name, an id, or the beginning of an id. A job that is stopped already stays as it is; one that
    has ended otherwise can't be stopped.
    """
    with session.client() as client:
        answer = client.stop(job, namespace=session.namespace(namespace), reason=reason)
    print_receipt(answer, Output(form, quiet=quiet), verb="stopped", name=job)


@click.command(epilog=examples("jobledger job rerun my-job", "jobledger job rerun my-job --version 3"))
@job_argument
@namespace_option
@click.option(
    "--version",
    type=VersionName(),
    default=None,
    help="With this version's spec, not the latest; also by a tag.",
)
@reason_option
@output_option()
@quiet_option
@connected
def rerun(
    *,
    job: str,
    namespace: str | None,
    version: str | None,
    reason: str,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Run a job again, as a new version.

    JOB is a name, an id, or the beginning of an id. It must be running or have ended.
    """
    with session.client() as client:
        answer = client.rerun(
            job, namespace=session.namespace(namespace), version=version or "", reason=reason
        )
    print_receipt(answer, Output(form, quiet=quiet), verb="rerun", name=job)
