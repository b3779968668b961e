"""Cases, their bounds, and how they are measured and told: nothing here knows what is measured.

A machine is never equally fast twice, so a figure alone says little. Each case takes turns with its baseline
(baseline, ours, baseline, ours …), and what counts is the median of the ratios of neighbours.
"""

import gc
import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

Measure = Callable[[], Awaitable[float]]
"""One turn of one side; returns its figure, such as events per second."""


class Bound(msgspec.Struct, frozen=True):
    """What a case must reach.

    Attributes:
        side: whether it is the least or the most.
        limit: of the ratio to the baseline, or of the value where there is no baseline.
    """

    side: Literal[">=", "<="]
    limit: float

    def __str__(self) -> str:
        return f"{self.side} {self.limit:g}"

    def holds(self, figure: float) -> bool:
        """Whether a figure is within."""
        return figure >= self.limit if self.side == ">=" else figure <= self.limit


BOUNDS: Final = {
    "append/always/256": Bound(">=", 7),
    "append/always/64": Bound(">=", 3),
    "append/always/1": Bound(">=", 0.8),
    "append/2m/256": Bound(">=", 1.3),
    "create/always/256": Bound(">=", 4),
    "project/fetch": Bound(">=", 1.4),
    "project/sqlite3": Bound(">=", 0.4),
    "project/large": Bound(">=", 0.5),
    "tree/project": Bound(">=", 0.85),
    "live/p50": Bound("<=", 3),
    "live/p99": Bound("<=", 20),
    "read/get": Bound(">=", 0.7),
    "read/get/large": Bound("<=", 2),
    "read/page/common/large": Bound("<=", 2),
    "read/page/rare/large": Bound("<=", 2),
    "memory/most": Bound("<=", 300),
    "memory/flat": Bound("<=", 1.1),
    "http/get": Bound(">=", 0.4),
    "http/put": Bound(">=", 0.35),
    "http/page/large": Bound("<=", 2),
    "neighbor/p50": Bound("<=", 3),
    "neighbor/p99": Bound("<=", 3),
    "feed/p99": Bound("<=", 250),
    "replay/pull": Bound(">=", 0.4),
    "replay/most": Bound("<=", 300),
    "replay/flat": Bound("<=", 1.1),
    "subscribe/pull": Bound(">=", 0.6),
    "asof/job": Bound("<=", 5),
    "asof/first": Bound("<=", 30),
    "asof/first/alive": Bound("<=", 30),
    "asof/near": Bound("<=", 2_000),
    "audit/proof": Bound("<=", 20),
}
"""Every case and its bound; the part before the first slash is the NAME on the command line."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the result; these fields, in this order, are the `--json` format.

    Attributes:
        name: which benchmark.
        case: what was measured, with the sizes that were really used.
        value: our figure.
        unit: of `value` and `baseline`.
        baseline: the figure of what we compare with; None if the bound is on the value itself.
        ratio: value to baseline, the median over the rounds; None without a baseline.
        bound: on the ratio, or on the value if there is no baseline.
        ok: whether the bound holds.
    """

    name: str
    case: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    bound: str
    ok: bool


class Compared(NamedTuple):
    """Two sides that took turns: their medians, and the median of the ratios of neighbours."""

    value: float
    baseline: float
    ratio: float


def judge(
    key: str,
    case: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    ratio: float | None = None,
) -> Case:
    """A case, held against its bound. Figures are rounded first: what is judged is what is printed.

    Args:
        key: in `BOUNDS`.
        case: what was measured.
        value: our figure.
        unit: of both figures.
        baseline: what it is compared with.
        ratio: of the two.
    """
    bound = BOUNDS[key]
    value, baseline, ratio = round(value, 3), _rounded(baseline), _rounded(ratio)
    return Case(
        name=key.partition("/")[0],
        case=case,
        value=value,
        unit=unit,
        baseline=baseline,
        ratio=ratio,
        bound=str(bound),
        ok=bound.holds(value if ratio is None else ratio),
    )


async def take_turns(rounds: int, *sides: Measure) -> list[list[float]]:
    """The figures of each side over the rounds; within a round the sides run one after the other.

    Each starts from a collected heap, so that nobody pays for the garbage of the one before.
    """
    figures: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, its in zip(sides, figures, strict=True):
            gc.collect()
            its.append(await side())
    return figures


def compare(ours: Sequence[float], baseline: Sequence[float]) -> Compared:
    """The medians of both sides and of their ratios, round by round."""
    ratios = [a / b for a, b in zip(ours, baseline, strict=True)]
    return Compared(statistics.median(ours), statistics.median(baseline), statistics.median(ratios))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


class Output:
    """Where results and progress go: results to stdout, progress to stderr.

    Args:
        as_json: one JSON object per case and line, as soon as it is known; otherwise a table at the end.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.cases: list[Case] = []

    def say(self, text: str) -> None:
        """Tell what is going on."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def report(self, case: Case) -> None:
        """Take in a result."""
        self.cases.append(case)
        if self._as_json:
            print(json.dumps(msgspec.structs.asdict(case)), flush=True)
        else:
            self.say(f"{case.name}: {case.case}: {_told(case)}")

    def finish(self) -> None:
        """Print the table, unless every line is out already."""
        if not self._as_json and self.cases:
            print("\n".join(table(self.cases)), flush=True)


def table(cases: Sequence[Case]) -> list[str]:
    """The cases as aligned lines."""
    heads = ("name", "case", "value", "baseline", "unit", "ratio", "bound", "")
    rows = [heads] + [
        (
            case.name,
            case.case,
            _figure(case.value),
            _figure(case.baseline),
            case.unit,
            "-" if case.ratio is None else f"{case.ratio:.2f}",
            case.bound,
            "ok" if case.ok else "NOT OK",
        )
        for case in cases
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    right = {2, 3, 5}
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _told(case: Case) -> str:
    beside = "" if case.baseline is None else f" against {_figure(case.baseline)}: {case.ratio:.2f}"
    return f"{_figure(case.value)} {case.unit}{beside} ({case.bound}: {'ok' if case.ok else 'NOT OK'})"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
