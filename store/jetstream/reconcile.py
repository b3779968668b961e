"""Finds out whether an append without a clear answer is in the log. Never a guess.

The same message is sent again with the same expectation, which the server checks: that makes it safe. With
one replica the server checks the expectation before it looks for repeated ids (since 2.12), so the repeat of
a stored event is answered like a conflict; then the id of the first event after the expected one decides. A
cluster answers `duplicate`.
"""

import asyncio

from jobledger.store.backoff import Backoff
from jobledger.store.jetstream.api import (
    IN_FLIGHT_CONFLICT,
    IN_FLIGHT_DUPLICATE,
    WRONG_LAST_SEQUENCE,
    ApiError,
    PubAck,
    read_ack,
)
from jobledger.store.jetstream.connection import Connection, NoResponders
from jobledger.store.jetstream.reader import leader_get
from jobledger.store.log import Appended, PendingEvent, WrongSequence
from jobledger.store.model.errors import LogError, LogUnavailable, OutcomeUnknown
from jobledger.store.model.limits import (
    ACK_TIMEOUT_SECONDS,
    APPEND_TIMEOUT_SECONDS,
    RETRY_MAX_WAIT_SECONDS,
    RETRY_WAIT_SECONDS,
)


class PendingAppend:
    """One append from its call until its answer."""

    __slots__ = (
        "deadline",
        "draft",
        "expect",
        "is_trial",
        "maybe_written",
        "result",
        "sent_at",
        "since",
    )

    def __init__(
        self, draft: PendingEvent, expect: int, result: "asyncio.Future[Appended | WrongSequence]", now: float
    ) -> None:
        self.draft = draft
        self.expect = expect
        self.result = result
        self.since = now
        self.deadline = now + APPEND_TIMEOUT_SECONDS
        self.is_trial = False  # sent to find out whether a silent log answers again
        self.sent_at = 0.0
        self.maybe_written = False  # sent at least once without a clear answer

    @property
    def header(self) -> str:
        """`headers` as text."""
        return f"Nats-Msg-Id: {self.draft.event_id}\r\nNats-Expected-Last-Subject-Sequence: {self.expect}\r\n"

    def headers(self) -> dict[str, str]:
        """Make the server recognize a repeat, and check the expectation."""
        return {
            "Nats-Msg-Id": self.draft.event_id,
            "Nats-Expected-Last-Subject-Sequence": str(self.expect),
        }

    def become_trial(self) -> None:
        """Makes it the try during a silence: its deadline is shorter."""
        self.is_trial = True
        self.deadline = self.since + ACK_TIMEOUT_SECONDS

    def answer(self, outcome: Appended | WrongSequence) -> None:
        """Returns an outcome to the caller."""
        if not self.result.done():  # the caller may have been cancelled
            self.result.set_result(outcome)

    def fail(self, error: LogError) -> None:
        """Raises an error for the caller."""
        if not self.result.done():
            self.result.set_exception(error)

    def give_up(self) -> None:
        """Fails it because the log is being closed."""
        if not (self.maybe_written or self.sent_at):
            self.fail(LogUnavailable("the log was closed; nothing was written"))
            return
        self.fail(
            OutcomeUnknown(
                "the log was closed before nats-server answered; the event may or may not be written: repeat"
                f" the append with the event id {self.draft.event_id}",
                event_id=self.draft.event_id,
            )
        )


class Reconciler:
    """Finds out, within the append's deadline, whether it is in the log."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    async def reconcile(self, pending: PendingAppend, ack: PubAck | None) -> Appended | WrongSequence:
        """Returns the outcome of an append whose first answer was `ack` (None: there was none).

        Raises:
            LogRefused: the server rejects it permanently, and it is not in the log.
            LogUnavailable: it was never sent.
            OutcomeUnknown: there was no clear answer until the deadline.
        """
        backoff = Backoff(RETRY_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS)
        while True:
            try:
                if ack is None:
                    self._check_deadline(pending, None)
                    ack = await self._send_again(pending)
                outcome = await self._judge(pending, ack)
                if outcome is not None:
                    return outcome
            except LogUnavailable as error:
                self._check_deadline(pending, error)
            else:
                self._check_deadline(pending, None)
            ack = None
            await backoff.sleep()

    async def _send_again(self, pending: PendingAppend) -> PubAck:
        left_seconds = pending.deadline - asyncio.get_running_loop().time()
        await self._connection.wait_up(max(left_seconds, 0.0))
        before, pending.maybe_written = pending.maybe_written, True
        draft = pending.draft
        try:
            message = await self._connection.request(
                draft.subject, draft.payload, headers=pending.headers(), timeout_seconds=ACK_TIMEOUT_SECONDS
            )
        except NoResponders:
            pending.maybe_written = before
            raise
        return read_ack(message)

    async def _judge(self, pending: PendingAppend, ack: PubAck) -> Appended | WrongSequence | None:
        """The meaning of an answer; None: send it again."""
        error = ack.error
        if error is None:
            return Appended(ack.seq)
        if error.err_code == WRONG_LAST_SEQUENCE:
            return await self._find_own_message(pending) or WrongSequence(error.last_sequence or 0)
        if error.err_code == IN_FLIGHT_DUPLICATE:
            pending.maybe_written = True
            return None
        if error.err_code == IN_FLIGHT_CONFLICT or error.may_pass:
            return None
        return await self._find_or_refuse(pending, error)

    async def _find_own_message(self, pending: PendingAppend) -> Appended | None:
        """The sequence of this event, if it is the first one of its subject after the expected sequence.

        The first, not the last: another writer may have appended after it.
        """
        request: dict[str, object] = {"seq": pending.expect + 1, "next_by_subj": pending.draft.subject}
        found = await leader_get(self._connection, self._stream, request)
        if found is None or f"Nats-Msg-Id: {pending.draft.event_id}\r\n".encode() not in found.hdrs:
            return None
        return Appended(found.seq)

    async def _find_or_refuse(self, pending: PendingAppend, error: ApiError) -> Appended:
        # An earlier try may have been stored before the server started to refuse (it is full now, for
        # example).
        own = await self._find_own_message(pending) if pending.maybe_written else None
        if own is None:
            raise error.as_exception("append")
        return own

    def _check_deadline(self, pending: PendingAppend, error: LogError | None) -> None:
        if asyncio.get_running_loop().time() < pending.deadline:
            return
        event_id = pending.draft.event_id
        if pending.maybe_written:
            raise OutcomeUnknown(
                "nats-server did not answer whether the event was written; repeat the append with the same"
                f" event id ({event_id}): if it was written, the answer is its sequence",
                event_id=event_id,
            ) from error
        raise LogUnavailable("the log was not reachable in time; nothing was written; try again") from error
