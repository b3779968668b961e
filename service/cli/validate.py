"""`jobledger job validate`: say what is wrong with spec files, without a server."""

import json
from collections.abc import Sequence

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.text import plain
from jobledger.service.spec_files import SpecFile, read_spec_file, tell_problems
from jobledger.store.model.errors import Problem


@click.command(
    epilog=examples("jobledger job validate job.yaml", "jobledger job validate job.yaml other.toml --json")
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object per file and line, for machines.")
@click.pass_context
def validate(ctx: click.Context, files: tuple[str, ...], as_json: bool) -> None:
    """Check job specs in YAML, JSON or TOML, offline.

    Every problem is told with its place and its remedy. What Bacalhau would silently ignore is a problem.
    The file - is standard input. The exit code is 0 if all files are valid and 1 if not.
    """
    invalid = 0
    for file in files:
        found = read_spec_file(file)
        invalid += bool(found.problems)
        if as_json:
            click.echo(_as_json(found))
        else:
            _tell(found)
    if len(files) > 1 and not as_json:
        click.echo(f"{len(files)} files: {len(files) - invalid} valid, {invalid} invalid")
    ctx.exit(1 if invalid else 0)


def _tell(found: SpecFile) -> None:
    tell_problems(found)
    for warning in found.warnings:
        click.echo(f"{plain(found.file)}: {click.style('warning', fg='yellow')}: {plain(str(warning))}")
    if not found.problems:
        click.echo(f"{plain(found.file)}: {click.style('valid', fg='green')}")


def _as_json(found: SpecFile) -> str:
    def plain(problems: Sequence[Problem]) -> list[dict[str, str]]:
        return [{"path": each.path, "message": each.message, "remedy": each.remedy} for each in problems]

    return json.dumps(
        {
            "file": found.file,
            "valid": not found.problems,
            "problems": plain(found.problems),
            "warnings": plain(found.warnings),
        }
    )
