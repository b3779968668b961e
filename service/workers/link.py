"""The worker's side: stand-ins for the parts of a service that only the owner has.

`RemoteProjector` knows the owner's position and the events of its batches, and `RemoteMonitor` its checks.
Everything else of the owner (seals, webhooks, copies of the view as of a point) is an `OwnersPart`: a request
that touches it is passed on to the owner, so nothing has to list such requests.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from jobledger.projections.errors import ViewDamaged, ViewError, WaitTimeout
from jobledger.projections.limits import WAIT_DEFAULT_SECONDS
from jobledger.projections.pool import ReaderPool
from jobledger.projections.projector import ProjectorState
from jobledger.service.access.tokens import TokenFile
from jobledger.service.errors import NotReady
from jobledger.service.feed.hub import FeedHub
from jobledger.service.limits import (
    OBSERVE_SECONDS,
    OBSERVE_TIMEOUT_SECONDS,
    OWNER_ANSWER_SECONDS,
)
from jobledger.service.server.checks import Result
from jobledger.service.workers import messages
from jobledger.service.workers.channel import Channel
from jobledger.service.workers.positions import SharedPositions
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.errors import JobledgerError


class AtOwner(Exception):
    """The request needs a part of the service that only the owner has."""


class OwnersPart:
    """In a worker, in place of a part that only the owner has. Using any attribute raises `AtOwner`."""

    def __getattr__(self, name: str) -> NoReturn:
        raise AtOwner


async def at_owner() -> NoReturn:
    """In a worker, in place of a coroutine that only the owner can run."""
    raise AtOwner


class OwnerLink:
    """The connection of a worker to the owner.

    Args:
        positions_fd: the memory that all processes of the service share.

    Attributes:
        channel: to the owner.
        collect: returns the metrics of this worker.
        in_flight: returns how many requests and feeds it answers.
        drained: set when the owner asks the worker to end.
        failed: set when this worker cannot continue; `failure` has the reason.
    """

    def __init__(self, positions_fd: int) -> None:
        self.drained = asyncio.Event()
        self.failed = asyncio.Event()
        self.failure = ""
        self.projector: RemoteProjector | None = None  # from the first message on
        self._positions_fd = positions_fd
        self.collect: Callable[[], list[messages.Family]] = list
        self.in_flight: Callable[[], int] = int
        self.channel: Channel
        self._start: asyncio.Future[messages.Start] = asyncio.get_running_loop().create_future()

    async def started(self) -> messages.Start:
        """The first message, or an error if the owner ends before it."""
        closed = asyncio.create_task(self.channel.closed.wait())
        try:
            await asyncio.wait((self._start, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            closed.cancel()
        if not self._start.done():
            raise NotReady("the owner process of this service has ended")
        return self._start.result()

    def handle(self, message: messages.Message) -> Awaitable[messages.Message] | None:
        """Handle a message of the owner."""
        match message:
            case messages.Start():
                # Here, so that no later message is lost while the worker starts.
                positions = SharedPositions(self._positions_fd, message.workers)
                self.projector = RemoteProjector(self, message, positions)
                self._start.set_result(message)
            case messages.Drain():
                self.drained.set()
            case messages.Collect():
                return self._collect()
            case _ if self.projector is not None:
                return self.projector.handle(message)
        return None

    def fail(self, reason: str) -> None:
        """Let this worker end, so that the owner replaces it."""
        self.failure = self.failure or reason
        self.failed.set()

    async def forward(self, request: messages.Forward) -> messages.Forwarded:
        """Let the owner answer a request.

        Raises:
            NotReady: it has ended, or does not answer in time.
            AnswerFailed: it failed.
            TooManyRequests: too many requests wait for it.
        """
        reply = await self.channel.call(request, OWNER_ANSWER_SECONDS, is_request=True)
        assert isinstance(reply, messages.Forwarded)
        return reply

    async def _collect(self) -> messages.Message:
        return messages.Collected(self.collect())


class RemoteProjector:
    """The owner's projector, as far as a worker needs it; see `Projector`.

    Args:
        link: to the owner.
        positions: shared with the owner and the other workers.
    """

    def __init__(self, link: OwnerLink, start: messages.Start, positions: SharedPositions) -> None:
        self.state = start.state
        self.error = start.error.error() if start.error is not None else None
        self._trouble = start.trouble
        self._link = link
        self._number = start.number
        self.positions = positions
        self._hub: FeedHub | None = None
        self._pool: ReaderPool | None = None
        self._suspended = start.suspended
        self._file = asyncio.Lock()  # held while the view's file is opened or closed
        self._changed = asyncio.Event()  # replaced by each change

    @property
    def sequence(self) -> int:
        """The last sequence that is visible in the view."""
        return self.positions.visible

    @property
    def trouble(self) -> str:
        """See `Projector.trouble`."""
        return self._trouble

    async def wait_for(self, sequence: int, timeout_seconds: float = WAIT_DEFAULT_SECONDS) -> None:
        """See `Projector.wait_for`."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while self.sequence < sequence and self.state is not ProjectorState.STOPPED:
                    await self._changed.wait()
        except TimeoutError:
            raise WaitTimeout(
                f"the view is at {self.sequence} ({self.state}) and did not reach event {sequence} within"
                f" {timeout_seconds:g} s; wait longer, or find out why the projector is behind"
            ) from None
        if self.sequence < sequence:
            raise self.error or WaitTimeout(
                f"the projector is stopped at event {self.sequence}; start it again"
            )

    async def heal(self) -> NoReturn:
        """The owner heals the view."""
        raise AtOwner

    def attach(self, hub: FeedHub) -> None:
        """Pass the owner's batches to the live feed of this worker."""
        self._hub = hub
        self._set_has_feeds(False)  # a predecessor may have had some
        hub.on_start(self.sequence)
        hub.on_use = self._set_has_feeds
        if self.state is ProjectorState.STOPPED:
            hub.on_stop(self.error)

    async def open_view(self, opened: Callable[[], Awaitable[ReaderPool]]) -> None:
        """Open the view's file, unless it is about to be replaced; then reads raise the owner's error."""
        async with self._file:
            self._pool = await opened()
            self._pool.on_damage = self._report_damage
            if self._suspended is not None:
                await self._pool.suspend(_view_error(self._suspended))

    def handle(self, message: messages.Message) -> Awaitable[messages.Message] | None:
        """Handle a message of the owner."""
        match message:
            case messages.Advanced(after, up_to, events):
                self._notify()
                if self._hub is not None:
                    self._hub.advance(after, up_to, events)
            case messages.Started(sequence):
                self._notify()
                if self._hub is not None:
                    self._hub.advance(sequence, sequence, None)
            case messages.StateChanged(state, trouble, error):
                self.state, self._trouble = state, trouble
                self.error = error.error() if error is not None else None
                self._notify()
                if self._hub is not None and state is ProjectorState.STOPPED:
                    self._hub.on_stop(self.error)
            case messages.Suspend(why):
                self._suspended = why
                return self._suspend(why)
            case messages.Resume():
                self._suspended = None
                self._resuming = asyncio.create_task(self._resume())
        return None

    async def _suspend(self, why: messages.Failure) -> messages.Message:
        async with self._file:
            if self._pool is not None:
                await self._pool.suspend(_view_error(why))
        return messages.Done()

    async def _resume(self) -> None:
        async with self._file:
            if self._pool is not None and self._suspended is None:
                try:
                    await self._pool.resume()
                except Exception as error:  # noqa: BLE001 - such as that another rebuild has begun
                    # This worker might never read again: the owner replaces it.
                    self._link.fail(f"the view cannot be opened again: {error}")

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _report_damage(self, error: ViewDamaged) -> None:
        self._link.channel.post(messages.Damaged(str(error)))

    def _set_has_feeds(self, has: bool) -> None:
        self.positions.set_has_feeds(self._number, has=has)


def _view_error(failure: messages.Failure) -> ViewError:
    error = failure.error()
    return error if isinstance(error, ViewError) else ViewError(str(error))


class RemoteMonitor:
    """The owner's checks, and this worker's own; in place of a `Monitor`.

    A worker whose owner does not answer is not ready.
    """

    def __init__(
        self, link: OwnerLink, log: JetStreamLog, tokens: TokenFile, draining: asyncio.Event
    ) -> None:
        self._link = link
        self._log = log
        self._tokens = tokens
        self._draining = draining
        self._reported: messages.Reported | None = None
        self._problem = "not asked yet"
        self._observing: asyncio.Task[None] | None = None
        self._observed_at = float("-inf")
        self._failed_in_silence = False
        self._is_suspended = False

    async def observe(self) -> None:
        """Ask the owner, unless that was done less than OBSERVE_SECONDS ago."""
        if self._observing is None or self._observing.done():
            if asyncio.get_running_loop().time() - self._observed_at < OBSERVE_SECONDS:
                return
            self._observing = asyncio.create_task(self._observe())
        await asyncio.shield(self._observing)

    async def close(self) -> None:
        """Cancel a question in progress."""
        if self._observing is not None:
            self._observing.cancel()
            await asyncio.gather(self._observing, return_exceptions=True)

    @property
    def checks(self) -> list[Result]:
        """The results of all checks."""
        own = {
            "append": self._log.publisher.problem,
            "tokens": self._tokens.fault,
            "draining": "the service is shutting down" * self._draining.is_set(),
        }
        reported = self._reported.checks if self._reported is not None else []
        closed = self._link.channel.closed.is_set()
        return [
            Result("owner", "the owner process has ended" if closed else self._problem),
            *(Result(each.name, each.problem or own.get(each.name, ""), each.counts) for each in reported),
        ]

    @property
    def is_ready(self) -> bool:
        """Whether every check that counts passes."""
        return not any(check.problem and check.counts for check in self.checks)

    async def _observe(self) -> None:
        publisher = self._log.publisher
        report = messages.Report(publisher.silence, self._link.in_flight())
        try:
            reply = await self._link.channel.call(report, OBSERVE_TIMEOUT_SECONDS)
        except JobledgerError as error:
            self._problem = str(error)
        else:
            assert isinstance(reply, messages.Reported)
            self._reported, self._problem = reply, ""
            self._guard_appends(reply)
        self._observed_at = asyncio.get_running_loop().time()

    def _guard_appends(self, reported: messages.Reported) -> None:
        """Suspend appends when the owner does, and try again when a silent log answers the owner."""
        publisher = self._log.publisher
        if publisher.silence:
            self._failed_in_silence |= bool(reported.append_error)
            if self._failed_in_silence and not reported.append_error:
                publisher.retry()
        else:
            self._failed_in_silence = False
        if reported.suspension:
            publisher.suspend(reported.suspension)
        elif self._is_suspended:
            publisher.resume()
        self._is_suspended = bool(reported.suspension)
