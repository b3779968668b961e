"""The JetStream API of durable consumers: pinned clients (NATS ADR-42), resets (ADR-60).

The client library lacks most of these fields. An acknowledgment covers all events before it, and the server
never delivers an event again by itself: the process that takes a consumer over resets it.
"""

from typing import Any, Final

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
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

GROUP: Final = "m"  # the only priority group of a consumer
_RESET_LABEL: Final = "jobledger.reset"  # the sequence after which a requested reset starts
_RESET_ID_LABEL: Final = "jobledger.reset.id"  # the id of that request
OURS_LABEL: Final = "jobledger"  # marks the consumers that Jobledger created

# Fields that decide what is delivered; the others may have the values of another release.
_ESSENTIAL: Final = ("filter_subjects", "deliver_policy", "ack_policy", "priority_groups", "priority_policy")

CONSUMER_NOT_FOUND: Final = 10014
CONSUMER_EXISTS: Final = 10148
_NO_REDELIVERY_NANOSECONDS: Final = 365 * 24 * 3_600 * NANOSECONDS_PER_SECOND


class ResetRequest(msgspec.Struct, frozen=True):
    """A requested reset.

    Only the service and operators write it, as labels of the consumer. The process that holds the consumer
    does it and writes its id into a note, one of the few entries that a subscriber may write. So a request is
    done once, whichever process holds the consumer, and its labels can be removed later.

    Attributes:
        id: unique.
        after: deliveries start again after this sequence.
    """

    id: str
    after: int


class _Position(msgspec.Struct, frozen=True):
    consumer_seq: int = 0
    stream_seq: int = 0


class _Group(msgspec.Struct, frozen=True):
    pinned_client_id: str = ""


class ConsumerState(msgspec.Struct, frozen=True):
    """A consumer as `CONSUMER.INFO`, `CREATE` and `RESET` describe it."""

    name: str = ""
    created: str = ""
    config: dict[str, Any] = {}
    delivered: _Position = _Position()
    ack_floor: _Position = _Position()
    num_ack_pending: int = 0
    num_waiting: int = 0
    num_pending: int = 0
    priority_groups: list[_Group] = []
    error: ApiError | None = None

    @property
    def pin(self) -> str:
        """The id of the pinned client; empty without one."""
        return self.priority_groups[0].pinned_client_id if self.priority_groups else ""

    @property
    def labels(self) -> dict[str, str]:
        """The consumer's metadata."""
        labels: dict[str, str] = self.config.get("metadata") or {}
        return labels

    @property
    def reset(self) -> ResetRequest | None:
        """The reset that was requested last; it may be completed."""
        text = self.labels.get(_RESET_LABEL, "")
        if not text.isdecimal():
            return None
        return ResetRequest(self.labels.get(_RESET_ID_LABEL, text), int(text))  # release 0.1 wrote no id

    def to_info(self) -> ConsumerInfo:
        """The same as a Struct of the port."""
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
    """Requests about the consumers of one stream."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self.connection = connection
        self.stream = stream
        self._notes = JetStreamKeyValue(connection, SUBSCRIPTIONS.name(stream))

    async def create(self, spec: ConsumerSpec) -> tuple[ConsumerState, ResetRequest | None]:
        """Returns the consumer of that name, created if it is missing.

        It is looked up first, so that a user without the right to create consumers can open an existing one.

        Returns:
            The consumer, and, if it was created here, the reset that moves it to its start.

        Raises:
            LogUnfit: the existing consumer delivers something else.
            LogNotPermitted: it is missing, and this user may not create it.
            LogError: it cannot be created.
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
            raise made.error.as_exception(f"creating the consumer {spec.name}")
        return made, request

    def _check(self, found: ConsumerState, spec: ConsumerSpec) -> None:
        """Refuses a consumer that delivers something else, or in another way."""
        if found.error is not None:
            return
        config = {**found.config, "filter_subjects": [*found.to_info().subjects]}
        expected = _config(spec, {})
        wrong = [
            f"{field} is {config.get(field)!r:.200} and must be {expected.get(field)!r:.200}"
            for field in _ESSENTIAL
            if config.get(field) != expected.get(field)
        ]
        if wrong:
            raise LogUnfit(
                f"the consumer {spec.name} of the stream {self.stream} does not belong to this subscription:"
                f" {'; '.join(wrong)}; use another name, or delete the consumer with"
                f" `nats consumer rm {self.stream} {spec.name}`"
            )

    async def request_reset(self, state: ConsumerState, request: ResetRequest | None) -> None:
        """Writes a requested reset into the consumer's metadata, in place of an earlier one; None removes it.

        Raises:
            LogError: the request failed.
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
        """Whether the note records that this reset is completed.

        Raises:
            LogError: the note cannot be read.
        """
        entry = await self._notes.get(note)
        return entry is not None and entry.value == request.id.encode()

    async def note_revision(self, note: str) -> int:
        """The revision of a note, which changes with every completed reset.

        Raises:
            LogError: the note cannot be read.
        """
        entry = await self._notes.get(note)
        return entry.revision if entry is not None else NO_ENTRY

    async def note_done(self, request: ResetRequest, note: str) -> None:
        """Records in the note that this reset is completed.

        Raises:
            LogError: the note cannot be written.
        """
        value = request.id.encode()
        for _ in range(READ_MAX_TRIES):
            entry = await self._notes.get(note)
            written = await self._notes.put(
                note, value, expect=entry.revision if entry is not None else NO_ENTRY
            )
            if written is not None and written.value == value:
                return
        raise LogUnavailable(f"the note {note} is written by others all the time; try again")

    async def last_event(self, state: ConsumerState) -> int:
        """The sequence of the last event of the log that matches a consumer's filters; 0 without one.

        Raises:
            LogUnavailable: the leader does not answer.
        """
        requests: list[dict[str, object]] = [
            {"last_by_subj": subject} for subject in state.to_info().subjects or (ALL_SUBJECTS,)
        ]
        found = [await leader_get(self.connection, self.stream, request) for request in requests]
        return max((message.seq for message in found if message is not None), default=0)

    async def info(
        self, name: str, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS, permitted: bool = False
    ) -> ConsumerState | None:
        """Returns a consumer as its leader has it; None without one.

        Args:
            name: of the consumer.
            timeout_seconds: for the answer.
            permitted: as for `call`.

        Raises:
            LogNotPermitted: `permitted` is set, and the NATS user lacks the right.
            LogUnavailable: there is no answer, or no stream.
        """
        state = await self._info(name, timeout_seconds, permitted=permitted)
        if state.error is None:
            return state
        if state.error.err_code == CONSUMER_NOT_FOUND:
            return None
        # The consumer may be missing because its stream is: then `log_info` raises the right error.
        log_info(await stream_info(self.connection, self.stream), self.stream)
        raise state.error.as_exception(f"the consumer {name}")

    async def missing(self, name: str, epoch: str) -> Exception:
        """Returns the error to raise for a consumer that existed and is missing."""
        info = log_info(await stream_info(self.connection, self.stream), self.stream)
        if info.epoch != epoch:
            return LogReplaced(
                f"the stream {self.stream} was deleted and created again (epoch {epoch}, now {info.epoch}),"
                f" and the subscription's consumer {name} with it: its sequences now mean other events; open"
                " the subscription again to start over, or restore the stream from a backup"
            )
        return SubscriptionDeleted(
            f"the consumer {name} of the stream {self.stream} was deleted, and with it the subscription's"
            " position; open the subscription again to begin from its start"
        )

    async def reset(self, name: str, *, after: int | None) -> ConsumerState:
        """Makes deliveries start again after a sequence; None: after the acknowledged position.

        Raises:
            LogError: the request failed.
        """
        request = {} if after is None else {"seq": after + 1}
        verb = f"CONSUMER.RESET.{self.stream}.{name}"
        state = await call(self.connection, verb, request, ConsumerState)
        if state.error is not None:
            raise state.error.as_exception(f"resetting the consumer {name}")
        return state

    async def unpin(self, name: str) -> None:
        """Ends the pin, so that the next request that waits gets the consumer.

        Raises:
            LogError: the request failed.
        """
        verb = f"CONSUMER.UNPIN.{self.stream}.{name}"
        done = await call(self.connection, verb, {"group": GROUP}, _Done)
        if done.error is not None:
            raise done.error.as_exception(f"unpinning the consumer {name}")

    async def delete(self, name: str) -> bool:
        """Deletes a consumer; False if there was none.

        Raises:
            LogError: the request failed.
        """
        done = await call(self.connection, f"CONSUMER.DELETE.{self.stream}.{name}", {}, _Done)
        if done.error is not None and done.error.err_code != CONSUMER_NOT_FOUND:
            raise done.error.as_exception(f"deleting the consumer {name}")
        return done.success

    async def list(self) -> list[ConsumerState]:
        """Returns the consumers that Jobledger created, at most CONSUMERS_MAX.

        Raises:
            LogError: the request failed.
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


def _reset_labels(request: ResetRequest | None) -> dict[str, str]:
    return {_RESET_LABEL: str(request.after), _RESET_ID_LABEL: request.id} if request is not None else {}


def _config(spec: ConsumerSpec, labels: dict[str, str]) -> dict[str, Any]:
    if spec.plain:
        return _plain_config(spec, labels)
    return {
        "name": spec.name,
        "durable_name": spec.name,
        "description": "Jobledger: a subscription",
        # All, so that a reset can go anywhere; a label holds the real start until the first reset.
        "deliver_policy": "all",
        "ack_policy": "all",
        "ack_wait": _NO_REDELIVERY_NANOSECONDS,
        "max_deliver": -1,
        "max_ack_pending": CONSUMER_MAX_UNACKNOWLEDGED,
        "max_waiting": CONSUMER_MAX_WAITING,
        "replay_policy": "instant",
        "filter_subjects": list(spec.subjects),
        "metadata": labels,
        "priority_groups": [GROUP],
        "priority_policy": "pinned_client",
        "priority_timeout": int(PIN_SECONDS * NANOSECONDS_PER_SECOND),
    }


def _plain_config(spec: ConsumerSpec, labels: dict[str, str]) -> dict[str, Any]:
    """For any JetStream client: one event at a time, delivered again until it is acknowledged."""
    return {
        "name": spec.name,
        "durable_name": spec.name,
        "description": "Jobledger: a subscription of a program in another language",
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": int(PLAIN_ACK_WAIT_SECONDS * NANOSECONDS_PER_SECOND),
        "max_deliver": -1,
        "max_ack_pending": 1,  # keeps the order of events, also after a crash
        "max_waiting": CONSUMER_MAX_WAITING,
        "replay_policy": "instant",
        "filter_subjects": list(spec.subjects),
        "metadata": labels,
    }
