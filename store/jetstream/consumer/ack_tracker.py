"""How far a consumer is handled, as who holds it knows, and as the server was told. Pure."""

from jobledger.store.consumers import Delivery


class AckTracker:
    """The place of one consumer in one process.

    Attributes:
        sequence: all up to here is handled, as far as this process knows.
        told: the same, as the server was told last.
        seen: the server's own place, as last seen.
    """

    def __init__(self) -> None:
        self.sequence = self.told = self.seen = 0
        self._token = ""  # acknowledges the sequence; empty: nothing to acknowledge
        self._behind = 0  # looks in a row that found the server behind what it was told

    def begin(self, sequence: int) -> None:
        """Deliveries begin anew behind a sequence."""
        self.sequence = self.told = self.seen = sequence
        self._token, self._behind = "", 0

    def handled(self, delivery: Delivery) -> None:
        """All up to this one is handled."""
        self.sequence, self._token = delivery.sequence, delivery.token

    def forget(self) -> None:
        """Somebody else may have it now: nothing more is to be acknowledged."""
        self._token = ""

    @property
    def has_pending(self) -> bool:
        """Whether there is something to acknowledge."""
        return bool(self._token)

    def tell(self) -> str:
        """What to send to the server; it counts as told."""
        token, self._token, self.told = self._token, "", self.sequence
        return token

    def has_diverged(self, place: int, *, told: int) -> bool:
        """Whether the server's place is not what this process makes of it.

        A process that was asleep has acknowledged: the server is ahead of us, or it does not follow any more.
        The latter seen twice is no matter of a moment.

        Args:
            place: the server's.
            told: what it had been told before it was asked.
        """
        self.seen = place
        self._behind = self._behind + 1 if place < told else 0
        return place > self.sequence or self._behind > 1
