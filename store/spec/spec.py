"""The specification of a job: the job model of Bacalhau as frozen Structs, and its JSON.

Attributes are snake_case, and Bacalhau's PascalCase on the wire (`input_sources` is `InputSources`). `reader`
creates these Structs from text, `normalize` gives them their normal form, and `validate` checks them.

As in Bacalhau, a field with its default value is omitted, except for those that Bacalhau always writes.
msgspec omits a field if its value *is* the default object, and never if the default comes from a factory such
as `str`, so each field that is always written has a `default_factory`.
"""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType, field

JOB_TYPES: Final = ("batch", "service", "daemon", "ops")
RUNS_EVERYWHERE: Final = frozenset({"daemon", "ops"})  # on every matching node, so they have no Count
NETWORK_TYPES: Final = ("Default", "None", "Host", "Full", "HTTP", "Bridge")
OPERATORS: Final = ("in", "notin", "exists", "!", "gt", "lt", "=", "==", "!=")

# Metadata for the reader, part of the type so that no field needs a rule of its own.
ACCEPTS_NUMBERS: Final = "accepts_numbers"  # `CPU: 1` means "1"
CHOICES: Final = "choices"  # one of these words, in any case, written as listed
Quantity = Annotated[str, msgspec.Meta(extra={ACCEPTS_NUMBERS: True})]
NetworkType = Annotated[str, msgspec.Meta(extra={CHOICES: NETWORK_TYPES})]

_ACRONYMS = {"cpu": "CPU", "gpu": "GPU"}


def _wire_name(attribute: str) -> str:
    """`input_sources` -> `InputSources`; `cpu` -> `CPU`."""
    return "".join(_ACRONYMS.get(word) or word.capitalize() for word in attribute.split("_"))


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_wire_name):
    """The base of all parts of a spec; subclasses inherit its settings."""


class SpecConfig(_Part, frozen=True, kw_only=True):
    """An engine, a source or a publisher.

    Attributes:
        type: compared without case and surrounding space; the compute nodes define which types exist.
        params: of that type, passed on unchanged.
    """

    type: str = field(default_factory=str)
    params: dict[str, Any] = field(default_factory=dict)


class InputSource(_Part, frozen=True, kw_only=True):
    """Data that is placed at `target` in the task's file system before it starts."""

    source: SpecConfig = field(default_factory=SpecConfig)
    alias: str = field(default_factory=str)
    target: str = field(default_factory=str)


class ResultPath(_Part, frozen=True, kw_only=True):
    """A directory of the task's file system that is published under a name when the task ends."""

    name: str = field(default_factory=str)
    path: str = field(default_factory=str)


class Resources(_Part, frozen=True, kw_only=True):
    """The resources that a task requires, in the grammar of `quantities`; empty: not specified."""

    cpu: Quantity = ""
    memory: Quantity = ""
    disk: Quantity = ""
    gpu: Quantity = ""


class Port(_Part, frozen=True, kw_only=True):
    """A port of the task: `static` on the node, `target` inside the task; 0 is any port."""

    name: str = field(default_factory=str)
    static: int = 0
    target: int = 0
    host_network: str = ""


class Network(_Part, frozen=True, kw_only=True):
    """The network of the task: one of `NETWORK_TYPES`."""

    type: NetworkType = field(default_factory=lambda: "Default")
    domains: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()


class Timeouts(_Part, frozen=True, kw_only=True):
    """The maximum time that the task runs, waits, and both together, in seconds; 0: unlimited."""

    execution_timeout: int = 0
    queue_timeout: int = 0
    total_timeout: int = 0


class Constraint(_Part, frozen=True, kw_only=True):
    """A requirement on the labels of a node, as in a Kubernetes selector."""

    key: str = field(default_factory=str)
    operator: str = field(default_factory=str)
    values: tuple[str, ...] = ()


# One object each: msgspec omits them by identity, so `normalize` uses these for all equal values.
NO_RESOURCES: Final = Resources()
NO_NETWORK: Final = Network()
NO_TIMEOUTS: Final = Timeouts()


class Task(_Part, frozen=True, kw_only=True):
    """One program to run, with its inputs, results and resources."""

    name: str = field(default_factory=str)
    engine: SpecConfig = field(default_factory=SpecConfig)
    publisher: SpecConfig = field(default_factory=SpecConfig)
    env: dict[str, str] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    input_sources: tuple[InputSource, ...] = ()
    result_paths: tuple[ResultPath, ...] = ()
    resources: Resources = NO_RESOURCES
    network: Network = NO_NETWORK
    timeouts: Timeouts = NO_TIMEOUTS


class JobSpec(_Part, frozen=True, kw_only=True):
    """A job as the user describes it; the ledger adds id, state, version, revision and times.

    Attributes:
        name: with the namespace, the identity of the job; empty: the ledger uses the id.
        namespace: empty means `DEFAULT_NAMESPACE`.
        type: one of `JOB_TYPES`.
        priority: higher runs first.
        count: number of executions. A missing count means 1; 0 means "scaled to zero".
        constraints: on the nodes that run it; all must match.
        meta: notes of the user.
        labels: of the user, to select jobs by.
        tasks: Bacalhau runs the first one.
    """

    name: str = field(default_factory=str)
    namespace: str = field(default_factory=str)
    type: str = field(default_factory=str)
    priority: int = 0
    count: int | UnsetType = UNSET
    constraints: tuple[Constraint, ...] = ()
    meta: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    tasks: tuple[Task, ...] = ()


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(JobSpec)


def encode_spec(spec: JobSpec) -> bytes:
    """Return a spec as JSON: normalized specs are equal if and only if these bytes are.

    Fields have the order of the Structs, and the keys of maps are sorted. Do not compare the Structs: in
    Python `1 == 1.0 == True`, but in `Params` they are three different settings.

    Raises:
        TypeError, ValueError, RecursionError: if `Params` has a value that is not JSON.
    """
    return _encoder.encode(spec)


def decode_spec(raw: bytes) -> JobSpec:
    """Return the spec of JSON from `encode_spec`. For text from outside, use `reader`.

    Raises:
        msgspec.DecodeError: if it is not such JSON.
    """
    return _decoder.decode(raw)


class Kind(msgspec.Struct, frozen=True):
    """The values that a field accepts.

    Attributes:
        base: str, int, dict (with string keys), list, or a Struct.
        item: of the items of a list or the values of a map; None: any value of the user.
        numbers: whether a number is accepted for the text.
        choices: the only accepted values.
        optional: whether it can be UNSET, which differs from its default.
    """

    base: type
    item: "Kind | None" = None
    numbers: bool = False
    choices: tuple[str, ...] = ()
    optional: bool = False


class Field(msgspec.Struct, frozen=True):
    """A field of a Struct, with its key on the wire."""

    attribute: str
    key: str
    kind: Kind


@cache
def fields_of(struct: type[msgspec.Struct]) -> dict[str, Field]:
    """Return the fields of a Struct by key in lower case."""
    fields = [Field(each.name, each.encode_name, _kind(each.type)) for each in msgspec.structs.fields(struct)]
    return {each.key.lower(): each for each in fields}


@cache
def exact_form(struct: type[msgspec.Struct]) -> type[msgspec.Struct]:
    """Return a Struct that accepts only the keys and choices of this one, exactly as on the wire."""
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
