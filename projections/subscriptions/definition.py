"""What a durable subscription is: written once, when it is first opened, and compared ever after. Pure."""

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
_LIKE_A_PARTITION: Final = re.compile(r".*-[0-9]+of[0-9]+e?", re.ASCII)
LABEL: Final = "jobledger"  # beside each consumer: the definition as JSON


class Definition(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A durable subscription.

    Attributes:
        name: of the subscription.
        namespace: only events of its jobs; empty: of all.
        job: only events of the job of this id; empty: of all.
        types: only these CloudEvents types.
        states: only events that bring the job into one of these.
        labels: a label selector; only events of jobs that meet it.
        start: where it began, as it was said.
        after: the same as a sequence: the first event has a higher one.
        members: that share it, each with its own part; 0: it is not shared in this way.
        partitions: that members share as they come and go; 0: it is not shared in this way.
        plain: for a program in another language; `subscribe` does not read it.
        epoch: of the stream.
        created: RFC 3339, the clock of whoever opened it first.
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
        """As it is kept."""
        return _encoder.encode(self)

    @property
    def key(self) -> str:
        """Of its record."""
        return f"definition.{self.name}"

    @property
    def parts(self) -> int:
        """How many consumers it has."""
        return self.members or self.partitions or 1

    def filter(self) -> EventFilter:
        """What it lets through."""
        return EventFilter(
            namespaces=frozenset({self.namespace}) if self.namespace else None,
            job=(self.namespace or None, self.job) if self.job else None,
            types=self.types,
            states=parse_states(self.states),
            selector=parse_selector(self.labels),
        )

    def consumer(self, part: int) -> ConsumerSpec:
        """What makes the consumer of one part, counted from 0."""
        return ConsumerSpec(
            name=self.consumer_name(part),
            subjects=self._subjects(part),
            after=self.after,
            labels={LABEL: self.encode().decode()},
            plain=self.plain,
        )

    def note(self, part: int) -> str:
        """The key of the record in which the last reset of one part is noted.

        It is among the records that a subscriber may write, and is no job's: in a job's token `%` begins an
        escape.
        """
        return f"{parked_prefix(self.name)}.%reset-{self.consumer_name(part)}"

    def consumer_name(self, part: int) -> str:
        """The name of the consumer of one part."""
        if self.parts == 1 and not self.partitions:
            return self.name
        return f"{self.name}-{part + 1}of{self.parts}{'e' if self.partitions else ''}"

    def part_of(self, job_id: str) -> int:
        """The part that a job's events belong to."""
        return int(shard_of(job_id)) % self.parts

    def shards(self, part: int) -> frozenset[str] | None:
        """The shard tokens whose events a part handles, of those that its consumer delivers; None: all."""
        if not self.members:
            return None
        return frozenset(shard_token(shard) for shard in range(part, SHARD_COUNT, self.members))

    def covered(self, part: int) -> frozenset[str] | None:
        """The shard tokens of the jobs that a part can meet; None: all."""
        if self.parts == 1:
            return None
        return frozenset(shard_token(shard) for shard in range(part, SHARD_COUNT, self.parts))

    def _subjects(self, part: int) -> tuple[str, ...]:
        namespace = self.namespace or None
        if self.job:
            return (job_subject(namespace, self.job) if namespace else job_subject_anywhere(self.job),)
        if self.plain and self.members:  # such a program does not know shards: the server filters them
            return tuple(shard_subjects(namespace, shard) for shard in range(part, SHARD_COUNT, self.parts))
        if not self.partitions:
            # A member reads the others' events, too, and drops them (`shards`): with several filters the
            # server looks through all jobs of a block for each single event: many times slower.
            return (namespace_subjects(namespace) if namespace else ALL_SUBJECTS,)
        return tuple(shard_subjects(namespace, shard) for shard in range(part, SHARD_COUNT, self.parts))


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
    """A definition of what a caller says.

    Raises:
        InvalidInput: naming what is wrong.
    """
    check_name(name)
    for field, number in (("members", members), ("partitions", partitions)):
        if not 0 <= number <= SUBSCRIPTION_MEMBERS_MAX:
            raise InvalidInput(f"{field} is {number!r}; it may be 1 to {SUBSCRIPTION_MEMBERS_MAX}")
    for field, text in (("namespace", namespace), ("job", job)):
        if text and not is_utf8(text):
            raise InvalidInput(f"{field} is {text!r:.80}, which is no UTF-8 text: nothing has that name")
    if job and (members or partitions):
        raise InvalidInput("job and members (or elastic): one job's events go to one member; leave one out")
    if plain and (types or states or labels):
        raise InvalidInput(
            "a plain subscription is filtered by the server, which knows namespace and job only: leave types,"
            " states and labels out"
        )
    if plain and partitions:
        raise InvalidInput("plain and elastic exclude each other: use members for a plain group")
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
    """Refuse what can't name a subscription.

    Raises:
        InvalidInput: if it can't.
    """
    if not _NAME.fullmatch(name) or _LIKE_A_PARTITION.fullmatch(name):
        raise InvalidInput(
            f"the subscription's name {name!r:.80} won't do: 1 to {SUBSCRIPTION_NAME_MAX_CHARACTERS} letters,"
            " digits, `-` and `_`, a letter or digit first, and no end like `-1of4`"
        )


def decode_definition(text: bytes | str) -> Definition | None:
    """What `Definition.encode` wrote; None if it did not."""
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def check_same(wanted: Definition, found: Definition) -> None:
    """Refuse to open a subscription under a definition that is not its own.

    Raises:
        InvalidInput: naming the first field that differs.
    """
    for field in _COMPARED:
        said, kept = getattr(wanted, field), getattr(found, field)
        if said != kept:
            raise InvalidInput(
                f"the subscription {wanted.name} exists with {field} {kept!r:.80}, not {said!r:.80}: open it"
                " as it is, take another name, or delete it (which forgets its place)"
            )


def check_start(definition: Definition, consumer: ConsumerInfo) -> None:
    """Refuse a consumer that an earlier subscription of the name left, and that began at another place.

    Raises:
        LogUnfit: naming both places.
    """
    left = decode_definition(consumer.labels.get(LABEL, ""))
    start, after = (left.start, left.after) if left is not None else ("beginning", 0)
    if (start, after) != (definition.start, definition.after):
        raise LogUnfit(
            f"the consumer {consumer.name} is left from an earlier subscription {definition.name}, which"
            f" began at {start!r:.80} (after sequence {after}); this one begins at {definition.start!r:.80}"
            f" (after sequence {definition.after}). Delete what is left with `jobledger subscriptions delete"
            f" {definition.name}`, or take another name"
        )


def parked_key(name: str, job_id: str) -> str:
    """The key of the record of a job that was set aside."""
    return f"{parked_prefix(name)}.{token(job_id)}"


def parked_prefix(name: str) -> str:
    """What the keys of all such records of a subscription begin with."""
    return f"parked.{name}"
