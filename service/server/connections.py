"""Keeps room for new connections: when it gets scarce, idle ones of the address that has the most are ended.

The HTTP server accepts up to a number of connections and then none, also if they say nothing: whoever opens
that many would make `/livez` unreachable. The server has no limit per address, so the open sockets of this
process are looked at from outside. A connection on which a request is under way is never ended; one that is
idle may be ended at any time in HTTP, and clients open another.
"""

import os
import resource
import socket
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final

from jobledger.service.limits import CONNECTIONS_KEPT_FILES, CONNECTIONS_MAX

_FILES: Final = "/dev/fd"


def connections_max() -> int:
    """How many connections the server may hold: CONNECTIONS_MAX, or what the limit of open files allows."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return max(1, min(CONNECTIONS_MAX, soft - CONNECTIONS_KEPT_FILES))


class ConnectionGuard:
    """Looks at the connections of one port of this process.

    Args:
        port: that is listened on.
        most: connections that the server holds.
        busy: the clients' ports of all requests under way.
    """

    def __init__(self, port: int, most: int, busy: Callable[[], Collection[int]]) -> None:
        self._port = port
        self._most = most
        self._busy = busy

    def look(self) -> int:
        """End idle connections if three quarters are taken, until half are; for a thread.

        Returns:
            How many were ended.
        """
        if len(os.listdir(_FILES)) < self._most * 3 // 4:  # noqa: PTH208 - one call in the usual case
            return 0
        by_address: dict[str, list[socket.socket]] = {}
        found = self._connections()
        try:
            busy, idle_count = self._busy(), 0
            if len(found) < self._most * 3 // 4:
                return 0
            counts: dict[str, int] = {}
            for address, port, connection in found:
                counts[address] = counts.get(address, 0) + 1
                if port not in busy:
                    by_address.setdefault(address, []).append(connection)
            excess = len(found) - self._most // 2
            while idle_count < excess and by_address:
                address = max(by_address, key=lambda each: counts[each])
                _end(by_address[address].pop(0))
                counts[address] -= 1
                idle_count += 1
                if not by_address[address]:
                    del by_address[address]
            return idle_count
        finally:
            for *_, connection in found:
                connection.close()  # our duplicate of it

    def _connections(self) -> list[tuple[str, int, socket.socket]]:
        """The clients' addresses and ports, and a duplicate of each socket."""
        found = []
        for name in os.listdir(_FILES):  # noqa: PTH208 - thousands of names
            try:
                number = int(name)
                if not stat.S_ISSOCK(os.fstat(number).st_mode):
                    continue
                # A duplicate stays the same connection, even if its number is used for another meanwhile.
                connection = socket.socket(fileno=os.dup(number))
            except (OSError, ValueError):
                continue
            try:
                if connection.family not in (socket.AF_INET, socket.AF_INET6):
                    raise OSError  # noqa: TRY301 - a socket of another kind
                if connection.getsockname()[1] != self._port:
                    raise OSError  # noqa: TRY301
                address, port = connection.getpeername()[:2]
            except OSError:
                connection.close()
                continue
            found.append((str(address), int(port), connection))
        return found


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
