"""A circuit breaker for appends.

    closed ──no answer for SILENCE_SECONDS, or suspended──► open ──every TRIAL_SECONDS──► one append is tried
       ▲                                                      │                                 │
       └────── an append is acknowledged, or a restart ───────┴─────────────────────────────────┘

While it is open, appends are refused at once, with the reason, instead of after APPEND_TIMEOUT_SECONDS with
an unknown outcome. Appends that were sent before are reconciled as always.

SILENCE_SECONDS is longer than the election of a leader (4.1 to 8.5 s were measured for three nodes with
`sync_interval: always`), so appends wait through an election. An answer that refuses one append (a conflict
for example) proves nothing: a server with a full disk still refuses conflicts, and does not answer appends
that it would have to store. So only an acknowledged append closes the breaker.

A suspension is set by a caller who knows why appends cannot succeed. It must be renewed, so that a caller
that stops cannot block the log permanently.
"""

from jobledger.store.model.limits import APPENDS_SILENCE_SECONDS, APPENDS_TRIAL_SECONDS


class Breaker:
    """The state. Times are by a monotonic clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._answered_at = now
        self._silence = ""  # why it opened because of a silence; empty: it did not
        self._trial_at = 0.0  # when the next append may be tried
        self._suspension = ""
        self._suspended_until = 0.0

    @property
    def answered_at(self) -> float:
        """When an append was last acknowledged, or the breaker was last started."""
        return self._answered_at

    @property
    def silence(self) -> str:
        """Why it opened because appends got no answer; empty: it did not."""
        return self._silence

    def problem(self, now: float) -> str:
        """Why it is open; empty if it is closed."""
        if self._suspension and now < self._suspended_until:
            return self._suspension
        return self._silence

    def admits(self, now: float) -> bool:
        """Whether an append may be sent now: it is closed, or the next try is due."""
        if self._suspension and now < self._suspended_until:
            return False
        return not self._silence or now >= self._trial_at

    def note_trial(self, now: float) -> None:
        """An append is tried while it is open."""
        self._trial_at = now + APPENDS_TRIAL_SECONDS

    def acknowledge(self, now: float) -> None:
        """An append was acknowledged."""
        self._answered_at = now
        self._silence = ""

    def restart(self, now: float) -> None:
        """Closes it: the connection is new, or the log has a new leader."""
        self.acknowledge(now)

    def observe(self, now: float, oldest: float, reason: str) -> None:
        """Opens if the log is silent.

        Args:
            now: the time.
            oldest: when the oldest append without an answer was called.
            reason: the likely reason.
        """
        if not self._silence and now - max(oldest, self._answered_at) >= APPENDS_SILENCE_SECONDS:
            self._silence = f"no append was acknowledged for {APPENDS_SILENCE_SECONDS:g} s ({reason})"
            self._trial_at = now + APPENDS_TRIAL_SECONDS

    def suspend(self, reason: str, until: float) -> None:
        """Refuses appends, for this reason, until a time or until `resume`."""
        self._suspension, self._suspended_until = reason, until

    def resume(self) -> None:
        """Ends a suspension."""
        self._suspension = ""
