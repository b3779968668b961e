"""The normal form of a spec, as in Bacalhau: two specs with the same normal form are the same job version.

Normalization never hides an invalid value: what validation refuses (a negative Count, a daemon's Count of 3,
a CPU of `1M`, a value of another type) is unchanged or raises, so validation gives the same result before and
after it.
"""

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
    return replace(
        spec,
        namespace=spec.namespace or DEFAULT_NAMESPACE,
        count=_count(spec),
        constraints=_tuple(spec.constraints),
        tasks=tuple([_task(task) for task in _tuple(spec.tasks)]),
    )


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
    return replace(
        task,
        engine=_config(task.engine),
        publisher=_config(task.publisher),
        input_sources=tuple([_input_source(source) for source in _tuple(task.input_sources)]),
        result_paths=tuple([_result_path(path) for path in _tuple(task.result_paths)]),
        resources=NO_RESOURCES if task.resources == NO_RESOURCES else _resources(task.resources),
        network=NO_NETWORK if task.network == NO_NETWORK else _network(task.network),
        timeouts=NO_TIMEOUTS if task.timeouts == NO_TIMEOUTS else task.timeouts,
    )


def _config(config: SpecConfig) -> SpecConfig:
    trimmed = config.type.strip()
    return config if trimmed == config.type else replace(config, type=trimmed)


def _input_source(source: InputSource) -> InputSource:
    """As in Bacalhau, the Type of a source keeps its spaces, unlike that of an engine or a publisher."""
    return replace(source, alias=source.alias.strip(), target=source.target.strip())


def _result_path(path: ResultPath) -> ResultPath:
    return replace(path, name=path.name.strip(), path=path.path.strip())


def _resources(resources: Resources) -> Resources:
    cpu = _compact(resources.cpu)
    compact = replace(
        resources,
        cpu=cpu if cpu.endswith(_CASE_MATTERS) else cpu.lower(),
        memory=_compact(resources.memory).lower(),
        disk=_compact(resources.disk).lower(),
        gpu=_compact(resources.gpu).lower(),
    )
    return NO_RESOURCES if compact == NO_RESOURCES else compact  # left out only if it is this very object


def _compact(text: str) -> str:
    return "".join(text.split())


def _network(network: Network) -> Network:
    return replace(
        network,
        domains=tuple([domain.strip().lower() for domain in _tuple(network.domains)]),
        ports=_tuple(network.ports),
    )
