"""Outside values to a `JobSpec`: forgiving about how keys are written, silent about nothing.

The rules are read off the Structs of `spec`, so a new field needs no code here. Bacalhau ignores keys that it
does not know, and its users lose settings that way (`ResourcesConfig`, `constraits`); here an unknown key is
a problem when strict and a warning when not, with the nearest field named.
"""

import msgspec

from jobledger.store.model.errors import InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_MAX_PROBLEMS
from jobledger.store.model.subjects import DEFAULT_NAMESPACE
from jobledger.store.spec.field_reader import Reader
from jobledger.store.spec.formats import Format, parse, template_problems
from jobledger.store.spec.spec import JobSpec
from jobledger.store.spec.validate import problems_of, submission_problems
from jobledger.store.spec.values import too_deep_or_many

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
