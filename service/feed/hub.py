"""The live feed: `FeedHub` receives each event once from the projector, and readers connect to it.

    projector ──► on_advance ──► ring ──► wake connections with a matching scope ──► each reads from its
    position

An event reaches connections after it is visible in this process's view. It is stored once and encoded once,
when the first connection needs it; connections with the same filter at the same position also share what
they send. A `FeedConnection` has a position in the stream and no queue, so a slow reader takes no memory:

    before the ring ──► pages from the log ──► the ring ──► waiting ──► the ring …
                               ▲                 │
                               └── fell out of the ring (a slow reader)
"""

import asyncio
import enum
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
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
from jobledger.service.feed.catchup import CatchUp, SpecLabels
from jobledger.service.feed.events import NOTHING, Chunk, FeedEvent, Ring, event_text, feed_event
from jobledger.store.log import EventLog
from jobledger.store.model.errors import JobledgerError, LogReplaced, LogUnavailable
from jobledger.store.model.limits import READ_PAGE_EVENTS


class Cause(enum.StrEnum):
    """Why a connection ended, as a metric label."""

    GONE = "gone"  # closed by its reader
    DRAINED = "drained"  # the service is stopping
    SLOW = "slow"  # the reader did not accept its events in time
    REVOKED = "revoked"  # the token is no longer valid
    BROKEN = "broken"  # the log or the view cannot be read


class FeedConnection:
    """One reader's connection; created by `FeedHub.open`, and closed by `async with`.

    Attributes:
        filter: selects events.
        sequence: all matching events up to here were returned.
        cause: why the connection ended; None while it is open.
        reason: the cause as a message.
        on_stuck: called when the reader does not request more events in time.
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
        self._last_sent = self._clock()  # when `next` last returned
        self._is_sending = True  # the reader is sending what `next` returned
        self._catch_up: CatchUp | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._is_idle = False  # it waits, and no matching event has arrived since
        self._is_catching_up = sequence < hub.sequence

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end(Cause.GONE, "closed by its reader")
        self._hub.forget(self)

    async def next(self) -> Chunk | None:
        """The next matching events; empty for a heartbeat; None if the connection ended, see `reason`.

        A connection that started in the past returns a heartbeat when it has caught up, so that a reader that
        waits for the end of the stream does not wait for the next event.
        """
        self._is_sending = False
        try:
            while self.cause is None:
                if self._is_up_to_date():
                    await self._wait()
                if not self._is_open():
                    break
                found = NOTHING
                if self.sequence < self._hub.sequence:
                    found = self._take_shared() or await self._take_or_retry()
                if found or self._is_heartbeat_due():
                    return found
                if self._is_catching_up and self.sequence >= self._hub.sequence:
                    self._is_catching_up = False
                    return NOTHING
            return None
        finally:
            self._is_sending = True
            self._last_sent = self._clock()

    async def next_read(self) -> Sequence[FeedEvent] | None:
        """The matching events of one read of the log or the ring, perhaps none; None if the connection ended.

        Raises:
            JobledgerError: if the log or the view cannot be read.
        """
        return await self._take() if self._is_open() else None

    def end(self, cause: Cause, reason: str) -> None:
        """End the connection: `next` then returns None. The first cause is kept."""
        if self.cause is None:
            self._skip_to(self._hub.sequence)
            self.cause, self.reason = cause, reason
        self.wake()

    # --- for the hub ----------------------------------------------------------------------------------------

    def notice(self, after: int) -> None:
        """An event that may match has arrived after this sequence; `wake` follows."""
        self._skip_to(after)
        self._is_idle = False

    def wake(self) -> None:
        """Resume `next` if it waits."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def check(self, now: float) -> None:
        """Check the token, the reader's timeout and the heartbeat."""
        if not self._is_open():
            return
        if self._is_sending and now - self._last_sent >= self._hub.limits.send_timeout_seconds:
            self.end(Cause.SLOW, "the reader did not accept its events in time")
            self.abort()
        elif self._is_heartbeat_due():
            self._skip_to(self._hub.sequence)
            self.wake()

    def abort(self) -> None:
        """Interrupt a reader that is still sending."""
        if self._is_sending and self.on_stuck is not None:
            self.on_stuck()

    # --- reading --------------------------------------------------------------------------------------------

    def _is_up_to_date(self) -> bool:
        """Whether there is nothing to return."""
        return (
            self.sequence >= self._hub.sequence and not self._is_catching_up and not self._is_heartbeat_due()
        )

    def _take_shared(self) -> Chunk | None:
        """The next chunk, if another connection has already taken it from the ring."""
        if self.sequence < self._hub.ring.after:
            return None
        chunk = self._hub.chunks.get((self.filter, self.sequence))
        if chunk is not None:
            self.sequence = chunk.reached
        return chunk

    async def _take_or_retry(self) -> Chunk:
        try:
            return await self._take()
        except (LogUnavailable, ViewRebuilding):
            # Keep the connection, with heartbeats: a browser that reconnects now would be refused.
            self._catch_up = None
            await self._wait(self._hub.limits.retry_seconds)
        except JobledgerError as error:
            self.end(Cause.BROKEN, f"the service cannot read the log or the view: {error}")
        return NOTHING

    async def _take(self) -> Chunk:
        """The matching events of the next chunk, from the ring or the log."""
        hub = self._hub
        if self.sequence >= hub.ring.after:
            self._catch_up = None
            return await self._from_ring()
        if self._catch_up is None:
            self._catch_up = hub.catch_up(self.filter.subjects)
        async with hub.catch_ups:
            events, reached = await self._catch_up.page(self.sequence, hub.sequence)
        passed = await self._match_labels([event for event in events if self.filter.passes(event)])
        self.sequence = reached
        return Chunk(passed, reached)

    async def _from_ring(self) -> Chunk:
        """The matching events of the ring, up to the limit of one send."""
        started, chunks = self.sequence, self._hub.chunks
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
        chunk = Chunk(await self._match_labels(found), reached)
        if len(chunks) == named.FEED_SHARED_CHUNKS:
            chunks.clear()
        chunks[self.filter, started] = chunk
        self.sequence = reached
        return chunk

    async def _match_labels(self, events: list[FeedEvent]) -> list[FeedEvent]:
        """The events whose jobs match the selector before or after them, with `matches` set."""
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
                event_text(event, hub.stream_tag, hub.source)  # encode once, for all connections
                found.append(replace(event, matches=match))
        return found

    def _is_open(self) -> bool:
        if self.cause is None and self._is_valid is not None and not self._is_valid():
            self.end(Cause.REVOKED, "the token is no longer valid")
        return self.cause is None

    def _is_heartbeat_due(self) -> bool:
        return self._clock() - self._last_sent >= self._hub.limits.heartbeat_seconds

    async def _wait(self, timeout_seconds: float | None = None) -> None:
        """Wait for `wake` or the timeout."""
        self._is_idle = timeout_seconds is None
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            if timeout_seconds is None:
                await self._waiter
            else:
                await asyncio.wait([self._waiter], timeout=timeout_seconds)
        finally:
            self._waiter, self._is_idle = None, False

    def _skip_to(self, sequence: int) -> None:
        if self._is_idle and self.cause is None:
            self.sequence = max(self.sequence, sequence)


_STOPPING = "the service is stopping; reconnect, here or to another replica"
_Scope = tuple[str, str]  # kind and name
_EVERYTHING: _Scope = ("", "")


class FeedLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the feed, see `limits.py`; tests lower them."""

    feeds: int = named.FEEDS_MAX
    feeds_per_client: int = named.FEEDS_MAX_PER_CLIENT
    ring_events: int = named.FEED_RING_EVENTS
    ring_bytes: int = named.FEED_RING_BYTES
    send_bytes: int = named.FEED_SEND_BYTES
    gather_seconds: float = named.FEED_GATHER_SECONDS
    wakes_at_once: int = named.FEED_WAKES_AT_ONCE
    wakes_seconds: float = named.FEED_WAKES_SECONDS
    heartbeat_seconds: float = named.FEED_HEARTBEAT_SECONDS
    send_timeout_seconds: float = named.FEED_SEND_TIMEOUT_SECONDS
    tick_seconds: float = named.FEED_TICK_SECONDS
    retry_seconds: float = named.FEED_RETRY_SECONDS
    close_seconds: float = named.FEED_CLOSE_SECONDS


class FeedHub:
    """The feed of one process; attach it to the projector (`projector.attach(hub)`) first.

    When `draining` is set, every connection is closed with its cursor.
    """

    def __init__(
        self,
        log: EventLog,
        view: View,
        *,
        tag: str,
        source: str = "",
        draining: asyncio.Event | None = None,
        limits: FeedLimits | None = None,
    ) -> None:
        self.stream_tag = tag
        self.source = source or default_source(tag)
        self.limits = limits or FeedLimits()
        self.ring = Ring(self.limits.ring_events, self.limits.ring_bytes)
        self.sequence = 0  # of the last event received
        self.labels = SpecLabels(view.specs_at)
        self.labels_before = SpecLabels(view.specs_before)
        self.catch_ups = asyncio.Semaphore(named.FEED_CATCHUPS_MAX)
        self._log = log
        self._view = view
        self._draining = draining or asyncio.Event()
        self.on_use: Callable[[bool], None] = lambda _: None  # called when connections exist, or no longer
        self._ended = "the projector has not started"  # why connections are refused; empty if they are not
        self._scopes: dict[_Scope, set[FeedConnection]] = defaultdict(set)
        self._clients: dict[FeedConnection, str | None] = {}  # open connections, with their clients
        self._counts: Counter[str] = Counter()  # connections by client
        self._checker: asyncio.Task[None] | None = None
        self.chunks: dict[tuple[EventFilter, int], Chunk] = {}  # by filter and start, of the present ring
        self._to_wake: dict[FeedConnection, None] = {}  # in order of their events
        self._waking: asyncio.TimerHandle | None = None
        self._next_wake = 0.0  # the earliest time
        self._closed = asyncio.Event()  # set when a connection closes

    def __len__(self) -> int:
        """Number of counted connections."""
        return self._counts.total()

    async def open(
        self,
        feed_filter: EventFilter,
        *,
        after: int | None = None,
        client: str | None = None,
        is_valid: Callable[[], bool] | None = None,
    ) -> FeedConnection:
        """Open a connection: `async with await hub.open(…) as connection`.

        Args:
            feed_filter: selects events.
            after: the sequence to start after; None for the end of the log.
            client: counted for the limits; None if the connection does not count.
            is_valid: whether the client may still read; called often.

        Raises:
            TooManyRequests: if this client, or all together, have too many connections.
            CursorGone: if `after` is not within the log.
            NotReady: if the service or its projector is stopping.
            LogUnavailable: if `after` cannot be checked.
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
        if self._refusal():  # the service stopped meanwhile
            connection.end(Cause.DRAINED, self._refusal())
        self._clients[connection] = client
        self.on_use(True)
        for scope in _scopes_of(feed_filter):
            self._scopes[scope].add(connection)
        if self._checker is None or self._checker.done():
            self._checker = asyncio.create_task(self._check_connections())
        return connection

    def cursor(self, connection: FeedConnection) -> str:
        """The cursor of a connection's position."""
        return format_cursor(self.stream_tag, connection.sequence)

    async def close(self, reason: str = _STOPPING) -> None:
        """End all connections, refuse new ones, and wait a limited time for readers to close theirs."""
        self._end_all(Cause.DRAINED, reason)
        try:
            async with asyncio.timeout(self.limits.close_seconds):
                await self._wait_until_empty()
        except TimeoutError:
            for connection in tuple(self._clients):
                connection.abort()
        if self._waking is not None:
            self._waking.cancel()
        if self._checker is not None:
            self._checker.cancel()
            await asyncio.gather(self._checker, return_exceptions=True)

    # --- for the projector ----------------------------------------------------------------------------------

    def on_start(self, sequence: int) -> None:
        """See `ProjectionListener.on_start`."""
        self._ended = ""
        self._jump(sequence)

    def on_advance(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        """See `ProjectionListener.on_advance`."""
        self.advance(after, up_to, None if folded is None else [*map(feed_event, folded)])

    def advance(self, after: int, up_to: int, events: Sequence[FeedEvent] | None) -> None:
        """The view advanced, by these events; None if they are unknown."""
        if up_to <= self.sequence:
            return
        if events is None or after != self.sequence:
            self._jump(up_to)
            return
        self.ring.extend(events)
        self.chunks = {}
        self.sequence = up_to
        if self._scopes:
            matching = self._matching(events)
            for connection in matching:
                connection.notice(after)
            self._wake_soon(matching)

    def on_stop(self, error: JobledgerError | None) -> None:
        """See `ProjectionListener.on_stop`."""
        if error is None:
            self._end_all(Cause.DRAINED, _STOPPING)
        else:
            self._end_all(Cause.BROKEN, f"the service cannot read the log or the view: {error}")

    # --- for connections ----------------------------------------------------------------------------------

    def catch_up(self, subjects: str) -> CatchUp:
        """A reader of events older than the ring."""
        return CatchUp(self._log, self._view, tag=self.stream_tag, subjects=subjects)

    def forget(self, connection: FeedConnection) -> None:
        """Remove a closed connection. Idempotent."""
        if connection not in self._clients:
            return
        self._uncount(self._clients.pop(connection))
        if not self._clients:
            self.on_use(False)
        self._to_wake.pop(connection, None)
        for scope in _scopes_of(connection.filter):
            members = self._scopes[scope]
            members.discard(connection)
            if not members:
                del self._scopes[scope]
        self._closed.set()

    def _refusal(self) -> str:
        """Why connections are refused; empty if they are not."""
        return self._ended or (_STOPPING if self._draining.is_set() else "")

    # --- positions ------------------------------------------------------------------------------------------

    async def _now(self) -> int:
        """The end of the log; this replica may be behind it, and what it still lacks is not new."""
        try:
            return max(self.sequence, (await self._log.info()).last_sequence)
        except LogUnavailable:
            return self.sequence

    async def _check(self, after: int) -> int:
        if self.ring.after <= after <= self.sequence:
            return after
        info = await self._log.info()
        if stream_tag(info.epoch) != self.stream_tag:
            raise LogReplaced("the stream was deleted and recreated; restart this service")
        remedy = "start without a cursor, and list the jobs for their present state"
        cursor = format_cursor(self.stream_tag, after)
        last = max(self.sequence, info.last_sequence)
        if after > last:
            raise CursorGone(
                f"{cursor} is beyond the end of the stream (last sequence: {last}), which lost events;"
                f" {remedy}"
            )
        if info.first_sequence > after + 1:
            raise CursorGone(
                f"the events after {cursor} were deleted: the stream starts at"
                f" {info.first_sequence}; {remedy}"
            )
        return after

    def _jump(self, sequence: int) -> None:
        """Continue from a sequence without the events before it, which connections then read from the log."""
        before, self.sequence = self.sequence, sequence
        self.ring.restart(sequence)
        self.chunks = {}
        for connection in self._clients:
            connection.notice(before)
        self._wake_soon(self._clients)

    def _wake_soon(self, matching: Iterable[FeedConnection]) -> None:
        """Wake connections: immediately, or together after a short delay if the last wake was recent.

        A send costs the same for one event as for several, and with many readers sends dominate the load. So
        many connections are woken a few at a time: the more there are, the more events each send has, and
        requests are answered in between.
        """
        self._to_wake.update(dict.fromkeys(matching))
        if self._to_wake and self._waking is None:
            loop = asyncio.get_running_loop()
            if self._next_wake <= loop.time():
                self._wake_some()
            else:
                self._waking = loop.call_at(self._next_wake, self._wake_some)

    def _wake_some(self) -> None:
        """Wake those that have waited longest, and the rest in a moment."""
        loop = asyncio.get_running_loop()
        for connection in [*islice(self._to_wake, self.limits.wakes_at_once)]:
            del self._to_wake[connection]
            connection.wake()
        if self._to_wake:
            self._next_wake = loop.time() + self.limits.wakes_seconds
            self._waking = loop.call_at(self._next_wake, self._wake_some)
        else:
            self._next_wake, self._waking = loop.time() + self.limits.gather_seconds, None

    def _matching(self, events: Sequence[FeedEvent]) -> set[FeedConnection]:
        """The connections whose scope contains any of these events."""
        scopes = self._scopes
        found = set(scopes.get(_EVERYTHING, ()))
        touched = {("namespace", each.status.namespace) for each in events}
        touched |= {("job", each.status.id) for each in events}
        for scope in touched & scopes.keys():
            found |= scopes[scope]
        return found

    # --- bookkeeping ----------------------------------------------------------------------------------------

    def _count(self, client: str) -> None:
        if self._counts.total() >= self.limits.feeds:
            raise TooManyRequests(
                f"this process has {self.limits.feeds} open feeds, the maximum; try another replica"
            )
        if self._counts[client] >= self.limits.feeds_per_client:
            raise TooManyRequests(
                f"this client has {self.limits.feeds_per_client} open feeds, the maximum; close some, or use"
                " a wider filter"
            )
        self._counts[client] += 1

    def _uncount(self, client: str | None) -> None:
        if client is not None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]

    def _end_all(self, cause: Cause, reason: str) -> None:
        self._ended = self._ended or reason
        for connection in self._clients:
            connection.end(cause, reason)

    async def _wait_until_empty(self) -> None:
        while self._clients:
            self._closed.clear()
            await self._closed.wait()

    async def _check_connections(self) -> None:
        """Check all connections periodically, with one timer for all."""
        clock = asyncio.get_running_loop().time
        while self._clients:
            try:
                async with asyncio.timeout(self.limits.tick_seconds):
                    await self._draining.wait()
            except TimeoutError:
                now = clock()
                for connection in tuple(self._clients):
                    connection.check(now)
            else:
                self._end_all(Cause.DRAINED, _STOPPING)
                return


def _scopes_of(feed_filter: EventFilter) -> list[_Scope]:
    """The scopes whose events wake a connection with this filter."""
    if feed_filter.job is not None:
        return [("job", feed_filter.job[1])]
    if feed_filter.namespaces is not None:
        return [("namespace", namespace) for namespace in feed_filter.namespaces]
    return [_EVERYTHING]
