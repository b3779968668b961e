"""`jobledger job run`, `create`, `update` and `validate`: the commands that read spec files."""

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click
import msgspec

from jobledger.service.cli.diff import print_submission
from jobledger.service.cli.examples import examples
from jobledger.service.cli.job_change import (
    ENDED_OTHERWISE_CODE,
    WAIT_DEFAULT,
    awaited_states,
    print_result,
    wait_for,
)
from jobledger.service.cli.options import (
    Session,
    connected,
    force_option,
    if_revision_option,
    job_argument,
    namespace_option,
    reason_option,
)
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.spec_files import load_specs, print_problems, read_spec_file
from jobledger.service.cli.text import plain
from jobledger.service.cli.times import Duration
from jobledger.store.model.errors import Problem, RevisionMismatch
from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.spec.spec import JobSpec

if TYPE_CHECKING:
    from jobledger.service.client.client import Client
    from jobledger.service.client.responses import WriteResponse

_WAIT: Final = "--wait"
_WAIT_DEFAULT_STATE: Final = "Completed"


class _Run(click.Command):
    """Accepts `--wait` with or without a state; click would use the next file as its value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        spelled = [f"{_WAIT}={_WAIT_DEFAULT_STATE}" if each == _WAIT else each for each in args[:end]]
        return super().parse_args(ctx, [*spelled, *args[end:]])


class _Create(_Run):
    """`job run --create-only`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, ["--create-only", *args])


class RunOptions(msgspec.Struct, frozen=True):
    """The options of a submission."""

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
@reason_option
@force_option
@click.option("--create-only", is_flag=True, help="Fail if a job with that name exists.")
@click.option("--dry-run", is_flag=True, help="Show what would change; write nothing.")
@click.option(
    "--idempotency-key",
    metavar="KEY",
    default="",
    help="Repeating the key with the same file returns the same result and writes nothing twice.",
)
@click.option(
    "--wait",
    "state",
    metavar="[=STATE]",
    help=f"Wait until the job is {_WAIT_DEFAULT_STATE}, or in STATE (`terminal`: any terminal state).",
)
@click.option("--timeout", type=Duration(), default=WAIT_DEFAULT, show_default=True, help="For --wait.")
@output_option(quiet=True)
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
    output: Output,
    session: Session,
    **submission: str | bool,
) -> None:
    """Submit jobs: create them, or update their specs.

    FILE is a job spec in YAML, JSON or TOML, or - for standard input. All files are checked as by `job
    validate` before the first is submitted. If a job with that namespace and name exists, it gets the spec as
    a new version; an equal spec changes nothing.
    """
    if state is not None:
        awaited_states(state)
    if submission["idempotency_key"] and len(files) > 1:
        raise click.UsageError(
            f"--idempotency-key takes one FILE, got {len(files)}: a key identifies one submission"
        )
    options = msgspec.convert(submission, RunOptions)
    specs = load_specs(ctx, files, session.namespace(namespace))
    with session.client() as client:
        if dry_run:
            _show_changes(client, specs, options, output)
            return
        results = [_submit(client, spec, options, output, waits=state is not None) for spec in specs]
        if state is not None:
            reached = [
                wait_for(client, result.job_id, state, timeout_seconds=timeout, output=output, after=result)
                for result in results
            ]
            ctx.exit(0 if all(reached) else ENDED_OTHERWISE_CODE)


def _submit(
    client: "Client", spec: JobSpec, options: RunOptions, output: Output, *, waits: bool
) -> "WriteResponse":
    try:
        result = client.submit(
            spec,
            reason=options.reason,
            force=options.force,
            key=options.idempotency_key,
            create_only=options.create_only,
        )
    except RevisionMismatch as error:
        if not options.create_only:
            raise
        raise _already_exists(spec, error) from None
    for_people = not (output.for_machines or output.quiet)
    if not waits or for_people:  # a program that waits gets the final state only
        verb = "created" if result.version == 1 else "updated"
        more = _rerun_hint(client, result) if for_people and not result.event_id else ""
        print_result(result, output, verb=verb, name=spec.name, more=more)
    return result


def _already_exists(spec: JobSpec, error: RevisionMismatch) -> RevisionMismatch:
    version = f"version {error.missed[-1].version}, " if error.missed else ""
    return RevisionMismatch(
        f"job {spec.name!r:.80} already exists ({version}revision {error.revision}); to update it, use"
        " `jobledger job run` without --create-only; to create another job, use another name",
        job_id=error.job_id,
        revision=error.revision,
        sequence=error.sequence,
    )


def _rerun_hint(client: "Client", result: "WriteResponse") -> str:
    """How to rerun an unchanged job that has ended; otherwise its user might expect it to run."""
    from jobledger.service.client.client import TERMINAL

    job = client.job(result.job_id, wait_for=str(result.sequence))
    if job.state.state_type not in TERMINAL:
        return ""
    is_plain = job.namespace == DEFAULT_NAMESPACE and shlex.quote(job.name) == job.name
    ref = job.name if is_plain else job.id
    return f", {job.state.state_type}; `jobledger job rerun {ref}` or `--force` runs it again"


def _show_changes(client: "Client", specs: Sequence[JobSpec], options: RunOptions, output: Output) -> None:
    for spec in specs:
        found = client.diff(spec)
        if options.create_only and found.version:
            job = client.job(found.job_id)
            raise _already_exists(spec, RevisionMismatch("", job_id=found.job_id, revision=job.revision))
        if output.quiet:
            if found.job_id and (found.changes or options.force):
                click.echo(found.job_id)
        elif output.for_machines:
            output.document(found.wire)
        elif found.changes or options.force:
            print_submission(found, spec.name, forced=options.force)
        else:
            click.echo(f"{plain(spec.name) or 'the job'}: nothing would change")


create = _Create(
    "create",
    params=run.params,
    callback=run.callback,
    help="""Submit new jobs: `job run --create-only`.

    Takes the arguments and options of `job run`. A job that exists is rejected with exit code 5.
    """,
    epilog=examples("jobledger job create job.yaml --reason 'first try'"),
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
@force_option
@reason_option
@output_option(quiet=True)
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
    output: Output,
    session: Session,
) -> None:
    """Update the spec of a job.

    JOB is a name, an ID, or the beginning of an ID. FILE is the complete new spec, or - for standard input;
    Name and Namespace may be omitted, but not changed. With --if-revision, the update is rejected if the job
    has changed meanwhile, and the missed events are shown.
    """
    (spec,) = load_specs(ctx, [file], "")
    with session.client() as client:
        result = client.update(
            job,
            spec,
            namespace=session.namespace(namespace),
            revision=if_revision,
            force=force,
            reason=reason,
        )
    print_result(result, output, verb="updated", name=job)


@click.command(
    epilog=examples("jobledger job validate job.yaml", "jobledger job validate job.yaml other.toml --json")
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per file, on one line each.")
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...], as_json: bool) -> None:
    """Check job specs offline.

    FILE is a job spec in YAML, JSON or TOML, or - for standard input. Every problem is shown with its path
    and a remedy; keys that Bacalhau would silently ignore are problems. The exit code is 0 if all files are
    valid, else 1.
    """
    invalid = 0
    for name in files:
        found = read_spec_file(name)
        invalid += bool(found.problems)
        if as_json:
            wire = {
                "file": found.file,
                "valid": not found.problems,
                "problems": _problems(found.problems),
                "warnings": _problems(found.warnings),
            }
            click.echo(json.dumps(wire))
            continue
        print_problems(found)
        for warning in found.warnings:
            click.echo(f"{plain(found.file)}: {click.style('warning', fg='yellow')}: {plain(str(warning))}")
        if not found.problems:
            click.echo(f"{plain(found.file)}: {click.style('valid', fg='green')}")
    if len(files) > 1 and not as_json:
        click.echo(f"{len(files)} files: {len(files) - invalid} valid, {invalid} invalid")
    ctx.exit(1 if invalid else 0)


def _problems(problems: Sequence[Problem]) -> list[dict[str, str]]:
    return [{"path": each.path, "message": each.message, "remedy": each.remedy} for each in problems]
