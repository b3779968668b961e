"""The verdict whether events are lost, over time, from answers of the log that lack them.

    the answer continues what was read ──► no doubt
    it lacks events ──► doubt: LogBehind ──► the same current leader lacks them for TRUNCATION_PROOF_SECONDS
        ▲                     │                  └─► lost: LogTruncated
        └── another leader, or one that is not current: the time starts again

Any replica answers for a stream without a leader and can lack hundreds of events, and a leader that was cut
off keeps answering until it notices. `jetstream/DESIGN.md`, "When events count as lost", explains why such an
answer proves nothing and why this verdict does.
"""

from collections.abc import Callable

from jobledger.store.model.errors import LogBehind
from jobledger.store.model.limits import TRUNCATION_MIN_ANSWERS, TRUNCATION_PROOF_SECONDS

_DOUBTS_MAX = 256  # kept at once; the oldest doubt starts again

LogPosition = tuple[str | None, int]
"""The epoch of a log (None: any) and the last sequence that was read."""


class _Doubt:
    __slots__ = ("answers", "leader", "since")

    def __init__(self, leader: str, since: float) -> None:
        self.leader = leader
        self.since = since
        self.answers = 0


class Doubts:
    """The doubts about one log, shared by its readers: the verdict on a position is the same for all.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[LogPosition, _Doubt] = {}

    def __len__(self) -> int:
        return len(self._open)

    def clear(self, position: LogPosition) -> None:
        """Record an answer that continues what was read up to a position."""
        self._open.pop(position, None)

    def judge(self, position: LogPosition, leader: str) -> bool:
        """Record an answer that does not, and return whether the events count as lost.

        Args:
            position: up to which was read.
            leader: identifies the leader that answered and its term; empty if the answer does not prove that
                it comes from a current leader.
        """
        now = self._clock()
        doubt = self._open.pop(position, None)
        if doubt is None or not leader or doubt.leader != leader:
            doubt = _Doubt(leader, self._since(position, leader, now))
        self._open[position] = doubt
        if len(self._open) > _DOUBTS_MAX:
            del self._open[next(iter(self._open))]
        doubt.answers += 1
        return (
            bool(leader)
            and doubt.answers >= TRUNCATION_MIN_ANSWERS
            and now - doubt.since >= TRUNCATION_PROOF_SECONDS
        )

    def _since(self, position: LogPosition, leader: str, now: float) -> float:
        """Return the start of a new doubt: a log that lacks an event lacks all later ones too."""
        epoch, after = position
        return min(
            (
                doubt.since
                for (of, known), doubt in self._open.items()
                if leader and doubt.leader == leader and known <= after and epoch in (of, None)
            ),
            default=now,
        )

    def behind(self, position: LogPosition, what: str) -> LogBehind:
        """Return the error for an answer that `judge` did not accept as proof.

        Args:
            position: up to which was read.
            what: what the answer lacks.
        """
        doubt = self._open.get(position)
        if doubt is None or not doubt.leader:
            why = "the answer is not from a leader in contact with a majority"
        else:
            why = (
                f"the leader has lacked them for {self._clock() - doubt.since:.0f} s, and it is proven after"
                f" {TRUNCATION_PROOF_SECONDS:g} s"
            )
        return LogBehind(f"{what}; not counted as lost yet: {why}")
