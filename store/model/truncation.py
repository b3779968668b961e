"""Whether events are lost: a verdict over time, from answers that lack them.

    the answer continues what was read ──► no doubt
    it lacks events ──► doubt: LogBehind ──► the same leader, current, lacks them for TRUNCATION_PROOF_SECONDS
        ▲                     │                  └─► lost: LogTruncated
        └── another leader, or one that is not current: the time begins again

A stream that lost its leader is answered for by each of its replicas, which may be hundreds of events short,
and a leader that was cut off goes on answering until it notices. `jetstream/DESIGN.md`, "When events count as
lost", has the argument why such an answer proves nothing, and why this verdict does.
"""

from collections.abc import Callable

from jobledger.store.model.errors import LogBehind
from jobledger.store.model.limits import TRUNCATION_MIN_ANSWERS, TRUNCATION_PROOF_SECONDS

_PLACES_MAX = 256  # remembered at once; the oldest doubt begins again

AckTracker = tuple[str | None, int]
"""The epoch of a log, and the last sequence that was read of it."""


class _Doubt:
    __slots__ = ("answers", "leader", "since")

    def __init__(self, leader: str, since: float) -> None:
        self.leader = leader
        self.since = since
        self.answers = 0


class Doubts:
    """The doubts about one log, shared by all its readers: the verdict on a place is the same for all.

    Args:
        clock: monotonic, seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[AckTracker, _Doubt] = {}

    def __len__(self) -> int:
        return len(self._open)

    def clear(self, place: AckTracker) -> None:
        """Take note of an answer that continues what was read up to a place."""
        self._open.pop(place, None)

    def judge(self, place: AckTracker, leader: str) -> bool:
        """Take note of an answer that does not, and return whether the events count as lost.

        Args:
            place: up to which was read.
            leader: names the leader that answered and the beginning of its term; empty if the answer does not
                show that it comes from a leader that is current.
        """
        now = self._clock()
        doubt = self._open.pop(place, None)
        if doubt is None or not leader or doubt.leader != leader:
            doubt = _Doubt(leader, self._since(place, leader, now))
        self._open[place] = doubt
        if len(self._open) > _PLACES_MAX:
            del self._open[next(iter(self._open))]
        doubt.answers += 1
        return (
            bool(leader)
            and doubt.answers >= TRUNCATION_MIN_ANSWERS
            and now - doubt.since >= TRUNCATION_PROOF_SECONDS
        )

    def _since(self, place: AckTracker, leader: str, now: float) -> float:
        """When the time of a new doubt began: a log that lacks an event lacks all that came after it."""
        epoch, after = place
        return min(
            (
                doubt.since
                for (of, known), doubt in self._open.items()
                if leader and doubt.leader == leader and known <= after and epoch in (of, None)
            ),
            default=now,
        )

    def behind(self, place: AckTracker, what: str) -> LogBehind:
        """The error for an answer that `judge` did not believe.

        Args:
            place: up to which was read.
            what: what the answer lacks.
        """
        doubt = self._open.get(place)
        if doubt is None or not doubt.leader:
            why = "the answer did not come from a leader that is in contact with a majority"
        else:
            why = (
                f"the leader has answered so for {self._clock() - doubt.since:.0f} s and is believed after"
                f" {TRUNCATION_PROOF_SECONDS:g} s"
            )
        return LogBehind(f"{what}; not counted as lost yet: {why}")
