"""Cases, their bounds, and how they are measured and reported, independent of what is measured.

The speed of a machine varies, so a figure alone means little. Each case alternates with its baseline
(baseline, ours, baseline, ours …), and the result is the median of the ratios of adjacent runs.
"""

import gc
import json
import statistics
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal, NamedTuple

import msgspec

Measure = Callable[[], Awaitable[float]]
"""One run of one side; returns its figure, such as events per second."""


class Bound(msgspec.Struct, frozen=True):
    """A bound on the ratio to the baseline, or on the value of a case without a baseline."""

    side: Literal[">=", "<="]
    limit: float

    def __str__(self) -> str:
        return f"{self.side} {self.limit:g}"

    def holds(self, figure: float) -> bool:
        """Whether the figure is within the bound."""
        return figure >= self.limit if self.side == ">=" else figure <= self.limit


BOUNDS: Final = {
    "append/always/256": Bound(">=", 8),
    "append/always/64": Bound(">=", 4),
    "append/always/16": Bound(">=", 2.5),
    "append/always/1": Bound(">=", 0.8),
    "append/2m/256": Bound(">=", 1.3),
    "create/always/256": Bound(">=", 3),
    "set_state/always/64": Bound(">=", 3.5),
    "project/fetch": Bound(">=", 1.4),
    "project/sqlite3": Bound(">=", 0.6),
    "project/large": Bound(">=", 0.5),
    "project/new": Bound(">=", 0.8),
    "tree/project": Bound(">=", 0.85),
    "live/p50": Bound("<=", 2),
    "live/p99": Bound("<=", 10),
    "read/get": Bound(">=", 0.7),
    "read/get/large": Bound("<=", 2),
    "read/page/common/large": Bound("<=", 2),
    "read/page/rare/large": Bound("<=", 2),
    "memory/most": Bound("<=", 300),
    "memory/flat": Bound("<=", 1.1),
    "http/get": Bound(">=", 0.65),
    "http/put": Bound(">=", 0.5),
    "http/page/large": Bound("<=", 2),
    "neighbor/p50": Bound("<=", 3),
    "neighbor/p99": Bound("<=", 3),
    "feed/p99": Bound("<=", 100),
    "replay/pull": Bound(">=", 0.8),
    "replay/most": Bound("<=", 300),
    "replay/flat": Bound("<=", 1.1),
    "subscribe/pull": Bound(">=", 1.2),
    "asof/job": Bound("<=", 5),
    "asof/first": Bound("<=", 15),
    "asof/created": Bound("<=", 1),
    "asof/created/alive": Bound("<=", 1),
    "asof/built": Bound("<=", 15),
    "asof/first/alive": Bound("<=", 15),
    "asof/built/alive": Bound("<=", 15),
    "asof/near": Bound("<=", 2_000),
    "audit/proof": Bound("<=", 20),
    "ui/first": Bound("<=", 300),
    "ui/list/large": Bound("<=", 2),
    "ui/filter/large": Bound("<=", 300),
}
"""Every case and its bound; the part before the first slash is the NAME on the command line."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the result. These fields, in this order, are the `--json` format.

    Attributes:
        case: what was measured, with the sizes that were used.
        unit: of `value` and `baseline`.
        baseline: the figure of the other side; None if the bound is on the value itself.
        ratio: value to baseline, the median over the rounds; None without a baseline.
        spread: the lowest and the highest ratio of a round; None if there is only one figure.
        bound: on the ratio, or on the value if there is no baseline; empty if there is none.
    """

    name: str
    case: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    spread: tuple[float, float] | None
    bound: str
    ok: bool


class Compared(NamedTuple):
    """The medians of two alternating sides, and the median, lowest and highest ratio of adjacent runs."""

    value: float
    baseline: float
    ratio: float
    spread: tuple[float, float]


def judge(
    key: str,
    case: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    ratio: float | None = None,
    spread: tuple[float, float] | None = None,
) -> Case:
    """Return a case with its verdict by `BOUNDS[key]`."""
    name = key.partition("/")[0]
    return decide(name, case, value, unit, baseline=baseline, ratio=ratio, spread=spread, bound=BOUNDS[key])


def decide(
    name: str,
    case: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    ratio: float | None = None,
    spread: tuple[float, float] | None = None,
    bound: Bound | None = None,
) -> Case:
    """Return a case with its verdict; ok without a bound.

    The judged figures are the printed, rounded ones.
    """
    value, baseline, ratio = round(value, 3), _rounded(baseline), _rounded(ratio)
    return Case(
        name=name,
        case=case,
        value=value,
        unit=unit,
        baseline=baseline,
        ratio=ratio,
        spread=None if spread is None else (round(spread[0], 3), round(spread[1], 3)),
        bound="" if bound is None else str(bound),
        ok=bound is None or bound.holds(value if ratio is None else ratio),
    )


async def take_turns(rounds: int, *sides: Measure) -> list[list[float]]:
    """Run the sides alternately; returns the figures of each side.

    The heap is collected before each run, so that no side pays for the garbage of another.
    """
    figures: list[list[float]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, own in zip(sides, figures, strict=True):
            gc.collect()
            own.append(await side())
    return figures


def compare(ours: Sequence[float], baseline: Sequence[float]) -> Compared:
    """Return the medians of both sides and of their ratios by round."""
    ratios = [a / b for a, b in zip(ours, baseline, strict=True)]
    return Compared(
        statistics.median(ours),
        statistics.median(baseline),
        statistics.median(ratios),
        (min(ratios), max(ratios)),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


class Output:
    """Writes results to stdout, as JSON lines at once or as a table at the end, and progress to stderr."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.cases: list[Case] = []

    def say(self, text: str) -> None:
        """Print progress."""
        print(f"  {text}", file=sys.stderr, flush=True)

    def report(self, case: Case) -> None:
        """Record a result."""
        self.cases.append(case)
        if self._as_json:
            print(json.dumps(msgspec.structs.asdict(case)), flush=True)
        else:
            self.say(f"{case.name}: {case.case}: {_summary(case)}")

    def compare(
        self, key: str, case: str, ours: Sequence[float], baseline: Sequence[float], unit: str
    ) -> None:
        """Report a case from the figures of two sides that took turns."""
        value, base, ratio, spread = compare(ours, baseline)
        self.report(judge(key, case, value, unit, baseline=base, ratio=ratio, spread=spread))

    def finish(self) -> None:
        """Print the table, unless the results were printed as JSON."""
        if not self._as_json and self.cases:
            print("\n".join(table(self.cases)), flush=True)


def table(cases: Sequence[Case]) -> list[str]:
    """Return the cases as aligned lines."""
    header = ("name", "case", "value", "baseline", "unit", "ratio", "spread", "bound", "")
    rows = [header] + [
        (
            case.name,
            case.case,
            _figure(case.value),
            _figure(case.baseline),
            case.unit,
            "-" if case.ratio is None else f"{case.ratio:.2f}",
            "-" if case.spread is None else "{:.2f}-{:.2f}".format(*case.spread),
            case.bound or "-",
            _verdict(case),
        )
        for case in cases
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    right = {2, 3, 5, 6}
    return [
        "  ".join(
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _summary(case: Case) -> str:
    against = "" if case.baseline is None else f" against {_figure(case.baseline)}: {case.ratio:.2f}"
    verdict = f" ({case.bound}: {_verdict(case)})" if case.bound else ""
    return f"{_figure(case.value)} {case.unit}{against}{verdict}"


def _verdict(case: Case) -> str:
    if not case.bound:
        return ""
    return "ok" if case.ok else "NOT OK"


def _figure(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
