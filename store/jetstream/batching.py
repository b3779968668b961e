"""Decides whether pending appends are sent one by one or as one atomic batch, by measurement.

A server that syncs each message (`sync_interval: always`) takes about 0.3 ms for one, and 1 ms (staged in
memory) to 4 ms (on disk) for a batch of any size, plus a little for each event; with a server that syncs
rarely, single messages are faster. A client cannot query the setting, disks differ by a factor of twenty,
and other writers come and go. So the current costs of both are measured and compared. Pure: the caller
passes the times.
"""

BATCH_EACH_SECONDS = 25e-6  # added by each event of a batch; similar everywhere (encoding, sending)
BATCH_FIXED_SECONDS = 1e-3  # the remaining cost of a batch, until measured: that of the fastest server
BATCH_MUST_WIN_BY = 1.25  # single publishes have the lower latency, so they win a tie
SPLIT_MIN_SECONDS = 1e-3  # the least gain for which a batch is committed in two halves
WHOLE_EVERY_BATCHES = 50
"""Batches after which one is not committed in halves, to measure its commit again."""
SATURATED = 8  # single publishes in flight from which on their rate shows the cost of one
PROBE_EVERY_BATCHES = 200
"""Batches after which single publishes are measured again: PROBE_EVENTS take about 0.3 % of the time."""
PROBE_EVENTS = 16
_SAMPLE_ACKS = 256  # a longer busy period is measured in parts
_WEIGHT = 1 / 4  # of a new measurement


class BatchingPolicy:
    """Running estimates of the costs, and the choices between them."""

    def __init__(self) -> None:
        self.single_seconds: float | None = None  # cost of one of many single publishes in flight
        self.batch_fixed_seconds = BATCH_FIXED_SECONDS
        self.commit_fixed_seconds = BATCH_FIXED_SECONDS  # the part of it after the last event was sent
        self.caller_seconds = 0.0  # from the answer of a caller to its next append
        self._since = 0.0  # start of the busy period that is being measured
        self._acks = 0
        self._peak = 0
        self._batches = 0

    def prefers_batch(self, events: int) -> bool:
        """Whether a batch of this many events is cheaper than single publishes."""
        if self.single_seconds is None or events < 2:
            return False
        batch = self.batch_fixed_seconds + events * BATCH_EACH_SECONDS
        return events * self.single_seconds > BATCH_MUST_WIN_BY * batch

    def probe_due(self) -> bool:
        """Whether the next events should be sent one by one, to measure their cost again."""
        if self._batches < PROBE_EVERY_BATCHES:
            return False
        self._batches = 0
        return True

    def single_sent(self, now: float, in_flight: int) -> None:
        """A single publish was sent.

        Args:
            now: by a monotonic clock, in seconds.
            in_flight: single publishes without an answer, this one included.
        """
        if in_flight == 1:  # a busy period starts
            self._since, self._acks, self._peak = now, 0, 0
        self._peak = max(self._peak, in_flight)

    def single_acknowledged(self, now: float, in_flight: int) -> None:
        """A single publish was answered, and this many are still in flight.

        A busy period is measured as a whole: acknowledgments arrive in bursts, so the time between two of
        them is meaningless.
        """
        self._acks += 1
        if in_flight > 0 and self._acks < _SAMPLE_ACKS:
            return
        if self._peak >= SATURATED and self._acks >= SATURATED:
            seconds = (now - self._since) / self._acks
            before = seconds if self.single_seconds is None else self.single_seconds
            self.single_seconds = before + (seconds - before) * _WEIGHT
            # No batch is measured while none is sent, so the estimate of a slow one must decay.
            slower = max(0.0, self.batch_fixed_seconds - BATCH_FIXED_SECONDS)
            self.batch_fixed_seconds -= slower * _WEIGHT
        self._since, self._acks, self._peak = now, 0, in_flight

    def batch_acknowledged(self, seconds: float, events: int) -> None:
        """A batch was answered, `seconds` after its first event could have been sent."""
        self._batches += 1
        fixed = max(0.0, seconds - events * BATCH_EACH_SECONDS)
        self.batch_fixed_seconds += (fixed - self.batch_fixed_seconds) * _WEIGHT

    def commit_at(self, events: int) -> int:
        """Return the number of events of a batch at which it is committed, if more of this many may follow.

        Callers that take long between an answer and the next append get a batch in two halves: while the
        server commits one half, they prepare the other. That costs one more commit. The time of a commit is
        measured while no caller runs, so a batch is committed as a whole now and then.
        """
        if self._batches % WHOLE_EVERY_BATCHES == 0:
            return events
        half = max(2, events // 2)
        gain = half * self.caller_seconds - self.commit_fixed_seconds
        return half if gain > SPLIT_MIN_SECONDS else events

    def callers_ran(self, seconds: float, callers: int) -> None:
        """Callers were answered, and ran for this time together."""
        self.caller_seconds += (seconds / callers - self.caller_seconds) * _WEIGHT

    def commit_acknowledged(self, seconds: float, events: int) -> None:
        """A batch was answered, `seconds` after its commit was sent."""
        fixed = max(0.0, seconds - events * BATCH_EACH_SECONDS)
        self.commit_fixed_seconds += (fixed - self.commit_fixed_seconds) * _WEIGHT
