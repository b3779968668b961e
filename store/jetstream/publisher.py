"""Group commit: many callers' appends, sent the cheapest way, each getting its own answer.

    append ─► queue ─┬─ one by one over a shared inbox ──────────────► acks ─► Appended / Lost
                     └─ one atomic batch ─► committed ──────────────► sequences in a row
                                         └► rejected ─► one by one (one conflict fails no neighbour)
    the breaker is open ─► refused at once, nothing written
    no answer, connection lost ─► settle: the same message again, then a look at the leader

Never `js.publish_async`: a server error leaves its future unresolved for ever. See `docs/decisions/`.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from jobledger.store.jetstream.api import PubAck, read_ack
from jobledger.store.jetstream.batching import PROBE_EVENTS, BatchingPolicy
from jobledger.store.jetstream.breaker import Breaker
from jobledger.store.jetstream.connection import Connection, Message, new_token
from jobledger.store.jetstream.reconcile import PendingAppend, Reconciler
from jobledger.store.log import Appended, PendingEvent, WrongSequence, refused
from jobledger.store.model.errors import LogBusy, LogError, LogRefused, LogUnavailable
from jobledger.store.model.limits import (
    ACK_TIMEOUT_SECONDS,
    APPENDS_SILENCE_SECONDS,
    BATCH_MAX_BYTES,
    BATCH_MAX_EVENTS,
    PENDING_MAX_APPENDS,
    SINGLES_MAX_IN_FLIGHT,
    SUSPENSION_SECONDS,
)


class Batch:
    """An atomic batch while it is being filled and sent."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id = new_token()
        self._subjects: set[str] = set()
        self._bytes = 0
        self.members: list[PendingAppend] = []
        self.commit_sent = False  # until then nothing of it can be in the log

    def has_subject(self, subject: str) -> bool:
        """Whether an event of this subject is in it: the server refuses the expectation of a second one."""
        return subject in self._subjects

    def has_room(self, waiting: PendingAppend) -> bool:
        """Whether one more event keeps it within the limits. The first always does."""
        return not self.members or (
            len(self.members) < BATCH_MAX_EVENTS
            and self._bytes + len(waiting.draft.payload) <= BATCH_MAX_BYTES
        )

    def add(self, waiting: PendingAppend) -> None:
        """Take one in; it is sent when the next one is taken, or by `commit`."""
        self.members.append(waiting)
        self._subjects.add(waiting.draft.subject)
        self._bytes += len(waiting.draft.payload)

    async def commit(self, reply: str, now: float) -> None:
        """Send the last member, which makes the server write all of them and answer to `reply`."""
        self.commit_sent = True
        await self.send(len(self.members), now, reply)

    async def send(self, number: int, now: float, reply: str = "") -> None:
        """Send a member, counted from 1; with a `reply` it carries the commit."""
        waiting = self.members[number - 1]
        waiting.sent_at = now
        headers = waiting.headers()
        headers["Nats-Batch-Id"] = self._id
        headers["Nats-Batch-Sequence"] = str(number)
        if reply:
            headers["Nats-Batch-Commit"] = "1"
        await self._connection.publish(waiting.draft.subject, waiting.draft.payload, reply, headers)


CLOSE_TIMEOUT_SECONDS = 10.0
HEADERS_MAX_BYTES = 1_024  # ours take some 300; the server counts them into max_payload
PORTION_EVENTS = 32  # of a batch: sent, or answered, before others get their turn on the event loop
_TOKEN = re.compile("[!-~]+")  # printable ASCII without space: nothing that could end a header or a command
_SWEEP_SECONDS = 0.25


class Publisher:
    """The appending half of the JetStream log; made by `start`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._queue: deque[PendingAppend] = deque()
        self._in_flight: dict[str, PendingAppend] = {}
        self._answers: deque[tuple[PendingAppend, int]] = deque()  # of the last batch, not yet given
        self._batch: Batch | None = None  # being sent
        self._batch_reply: asyncio.Future[PubAck | None] | None = None
        self._batch_token = ""
        self._settling: dict[asyncio.Task[None], PendingAppend] = {}
        self._work = asyncio.Event()
        self._drained = asyncio.Event()
        self._pace = BatchingPolicy()
        self._loop = asyncio.get_running_loop()
        self._now: Callable[[], float] = self._loop.time
        self._tokens = 0
        self._inbox = ""
        self._closed = False
        self._settler = Reconciler(connection, stream)
        self._breaker = Breaker(self._now())
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

    async def append(self, draft: PendingEvent, *, expect: int) -> Appended | WrongSequence:
        """See `EventLog.append`."""
        try:
            waiting = self._admit(draft, expect)
        except LogError:
            # A caller may try again at once; what ends the trouble (a reconnect, a restart) needs the loop.
            await asyncio.sleep(0)
            raise
        self._queue.append(waiting)
        self._work.set()
        return await waiting.result

    def _admit(self, draft: PendingEvent, expect: int) -> PendingAppend:
        """An append that may wait for its answer.

        Raises:
            LogUnavailable: if the log is closed, or accepts none for now.
            LogRefused: if it can never be taken.
            LogBusy: if too many are waiting.
        """
        if self._closed:
            raise LogUnavailable("the log is closed; nothing was written")
        if not (_TOKEN.fullmatch(draft.subject) and _TOKEN.fullmatch(draft.event_id)):
            raise LogRefused(
                f"subject {draft.subject!r} or event id {draft.event_id!r} has a character that NATS"
                " does not take; make the subject with `job_subject`, and the event id a UUID"
            )
        if len(draft.payload) + HEADERS_MAX_BYTES > self._connection.max_payload:
            raise LogRefused(
                f"the event has {len(draft.payload)} bytes, and the server takes"
                f" {self._connection.max_payload} with headers; make the spec smaller, or raise the server's"
                " max_payload"
            )
        if self._pending_count() >= PENDING_MAX_APPENDS:
            raise LogBusy(
                f"{PENDING_MAX_APPENDS} appends are waiting; nothing was written; slow down and try again"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise LogRefused("this log was connected on another event loop; connect one on each loop")
        waiting = PendingAppend(draft, expect, self._loop.create_future(), self._now())
        if problem := self.problem:
            if self.refusal:
                raise refused(problem)
            self._breaker.note_trial(self._now())
            waiting.become_trial()
        return waiting

    @property
    def refusal(self) -> str:
        """Why an append would be refused at once; empty if it would be sent."""
        problem = self.problem
        # While the log is silent, one append is tried at a time; those that wait for an answer are tries.
        if problem and self._breaker.admits(self._now()) and not self._pending_count():
            return ""
        return problem

    @property
    def problem(self) -> str:
        """Why the log does not accept appends; empty if it does, as far as is known."""
        return self._breaker.problem(self._now())

    @property
    def silence(self) -> str:
        """Why it does not, if appends were not answered; empty if they were."""
        return self._breaker.silence

    @property
    def silent_seconds(self) -> float:
        """The time since an append was last acknowledged, or since the start."""
        return self._now() - self._breaker.answered_at

    def suspend(self, reason: str) -> None:
        """Refuse appends at once, for this reason, until `resume`, or until SUSPENSION_SECONDS are over.

        Appends that were sent already are settled as always; those that were not are refused.
        """
        self._breaker.suspend(reason, self._now() + SUSPENSION_SECONDS)
        self._refuse_unsent()

    def resume(self) -> None:
        """End a suspension."""
        self._breaker.resume()

    def retry(self) -> None:
        """Accept appends again after a silence: the log has a new leader, or answers again."""
        self._breaker.restart(self._now())

    async def close(self) -> None:
        """Answer what is under way, within a bound, and stop."""
        self._closed = True
        pending = [waiting.result for waiting in self._pending()]
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_TIMEOUT_SECONDS)
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
        for waiting in self._pending():
            waiting.give_up()
        self._queue.clear()
        self._in_flight.clear()
        self._batch = None

    def _pending(self) -> list[PendingAppend]:
        """Every append that is not answered yet, wherever it is."""
        members = self._batch.members if self._batch is not None else ()
        given = (waiting for waiting, _ in self._answers)
        return [*self._queue, *self._in_flight.values(), *members, *given, *self._settling.values()]

    def _pending_count(self) -> int:
        count = len(self._queue) + len(self._in_flight) + len(self._answers) + len(self._settling)
        return count + (len(self._batch.members) if self._batch is not None else 0)

    # --- sending --------------------------------------------------------------------------------------------

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

        In portions, so that the server is already busy with the next batch while most callers are still being
        woken.
        """
        self._give_answers(PORTION_EVENTS)
        await asyncio.sleep(0)

    def _give_answers(self, most: int) -> None:
        for _ in range(min(most, len(self._answers))):
            waiting, sequence = self._answers.popleft()
            waiting.answer(Appended(sequence))

    async def _wait_for_connection(self) -> None:
        with suppress(LogUnavailable):
            await self._connection.wait_up(_SWEEP_SECONDS)
        if not self._queue:
            self._work.clear()

    async def _drain(self) -> None:
        """Wait until single publishes under way are answered (or given to the settler)."""
        self._drained.clear()
        if self._in_flight:
            await self._drained.wait()

    async def _send_singles(self, most: int) -> None:
        for _ in range(most):
            if not self._queue:  # the sweep may have emptied it meanwhile
                break
            waiting = self._queue.popleft()
            if not waiting.result.cancelled():
                await self._send_single(waiting)

    async def _send_single(self, waiting: PendingAppend) -> None:
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
        """One atomic batch of what waits, and of what comes while it is being sent."""
        batch = self._batch = Batch(self._connection)
        started = self._now()
        ack = await self._fill_and_commit(batch)
        self._batch = None
        members = batch.members
        if (ack is not None and ack.error is not None and not ack.error.may_pass) or len(members) < 2:
            # Atomic, so nothing was written; which one was to blame the server does not say.
            self._queue.extendleft(reversed(members))
            if self._connection.is_up:
                await self._send_singles(len(members))
        elif ack is not None and ack.error is None and ack.count == len(members):
            self._pace.batch_acknowledged(self._now() - started, len(members))
            self._breaker.acknowledge(self._now())
            self._answers.extend(zip(members, range(ack.seq - ack.count + 1, ack.seq + 1), strict=True))
        else:
            for waiting in members:  # no clear answer: each is settled by itself
                self._settle(waiting, maybe_written=batch.commit_sent)

    async def _fill_and_commit(self, batch: Batch) -> PubAck | None:
        """Send the batch; returns the answer, or None if there is none (or nothing worth a batch)."""
        try:
            while True:
                sent = await self._send_portion(batch)
                await self._let_callers_run()  # and the client library write what it has
                if not self._connection.is_up:
                    return None
                if not (self._answers or (sent and self._queue)):
                    break
            return await self._commit(batch) if len(batch.members) > 1 else None
        except LogError:
            return None

    async def _send_portion(self, batch: Batch) -> bool:
        """Send some of what waits as part of the batch, all but the last, which may have to carry the commit.

        At most one event per subject; others stay in the queue. Returns whether any was taken.
        """
        left: list[PendingAppend] = []
        before = len(batch.members)
        try:
            for _ in range(min(PORTION_EVENTS, len(self._queue))):
                if not self._queue or not batch.has_room(self._queue[0]):
                    break
                waiting = self._queue.popleft()
                if batch.has_subject(waiting.draft.subject):
                    left.append(waiting)
                elif not waiting.result.done():
                    batch.add(waiting)
                    if len(batch.members) > 1:
                        await batch.send(len(batch.members) - 1, self._now())
        finally:
            self._queue.extendleft(reversed(left))
        return len(batch.members) > before

    async def _commit(self, batch: Batch) -> PubAck | None:
        self._tokens += 1
        self._batch_token = f"b{self._tokens}"
        reply: asyncio.Future[PubAck | None] = self._loop.create_future()
        self._batch_reply = reply
        try:
            await batch.commit(self._inbox + self._batch_token, self._now())
            async with asyncio.timeout(ACK_TIMEOUT_SECONDS):
                return await reply
        except TimeoutError:
            return None
        finally:
            self._batch_reply = None

    # --- answers --------------------------------------------------------------------------------------------

    def _on_answer(self, message: Message) -> None:
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
            self._breaker.acknowledge(self._now())
            waiting.answer(Appended(ack.seq))
        else:
            self._settle(waiting, maybe_written=False, ack=ack)

    def _landed(self, token: str) -> PendingAppend | None:
        waiting = self._in_flight.pop(token, None)
        if not self._in_flight:
            self._drained.set()
        return waiting

    # --- trouble --------------------------------------------------------------------------------------------

    def _on_connection(self, up: bool) -> None:
        """What was under way when the connection broke will not be answered: settle it now."""
        if up:
            self._breaker.restart(self._now())
            return
        if self._batch_reply is not None and not self._batch_reply.done():
            self._batch_reply.set_result(None)
        for token in tuple(self._in_flight):
            waiting = self._landed(token)
            if waiting is not None:
                self._settle(waiting, maybe_written=True)

    async def _sweep_loop(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._now()
            while self._queue and self._queue[0].deadline <= now:
                self._queue.popleft().fail(
                    LogUnavailable("the log could not be reached in time; nothing was written; try again")
                )
            late = now - ACK_TIMEOUT_SECONDS
            for token, waiting in tuple(self._in_flight.items()):
                if waiting.sent_at > late:
                    break  # in the order of sending: the rest is younger
                self._landed(token)
                self._settle(waiting, maybe_written=True)
            self._judge(now)

    def _judge(self, now: float) -> None:
        """Look whether the log is silent, and refuse what waits in vain."""
        if not self._breaker.silence and self.silent_seconds >= APPENDS_SILENCE_SECONDS:
            since = [waiting.since for waiting in self._pending()]
            if since:
                self._breaker.observe(now, min(since), self._connection.trouble)
        if self.problem:
            self._refuse_unsent()

    def _refuse_unsent(self) -> None:
        """Refuse the appends that were never sent, or came back without having been written."""
        error = refused(self.problem)
        kept = [waiting for waiting in self._queue if waiting.is_trial]
        for waiting in self._queue:
            if not waiting.is_trial:
                waiting.fail(error)
        self._queue = deque(kept)
        for task, waiting in tuple(self._settling.items()):
            if not (waiting.maybe_written or waiting.is_trial):
                waiting.fail(error)
                task.cancel()

    def _settle(self, waiting: PendingAppend, *, maybe_written: bool, ack: PubAck | None = None) -> None:
        waiting.maybe_written |= maybe_written
        task = asyncio.create_task(self._settle_one(waiting, ack))
        self._settling[task] = waiting
        task.add_done_callback(self._settling.pop)

    async def _settle_one(self, waiting: PendingAppend, ack: PubAck | None) -> None:
        try:
            waiting.answer(await self._settler.settle(waiting, ack))
        except LogError as error:
            waiting.fail(error)
        except BaseException:  # closing, or an error of ours: no caller may wait for ever
            waiting.give_up()
            raise
