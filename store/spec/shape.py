"""What the fields of a spec accept, read off its Structs: the one source for reading and for checking."""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from jobledger.store.model.errors import Problem
from jobledger.store.spec.spec import ACCEPTS_NUMBERS, CHOICES, JobSpec
from jobledger.store.spec.values import shown, step


class Kind(msgspec.Struct, frozen=True):
    """What a field accepts.

    Attributes:
        base: str, int, dict (keys of text), list, or a Struct.
        item: the Kind of a list's items, or of a map's values (None: any value, the user's own).
        numbers: whether a number may stand for the text.
        choices: the only words accepted.
        optional: whether it may be UNSET, which is not the same as its default.
    """

    base: type
    item: "Kind | None" = None
    numbers: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False


class Field(msgspec.Struct, frozen=True):
    """A field of a Struct: its attribute, its key on the wire, and what it accepts."""

    attribute: str
    key: str
    kind: Kind


@cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """The fields of a Struct by their key in lower case."""
    fields = [Field(each.name, each.encode_name, _kind(each.type)) for each in msgspec.structs.fields(struct)]
    return {each.key.lower(): each for each in fields}


@cache
def exact_form(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """A Struct that takes the keys and words of this one spelled as on the wire, and nothing else."""
    fields = [
        (each.attribute, _exact_type(each.kind), msgspec.field(name=each.key, default=None))
        for each in fields_of(struct).values()
    ]
    return msgspec.defstruct(struct.__name__, fields, forbid_unknown_fields=True)


def _exact_type(kind: Kind) -> Any:
    if kind.choices:
        return Literal[kind.choices]
    if kind.base is list:
        return list[_exact_type(kind.item or Kind(str))]  # type: ignore[misc]
    if kind.base is dict:
        return dict[str, Any if kind.item is None else _exact_type(kind.item)]  # type: ignore[misc]
    return exact_form(kind.base) if issubclass(kind.base, msgspec.Struct) else kind.base


def _kind(annotation: Any) -> Kind:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        extra = annotation.__metadata__[0].extra or {}
        return msgspec.structs.replace(
            _kind(arguments[0]), numbers=ACCEPTS_NUMBERS in extra, choices=extra.get(CHOICES, ())
        )
    if origin in (Union, UnionType):  # "or unset"
        plain = _kind(next(each for each in arguments if each is not msgspec.UnsetType))
        return msgspec.structs.replace(plain, optional=True)
    if origin is dict:
        return Kind(dict, item=None if arguments[1] is Any else _kind(arguments[1]))
    if origin is tuple:
        return Kind(list, item=_kind(arguments[0]))
    return Kind(annotation)


def shape_problems(spec: JobSpec) -> list[Problem]:
    """Every attribute that is not of its declared type: msgspec does not check what Python code passes in."""
    return _mismatches(spec, Kind(JobSpec), "")


def _mismatches(value: Any, kind: Kind, path: str) -> list[Problem]:
    if kind.base is list:
        fits, items = (
            isinstance(value, list | tuple),
            enumerate(value) if isinstance(value, list | tuple) else (),
        )
        inside = [(item, kind.item, f"{path}[{index}]") for index, item in items]
    elif kind.base is dict:
        fits, own = isinstance(value, dict), kind.item is None  # the user's own values are not ours to type
        inside = (
            [(item, kind.item, step(path, key)) for key, item in value.items()] if fits and not own else []
        )
    elif issubclass(kind.base, msgspec.Struct):
        fits = isinstance(value, kind.base)
        fields = fields_of(kind.base).values() if fits else ()
        inside = [(getattr(value, each.attribute), each.kind, step(path, each.key)) for each in fields]
    else:
        unset = value is msgspec.UNSET and kind.optional
        fits = unset or (isinstance(value, kind.base) and not (kind.base is int and isinstance(value, bool)))
        inside = []
    if not fits:
        message = f"expected {kind.base.__name__}, got {shown(value)}"
        return [Problem(path, message, "build the spec from values of the declared types")]
    return [each for item, its, place in inside if its for each in _mismatches(item, its, place)]
