"""The API of durable consumers in its own messages: the client library lacks most of these fields.

NATS ADR-42 (pinned clients), ADR-60 (reset). Acknowledging one event acknowledges all before it, and the
server never delivers again by itself: whoever takes a consumer over resets it.
"""

from typing import Any

import msgspec

from jobledger.store.consumers import ConsumerInfo, ConsumerSpec
from jobledger.store.errors import LogReplaced, LogUnfit, SubscriptionDeleted
from jobledger.store.jetstream.api import API, ApiError, call
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.stream import log_info, stream_info
from jobledger.store.limits import (
    CONSUMER_MAX_UNACKNOWLEDGED,
    CONSUMER_MAX_WAITING,
    CONSUMERS_MAX,
    PIN_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
)

GROUP = "m"  # the one priority group that our consumers have
RESET_LABEL = "jobledger.reset"  # the sequence after which to begin anew, until somebody has done so
OURS_LABEL = "jobledger"  # every consumer of ours carries it

# What a consumer can't be read without, as it is meant: the rest may be of another release.
_ESSENTIAL = ("filter_subjects", "deliver_policy", "ack_policy", "priority_groups", "priority_policy")

CONSUMER_NOT_FOUND = 10014
CONSUMER_EXISTS = 10148
NANOSECONDS = 1_000_000_000
_FOR_EVER_NANOSECONDS = 365 * 24 * 3_600 * NANOSECONDS  # redelivery by the clock is not wanted


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
    def reset_to(self) -> int | None:
        """Where somebody wants it to begin anew."""
        text = self.labels.get(RESET_LABEL, "")
        return int(text) if text.isdecimal() else None

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
            reset_to=self.reset_to,
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

    async def create(self, spec: ConsumerSpec) -> ConsumerState:
        """Make a consumer; the one that is there, if one of the name is.

        Raises:
            LogUnfit: if that one is another one's.
            LogError: if it can't be made.
        """
        labels = {OURS_LABEL: "", **spec.labels}
        if spec.after:
            labels[RESET_LABEL] = str(spec.after)
        made = await self._create(spec.name, _config(spec, labels), "create")
        if made.error is not None and made.error.err_code == CONSUMER_EXISTS:
            made = await self._info(spec.name)
            self._check(made, spec)
        if made.error is not None:
            raise made.error.as_exception(f"making the consumer {spec.name}")
        return made

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
            f"{field} is {config.get(field)!r:.200} and must be {wanted[field]!r:.200}"
            for field in _ESSENTIAL
            if config.get(field) != wanted[field]
        ]
        if wrong:
            raise LogUnfit(
                f"the stream {self.stream} has a consumer {spec.name} that is not this subscription's:"
                f" {'; '.join(wrong)}. Take another name, or delete it with"
                f" `nats consumer rm {self.stream} {spec.name}`"
            )

    async def label(self, state: ConsumerState, labels: dict[str, str]) -> None:
        """Put other labels beside a consumer.

        Raises:
            LogError: if that can't be done.
        """
        kept = {key: value for key, value in labels.items() if not key.startswith("_nats.")}
        made = await self._create(state.name, {**state.config, "metadata": kept}, "update")
        if made.error is not None:
            raise made.error.as_exception(f"changing the consumer {state.name}")

    async def info(
        self, name: str, *, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS
    ) -> ConsumerState | None:
        """A consumer as its leader has it; None if there is none.

        Raises:
            LogUnavailable: if there is no answer, or no stream.
        """
        state = await self._info(name, timeout_seconds)
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
        return await call(self.connection, verb, request, ConsumerState)

    async def _info(self, name: str, timeout_seconds: float = REQUEST_TIMEOUT_SECONDS) -> ConsumerState:
        verb = f"CONSUMER.INFO.{self.stream}.{name}"
        return await call(self.connection, verb, {}, ConsumerState, timeout_seconds=timeout_seconds)

    def next_subject(self, name: str) -> str:
        """Where requests for events go."""
        return f"{API}.CONSUMER.MSG.NEXT.{self.stream}.{name}"


def _config(spec: ConsumerSpec, labels: dict[str, str]) -> dict[str, Any]:
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
