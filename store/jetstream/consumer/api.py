"""The API of durable consumers in its own messages: the client library lacks most of these fields.

NATS ADR-42 (pinned clients), ADR-60 (reset). Acknowledging one event acknowledges all before it, and the
server never delivers again by itself: whoever takes a consumer over resets it.
"""

from typing import Any

import msgspec

from jobledger.store.consumer import ConsumerInfo, ConsumerSpec
from jobledger.store.jetstream.api import API, ApiError, call
from jobledger.store.jetstream.connection import Connection, new_token
from jobledger.store.jetstream.declarations import SUBSCRIPTIONS
from jobledger.store.jetstream.kv import JetStreamKeyValue
from jobledger.store.jetstream.reader import leader_get
from jobledger.store.jetstream.stream import log_info, stream_info
from jobledger.store.kv import NO_ENTRY
from jobledger.store.model.errors import (
    LogNotPermitted,
    LogReplaced,
    LogUnavailable,
    LogUnfit,
    SubscriptionDeleted,
)
from jobledger.store.model.limits import (
    CONSUMER_MAX_UNACKNOWLEDGED,
    CONSUMER_MAX_WAITING,
    CONSUMERS_MAX,
    PIN_SECONDS,
    PLAIN_ACK_WAIT_SECONDS,
    READ_MAX_TRIES,
    REQUEST_TIMEOUT_SECONDS,
)
from jobledger.store.model.subjects import ALL_SUBJECTS

GROUP = "m"  # the one priority group that our consumers have
_RESET_LABEL = "jobledger.reset"  # a requested reset: the sequence after which to begin again
_RESET_ID_LABEL = "jobledger.reset.id"  # the id of that request
OURS_LABEL = "jobledger"  # every consumer of ours carries it

# What a consumer can't be read without, as it is meant: the rest may be of another release.
_ESSENTIAL = ("filter_subjects", "deliver_policy", "ack_policy", "priority_groups", "priority_policy")

CONSUMER_NOT_FOUND = 10014
CONSUMER_EXISTS = 10148
NANOSECONDS = 1_000_000_000
_FOR_EVER_NANOSECONDS = 365 * 24 * 3_600 * NANOSECONDS  # redelivery by the clock is not wanted


class ResetRequest(msgspec.Struct, frozen=True):
    """A reset that somebody asked for.

    Only the service and operators write it, as labels of the consumer. The process that holds the consumer
    does it and writes its id into a note, which is one of the few records that a subscriber may write. So a
    request is done once, whichever process holds the consumer, and its labels can be removed later.

    Attributes:
        id: unique.
        after: the sequence after which to begin again.
    """

    id: str
    after: int


class _Place(msgspec.Struct, frozen=True):
    consumer_seq: int = 0
    stream_seq: int = 0


class _Group(msgspec.Struct, frozen=True):
    pinned_client_id: str = ""


class ConsumerState(msgspec.Struct, frozen=True):
    """A consumer as `CONSUMER.INFO`, `CREATE` and `RESET` describe it."""

    name: str = ""
    created: str = ""
    config: dict[str, Any] = {}
    delivered: _Place = _Place()
    ack_floor: _Place = _Place()
    num_ack_pending: int = 0
    num_waiting: int = 0
    num_pending: int = 0
    priority_groups: list[_Group] = []
    error: ApiError | None = None

    @property
    def pin(self) -> str:
        """The id of the client that is pinned; empty if none is."""
        return self.priority_groups[0].pinned_client_id if self.priority_groups else ""

    @property
    def labels(self) -> dict[str, str]:
        """What was put beside it."""
        labels: dict[str, str] = self.config.get("metadata") or {}
        return labels

    @property
    def reset(self) -> ResetRequest | None:
        """The reset that was asked for last; it may have been done."""
        text = self.labels.get(_RESET_LABEL, "")
        if not text.isdecimal():
            return None
        return ResetRequest(self.labels.get(_RESET_ID_LABEL, text), int(text))  # release 0.1 wrote no id

    def told(self) -> ConsumerInfo:
        """The same in the words of the port."""
        single = self.config.get("filter_subject")
        subjects = (single,) if single else tuple(self.config.get("filter_subjects") or ())
        return ConsumerInfo(
            name=self.name,
            subjects=subjects,
            labels={key: value for key, value in self.labels.items() if not key.startswith("_nats.")},
            created=self.created,
            acknowledged=self.ack_floor.stream_seq,
            delivered=self.delivered.stream_seq,
            unacknowledged=self.num_ack_pending,
            pending=self.num_pending,
            waiting=self.num_waiting,
            holder=self.pin,
            reset_to=self.reset.after if self.reset is not None else None,
        )


class _Page(msgspec.Struct, frozen=True):
    total: int = 0
    consumers: list[ConsumerState] = []
    error: ApiError | None = None


class _Done(msgspec.Struct, frozen=True):
    success: bool = False
    error: ApiError | None = None


class ConsumerApi:
    """Questions about the consumers of one stream."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self.connection = connection
        self.stream = stream
        self._notes = JetStreamKeyValue(connection, SUBSCRIPTIONS.name(stream))

    async def create(self, spec: ConsumerSpec) -> tuple[ConsumerState, ResetRequest | None]:
        """Return the consumer of that name, made if it is missing.

        It is looked for first, so that a user who may not create consumers can open one that exists.

        Returns:
            The consumer, and, if it was made here, the reset that takes it to its start.

        Raises:
            LogUnfit: if the consumer that exists delivers something else.
            LogNotPermitted: if it is missing, and this user may not create it.
            LogError: if it can't be made.
        """
        found = await self.info(spec.name, permitted=True)
        if found is not None:
            self._check(found, spec)
            return found, None
        request = ResetRequest(new_token(), spec.after) if spec.after else None
        labels = {OURS_LABEL: "", **spec.labels, **_reset_labels(request)}
        remedy = (
            f"an operator creates it: `jobledger subscriptions create` with the subscription's name (consumer"
            f" {spec.name} of the stream {self.stream})"
        )
        try:
            made = await self._create(spec.name, _config(spec, labels), "create")
        except LogNotPermitted as error:
            raise LogNotPermitted(
                f"the consumer {spec.name} does not exist, and this NATS user may not create it"
                f" (no right to publish to {API}.CONSUMER.CREATE.{self.stream}.{spec.name}): {remedy}"
            ) from error
        except LogUnavailable as error:
            raise LogUnavailable(
                f"the consumer {spec.name} does not exist, and the request to create it got no answer"
                f" ({error}); if this NATS user may not create consumers, {remedy}"
            ) from error
        if made.error is not None and made.error.err_code == CONSUMER_EXISTS:  # another process was faster
            made, request = await self._info(spec.name), None
            self._check(made, spec)
        if made.error is not None:
            raise made.error.as_exception(f"making the consumer {spec.name}")
        return made, request

    def _check(self, found: ConsumerState, spec: ConsumerSpec) -> None:
        """Refuse a consumer of the name that would deliver something else, or in another way.

        Raises:
            LogUnfit: naming what differs.
        """
        if found.error is not None:
            return
        config = {**found.config, "filter_subjects": [*found.told().subjects]}
        wanted = _config(spec, {})
        wrong = [
            f"{field} is {config.get(field)!r:.200} and must be {wanted.get(field)!r:.200}"
            for field in _ESSENTIAL
            if config.get(field) != wanted.get(field)
        ]
        if wrong:
            raise LogUnfit(
                f"the stream {self.stream} has a consumer {spec.name} that is not this subscription's:"
                f" {'; '.join(wrong)}. Take another name, or delete it with"
                f" `nats consumer rm {self.stream} {spec.name}`"
            )

    async def request_reset(self, state: ConsumerState, request: ResetRequest | None) -> None:
        """Write a request for a reset beside a consumer, in place of the one that is there; None: remove it.

        Raises:
            LogError: if that can't be done.
        """
        kept = {
            key: value
            for key, value in state.labels.items()
            if not key.startswith("_nats.") and key not in (_RESET_LABEL, _RESET_ID_LABEL)
        }
        config = {**state.config, "metadata": {**kept, **_reset_labels(request)}}
        made = await self._create(state.name, config, "update")
        if made.error is not None:
            raise made.error.as_exception(f"changing the consumer {state.name}")

    async def is_done(self, request: ResetRequest, note: str) -> bool:
        """Whether the note says that this reset was done.

        Raises:
            LogError: if the note can't be read.
        """
        entry = await self._notes.get(note)
        return entry is not None and entry.value == request.id.encode()

    async def note_revision(self, note: str) -> int:
        """The revision of a note; another one means that a reset was done since.

        Raises:
            LogError: if the note can't be read.
        """
        entry = await self._notes.get(note)
        return entry.revision if entry is not None else NO_ENTRY

    async def note_done(self, request: ResetRequest, note: str) -> None:
        """Write into the note that this reset was done.

        Raises:
            LogError: if that can't be written.
        """
        value = request.id.encode()
        for _ in range(READ_MAX_TRIES):
            entry = await self._notes.get(note)
            written = await self._notes.put(
                note, value, expect=entry.revision if entry is not None else NO_ENTRY
            )
            if written is not None and written.value == value:
                return
        raise LogUnavailable(f"the record {note} changes all the time; try again")

    async def last_event(self, state: ConsumerState) -> int:
        """The sequence of the last event of the log that a consumer delivers; 0 without one.

        Raises:
            LogUnavailable: if the leader does not answer.
        """
        requests: list[dict[str, object]] = [
            {"last_by_subj": subject} for subject in state.told().subjects or (ALL_SUBJECTS,)
        ]
        found = [await leader_get(self.connection, self.stream, request) for request in requests]
        return max((message.seq for message in found if message is not None), default=0)

    async def info(
        self, name: str, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS, permitted: bool = False
    ) -> ConsumerState | None:
        """A consumer as its leader has it; None if there is none.

        Args:
            name: of the consumer.
            timeout_seconds: for the answer.
            permitted: as of `call`.

        Raises:
            LogNotPermitted: if `permitted` is set and the NATS user may not.
            LogUnavailable: if there is no answer, or no stream.
        """
        state = await self._info(name, timeout_seconds, permitted=permitted)
        if state.error is None:
            return state
        if state.error.err_code == CONSUMER_NOT_FOUND:
            return None
        # Without a stream there is no consumer either: `log_info` says which it is.
        log_info(await stream_info(self.connection, self.stream), self.stream)
        raise state.error.as_exception(f"the consumer {name}")

    async def missing(self, name: str, epoch: str) -> Exception:
        """Why a consumer that was there is gone: the error to raise."""
        info = log_info(await stream_info(self.connection, self.stream), self.stream)
        if info.epoch != epoch:
            return LogReplaced(
                f"the stream {self.stream} was deleted and made again (it was {epoch} and is {info.epoch}),"
                f" and the subscription's consumer {name} with it: its sequences now mean other events; open"
                " the subscription again to begin anew, or restore the stream from a backup"
            )
        return SubscriptionDeleted(
            f"somebody deleted the consumer {name} of the stream {self.stream}, and with it the"
            " subscription's place; open the subscription again to begin anew from its start"
        )

    async def reset(self, name: str, *, after: int | None) -> ConsumerState:
        """Begin anew behind a sequence; None: behind the acknowledged place.

        Raises:
            LogError: if that can't be done.
        """
        request = {} if after is None else {"seq": after + 1}
        verb = f"CONSUMER.RESET.{self.stream}.{name}"
        state = await call(self.connection, verb, request, ConsumerState)
        if state.error is not None:
            raise state.error.as_exception(f"resetting the consumer {name}")
        return state

    async def unpin(self, name: str) -> None:
        """Let whoever waits next have it.

        Raises:
            LogError: if that can't be done.
        """
        verb = f"CONSUMER.UNPIN.{self.stream}.{name}"
        done = await call(self.connection, verb, {"group": GROUP}, _Done)
        if done.error is not None:
            raise done.error.as_exception(f"letting go of the consumer {name}")

    async def delete(self, name: str) -> bool:
        """Delete a consumer; False if there was none.

        Raises:
            LogError: if that can't be done.
        """
        done = await call(self.connection, f"CONSUMER.DELETE.{self.stream}.{name}", {}, _Done)
        if done.error is not None and done.error.err_code != CONSUMER_NOT_FOUND:
            raise done.error.as_exception(f"deleting the consumer {name}")
        return done.success

    async def list(self) -> list[ConsumerState]:
        """All consumers of ours, at most CONSUMERS_MAX.

        Raises:
            LogError: if they can't be listed.
        """
        found: list[ConsumerState] = []
        offset = 0
        while offset < CONSUMERS_MAX:
            page = await call(self.connection, f"CONSUMER.LIST.{self.stream}", {"offset": offset}, _Page)
            if page.error is not None:
                raise page.error.as_exception(f"listing the consumers of {self.stream}")
            found += [state for state in page.consumers if OURS_LABEL in state.labels]
            offset += len(page.consumers)
            if not page.consumers or offset >= page.total:
                break
        return found

    async def _create(self, name: str, config: dict[str, Any], action: str) -> ConsumerState:
        request = {"stream_name": self.stream, "config": config, "action": action}
        verb = f"CONSUMER.CREATE.{self.stream}.{name}"
        return await call(self.connection, verb, request, ConsumerState, permitted=True)

    async def _info(
        self, name: str, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS, *, permitted: bool = False
    ) -> ConsumerState:
        verb = f"CONSUMER.INFO.{self.stream}.{name}"
        return await call(
            self.connection, verb, {}, ConsumerState, timeout_seconds=timeout_seconds, permitted=permitted
        )

    def next_subject(self, name: str) -> str:
        """Where requests for events go."""
        return f"{API}.CONSUMER.MSG.NEXT.{self.stream}.{name}"


def _reset_labels(request: ResetRequest | None) -> dict[str, str]:
    return {_RESET_LABEL: str(request.after), _RESET_ID_LABEL: request.id} if request is not None else {}


def _config(spec: ConsumerSpec, labels: dict[str, str]) -> dict[str, Any]:
    if spec.plain:
        return _plain_config(spec, labels)
    return {
        "name": spec.name,
        "durable_name": spec.name,
        "description": "Jobledger: a subscription",
        # From the beginning, so that a reset may go anywhere; where it really begins stands in a label first.
        "deliver_policy": "all",
        "ack_policy": "all",
        "ack_wait": _FOR_EVER_NANOSECONDS,
        "max_deliver": -1,
        "max_ack_pending": CONSUMER_MAX_UNACKNOWLEDGED,
        "max_waiting": CONSUMER_MAX_WAITING,
        "replay_policy": "instant",
        "filter_subjects": list(spec.subjects),
        "metadata": labels,
        "priority_groups": [GROUP],
        "priority_policy": "pinned_client",
        "priority_timeout": int(PIN_SECONDS * NANOSECONDS),
    }


def _plain_config(spec: ConsumerSpec, labels: dict[str, str]) -> dict[str, Any]:
    """For any client of JetStream: one event at a time, delivered again until it is acknowledged."""
    return {
        "name": spec.name,
        "durable_name": spec.name,
        "description": "Jobledger: a subscription of a program in another language",
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(PLAIN_ACK_WAIT_SECONDS * NANOSECONDS),
        "max_deliver": -1,
        "max_ack_pending": 1,  # the next event comes when this one is acknowledged: order, also after a crash
        "max_waiting": CONSUMER_MAX_WAITING,
        "replay_policy": "instant",
        "filter_subjects": list(spec.subjects),
        "metadata": labels,
    }
