"""Whether waiting appends go out one by one or as one atomic batch: measured, not configured.

A server that syncs each message (`sync_interval: always`) takes some 0.3 ms for one, and some 4 ms for a
batch of any size; one that syncs rarely is faster one by one. A client can't ask which kind it talks to,
disks differ by a factor of twenty, and other writers come and go: so this watches what appends cost now and
compares.

Pure: it is told the times.
"""

BATCH_EACH_SECONDS = 25e-6  # what each event adds to a batch; about the same everywhere (encoding, sending)
BATCH_FIXED_SECONDS = 4e-3  # the rest of a batch, until measured
BATCH_MUST_WIN_BY = 1.25  # single publishes have the better latency, so a tie is theirs
SATURATED = 8  # single publishes under way from which on their rate says what one costs
PROBE_EVERY_BATCHES = 200  # look again what single publishes cost; 16 of them are some 0.3 % of the time
PROBE_EVENTS = 16
_SAMPLE_ACKS = 256  # a busy time longer than this is measured in pieces
_FORGET = 1 / 4  # the weight of a new measurement


class BatchingPolicy:
    """Two running estimates and the choice between them."""

    def __init__(self) -> None:
        self.single_seconds: float | None = None  # one of many single publishes under way, acknowledged
        self.batch_fixed_seconds = BATCH_FIXED_SECONDS
        self._since = 0.0  # when the busy time that is being measured began
        self._acks = 0
        self._peak = 0
        self._batches = 0

    def prefers_batch(self, events: int) -> bool:
        """Whether this many events are better sent as one batch than one by one."""
        if self.single_seconds is None or events < 2:
            return False
        batch = self.batch_fixed_seconds + events * BATCH_EACH_SECONDS
        return events * self.single_seconds > BATCH_MUST_WIN_BY * batch

    def probe_due(self) -> bool:
        """Whether the next events should go out one by one, to measure that again."""
        if self._batches < PROBE_EVERY_BATCHES:
            return False
        self._batches = 0
        return True

    def single_sent(self, now: float, in_flight: int) -> None:
        """A single publish went out, and this many are under way with it.

        Args:
            now: a monotonic clock, seconds.
            in_flight: how many are under way.
        """
        if in_flight == 1:  # a busy time begins
            self._since, self._acks, self._peak = now, 0, 0
        self._peak = max(self._peak, in_flight)

    def single_acknowledged(self, now: float, in_flight: int) -> None:
        """A single publish was answered, and this many are still under way.

        A busy time counts as a whole: acknowledgements come in bursts, and the time between two says nothing.
        """
        self._acks += 1
        if in_flight > 0 and self._acks < _SAMPLE_ACKS:
            return
        if self._peak >= SATURATED and self._acks >= SATURATED:
            seconds = (now - self._since) / self._acks
            before = seconds if self.single_seconds is None else self.single_seconds
            self.single_seconds = before + (seconds - before) * _FORGET
            # While nothing is batched no batch is measured: one that was slow by chance must be forgotten.
            slower = max(0.0, self.batch_fixed_seconds - BATCH_FIXED_SECONDS)
            self.batch_fixed_seconds -= slower * _FORGET
        self._since, self._acks, self._peak = now, 0, in_flight

    def batch_acknowledged(self, seconds: float, events: int) -> None:
        """A batch was answered: `seconds` from the moment its first event could have gone out."""
        self._batches += 1
        fixed = max(0.0, seconds - events * BATCH_EACH_SECONDS)
        self.batch_fixed_seconds += (fixed - self.batch_fixed_seconds) * _FORGET
