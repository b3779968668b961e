"""The hub: hears every event once, from the projector, and lets any number of feeds read it.

    projector ──► take ──► ring ──► wakes the feeds whose scope it is in ──► each reads on from its own place

An event reaches feeds after it is visible in this process's view. It is kept once, whoever reads it, and is
made into text once, when the first reader needs it.
"""

import asyncio
import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import msgspec
from msgspec.structs import replace

from jobledger.projections.batch import Folded
from jobledger.projections.errors import ViewRebuilding
from jobledger.projections.subscriptions.filters import EventFilter, match_labels
from jobledger.projections.view import View
from jobledger.service import limits as named
from jobledger.service.cursor import default_source, format_cursor, stream_tag
from jobledger.service.errors import CursorGone, NotReady, TooManyRequests
from jobledger.service.feed.catchup import CatchUp, labels_after, labels_before
from jobledger.service.feed.events import FeedEvent, Ring, event_text, feed_event
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobledgerError, LogReplaced, LogUnavailable
from jobledger.store.model.limits import READ_PAGE_EVENTS


class Cause(enum.StrEnum):
    """Why a feed ended, for who counts them."""

    GONE = "gone"  # its reader closed it
    DRAINED = "drained"  # the service is stopping
    SLOW = "slow"  # the reader did not take its events in time
    REVOKED = "revoked"  # the token is no longer valid
    BROKEN = "broken"  # the log or the view can't be read on


class FeedConnection:
    """Made by `FeedHub.open`; used as `async with`, which gives its place back. For one reader at a time.

    Attributes:
        filter: what it lets through.
        sequence: all up to here was handed over, or did not pass the filter.
        cause: why it ended; None while it goes on.
        reason: the same, for people.
        on_stuck: called when the reader does not come back in time for more.
    """

    def __init__(
        self, hub: "FeedHub", feed_filter: EventFilter, sequence: int, is_valid: Callable[[], bool] | None
    ) -> None:
        self.filter = feed_filter
        self.sequence = sequence
        self.cause: Cause | None = None
        self.reason = ""
        self.on_stuck: Callable[[], object] | None = None
        self._hub = hub
        self._is_valid = is_valid
        self._clock = asyncio.get_running_loop().time
        self._spoke = self._clock()  # when the reader was last given something to send
        self._away = True  # the reader is busy sending
        self._catch_up: CatchUp | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._idle = False  # nothing that may pass has come since it began to wait
        self._is_catching_up = sequence < hub.sequence

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end(Cause.GONE, "closed by its reader")
        self._hub.forget(self)

    async def next(self) -> Sequence[FeedEvent] | None:
        """The next events that pass; none: time for a heartbeat; None: it ended, and `reason` says why.

        A feed that began in the past says where it is as soon as it has come to the present: who waits for
        the end of what there is need not wait for more.
        """
        self._away = False
        try:
            while self._goes_on():
                found = await self._try_to_take() if self.sequence < self._hub.sequence else ()
                if found or self._is_silent():
                    return found
                if self._is_catching_up and self.sequence >= self._hub.sequence:
                    self._is_catching_up = False
                    return ()
                if self.sequence >= self._hub.sequence:
                    await self._wait()
            return None
        finally:
            self._away = True
            self._spoke = self._clock()

    def end(self, cause: Cause, reason: str) -> None:
        """End it; the reader hears of it when it asks for more. The first reason counts."""
        if self.cause is None:
            self._skip_to(self._hub.sequence)
            self.cause, self.reason = cause, reason
        self.wake()

    # --- for the hub ----------------------------------------------------------------------------------------

    def notice(self, after: int) -> None:
        """Something that may pass has come, behind this sequence; `wake` follows."""
        self._skip_to(after)
        self._idle = False

    def wake(self) -> None:
        """Let it look for what has come, if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def look(self, now: float) -> None:
        """Look after it: is its token still good, its reader there, a heartbeat due?"""
        if not self._goes_on():
            return
        if self._away and now - self._spoke >= self._hub.limits.send_timeout_seconds:
            self.end(Cause.SLOW, "the reader did not take its events in time")
            self.give_up()
        elif self._is_silent():
            self._skip_to(self._hub.sequence)
            self.wake()

    def give_up(self) -> None:
        """Call off a reader that is still busy sending."""
        if self._away and self.on_stuck is not None:
            self.on_stuck()

    # --- the way --------------------------------------------------------------------------------------------

    async def _try_to_take(self) -> Sequence[FeedEvent]:
        try:
            return await self._take()
        except (LogUnavailable, ViewRebuilding):
            # It is ridden out, with heartbeats: a browser that were told to come back would be refused then.
            self._catch_up = None
            await self._wait(self._hub.limits.retry_seconds)
        except JobledgerError as error:
            self.end(Cause.BROKEN, f"the service can't read on: {error}")
        return ()

    async def _take(self) -> Sequence[FeedEvent]:
        """What passes of the next events, which are in the ring or in the log."""
        hub = self._hub
        if self.sequence >= hub.ring.after:
            self._catch_up = None
            return await self._from_ring()
        if self._catch_up is None:
            self._catch_up = hub.catch_up(self.filter.subjects)
        async with hub.catch_ups:
            events, reached = await self._catch_up.page(self.sequence, hub.sequence)
        passed = await self._labelled([event for event in events if self.filter.passes(event)])
        self.sequence = reached
        return passed

    async def _from_ring(self) -> Sequence[FeedEvent]:
        """What passes of the ring's next events, as much as is sent at once."""
        passes, selects = self.filter.passes, bool(self.filter.selector)
        found: list[FeedEvent] = []
        size, reached = 0, self._hub.sequence
        for event in self._hub.ring.since(self.sequence):
            if not passes(event):
                continue
            found.append(event)
            size += event.size_bytes
            if size >= self._hub.limits.send_bytes or (selects and len(found) == READ_PAGE_EVENTS):
                reached = event.sequence
                break
        passed = await self._labelled(found)
        self.sequence = reached
        return passed

    async def _labelled(self, events: list[FeedEvent]) -> list[FeedEvent]:
        """Those of them whose jobs had the labels that are asked for, before or after; each says which."""
        selector, hub = self.filter.selector, self._hub
        if not (selector and events):
            return events
        after = await hub.labels.of(event.status.spec_sequence for event in events)
        before = await hub.labels_before.of(event.sequence for event in events if event.is_update)
        found = []
        for event in events:
            labels = after[event.status.spec_sequence]
            was = before[event.sequence] if event.is_update else None if event.is_creation else labels
            match = match_labels(selector, was, labels)
            if match is not None:
                event_text(event, hub.mark, hub.source)  # made once, for all feeds
                found.append(replace(event, matches=match))
        return found

    def _goes_on(self) -> bool:
        if self.cause is None and self._is_valid is not None and not self._is_valid():
            self.end(Cause.REVOKED, "the token is no longer valid")
        return self.cause is None

    def _is_silent(self) -> bool:
        return self._clock() - self._spoke >= self._hub.limits.heartbeat_seconds

    async def _wait(self, timeout_seconds: float | None = None) -> None:
        """Until something that may pass comes, a heartbeat is due, or it ends."""
        self._idle = timeout_seconds is None
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            if timeout_seconds is None:
                await self._waiter
            else:
                await asyncio.wait([self._waiter], timeout=timeout_seconds)
        finally:
            self._waiter, self._idle = None, False

    def _skip_to(self, sequence: int) -> None:
        if self._idle and self.cause is None:
            self.sequence = max(self.sequence, sequence)


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
        self._scopes: dict[_Scope, set[FeedConnection]] = defaultdict(set)
        self._clients: dict[FeedConnection, str | None] = {}  # every open feed, and whose it is
        self._held: Counter[str] = Counter()  # feeds by client
        self._keeper: asyncio.Task[None] | None = None
        self._to_wake: set[FeedConnection] = set()
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
    ) -> FeedConnection:
        """A feed from a place on; use it as `async with await hub.open(…) as connection`.

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
        connection = FeedConnection(self, feed_filter, start, is_valid)
        if self._refusal():  # meanwhile
            connection.end(Cause.DRAINED, self._refusal())
        self._clients[connection] = client
        for scope in _scopes_of(feed_filter):
            self._scopes[scope].add(connection)
        if self._keeper is None or self._keeper.done():
            self._keeper = asyncio.create_task(self._keep())
        return connection

    def cursor(self, connection: FeedConnection) -> str:
        """Where a feed is."""
        return format_cursor(self.mark, connection.sequence)

    async def close(self, reason: str = _ENDING) -> None:
        """End every feed, open no more, and wait until the readers have heard of it, within a bound."""
        self._end_all(Cause.DRAINED, reason)
        try:
            async with asyncio.timeout(self.limits.close_seconds):
                await self._empty()
        except TimeoutError:
            for connection in tuple(self._clients):
                connection.give_up()
        if self._waking is not None:
            self._waking.cancel()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    # --- for the projector: see `ProjectionListener` ---

    def on_start(self, sequence: int) -> None:
        """See `ProjectionListener.on_start`."""
        self._ended = ""
        self._jump(sequence)

    def on_advance(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        """See `ProjectionListener.on_advance`."""
        if folded is None or after != self.sequence:
            self._jump(up_to)
            return
        self.ring.extend(map(feed_event, folded))
        self.sequence = up_to
        if self._scopes:
            concerned = self._concerned(folded)
            for connection in concerned:
                connection.notice(after)
            self._wake_soon(concerned)

    def on_stop(self, error: JobledgerError | None) -> None:
        """See `ProjectionListener.on_stop`."""
        if error is None:
            self._end_all(Cause.DRAINED, _ENDING)
        else:
            self._end_all(Cause.BROKEN, f"the service can't read on: {error}")

    # --- for subscriptions ----------------------------------------------------------------------------------

    def catch_up(self, subjects: str) -> CatchUp:
        """A reader of what is older than the ring."""
        return CatchUp(self._log, self._view, mark=self.mark, subjects=subjects)

    def forget(self, connection: FeedConnection) -> None:
        """Its reader is gone. Forgetting twice is harmless."""
        if connection not in self._clients:
            return
        self._uncount(self._clients.pop(connection))
        self._to_wake.discard(connection)
        for scope in _scopes_of(connection.filter):
            members = self._scopes[scope]
            members.discard(connection)
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
        for connection in self._clients:
            connection.notice(before)
        self._wake_soon(self._clients)

    def _wake_soon(self, concerned: Iterable[FeedConnection]) -> None:
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
        for connection in to_wake:
            connection.wake()

    def _concerned(self, folded: Iterable[Folded]) -> set[FeedConnection]:
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
        for connection in self._clients:
            connection.end(cause, reason)

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
                for connection in tuple(self._clients):
                    connection.look(now)
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
