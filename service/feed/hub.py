"""The hub: hears every event once, from the projector, and lets any number of feeds read it.

    projector ──► take ──► ring ──► wakes the feeds whose scope it is in ──► each reads on from its own place

An event reaches feeds after it is visible in this process's view. It is kept once, whoever reads it, and is
made into text once, when the first reader needs it.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from jobledger.projections.batch import Folded
from jobledger.projections.subscriptions.filters import EventFilter
from jobledger.projections.view import View
from jobledger.service import limits as named
from jobledger.service.cursor import default_source, format_cursor, stream_tag
from jobledger.service.errors import CursorGone, NotReady, TooManyRequests
from jobledger.service.feed.catchup import CatchUp
from jobledger.service.feed.connection import Cause, Subscription
from jobledger.service.feed.events import feed_event
from jobledger.service.feed.labels import labels_after, labels_before
from jobledger.service.feed.ring import Ring
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobledgerError, LogReplaced, LogUnavailable

_ENDING = "the service is stopping; connect again, here or to another replica"
_Scope = tuple[str, str]  # what it is a scope of, and its name
_EVERYTHING: _Scope = ("", "")


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of feeds; `limits.py` says what each is for. Tests set them lower."""

    feeds: int = named.FEEDS_MAX
    feeds_per_client: int = named.FEEDS_MAX_PER_CLIENT
    ring_events: int = named.FEED_RING_EVENTS
    ring_bytes: int = named.FEED_RING_BYTES
    send_bytes: int = named.FEED_SEND_BYTES
    gather_seconds: float = named.FEED_GATHER_SECONDS
    heartbeat_seconds: float = named.FEED_HEARTBEAT_SECONDS
    send_timeout_seconds: float = named.FEED_SEND_TIMEOUT_SECONDS
    tick_seconds: float = named.FEED_TICK_SECONDS
    retry_seconds: float = named.FEED_RETRY_SECONDS
    close_seconds: float = named.FEED_CLOSE_SECONDS


class FeedHub:
    """The feeds of one process; attach it to the projector (`projector.attach(hub)`) before it is used.

    Args:
        log: for what is older than the ring.
        view: the projector's.
        mark: of the log, from `stream_tag`.
        source: the CloudEvents `source` of the events that are sent; empty: the default for that log.
        draining: once it is set, every feed is closed with its cursor.
        limits: the bounds.
    """

    def __init__(
        self,
        log: EventLog,
        view: View,
        *,
        mark: str,
        source: str = "",
        draining: asyncio.Event | None = None,
        limits: FeedLimits | None = None,
    ) -> None:
        self.mark = mark
        self.source = source or default_source(mark)
        self.limits = limits or FeedLimits()
        self.ring = Ring(self.limits.ring_events, self.limits.ring_bytes)
        self.sequence = 0  # of the last event that was heard of
        self.labels = labels_after(view)
        self.labels_before = labels_before(view)
        self.catch_ups = asyncio.Semaphore(named.FEED_CATCHUPS_MAX)
        self._log = log
        self._view = view
        self._draining = draining or asyncio.Event()
        self._ended = "the projector has not begun"  # why no feed can be opened; empty: it can
        self._scopes: dict[_Scope, set[Subscription]] = defaultdict(set)
        self._clients: dict[Subscription, str | None] = {}  # every open feed, and whose it is
        self._held: Counter[str] = Counter()  # feeds by client
        self._keeper: asyncio.Task[None] | None = None
        self._to_wake: set[Subscription] = set()
        self._waking: asyncio.TimerHandle | None = None
        self._woken_at = 0.0
        self._left = asyncio.Event()  # one feed has just gone

    def __len__(self) -> int:
        """How many feeds are open."""
        return self._held.total()

    async def open(
        self,
        feed_filter: EventFilter,
        *,
        after: int | None = None,
        client: str | None = None,
        is_valid: Callable[[], bool] | None = None,
    ) -> Subscription:
        """A feed from a place on; use it as `async with await hub.open(…) as subscription`.

        Args:
            feed_filter: what it lets through.
            after: the sequence behind which it begins; None: from now.
            client: who holds it, for the limits; None: it is not counted.
            is_valid: whether who opened it may still read; it is asked often.

        Raises:
            TooManyRequests: if this client, or all together, have as many as they may.
            CursorGone: if `after` is not within the log.
            NotReady: if the service is stopping, or its projector is.
            LogUnavailable: if `after` can't be checked.
        """
        if self._refusal():
            raise NotReady(self._refusal())
        if client is not None:
            self._count(client)
        try:
            start = await (self._now() if after is None else self._check(after))
        except BaseException:
            self._uncount(client)
            raise
        subscription = Subscription(self, feed_filter, start, is_valid)
        if self._refusal():  # meanwhile
            subscription.end(Cause.DRAINED, self._refusal())
        self._clients[subscription] = client
        for scope in _scopes_of(feed_filter):
            self._scopes[scope].add(subscription)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())
        return subscription

    def cursor(self, subscription: Subscription) -> str:
        """Where a feed is."""
        return format_cursor(self.mark, subscription.sequence)

    async def close(self, reason: str = _ENDING) -> None:
        """End every feed, open no more, and wait until the readers have heard of it, within a bound."""
        self._end_all(Cause.DRAINED, reason)
        try:
            async with asyncio.timeout(self.limits.close_seconds):
                await self._empty()
        except TimeoutError:
            for subscription in tuple(self._clients):
                subscription.give_up()
        if self._waking is not None:
            self._waking.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    # --- for the projector: see `ProjectionListener` ---

    def begin(self, sequence: int) -> None:
        """See `ProjectionListener.begin`."""
        self._ended = ""
        self._jump(sequence)

    def take(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        """See `ProjectionListener.take`."""
        if folded is None or after != self.sequence:
            self._jump(up_to)
            return
        self.ring.extend(map(feed_event, folded))
        self.sequence = up_to
        if self._scopes:
            concerned = self._concerned(folded)
            for subscription in concerned:
                subscription.notice(after)
            self._wake_soon(concerned)

    def end(self, error: JobledgerError | None) -> None:
        """See `ProjectionListener.end`."""
        if error is None:
            self._end_all(Cause.DRAINED, _ENDING)
        else:
            self._end_all(Cause.BROKEN, f"the service can't read on: {error}")

    # --- for subscriptions ----------------------------------------------------------------------------------

    def catch_up(self, subjects: str) -> CatchUp:
        """A reader of what is older than the ring."""
        return CatchUp(self._log, self._view, mark=self.mark, subjects=subjects)

    def forget(self, subscription: Subscription) -> None:
        """Its reader is gone. Forgetting twice is harmless."""
        if subscription not in self._clients:
            return
        self._uncount(self._clients.pop(subscription))
        self._to_wake.discard(subscription)
        for scope in _scopes_of(subscription.filter):
            members = self._scopes[scope]
            members.discard(subscription)
            if not members:
                del self._scopes[scope]
        self._left.set()

    def _refusal(self) -> str:
        """Why no feed can be opened; empty: it can."""
        return self._ended or (_ENDING if self._draining.is_set() else "")

    # --- places ---------------------------------------------------------------------------------------------

    async def _now(self) -> int:
        """The end of the log: this replica may be behind it, and what it has yet to hear of is not new."""
        try:
            return max(self.sequence, (await self._log.info()).last_sequence)
        except LogUnavailable:
            return self.sequence

    async def _check(self, after: int) -> int:
        if self.ring.after <= after <= self.sequence:
            return after
        info = await self._log.info()
        if stream_tag(info.epoch) != self.mark:
            raise LogReplaced("the stream was deleted and made again under this service; restart it")
        begin = "begin anew, from now, without a cursor, and read the present from the list of jobs"
        cursor = format_cursor(self.mark, after)
        last = max(self.sequence, info.last_sequence)
        if after > last:
            raise CursorGone(f"{cursor} is beyond the end of the stream, {last}: its end was lost; {begin}")
        if info.first_sequence > after + 1:
            raise CursorGone(
                f"the events after {cursor} are no longer there: the stream begins at {info.first_sequence};"
                f" {begin}"
            )
        return after

    def _jump(self, sequence: int) -> None:
        """Go on from a place, without what lies before it: feeds that are not there yet read the log."""
        before, self.sequence = self.sequence, sequence
        self.ring.restart(sequence)
        for subscription in self._clients:
            subscription.notice(before)
        self._wake_soon(self._clients)

    def _wake_soon(self, concerned: Iterable[Subscription]) -> None:
        """Wake feeds: at once if it is quiet, and together a moment later if not.

        A send costs as much for one event as for several, and sends to many readers are nearly all that this
        process does.
        """
        self._to_wake.update(concerned)
        if not self._to_wake or self._waking is not None:
            return
        loop = asyncio.get_running_loop()
        at = self._woken_at + self.limits.gather_seconds
        if at <= loop.time():
            self._wake_now()
        else:
            self._waking = loop.call_at(at, self._wake_now)

    def _wake_now(self) -> None:
        self._waking, self._woken_at = None, asyncio.get_running_loop().time()
        to_wake, self._to_wake = self._to_wake, set()
        for subscription in to_wake:
            subscription.wake()

    def _concerned(self, folded: Iterable[Folded]) -> set[Subscription]:
        """The feeds that any of these may be for."""
        scopes = self._scopes
        found = set(scopes.get(_EVERYTHING, ()))
        touched = {("namespace", each.status.namespace) for each in folded}
        touched |= {("job", each.status.id) for each in folded}
        for scope in touched & scopes.keys():
            found |= scopes[scope]
        return found

    # --- keeping --------------------------------------------------------------------------------------------

    def _count(self, client: str) -> None:
        if self._held.total() >= self.limits.feeds:
            raise TooManyRequests(f"{self.limits.feeds} feeds are open in this process; try another replica")
        if self._held[client] >= self.limits.feeds_per_client:
            raise TooManyRequests(
                f"{self.limits.feeds_per_client} feeds of one client are open; close some, or ask for more in"
                " one feed"
            )
        self._held[client] += 1

    def _uncount(self, client: str | None) -> None:
        if client is not None:
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]

    def _end_all(self, cause: Cause, reason: str) -> None:
        self._ended = self._ended or reason
        for subscription in self._clients:
            subscription.end(cause, reason)

    async def _empty(self) -> None:
        while self._clients:
            self._left.clear()
            await self._left.wait()

    async def _keep(self) -> None:
        """Look after all feeds, once in a while: one timer for all of them, rather than several for each."""
        clock = asyncio.get_running_loop().time
        while self._clients:
            try:
                async with asyncio.timeout(self.limits.tick_seconds):
                    await self._draining.wait()
            except TimeoutError:
                now = clock()
                for subscription in tuple(self._clients):
                    subscription.look(now)
            else:
                self._end_all(Cause.DRAINED, _ENDING)
                return


def _scopes_of(feed_filter: EventFilter) -> list[_Scope]:
    """Where an event must be for a feed to be woken by it."""
    if feed_filter.job is not None:
        return [("job", feed_filter.job[1])]
    if feed_filter.namespaces is not None:
        return [("namespace", namespace) for namespace in feed_filter.namespaces]
    return [_EVERYTHING]
