"""Group commit: sends the appends of many callers the cheapest way, and answers each of them.

    append ─► queue ─┬─ one by one over a shared inbox ──────────────► acks ─► Appended / WrongSequence
                     └─ one atomic batch ─► committed ──────────────► consecutive sequences
                                         └► rejected ─► one by one (a conflict fails no other event)
    the breaker is open ─► refused at once, nothing written
    no answer, connection lost ─► reconcile: the same message again, then a read from the leader

Never `js.publish_async`: a server error leaves its future unresolved forever. See `docs/decisions/`.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from jobledger.store.jetstream.api import PubAck, read_ack
from jobledger.store.jetstream.batching import PROBE_EVENTS, BatchingPolicy
from jobledger.store.jetstream.breaker import Breaker
from jobledger.store.jetstream.connection import Connection, Outgoing, new_token, read_message
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

CLOSE_TIMEOUT_SECONDS = 10.0
HEADERS_MAX_BYTES = 1_024  # an event has about 300; the server counts them into max_payload
PORTION_EVENTS = 32  # of a batch: sent, or answered, before other tasks run on the event loop
_TOKEN = re.compile("[!-~]+")  # printable ASCII without space: cannot end a header or a command
_SWEEP_SECONDS = 0.25


class Batch:
    """An atomic batch (NATS ADR-50) while it is being filled and sent.

    The server stages the members, and writes all or none when the last one arrives, which has the commit.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._id = new_token()
        self._subjects: set[str] = set()
        self._bytes = 0
        self.members: list[PendingAppend] = []
        self.commit_sent = False  # until then nothing of it can be in the log

    def has_subject(self, subject: str) -> bool:
        """Whether it has an event of this subject: the server refuses the expectation of a second one."""
        return subject in self._subjects

    def has_room(self, pending: PendingAppend) -> bool:
        """Whether one more event keeps it within the limits. The first one always does."""
        return not self.members or (
            len(self.members) < BATCH_MAX_EVENTS
            and self._bytes + len(pending.draft.payload) <= BATCH_MAX_BYTES
        )

    def add(self, pending: PendingAppend) -> None:
        """Adds an append; it is sent when the next one was added, or by `commit`."""
        self.members.append(pending)
        self._subjects.add(pending.draft.subject)
        self._bytes += len(pending.draft.payload)

    async def commit(self, reply: str, now: float) -> None:
        """Sends the last member, which makes the server write all of them and answer to `reply`."""
        self.commit_sent = True
        await self.send(len(self.members), len(self.members), now, reply)

    async def send(self, first: int, last: int, now: float, reply: str = "") -> None:
        """Sends a range of the members, counted from 1; with a `reply` the last one has the commit."""
        messages: list[Outgoing] = []
        for number in range(first, last + 1):
            pending = self.members[number - 1]
            pending.sent_at = now
            header = f"{pending.header}Nats-Batch-Id: {self._id}\r\nNats-Batch-Sequence: {number}\r\n"
            messages.append(Outgoing(pending.draft.subject, "", header, pending.draft.payload))
        if reply:
            commit = messages[-1]
            messages[-1] = commit._replace(reply=reply, header=f"{commit.header}Nats-Batch-Commit: 1\r\n")
        await self._connection.publish_all(messages)


class Publisher:
    """Appends to the stream of the log; returned by `start`."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._queue: deque[PendingAppend] = deque()
        self._in_flight: dict[str, PendingAppend] = {}
        self._answers: deque[tuple[PendingAppend, int]] = (
            deque()
        )  # of the last batch, not yet sent to callers
        self._batch: Batch | None = None  # being sent
        self._batch_reply: asyncio.Future[PubAck | None] | None = None
        self._batch_token = ""
        self._batch_answered_at = 0.0
        self._reconciling: dict[asyncio.Task[None], PendingAppend] = {}
        self._work = asyncio.Event()
        self._is_alone = False  # one append was pending when the loop last looked: no others are expected
        self._drained = asyncio.Event()
        self._policy = BatchingPolicy()
        self._loop = asyncio.get_running_loop()
        self._now: Callable[[], float] = self._loop.time
        self._tokens = 0
        self._inbox = ""
        self._closed = False
        self._reconciler = Reconciler(connection, stream)
        self._breaker = Breaker(self._now())
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, connection: Connection, stream: str) -> "Publisher":
        """Opens the inbox for answers, and starts the tasks."""
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
            pending = self._admit(draft, expect)
        except LogError:
            # A caller may try again at once, and a reconnect needs the event loop.
            await asyncio.sleep(0)
            raise
        if self._is_alone and not self._pending_count() and self._connection.is_up:
            await self._send_singles([pending])  # at once: the loop would take some turns of the event loop
        else:
            self._queue.append(pending)
            self._work.set()
        return await pending.result

    def _admit(self, draft: PendingEvent, expect: int) -> PendingAppend:
        """Checks an append before it is queued."""
        if self._closed:
            raise LogUnavailable("the log is closed; nothing was written")
        if not (_TOKEN.fullmatch(draft.subject) and _TOKEN.fullmatch(draft.event_id)):
            raise LogRefused(
                f"subject {draft.subject!r} or event id {draft.event_id!r} has a character that NATS does not"
                " accept: build the subject with `job_subject`, and use a UUID as event id"
            )
        if len(draft.payload) + HEADERS_MAX_BYTES > self._connection.max_payload:
            raise LogRefused(
                f"the event has {len(draft.payload)} bytes, and nats-server accepts"
                f" {self._connection.max_payload} including headers; make the spec smaller, or raise"
                " max_payload"
            )
        if self._pending_count() >= PENDING_MAX_APPENDS:
            raise LogBusy(
                f"{PENDING_MAX_APPENDS} appends are pending; nothing was written; slow down and try again"
            )
        if asyncio.get_running_loop() is not self._loop:
            raise LogRefused("this log was connected on another event loop; connect one per loop")
        pending = PendingAppend(draft, expect, self._loop.create_future(), self._now())
        if problem := self.problem:
            if self.refusal:
                raise refused(problem)
            self._breaker.note_trial(self._now())
            pending.become_trial()
        return pending

    @property
    def refusal(self) -> str:
        """Why an append would be refused at once; empty if it would be sent."""
        problem = self.problem
        # While the log is silent, one append is tried at a time: if any is pending, that is the try.
        if problem and self._breaker.admits(self._now()) and not self._pending_count():
            return ""
        return problem

    @property
    def problem(self) -> str:
        """Why the log does not accept appends; empty if it does, as far as known."""
        return self._breaker.problem(self._now())

    @property
    def silence(self) -> str:
        """Why it does not, if appends got no answer; empty if they did."""
        return self._breaker.silence

    @property
    def silent_seconds(self) -> float:
        """Time since an append was last acknowledged, or since the start."""
        return self._now() - self._breaker.answered_at

    def suspend(self, reason: str) -> None:
        """Refuses appends at once, for this reason, until `resume` or for SUSPENSION_SECONDS.

        Appends that were already sent are reconciled as always; the others are refused.
        """
        self._breaker.suspend(reason, self._now() + SUSPENSION_SECONDS)
        self._refuse_unsent()

    def resume(self) -> None:
        """Ends a suspension."""
        self._breaker.resume()

    def retry(self) -> None:
        """Accepts appends again after a silence: the log has a new leader, or answers again."""
        self._breaker.restart(self._now())

    async def close(self) -> None:
        """Waits for pending appends for CLOSE_TIMEOUT_SECONDS, fails the others, and stops."""
        self._closed = True
        pending = [pending.result for pending in self._pending()]
        if pending:
            await asyncio.wait(pending, timeout=CLOSE_TIMEOUT_SECONDS)
        for task in (*self._tasks, *self._reconciling):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._reconciling, return_exceptions=True)
        self._fail_all()
        self._connection.unwatch(self._on_connection)
        await self._connection.unsubscribe(self._inbox)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Fails all appends if a loop ends by a bug, so that no caller waits forever."""
        if not task.cancelled() and task.exception() is not None:
            self._closed = True
            self._fail_all()

    def _fail_all(self) -> None:
        self._send_answers(len(self._answers))
        for pending in self._pending():
            pending.give_up()
        self._queue.clear()
        self._in_flight.clear()
        self._batch = None

    def _pending(self) -> list[PendingAppend]:
        """Every append without an answer."""
        members = self._batch.members if self._batch is not None else ()
        answered = (pending for pending, _ in self._answers)
        return [*self._queue, *self._in_flight.values(), *members, *answered, *self._reconciling.values()]

    def _pending_count(self) -> int:
        count = len(self._queue) + len(self._in_flight) + len(self._answers) + len(self._reconciling)
        return count + (len(self._batch.members) if self._batch is not None else 0)

    # --- sending --------------------------------------------------------------------------------------------

    async def _send_loop(self) -> None:
        while True:
            if not self._answers:
                await self._work.wait()
            await self._let_callers_run()
            if not self._connection.is_up:
                self._send_answers(len(self._answers))
                await self._wait_for_connection()
                continue
            demand = len(self._queue) + len(self._in_flight) + len(self._answers)
            self._is_alone = demand == 1
            if self._policy.prefers_batch(demand):
                if self._policy.probe_due():
                    self._send_answers(len(self._answers))  # they do not wait for the probe
                    await self._send_queued_singles(PROBE_EVENTS)
                if self._in_flight:
                    await self._drain()
                else:
                    await self._send_batch(demand)
            else:
                self._send_answers(len(self._answers))
                room = SINGLES_MAX_IN_FLIGHT - len(self._in_flight)
                if room <= 0:
                    await self._drain()
                else:
                    await self._send_queued_singles(room)
            if not self._queue:
                self._work.clear()

    async def _let_callers_run(self) -> None:
        """Answers a portion of the last batch, and lets those callers append again.

        In portions, so that the server already works on the next batch while most callers still wait.
        """
        answered = self._send_answers(PORTION_EVENTS)
        started = self._now()
        await asyncio.sleep(0)
        if answered:
            self._policy.callers_ran(self._now() - started, answered)

    def _send_answers(self, most: int) -> int:
        count = min(most, len(self._answers))
        for _ in range(count):
            pending, sequence = self._answers.popleft()
            pending.answer(Appended(sequence))
        return count

    async def _wait_for_connection(self) -> None:
        with suppress(LogUnavailable):
            await self._connection.wait_up(_SWEEP_SECONDS)
        if not self._queue:
            self._work.clear()

    async def _drain(self) -> None:
        """Waits until single publishes in flight are answered or being reconciled."""
        self._drained.clear()
        if self._in_flight:
            await self._drained.wait()

    async def _send_queued_singles(self, most: int) -> None:
        queued = (self._queue.popleft() for _ in range(min(most, len(self._queue))))
        if singles := [pending for pending in queued if not pending.result.cancelled()]:
            await self._send_singles(singles)

    async def _send_singles(self, singles: Sequence[PendingAppend]) -> None:
        messages: list[Outgoing] = []
        tokens: list[str] = []
        for pending in singles:
            self._tokens += 1
            token = str(self._tokens)
            pending.sent_at = self._now()
            self._in_flight[token] = pending
            self._policy.single_sent(pending.sent_at, len(self._in_flight))
            draft = pending.draft
            messages.append(Outgoing(draft.subject, self._inbox + token, pending.header, draft.payload))
            tokens.append(token)
        try:
            await self._connection.publish_all(messages)
        except LogError as error:  # without a connection: nothing was sent
            for token in tokens:
                if (unsent := self._remove_in_flight(token)) is not None:
                    unsent.fail(error)

    async def _send_batch(self, demand: int) -> None:
        """Sends one atomic batch of the queue, and of what is queued while it is being sent.

        Args:
            demand: the callers that have appended, or that are being answered and may append again.
        """
        batch = self._batch = Batch(self._connection)
        started = self._now()
        ack = await self._fill_and_commit(batch, self._policy.commit_at(demand), demand)
        self._batch = None
        members = batch.members
        if (ack is not None and ack.error is not None and not ack.error.may_pass) or len(members) < 2:
            # Atomic, so nothing was written. The server does not report which event caused it.
            self._queue.extendleft(reversed(members))
            if self._connection.is_up:
                await self._send_queued_singles(len(members))
        elif ack is not None and ack.error is None and ack.count == len(members):
            self._policy.batch_acknowledged(self._now() - started, len(members))
            self._breaker.acknowledge(self._now())
            self._answers.extend(zip(members, range(ack.seq - ack.count + 1, ack.seq + 1), strict=True))
        else:
            for pending in members:  # no clear answer: each is reconciled by itself
                self._reconcile(pending, maybe_written=batch.commit_sent)

    async def _fill_and_commit(self, batch: Batch, commit_at: int, demand: int) -> PubAck | None:
        """Sends the batch; returns the answer, or None without one (or if it would have one event)."""
        try:
            while True:
                sent = await self._send_portion(batch)
                if commit_at < demand and sent and (self._queue or len(batch.members) >= commit_at):
                    await asyncio.sleep(0)  # the other callers are answered while the server commits
                else:
                    await self._let_callers_run()  # also lets the client library write
                if not self._connection.is_up:
                    return None
                if len(batch.members) >= commit_at < demand or not (self._answers or (sent and self._queue)):
                    break
            return await self._commit(batch) if len(batch.members) > 1 else None
        except LogError:
            return None

    async def _send_portion(self, batch: Batch) -> bool:
        """Sends some of the queue as part of the batch, except the last, which may have to carry the commit.

        At most one event per subject; others stay in the queue. Returns whether any was added.
        """
        left: list[PendingAppend] = []
        before = len(batch.members)
        unsent = max(1, before)  # the first member that is not sent
        try:
            for _ in range(min(PORTION_EVENTS, len(self._queue))):
                if not self._queue or not batch.has_room(self._queue[0]):
                    break
                pending = self._queue.popleft()
                if batch.has_subject(pending.draft.subject):
                    left.append(pending)
                elif not pending.result.done():
                    batch.add(pending)
        finally:
            self._queue.extendleft(reversed(left))
        if len(batch.members) > unsent:
            await batch.send(unsent, len(batch.members) - 1, self._now())
        return len(batch.members) > before

    async def _commit(self, batch: Batch) -> PubAck | None:
        self._tokens += 1
        self._batch_token = f"b{self._tokens}"
        reply: asyncio.Future[PubAck | None] = self._loop.create_future()
        self._batch_reply = reply
        try:
            started = self._now()
            await batch.commit(self._inbox + self._batch_token, started)
            is_idle = not self._answers
            async with asyncio.timeout(ACK_TIMEOUT_SECONDS):
                while self._answers and not reply.done():
                    await self._let_callers_run()
                ack = await reply
        except TimeoutError:
            return None
        else:
            if ack is not None and is_idle:  # otherwise our own work is a part of the time
                self._policy.commit_acknowledged(self._batch_answered_at - started, len(batch.members))
            return ack
        finally:
            self._batch_reply = None

    # --- answers --------------------------------------------------------------------------------------------

    def _on_answer(self, subject: str, reply: str, payload: bytes, header: bytes) -> None:
        token = subject[len(self._inbox) :]
        ack = read_ack(read_message(subject, reply, payload, header))
        if token == self._batch_token:
            if self._batch_reply is not None and not self._batch_reply.done():
                self._batch_answered_at = self._now()
                self._batch_reply.set_result(ack)
            return
        pending = self._remove_in_flight(token)
        if pending is None:  # a late answer: its append is being reconciled
            return
        self._policy.single_acknowledged(self._now(), len(self._in_flight))
        if ack.error is None:
            self._breaker.acknowledge(self._now())
            pending.answer(Appended(ack.seq))
        else:
            self._reconcile(pending, maybe_written=False, ack=ack)

    def _remove_in_flight(self, token: str) -> PendingAppend | None:
        pending = self._in_flight.pop(token, None)
        if not self._in_flight:
            self._drained.set()
        return pending

    # --- failures -------------------------------------------------------------------------------------------

    def _on_connection(self, up: bool) -> None:
        """Reconciles what was in flight when the connection broke: it will not be answered."""
        if up:
            self._breaker.restart(self._now())
            return
        if self._batch_reply is not None and not self._batch_reply.done():
            self._batch_reply.set_result(None)
        for token in tuple(self._in_flight):
            pending = self._remove_in_flight(token)
            if pending is not None:
                self._reconcile(pending, maybe_written=True)

    async def _sweep_loop(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._now()
            while self._queue and self._queue[0].deadline <= now:
                self._queue.popleft().fail(
                    LogUnavailable("the log was not reachable in time; nothing was written; try again")
                )
            late = now - ACK_TIMEOUT_SECONDS
            for token, pending in tuple(self._in_flight.items()):
                if pending.sent_at > late:
                    break  # in the order of sending: the others are younger
                self._remove_in_flight(token)
                self._reconcile(pending, maybe_written=True)
            self._check_silence(now)

    def _check_silence(self, now: float) -> None:
        """Opens the breaker if the log is silent, and refuses the appends that wait."""
        if not self._breaker.silence and self.silent_seconds >= APPENDS_SILENCE_SECONDS:
            since = [pending.since for pending in self._pending()]
            if since:
                self._breaker.observe(now, min(since), self._connection.problem)
        if self.problem:
            self._refuse_unsent()

    def _refuse_unsent(self) -> None:
        """Refuses the appends that were never sent, or are known not to be written."""
        error = refused(self.problem)
        kept = [pending for pending in self._queue if pending.is_trial]
        for pending in self._queue:
            if not pending.is_trial:
                pending.fail(error)
        self._queue = deque(kept)
        for task, pending in tuple(self._reconciling.items()):
            if not (pending.maybe_written or pending.is_trial):
                pending.fail(error)
                task.cancel()

    def _reconcile(self, pending: PendingAppend, *, maybe_written: bool, ack: PubAck | None = None) -> None:
        pending.maybe_written |= maybe_written
        task = asyncio.create_task(self._reconcile_one(pending, ack))
        self._reconciling[task] = pending
        task.add_done_callback(self._reconciling.pop)

    async def _reconcile_one(self, pending: PendingAppend, ack: PubAck | None) -> None:
        try:
            pending.answer(await self._reconciler.reconcile(pending, ack))
        except LogError as error:
            pending.fail(error)
        except BaseException:  # closing, or a bug: no caller may wait forever
            pending.give_up()
            raise
