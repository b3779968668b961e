"""Spec files as a person names them on the command line: read, judged, and told about."""

import sys
from collections.abc import Sequence

import click
import msgspec

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_FILE_MAX_BYTES
from jobledger.store.spec.formats import format_of
from jobledger.store.spec.reader import load_spec
from jobledger.store.spec.spec import JobSpec

_STDIN = "-"


class SpecFile(msgspec.Struct, frozen=True):
    """What was found in one file.

    Attributes:
        file: its name, as it can be shown; `stdin` for standard input.
        spec: the spec; None if there are problems.
        problems: everything that is wrong with it.
        warnings: what is odd, and taken as it stands.
    """

    file: str
    spec: JobSpec | None = None
    problems: Sequence[Problem] = ()
    warnings: Sequence[Problem] = ()


def read_spec_file(name: str) -> SpecFile:
    """Read one spec, strictly; a file that can't be read is a file with a problem. `-` is standard input."""
    shown = "stdin" if name == _STDIN else click.format_filename(name)
    try:
        read = load_spec(_contents(name), strict=True, format=format_of(name))
    except InvalidSpec as error:
        return SpecFile(shown, problems=error.problems)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the file's name
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return SpecFile(shown, problems=[Problem("", f"can't be read: {reason}", "check the path")])
    return SpecFile(shown, read.spec, warnings=read.warnings)


def tell_problems(found: SpecFile, *, err: bool = False) -> None:
    """Say what is wrong with a file, a line each; on standard error if it is not the result."""
    for problem in found.problems:
        click.echo(f"{found.file}: {click.style('error', fg='red')}: {problem}", err=err)


def _contents(name: str) -> bytes:
    """At most one byte more than a spec may have, so that /dev/zero is refused like any other long file."""
    if name == _STDIN:
        return sys.stdin.buffer.read(SPEC_FILE_MAX_BYTES + 1)
    with open(name, "rb") as stream:  # noqa: PTH123 - a Path would lose `./` and the like in messages
        return stream.read(SPEC_FILE_MAX_BYTES + 1)
