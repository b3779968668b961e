"""The specs that the demo submits: read, checked, and sorted into jobs. Nothing here needs a server."""

from collections.abc import Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec

from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.spec.reader import load_spec
from jobledger.store.spec.spec import JobSpec


class NamedSpec(msgspec.Struct, frozen=True):
    """A good spec, and the short name of the file that it came from."""

    label: str
    spec: JobSpec


class Planned(msgspec.Struct, frozen=True):
    """A job to be: its first spec, and the specs that came after it under the same namespace and name."""

    first: NamedSpec
    updates: tuple[NamedSpec, ...] = ()


def example_files() -> list[Traversable]:
    """The specs that come with Jobledger; a wheel has them inside the package, a checkout beside it."""
    package = files("jobledger")
    folder = package.joinpath("examples")
    if not folder.is_dir():
        folder = Path(str(package)).parent / "examples"
    return sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda e: e.name)


def read_examples() -> list[NamedSpec]:
    """The examples, read."""
    return [NamedSpec(file.name, load_spec(file.read_bytes()).spec) for file in example_files()]


def plan_jobs(specs: Sequence[NamedSpec]) -> list[Planned]:
    """One job per namespace and name, in the order of first appearance; without a name, a job of its own."""
    groups: dict[object, list[NamedSpec]] = {}
    for index, named in enumerate(specs):
        name, namespace = named.spec.name, named.spec.namespace or DEFAULT_NAMESPACE
        groups.setdefault((namespace, name) if name else index, []).append(named)
    return [Planned(group[0], tuple(group[1:])) for group in groups.values()]
