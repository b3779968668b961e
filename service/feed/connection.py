"""One reader of the live feed: a filter and a place in the stream.

    behind the ring ──► pages from the log ──► the ring ──► waiting ──► the ring …
                               ▲                 │
                               └── fell out of the ring (a slow reader)

It holds no queue: however slow its reader is, it takes a page of memory and no more.
"""

import asyncio
import enum
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from jobledger.projections.errors import ViewRebuilding
from jobledger.projections.subscriptions.filters import EventFilter, match_labels
from jobledger.service.feed.catchup import CatchUp
from jobledger.service.feed.events import FeedEvent, event_text
from jobledger.store.model.errors import JobledgerError, LogUnavailable
from jobledger.store.model.limits import READ_PAGE_EVENTS

if TYPE_CHECKING:
    from jobledger.service.feed.hub import FeedHub


class Cause(enum.StrEnum):
    """Why a feed ended, for who counts them."""

    GONE = "gone"  # its reader closed it
    DRAINED = "drained"  # the service is stopping
    SLOW = "slow"  # the reader did not take its events in time
    REVOKED = "revoked"  # the token is no longer valid
    BROKEN = "broken"  # the log or the view can't be read on


class Subscription:
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
