"""Validation of specs: Bacalhau's two levels, with all problems reported at once.

`submission_problems` is the level of its API, for a spec as submitted; `problems_of` adds the level of its
store. The result is the same before and after `normalize`.

Intended differences from Bacalhau: everything has a limit, and an unknown operator is refused, as are values
that JSON or the log can't represent (NUL in an identity, half surrogates, numbers beyond 64 bits, NaN).
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import (
    DOMAIN_MAX_CHARACTERS,
    INT_MAX,
    INT_MIN,
    LABEL_MAX_CHARACTERS,
    LABELS_MAX_COUNT,
    NAME_MAX_CHARACTERS,
    NAMESPACE_MAX_BYTES,
    SPEC_MAX_BYTES,
    TASKS_MAX_COUNT,
)
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.quantities import parse_bytes, parse_cpu, parse_gpu, quantity_error
from jobledger.store.spec.spec import (
    JOB_TYPES,
    NETWORK_TYPES,
    NO_NETWORK,
    NO_RESOURCES,
    NO_TIMEOUTS,
    OPERATORS,
    RUNS_EVERYWHERE,
    Constraint,
    InputSource,
    JobSpec,
    Kind,
    Network,
    Port,
    Resources,
    ResultPath,
    Task,
    Timeouts,
    decode_spec,
    encode_spec,
    fields_of,
)
from jobledger.store.spec.typed import has_exact_types, have_plain_params
from jobledger.store.spec.values import shown, step, value_problems

_NEEDS_VALUES = frozenset({"in", "notin"})
_NEEDS_NO_VALUES = frozenset({"exists", "!"})

_ENV_NAME = re.compile(r"[A-Z][A-Z0-9_]*")  # the usual case; Bacalhau also accepts letters beyond ASCII
_ENV_RESERVED = "BACALHAU_"
# As in Bacalhau, a dotted name anywhere in the text is enough; an address or a range (10.0.0.0/8) has none.
_DOMAIN = re.compile(r"(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,}", re.IGNORECASE)
_PORT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PORT_NAME_MAX_CHARACTERS = 256 - len("BACALHAU_HOST_PORT_")  # it becomes a variable with this prefix
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


def submission_problems(spec: JobSpec) -> list[Problem]:
    """Return why Bacalhau's API would refuse a spec as submitted; Name and Namespace may be empty."""
    return _check(spec, stored=False)[0]


def problems_of(spec: JobSpec) -> list[Problem]:
    """Return why the ledger would refuse a spec: both levels of validation. Its Name must be set."""
    return _check(spec, stored=True)[0]


def encode_valid(spec: JobSpec) -> bytes:
    """Return the normal form of a valid spec as JSON.

    Raises:
        InvalidSpec: with all problems, with the values and paths of the spec as passed.
    """
    problems, raw = _check(spec, stored=True)
    if problems:
        raise InvalidSpec(problems)
    return raw


def _check(spec: JobSpec, *, stored: bool) -> tuple[list[Problem], bytes]:
    """Return the problems of a spec, and its normal form as JSON if there are none."""
    raw = _encode_typed(spec)
    problems: list[Problem] = []
    if raw is None:
        problems = value_problems(spec)
        reported = {problem.path for problem in problems}
        mistyped = _type_problems(spec)
        if mistyped:
            return problems + [each for each in mistyped if each.path not in reported], b""
        if not problems:  # a list where a tuple is declared is fine
            try:
                raw = encode_spec(normalize(spec))
            except (AttributeError, ValueError, TypeError, RecursionError, msgspec.MsgspecError):
                problems = [Problem("", "the spec can't be written as JSON", "use plain values only")]
    if raw is not None and len(raw) > SPEC_MAX_BYTES:
        size = f"the spec is {len(raw)} bytes of JSON; the limit is {SPEC_MAX_BYTES}"
        problems = [Problem("", size, "put the data into an input source")]
    rules = _rule_problems(spec, stored=stored)
    if problems:  # a value that can't be written is reported once, and not by each rule again
        reported = {problem.path for problem in problems}
        rules = problems + [rule for rule in rules if rule.path not in reported]
    return rules, raw or b""


def _rule_problems(spec: JobSpec, *, stored: bool) -> list[Problem]:
    rules = _identity_problems(spec, stored=stored)
    rules += _count_problems(spec)
    for index, constraint in enumerate(spec.constraints):
        rules += _constraint_problems(constraint, f"Constraints[{index}]")
    if spec.meta:
        rules += _map_problems(spec.meta, "Meta")
    if spec.labels:
        rules += _map_problems(spec.labels, "Labels")
    if not spec.tasks:
        rules.append(Problem("Tasks", "missing job tasks", "add one task with a Name and an Engine"))
    elif len(spec.tasks) > TASKS_MAX_COUNT:
        rules.append(
            Problem("Tasks", f"{len(spec.tasks)} tasks; the limit is {TASKS_MAX_COUNT}", "split the job")
        )
    for index, task in enumerate(spec.tasks):
        rules += _task_problems(task, f"Tasks[{index}]", stored=stored)
    return rules


def _encode_typed(spec: JobSpec) -> bytes | None:
    """Return the normal form of a spec as JSON; None if a value is not of its type or not plain JSON.

    msgspec does not check constructors. Almost all specs have exactly the declared types. For others, such as
    one with a member of a `StrEnum`, encoding, decoding and comparing finds out whether the JSON is the same.
    """
    try:
        normal = normalize(spec)
        raw = encode_spec(normal)
        is_sound = has_exact_types(spec) or (decode_spec(raw) == normal and have_plain_params(normal))
    except (AttributeError, ValueError, TypeError, RecursionError, msgspec.MsgspecError):
        return None
    return raw if is_sound else None


def _type_problems(spec: JobSpec) -> list[Problem]:
    """Return a problem for each attribute that has another type than declared."""
    return _mismatches(spec, Kind(JobSpec), "")


def _mismatches(value: Any, kind: Kind, path: str) -> list[Problem]:
    if kind.base is list:
        fits, items = (
            isinstance(value, list | tuple),
            enumerate(value) if isinstance(value, list | tuple) else (),
        )
        inside = [(item, kind.item, f"{path}[{index}]") for index, item in items]
    elif kind.base is dict:
        own = kind.item is None  # values of any type, if they belong to the user
        is_dict = isinstance(value, dict)
        fits = is_dict and (own or all(isinstance(key, str) for key in value))
        inside = (
            [(item, kind.item, step(path, key)) for key, item in value.items()] if is_dict and not own else []
        )
    elif issubclass(kind.base, msgspec.Struct):
        fits = isinstance(value, kind.base)
        fields = fields_of(kind.base).values() if fits else ()
        inside = [(getattr(value, each.attribute), each.kind, step(path, each.key)) for each in fields]
    else:
        unset = value is msgspec.UNSET and kind.optional
        fits = unset or (isinstance(value, kind.base) and not (kind.base is int and isinstance(value, bool)))
        inside = []
    problems: list[Problem] = []
    if not fits:
        message = f"expected {kind.base.__name__}, got {shown(value)}"
        problems = [Problem(path, message, "build the spec from values of the declared types")]
    return problems + [each for item, its, place in inside if its for each in _mismatches(item, its, place)]


def _identity_problems(spec: JobSpec, *, stored: bool) -> list[Problem]:
    problems: list[Problem] = []
    name, namespace = spec.name, spec.namespace
    if "\0" in name:
        problems.append(Problem("Name", f"{shown(name)} contains a NUL character", "remove it"))
    if len(name) > NAME_MAX_CHARACTERS:
        size = f"the name is {len(name)} characters; the limit is {NAME_MAX_CHARACTERS}"
        problems.append(Problem("Name", size, "shorten it"))
    if stored and not name.strip():
        problems.append(
            Problem("Name", f"missing job name: {shown(name)}", "write a name, or leave Name out")
        )
    if "\0" in namespace:
        problems.append(Problem("Namespace", f"{shown(namespace)} contains a NUL character", "remove it"))
    if len(namespace.encode(errors="replace")) > NAMESPACE_MAX_BYTES:
        size = f"the namespace is longer than the limit of {NAMESPACE_MAX_BYTES} bytes"
        problems.append(Problem("Namespace", size, "shorten it"))
    if stored and not namespace.strip():
        problems.append(
            Problem(
                "Namespace",
                f"job must be in a namespace, got {shown(namespace)}",
                "write one, or leave it out",
            )
        )
    if spec.type not in JOB_TYPES:
        what = f"invalid job type: {shown(spec.type)}" if spec.type else "missing job type"
        problems.append(Problem("Type", what, f"use one of {', '.join(JOB_TYPES)}"))
    return problems


def _count_problems(spec: JobSpec) -> list[Problem]:
    problems = _int_problems(spec.priority, "Priority")
    count = spec.count
    if count is UNSET:
        return problems
    problems += _int_problems(count, "Count")
    if count < 0:
        problems.append(Problem("Count", f"job count must be >= 0, got {shown(count)}", "use 0 or more"))
    elif count > 1 and spec.type in RUNS_EVERYWHERE:
        what = f"jobs of type {spec.type} run once on every matching node: count can't be {shown(count)}"
        problems.append(Problem("Count", what, "leave Count out"))
    return problems


def _constraint_problems(constraint: Constraint, path: str) -> list[Problem]:
    problems: list[Problem] = []
    operator, values = constraint.operator, len(constraint.values)
    if not constraint.key.strip():
        problems.append(Problem(f"{path}.Key", f"blank key {shown(constraint.key)}", "name a node label"))
    if operator not in OPERATORS:
        what = f"{shown(operator)} is not an operator" if operator else "missing operator"
        problems.append(Problem(f"{path}.Operator", what, f"use one of {' '.join(OPERATORS)}"))
    elif operator in _NEEDS_VALUES:
        if not values:
            problems.append(Problem(f"{path}.Values", f"{shown(operator)} needs values", "list at least one"))
    elif operator in _NEEDS_NO_VALUES:
        if values:
            what = f"{shown(operator)} takes no values, got {values}"
            problems.append(Problem(f"{path}.Values", what, "remove Values, or use the operator in"))
    elif values != 1:
        what = f"{shown(operator)} takes exactly one value, got {values}"
        problems.append(Problem(f"{path}.Values", what, "list one, or use the operator in"))
    return problems


def _map_problems(entries: dict[str, str], path: str) -> list[Problem]:
    """Labels and Meta have only our limits; Bacalhau has no rules for them."""
    problems: list[Problem] = []
    if len(entries) > LABELS_MAX_COUNT:
        what = f"{len(entries)} entries; the limit is {LABELS_MAX_COUNT}"
        problems.append(Problem(path, what, "keep what you search by"))
    for key, value in entries.items():
        for what, text in (("key", key), ("value", value)):
            if len(text) > LABEL_MAX_CHARACTERS:
                size = f"the {what} is {len(text)} characters; the limit is {LABEL_MAX_CHARACTERS}"
                problems.append(Problem(step(path, key), size, "shorten it"))
    return problems


# --- tasks --------------------------------------------------------------------------------------------------


def _task_problems(task: Task, path: str, *, stored: bool) -> list[Problem]:

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
    """Check the fields that every task has: name, engine, and a publisher if there are results."""
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


def _int_problems(value: int, path: str) -> list[Problem]:

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
        problems.append(Problem(place, f"{shown(name)} does not start with a letter", "rename the variable"))
    elif not all(char.isalpha() or char.isdecimal() or char == "_" for char in name):
        what = f"{shown(name)} can have only letters, digits and _"
        problems.append(Problem(place, what, "rename the variable"))
    elif name.startswith(_ENV_RESERVED):
        what = f"{shown(name)} starts with {_ENV_RESERVED}, which is reserved"
        problems.append(Problem(place, what, "rename the variable"))
    if not value:
        problems.append(Problem(place, 'the value is empty: ""', "give it a value, or remove the variable"))
    return problems


def _repeated(items: Iterable[tuple[str, str | int]], what: str) -> list[Problem]:
    """Return a problem for each path with the value of an earlier one; empty values can repeat."""
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
            problems.append(Problem(f"{path}[{index}].Target", what, "set the path of the data in the task"))
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
            problems.append(Problem(f"{path}[{index}].Path", what, "start it with /"))
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
        error = quantity_error(parse, text)
        if error:
            what, _, remedy = error.partition("; ")
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
        problems.append(Problem(f"{path}.Name", what, "use letters, digits and _, not starting with a digit"))
    elif len(port.name) > _PORT_NAME_MAX_CHARACTERS:
        what = f"the name is {len(port.name)} characters; the limit is {_PORT_NAME_MAX_CHARACTERS}"
        problems.append(Problem(f"{path}.Name", what, "shorten it"))
    if port.static and not _PORT_UNPRIVILEGED <= port.static <= _PORT_MAX:
        what = f"the port must be {_PORT_UNPRIVILEGED}..{_PORT_MAX}, got {shown(port.static)}"
        problems.append(Problem(f"{path}.Static", what, "change it, or leave it out for any free port"))
    if not 0 <= port.target <= _PORT_MAX:
        problems.append(
            Problem(
                f"{path}.Target", f"the port must be 0..{_PORT_MAX}, got {shown(port.target)}", "change it"
            )
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
        problems += _int_problems(seconds, f"{path}.{key}")
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
