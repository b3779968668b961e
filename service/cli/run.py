"""`jobledger job run`: submit specs, and wait for what becomes of them."""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
import msgspec

from jobledger.service.cli.changes import print_submission
from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.receipts import (
    ENDED_OTHERWISE_CODE,
    print_receipt,
    wait_for,
    wanted_states,
)
from jobledger.service.cli.shared import Session, connected, namespace_option
from jobledger.service.cli.specs import good_specs
from jobledger.service.cli.text import plain
from jobledger.service.cli.times import Duration
from jobledger.service.cli.wait import WAIT_DEFAULT
from jobledger.store.model.errors import RevisionMismatch
from jobledger.store.model.subjects import DEFAULT_NAMESPACE

if TYPE_CHECKING:
    from jobledger.service.client.answers import WriteAnswer
    from jobledger.service.client.client import Client
    from jobledger.store.spec.spec import JobSpec

_WAIT = "--wait"
_WAIT_DEFAULT_STATE = "Completed"


class _Run(click.Command):
    """Takes `--wait` with or without a state; click would take the file behind it for one."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Say the default state of a bare `--wait`."""
        end = args.index("--") if "--" in args else len(args)
        spelled = [f"{_WAIT}={_WAIT_DEFAULT_STATE}" if each == _WAIT else each for each in args[:end]]
        return super().parse_args(ctx, [*spelled, *args[end:]])


class _Create(_Run):
    """`job run` that always refuses a job that exists."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Add the option."""
        return super().parse_args(ctx, ["--create-only", *args])


class RunOptions(msgspec.Struct, frozen=True):
    """What is wanted besides the specs."""

    force: bool
    create_only: bool
    reason: str
    idempotency_key: str


@click.command(
    cls=_Run,
    epilog=examples(
        "jobledger job run job.yaml --reason 'first try'",
        "jobledger job run job.yaml --dry-run",
        "jobledger job run job.yaml --wait --timeout 30m",
        "jobledger job run - < job.yaml",
    ),
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(allow_dash=True))
@namespace_option
@click.option("--reason", default="", help="Why; it is kept in the log.")
@click.option("--force", is_flag=True, help="Make a new version also of a spec that did not change.")
@click.option("--create-only", is_flag=True, help="Refuse if there is a job of that name.")
@click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    default="",
    help="The same key and file again: the same answer, and nothing is written twice.",
)
@click.option(
    "--wait",
    "state",
    metavar="[=STATE]",
    help=f"Wait until it is {_WAIT_DEFAULT_STATE}, or in STATE (`terminal`: any end).",
)
@click.option("--timeout", type=Duration(), default=WAIT_DEFAULT, show_default=True, help="Of --wait.")
@output_option()
@quiet_option
@connected
@click.pass_context
def run(
    ctx: click.Context,
    /,
    *,
    files: tuple[str, ...],
    namespace: str | None,
    dry_run: bool,
    state: str | None,
    timeout: float,
    form: str,
    quiet: bool,
    session: Session,
    **wishes: str | bool,
) -> None:
    """Submit jobs: create them, or give them a new spec.

    FILE is a job spec in YAML, JSON or TOML, or - for standard input. All files are checked as by `job
    validate` before the first is submitted. A job of the same namespace and name gets the spec as its new
    version; an equal spec changes nothing.
    """
    if state is not None:
        wanted_states(state)
    if wishes["idempotency_key"] and len(files) > 1:
        raise click.UsageError("--idempotency-key is for one file: a key stands for one submission")
    wished = msgspec.convert(wishes, RunOptions)
    specs = good_specs(ctx, files, session.namespace(namespace))
    output = Output(form, quiet=quiet)
    with session.client() as client:
        if dry_run:
            _show_changes(client, specs, wished, output)
            return
        answers = [_submit(client, spec, wished, output, tell=state is None) for spec in specs]
        if state is not None:
            reached = [
                wait_for(client, answer.job_id, state, timeout_seconds=timeout, output=output, after=answer)
                for answer in answers
            ]
            ctx.exit(0 if all(reached) else ENDED_OTHERWISE_CODE)


def _submit(
    client: "Client", spec: "JobSpec", wished: RunOptions, output: Output, *, tell: bool
) -> "WriteAnswer":
    try:
        answer = client.submit(
            spec,
            reason=wished.reason,
            force=wished.force,
            key=wished.idempotency_key,
            create_only=wished.create_only,
        )
    except RevisionMismatch as error:
        if not wished.create_only:
            raise
        raise _exists_already(spec, error) from None
    if tell or not (output.for_machines or output.quiet):  # who waits and reads by machine wants the end
        verb = "created" if answer.version == 1 else "updated"
        is_shown = not answer.event_id and not output.for_machines and not output.quiet
        more = _way_on(client, answer) if is_shown else ""
        print_receipt(answer, output, verb=verb, name=spec.name, more=more)
    return answer


def _exists_already(spec: "JobSpec", error: RevisionMismatch) -> RevisionMismatch:
    version = f"version {error.missed[-1].version}, " if error.missed else ""
    return RevisionMismatch(
        f"there is a job {spec.name!r:.80} already ({version}revision {error.revision}); to update"
        " it, use `jobledger job run` without --create-only; to create another job, use another name",
        job_id=error.job_id,
        revision=error.revision,
        sequence=error.sequence,
    )


def _way_on(client: "Client", answer: "WriteAnswer") -> str:
    """Of an unchanged job that has ended: its state, lest it is taken for begun, and what begins it."""
    from jobledger.service.client.client import TERMINAL  # it is imported already

    job = client.job(answer.job_id, wait_for=str(answer.sequence))
    if job.state.state_type not in TERMINAL:
        return ""
    is_plain = job.namespace == DEFAULT_NAMESPACE and shlex.quote(job.name) == job.name
    ref = job.name if is_plain else job.id
    return f", {job.state.state_type}; `jobledger job rerun {ref}` or `--force` begins it again"


def _show_changes(client: "Client", specs: Sequence["JobSpec"], wished: RunOptions, output: Output) -> None:
    for spec in specs:
        answer = client.diff(spec)
        if wished.create_only and answer.version:
            job = client.job(answer.job_id)
            error = RevisionMismatch("", job_id=answer.job_id, revision=job.revision)
            raise _exists_already(spec, error) from None
        if output.quiet:
            if answer.job_id and (answer.changes or wished.force):
                click.echo(answer.job_id)
        elif output.for_machines:
            output.document(answer.wire)
        elif answer.changes or wished.force:
            print_submission(answer, spec.name, forced=wished.force)
        else:
            click.echo(f"{plain(spec.name) or 'the job'}: nothing would change")


create = _Create(
    "create",
    params=run.params,
    callback=run.callback,
    help="""Submit new jobs: `job run --create-only`.

    It takes the arguments and options of `job run`, and refuses (5) a job that exists.
    """,
    epilog=examples("jobledger job create job.yaml --reason 'first try'"),
)
