"""Which specs are jobs: Bacalhau's two levels of validation, with every problem told at once.

`submission_problems` is the level of its API, for a spec as it was handed in. `problems_of` adds what its
store asks of a normalised spec, in the same pass: the ledger calls it, and nothing else, on every write. Both
are pure and judge the same way before and after `normalize`.

On purpose different from Bacalhau: an operator that does not exist is refused, everything has a limit, and so
is what JSON or the log could not carry (NUL in an identity, half surrogates, numbers beyond 64 bits, NaN).
"""

import msgspec
from msgspec import UNSET

from jobledger.store.model.errors import Problem
from jobledger.store.model.limits import (
    LABEL_MAX_CHARACTERS,
    LABELS_MAX_COUNT,
    NAME_MAX_CHARACTERS,
    NAMESPACE_MAX_BYTES,
    SPEC_MAX_BYTES,
    TASKS_MAX_COUNT,
)
from jobledger.store.spec.shape import shape_problems
from jobledger.store.spec.spec import (
    JOB_TYPES,
    OPERATORS,
    RUNS_EVERYWHERE,
    Constraint,
    JobSpec,
    Task,
    decode_spec,
    encode_spec,
)
from jobledger.store.spec.validate_task import int_problems, task_problems
from jobledger.store.spec.values import is_plain, shown, step, value_problems

_PARAMS_DEPTH = 5  # job > Tasks > task > Engine > Params
_SOURCE_PARAMS_DEPTH = 7  # job > Tasks > task > InputSources > source > Source > Params
_NEEDS_VALUES = frozenset({"in", "notin"})
_NEEDS_NO_VALUES = frozenset({"exists", "!"})


def submission_problems(spec: JobSpec) -> list[Problem]:
    """Why Bacalhau's API would refuse the spec as submitted; empty if it would not.

    Name and Namespace may be empty: the ledger fills them in.
    """
    return _problems(spec, stored=False)


def problems_of(spec: JobSpec) -> list[Problem]:
    """Why the ledger must not store the spec; empty if it may: both levels of validation, in one pass.

    For the normalised spec with its Name filled in.
    """
    return _problems(spec, stored=True)


def _problems(spec: JobSpec, *, stored: bool) -> list[Problem]:
    problems, readable = _carrying_problems(spec)
    if not readable:
        return problems
    # A place that can't be written is told once, not once more by each rule that looks at it.
    told = {problem.path for problem in problems}
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
        rules += task_problems(task, f"Tasks[{index}]", stored=stored)
    return problems + [rule for rule in rules if rule.path not in told] if problems else rules


def _carrying_problems(spec: JobSpec) -> tuple[list[Problem], bool]:
    """What keeps the spec from being written and read back, and whether its attributes are of their types.

    Writing it, reading it back and comparing is the cheapest complete check. It finds what Python code passed
    in with a wrong type (msgspec does not check constructors), half surrogates, and the size.
    """
    try:
        raw = encode_spec(spec)
        sound = decode_spec(raw) == spec and all(_params_are_plain(task) for task in spec.tasks)
    except (ValueError, TypeError, RecursionError, msgspec.MsgspecError):
        raw, sound = b"", False
    if not sound:
        problems = value_problems(spec)
        told = {problem.path for problem in problems}
        mistyped = shape_problems(spec)
        if (
            not raw and not problems and not mistyped
        ):  # nothing is known to get here; never let it pass as valid
            problems.append(Problem("", "the spec can't be written as JSON", "use plain values only"))
        if problems or mistyped:
            return problems + [each for each in mistyped if each.path not in told], not mistyped
    if len(raw) > SPEC_MAX_BYTES:
        size = f"the spec is {len(raw)} bytes of JSON; the limit is {SPEC_MAX_BYTES}"
        return [Problem("", size, "put the data into an input source")], True
    return [], True


def _params_are_plain(task: Task) -> bool:
    for params in (task.engine.params, task.publisher.params):
        if params and not is_plain(params, _PARAMS_DEPTH):
            return False
    return all(is_plain(each.source.params, _SOURCE_PARAMS_DEPTH) for each in task.input_sources)


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
    problems = int_problems(spec.priority, "Priority")
    count = spec.count
    if count is UNSET:
        return problems
    problems += int_problems(count, "Count")
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
    """Labels and Meta have no rules in Bacalhau, only our limits."""
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
