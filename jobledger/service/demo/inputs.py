"""The specs that the demo submits: read, checked, and sorted into jobs. Nothing here needs a server."""

import sys
from collections.abc import Iterable, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click
import msgspec

from jobledger.store.errors import InvalidSpec, Problem
from jobledger.store.limits import SPEC_FILE_MAX_BYTES
from jobledger.store.parsing import format_of
from jobledger.store.reading import load_spec
from jobledger.store.spec import JobSpec
from jobledger.store.subjects import DEFAULT_NAMESPACE

_STDIN = "-"


class SpecFile(msgspec.Struct, frozen=True):
    """A good spec, and the short name of the file that it came from."""

    label: str
    spec: JobSpec


class Planned(msgspec.Struct, frozen=True):
    """A job to be: its first spec, and the specs that came after it under the same namespace and name."""

    first: SpecFile
    updates: tuple[SpecFile, ...] = ()


class BadFile(msgspec.Struct, frozen=True):
    """A file that is no good spec, with all that is wrong with it."""

    file: str
    problems: tuple[Problem, ...]


def example_files() -> list[Traversable]:
    """The specs that come with Jobledger; a wheel has them inside the package, a checkout beside it."""
    package = files("jobledger")
    folder = package.joinpath("examples")
    if not folder.is_dir():
        folder = Path(str(package)).parent / "examples"
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name)


def read_examples() -> list[SpecFile]:
    """The examples, read."""
    return [SpecFile(file.name, load_spec(file.read_bytes()).spec) for file in example_files()]


def read_files(names: Iterable[str]) -> tuple[list[SpecFile], list[BadFile]]:
    """The good specs among these files, and what is wrong with the others; both in the order given."""
    good: list[SpecFile] = []
    bad: list[BadFile] = []
    for name in names:
        shown = "stdin" if name == _STDIN else click.format_filename(name)
        try:
            read = load_spec(_contents(name), strict=True, format=format_of(name))
        except InvalidSpec as error:
            bad.append(BadFile(shown, error.problems))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the file's name
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            bad.append(BadFile(shown, (Problem("", f"can't be read: {reason}", "check the path"),)))
        else:
            good.append(SpecFile(Path(shown).name, read.spec))
    return good, bad


def plan_jobs(specs: Sequence[SpecFile]) -> list[Planned]:
    """One job per namespace and name, in the order of first appearance; without a name, a job of its own."""
    groups: dict[object, list[SpecFile]] = {}
    for index, file in enumerate(specs):
        name, namespace = file.spec.name, file.spec.namespace or DEFAULT_NAMESPACE
        groups.setdefault((namespace, name) if name else index, []).append(file)
    return [Planned(group[0], tuple(group[1:])) for group in groups.values()]


def _contents(name: str) -> bytes:
    """At most one byte more than a spec may have: an endless file is refused like any other long one."""
    if name == _STDIN:
        return sys.stdin.buffer.read(SPEC_FILE_MAX_BYTES + 1)
    with open(name, "rb") as stream:  # noqa: PTH123 - a Path would lose `./` and the like in messages
        return stream.read(SPEC_FILE_MAX_BYTES + 1)
