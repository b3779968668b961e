"""What a job is, in the user's words: the job model of Bacalhau as frozen Structs, and its JSON.

Attributes are snake_case; on the wire they are Bacalhau's PascalCase (`input_sources` is `InputSources`). The
Structs say what a spec may hold; `reading` fills them from outside text, `normalize` gives them one form,
`validation` judges them.

What is emitted follows Bacalhau: a field that holds its default is left out, except for those that Bacalhau
always writes. msgspec leaves a field out when its value *is* the default object, and never when the default
comes from a factory such as `str`; that is why "always written" is spelled `field(default_factory=...)`
below.
"""

from functools import cache
from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, UnsetType, field

JOB_TYPES: Final = ("batch", "service", "daemon", "ops")
RUNS_EVERYWHERE: Final = frozenset(
    {"daemon", "ops"}
)  # on every matching node, so Count means nothing for them
NETWORK_TYPES: Final = ("Default", "None", "Host", "Full", "HTTP", "Bridge")
OPERATORS: Final = ("in", "notin", "exists", "!", "gt", "lt", "=", "==", "!=")

# Marks for the reader, kept in the type so that no reading rule is written per field.
ACCEPTS_NUMBERS: Final = "accepts_numbers"  # `CPU: 1` means "1"
CHOICES: Final = "choices"  # one of these words, in any case, written as listed
Quantity = Annotated[str, msgspec.Meta(extra={ACCEPTS_NUMBERS: True})]
NetworkType = Annotated[str, msgspec.Meta(extra={CHOICES: NETWORK_TYPES})]

_ACRONYMS = {"cpu": "CPU", "gpu": "GPU"}


def _wire_name(attribute: str) -> str:
    """`input_sources` -> `InputSources`; `cpu` -> `CPU`."""
    return "".join(_ACRONYMS.get(word) or word.capitalize() for word in attribute.split("_"))


class _Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_wire_name):
    """What all parts of a spec share; msgspec passes these settings on to subclasses."""


class SpecConfig(_Part, frozen=True, kw_only=True):
    """An engine, a source or a publisher: which kind, and that kind's own settings.

    Attributes:
        type: compared without case and surrounding space; which types exist is for the compute nodes to know.
        params: the user's, passed on as they are.
    """

    type: str = field(default_factory=str)
    params: dict[str, Any] = field(default_factory=dict)


class InputSource(_Part, frozen=True, kw_only=True):
    """Data that is put at `target` inside the task's file system before it starts."""

    source: SpecConfig = field(default_factory=SpecConfig)
    alias: str = field(default_factory=str)
    target: str = field(default_factory=str)


class ResultPath(_Part, frozen=True, kw_only=True):
    """A folder of the task's file system that is published under a name when it ends."""

    name: str = field(default_factory=str)
    path: str = field(default_factory=str)


class Resources(_Part, frozen=True, kw_only=True):
    """What a task needs, as text in the grammar of `quantities`; empty is "not said"."""

    cpu: Quantity = ""
    memory: Quantity = ""
    disk: Quantity = ""
    gpu: Quantity = ""


class Port(_Part, frozen=True, kw_only=True):
    """A port that the task is given: `static` on the node, `target` inside the task; 0 is "any"."""

    name: str = field(default_factory=str)
    static: int = 0
    target: int = 0
    host_network: str = ""


class Network(_Part, frozen=True, kw_only=True):
    """Which network the task sees: one of `NETWORK_TYPES`."""

    type: NetworkType = field(default_factory=lambda: "Default")
    domains: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()


class Timeouts(_Part, frozen=True, kw_only=True):
    """How long the task may run, wait, and both together, in seconds; 0 is no limit."""

    execution_timeout: int = 0
    queue_timeout: int = 0
    total_timeout: int = 0


class Constraint(_Part, frozen=True, kw_only=True):
    """A condition on the labels of a node, as in a Kubernetes selector."""

    key: str = field(default_factory=str)
    operator: str = field(default_factory=str)
    values: tuple[str, ...] = ()


# One object each: "left out when empty" is decided by identity, so `normalize` puts these in place of their
# equals.
NO_RESOURCES: Final = Resources()
NO_NETWORK: Final = Network()
NO_TIMEOUTS: Final = Timeouts()


class Task(_Part, frozen=True, kw_only=True):
    """One thing to run, with what goes in, what comes out and what it needs."""

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
    """A job as the user describes it; id, state, version, revision and times are the ledger's.

    Attributes:
        name: with the namespace the job's identity; empty until the ledger fills in the id it generated.
        namespace: empty means `DEFAULT_NAMESPACE`.
        type: one of `JOB_TYPES`.
        priority: higher runs first.
        count: how many executions. Missing is not 0: missing means 1, 0 means "scaled to zero".
        constraints: which nodes may run it; all must hold.
        meta: the user's notes.
        labels: the user's labels, by which jobs are found.
        tasks: the first is the one that Bacalhau runs.
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
    """The spec as JSON; equal normalised specs are equal bytes, and only those.

    Fields come in the order of the Structs and the keys of maps are sorted. Compare these bytes, not the
    Structs, to learn whether a spec changed: to Python `1 == 1.0 == True`, but in `Params` they are three
    different settings.

    Raises:
        TypeError, ValueError, RecursionError: `Params` holds what JSON cannot carry; `validation` finds it
        first.
    """
    return _encoder.encode(spec)


def decode_spec(raw: bytes) -> JobSpec:
    """A spec from `encode_spec`'s JSON. For text from outside use `reading`, which forgives and explains.

    Raises:
        msgspec.DecodeError: `raw` is not such JSON.
    """
    return _decoder.decode(raw)


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
