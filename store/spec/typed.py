"""The fast check that the values of a spec have exactly the declared types.

msgspec checks what it decodes, and not what Python code passes to a constructor. This check gives no reasons:
if it fails, `validate` finds out what is wrong, if anything is: a list in place of a tuple is fine.
"""

from collections.abc import Iterable
from typing import Final

from msgspec import UNSET

from jobledger.store.spec.spec import (
    NO_NETWORK,
    NO_RESOURCES,
    NO_TIMEOUTS,
    Constraint,
    InputSource,
    JobSpec,
    Network,
    Port,
    Resources,
    ResultPath,
    SpecConfig,
    Task,
    Timeouts,
)
from jobledger.store.spec.values import is_plain

_PARAMS_DEPTH: Final = 5  # job > Tasks > task > Engine > Params
_SOURCE_PARAMS_DEPTH: Final = 7  # job > Tasks > task > InputSources > source > Source > Params


def has_exact_types(spec: JobSpec) -> bool:
    """Return whether each value has exactly the declared type, and Params are plain JSON.

    Exactly, because a subclass can be encoded in any way.
    """
    return (
        type(spec) is JobSpec
        and type(spec.name) is str
        and type(spec.namespace) is str
        and type(spec.type) is str
        and type(spec.priority) is int
        and (spec.count is UNSET or type(spec.count) is int)
        and type(spec.constraints) is tuple
        and (not spec.constraints or all(map(_is_constraint, spec.constraints)))
        and _are_texts(spec.meta)
        and _are_texts(spec.labels)
        and type(spec.tasks) is tuple
        and all(map(_is_task, spec.tasks))
    )


def have_plain_params(spec: JobSpec) -> bool:
    """Return whether all Params of a spec with the declared types are plain JSON."""
    return all(
        is_plain(task.engine.params, _PARAMS_DEPTH)
        and is_plain(task.publisher.params, _PARAMS_DEPTH)
        and all(is_plain(each.source.params, _SOURCE_PARAMS_DEPTH) for each in task.input_sources)
        for task in spec.tasks
    )


def _is_task(task: Task) -> bool:
    return (
        type(task) is Task
        and type(task.name) is str
        and _is_config(task.engine, _PARAMS_DEPTH)
        and _is_config(task.publisher, _PARAMS_DEPTH)
        and _are_texts(task.env)
        and _are_texts(task.meta)
        and type(task.input_sources) is tuple
        and (not task.input_sources or all(map(_is_input_source, task.input_sources)))
        and type(task.result_paths) is tuple
        and (not task.result_paths or all(map(_is_result_path, task.result_paths)))
        and (task.resources is NO_RESOURCES or _is_resources(task.resources))
        and (task.network is NO_NETWORK or _is_network(task.network))
        and (task.timeouts is NO_TIMEOUTS or _is_timeouts(task.timeouts))
    )


def _is_config(config: SpecConfig, params_depth: int) -> bool:
    if type(config) is not SpecConfig or type(config.type) is not str:
        return False
    params = config.params
    return type(params) is dict and (not params or is_plain(params, params_depth))


def _is_input_source(source: InputSource) -> bool:
    return (
        type(source) is InputSource
        and _is_config(source.source, _SOURCE_PARAMS_DEPTH)
        and type(source.alias) is str
        and type(source.target) is str
    )


def _is_result_path(result: ResultPath) -> bool:
    return type(result) is ResultPath and type(result.name) is str and type(result.path) is str


def _is_resources(resources: Resources) -> bool:
    return (
        type(resources) is Resources
        and type(resources.cpu) is str
        and type(resources.memory) is str
        and type(resources.disk) is str
        and type(resources.gpu) is str
    )


def _is_network(network: Network) -> bool:
    return (
        type(network) is Network
        and type(network.type) is str
        and _is_tuple_of_texts(network.domains)
        and type(network.ports) is tuple
        and all(map(_is_port, network.ports))
    )


def _is_port(port: Port) -> bool:
    return (
        type(port) is Port
        and type(port.name) is str
        and type(port.static) is int
        and type(port.target) is int
        and type(port.host_network) is str
    )


def _is_timeouts(timeouts: Timeouts) -> bool:
    return (
        type(timeouts) is Timeouts
        and type(timeouts.execution_timeout) is int
        and type(timeouts.queue_timeout) is int
        and type(timeouts.total_timeout) is int
    )


def _is_constraint(constraint: Constraint) -> bool:
    return (
        type(constraint) is Constraint
        and type(constraint.key) is str
        and type(constraint.operator) is str
        and _is_tuple_of_texts(constraint.values)
    )


def _is_tuple_of_texts(values: Iterable[str]) -> bool:
    return type(values) is tuple and all(type(value) is str for value in values)


def _are_texts(entries: dict[str, str]) -> bool:
    if type(entries) is not dict:
        return False
    for key, value in entries.items():  # noqa: SIM110 - a generator takes twice as long for few entries
        if type(key) is not str or type(value) is not str:
            return False
    return True
