"""Outside values to a `JobSpec`: forgiving about how keys are written, silent about nothing.

The rules are read off the Structs of `spec`, so a new field needs no code here. Bacalhau ignores keys that it
does not know, and its users lose settings that way (`ResourcesConfig`, `constraits`); here an unknown key is
a problem when strict and a warning when not, with the nearest field named.
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

RESERVED_META: Final = "bacalhau.org/"
_SET_BY_US: Final = frozenset({"id", "state", "version", "revision", "createtime", "modifytime"})
# Slips seen in the field that spelling alone does not explain; used where the Struct has such a field.
_SLIPS: Final = {
    "resourcesconfig": ("Resources",),
    "annotations": ("Labels", "Meta"),
    "outputs": ("ResultPaths",),
    "outputpaths": ("ResultPaths",),
    "inputs": ("InputSources",),
    "environment": ("Env",),
}
_KEY_MAX_CHARACTERS = 64  # longer ones are not slips of the pen, and comparing them takes long
_TITLES = {"JobSpec": "Job"}

_S = TypeVar("_S", bound=msgspec.Struct)


def _is_zero(value: object) -> bool:
    """Whether a value is what typed clients send for a field that they don't know."""
    if isinstance(value, dict):
        return all(map(_is_zero, value.values()))
    return not value or value == "Undefined"


class Reader:
    """Reads one document.

    Attributes:
        problems: what is wrong with the shape, and, when strict, what would be dropped.
        warnings: what was dropped.
    """

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self.problems: list[Problem] = []
        self.warnings: list[Problem] = []
        self._touched: list[str] = []

    def read_job(self, value: object) -> JobSpec:
        """The job, with defaults in the places that have a problem."""
        if not isinstance(value, dict):
            message = f"a job is an object with fields, got {shown(value)}"
            self._problem("", message, "begin with Name, Type and Tasks")
            return JobSpec()
        own = {}
        for key, item in value.items():
            if isinstance(key, str) and key.lower() in _SET_BY_US:
                if not _is_zero(item):
                    self._dropped(
                        key, f"{shown(item)} is not the user's to say", "set by Jobledger; remove it"
                    )
            else:
                own[key] = item
        spec = _exact(own) or self._struct(own, JobSpec, "")
        if len(spec.tasks) > 1:
            message = f"a job runs one task; it has {len(spec.tasks)}"
            self._dropped("Tasks[1]", message, "only the first is kept; make a job of each other")
            spec = msgspec.structs.replace(spec, tasks=spec.tasks[:1])
        reserved = [key for key in spec.meta if key.startswith(RESERVED_META)]
        for key in reserved:
            self._dropped(
                step("Meta", key), f"keys that begin with {RESERVED_META} are reserved", "remove it"
            )
        if reserved:
            kept = {key: text for key, text in spec.meta.items() if key not in set(reserved)}
            spec = msgspec.structs.replace(spec, meta=kept)
        return spec

    def is_touched(self, path: str) -> bool:
        """Whether a problem was told at this place, inside it or around it: rules say nothing true there."""
        return "" in self._touched or any(
            path == touched or _is_inside(path, touched) or _is_inside(touched, path)
            for touched in self._touched
        )

    def _problem(self, path: str, message: str, remedy: str) -> None:
        self._touched.append(path)
        self.problems.append(Problem(path, message, remedy))

    def _dropped(self, path: str, message: str, remedy: str) -> None:
        """Something that is not taken over: a problem when strict, else a warning."""
        notes = self.problems if self.strict else self.warnings
        notes.append(Problem(path, message, remedy))

    def _struct(self, value: object, struct: type[_S], path: str) -> _S:
        if not isinstance(value, dict):
            self._problem(path, f"expected an object, got {shown(value)}", "write fields below it")
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
        """The value as its field holds it; where it does not fit, a problem and something harmless."""
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
            return shown(value)  # `CPU: 1` in YAML means "1"; what is no quantity the rules will say
        if not isinstance(value, str):
            remedy = "write one string"
            if value is None:
                remedy = "give it a value, or remove it"
            elif isinstance(value, bool | int | float):
                remedy = "put it in quotes"  # YAML made something else of an unquoted word
            self._problem(path, f"expected a string, got {shown(value)}", remedy)
            return ""
        if not kind.choices:
            return value
        choice = next((each for each in kind.choices if each.lower() == value.lower()), None)
        if choice is None:
            self._problem(path, f"{shown(value)} is not known here", f"use one of {', '.join(kind.choices)}")
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
            self._problem(path, f"expected an object, got {shown(value)}", "write keys and values below it")
            return {}
        if kind.item is None:
            return value  # the user's own; `validation` looks whether JSON can carry it
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
            )  # past what is told: don't search for it
            return
        meant = _meant(key, struct)
        if meant:
            remedy = f"did you mean {' or '.join(f'`{each}`' for each in meant)}?"
        else:
            remedy = f"remove it; the fields are {', '.join(each.key for each in fields_of(struct).values())}"
        self._dropped(step(path, key), f"not a field of {title}", remedy)
        if self.strict:  # "missing job type" would only repeat "`Typ` is not a field; did you mean `Type`?"
            self._touched += [step(path, each) for each in meant]


def _exact(value: dict[Any, Any]) -> JobSpec | None:
    """The job, if it is written exactly as we would write it; None if it must be read field by field.

    Most are, because programs send them; reading those in one go takes a tenth of the time.
    """
    try:
        msgspec.convert(value, exact_form(JobSpec))
        return msgspec.convert(value, JobSpec)
    except msgspec.ValidationError:  # another spelling, a number as a resource, a null, a mistake
        return None


def _meant(key: object, struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """What the user probably meant by a key that the Struct does not have; empty if nothing is near."""
    if not isinstance(key, str) or len(key) > _KEY_MAX_CHARACTERS:
        return ()
    fields = fields_of(struct)
    slips = tuple(each for each in _SLIPS.get(key.lower(), ()) if each.lower() in fields)
    if slips:
        return slips
    near = difflib.get_close_matches(key.lower(), fields, n=1, cutoff=0.8)
    if near:
        return (fields[near[0]].key,)
    # Settings of an engine, a source or a publisher that were written one level too high.
    own = next((each.key for each in fields.values() if each.kind == Kind(dict)), None)
    return (step(own, key),) if own else ()


def _is_inside(path: str, around: str) -> bool:
    """Whether a path leads into what another leads to, which is not the whole document."""
    return bool(around) and path.startswith((f"{around}.", f"{around}["))


_UNNAMED = "unnamed"  # stands in for the id that the ledger will fill in as the Name


class ReadSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A spec as it was handed in.

    Attributes:
        spec: what was said, not normalised and (after `read_spec`) not yet judged by `validation`.
        warnings: what was dropped or looks like a mistake; the spec is usable all the same.
    """

    spec: JobSpec
    warnings: tuple[Problem, ...] = ()


def load_spec(
    text: bytes | str,
    *,
    strict: bool = True,
    format: Format | None = None,  # noqa: A002
) -> ReadSpec:
    """A spec from its text, checked by every rule that the ledger will apply: parse, read, validate.

    Args:
        text: YAML, JSON or TOML.
        strict: refuse what would be dropped; otherwise drop it with a warning.
        format: None guesses.

    Raises:
        InvalidSpec: with every problem at once, at most SPEC_MAX_PROBLEMS of them.
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
        Problem("", "the spec holds {{ … }}, which is taken literally", problem.remedy)
        for problem in template
    ]
    return msgspec.structs.replace(read, warnings=(*literal, *read.warnings))


def read_spec(value: object, *, strict: bool) -> ReadSpec:
    """A spec from plain values, such as `parse` returns or the body of a request.

    Keys are compared without case, null is the same as absent, and numbers are accepted where a resource is
    text. Unless something is wrong with the shape, the rules of `validation` are left to the caller.

    Args:
        value: any plain value.
        strict: refuse unknown keys, keys that Jobledger sets, reserved Meta keys and tasks after the first;
            otherwise drop each with a warning.

    Raises:
        InvalidSpec: the shape is wrong. Broken rules of the parts that could be read are told with it.
    """
    problem = too_deep_or_many(value)
    if problem is not None:
        raise InvalidSpec([problem])
    reader = Reader(strict=strict)
    spec = reader.read_job(value)
    if reader.problems:
        rules = [rule for rule in submission_problems(spec) if not reader.is_touched(rule.path)]
        raise InvalidSpec(_bounded([*reader.problems, *rules]))
    return ReadSpec(spec=spec, warnings=tuple(_bounded(reader.warnings)))


def _bounded(problems: list[Problem]) -> list[Problem]:
    """At most SPEC_MAX_PROBLEMS; the last then says how many are not told."""
    if len(problems) <= SPEC_MAX_PROBLEMS:
        return problems
    told = problems[: SPEC_MAX_PROBLEMS - 1]
    return [*told, Problem("", f"and {len(problems) - len(told)} more", "correct these first")]
