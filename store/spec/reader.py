"""Plain values and text from outside to a `JobSpec`.

The rules come from the Structs of `spec`, so a new field needs no code here. Bacalhau ignores unknown keys,
and its users lose settings that way (`ResourcesConfig`, `constraits`); here an unknown key is an error in
strict mode and a warning otherwise, with a suggestion.
"""

import difflib
from typing import Any, Final, TypeVar

import msgspec

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_MAX_PROBLEMS
from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.spec.formats import Format, parse, template_problems
from jobledger.store.spec.spec import JobSpec, Kind, exact_form, fields_of
from jobledger.store.spec.validate import problems_of, submission_problems
from jobledger.store.spec.values import shown, step, too_deep_or_many

_S = TypeVar("_S", bound=msgspec.Struct)

RESERVED_META: Final = "bacalhau.org/"
_SET_BY_LEDGER: Final = frozenset({"id", "state", "version", "revision", "createtime", "modifytime"})
# Wrong names seen in practice that are not typing errors, with the fields that they mean.
_WRONG_NAMES: Final = {
    "resourcesconfig": ("Resources",),
    "annotations": ("Labels", "Meta"),
    "outputs": ("ResultPaths",),
    "outputpaths": ("ResultPaths",),
    "inputs": ("InputSources",),
    "environment": ("Env",),
}
_KEY_MAX_CHARACTERS: Final = 64  # longer keys are not typing errors, and slow to compare
_TITLES: Final = {"JobSpec": "Job"}

_UNNAMED: Final = "unnamed"  # in place of the id that the ledger sets as the Name


class ReadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A spec as passed, not normalized.

    Attributes:
        spec: validated only by `load_spec`.
        warnings: what was dropped or looks like a mistake.
    """

    spec: JobSpec
    warnings: tuple[Problem, ...] = ()


def load_spec(
    text: bytes | str,
    *,
    strict: bool = True,
    format: Format | None = None,  # noqa: A002
) -> ReadSpec:
    """Read a spec from text and validate it with all rules of the ledger.

    Args:
        text: YAML, JSON or TOML.
        strict: refuse what would be dropped; otherwise drop it with a warning.
        format: None: detect it.

    Raises:
        InvalidSpec: with all problems, at most SPEC_MAX_PROBLEMS.
    """
    values = parse(text, format=format)
    template = template_problems(text)
    if [str(key).lower() for key in values] == ["job"]:
        inside = "keep only what is inside Job"
        raise InvalidSpec([Problem("", "this is the body of an API request, not a spec", inside)])
    try:
        read = read_spec(values, strict=strict)
        filled = msgspec.structs.replace(
            read.spec, name=read.spec.name or _UNNAMED, namespace=read.spec.namespace or DEFAULT_NAMESPACE
        )
        problems = problems_of(filled)
    except InvalidSpec as error:
        raise InvalidSpec(_bounded([*template, *error.problems])) from None
    if problems:
        raise InvalidSpec(_bounded([*template, *problems]))
    literal = [
        Problem("", "the spec contains {{ … }}, which is taken literally", problem.remedy)
        for problem in template
    ]
    return msgspec.structs.replace(read, warnings=(*literal, *read.warnings))


def read_spec(value: object, *, strict: bool, is_small: bool = False) -> ReadSpec:
    """Read a spec from plain values, such as the decoded body of a request, without validating it.

    Keys are compared without case, null is the same as a missing key, and a number is accepted for a
    resource.

    Args:
        value: any plain value.
        strict: refuse unknown keys, keys that Jobledger sets, reserved Meta keys and tasks after the first;
            otherwise drop each with a warning.
        is_small: whether its depth and its number of values are known to be within the limits.

    Raises:
        InvalidSpec: if fields have the wrong type. The validation problems of the other fields are included.
    """
    problem = None if is_small else too_deep_or_many(value)
    if problem is not None:
        raise InvalidSpec([problem])
    reader = _FieldReader(strict=strict)
    spec = reader.read_job(value)
    if reader.problems:
        rules = [rule for rule in submission_problems(spec) if not reader.is_touched(rule.path)]
        raise InvalidSpec(_bounded([*reader.problems, *rules]))
    return ReadSpec(spec=spec, warnings=tuple(_bounded(reader.warnings)))


def _bounded(problems: list[Problem]) -> list[Problem]:
    """Return at most SPEC_MAX_PROBLEMS; the last one then counts the rest."""
    if len(problems) <= SPEC_MAX_PROBLEMS:
        return problems
    shown = problems[: SPEC_MAX_PROBLEMS - 1]
    return [*shown, Problem("", f"and {len(problems) - len(shown)} more", "correct these first")]


class _FieldReader:
    """Reads the fields of one document.

    Attributes:
        problems: values of the wrong type, and in strict mode what would be dropped.
        warnings: what was dropped.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._touched: list[str] = []

    def read_job(self, value: object) -> JobSpec:
        """Return the job, with defaults where there is a problem."""
        if not isinstance(value, dict):
            message = f"a job is an object with fields, got {shown(value)}"
            self._problem("", message, "start with Name, Type and Tasks")
            return JobSpec()
        own = {}
        for key, item in value.items():
            if isinstance(key, str) and key.lower() in _SET_BY_LEDGER:
                if not _is_zero(item):
                    self._dropped(
                        key, f"{shown(item)} can't be set by the user", "set by Jobledger; remove it"
                    )
            else:
                own[key] = item
        spec = _exact(own) or self._struct(own, JobSpec, "")
        if len(spec.tasks) > 1:
            message = f"a job runs one task; it has {len(spec.tasks)}"
            self._dropped("Tasks[1]", message, "only the first is kept; create a job for each other task")
            spec = msgspec.structs.replace(spec, tasks=spec.tasks[:1])
        reserved = [key for key in spec.meta if key.startswith(RESERVED_META)]
        for key in reserved:
            self._dropped(
                step("Meta", key), f"keys that start with {RESERVED_META} are reserved", "remove it"
            )
        if reserved:
            kept = {key: text for key, text in spec.meta.items() if key not in set(reserved)}
            spec = msgspec.structs.replace(spec, meta=kept)
        return spec

    def is_touched(self, path: str) -> bool:
        """Return whether there is a problem at, inside or around a path: rules do not apply there."""
        return "" in self._touched or any(
            path == touched or _is_inside(path, touched) or _is_inside(touched, path)
            for touched in self._touched
        )

    def _problem(self, path: str, message: str, remedy: str) -> None:
        self._touched.append(path)
        self.problems.append(Problem(path, message, remedy))

    def _dropped(self, path: str, message: str, remedy: str) -> None:

        notes = self.problems if self.strict else self.warnings
        notes.append(Problem(path, message, remedy))

    def _struct(self, value: object, struct: type[_S], path: str) -> _S:
        if not isinstance(value, dict):
            self._problem(path, f"expected an object, got {shown(value)}", "write its fields")
            return struct()
        fields = fields_of(struct)
        found: dict[str, Any] = {}
        attributes: dict[str, Any] = {}
        for key, item in value.items():
            field = fields.get(key.lower()) if isinstance(key, str) else None
            if field is None:
                self._unknown(key, struct, path)
            elif field.key in found:
                message = f"the same field as {shown(found[field.key])}: keys are compared without case"
                self._problem(step(path, key), message, "keep one of them")
            else:
                found[field.key] = key
                if item is not None:
                    attributes[field.attribute] = self._value(item, field.kind, step(path, field.key))
        return struct(**attributes)

    def _value(self, value: Any, kind: Kind, path: str) -> Any:
        """Return the value with the type of its field, or a default and a problem."""
        if kind.base is str:
            return self._text(value, kind, path)
        if kind.base is int:
            return self._integer(value, path)
        if kind.base is dict:
            return self._map(value, kind, path)
        if kind.base is list:
            return self._list(value, kind, path)
        return self._struct(value, kind.base, path)

    def _text(self, value: Any, kind: Kind, path: str) -> str:
        if kind.numbers and isinstance(value, int | float) and not isinstance(value, bool):
            return shown(value)  # `CPU: 1` in YAML means "1"; validation refuses invalid quantities
        if not isinstance(value, str):
            remedy = "write one string"
            if value is None:
                remedy = "give it a value, or remove it"
            elif isinstance(value, bool | int | float):
                remedy = "put it in quotes"  # YAML gives some unquoted words another type
            self._problem(path, f"expected a string, got {shown(value)}", remedy)
            return ""
        if not kind.choices:
            return value
        choice = next((each for each in kind.choices if each.lower() == value.lower()), None)
        if choice is None:
            self._problem(path, f"unknown value {shown(value)}", f"use one of {', '.join(kind.choices)}")
            return ""
        return choice

    def _integer(self, value: Any, path: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        remedy = (
            "remove the quotes"
            if isinstance(value, str) and value.isdecimal()
            else "write seconds, such as 300"
            if path.endswith("Timeout")
            else "write a number such as 1"
        )
        self._problem(path, f"expected a whole number, got {shown(value)}", remedy)
        return 0

    def _map(self, value: Any, kind: Kind, path: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._problem(path, f"expected an object, got {shown(value)}", "write keys and values")
            return {}
        if kind.item is None:
            return value  # belongs to the user; validation checks whether it is JSON
        read: dict[str, Any] = {}
        for key, item in value.items():
            if isinstance(key, str):
                read[key] = self._value(item, kind.item, step(path, key))
            else:
                self._problem(path, f"the key {shown(key)} is not a string", "put it in quotes")
        return read

    def _list(self, value: Any, kind: Kind, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or kind.item is None:
            self._problem(
                path, f"expected a list, got {shown(value)}", "write each item after a dash, or in [ ]"
            )
            return ()
        return tuple([self._value(item, kind.item, f"{path}[{index}]") for index, item in enumerate(value)])

    def _unknown(self, key: object, struct: type[msgspec.Struct], path: str) -> None:
        title = _TITLES.get(struct.__name__, struct.__name__)
        if len(self.problems) + len(self.warnings) >= SPEC_MAX_PROBLEMS:
            self._dropped(
                step(path, key), f"not a field of {title}", ""
            )  # beyond the reported problems: skip the slow search
            return
        meant = _meant(key, struct)
        if meant:
            remedy = f"did you mean {' or '.join(f'`{each}`' for each in meant)}?"
        else:
            remedy = f"remove it; the fields are {', '.join(each.key for each in fields_of(struct).values())}"
        self._dropped(step(path, key), f"not a field of {title}", remedy)
        if self.strict:  # "missing job type" would repeat "`Typ` is not a field; did you mean `Type`?"
            self._touched += [step(path, each) for each in meant]


def _exact(value: dict[Any, Any]) -> JobSpec | None:
    """Return the job if its keys and values are written exactly as we encode them; otherwise None.

    Most are, because programs send them. Two conversions take a tenth of the time of reading each field, and
    less than one conversion and a check of the keys in Python.
    """
    try:
        msgspec.convert(value, exact_form(JobSpec))
        return msgspec.convert(value, JobSpec)
    except msgspec.ValidationError:  # another spelling, a number as a resource, a null, a mistake
        return None


def _meant(key: object, struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the fields that an unknown key probably means."""
    if not isinstance(key, str) or len(key) > _KEY_MAX_CHARACTERS:
        return ()
    fields = fields_of(struct)
    slips = tuple(each for each in _WRONG_NAMES.get(key.lower(), ()) if each.lower() in fields)
    if slips:
        return slips
    near = difflib.get_close_matches(key.lower(), fields, n=1, cutoff=0.8)
    if near:
        return (fields[near[0]].key,)
    # Settings of an engine, a source or a publisher are often written one level too high.
    own = next((each.key for each in fields.values() if each.kind == Kind(dict)), None)
    return (step(own, key),) if own else ()


def _is_inside(path: str, around: str) -> bool:
    """Return whether a path is inside another one, which is not the whole document."""
    return bool(around) and path.startswith((f"{around}.", f"{around}["))


def _is_zero(value: object) -> bool:
    """Return whether a value is one that typed clients send for a field that is not set."""
    if isinstance(value, dict):
        return all(map(_is_zero, value.values()))
    return not value or value == "Undefined"
