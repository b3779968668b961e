"""`jobledger job diff`: what a submission would change, or what changed between two versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobledger.service.cli.changes import print_changes, print_submission
from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.shared import Session, VersionName, connected, namespace_option

if TYPE_CHECKING:
    from jobledger.service.client.answers import VersionsDiffAnswer
    from jobledger.service.client.client import Client

_MOST_WORDS = 3  # a job, and two versions


class _Words(click.Argument):
    """A file alone, or a job and one or two versions."""

    def make_metavar(self, *_: Any) -> str:
        """As the first line of the help shows it."""
        return "{FILE | JOB FROM [TO]}"


@click.command(
    epilog=examples(
        "jobledger job diff job.yaml",
        "jobledger job diff my-job 3 5",
        "jobledger job diff job.yaml --exit-code",
    )
)
@click.argument("words", nargs=-1, required=True, cls=_Words)
@namespace_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a difference.")
@output_option("table", "json", "yaml")
@connected
@click.pass_context
def diff(
    ctx: click.Context,
    *,
    words: tuple[str, ...],
    namespace: str | None,
    exit_code: bool,
    form: str,
    session: Session,
) -> None:
    """Show how a spec differs from the one that its job has, or how two versions of a job differ.

    FILE is a job spec, or - for standard input; if its job does not exist, all of it is new. JOB is a name,
    an id, or the beginning of an id; FROM and TO are versions, by number or by tag, and without TO it is the
    latest. Nothing is written. No output means no difference; for machines there is also a JSON patch (RFC
    6902).
    """
    if len(words) > _MOST_WORDS:
        raise click.UsageError("too many words: give a FILE, or a JOB and one or two of its versions", ctx)
    output, where = Output(form), session.namespace(namespace)
    if len(words) == 1:
        differ = _diff_file(ctx, session, output, words[0], where)
    else:
        names = [VersionName().convert(word, None, ctx) for word in words[1:]]
        with session.client() as client:
            differ = _diff_versions(client, output, words[0], names, where)
    ctx.exit(1 if exit_code and differ else 0)


def _diff_file(ctx: click.Context, session: Session, output: Output, file: str, namespace: str) -> bool:
    from jobledger.service.cli.specs import good_specs  # reads YAML: only who has a spec needs it

    click.Path(allow_dash=True).convert(file, None, ctx)
    if file != "-" and not Path(file).exists():
        raise click.UsageError(
            f"there is no file {file!r}; to compare versions of a job, write JOB FROM [TO]", ctx
        )
    (spec,) = good_specs(ctx, [file], namespace)
    with session.client() as client:
        answer = client.diff(spec)
    if output.for_machines:
        output.document(answer.wire)
    else:
        print_submission(answer, spec.name)
    return bool(answer.changes or not answer.version)


def _diff_versions(client: "Client", output: Output, job: str, names: list[str], namespace: str) -> bool:
    answer = client.diff_versions(job, *names, namespace=namespace)
    if output.for_machines:
        output.document(answer.wire)
    elif answer.changes:
        click.echo(click.style(_head(answer, names), bold=True))
        print_changes(answer.changes)
    return bool(answer.changes)


def _head(answer: "VersionsDiffAnswer", names: list[str]) -> str:
    """`version 3 (golden) → version 5`."""
    numbers = (answer.from_version, answer.to_version)
    told = [
        f"version {number}" + (f" ({name})" if name and not name.isdecimal() else "")
        for number, name in zip(numbers, [*names, ""], strict=False)
    ]
    return " → ".join(told)
