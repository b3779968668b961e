"""The rules for one task, of both of Bacalhau's levels of validation; `validation` has those for the job."""

import ipaddress
import re
from collections.abc import Callable, Iterable

from jobledger.store.model.errors import Problem
from jobledger.store.model.limits import DOMAIN_MAX_CHARACTERS
from jobledger.store.spec.quantities import parse_bytes, parse_cpu, parse_gpu
from jobledger.store.spec.spec import (
    NETWORK_TYPES,
    NO_NETWORK,
    NO_RESOURCES,
    NO_TIMEOUTS,
    InputSource,
    Network,
    Port,
    Resources,
    ResultPath,
    Task,
    Timeouts,
)
from jobledger.store.spec.values import INT_MAX, INT_MIN, shown, step

_ENV_NAME = re.compile(r"[A-Z][A-Z0-9_]*")  # the fast yes; Bacalhau also accepts letters beyond ASCII
_ENV_RESERVED = "BACALHAU_"
# As in Bacalhau, a dotted name anywhere in the text will do; a bare address or a range (10.0.0.0/8) has none.
_DOMAIN = re.compile(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,}", re.IGNORECASE)
_PORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT_NAME_MAX_CHARACTERS = 256 - len("BACALHAU_HOST_PORT_")  # it becomes a variable of this prefix
_PORT_MAX = 65_535
_PORT_UNPRIVILEGED = 1_024
_SHARES_HOST = frozenset({"Host", "Full"})
_HAS_PORTS = frozenset({"Host", "Full", "Bridge"})
_RESOURCES: tuple[tuple[str, str, Callable[[str], float | None]], ...] = (
    ("cpu", "CPU", parse_cpu),
    ("memory", "Memory", parse_bytes),
    ("disk", "Disk", parse_bytes),
    ("gpu", "GPU", parse_gpu),
)


def task_problems(task: Task, path: str, *, stored: bool) -> list[Problem]:
    """What is wrong with one task.

    Args:
        task: the task.
        path: where it stands in the spec, such as `Tasks[0]`.
        stored: also apply the rules of Bacalhau's store, which concern several fields at once.
    """
    problems = _head_problems(task, path, stored=stored)
    for name, value in task.env.items():
        if not value or not _ENV_NAME.fullmatch(name) or name.startswith(_ENV_RESERVED):
            problems += _env_problems(name, value, f"{path}.Env")
    if task.input_sources:
        problems += _input_source_problems(task.input_sources, f"{path}.InputSources")
    if task.result_paths:
        problems += _result_path_problems(task.result_paths, f"{path}.ResultPaths")
    if task.resources is not NO_RESOURCES:
        problems += _resource_problems(task.resources, f"{path}.Resources")
    if task.network is not NO_NETWORK:
        problems += _network_problems(task.network, f"{path}.Network")
    if task.timeouts is not NO_TIMEOUTS:
        problems += _timeout_problems(task.timeouts, f"{path}.Timeouts", stored=stored)
    return problems


def _head_problems(task: Task, path: str, *, stored: bool) -> list[Problem]:
    """What every task must say: its name, its engine, and a publisher if it has results."""
    problems: list[Problem] = []
    if not task.name.strip():
        problems.append(
            Problem(f"{path}.Name", f"blank task name {shown(task.name)}", "name the task, such as main")
        )
    elif "\0" in task.name:
        problems.append(Problem(f"{path}.Name", f"{shown(task.name)} contains a NUL character", "remove it"))
    if not task.engine.type.strip():
        problems.append(
            Problem(f"{path}.Engine.Type", "missing spec type", "name the engine: docker, wasm, …")
        )
    if stored and task.result_paths and not task.publisher.type.strip():
        what = "publisher must be set if result paths are set"
        problems.append(Problem(f"{path}.Publisher", what, "add a Publisher, or remove ResultPaths"))
    return problems


def int_problems(value: int, path: str) -> list[Problem]:
    """A number of the job model must fit a signed 64-bit integer, which is what other readers have."""
    if INT_MIN <= value <= INT_MAX:
        return []
    return [Problem(path, f"{shown(value)} does not fit 64 bits", f"use a number up to {INT_MAX}")]


def _env_problems(name: str, value: str, path: str) -> list[Problem]:
    place = step(path, name)
    problems: list[Problem] = []
    if not name:
        problems.append(Problem(place, "the variable has no name", "name it"))
    elif name != name.upper():
        problems.append(
            Problem(place, f"{shown(name)} is not all upper case", f"write {shown(name.upper())}")
        )
    elif not name[0].isalpha():
        problems.append(Problem(place, f"{shown(name)} does not begin with a letter", "rename the variable"))
    elif not all(char.isalpha() or char.isdecimal() or char == "_" for char in name):
        what = f"{shown(name)} may hold only letters, digits and _"
        problems.append(Problem(place, what, "rename the variable"))
    elif name.startswith(_ENV_RESERVED):
        what = f"{shown(name)} begins with {_ENV_RESERVED}, which is reserved"
        problems.append(Problem(place, what, "rename the variable"))
    if not value:
        problems.append(Problem(place, 'the value is empty: ""', "give it a value, or remove the variable"))
    return problems


def _repeated(items: Iterable[tuple[str, str | int]], what: str) -> list[Problem]:
    """A problem at each path whose value an earlier one already has; empty values may repeat."""
    first: dict[str | int, str] = {}
    problems: list[Problem] = []
    for path, value in items:
        if value and first.setdefault(value, path) != path:
            problems.append(
                Problem(path, f"{what} {shown(value)} is already used by {first[value]}", "change one")
            )
    return problems


def _input_source_problems(sources: tuple[InputSource, ...], path: str) -> list[Problem]:
    problems: list[Problem] = []
    for index, source in enumerate(sources):
        if not source.source.type.strip():
            place = f"{path}[{index}].Source.Type"
            problems.append(
                Problem(place, "missing spec type", "name the source: s3, urlDownload, localDirectory, …")
            )
        if not source.target.strip():
            what = f"blank target {shown(source.target)}"
            problems.append(Problem(f"{path}[{index}].Target", what, "say where the task finds the data"))
    if len(sources) > 1:
        aliases = [(f"{path}[{i}].Alias", source.alias.strip()) for i, source in enumerate(sources)]
        targets = [(f"{path}[{i}].Target", source.target.strip()) for i, source in enumerate(sources)]
        problems += _repeated(aliases, "the alias") + _repeated(targets, "the target")
    return problems


def _result_path_problems(results: tuple[ResultPath, ...], path: str) -> list[Problem]:
    problems: list[Problem] = []
    for index, result in enumerate(results):
        folder = result.path.strip()
        if not result.name.strip():
            what = f"blank result name {shown(result.name)}"
            problems.append(Problem(f"{path}[{index}].Name", what, "name the result"))
        if not folder:
            problems.append(
                Problem(f"{path}[{index}].Path", f"blank path {shown(result.path)}", "name a folder")
            )
        elif not folder.startswith("/"):
            what = f"{shown(result.path)} is not an absolute path"
            problems.append(Problem(f"{path}[{index}].Path", what, "begin it with /"))
    if len(results) > 1:
        names = [(f"{path}[{i}].Name", result.name.strip()) for i, result in enumerate(results)]
        paths = [(f"{path}[{i}].Path", result.path.strip()) for i, result in enumerate(results)]
        problems += _repeated(names, "the name") + _repeated(paths, "the path")
    return problems


def _resource_problems(resources: Resources, path: str) -> list[Problem]:
    problems: list[Problem] = []
    for attribute, key, parse in _RESOURCES:
        text = getattr(resources, attribute)
        if not text:
            continue
        try:
            parse(text)
        except ValueError as error:
            what, _, remedy = str(error).partition("; ")
            problems.append(Problem(f"{path}.{key}", f"{shown(text)}: {what}", remedy))
    return problems


def _network_problems(network: Network, path: str) -> list[Problem]:
    kind = network.type
    if kind not in NETWORK_TYPES:
        what = f"{shown(kind)} is not a network type"
        return [Problem(f"{path}.Type", what, f"use one of {', '.join(NETWORK_TYPES)}")]
    problems: list[Problem] = []
    if network.domains and kind != "HTTP":
        what = f"domains can be set only for a network of type HTTP, not {kind}"
        problems.append(Problem(f"{path}.Domains", what, "set Type to HTTP, or remove Domains"))
    for index, domain in enumerate(network.domains):
        if len(domain) > DOMAIN_MAX_CHARACTERS:
            what = f"the domain is {len(domain)} characters; the limit is {DOMAIN_MAX_CHARACTERS}"
            problems.append(Problem(f"{path}.Domains[{index}]", what, "shorten it"))
        elif not (_DOMAIN.search(domain) or _is_ip(domain.strip())):
            what = f"{shown(domain)} is neither a domain name nor an IP address"
            problems.append(
                Problem(f"{path}.Domains[{index}]", what, "write it like example.com or 192.0.2.1")
            )
    if network.ports and kind not in _HAS_PORTS:
        what = f"ports can be set only for a network of type Host or Bridge, not {kind}"
        problems.append(Problem(f"{path}.Ports", what, "change Type, or remove Ports"))
    for index, port in enumerate(network.ports):
        problems += _port_problems(port, f"{path}.Ports[{index}]", kind)
    if len(network.ports) > 1:
        problems += _port_repeats(network, f"{path}.Ports")
    return problems


def _port_problems(port: Port, path: str, kind: str) -> list[Problem]:
    problems: list[Problem] = []
    if not _PORT_NAME.fullmatch(port.name):
        what = f"{shown(port.name)} is not a port name"
        problems.append(Problem(f"{path}.Name", what, "use letters, digits and _, and no digit first"))
    elif len(port.name) > _PORT_NAME_MAX_CHARACTERS:
        what = f"the name is {len(port.name)} characters; the limit is {_PORT_NAME_MAX_CHARACTERS}"
        problems.append(Problem(f"{path}.Name", what, "shorten it"))
    if port.static and not _PORT_UNPRIVILEGED <= port.static <= _PORT_MAX:
        what = f"{shown(port.static)} is not from {_PORT_UNPRIVILEGED} to {_PORT_MAX}"
        problems.append(Problem(f"{path}.Static", what, "change it, or leave it out to be given one"))
    if not 0 <= port.target <= _PORT_MAX:
        problems.append(
            Problem(f"{path}.Target", f"{shown(port.target)} is not from 0 to {_PORT_MAX}", "change it")
        )
    elif port.target and kind in _SHARES_HOST:
        what = f"{shown(port.target)} can't be set: a network of type {kind} maps no ports"
        problems.append(Problem(f"{path}.Target", what, "remove Target, or use a network of type Bridge"))
    if port.host_network and not _is_ip(port.host_network):
        what = f"{shown(port.host_network)} is not an IP address"
        problems.append(Problem(f"{path}.HostNetwork", what, "write it like 127.0.0.1"))
    return problems


def _port_repeats(network: Network, path: str) -> list[Problem]:
    ports = list(enumerate(network.ports))
    problems = _repeated([(f"{path}[{i}].Name", port.name) for i, port in ports], "the name")
    problems += _repeated([(f"{path}[{i}].Static", port.static) for i, port in ports], "the port")
    if network.type == "Bridge":
        problems += _repeated([(f"{path}[{i}].Target", port.target) for i, port in ports], "the port")
    return problems


def _timeout_problems(timeouts: Timeouts, path: str, *, stored: bool) -> list[Problem]:
    execution, queue, total = timeouts.execution_timeout, timeouts.queue_timeout, timeouts.total_timeout
    problems: list[Problem] = []
    for key, seconds in (("ExecutionTimeout", execution), ("QueueTimeout", queue), ("TotalTimeout", total)):
        problems += int_problems(seconds, f"{path}.{key}")
        if seconds < 0:
            problems.append(
                Problem(f"{path}.{key}", f"{shown(seconds)} seconds is negative", "use 0 for no limit")
            )
    if stored and 0 < total < execution + queue:
        what = f"{shown(total)} s is less than ExecutionTimeout + QueueTimeout, {shown(execution + queue)} s"
        problems.append(Problem(f"{path}.TotalTimeout", what, "raise it, or lower the other two"))
    return problems


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
