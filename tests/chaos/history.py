"""What the clients of a run did: every call with the time of its begin and of its answer, one JSON line each.

A call is written before it is sent, and its answer when it came. A client that is killed in between leaves a
call without an answer: whether its event is in the log is unknown, but it is there at most once.
"""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Final, Literal

import msgspec

Outcome = Literal["ok", "refused", "unknown"]
FOREVER: Final = 1e18  # JSON has no infinity


class Call(msgspec.Struct, kw_only=True):
    """One call of a client, and what became of it.

    Attributes:
        token: names the call; the event that it appends carries it.
        client: which client process.
        verb: `create`, `apply`, `update`, `state`, `stop`, or `read`.
        job: the job's name.
        expected: the revision that the call expects; 0: that there is no such job; None: none.
        begun: when it was sent; seconds of the machine's monotonic clock.
        ended: when the answer came; `FOREVER` without an answer.
        outcome: `ok`: acknowledged; `refused`: nothing was written; `unknown`: neither is certain.
        changed: of an acknowledged write, whether an event was appended.
        revision: the job's revision in the answer; of a refusal that names one, that one; 0: none.
        sequence: of the event, in the answer; of a refusal that names a revision, of its event; 0: none.
        event_id: of the event, in the answer.
        floor: of a read: the revision that it must have seen at least: the newest of which its client was
            answered the position before it sent the read.
        strong: of a read: whether it was answered from the log, so that it is part of the one order.
        error: of a call that was not acknowledged.
        tries: how often it was sent.
    """

    token: str
    client: str
    verb: str
    job: str
    expected: int | None = None
    begun: float = 0.0
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
    """Appends calls to a file, as they begin and as they end."""

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("ab", buffering=0)

    def begin(self, call: Call) -> None:
        """Write a call down before it is sent."""
        call.begun = time.monotonic()
        self._write(call)

    def end(self, call: Call) -> None:
        """Write its answer down."""
        if call.outcome != "unknown":
            call.ended = time.monotonic()
        self._write(call)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, call: Call) -> None:
        self._file.write(msgspec.json.encode(call) + b"\n")


def read_calls(paths: Iterable[Path]) -> list[Call]:
    """Every call in these files, as its last line has it, in the order of their begins."""
    calls: dict[str, Call] = {}
    for path in paths:
        for line in path.read_bytes().split(b"\n")[:-1]:  # what has no end of line was cut by a kill
            call = msgspec.json.decode(line, type=Call)
            calls[call.token] = call
    return sorted(calls.values(), key=lambda call: call.begun)
