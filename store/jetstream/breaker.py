"""A circuit breaker: whether the log accepts appends, judged by how it answers them.

    closed ──no answer for SILENCE_SECONDS, or suspended──► open ──every TRIAL_SECONDS──► one append is tried
       ▲                                                      │                                 │
       └────── an append is acknowledged, or a new start ─────┴─────────────────────────────────┘

While it is open, appends are refused at once, with the reason, instead of after APPEND_TIMEOUT_SECONDS with
an unknown outcome. Appends that were sent before are settled as always.

SILENCE_SECONDS is longer than the election of a leader takes (4.1 to 8.5 s were measured for three nodes with
`sync_interval: always`), so appends wait through an election as before. An answer that refuses one append (a
conflict, say) proves nothing: a server whose disk was full goes on refusing conflicts, and is silent to
appends that it would have to store. So only an acknowledged append closes the breaker.

A suspension comes from outside, from somebody who knows why appends can't succeed, and must be renewed: what
stops renewing it must not block the log for good.
"""

from jobledger.store.model.limits import APPENDS_SILENCE_SECONDS, APPENDS_TRIAL_SECONDS


class Breaker:
    """The state; times are those of a clock that never goes back, in seconds."""

    def __init__(self, now: float) -> None:
        self._answered_at = now
        self._silence = ""  # why it opened by itself; empty: it did not
        self._trial_at = 0.0  # when the next append may be tried
        self._suspension = ""
        self._suspended_until = 0.0

    @property
    def answered_at(self) -> float:
        """When an append was last acknowledged, or the breaker was last started."""
        return self._answered_at

    @property
    def silence(self) -> str:
        """Why it opened by itself, appends not having been answered; empty: it did not."""
        return self._silence

    def problem(self, now: float) -> str:
        """Why it is open; empty if it is closed."""
        if self._suspension and now < self._suspended_until:
            return self._suspension
        return self._silence

    def admits(self, now: float) -> bool:
        """Whether an append may be sent now: it is closed, or it is time for the next try."""
        if self._suspension and now < self._suspended_until:
            return False
        return not self._silence or now >= self._trial_at

    def note_trial(self, now: float) -> None:
        """An append is being tried although it is open."""
        self._trial_at = now + APPENDS_TRIAL_SECONDS

    def acknowledge(self, now: float) -> None:
        """An append was acknowledged."""
        self._answered_at = now
        self._silence = ""

    def restart(self, now: float) -> None:
        """Judge from here: the connection is new, or the log has a new leader."""
        self.acknowledge(now)

    def observe(self, now: float, oldest: float, reason: str) -> None:
        """Open if the log is silent.

        Args:
            now: the time.
            oldest: since when the oldest append without an answer waits.
            reason: why that may be.
        """
        if not self._silence and now - max(oldest, self._answered_at) >= APPENDS_SILENCE_SECONDS:
            self._silence = f"no append was acknowledged for {APPENDS_SILENCE_SECONDS:g} s ({reason})"
            self._trial_at = now + APPENDS_TRIAL_SECONDS

    def suspend(self, reason: str, until: float) -> None:
        """Refuse appends, for this reason, until then, or until `resume`."""
        self._suspension, self._suspended_until = reason, until

    def resume(self) -> None:
        """End a suspension."""
        self._suspension = ""
