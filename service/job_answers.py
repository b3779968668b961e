"""The encoded answers to reads of single jobs, which are sent again until a row of the job changes.

    event loop         read the row, answer ──► keep        before a commit ──► changing ──► settled
    server's thread    find ──► send                            (drops the answers of its jobs)

The projector reports the jobs of a batch before it commits their rows, and when the new rows are visible. In
between, nothing is kept for them. So an answer is never older than a row that another read has returned, nor
than the position of the projector, if it is found after that position was read.
"""

from collections.abc import Iterable
from typing import Final, NamedTuple

from jobledger.service.limits import (
    JOB_ANSWER_MAX_BYTES,
    JOB_ANSWER_OVERHEAD_BYTES,
    JOB_ANSWERS_MAX_BYTES,
)
from jobledger.store.model.job import JobStatus

Headers = list[tuple[bytes, bytes]]

_REF_MAX_CHARACTERS: Final = JOB_ANSWER_OVERHEAD_BYTES // 4  # its text is part of the overhead


class KeptAnswer(NamedTuple):
    """One encoded answer.

    Attributes:
        namespace: of the job; it is not sent to callers who may not read that.
        headers: without the request id.
        body: not empty.
    """

    namespace: str
    headers: Headers
    body: bytes

    @property
    def size_bytes(self) -> int:
        """What it uses of the limit."""
        return len(self.body) + JOB_ANSWER_OVERHEAD_BYTES


class JobAnswers:
    """Answers by the name or id that a path has. Bounded: the answers kept first are dropped first.

    `find` may be called from any thread: it is a lookup in two dictionaries. The other methods belong to the
    event loop.

    Args:
        max_bytes: of all answers; 0 keeps none.
    """

    def __init__(self, max_bytes: int = JOB_ANSWERS_MAX_BYTES) -> None:
        self._half_bytes = max_bytes // 2
        # When the recent ones fill a half, they become the earlier ones, and those are dropped: no order has
        # to be maintained.
        self._recent: dict[str, KeptAnswer] = {}
        self._earlier: dict[str, KeptAnswer] = {}
        self._recent_bytes = 0
        self._earlier_bytes = 0
        self._changing: frozenset[str] | None = frozenset()  # names and ids; None: those of all jobs

    @property
    def size_bytes(self) -> int:
        """The bytes of all answers."""
        return self._recent_bytes + self._earlier_bytes

    @property
    def is_off(self) -> bool:
        """Whether none is ever kept."""
        return not self._half_bytes

    def find(self, ref: str) -> KeptAnswer | None:
        """The answer about the job that a path names, if it is known; see `changing` for its age."""
        return self._recent.get(ref) or self._earlier.get(ref)

    def keep(self, ref: str, answer: KeptAnswer) -> None:
        """Keep the answer about a row that was read in the same turn of the event loop.

        Args:
            ref: the name in the default namespace or the id by which the job was found, without a query.
            answer: what was answered.
        """
        size = answer.size_bytes
        if (
            len(answer.body) > JOB_ANSWER_MAX_BYTES
            or size > self._half_bytes
            or len(ref) > _REF_MAX_CHARACTERS
        ):
            return
        if self._changing is None or ref in self._changing:
            return
        self._drop(ref)
        if self._recent_bytes + size > self._half_bytes:
            self._earlier, self._earlier_bytes = self._recent, self._recent_bytes
            self._recent, self._recent_bytes = {}, 0
        self._recent[ref] = answer
        self._recent_bytes += size

    def changing(self, statuses: Iterable[JobStatus] | None) -> None:
        """Forget these jobs (None: all), whose rows are about to change; keep none of them until `settled`.

        A new job may also have the name by which another one was found by its id.
        """
        if statuses is None:
            self._changing = None
            self._recent, self._earlier = {}, {}
            self._recent_bytes = self._earlier_bytes = 0
            return
        changing = frozenset(text for status in statuses for text in (status.id, status.name))
        self._changing = changing
        if self.size_bytes:
            for ref in changing:
                self._drop(ref)

    def settled(self) -> None:
        """The changed rows are visible, and so is the position of the projector."""
        self._changing = frozenset()

    def _drop(self, ref: str) -> None:
        if (answer := self._recent.pop(ref, None)) is not None:
            self._recent_bytes -= answer.size_bytes
        if (answer := self._earlier.pop(ref, None)) is not None:
            self._earlier_bytes -= answer.size_bytes
