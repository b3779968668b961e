"""Holding a durable consumer: waiting for the pin, taking over, proving again and again that it is ours.

    waiting ──pinned──► taking over (proof, reset) ──► held ──► held …
       ▲                        ▲                        │ │
       │                        └── a gap in the numbers ┘ │
       └── another one has it, a lost connection, no proof ┘

See DESIGN.md in `projections/subscriptions` for why this is enough.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from jobledger.store.consumer import ConsumerInfo, ConsumerListener, Delivery
from jobledger.store.jetstream.consumer.api import ConsumerApi, ConsumerState, ResetRequest
from jobledger.store.jetstream.consumer.deliveries import Deliveries
from jobledger.store.jetstream.consumer.pin import (
    Awakened,
    Line,
    force_delivery,
    purge_stale_pulls,
    yield_pin,
)
from jobledger.store.lease import lease_clock
from jobledger.store.model.errors import LogError, LogUnavailable
from jobledger.store.model.limits import (
    HOLD_CHECK_SECONDS,
    HOLD_CHECK_TIMEOUT_SECONDS,
    LET_GO_WAIT_SECONDS,
    PASS_ON_SECONDS,
    PIN_MARGIN_SECONDS,
    PIN_SECONDS,
    REQUEST_TIMEOUT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
    RETRY_WAIT_SECONDS,
)


class AckTracker:
    """The place of one consumer in one process.

    Attributes:
        sequence: all up to here is handled, as far as this process knows.
        told: the same, as the server was told last.
        seen: the server's own place, as last seen.
    """

    def __init__(self) -> None:
        self.sequence = self.told = self.seen = 0
        self._token = ""  # acknowledges the sequence; empty: nothing to acknowledge
        self._behind = 0  # looks in a row that found the server behind what it was told

    def begin(self, sequence: int) -> None:
        """Deliveries begin anew behind a sequence."""
        self.sequence = self.told = self.seen = sequence
        self._token, self._behind = "", 0

    def handled(self, delivery: Delivery) -> None:
        """All up to this one is handled."""
        self.sequence, self._token = delivery.sequence, delivery.token

    def forget(self) -> None:
        """Somebody else may have it now: nothing more is to be acknowledged."""
        self._token = ""

    @property
    def has_pending(self) -> bool:
        """Whether there is something to acknowledge."""
        return bool(self._token)

    def tell(self) -> str:
        """What to send to the server; it counts as told."""
        token, self._token, self.told = self._token, "", self.sequence
        return token

    def has_diverged(self, place: int, *, told: int) -> bool:
        """Whether the server's place is not what this process makes of it.

        A process that was asleep has acknowledged: the server is ahead of us, or it does not follow any more.
        The latter seen twice is no matter of a moment.

        Args:
            place: the server's.
            told: what it had been told before it was asked.
        """
        self.seen = place
        self._behind = self._behind + 1 if place < told else 0
        return place > self.sequence or self._behind > 1


class _Lost(Exception):
    """The pin is not ours any more."""


class JetStreamConsumer:
    """`DurableConsumer` on JetStream; made by `JetStreamConsumers.open`."""

    def __init__(
        self, api: ConsumerApi, name: str, *, note: str, epoch: str, max_events: int, max_bytes: int
    ) -> None:
        self._api = api
        self._connection = api.connection
        self._name = name
        self._note = note
        self._awakened: Awakened | None = None  # this process asked for an event, to be given the pin
        self._done = ""  # the id of the last reset that is known to be done
        self._epoch = epoch
        self._limits = (max_events, max_bytes)
        self._deliveries: Deliveries | None = None  # of the present turn; None while it is not held
        self._line: Line | None = None  # while it is waited for
        self._pin = ""
        self._lease = 0.0  # until when nobody else can have the pin
        self._place = AckTracker()
        self._seen_missing = -1  # deliveries received when the server had sent more; -1: it had not
        self._others = 0  # other processes' requests that wait
        self._attention = asyncio.Event()
        self._leaving = False
        self._passes_on_at = 0.0  # not sooner, however sated
        self._is_up = True
        self._task: asyncio.Task[None] | None = None
        self.until = 0.0
        self.wanted = self.at_quota = False
        self.info = ConsumerInfo(name=name)
        self.error: LogError | None = None

    # --- what the reader asks -------------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """See `DurableConsumer.held`."""
        return self._deliveries is not None

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
        return len(self._deliveries) if self._deliveries is not None else 0

    @property
    def pending(self) -> int:
        """See `DurableConsumer.pending`."""
        return self._deliveries.pending if self._deliveries is not None else self.info.pending

    async def start(self, hearer: ConsumerListener) -> None:
        """See `DurableConsumer.start`."""
        self._hearer = hearer
        self._connection.watch(self._on_connection)
        self._task = asyncio.create_task(self._run())

    def take(self, max_events: int, max_bytes: int) -> Sequence[Delivery]:
        """See `DurableConsumer.take`."""
        return self._deliveries.take(max_events, max_bytes) if self._deliveries is not None else ()

    async def replenish(self) -> None:
        """See `DurableConsumer.replenish`."""
        if self._deliveries is not None:
            await self._deliveries.pull()

    def handled(self, delivery: Delivery) -> None:
        """See `DurableConsumer.handled`."""
        self._place.handled(delivery)

    async def acknowledge(self) -> None:
        """See `DurableConsumer.acknowledge`."""
        if self._place.has_pending and lease_clock() < self.until:
            await self._connection.publish(self._place.tell(), b"")

    def let_go(self) -> None:
        """See `DurableConsumer.let_go`."""
        if self._deliveries is not None:
            self._leaving = True
            self.until = 0.0
            self._attention.set()

    async def close(self) -> None:
        """See `DurableConsumer.close`."""
        self._connection.unwatch(self._on_connection)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        with suppress(LogError):
            await self._release()
            await self._give_back()
        await self._drop()
        with suppress(LogError):
            await purge_stale_pulls(self._api, self._name)

    # --- the loop -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        wait_seconds = RETRY_WAIT_SECONDS
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
                    self._hearer.news()
                    await asyncio.sleep(wait_seconds)
                    wait_seconds = min(2 * wait_seconds, RETRY_MAX_WAIT_SECONDS)
                    continue
                wait_seconds = RETRY_WAIT_SECONDS
        except LogError as error:
            await self._fail(error)
        except Exception as error:  # noqa: BLE001 - whatever it is, the reader must hear of it
            broken = LogError(f"reading the consumer {self._name} broke: {error!r}")
            broken.__cause__ = error
            await self._fail(broken)

    async def _wait(self) -> None:
        """Wait until this client is pinned."""
        if self._leaving:
            self._leaving = False
            await asyncio.sleep(LET_GO_WAIT_SECONDS)
        await self._connection.wait_up(REQUEST_TIMEOUT_SECONDS)
        clock = asyncio.get_running_loop().time
        while True:
            self._line = Line(self._api, self._name)
            self._pin = await self._line.wait(self._look_while_waiting)
            await self._line.close()
            if not self.at_quota or clock() < self._passes_on_at:
                return
            self._passes_on_at = clock() + PASS_ON_SECONDS
            await yield_pin(self._api, self._name, self._pin)

    async def _hold(self) -> None:
        """Take over, and keep it until it is lost."""
        deliveries = await self._begin(kept=False)
        clock = asyncio.get_running_loop().time
        check_at = clock() + HOLD_CHECK_SECONDS
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, check_at - clock())):
                    await self._attention.wait()
            self._attention.clear()
            if self._leaving:
                await self._release()
                raise _Lost
            if deliveries.lost:
                raise _Lost
            if deliveries.trouble:
                deliveries = await self._mend(deliveries)
            elif clock() >= check_at:
                deliveries = await self._check(deliveries)
            else:  # a request came to its end
                await deliveries.pull()
                continue
            check_at = clock() + HOLD_CHECK_SECONDS

    async def _mend(self, deliveries: Deliveries) -> Deliveries:
        """Begin anew after a gap, or a connection that was lost for a moment."""
        self.until = 0.0
        await self._connection.wait_up(PIN_SECONDS)
        if not deliveries.broken and not deliveries.received:
            await self._let_others_begin()
        state = await self._look()
        # The server's place went back, and with no connection lost: somebody has reset it by hand.
        by_hand = not deliveries.broken and state.ack_floor.stream_seq < self._place.seen
        return await self._begin(kept=not by_hand)

    async def _check(self, deliveries: Deliveries) -> Deliveries:
        """Prove that the consumer is still ours, and see that the server's place is what was acknowledged."""
        told = self._place.told
        state = await self._prove(deliveries)
        if await self._reset_wanted(state) is not None:
            return await self._begin(kept=False)
        if self._is_missing(deliveries, state):
            await self._let_others_begin()
        if self._place.has_diverged(state.ack_floor.stream_seq, told=told):
            return await self._begin(kept=True)
        await self.acknowledge()
        await deliveries.pull()
        return deliveries

    def _is_missing(self, deliveries: Deliveries, state: ConsumerState) -> bool:
        """Whether what the server sent goes elsewhere: at two looks in a row it had sent more than came."""
        received, before = deliveries.received, self._seen_missing
        self._seen_missing = received if state.delivered.consumer_seq > received else -1
        return self._seen_missing >= 0 and self._seen_missing == before

    async def _let_others_begin(self) -> NoReturn:
        """Give the consumer back and take it again, so that requests of closed inboxes count no more.

        Through a service import the server does not see for seconds that an inbox was closed, and may send
        events to a request that waits there. It answers no request that names a former pin.

        Raises:
            _Lost: always.
        """
        await self._release()
        raise _Lost

    async def _prove(self, deliveries: Deliveries) -> ConsumerState:
        """Move the lease on.

        Raises:
            _Lost: if another one has the pin, or nobody.
        """
        sent = lease_clock()
        if not await deliveries.renew(HOLD_CHECK_TIMEOUT_SECONDS):
            raise _Lost
        state = await self._look()
        if state.pin != self._pin:
            raise _Lost
        self._lease = sent + PIN_SECONDS - PIN_MARGIN_SECONDS
        if not self._leaving and deliveries is self._deliveries and not deliveries.trouble:
            self.until = self._lease
        return state

    async def _begin(self, *, kept: bool) -> Deliveries:
        """Reset the consumer, and read it in an inbox of its own.

        Args:
            kept: whether to go on behind what was handled here; otherwise where the server says.
        """
        await self._drop()
        deliveries = await Deliveries(
            self._api, self._name, self._pin, limits=self._limits, on_news=self._on_news
        ).open()
        try:
            state = await self._prove(deliveries)
            wanted = await self._reset_wanted(state)
            kept = kept and wanted is None
            place = wanted.after if wanted is not None else self._place.sequence if kept else None
            awakened, self._awakened = self._awakened, None
            if (
                awakened is not None
                and place is None
                and awakened.left_at == state.ack_floor.stream_seq
                and awakened.note == await self._api.note_revision(self._note)
            ):
                place = awakened.place  # the event that brought the pin was handled before
            reset = await self._api.reset(self._name, after=place)
            if wanted is not None:
                await self._api.note_done(wanted, self._note)
                self._done = wanted.id
        except BaseException:
            await deliveries.close()
            raise
        self._place.begin(reset.ack_floor.stream_seq)
        self._seen_missing = -1
        deliveries.pending = reset.num_pending
        self._deliveries = deliveries
        self._hearer.on_reset(place=self._place.sequence, kept=kept)
        self.until = 0.0 if self._leaving else self._lease
        await deliveries.pull()
        return deliveries

    async def _reset_wanted(self, state: ConsumerState) -> ResetRequest | None:
        """The reset that was asked for and is not done yet."""
        request = state.reset
        if request is None or request.id == self._done:
            return None
        if not await self._api.is_done(request, self._note):
            return request
        self._done = request.id
        return None

    async def _look(self) -> ConsumerState:
        """The consumer as it is now.

        Raises:
            LogError: if it is gone.
        """
        own = self._requests
        state = await self._api.info(self._name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
        if state is None:
            raise await self._api.missing(self._name, self._epoch)
        # If our own one came or went meanwhile: rather one too few than one too many, who would be let in.
        self._others = max(0, state.num_waiting - max(own, self._requests))
        self.info = state.told()
        self._is_up = True
        self._hearer.news()
        return state

    @property
    def _requests(self) -> int:
        """Own requests for events that wait at the server."""
        return self._deliveries.requests if self._deliveries is not None else 0

    async def _look_while_waiting(self) -> None:
        state = await self._look()
        self._awakened = (
            await force_delivery(self._api, state, self._note, wanted=self.wanted) or self._awakened
        )

    async def _release(self) -> None:
        """Acknowledge, and let another one have it; only while the lease runs."""
        if self._deliveries is None or lease_clock() >= self._lease:
            return
        self.until = self._lease = 0.0  # once: by the second time it would be another one's hold that ends
        if self._place.has_pending:
            # With an answer, so that it is not overtaken by what makes another process begin.
            with suppress(LogError):
                await self._connection.request(
                    self._place.tell(), b"", timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS
                )
        await self._api.unpin(self._name)

    async def _give_back(self) -> None:
        """Give back a pin that came, or was coming, when nobody wanted it any more."""
        if self._deliveries is not None or not self._connection.is_up:
            return
        others, pin = self.info.holder, self._pin
        state = await self._api.info(self._name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
        if state is not None and self._line is not None and (not state.pin or state.pin != others):
            pin = await self._line.last_word(seconds=RETRY_MAX_WAIT_SECONDS if state.num_pending else 0.0)
            state = await self._api.info(self._name, timeout_seconds=HOLD_CHECK_TIMEOUT_SECONDS)
        if state is not None and state.pin and state.pin == pin:
            await self._api.unpin(self._name)

    async def _lose(self) -> None:
        """Nothing that was taken counts any more."""
        await self._drop()
        self._place.forget()
        self._lease = 0.0
        self._hearer.on_reset(place=self._place.sequence, kept=False)

    async def _fail(self, error: LogError) -> None:
        self.error = error
        await self._lose()
        self._hearer.news()

    async def _drop(self) -> None:
        deliveries, self._deliveries = self._deliveries, None
        line, self._line = self._line, None
        self.until = 0.0
        if deliveries is not None:
            await deliveries.close()
        if line is not None:
            await line.close()

    def _on_news(self, urgent: bool) -> None:
        if urgent:
            self._attention.set()
        self._hearer.news()

    def _on_connection(self, _up: bool) -> None:
        self.until = 0.0  # nothing more is handled until the pin is proved
        if self._deliveries is not None:
            self._deliveries.end("the connection was lost", broken=True)
        self._attention.set()
        self._hearer.news()
