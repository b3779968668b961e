"""`jobledger job validate`: say what is wrong with spec files, without a server."""

import json
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from jobledger.store.errors import InvalidSpec, Problem
from jobledger.store.limits import SPEC_FILE_MAX_BYTES
from jobledger.store.parsing import format_of
from jobledger.store.reading import load_spec

_STDIN = "-"


class _Verdict(NamedTuple):
    """What was found out about one file."""

    file: str
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()


@click.command()
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
        verdict = _judge(file)
        invalid += bool(verdict.problems)
        if as_json:
            click.echo(_as_json(verdict))
        else:
            _tell(verdict)
    if len(files) > 1 and not as_json:
        click.echo(f"{len(files)} files: {len(files) - invalid} valid, {invalid} invalid")
    ctx.exit(1 if invalid else 0)


def _judge(file: str) -> _Verdict:
    name = "stdin" if file == _STDIN else click.format_filename(file)
    try:
        read = load_spec(_contents(file), strict=True, format=format_of(file))
    except InvalidSpec as error:
        return _Verdict(name, problems=error.problems)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the file's name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return _Verdict(name, problems=[Problem("", f"can't be read: {reason}", "check the path")])
    return _Verdict(name, warnings=read.warnings)


def _contents(file: str) -> bytes:
    """At most one byte more than a spec may have, so that /dev/zero is refused like any other long file."""
    if file == _STDIN:
        return sys.stdin.buffer.read(SPEC_FILE_MAX_BYTES + 1)
    with open(file, "rb") as stream:  # noqa: PTH123 - a Path would lose `./` and the like in messages
        return stream.read(SPEC_FILE_MAX_BYTES + 1)


def _tell(verdict: _Verdict) -> None:
    for problem in verdict.problems:
        click.echo(f"{verdict.file}: {click.style('error', fg='red')}: {problem}")
    for warning in verdict.warnings:
        click.echo(f"{verdict.file}: {click.style('warning', fg='yellow')}: {warning}")
    if not verdict.problems:
        click.echo(f"{verdict.file}: {click.style('valid', fg='green')}")


def _as_json(verdict: _Verdict) -> str:
    def plain(problems: Sequence[Problem]) -> list[dict[str, str]]:
        return [{"path": each.path, "message": each.message, "remedy": each.remedy} for each in problems]

    return json.dumps(
        {
            "file": verdict.file,
            "valid": not verdict.problems,
            "problems": plain(verdict.problems),
            "warnings": plain(verdict.warnings),
        }
    )
