"""One form for specs that mean the same, after Bacalhau's normalisation.

Two specs that differ only in what this removes are the same job version. It never hides a broken rule: what
validation would refuse (a negative Count, a daemon's Count of 3, a CPU of `1M`) stays as it is, so validation
sees it before or after.
"""

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

# Lower-casing would turn these CPU quantities (a million, 10^18) into other ones; validation refuses them.
_CASE_MATTERS = ("M", "E")


def normalize(spec: JobSpec) -> JobSpec:
    """The spec in its one form; doing it twice changes nothing.

    The contents of Params, Env, Meta and Labels are the user's and are not touched. An empty Name stays
    empty: the ledger fills in the job's id, which is not known here.
    """
    return replace(
        spec,
        namespace=spec.namespace or DEFAULT_NAMESPACE,
        count=_count(spec),
        constraints=tuple(spec.constraints),
        tasks=tuple([_task(task) for task in spec.tasks]),
    )


def _count(spec: JobSpec) -> int:
    """Missing is 1, or 0 for what runs on every node; Bacalhau accepts a 1 there and makes it 0."""
    if spec.type in RUNS_EVERYWHERE:
        return 0 if spec.count is UNSET or spec.count == 1 else spec.count
    return 1 if spec.count is UNSET else spec.count


def _task(task: Task) -> Task:
    return replace(
        task,
        engine=_config(task.engine),
        publisher=_config(task.publisher),
        input_sources=tuple([_input_source(source) for source in task.input_sources]),
        result_paths=tuple([_result_path(path) for path in task.result_paths]),
        resources=NO_RESOURCES if task.resources == NO_RESOURCES else _resources(task.resources),
        network=NO_NETWORK if task.network == NO_NETWORK else _network(task.network),
        timeouts=NO_TIMEOUTS if task.timeouts == NO_TIMEOUTS else task.timeouts,
    )


def _config(config: SpecConfig) -> SpecConfig:
    trimmed = config.type.strip()
    return config if trimmed == config.type else replace(config, type=trimmed)


def _input_source(source: InputSource) -> InputSource:
    """The source's own Type keeps its spaces, as in Bacalhau: only engines and publishers are trimmed."""
    return replace(source, alias=source.alias.strip(), target=source.target.strip())


def _result_path(path: ResultPath) -> ResultPath:
    return replace(path, name=path.name.strip(), path=path.path.strip())


def _resources(resources: Resources) -> Resources:
    cpu = _compact(resources.cpu)
    return _or_none(
        Resources(
            cpu=cpu if cpu.endswith(_CASE_MATTERS) else cpu.lower(),
            memory=_compact(resources.memory).lower(),
            disk=_compact(resources.disk).lower(),
            gpu=_compact(resources.gpu).lower(),
        )
    )


def _or_none(resources: Resources) -> Resources:
    """Resources of nothing but spaces are no resources, and must be the same object to be left out."""
    return NO_RESOURCES if resources == NO_RESOURCES else resources


def _compact(text: str) -> str:
    return "".join(text.split())


def _network(network: Network) -> Network:
    return replace(
        network,
        domains=tuple([domain.strip().lower() for domain in network.domains]),
        ports=tuple(network.ports),
    )
