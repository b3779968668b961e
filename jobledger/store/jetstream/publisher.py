"""Group commit: many callers' appends, sent the cheapest way, each getting its own answer.

    append ─► queue ─┬─ one by one over a shared inbox ──────────────► acks ─► Appended / Lost
                     └─ one atomic batch ─► committed ──────────────► sequences in a row
                                         └► rejected ─► one by one (so one conflict never fails its neighbours)
    no answer, connection lost ─► settle: the same message again, then a look at the leader

Never `js.publish_async`: a server error leaves its future unresolved for ever. See `docs/decisions/`.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from jobledger.store.errors import LogBusy, LogError, LogRefused, LogUnavailable, OutcomeUnknown
from jobledger.store.jetstream.api import PubAck, read_ack
from jobledger.store.jetstream.connection import Arrived, Connection, new_token
from jobledger.store.jetstream.pace import PROBE_EVENTS, Pace
from jobledger.store.jetstream.settle import Settler, Waiting
from jobledger.store.limits import (
    ACK_TIMEOUT_SECONDS,
    APPEND_TIMEOUT_SECONDS,
    BATCH_MAX_BYTES,
    BATCH_MAX_EVENTS,
    PENDING_MAX_APPENDS,
    SINGLES_MAX_IN_FLIGHT,
)
from jobledger.store.log import Appended, Draft, Lost

CLOSE_TIMEOUT_SECONDS = 10.0
HEADERS_MAX_BYTES = (
    1_024  # ours take some 300; the server counts them into max_payload, and hangs up above it
)
PORTION_EVENTS = 32  # of a batch: sent, or answered, before others get their turn on the event loop
_SWEEP_SECONDS = 0.25


class Batch:
    """An atomic batch while it is being sent."""

    def __init__(self, batch_id: str) -> None:
        self.id = batch_id
        self.members: list[Waiting] = []
        self.subjects: set[str] = set()
        self.size = 0

    def add(self, waiting: Waiting) -> None:
        self.members.append(waiting)
        self.subjects.add(waiting.draft.subject)
        self.size += len(waiting.draft.payload)


class Publisher:
    """The appending half of the JetStream log; made by `start`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._queue: deque[Waiting] = deque()
        self._in_flight: dict[str, Waiting] = {}
        self._answers: deque[tuple[Waiting, int]] = deque()  # of the last batch, not yet given
        self._batch_reply: asyncio.Future[PubAck] | None = None
        self._batch_token = ""
        self._settling: set[asyncio.Task[None]] = set()
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._pace = Pace()
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._tokens = 0
        self._inbox = ""
        self._closed = False
        self._settler = Settler(connection, stream)
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, connection: Connection, stream: str) -> "Publisher":
        """Open the inbox for answers and begin."""
        publisher = cls(connection, stream)
        publisher._inbox = await connection.subscribe(publisher._on_answer)
        connection.watch(publisher._on_connection)
        publisher._tasks = [
            asyncio.create_task(publisher._send_loop()),
            asyncio.create_task(publisher._sweep_loop()),
        ]
        for task in publisher._tasks:
            task.add_done_callback(publisher._on_end)
        return publisher

    async def append(self, draft: Draft, *, expect: int) -> Appended | Lost:
        """See `EventLog.append`."""
        if self._closed:
            raise LogUnavailable("the log is closed; nothing was written")
        if len(draft.payload) + HEADERS_MAX_BYTES > self._connection.max_payload:
            raise LogRefused(
                f"the event has {len(draft.payload)} bytes, and the server takes {self._connection.max_payload} with"
                " headers; make the spec smaller, or raise max_payload in the server's configuration"
            )
        if len(self._queue) >= PENDING_MAX_APPENDS:
            raise LogBusy(
                f"{PENDING_MAX_APPENDS} appends are waiting; nothing was written; slow down and try again"
            )
        loop = asyncio.get_running_loop()
        waiting = Waiting(draft, expect, loop.create_future(), loop.time() + APPEND_TIMEOUT_SECONDS)
        self._queue.append(waiting)
        self._work.set()
        return await waiting.result

    async def close(self) -> None:
        """Answer what is under way, within a bound, and stop."""
        self._closed = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_SECONDS):
                while self._queue or self._in_flight or self._settling or self._batch_reply or self._answers:
                    await asyncio.sleep(0.005)
        except TimeoutError:
            pass
        for task in (*self._tasks, *self._settling):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._settling, return_exceptions=True)
        self._fail_all()
        self._connection.unwatch(self._on_connection)
        await self._connection.unsubscribe(self._inbox)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """A loop that ends by an error of ours must not leave its callers waiting for ever."""
        if not task.cancelled() and task.exception() is not None:
            self._closed = True
            self._fail_all()

    def _fail_all(self) -> None:
        self._give_answers(len(self._answers))
        for waiting in (*self._queue, *self._in_flight.values()):
            waiting.fail(_closing(waiting))
        self._queue.clear()
        self._in_flight.clear()

    # --- sending ----------------------------------------------------------------------------------------------

    async def _send_loop(self) -> None:
        while True:
            if not self._answers:
                await self._work.wait()
            await self._let_callers_run()
            if not self._connection.is_up:
                self._give_answers(len(self._answers))
                await self._wait_for_connection()
                continue
            demand = len(self._queue) + len(self._in_flight) + len(self._answers)
            if self._pace.prefers_batch(demand):
                if self._pace.probe_due():
                    await self._send_singles(PROBE_EVENTS)
                if self._in_flight:
                    await self._drain()
                else:
                    await self._send_batch()
            else:
                self._give_answers(len(self._answers))
                room = SINGLES_MAX_IN_FLIGHT - len(self._in_flight)
                if room <= 0:
                    await self._drain()
                else:
                    await self._send_singles(room)
            if not self._queue:
                self._work.clear()

    async def _let_callers_run(self) -> None:
        """Answer a portion of the last batch, and let callers that were woken append again.

        In portions, so that the server is already busy with the next batch while most callers are still being woken.
        """
        self._give_answers(PORTION_EVENTS)
        await asyncio.sleep(0)

    def _give_answers(self, most: int) -> None:
        for _ in range(min(most, len(self._answers))):
            waiting, sequence = self._answers.popleft()
            waiting.answer(Appended(sequence))

    async def _wait_for_connection(self) -> None:
        try:
            await self._connection.wait_up(_SWEEP_SECONDS)
        except LogUnavailable as error:
            now = self._now()
            while self._queue and self._queue[0].deadline <= now:
                self._queue.popleft().fail(error)
            if not self._queue:
                self._work.clear()

    async def _drain(self) -> None:
        """Wait until single publishes under way are answered (or given to the settler)."""
        self._drained.clear()
        if self._in_flight:
            await self._drained.wait()

    async def _send_singles(self, most: int) -> None:
        for _ in range(min(most, len(self._queue))):
            waiting = self._queue.popleft()
            if not waiting.result.cancelled():
                await self._send_single(waiting)

    async def _send_single(self, waiting: Waiting) -> None:
        self._tokens += 1
        token = str(self._tokens)
        waiting.sent_at = self._now()
        self._in_flight[token] = waiting
        self._pace.single_sent(waiting.sent_at, len(self._in_flight))
        draft = waiting.draft
        try:
            await self._connection.publish(
                draft.subject, draft.payload, self._inbox + token, waiting.headers()
            )
        except LogError as error:
            self._landed(token)
            waiting.fail(error)

    async def _send_batch(self) -> None:
        """One atomic batch (NATS ADR-50) of what waits, and of what comes while it is being sent."""
        batch = Batch(new_token())
        started = self._now()
        try:
            while True:
                sent = await self._send_portion(batch)
                await self._let_callers_run()  # and the client library write what it has
                if not (self._answers or (sent and self._queue)):
                    break
            if len(batch.members) < 2:
                for waiting in batch.members:
                    await self._send_single(waiting)
                return
            ack = await self._commit(batch)
        except LogError:
            ack = None
        if ack is None or (ack.error.may_pass if ack.error else ack.count != len(batch.members)):
            for waiting in batch.members:  # no clear answer: each is settled by itself
                self._settle(waiting, maybe_written=True)
        elif ack.error is not None:
            # Atomic, so nothing was written; which one was to blame the server does not say.
            for waiting in batch.members:
                await self._send_single(waiting)
        else:
            self._pace.batch_acknowledged(self._now() - started, len(batch.members))
            self._answers.extend(zip(batch.members, range(ack.seq - ack.count + 1, ack.seq + 1), strict=True))

    async def _send_portion(self, batch: "Batch") -> bool:
        """Send some of what waits as part of the batch, all but the last, which may have to carry the commit.

        At most one per subject: the server refuses the expectation of a second one. Returns whether any was taken.
        """
        left: list[Waiting] = []
        before = len(batch.members)
        for _ in range(min(PORTION_EVENTS, len(self._queue))):
            if len(batch.members) == BATCH_MAX_EVENTS or batch.size > BATCH_MAX_BYTES:
                break
            waiting = self._queue.popleft()
            if waiting.draft.subject in batch.subjects:
                left.append(waiting)
            elif not waiting.result.cancelled():
                if batch.members:
                    await self._send_member(batch, len(batch.members))
                batch.add(waiting)
        self._queue.extendleft(reversed(left))
        return len(batch.members) > before

    async def _send_member(self, batch: "Batch", number: int, reply: str = "") -> None:
        waiting = batch.members[number - 1]
        headers = waiting.headers()
        headers["Nats-Batch-Id"] = batch.id
        headers["Nats-Batch-Sequence"] = str(number)
        if reply:
            headers["Nats-Batch-Commit"] = "1"
        waiting.sent_at = self._now()
        await self._connection.publish(waiting.draft.subject, waiting.draft.payload, reply, headers)

    async def _commit(self, batch: "Batch") -> PubAck | None:
        """Send the batch's last message, which commits it; returns the answer, or None if there is none."""
        self._tokens += 1
        self._batch_token = f"b{self._tokens}"
        self._batch_reply = asyncio.get_running_loop().create_future()
        try:
            await self._send_member(batch, len(batch.members), self._inbox + self._batch_token)
            async with asyncio.timeout(ACK_TIMEOUT_SECONDS):
                return await self._batch_reply
        except TimeoutError:
            return None
        finally:
            self._batch_reply = None

    # --- answers ----------------------------------------------------------------------------------------------

    def _on_answer(self, message: Arrived) -> None:
        token = message.subject[len(self._inbox) :]
        ack = read_ack(message)
        if token == self._batch_token:
            if self._batch_reply is not None and not self._batch_reply.done():
                self._batch_reply.set_result(ack)
            return
        waiting = self._landed(token)
        if waiting is None:  # an answer that came too late: its append is being settled
            return
        self._pace.single_acknowledged(self._now(), len(self._in_flight))
        if ack.error is None:
            waiting.answer(Appended(ack.seq))
        else:
            self._settle(waiting, maybe_written=False, ack=ack)

    def _landed(self, token: str) -> Waiting | None:
        waiting = self._in_flight.pop(token, None)
        if not self._in_flight:
            self._drained.set()
        return waiting

    # --- trouble ----------------------------------------------------------------------------------------------

    def _on_connection(self, up: bool) -> None:
        """What was under way when the connection broke will not be answered: settle it now, not after the timeout."""
        if up:
            return
        if self._batch_reply is not None and not self._batch_reply.done():
            self._batch_reply.set_exception(LogUnavailable("connection lost"))
        for token in tuple(self._in_flight):
            waiting = self._landed(token)
            if waiting is not None:
                self._settle(waiting, maybe_written=True)

    async def _sweep_loop(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            late = self._now() - ACK_TIMEOUT_SECONDS
            for token, waiting in tuple(self._in_flight.items()):
                if waiting.sent_at > late:
                    break  # in the order of sending: the rest is younger
                self._landed(token)
                self._settle(waiting, maybe_written=True)

    def _settle(self, waiting: Waiting, *, maybe_written: bool, ack: PubAck | None = None) -> None:
        waiting.maybe_written |= maybe_written
        task = asyncio.create_task(self._settle_one(waiting, ack))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)

    async def _settle_one(self, waiting: Waiting, ack: PubAck | None) -> None:
        try:
            waiting.answer(await self._settler.settle(waiting, ack))
        except LogError as error:
            waiting.fail(error)
        except asyncio.CancelledError:
            waiting.fail(_closing(waiting))
            raise


def _closing(waiting: Waiting) -> LogError:
    if waiting.maybe_written or waiting.sent_at:
        return OutcomeUnknown(
            "the log was closed before the server answered; the event may or may not be written:"
            f" ask again with the event id {waiting.draft.event_id}",
            event_id=waiting.draft.event_id,
        )
    return LogUnavailable("the log was closed; nothing was written")
