"""Holds a durable consumer: waits for the pin, takes over, and keeps proving that this process has it.

    waiting ──pinned──► taking over (proof, reset) ──► held ──► held …
       ▲                        ▲                        │ │
       │                        └── a gap in the numbers ┘ │
       └── another client has it, a lost connection, no proof ┘

`projections/subscriptions/DESIGN.md` explains why this is enough.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from jobledger.store.backoff import Backoff
from jobledger.store.consumer import ConsumerInfo, ConsumerListener, Delivery
from jobledger.store.jetstream.consumer.api import GROUP, ConsumerApi, ConsumerState, ResetRequest
from jobledger.store.jetstream.consumer.pin import (
    ForcedDelivery,
    PinRequest,
    force_delivery,
    purge_stale_pulls,
    yield_pin,
)
from jobledger.store.jetstream.pull_session import PinnedSession
from jobledger.store.lease import lease_clock
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.limits import (
    HOLD_CHECK_SECONDS,
    HOLD_CHECK_TIMEOUT_SECONDS,
    PIN_MARGIN_SECONDS,
    PIN_SECONDS,
    RELEASE_WAIT_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
    RETRY_WAIT_SECONDS,
    YIELD_PIN_SECONDS,
)


class _Lost(Exception):
    """This process does not have the pin any more."""


class AckTracker:
    """Which events of a consumer are handled: as this process knows, and as it acknowledged to the server.

    Attributes:
        sequence: all events up to here are handled, as far as this process knows.
        sent: the same, as acknowledged last.
        seen: the server's own position, as last seen.
    """

    def __init__(self) -> None:
        self.sequence = self.sent = self.seen = 0
        self._token = ""  # acknowledges `sequence`; empty: nothing to acknowledge
        self._behind = 0  # consecutive checks that found the server behind what was acknowledged

    def begin(self, sequence: int) -> None:
        """Deliveries start again after a sequence."""
        self.sequence = self.sent = self.seen = sequence
        self._token, self._behind = "", 0

    def mark_handled(self, delivery: Delivery) -> None:
        """All events up to this one are handled."""
        self.sequence, self._token = delivery.sequence, delivery.token

    def forget(self) -> None:
        """Another process may have the consumer now: nothing more is acknowledged."""
        self._token = ""

    @property
    def has_pending(self) -> bool:
        """Whether there is something to acknowledge."""
        return bool(self._token)

    def take(self) -> str:
        """Returns the acknowledgment to send, which counts as sent."""
        token, self._token, self.sent = self._token, "", self.sequence
        return token

    def has_diverged(self, position: int, *, sent: int) -> bool:
        """Whether the server's position contradicts what this process handled and acknowledged.

        The server is ahead: another process acknowledged, one that was asleep for example. Or it is behind in
        two consecutive checks, which is more than an acknowledgment under way.

        Args:
            position: the server's.
            sent: what had been acknowledged before the server was asked.
        """
        self.seen = position
        self._behind = self._behind + 1 if position < sent else 0
        return position > self.sequence or self._behind > 1


class JetStreamConsumer:
    """`DurableConsumer` on JetStream; returned by `JetStreamConsumers.open`."""

    def __init__(
        self, api: ConsumerApi, name: str, *, note: str, epoch: str, max_events: int, max_bytes: int
    ) -> None:
        self._api = api
        self._connection = api.connection
        self._name = name
        self._note = note
        self._epoch = epoch
        self._limits = (max_events, max_bytes)
        self._forced: ForcedDelivery | None = None  # this process requested an event, to get the pin
        self._done_reset = ""  # the id of the last reset that is known to be completed
        self._session: PinnedSession | None = None  # None while the consumer is not held
        self._pin_request: PinRequest | None = None  # while it is waited for
        self._pin = ""
        self._pin_expires_at = 0.0  # no other client can have the pin until then
        self._acks = AckTracker()
        self._missing_at = -1  # deliveries received when the server had sent more; -1: it had not
        self._others = 0  # pull requests of other processes
        self._attention = asyncio.Event()
        self._is_leaving = False
        self._yields_at = 0.0  # not sooner, even if at quota
        self._is_up = True
        self._task: asyncio.Task[None] | None = None
        self.lease_expires_at = 0.0
        self.claim_idle = self.at_quota = False
        self.info = ConsumerInfo(name=name)
        self.error: LogError | None = None

    # --- the reader's side ----------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """See `DurableConsumer.held`."""
        return self._session is not None

    @property
    def connected(self) -> bool:
        """See `DurableConsumer.connected`."""
        return self._is_up and self._connection.is_up

    @property
    def others_waiting(self) -> int:
        """See `DurableConsumer.others_waiting`."""
        return self._others

    @property
    def buffered(self) -> int:
        """See `DurableConsumer.buffered`."""
        return len(self._session) if self._session is not None else 0

    @property
    def pending(self) -> int:
        """See `DurableConsumer.pending`."""
        return self._session.pending if self._session is not None else self.info.pending

    async def start(self, listener: ConsumerListener) -> None:
        """See `DurableConsumer.start`."""
        self._listener = listener
        self._connection.watch(self._on_connection)
        self._task = asyncio.create_task(self._run())

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """See `DurableConsumer.take`."""
        return self._session.take(max_events, max_bytes) if self._session is not None else ()

    async def replenish(self) -> None:
        """See `DurableConsumer.replenish`."""
        if self._session is not None:
            await self._session.pull()

    def mark_handled(self, delivery: Delivery) -> None:
        """See `DurableConsumer.mark_handled`."""
        self._acks.mark_handled(delivery)

    async def acknowledge(self) -> None:
        """See `DurableConsumer.acknowledge`."""
        if self._acks.has_pending and lease_clock() < self.lease_expires_at:
            await self._connection.publish(self._acks.take(), b"")

    def release(self) -> None:
        """See `DurableConsumer.release`."""
        if self._session is not None:
            self._is_leaving = True
            self.lease_expires_at = 0.0
            self._attention.set()

    async def close(self) -> None:
        """See `DurableConsumer.close`."""
        self._connection.unwatch(self._on_connection)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(LogError):
            await self._unpin()
            await self._return_late_pin()
        await self._drop()
        with suppress(LogError):
            await purge_stale_pulls(self._api, self._name)

    # --- the loop -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        backoff = Backoff(RETRY_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS)
        try:
            while True:
                try:
                    await self._wait()
                    await self._hold()
                except _Lost:
                    await self._lose()
                except LogUnavailable:
                    await self._lose()
                    self._is_up = False
                    self._listener.on_change()
                    await backoff.sleep()
                    continue
                backoff.reset()
        except LogError as error:
            await self._fail(error)
        except Exception as error:  # noqa: BLE001 - the reader must learn of every error
            broken = LogError(f"reading the consumer {self._name} failed: {error!r}")
            broken.__cause__ = error
            await self._fail(broken)

    async def _wait(self) -> None:
        """Waits until this client is pinned."""
        if self._is_leaving:
            self._is_leaving = False
            await asyncio.sleep(RELEASE_WAIT_SECONDS)
        await self._connection.wait_up(REQUEST_TIMEOUT_SECONDS)
        clock = asyncio.get_running_loop().time
        while True:
            self._pin_request = PinRequest(self._api, self._name)
            self._pin = await self._pin_request.wait(self._look_while_waiting)
            await self._pin_request.close()
            if not self.at_quota or clock() < self._yields_at:
                return
            self._yields_at = clock() + YIELD_PIN_SECONDS
            await yield_pin(self._api, self._name, self._pin)

    async def _hold(self) -> None:
        """Takes over, and keeps the consumer until it is lost."""
        session = await self._begin(kept=False)
        clock = asyncio.get_running_loop().time
        check_at = clock() + HOLD_CHECK_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, check_at - clock())):
                    await self._attention.wait()
            self._attention.clear()
            if self._is_leaving:
                await self._unpin()
                raise _Lost
            if session.is_superseded:
                raise _Lost
            if session.failure:
                session = await self._recover(session)
            elif clock() >= check_at:
                session = await self._check(session)
            else:  # a request ended
                await session.pull()
                continue
            check_at = clock() + HOLD_CHECK_SECONDS

    async def _recover(self, session: PinnedSession) -> PinnedSession:
        """Starts again after a gap, or after a connection that was lost for a moment."""
        self.lease_expires_at = 0.0
        await self._connection.wait_up(PIN_SECONDS)
        if not session.is_disconnected and not session.received:
            await self._take_again()
        state = await self._fetch_state()
        # The server's position moved back without a lost connection: an operator has reset it directly.
        by_hand = not session.is_disconnected and state.ack_floor.stream_seq < self._acks.seen
        return await self._begin(kept=not by_hand)

    async def _check(self, session: PinnedSession) -> PinnedSession:
        """Proves that this process has the consumer, and that the server has what was acknowledged."""
        sent = self._acks.sent
        state = await self._prove(session)
        if await self._requested_reset(state) is not None:
            return await self._begin(kept=False)
        if self._is_missing(session, state):
            await self._take_again()
        if self._acks.has_diverged(state.ack_floor.stream_seq, sent=sent):
            return await self._begin(kept=True)
        await self.acknowledge()
        await session.pull()
        return session

    def _is_missing(self, session: PinnedSession, state: ConsumerState) -> bool:
        """Whether deliveries go elsewhere: in two consecutive checks the server had sent more than came."""
        received, before = session.received, self._missing_at
        self._missing_at = received if state.delivered.consumer_seq > received else -1
        return self._missing_at >= 0 and self._missing_at == before

    async def _take_again(self) -> NoReturn:
        """Gives the consumer back and waits for it again, so that requests of closed inboxes are void.

        Through a service import the server does not notice for seconds that an inbox was closed, and may send
        events to a request that waits there. It answers no request with the id of an earlier pin.

        Raises:
            _Lost: always.
        """
        await self._unpin()
        raise _Lost

    async def _prove(self, session: PinnedSession) -> ConsumerState:
        """Extends the lease.

        Raises:
            _Lost: another client has the pin, or none has.
        """
        sent_at = lease_clock()
        if not await session.renew(HOLD_CHECK_TIMEOUT_SECONDS):
            raise _Lost
        state = await self._fetch_state()
        if state.pin != self._pin:
            raise _Lost
        self._pin_expires_at = sent_at + PIN_SECONDS - PIN_MARGIN_SECONDS
        if not self._is_leaving and session is self._session and not session.failure:
            self.lease_expires_at = self._pin_expires_at
        return state

    async def _begin(self, *, kept: bool) -> PinnedSession:
        """Resets the consumer, and reads it in an inbox of its own.

        Args:
            kept: continue after what was handled here; otherwise at the server's position.
        """
        await self._drop()
        session = PinnedSession(
            self._connection, self._pin, group=GROUP, limits=self._limits, on_change=self._on_change
        )
        await session.open(self._api.stream, self._name)
        try:
            state = await self._prove(session)
            request = await self._requested_reset(state)
            kept = kept and request is None
            after = request.after if request is not None else self._acks.sequence if kept else None
            forced, self._forced = self._forced, None
            if (
                forced is not None
                and after is None
                and forced.reset_to == state.ack_floor.stream_seq
                and forced.note == await self._api.note_revision(self._note)
            ):
                after = forced.acknowledged  # the event that brought the pin was handled before
            reset = await self._api.reset(self._name, after=after)
            if request is not None:
                await self._api.note_done(request, self._note)
                self._done_reset = request.id
        except BaseException:
            await session.close()
            raise
        self._acks.begin(reset.ack_floor.stream_seq)
        self._missing_at = -1
        session.pending = reset.num_pending
        self._session = session
        self._listener.on_reset(position=self._acks.sequence, kept=kept)
        self.lease_expires_at = 0.0 if self._is_leaving else self._pin_expires_at
        await session.pull()
        return session

    async def _requested_reset(self, state: ConsumerState) -> ResetRequest | None:
        """The reset that was requested and is not completed yet."""
        request = state.reset
        if request is None or request.id == self._done_reset:
            return None
        if not await self._api.is_done(request, self._note):
            return request
        self._done_reset = request.id
        return None

    async def _fetch_state(self) -> ConsumerState:
        """The consumer as it is now.

        Raises:
            LogError: it is missing.
        """
        own = self._own_requests
        state = await self._api.info(self._name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
        if state is None:
            raise await self._api.missing(self._name, self._epoch)
        # If the own request started or ended in between: rather one too few than one too many, which would
        # make this process give the consumer away without a successor.
        self._others = max(0, state.num_waiting - max(own, self._own_requests))
        self.info = state.to_info()
        self._is_up = True
        self._listener.on_change()
        return state

    @property
    def _own_requests(self) -> int:
        """Own requests for events that wait at the server."""
        return self._session.requests if self._session is not None else 0

    async def _look_while_waiting(self) -> None:
        state = await self._fetch_state()
        forced = await force_delivery(self._api, state, self._note, claim_idle=self.claim_idle)
        self._forced = forced or self._forced

    async def _unpin(self) -> None:
        """Acknowledges, and gives the consumer to another process; only while the pin is certain."""
        if self._session is None or lease_clock() >= self._pin_expires_at:
            return
        # Once: a second time would end the hold of another process.
        self.lease_expires_at = self._pin_expires_at = 0.0
        if self._acks.has_pending:
            # As a request, so that the acknowledgment arrives before another process starts.
            with suppress(LogError):
                await self._connection.request(
                    self._acks.take(), b"", timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS
                )
        await self._api.unpin(self._name)

    async def _return_late_pin(self) -> None:
        """Gives back a pin that arrived, or was on its way, when it was no longer needed."""
        if self._session is not None or not self._connection.is_up:
            return
        others, pin = self.info.holder, self._pin
        state = await self._api.info(self._name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
        if state is not None and self._pin_request is not None and (not state.pin or state.pin != others):
            wait_seconds = RETRY_MAX_WAIT_SECONDS if state.num_pending else 0.0
            pin = await self._pin_request.wait_for_late_pin(wait_seconds)
            state = await self._api.info(self._name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
        if state is not None and state.pin and state.pin == pin:
            await self._api.unpin(self._name)

    async def _lose(self) -> None:
        """Makes all events void that were taken."""
        await self._drop()
        self._acks.forget()
        self._pin_expires_at = 0.0
        self._listener.on_reset(position=self._acks.sequence, kept=False)

    async def _fail(self, error: LogError) -> None:
        self.error = error
        await self._lose()
        self._listener.on_change()

    async def _drop(self) -> None:
        session, self._session = self._session, None
        pin_request, self._pin_request = self._pin_request, None
        self.lease_expires_at = 0.0
        if session is not None:
            await session.close()
        if pin_request is not None:
            await pin_request.close()

    def _on_change(self, is_urgent: bool) -> None:
        if is_urgent:
            self._attention.set()
        self._listener.on_change()

    def _on_connection(self, _up: bool) -> None:
        self.lease_expires_at = 0.0  # nothing more is handled until the pin is proven
        if self._session is not None:
            self._session.disconnect()
        self._attention.set()
        self._listener.on_change()
