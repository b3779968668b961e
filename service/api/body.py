"""Request bodies: JSON, decoded as the Struct that the operation declares. Pure.

Keys are compared without case, null is the same as absent, and every problem of a body is reported at once,
with its path. A key that appears twice is refused at any depth: decoders keep one value and lose the other.
"""

import difflib
import re
from functools import cache
from typing import Any, Final, NamedTuple, TypeVar, get_args, get_origin

import msgspec

from jobledger.service.limits import UNKNOWN_FIELDS_SHOWN
from jobledger.store.model.errors import InvalidInput, InvalidSpec, Problem
from jobledger.store.model.limits import SPEC_MAX_DEPTH, SPEC_MAX_NODES
from jobledger.store.spec.formats import repeated_key
from jobledger.store.spec.reader import read_spec
from jobledger.store.spec.spec import JobSpec
from jobledger.store.spec.values import shown, step

# Bacalhau's clients send these in every body; they have no meaning here.
IGNORED_FIELDS: Final = frozenset({"idempotencytoken", "credential"})
_FIELD_MAX_CHARACTERS: Final = 64
_MESSAGE: Final = re.compile(r"Expected (.*?)(?:, got `[^`]*`)?(?: - at `\$(.*)`)?")
_INDEX: Final = re.compile(r"\[(\d+|\.\.\.)\]")
_TYPES: Final = {
    "`int | str`": "a non-negative integer or a string",
    "`str`": "a string",
    "`bool`": "true or false",
    "`int`": "an integer",
    "`array`": "a list",
    "`object`": "an object",
}

_decoder: Final = msgspec.json.Decoder()

B = TypeVar("B", bound=msgspec.Struct)


class Decoded(NamedTuple):
    """A body as its Struct, and what was ignored in it."""

    body: Any
    warnings: list[str]


def read_fields(raw: bytes) -> dict[str, object]:
    """The fields of a JSON object, with keys in lower case; an empty body has none.

    Raises:
        InvalidInput: if it is not a JSON object, or a key appears twice.
    """
    if not raw.strip():
        return {}
    try:
        value = _decoder.decode(raw)
        repeated = repeated_key(raw, value)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None
    except RecursionError:
        raise InvalidInput(f"the body is nested deeper than {SPEC_MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise InvalidInput(
            f"the body must be a JSON object, got {shown(value)}; docs/API.md lists its fields"
        )
    fields = {key.lower(): item for key, item in value.items()}
    if repeated is None and len(fields) != len(value):
        lower = [key.lower() for key in value]
        repeated = next(key for key in value if lower.count(key.lower()) > 1)
    if repeated is not None:
        raise InvalidInput(
            f"the body has the key {shown(repeated)} twice in one object (its own keys are compared without"
            " case); keep one of them"
        )
    return fields


def is_small(raw: bytes) -> bool:
    """Whether no value in a JSON text can have too many levels or parts for a spec, by its bytes alone.

    A level takes a bracket, and a part a character.
    """
    return len(raw) <= SPEC_MAX_NODES and raw.count(b"{") + raw.count(b"[") <= SPEC_MAX_DEPTH


def decode_body(
    fields: dict[str, object], struct: type[B], *, strict: bool, is_small: bool = False
) -> Decoded:
    """Decode the fields of a body.

    Args:
        fields: from `read_fields`.
        struct: what to decode it as.
        strict: report unknown fields as errors instead of warnings.
        is_small: the result of the function of that name, for its text.

    Raises:
        InvalidSpec: with every problem, if the body has a spec and that has one.
        InvalidInput: with every problem otherwise.
    """
    declared = _fields_of(struct)
    warnings = _unknown_fields(fields, declared)
    problems: list[Problem] = []
    spec_problems: tuple[Problem, ...] = ()
    values: dict[str, Any] = {}
    for key, field in declared.items():
        value = fields.get(key)
        if value is None:
            if field.required:
                problems.append(Problem(field.encode_name, "required", "add it to the body"))
            continue
        try:
            values[field.name] = _convert(value, field, warnings, strict=strict, is_small=is_small)
        except InvalidSpec as error:
            spec_problems = error.problems
        except RecursionError:
            problems.append(
                Problem(field.encode_name, f"nested deeper than {SPEC_MAX_DEPTH} levels", "flatten it")
            )
        except msgspec.ValidationError as error:
            problems.append(_problem(field.encode_name, value, error))
    if strict:
        problems += [Problem("", warning) for warning in warnings]
    if spec_problems:
        raise InvalidSpec([*spec_problems, *problems])
    if problems:
        raise InvalidInput("; ".join(map(str, problems)))
    return Decoded(struct(**values), warnings)


class _Field(NamedTuple):
    name: str
    encode_name: str
    type: Any
    required: bool
    is_list: bool


@cache
def _fields_of(struct: type[msgspec.Struct]) -> dict[str, _Field]:
    """The fields of a Struct by their key in lower case; msgspec takes long to list them."""
    found = {}
    for field in msgspec.structs.fields(struct):
        kind = field.type
        inner = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
        is_list = get_origin(inner) is list
        found[field.encode_name.lower()] = _Field(
            field.name, field.encode_name, kind, field.required, is_list
        )
    return found


def _convert(value: Any, field: _Field, warnings: list[str], *, strict: bool, is_small: bool) -> Any:
    if field.type is JobSpec:
        read = read_spec(value, strict=strict, is_small=is_small)
        if read.warnings:
            warnings += map(str, read.warnings)
        return read.spec
    if field.is_list and isinstance(value, str):
        value = [value]  # a list of one may be written without brackets
    return msgspec.convert(value, field.type)


def _problem(path: str, value: Any, error: msgspec.ValidationError) -> Problem:
    found = _MESSAGE.fullmatch(str(error))
    expected, place = (found[1], found[2] or "") if found is not None else (str(error), "")
    for index in _INDEX.findall(place):
        # Maps have strings as values, and msgspec does not name the key.
        key = int(index) if index.isdecimal() else next(k for k, v in value.items() if not isinstance(v, str))
        path, value = f"{path}[{key}]" if index.isdecimal() else step(path, key), value[key]
    for kind, words in _TYPES.items():
        expected = expected.replace(kind, words)
    return Problem(path, f"must be {expected}, got {shown(value)}")


def _unknown_fields(fields: dict[str, object], declared: dict[str, _Field]) -> list[str]:
    """A warning for each field that is not declared, with the field that was probably meant."""
    if fields.keys() <= declared.keys():
        return []
    unknown = fields.keys() - declared.keys() - IGNORED_FIELDS
    if not unknown:
        return []
    names = {key: field.encode_name for key, field in declared.items()}
    listed = ", ".join(names.values())
    warnings = []
    for key in unknown:
        near = difflib.get_close_matches(key[:_FIELD_MAX_CHARACTERS], names, n=1)
        remedy = f"did you mean `{names[near[0]]}`?" if near else f"the fields are {listed}"
        warnings.append(f"{key[:_FIELD_MAX_CHARACTERS]}: not a field of this request; {remedy}")
    return sorted(warnings)[:UNKNOWN_FIELDS_SHOWN]
