"""A client in its own process: `python -m tests.chaos.client '{"kind": …}'`.

It works until SIGTERM (then it completes its calls), writes its calls, or the received sequences, to a
file, and survives every fault: it retries with the same idempotency key or event id, as a well-behaved
client does.
"""

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from jobledger import (
    Contention,
    JetStreamLog,
    JobExists,
    JobledgerError,
    JobNotFound,
    JobSpec,
    JobTerminal,
    Ledger,
    OutcomeUnknown,
    Receipt,
    RevisionMismatch,
    State,
    StateType,
    SubscribedEvent,
    named_job_id,
    subscribe,
)
from jobledger.store.ledger import new_event_id
from jobledger.store.local_service import find_connection
from tests.chaos.history import Call, Recorder
from tests.conftest import make_spec
from tests.support.api import PREFIX, job_body

TRY_SECONDS: Final = 10.0  # for one HTTP request
TRIES: Final = 8  # of one call whose outcome is unknown
PAUSE_SECONDS: Final = 0.2  # before a call is repeated
REOPEN_SECONDS: Final = 2.0  # of failures before a library client reconnects
_VERBS: Final = ("create", "apply", "update", "state", "stop", "read")
_WEIGHTS: Final = (2, 3, 2, 10, 1, 4)
_STATES: Final = (StateType.QUEUED, StateType.RUNNING, StateType.RUNNING, StateType.COMPLETED)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The task of a client.

    Attributes:
        kind: `http` or `library` (writes), `feed` (Server-Sent Events), `subscription`.
        name: the client, or the subscription.
        file: output: calls, or `<sequence> <job id> <revision>` lines.
        urls: the services, for `http` and `feed`.
        nats_url: with credentials, for the others; empty: the embedded server in `server_directory`.
        server_directory: an embedded server, whose address changes when its service restarts.
        jobs: number of jobs shared by the writers, named `job-<number>`.
        workers: concurrent calls.
        pause_seconds: mean pause between two calls of a worker.
    """

    kind: str
    name: str
    file: str
    seed: int = 0
    urls: list[str] = []
    nats_url: str = ""
    server_directory: str = ""
    replicas: int = 1
    jobs: int = 30
    workers: int = 4
    pause_seconds: float = 0.1
    elastic: bool = False


class Stopped:
    """Set by SIGTERM."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._event.set)

    def __bool__(self) -> bool:
        return self._event.is_set()

    async def within(self, seconds: float) -> bool:
        """Wait for this time, or until it is set."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._event.wait()
        return bool(self)


class Writer:
    """The workers of one client: each chooses a verb and a job, calls, and records the call."""

    def __init__(self, plan: Plan, calls: "HttpCalls | LibraryCalls", stopped: Stopped) -> None:
        self._plan = plan
        self._calls = calls
        self._stopped = stopped
        self._recorder = Recorder(Path(plan.file))
        self._number = 0
        self._seen: dict[str, int] = {}  # the newest revision returned to this client, by job
        self._floors: dict[str, int] = {}  # the newest revision with a known position, which reads pass

    async def run(self) -> None:
        """Work until stopped."""
        async with asyncio.TaskGroup() as tasks:
            for worker in range(self._plan.workers):
                tasks.create_task(self._work(random.Random(f"{self._plan.seed}-{worker}")))

    async def _work(self, rng: random.Random) -> None:
        while not await self._stopped.within(rng.uniform(0, 2 * self._plan.pause_seconds)):
            (verb,) = rng.choices(_VERBS, _WEIGHTS)
            # Few jobs are hot, so that writers conflict.
            job = f"job-{min(rng.randrange(self._plan.jobs), rng.randrange(self._plan.jobs))}"
            self._number += 1
            call = Call(
                token=f"{self._plan.name}.{self._number}",
                client=self._plan.name,
                verb=verb,
                job=job,
                floor=self._floors.get(job, 0),
            )
            if verb == "create":
                call.expected = 0
            elif verb in ("update", "state", "stop") and rng.random() < 0.5:
                call.expected = self._seen.get(job)
            with_key = rng.random() < 0.7
            self._recorder.begin(call)
            await self._calls.call(call, rng, with_key=with_key)
            self._recorder.end(call)
            if call.outcome == "ok" or call.revision:
                self._seen[job] = max(self._seen.get(job, 0), call.revision)
                if call.sequence:  # an HTTP read returns none: the next one may use a lagging replica
                    self._floors[job] = max(self._floors.get(job, 0), call.revision)


class HttpCalls:
    """Calls over HTTP to any of the services."""

    def __init__(self, plan: Plan, stopped: Stopped) -> None:
        self._urls = plan.urls
        self._stopped = stopped
        self._client = httpx.AsyncClient(timeout=TRY_SECONDS, trust_env=False)
        self._last_sequence: dict[str, int] = {}

    async def call(self, call: Call, rng: random.Random, *, with_key: bool) -> None:  # noqa: C901 - the outcomes
        """Make a call; with a key it is repeated until its outcome is known."""
        method, path, body, parameters = self._request(call, rng)
        headers = {"Jobledger-Actor": call.client}
        if call.verb != "read":
            if with_key:
                headers["Idempotency-Key"] = call.token
            if call.verb == "create":
                headers["If-None-Match"] = "*"
            elif call.expected is not None:
                headers["If-Match"] = f'"{call.expected}"'
        for attempt in range(1, TRIES + 1):
            call.tries = attempt
            url = f"{rng.choice(self._urls)}{PREFIX}{path}"
            try:
                response = await self._client.request(
                    method, url, json=body, params=parameters, headers=headers
                )
            except httpx.TransportError as error:
                call.error = repr(error)
                if isinstance(error, httpx.ConnectError) and attempt == 1:
                    call.outcome = "refused"  # it was not sent
                    return
            else:
                if self._take(call, response, sure=attempt == 1):
                    return
            if not with_key or await self._stopped.within(PAUSE_SECONDS * attempt):
                return

    def _request(
        self, call: Call, rng: random.Random
    ) -> tuple[str, str, dict[str, Any] | None, dict[str, str]]:
        if call.verb in ("create", "apply", "update"):
            body = job_body(call.job, Meta={"call": call.token}, Priority=rng.randrange(9))
            return ("PUT", f"/jobs/{call.job}" if call.verb == "update" else "/jobs", body, {})
        if call.verb == "state":
            state = {"StateType": rng.choice(_STATES).value, "Message": call.token}
            return ("PUT", f"/jobs/{call.job}/state", state, {})
        if call.verb == "stop":
            return ("DELETE", f"/jobs/{call.job}", None, {"reason": call.token})
        sequence = self._last_sequence.get(call.job, 0)
        return (
            "GET",
            f"/jobs/{call.job}",
            None,
            {"wait_for": str(sequence), "timeout": "9s"} if sequence else {},
        )

    def _take(self, call: Call, response: httpx.Response, *, sure: bool) -> bool:
        """Record a response; returns False if the outcome is unknown or the call should be retried."""
        try:
            body = response.json()
        except ValueError:
            body = {}
        if response.status_code == httpx.codes.OK:
            call.outcome = "ok"
            body = body.get("Job", body) if call.verb == "read" else body
            call.revision = int(body["Revision"])
            call.event_id = body.get("EvaluationID", "")
            call.sequence = int(body.get("Sequence", 0))
            call.changed = bool(call.event_id) and call.verb != "read"
            self._pass_from_now_on(call)
            return True
        code = body.get("Code", "") if isinstance(body, dict) else ""
        call.error = f"{response.status_code} {code}"
        if code == "OutcomeUnknown" or response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            nothing_written = code in ("LogUnavailable", "LogBusy", "LogRefused", "NotReady")
            if sure and nothing_written:
                call.outcome = "refused"
                return True
            return False
        # After an attempt without a response, a refusal may be due to what that attempt wrote.
        if sure:
            call.outcome = "refused"
            if response.status_code == httpx.codes.PRECONDITION_FAILED:
                call.revision, call.sequence = int(body["Revision"]), int(body["Sequence"])
                self._pass_from_now_on(call)
        return True

    def _pass_from_now_on(self, call: Call) -> None:
        """Store the position of a response, which the next read of the job waits for."""
        self._last_sequence[call.job] = max(self._last_sequence.get(call.job, 0), call.sequence)


class LibraryCalls:
    """Calls directly on the log."""

    def __init__(self, plan: Plan, stopped: Stopped) -> None:
        self._plan = plan
        self._stopped = stopped
        self._ledger: Ledger | None = None
        self._log: JetStreamLog | None = None
        self._failing_since = 0.0
        self._opening = asyncio.Lock()

    async def call(self, call: Call, rng: random.Random, *, with_key: bool) -> None:  # noqa: C901 - the outcomes
        """Make a call; while its outcome is unknown it is repeated with the same event id."""
        event_id = new_event_id()
        verb = self._verb(call, rng)
        for attempt in range(1, TRIES + 1):
            call.tries = attempt
            try:
                ledger = await self._connected()
                about: dict[str, Any] = {"actor": call.client, "event_id": event_id}
                if call.expected is not None and call.verb != "create":
                    about["expected_revision"] = call.expected
                receipt = await verb(ledger, about)
            except OutcomeUnknown as error:
                call.error = repr(error)
                self._failed()
                if not with_key:
                    return
            except (RevisionMismatch, Contention) as error:
                call.error = repr(error)[:200]
                if attempt == 1:
                    call.outcome, call.revision = "refused", error.revision
                return
            except (JobExists, JobNotFound, JobTerminal) as error:
                call.error = repr(error)[:200]
                if attempt == 1:
                    call.outcome = "refused"
                return
            except JobledgerError as error:  # the log does not accept it: nothing was written
                call.error = repr(error)[:200]
                self._failed()
                if attempt == 1:
                    call.outcome = "refused"
                    return
            else:
                self._failing_since = 0.0
                call.outcome, call.error = "ok", ""
                call.revision, call.sequence = receipt.revision, receipt.sequence
                call.event_id, call.changed = receipt.event_id, receipt.changed
                return
            if await self._stopped.within(PAUSE_SECONDS * attempt):
                return

    def _verb(self, call: Call, rng: random.Random) -> Callable[[Ledger, dict[str, Any]], Awaitable[Receipt]]:
        job_id = named_job_id("default", call.job)
        if call.verb in ("create", "apply", "update"):
            spec = _spec(call, rng)
            if call.verb == "create":
                return lambda ledger, about: ledger.create(spec, **about)
            if call.verb == "apply":
                return lambda ledger, about: ledger.apply(spec, **about)
            return lambda ledger, about: ledger.update(job_id, spec, **about)
        if call.verb == "state":
            state = State(rng.choice(_STATES), call.token)
            return lambda ledger, about: ledger.set_state(job_id, state, **about)
        if call.verb == "stop":
            return lambda ledger, about: ledger.stop(job_id, **{**about, "reason": call.token})
        return lambda ledger, _: self._read(ledger, job_id, call)

    async def _read(self, ledger: Ledger, job_id: str, call: Call) -> Receipt:
        job = await ledger.load(job_id)
        call.strong = True
        status = job.status
        return Receipt(
            job_id=job_id,
            namespace="default",
            event_id="",
            sequence=status.sequence,
            revision=status.revision,
            version=status.version,
            changed=False,
        )

    def _failed(self) -> None:
        now = time.monotonic()
        self._failing_since = self._failing_since or now

    async def _connected(self) -> Ledger:
        """Return the ledger, on a new connection if the old one has failed for long."""
        async with self._opening:
            failing = time.monotonic() - self._failing_since if self._failing_since else 0.0
            if self._ledger is None or failing > REOPEN_SECONDS:
                await self.close()
                self._log = await open_log(self._plan)
                self._ledger = Ledger(self._log)
                self._failing_since = 0.0
            return self._ledger

    async def close(self) -> None:
        """Close the connection."""
        if self._log is not None:
            log, self._log, self._ledger = self._log, None, None
            with suppress(JobledgerError):
                await log.close()


def _spec(call: Call, rng: random.Random) -> JobSpec:
    return make_spec(call.job, meta={"call": call.token}, priority=rng.randrange(9))


def nats_url(plan: Plan) -> str:
    """Return the current URL of the log.

    Raises:
        JobledgerError: the embedded server is not running.
    """
    if plan.nats_url:
        return plan.nats_url
    found = find_connection(Path(plan.server_directory))
    if found is None:
        raise LogNotFound("the embedded server is not running")
    return found


class LogNotFound(JobledgerError):
    """No server is running at the moment."""


async def open_log(plan: Plan) -> JetStreamLog:
    """Connect to an existing stream: only the service creates it."""
    from jobledger import StreamSettings

    return await JetStreamLog.connect(nats_url(plan), StreamSettings(replicas=plan.replicas))


async def follow_feed(plan: Plan, stopped: Stopped) -> None:
    """Read the feed of all events, alternating between the services, resuming at its cursor."""
    after, turn = "0", 0
    with Path(plan.file).open("ab", buffering=0) as file:  # noqa: ASYNC230 - lines of some bytes
        while not stopped:
            url = f"{plan.urls[turn % len(plan.urls)]}/api/v1/events"
            turn += 1
            timeout = httpx.Timeout(10.0, read=20.0)
            with suppress(httpx.HTTPError):
                async with (
                    httpx.AsyncClient(timeout=timeout, trust_env=False) as client,
                    client.stream("GET", url, params={"after": after}) as response,
                ):
                    if response.status_code == httpx.codes.OK:
                        async for sequence, cursor, job in _messages(response):
                            after = cursor
                            file.write(f"{sequence} {job} 0\n".encode())
                            if stopped:
                                return
            await stopped.within(PAUSE_SECONDS)


async def _messages(response: httpx.Response) -> Any:
    cursor = ""
    async for line in response.aiter_lines():
        field, _, value = line.partition(": ")
        if field == "id":
            cursor = value
        elif field == "data" and cursor:
            event = msgspec.json.decode(value)
            if isinstance(event, dict) and "specversion" in event:
                yield int(cursor.rpartition("-")[2]), cursor, event["subject"]


async def handle_subscription(plan: Plan, stopped: Stopped) -> None:
    """Handle every event of a durable subscription, until SIGTERM."""
    with Path(plan.file).open("ab", buffering=0) as file:  # noqa: ASYNC230 - lines of some bytes

        async def handle(event: SubscribedEvent) -> None:
            file.write(f"{event.sequence} {event.job_id} {event.revision}\n".encode())

        while not stopped:
            try:
                address = nats_url(plan)
                log = await open_log(plan)
                try:
                    options: dict[str, Any] = {"elastic": True} if plan.elastic else {}
                    async with subscribe(log, plan.name, **options) as events:
                        running = asyncio.create_task(events.run(handle))
                        ending = asyncio.create_task(_until_moved(plan, address, stopped))
                        await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
                        for task in (running, ending):
                            task.cancel()
                        await asyncio.gather(running, ending, return_exceptions=True)
                finally:
                    with suppress(JobledgerError):
                        await log.close()
            except (JobledgerError, OSError) as error:
                print(plan.name, repr(error), file=sys.stderr, flush=True)
            await stopped.within(PAUSE_SECONDS)


async def _until_moved(plan: Plan, address: str, stopped: Stopped) -> None:
    """Wait until stopped, or until the address of the embedded server has changed."""
    while not await stopped.within(0.5):
        with suppress(JobledgerError):
            if nats_url(plan) != address:
                return


async def main(plan: Plan) -> None:
    """Execute the plan until SIGTERM."""
    stopped = Stopped()
    if plan.kind == "feed":
        await follow_feed(plan, stopped)
    elif plan.kind == "subscription":
        await handle_subscription(plan, stopped)
    else:
        calls = HttpCalls(plan, stopped) if plan.kind == "http" else LibraryCalls(plan, stopped)
        await Writer(plan, calls, stopped).run()
    os._exit(0)  # a connection that hangs in a fault must not keep the process alive


if __name__ == "__main__":
    asyncio.run(main(msgspec.json.decode(sys.argv[1], type=Plan)))
