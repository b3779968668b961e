"""Interruptions of what a client follows: which errors pass, and how long to wait before it goes on.

A service that never answered is not followed: the address is wrong, or nothing runs there.
"""

from jobledger.service.client.transport import Transport
from jobledger.service.errors import NotReady, ServiceUnreachable, Timeout, TooManyRequests
from jobledger.service.limits import (
    CLIENT_FEED_MAX_TRIES,
    CLIENT_RETRY_MAX_WAIT_SECONDS,
    CLIENT_RETRY_WAIT_SECONDS,
)
from jobledger.store.model.errors import LogError

PASSING = (ServiceUnreachable, Timeout, NotReady, TooManyRequests, LogError)
"""What passes: the service is starting, busy, draining, or its log is away for a moment."""


class Interruptions:
    """Counts interruptions in a row.

    Args:
        transport: to the service.
        max_tries: so many in a row end it; None: the caller has another bound.
    """

    def __init__(self, transport: Transport, max_tries: int | None = CLIENT_FEED_MAX_TRIES) -> None:
        self._transport = transport
        self._max_tries = max_tries
        self._count = 0

    def over(self) -> None:
        """The service answered as it should: the next interruption is the first one."""
        self._count = 0

    def wait_seconds(self, error: Exception | None = None) -> float:
        """Seconds to wait before the next try.

        Args:
            error: what interrupted; None: the service closed the connection in order.

        Raises:
            Exception: `error`, if the service never answered, or too many interruptions came in a row.
        """
        if error is not None:
            self._count += 1
            is_first = isinstance(error, ServiceUnreachable) and not self._transport.has_answered
            if is_first or self._count == self._max_tries:
                raise error
        return float(
            min(CLIENT_RETRY_WAIT_SECONDS * 2 ** max(0, self._count - 1), CLIENT_RETRY_MAX_WAIT_SECONDS)
        )
