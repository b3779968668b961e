"""The definition of a durable subscription: written when it is first opened, compared afterwards. Pure."""

import re
from typing import Final

import msgspec

from jobledger.projections.limits import SUBSCRIPTION_MEMBERS_MAX, SUBSCRIPTION_NAME_MAX_CHARACTERS
from jobledger.projections.query.selectors import parse_selector
from jobledger.projections.subscriptions.filters import EventFilter, parse_states, parse_types
from jobledger.store.consumer import ConsumerInfo, ConsumerSpec
from jobledger.store.model.errors import InvalidInput, LogUnfit
from jobledger.store.model.subjects import (
    ALL_SUBJECTS,
    SHARD_COUNT,
    job_subject,
    job_subject_anywhere,
    namespace_subjects,
    shard_of,
    shard_subjects,
    shard_token,
    token,
)
from jobledger.store.spec.values import is_utf8

_NAME: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{SUBSCRIPTION_NAME_MAX_CHARACTERS - 1}}}", re.ASCII)
_PARTITION_SUFFIX: Final = re.compile(r".*-[0-9]+of[0-9]+e?", re.ASCII)
LABEL: Final = "jobledger"
"""Metadata key of a consumer: its subscription's definition as JSON."""


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A durable subscription, as stored.

    Attributes:
        name: name of the subscription.
        namespace: only events of this namespace; empty: of all.
        job: only events of the job with this id; empty: of all.
        types: only these CloudEvents types; empty: all.
        states: only events after which the job is in one of these states; empty: all.
        labels: label selector; only events of matching jobs.
        start: where it starts, as requested.
        after: the sequence that `start` resolved to; the first event has a higher one.
        members: size of a fixed group, each member with its own part; 0: not a fixed group.
        partitions: partitions that the members of an elastic group share; 0: not an elastic group.
        plain: for a program in another language, without `subscribe`.
        epoch: epoch of the stream.
        created: RFC 3339 time of creation, by the creator's clock.
    """

    name: str
    namespace: str = ""
    job: str = ""
    types: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    labels: str = ""
    start: str = "beginning"
    after: int = 0
    members: int = 0
    partitions: int = 0
    plain: bool = False
    epoch: str = ""
    created: str = ""

    def encode(self) -> bytes:
        """Encode the definition for storage."""
        return _encoder.encode(self)

    @property
    def key(self) -> str:
        """The key of its record."""
        return definition_key(self.name)

    @property
    def parts(self) -> int:
        """The number of its consumers."""
        return self.members or self.partitions or 1

    def filter(self) -> EventFilter:
        """The filter of its events.

        Raises:
            InvalidInput: if the label selector is invalid.
        """
        return EventFilter(
            namespaces=frozenset({self.namespace}) if self.namespace else None,
            job=(self.namespace or None, self.job) if self.job else None,
            types=self.types,
            states=parse_states(self.states),
            selector=parse_selector(self.labels),
        )

    def consumer(self, part: int) -> ConsumerSpec:
        """The consumer of a part, counted from 0."""
        return ConsumerSpec(
            name=self.consumer_name(part),
            subjects=self._subjects(part),
            after=self.after,
            labels={LABEL: self.encode().decode()},
            plain=self.plain,
        )

    def note(self, part: int) -> str:
        """The key of the record that notes the last reset of a part.

        It has the prefix that subscribers may write to. It cannot be the key of a job: in a job's token `%`
        starts an escape.
        """
        return f"{parked_prefix(self.name)}.%reset-{self.consumer_name(part)}"

    def consumer_name(self, part: int) -> str:
        """The name of the consumer of a part."""
        if self.parts == 1 and not self.partitions:
            return self.name
        return f"{self.name}-{part + 1}of{self.parts}{'e' if self.partitions else ''}"

    @property
    def consumer_names(self) -> list[str]:
        """The names of all its consumers."""
        return [self.consumer_name(part) for part in range(self.parts)]

    def part_of(self, job_id: str) -> int:
        """The part that a job's events belong to."""
        return int(shard_of(job_id)) % self.parts

    def shards(self, part: int) -> frozenset[str] | None:
        """The shard tokens that a part handles, of those that its consumer delivers; None: all."""
        return self._shards_of(part) if self.members else None

    def reachable_shards(self, part: int) -> frozenset[str] | None:
        """The shard tokens of the jobs that a part can get; None: all."""
        return self._shards_of(part) if self.parts > 1 else None

    def _shards_of(self, part: int) -> frozenset[str]:
        return frozenset(shard_token(shard) for shard in range(part, SHARD_COUNT, self.parts))

    def _subjects(self, part: int) -> tuple[str, ...]:
        namespace = self.namespace or None
        if self.job:
            return (job_subject(namespace, self.job) if namespace else job_subject_anywhere(self.job),)
        if self.partitions or (self.plain and self.members):  # a plain member does not know shards
            return tuple(shard_subjects(namespace, shard) for shard in range(part, SHARD_COUNT, self.parts))
        # A member also reads the events of the others, and drops them (`shards`): with several filters per
        # consumer the server searches all jobs of a block for each event, which is many times slower.
        return (namespace_subjects(namespace) if namespace else ALL_SUBJECTS,)


_encoder: Final = msgspec.json.Encoder()
_decoder: Final = msgspec.json.Decoder(Definition)
_COMPARED: Final = (
    *("namespace", "job", "types", "states", "labels", "start", "members", "partitions", "plain"),
)


def define(
    *,
    name: str,
    namespace: str | None,
    job: str | None,
    types: tuple[str, ...],
    states: tuple[str, ...],
    labels: str,
    start: str,
    members: int,
    partitions: int,
    plain: bool = False,
) -> Definition:
    """Validate the arguments of a subscription, and return its definition.

    Raises:
        InvalidInput: naming the invalid argument.
    """
    check_name(name)
    for field, number in (("members", members), ("partitions", partitions)):
        if not 0 <= number <= SUBSCRIPTION_MEMBERS_MAX:
            raise InvalidInput(f"{field} must be 1..{SUBSCRIPTION_MEMBERS_MAX}, got {number!r}")
    for field, text in (("namespace", namespace), ("job", job)):
        if text and not is_utf8(text):
            raise InvalidInput(
                f"invalid {field} {text!r:.80}: it is not valid UTF-8, so nothing has that name"
            )
    if job and (members or partitions):
        raise InvalidInput(
            "job excludes members and elastic: one member would get every event; omit one of them"
        )
    if plain and (types or states or labels):
        raise InvalidInput(
            "the server filters a plain subscription by namespace and job only: omit types, states and labels"
        )
    if plain and partitions:
        raise InvalidInput("plain excludes elastic: use members for a plain group")
    definition = Definition(
        name=name,
        namespace=namespace or "",
        job=job or "",
        types=tuple(sorted(parse_types(types))),
        states=tuple(sorted(str(state) for state in parse_states(states))),
        labels=labels,
        start=start,
        members=members,
        partitions=partitions,
        plain=plain,
    )
    definition.filter()
    return definition


def check_name(name: str) -> None:
    """Check the name of a subscription.

    Raises:
        InvalidInput: if it is invalid.
    """
    if not _NAME.fullmatch(name) or _PARTITION_SUFFIX.fullmatch(name):
        raise InvalidInput(
            f"invalid subscription name {name!r:.80}: use 1 to {SUBSCRIPTION_NAME_MAX_CHARACTERS} letters,"
            " digits, `-` and `_`, starting with a letter or digit, and not ending like `-1of4`"
        )


def decode_definition(text: bytes | str) -> Definition | None:
    """Decode a stored definition; None if the text is not one."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def check_same(requested: Definition, stored: Definition) -> None:
    """Check that a subscription is opened with the arguments that it was created with.

    Raises:
        InvalidInput: naming the first field that differs.
    """
    for field in _COMPARED:
        wanted, found = getattr(requested, field), getattr(stored, field)
        if wanted != found:
            raise InvalidInput(
                f"the subscription {requested.name} exists with {field} {found!r:.80}, not {wanted!r:.80}:"
                " open it as it is, use another name, or delete it (which deletes its position)"
            )


def check_start(definition: Definition, consumer: ConsumerInfo) -> None:
    """Check that a consumer is not left from an earlier subscription of this name with another start.

    Raises:
        LogUnfit: naming both starts.
    """
    left = decode_definition(consumer.labels.get(LABEL, ""))
    start, after = (left.start, left.after) if left is not None else ("beginning", 0)
    if (start, after) != (definition.start, definition.after):
        raise LogUnfit(
            f"the consumer {consumer.name} is left from an earlier subscription {definition.name}, which"
            f" started at {start!r:.80} (after sequence {after}); this one starts at {definition.start!r:.80}"
            f" (after sequence {definition.after}): delete it with `jobledger subscriptions delete"
            f" {definition.name}`, or use another name"
        )


def definition_key(name: str) -> str:
    """The key of a subscription's definition."""
    return f"definition.{name}"


def parked_key(name: str, job_id: str) -> str:
    """The key of a job in a subscription's retry queue."""
    return f"{parked_prefix(name)}.{token(job_id)}"


def parked_prefix(name: str) -> str:
    """The prefix of the keys of a subscription's retry queue."""
    return f"parked.{name}"
