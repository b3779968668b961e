"""How a figure of a peer is compared and reported."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from benchmarks.harness import Bound, Output, compare, decide

NAME: Final = "peers"
CALLERS: Final = (1, 64, 256)
NOT_AHEAD: Final = Bound(">=", 1)
"""The goal: no peer that keeps a history is faster."""


class Figure(NamedTuple):
    """One round of one side.

    Attributes:
        rate: operations per second.
        cpu_ms: milliseconds of CPU per 1,000 operations.
    """

    rate: float
    cpu_ms: float


def report(what: str, peer: str, ours: Sequence[Figure], theirs: Sequence[Figure], output: Output) -> None:
    """Report the rate and the CPU time of one operation, of sides that took turns."""
    value, base, ratio, spread = compare([each.rate for each in ours], [each.rate for each in theirs])
    case = f"{what}, against {peer}"
    output.report(decide(NAME, case, value, "/s", baseline=base, ratio=ratio, spread=spread, bound=NOT_AHEAD))
    value, base, ratio, spread = compare([each.cpu_ms for each in ours], [each.cpu_ms for each in theirs])
    case = f"CPU of 1,000 x {case}"
    output.report(decide(NAME, case, value, "ms", baseline=base, ratio=ratio, spread=spread))
