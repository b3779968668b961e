"""One atomic batch (NATS ADR-50): what is in it, and how a member is sent.

The server stages the members and writes all or none when the last one, which carries the commit, arrives.
"""

from jobledger.store.jetstream.connection import Connection, new_token
from jobledger.store.jetstream.reconcile import PendingAppend
from jobledger.store.model.limits import BATCH_MAX_BYTES, BATCH_MAX_EVENTS


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
