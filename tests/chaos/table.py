"""Print the table of docs/RELIABILITY.md: `python -m tests.chaos.table REPORT.json…` (from `--report`)."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import msgspec

from tests.chaos.__main__ import Report
from tests.chaos.run import Round


def table(reports: Sequence[Report]) -> str:
    """Return a row for each topology and fault, and a line with the sums."""
    kinds: dict[tuple[str, str], list[Round]] = defaultdict(list)
    for report in reports:
        for topology, done in report.rounds:
            kinds[topology, done.fault].append(done)
    lines = [
        "| topology | fault | rounds | recovery, median (max) | no write acknowledged, median (max) |",
        "|---|---|---|---|---|",
    ]
    for (topology, fault), rounds in sorted(kinds.items(), reverse=True):
        recovery = [done.recovery_seconds for done in rounds]
        outage = [done.outage_seconds for done in rounds]
        lines.append(
            f"| {topology} | {fault} | {len(rounds)} | {median(recovery):.1f} s ({max(recovery):.1f} s)"
            f" | {median(outage):.1f} s ({max(outage):.1f} s) |"
        )
    sums = {
        name: sum(getattr(report, name) for report in reports)
        for name in ("acknowledged", "refused", "unknown")
    }
    together = sum(len(rounds) for rounds in kinds.values())
    findings = sum(len(report.findings) for report in reports)
    lines.append("")
    lines.append(
        f"{together} rounds; calls: {sums['acknowledged']:,} acknowledged, {sums['refused']:,} refused,"
        f" {sums['unknown']:,} without a known outcome; {findings} findings. {reports[0].machine}; seeds"
        f" {', '.join(str(report.seed) for report in reports)}."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([msgspec.json.decode(Path(word).read_bytes(), type=Report) for word in sys.argv[1:]]))
