"""The normal form of a spec, as in Bacalhau: two specs with the same normal form are the same job version.

Normalization never hides an invalid value: what validation refuses (a negative Count, a daemon's Count of 3,
a CPU of `1M`, a value of another type) is unchanged or raises, so validation gives the same result before and
after it.
"""

from collections.abc import Callable
from operator import is_
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.spec.spec import (
    NO_NETWORK,
    NO_RESOURCES,
    NO_TIMEOUTS,
    RUNS_EVERYWHERE,
    InputSource,
    JobSpec,
    Network,
    Resources,
    ResultPath,
    SpecConfig,
    Task,
)

# In lower case these suffixes of a CPU (10^6, 10^18) would be other quantities; validation refuses them.
_CASE_MATTERS = ("M", "E")


def normalize(spec: JobSpec) -> JobSpec:
    """Return the normal form of a spec; it is its own normal form.

    The contents of Params, Env, Meta and Labels belong to the user and are not changed. An empty Name stays
    empty: the ledger sets it to the id of the job.

    Raises:
        AttributeError, TypeError: if an attribute has another type than declared.
    """
    namespace = DEFAULT_NAMESPACE if spec.namespace == "" else spec.namespace  # None is not a text
    count = _count(spec)
    constraints, tasks = _tuple(spec.constraints), _each(_task, spec.tasks)
    if (
        namespace is spec.namespace
        and count is spec.count
        and constraints is spec.constraints
        and tasks is spec.tasks
    ):
        return spec
    return replace(spec, namespace=namespace, count=count, constraints=constraints, tasks=tasks)


def _each(normal: Callable[[Any], Any], values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the normal forms of these values; the same tuple if each is its own normal form.

    Most values are, and a copy costs more than the comparison.
    """
    before = _tuple(values)
    if not before:
        return before
    after = tuple([normal(value) for value in before])
    return before if all(map(is_, before, after)) else after


def _tuple(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a list or tuple as a tuple; a string, say, must not pass as a tuple of its characters."""
    if not isinstance(values, list | tuple):
        raise TypeError(f"expected a tuple, got {type(values).__name__}")
    return tuple(values)


def _count(spec: JobSpec) -> int:
    """A missing Count is 1; jobs that run on every node have 0, where Bacalhau accepts a 1."""
    if spec.type in RUNS_EVERYWHERE:
        is_one = type(spec.count) is int and spec.count == 1  # `True == 1.0 == 1`, and neither is valid
        return 0 if spec.count is UNSET or is_one else spec.count
    return 1 if spec.count is UNSET else spec.count


def _task(task: Task) -> Task:
    engine, publisher = _config(task.engine), _config(task.publisher)
    sources, results = _each(_input_source, task.input_sources), _each(_result_path, task.result_paths)
    resources, network, timeouts = task.resources, task.network, task.timeouts
    if resources is not NO_RESOURCES:
        resources = NO_RESOURCES if resources == NO_RESOURCES else _resources(resources)
    if network is not NO_NETWORK:
        network = NO_NETWORK if network == NO_NETWORK else _network(network)
    if timeouts is not NO_TIMEOUTS and timeouts == NO_TIMEOUTS:
        timeouts = NO_TIMEOUTS
    if (
        engine is task.engine
        and publisher is task.publisher
        and sources is task.input_sources
        and results is task.result_paths
        and resources is task.resources
        and network is task.network
        and timeouts is task.timeouts
    ):
        return task
    return replace(
        task,
        engine=engine,
        publisher=publisher,
        input_sources=sources,
        result_paths=results,
        resources=resources,
        network=network,
        timeouts=timeouts,
    )


def _config(config: SpecConfig) -> SpecConfig:
    trimmed = config.type.strip()
    return config if trimmed == config.type else replace(config, type=trimmed)


def _input_source(source: InputSource) -> InputSource:
    """As in Bacalhau, the Type of a source keeps its spaces, unlike that of an engine or a publisher."""
    alias, target = source.alias.strip(), source.target.strip()
    if alias is source.alias and target is source.target:  # what `strip` returns if there is nothing to strip
        return source
    return replace(source, alias=alias, target=target)


def _result_path(path: ResultPath) -> ResultPath:
    name, place = path.name.strip(), path.path.strip()
    return path if name is path.name and place is path.path else replace(path, name=name, path=place)


def _resources(resources: Resources) -> Resources:
    cpu, memory = _compact(resources.cpu), _lower(_compact(resources.memory))
    disk, gpu = _lower(_compact(resources.disk)), _lower(_compact(resources.gpu))
    if not cpu.endswith(_CASE_MATTERS):
        cpu = _lower(cpu)
    if not (cpu or memory or disk or gpu):
        return NO_RESOURCES  # left out only if it is this very object
    if (
        cpu is resources.cpu
        and memory is resources.memory
        and disk is resources.disk
        and gpu is resources.gpu
    ):
        return resources
    return replace(resources, cpu=cpu, memory=memory, disk=disk, gpu=gpu)


def _compact(text: str) -> str:
    return "".join(text.split())  # the same object if there is no space in it


def _lower(text: str) -> str:
    lower = text.lower()
    return text if lower == text else lower


def _network(network: Network) -> Network:
    return replace(
        network,
        domains=tuple([domain.strip().lower() for domain in _tuple(network.domains)]),
        ports=_tuple(network.ports),
    )
