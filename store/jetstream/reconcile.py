"""What became of an append that got no clear answer: settled, not guessed.

The same message with the same expectation is sent again; the server's check of the expectation makes that
safe. A server of one replica checks it before it looks for repeated ids (since 2.12), so a repeat of a stored
event is answered like a conflict; then the first event after the expected one tells whose it is. A cluster
says `duplicate` outright.
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
    """One append from the moment it is asked for until it is answered."""

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
        self.is_trial = False  # sent to see whether a log that was silent answers again
        self.sent_at = 0.0
        self.maybe_written = False  # sent at least once without a clear answer

    def headers(self) -> dict[str, str]:
        """What makes the server know it again, and check its expectation."""
        return {
            "Nats-Msg-Id": self.draft.event_id,
            "Nats-Expected-Last-Subject-Sequence": str(self.expect),
        }

    def become_trial(self) -> None:
        """Be sent although the log is silent: once, and not waited for as long as others."""
        self.is_trial = True
        self.deadline = self.since + ACK_TIMEOUT_SECONDS

    def answer(self, outcome: Appended | WrongSequence) -> None:
        """Give the caller its answer."""
        if not self.result.done():  # a caller that was cancelled harms no other
            self.result.set_result(outcome)

    def fail(self, error: LogError) -> None:
        """Give the caller an error instead."""
        if not self.result.done():
            self.result.set_exception(error)

    def give_up(self) -> None:
        """Fail it because the log is closed before it was answered."""
        if not (self.maybe_written or self.sent_at):
            self.fail(LogUnavailable("the log was closed; nothing was written"))
            return
        self.fail(
            OutcomeUnknown(
                "the log was closed before the server answered; the event may or may not be written:"
                f" ask again with the event id {self.draft.event_id}",
                event_id=self.draft.event_id,
            )
        )


class Reconciler:
    """Finds out, within the append's deadline, whether it is in the log."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream

    async def settle(self, waiting: PendingAppend, ack: PubAck | None) -> Appended | WrongSequence:
        """The outcome of an append whose first answer was `ack` (None: there was none).

        Raises:
            LogRefused: the server will never take it, and it is not in the log.
            LogUnavailable: it was never sent anywhere.
            OutcomeUnknown: nothing told, until the deadline.
        """
        backoff = Backoff(RETRY_WAIT_SECONDS, RETRY_MAX_WAIT_SECONDS)
        while True:
            try:
                if ack is None:
                    self._check_deadline(waiting, None)
                    ack = await self._send_again(waiting)
                outcome = await self._judge(waiting, ack)
                if outcome is not None:
                    return outcome
            except LogUnavailable as error:
                self._check_deadline(waiting, error)
            else:
                self._check_deadline(waiting, None)
            ack = None
            await backoff.sleep()

    async def _send_again(self, waiting: PendingAppend) -> PubAck:
        left_seconds = waiting.deadline - asyncio.get_running_loop().time()
        await self._connection.wait_up(max(left_seconds, 0.0))
        before, waiting.maybe_written = waiting.maybe_written, True
        draft = waiting.draft
        try:
            message = await self._connection.request(
                draft.subject, draft.payload, headers=waiting.headers(), timeout_seconds=ACK_TIMEOUT_SECONDS
            )
        except NoResponders:
            waiting.maybe_written = before
            raise
        return read_ack(message)

    async def _judge(self, waiting: PendingAppend, ack: PubAck) -> Appended | WrongSequence | None:
        """What an answer means; None: ask again."""
        error = ack.error
        if error is None:
            return Appended(ack.seq)
        if error.err_code == WRONG_LAST_SEQUENCE:
            return await self._find_own_message(waiting) or WrongSequence(error.last_sequence or 0)
        if error.err_code == IN_FLIGHT_DUPLICATE:
            waiting.maybe_written = True
            return None
        if error.err_code == IN_FLIGHT_CONFLICT or error.may_pass:
            return None
        return await self._mine_or_refused(waiting, error)

    async def _find_own_message(self, waiting: PendingAppend) -> Appended | None:
        """The place of this very event, if it is the first one after the expected sequence.

        The first, not the last: another writer may have followed it already.
        """
        request: dict[str, object] = {"seq": waiting.expect + 1, "next_by_subj": waiting.draft.subject}
        found = await leader_get(self._connection, self._stream, request)
        if found is None or f"Nats-Msg-Id: {waiting.draft.event_id}\r\n".encode() not in found.hdrs:
            return None
        return Appended(found.seq)

    async def _mine_or_refused(self, waiting: PendingAppend, error: ApiError) -> Appended:
        # An earlier try may have been stored before the server began to refuse (it is full now, say).
        mine = await self._find_own_message(waiting) if waiting.maybe_written else None
        if mine is None:
            raise error.as_exception("append")
        return mine

    def _check_deadline(self, waiting: PendingAppend, error: LogError | None) -> None:
        if asyncio.get_running_loop().time() < waiting.deadline:
            return
        event_id = waiting.draft.event_id
        if waiting.maybe_written:
            raise OutcomeUnknown(
                "the log did not say whether the event was written; ask again with the same event id"
                f" ({event_id}): if it was written, that is the answer you get",
                event_id=event_id,
            ) from error
        raise LogUnavailable(
            "the log could not be reached in time; nothing was written; try again"
        ) from error
