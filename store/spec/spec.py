"""What a job is, in the user's words: the job model of Bacalhau as frozen Structs, and its JSON.

Attributes are snake_case; on the wire they are Bacalhau's PascalCase (`input_sources` is `InputSources`). The
Structs say what a spec may hold; `reading` fills them from outside text, `normalize` gives them one form,
`validation` judges them.

What is emitted follows Bacalhau: a field that holds its default is left out, except for those that Bacalhau
always writes. msgspec leaves a field out when its value *is* the default object, and never when the default
comes from a factory such as `str`; that is why "always written" is spelled `field(default_factory=...)`
below.
"""

from typing import Annotated, Any, Final

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
