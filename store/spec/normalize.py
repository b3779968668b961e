"""One form for specs that mean the same, after Bacalhau's normalisation.

Two specs that differ only in what this removes are the same job version. It never hides a broken rule: what
validation would refuse (a negative Count, a daemon's Count of 3, a CPU of `1M`) stays as it is, so validation
sees it before or after.
"""

from typing import NamedTuple

from msgspec import UNSET
from msgspec.structs import replace

from jobledger.store.model.errors import InvalidInput, InvalidSpec
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, NAMELESS_JOB_ID, named_job_id, nameless_job_id
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
    encode_spec,
)
from jobledger.store.spec.validate import problems_of

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


class Prepared(NamedTuple):
    """A spec that may be appended, and the job it belongs to."""

    job_id: str
    namespace: str
    spec: bytes


def prepare_new(spec: JobSpec, event_id: str) -> Prepared:
    """The spec of a job that may not exist yet.

    Raises:
        InvalidSpec: every rule that it breaks, at once.
    """
    check_is_spec(spec)
    is_named = bool(spec.name)
    name, namespace = spec.name or nameless_job_id(event_id), spec.namespace or DEFAULT_NAMESPACE
    if not (is_named and spec.namespace):
        spec = replace(spec, name=name, namespace=namespace)
    encoded = _encode(spec)
    # Only now: an id can't be made of a name that is no valid text.
    job_id = named_job_id(namespace, name) if is_named else name
    return Prepared(job_id, namespace, encoded)


def is_nameless_job_id(name: object) -> bool:
    """Whether this is the id that a job without a name gets, and takes for a name."""
    return isinstance(name, str) and NAMELESS_JOB_ID.fullmatch(name) is not None


def prepare_update(spec: JobSpec, status: JobStatus) -> Prepared:
    """The new spec of a job that exists; name and namespace may be left out, and can't change.

    Raises:
        InvalidInput: if they would change.
        InvalidSpec: every rule that it breaks, at once.
    """
    check_is_spec(spec)
    named = {"name": (spec.name, status.name), "namespace": (spec.namespace, status.namespace)}
    for field, (new, current) in named.items():
        if new and new != current:
            raise InvalidInput(
                f"cannot change job name or namespace during update: {field} is {new!r:.80} and the job's is"
                f" {current!r:.80}; leave it out, or create another job"
            )
    return Prepared(
        status.id, status.namespace, _encode(replace(spec, name=status.name, namespace=status.namespace))
    )


def check_is_spec(spec: object) -> None:
    """Tell a caller who passes something else what to pass.

    Raises:
        InvalidInput: if this is no `JobSpec`.
    """
    if not isinstance(spec, JobSpec):
        raise InvalidInput(
            f"the spec is a {type(spec).__name__}, not a JobSpec; pass load_spec(text).spec, say"
        )


def _encode(spec: JobSpec) -> bytes:
    problems = problems_of(spec)  # of what the caller wrote, so that the paths and values are his
    if problems:
        raise InvalidSpec(problems)
    return encode_spec(normalize(spec))
