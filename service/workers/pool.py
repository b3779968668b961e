"""The owner's side: starts the workers, sends them what the projector did, and replaces those that end.

    starting ──► serving ──► draining ──► ended
       ▲            │ it ended, or does not report for WORKER_SILENCE_SECONDS
       └── waiting ◄┘

`WorkerPool` takes the place of `HttpServer` in `serve`. The owner holds the port with a bound socket that
does not listen, so that it is not free while a worker is replaced; the workers listen with SO_REUSEPORT.
"""

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import Any, Final

from jobledger.projections.batch import Folded
from jobledger.projections.errors import ViewDamaged, ViewError
from jobledger.service.api.app import create_router
from jobledger.service.api.capacity import Capacity
from jobledger.service.api.middleware import READS, first_headers
from jobledger.service.api.problems import is_internal, log_failure, problem_response
from jobledger.service.api.response import Response
from jobledger.service.errors import NotReady
from jobledger.service.feed.events import feed_event
from jobledger.service.limits import (
    CHANNEL_BUFFER_BYTES,
    WORKER_COLLECT_SECONDS,
    WORKER_END_SECONDS,
    WORKER_RESTART_MAX_SECONDS,
    WORKER_RESTART_SECONDS,
    WORKER_SILENCE_SECONDS,
    WORKER_STABLE_SECONDS,
    WORKER_START_SECONDS,
    WORKER_SUSPEND_SECONDS,
)
from jobledger.service.server.http_server import free_port
from jobledger.service.settings import Settings
from jobledger.service.wiring import Service
from jobledger.service.workers import messages
from jobledger.service.workers.channel import Channel
from jobledger.service.workers.families import Totals
from jobledger.store.backoff import Backoff
from jobledger.store.model.errors import JobledgerError

_POLL_SECONDS: Final = 1.0
_MODULE: Final = "jobledger.service.workers.process"

_log = logging.getLogger("jobledger.workers")


class Worker:
    """One worker process, from its start to its end."""

    def __init__(self, pool: "WorkerPool", number: int) -> None:
        self.number = number
        self.serving = asyncio.Event()
        self.in_flight = 0
        self.reported_at = asyncio.get_running_loop().time()
        self.process: asyncio.subprocess.Process | None = None
        self.channel: Channel | None = None
        self._pool = pool
        self._is_behind = False  # a batch was left out, because it did not read the earlier ones

    async def start(self) -> None:
        """Start the process, and tell it what it needs to know."""
        pool = self._pool
        own, inherited = socket.socketpair()
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # no module of the working directory
                "-m",
                _MODULE,
                str(inherited.fileno()),
                str(pool.positions.fd),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(inherited.fileno(), pool.positions.fd),
                start_new_session=True,  # Ctrl-C in a terminal is for the owner, which drains the workers
            )
            self.channel = await Channel.open(own, self._handle)
        except BaseException:
            own.close()
            raise
        finally:
            inherited.close()
        self.channel.on_writable = self._catch_up
        self.channel.post(pool.start_message(self.number))

    def advance(self, after: int, up_to: int, encoded: bytes | None) -> None:
        """Announce a batch, with its events if the worker wants them; `encoded` has them."""
        channel = self.channel
        if channel is None:
            return
        if channel.is_congested:
            self._is_behind = True
        elif encoded is not None and self._pool.positions.has_feeds(self.number):
            channel.post_encoded(encoded)
        else:
            channel.post(messages.Advanced(after, up_to, None))

    def post(self, message: messages.Message) -> None:
        """Send a message, if the process runs."""
        if self.channel is not None:
            self.channel.post(message)

    async def suspend(self, why: messages.Failure) -> None:
        """Let it close the view's file; kill it if it does not."""
        if self.channel is None:
            return
        try:
            await self.channel.call(messages.Suspend(why), WORKER_SUSPEND_SECONDS)
        except JobledgerError as error:
            if not self.channel.closed.is_set():
                _log.error("worker %d does not close the view (%s): killing it", self.number, error)
            await self.kill()

    async def wait_ended(self) -> int:
        """Wait until the process ends, killing it if it hangs; returns its exit code."""
        assert self.process is not None
        assert self.channel is not None
        process, closed = self.process, asyncio.create_task(self.channel.closed.wait())
        exited = asyncio.create_task(process.wait())
        loop = asyncio.get_running_loop()
        polled_at = loop.time()
        try:
            while not exited.done():
                await asyncio.wait((exited,) if closed.done() else (exited, closed), timeout=_POLL_SECONDS)
                now = loop.time()
                if now - polled_at > 2 * _POLL_SECONDS:  # this process was paused, and has not read reports
                    self.reported_at += now - polled_at
                polled_at = now
                silent = now - self.reported_at
                if closed.done() and not exited.done():
                    with suppress(TimeoutError):
                        async with asyncio.timeout(WORKER_END_SECONDS):
                            await asyncio.shield(exited)
                    await self.kill()
                elif self.serving.is_set() and silent > WORKER_SILENCE_SECONDS:
                    _log.error("worker %d does not report since %.0f s: killing it", self.number, silent)
                    await self.kill()
            return exited.result()
        finally:
            closed.cancel()
            exited.cancel()
            await asyncio.gather(closed, exited, return_exceptions=True)
            await self.channel.close()

    async def kill(self) -> None:
        """`kill -9`; returns when the process has ended. Idempotent."""
        if self.process is None:
            return
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    def _catch_up(self) -> None:
        """Announce what was left out."""
        if self._is_behind:
            self._is_behind = False
            self.post(messages.Started(self._pool.positions.visible))

    def _handle(self, message: messages.Message) -> Awaitable[messages.Message] | None:
        self.reported_at = asyncio.get_running_loop().time()
        match message:
            case messages.Serving():
                self.serving.set()
            case messages.Damaged(text):
                self._pool.service.projector.report_damage(ViewDamaged(text))
            case messages.Report(silence, in_flight):
                self.in_flight = in_flight
                return self._pool.report(silence)
            case messages.Forward():
                return self._pool.answer(message)
            case _:
                _log.error("worker %d sent an unexpected %s", self.number, type(message).__name__)
        return None


class WorkerPool:
    """The workers of a service; made by `start`.

    It is a listener of the projector, and a reader of the view's file that is suspended during a rebuild.

    Attributes:
        address: that the workers listen on, with `port`.
        restarts: how many workers were replaced.
    """

    END_SECONDS = WORKER_END_SECONDS

    def __init__(self, service: Service, settings: Settings, address: str) -> None:
        self.service = service
        self.address = address
        self.restarts = 0
        assert service.positions is not None
        self.positions = service.positions
        self.port = free_port(address, settings.port)
        self._hold = _hold_port(address, self.port)
        self._settings = settings
        self._router = create_router()
        self._capacity = Capacity()
        self._totals = Totals()
        self._workers: dict[int, Worker] = {}  # the running process of each number
        self._supervisors: list[asyncio.Task[int]] = []
        self._states: asyncio.Task[None] | None = None
        self._suspended: messages.Failure | None = None
        self._draining = asyncio.Event()

    @classmethod
    async def start(cls, service: Service, settings: Settings, address: str) -> "WorkerPool":
        """Start all workers, and wait until each accepts requests.

        Raises:
            NotReady: one does not start, or the port is in use.
        """
        pool = cls(service, settings, address)
        try:
            await service.monitor.observe()
            await service.projector.add_view_reader(pool)
            service.projector.attach(pool)
            service.metrics.source = pool
            service.metrics.workers.watch(pool)
            pool._states = asyncio.create_task(pool._announce_states())
            pool._supervisors = [
                asyncio.create_task(pool._supervise(number)) for number in range(1, settings.workers + 1)
            ]
            await pool._wait_serving()
        except BaseException:
            await pool.stop()
            raise
        return pool

    # --- in place of an `HttpServer` ------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests and feeds in flight, as the workers last reported."""
        return sum(worker.in_flight for worker in self._workers.values())

    def stop_accepting(self) -> None:
        """Let every worker drain: it accepts no new connection, and answers the requests in flight."""
        self._draining.set()
        for worker in self._workers.values():
            worker.post(messages.Drain())

    async def wait_ended(self) -> None:
        """Wait until every worker has ended after `stop_accepting`.

        Raises:
            NotReady: one did not answer every request in flight.
        """
        codes = await asyncio.gather(*map(asyncio.shield, self._supervisors))
        if any(codes):
            raise NotReady(f"workers ended with the exit codes {', '.join(map(str, codes))}")

    async def stop(self) -> None:
        """End the workers without waiting for requests in flight."""
        self._draining.set()
        for task in self._supervisors:
            task.cancel()
        if self._states is not None:
            self._states.cancel()
        await asyncio.gather(*self._supervisors, *filter(None, (self._states,)), return_exceptions=True)
        for worker in tuple(self._workers.values()):
            await worker.kill()
        self._hold.close()

    @property
    def pids(self) -> list[int]:
        """The processes of the workers."""
        return [each.process.pid for each in self._workers.values() if each.process is not None]

    # --- supervision ----------------------------------------------------------------------------------------

    @property
    def running(self) -> int:
        """How many workers accept requests."""
        return sum(worker.serving.is_set() for worker in self._workers.values())

    async def _supervise(self, number: int) -> int:
        """Keep one worker running until the drain; returns the exit code of the last one."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(WORKER_RESTART_SECONDS, WORKER_RESTART_MAX_SECONDS)
        while True:
            began = loop.time()
            code = await self._run(Worker(self, number))
            if self._draining.is_set():
                return code
            if loop.time() - began >= WORKER_STABLE_SECONDS:
                backoff.reset()
            wait_seconds = backoff.next_seconds()
            self.restarts += 1
            _log.error(
                "worker %d ended unexpectedly (%s); another one starts in %.1f s",
                number,
                _ending(code),
                wait_seconds,
            )
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_seconds):
                    await self._draining.wait()
                    return code

    async def _run(self, worker: Worker) -> int:
        """Run one worker to its end."""
        self._workers[worker.number] = worker
        try:
            await worker.start()
            if self._draining.is_set():
                worker.post(messages.Drain())
            limit = asyncio.create_task(self._limit_start(worker))
            try:
                return await worker.wait_ended()
            finally:
                limit.cancel()
        except OSError as error:  # no process, no memory
            _log.error("worker %d can't be started: %s", worker.number, error)
            return 1
        except Exception:  # noqa: BLE001 - a defect must not leave the service without this worker for good
            _log.exception("the supervision of worker %d failed", worker.number)
            return 1
        finally:
            await worker.kill()
            if self._workers.get(worker.number) is worker:
                del self._workers[worker.number]
            self._totals.retire(worker.number)

    async def _limit_start(self, worker: Worker) -> None:
        try:
            async with asyncio.timeout(WORKER_START_SECONDS):
                await worker.serving.wait()
        except TimeoutError:
            _log.error("worker %d does not serve after %g s: killing it", worker.number, WORKER_START_SECONDS)
            await worker.kill()
            return
        assert worker.process is not None
        _log.info("worker %d serves (process %d)", worker.number, worker.process.pid)

    async def _wait_serving(self) -> None:
        """Wait for all workers; the first failure ends the start."""
        serving = asyncio.create_task(self._all_serving())
        try:
            while not serving.done():
                await asyncio.wait((serving,), timeout=_POLL_SECONDS / 20)
                if self.restarts:
                    raise NotReady("a worker of this service does not start; its log lines have the reason")
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def _all_serving(self) -> None:
        for number in range(1, self._settings.workers + 1):
            while number not in self._workers:  # noqa: ASYNC110 - its task starts in a moment
                await asyncio.sleep(0)
            await self._workers[number].serving.wait()

    def start_message(self, number: int) -> messages.Start:
        """What a new worker needs to know."""
        service, projector = self.service, self.service.projector
        return messages.Start(
            settings=self._settings,
            url=service.server.url if service.server is not None else self._settings.nats_url,
            number=number,
            workers=self._settings.workers,
            address=self.address,
            port=self.port,
            sequence=self.positions.visible,
            state=projector.state,
            trouble=projector.trouble,
            error=messages.Failure.of(projector.error) if projector.error is not None else None,
            suspended=self._suspended,
            requires_tokens=not service.tokens.is_open,
        )

    # --- the projector --------------------------------------------------------------------------------------

    def on_start(self, sequence: int) -> None:
        """See `ProjectionListener.on_start`."""
        self.positions.set_visible(sequence)
        for worker in self._workers.values():
            worker.post(messages.Started(sequence))

    def on_advance(self, after: int, up_to: int, folded: Sequence[Folded] | None) -> None:
        """See `ProjectionListener.on_advance`. The position first: a woken worker reads it."""
        self.positions.set_visible(up_to)
        encoded = None
        if folded is not None and any(map(self.positions.has_feeds, self._workers)):
            encoded = messages.encode(messages.Advanced(after, up_to, [*map(feed_event, folded)]))
            if len(encoded) > CHANNEL_BUFFER_BYTES:
                encoded = None
        for worker in self._workers.values():
            worker.advance(after, up_to, encoded)

    def on_stop(self, error: JobledgerError | None) -> None:
        """See `ProjectionListener.on_stop`; `_announce_states` announces it."""

    async def suspend(self, why: ViewError) -> None:
        """See `ViewReader.suspend`."""
        self._suspended = messages.Failure.of(why)
        await asyncio.gather(*(worker.suspend(self._suspended) for worker in self._workers.values()))

    async def resume(self) -> None:
        """See `ViewReader.resume`: the workers open the new file by themselves."""
        self._suspended = None
        for worker in self._workers.values():
            worker.post(messages.Resume())

    async def _announce_states(self) -> None:
        projector = self.service.projector
        while True:
            state, trouble = projector.state, projector.trouble
            failure = messages.Failure.of(projector.error) if projector.error is not None else None
            for worker in self._workers.values():
                worker.post(messages.StateChanged(state, trouble, failure))
            await projector.wait_state_change(state, trouble)

    # --- requests of the workers ----------------------------------------------------------------------------

    async def report(self, silence: str) -> messages.Message:
        """The owner's checks, for a worker whose appends get no answer for this reason."""
        monitor = self.service.monitor
        if silence:
            monitor.report_silence(silence)
        return messages.Reported(
            [messages.CheckResult(*check) for check in monitor.checks],
            monitor.suspension,
            monitor.latest.append_error,
        )

    async def answer(self, request: messages.Forward) -> messages.Message:
        """Answer a request that a worker has let in."""
        scope: dict[str, Any] = {
            "type": "http",
            "method": request.method,
            "path": request.path,
            "query_string": request.query_string,
            "headers": request.headers,
            "scheme": request.scheme,
            "state": {
                "request_id": request.request_id,
                "service": self.service,
                "principal": request.principal,
                "body": request.body,
                "session": request.session,
                "headers": first_headers(request.headers)[0],
            },
        }
        try:
            with self._capacity.working(request.client, is_write=request.method not in READS):
                response = await self._router.respond(scope, _no_body)
                assert isinstance(response, Response), request.path
        except Exception as error:  # noqa: BLE001 - every error is answered
            if is_internal(error):
                log_failure(error, scope)
            response = problem_response(error, scope)
        return messages.Forwarded(response.status, response.headers, response.body)

    async def collect(self) -> Totals:
        """The metrics of all workers, including those that have ended."""

        async def ask(worker: Worker) -> None:
            if worker.channel is None or not worker.serving.is_set():
                return
            with suppress(JobledgerError):  # those that it sent last are used
                reply = await worker.channel.call(messages.Collect(), WORKER_COLLECT_SECONDS)
                assert isinstance(reply, messages.Collected)
                if self._workers.get(worker.number) is worker:  # its counts are kept already if it ended
                    self._totals.update(worker.number, reply.families)

        await asyncio.gather(*map(ask, tuple(self._workers.values())))
        return self._totals


async def _no_body() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


def _hold_port(address: str, port: int) -> socket.socket:
    """Bind the port without listening: only sockets of this user with SO_REUSEPORT can bind it then."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    held = socket.socket(family, socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind((address, port))
    except BaseException:
        held.close()
        raise
    return held


def _ending(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
