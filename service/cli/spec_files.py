"""Spec files named on the command line: reads them, and prints what is wrong with them."""

import sys
from collections.abc import Sequence

import click
import msgspec

from jobledger.service.cli.text import say
from jobledger.service.errors import INVALID_INPUT_EXIT_CODE
from jobledger.store.model.errors import InvalidInput, InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_FILE_MAX_BYTES
from jobledger.store.spec.formats import format_of
from jobledger.store.spec.reader import load_spec
from jobledger.store.spec.spec import JobSpec

_STDIN = "-"


class SpecFile(msgspec.Struct, frozen=True):
    """The result of reading one file.

    Attributes:
        file: the name to show; `stdin` for standard input.
        spec: None if there are problems.
    """

    file: str
    spec: JobSpec | None = None
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()


def read_spec_file(name: str) -> SpecFile:
    """Read one spec, strictly; `-` is standard input. A file that cannot be read is a problem."""
    shown = "stdin" if name == _STDIN else click.format_filename(name)
    try:
        read = load_spec(_read_bounded(name), strict=True, format=format_of(name))
    except InvalidSpec as error:
        return SpecFile(shown, problems=error.problems)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the file's name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return SpecFile(shown, problems=[Problem("", f"can't be read: {reason}", "check the path")])
    return SpecFile(shown, read.spec, warnings=read.warnings)


def read_valid_specs(ctx: click.Context, names: Sequence[str]) -> list[tuple[str, JobSpec]]:
    """The specs of these files, with the names to show; an invalid one ends the command with exit code 2."""
    files = [read_spec_file(name) for name in names]
    for found in files:
        print_problems(found, err=True)
        for warning in found.warnings:
            say(f"{found.file}: warning: {warning}")
    if any(found.problems for found in files):
        ctx.exit(INVALID_INPUT_EXIT_CODE)
    return [(found.file, found.spec) for found in files if found.spec is not None]


def load_specs(ctx: click.Context, names: Sequence[str], namespace: str) -> list[JobSpec]:
    """The specs of these files; invalid ones end the command with exit code 2 and all problems.

    Args:
        ctx: the context of the command.
        names: of the files; `-` is standard input.
        namespace: for specs without one; empty: the service decides.

    Raises:
        InvalidInput: a spec has another namespace.
    """
    if names.count("-") > 1:
        raise click.UsageError("- is standard input and can be given only once")
    return [_with_namespace(spec, namespace, file) for file, spec in read_valid_specs(ctx, names)]


def _with_namespace(spec: JobSpec, namespace: str, file: str) -> JobSpec:
    if not namespace or spec.namespace == namespace:
        return spec
    if spec.namespace:
        raise InvalidInput(
            f"{file} has namespace {spec.namespace!r:.80}, but the command uses {namespace!r:.80}; pass the"
            " same one with --namespace, or remove it from the file"
        )
    return msgspec.structs.replace(spec, namespace=namespace)


def print_problems(found: SpecFile, *, err: bool = False) -> None:
    """Print each problem of a file on its own line."""
    for problem in found.problems:
        click.echo(f"{found.file}: {click.style('error', fg='red')}: {problem}", err=err)


def _read_bounded(name: str) -> bytes:
    """At most one byte more than the limit, so that /dev/zero is rejected like any other long file."""
    if name == _STDIN:
        return sys.stdin.buffer.read(SPEC_FILE_MAX_BYTES + 1)
    with open(name, "rb") as stream:  # noqa: PTH123 - a Path would drop `./` from messages
        return stream.read(SPEC_FILE_MAX_BYTES + 1)
