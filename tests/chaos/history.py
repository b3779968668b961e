"""The calls of the clients of a run with the times of request and response, one JSON line each.

A call is written before it is sent, and again with its response. A client that is killed in between leaves
a call without a response: whether its event is in the log is unknown, but it is there at most once.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

Outcome = Literal["ok", "refused", "unknown"]
FOREVER: Final = 1e18  # JSON has no infinity


class Call(msgspec.Struct, kw_only=True):
    """One call of a client and its outcome.

    Attributes:
        token: identifies the call; the event that it appends carries it.
        verb: `create`, `apply`, `update`, `state`, `stop`, or `read`.
        expected: the expected revision; 0: the job must not exist; None: no expectation.
        started: when it was sent, in seconds of the machine's monotonic clock.
        ended: when the response arrived; `FOREVER` without a response.
        outcome: `ok`: acknowledged; `refused`: nothing was written; `unknown`: neither is certain.
        changed: whether an acknowledged write appended an event.
        revision: the job's revision in the response or refusal; 0: none.
        sequence: the sequence of that revision's event; 0: none.
        floor: the least revision that a read must return: the newest one whose position its client knew.
        strong: whether a read was answered from the log, so that it is part of the total order.
        tries: how often it was sent.
    """

    token: str
    client: str
    verb: str
    job: str
    expected: int | None = None
    started: float = 0.0
    ended: float = FOREVER
    outcome: Outcome = "unknown"
    changed: bool = True
    revision: int = 0
    sequence: int = 0
    event_id: str = ""
    floor: int = 0
    strong: bool = False
    error: str = ""
    tries: int = 1

    @property
    def acknowledged(self) -> bool:
        """Whether it is a write whose event must be in the log."""
        return self.outcome == "ok" and self.verb != "read" and self.changed


class Recorder:
    """Appends calls to a file, when they start and when they end."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def begin(self, call: Call) -> None:
        """Record a call before it is sent."""
        call.started = time.monotonic()
        self._write(call)

    def end(self, call: Call) -> None:
        """Record its response."""
        if call.outcome != "unknown":
            call.ended = time.monotonic()
        self._write(call)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, call: Call) -> None:
        self._file.write(msgspec.json.encode(call) + b"\n")


def read_calls(paths: Iterable[Path]) -> list[Call]:
    """Return every call in these files, by its last line, in the order of the starts."""
    calls: dict[str, Call] = {}
    for path in paths:
        for line in path.read_bytes().split(b"\n")[:-1]:  # a line without an end was truncated by a kill
            call = msgspec.json.decode(line, type=Call)
            calls[call.token] = call
    return sorted(calls.values(), key=lambda call: call.started)
