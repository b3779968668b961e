"""The output of the demo: steps on standard error, then tables and the checks."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from jobledger.service.demo.checks import Check
from jobledger.service.demo.scenario import DemoResult
from jobledger.store.model.events import JobCreated, JobUpdated, event_type
from jobledger.store.model.fold import spec_head
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import StateType
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND

JOB_ROWS = 15
TIMELINE_ROWS = 24
PROBLEM_ROWS = 5
JOB_COLUMNS_WIDTH = 58  # of all columns except the name
TIMELINE_COLUMNS_WIDTH = 61  # of all columns except the reason
REST_MIN_WIDTH = 10
SHORT_ID_CHARACTERS = 10  # `j-` and eight characters; `View.get` accepts it

_STATE_STYLES = {
    StateType.PENDING: "dim",
    StateType.QUEUED: "yellow",
    StateType.RUNNING: "cyan",
    StateType.COMPLETED: "green",
    StateType.FAILED: "red",
    StateType.STOPPED: "magenta",
}


class StepReporter:
    """Reports steps on a console: a spinner on a terminal, otherwise plain lines."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def __call__(self, what: str) -> Iterator[Callable[[str], None]]:
        """Report a step; the yielded function reports its progress."""
        if not self._console.is_terminal:
            self._console.print(f"demo: {what}", soft_wrap=True, highlight=False)
            yield lambda _: None
            return
        began = time.monotonic()
        with self._console.status(what) as status:
            yield lambda progress: status.update(f"{what} ({progress})")
        line = Text.assemble(("· ", "dim"), what, (f"  {time.monotonic() - began:.1f} s", "dim"))
        self._console.print(line)


def jobs_table(result: DemoResult, now: int, width: int) -> RenderableType:
    """The first of the user's jobs, and counts of all jobs."""
    table = _table()
    table.add_column("Name", overflow="ellipsis", no_wrap=True, max_width=_rest(width, JOB_COLUMNS_WIDTH))
    table.add_column("ID", no_wrap=True)
    table.add_column("Type", no_wrap=True)
    for name in ("Version", "Revision"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Age", justify="right", no_wrap=True)
    for job in result.jobs[:JOB_ROWS]:
        status = job.status
        table.add_row(
            plain(status.name),
            plain(status.id[:SHORT_ID_CHARACTERS]),
            spec_head(job.spec).type,
            str(status.version),
            str(status.revision),
            _state(status.state.state_type),
            age(now - status.create_time),
        )
    more = sum(result.counts.values()) - min(len(result.jobs), JOB_ROWS)
    counts = ", ".join(f"{count} {state}" for state, count in result.counts.items() if count)
    return Group(
        _title("Jobs, as the view has them"), table, Text(f"… and {more} more. In all: {counts}", "dim")
    )


def timeline_table(result: DemoResult, width: int) -> RenderableType:
    """One job's events; of a long history the start and the end."""
    table = _table()
    table.add_column("Seq", justify="right", no_wrap=True)
    table.add_column("Time", no_wrap=True)
    table.add_column("What", no_wrap=True)
    for name in ("Rev", "Ver"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Who", no_wrap=True)
    table.add_column("Why", overflow="ellipsis", no_wrap=True, max_width=_rest(width, TIMELINE_COLUMNS_WIDTH))
    items = result.timeline
    half = TIMELINE_ROWS // 2
    shown = items if len(items) <= TIMELINE_ROWS else (*items[:half], None, *items[-half:])
    for item in shown:
        if item is None:
            table.add_row("…", "", f"{len(items) - 2 * half} more")
            continue
        table.add_row(
            str(item.sequence),
            datetime.fromtimestamp(item.time / NANOSECONDS_PER_SECOND)
            .astimezone()
            .strftime("%H:%M:%S.%f")[:-3],
            _what(item),
            str(item.revision),
            str(item.version),
            plain(item.actor),
            plain(item.reason),
        )
    return Group(_title(f"Timeline of {result.sample_job.status.name}"), table)


def check_list(checks: Sequence[Check]) -> RenderableType:
    """Each check with its result and figures, and the first problems of failed ones."""
    table = Table.grid(padding=(0, 1))
    table.add_column(no_wrap=True)
    table.add_column()
    table.add_column(style="dim")
    for check in checks:
        mark = Text("✓", "bold green") if check.ok else Text("✗", "bold red")
        table.add_row(mark, check.claim, check.figures)
        for problem in check.problems[:PROBLEM_ROWS]:
            table.add_row("", Text(problem, "red"), "")
        if len(check.problems) > PROBLEM_ROWS:
            table.add_row("", Text(f"and {len(check.problems) - PROBLEM_ROWS} more", "red"), "")
    return Group(_title("Checks, computed from the receipts, the log and the view"), table)


def age(nanoseconds: int) -> str:
    """Format a duration: `0.4 s`, `12 s`, `3 min`."""
    seconds = max(0, nanoseconds) / NANOSECONDS_PER_SECOND
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def plain(text: str) -> Text:
    """The user's text with control characters escaped."""
    return Text("".join(c if c.isprintable() else repr(c)[1:-1] for c in text))


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def _title(text: str) -> Text:
    title = plain(text)
    title.stylize("bold")
    title.no_wrap, title.overflow = True, "ellipsis"
    return title


def _rest(width: int, taken: int) -> int:
    """The width of the column with long texts, which are truncated so that other columns are not."""
    return max(REST_MIN_WIDTH, width - taken)


def _state(state: StateType) -> Text:
    return Text(state.value, _STATE_STYLES[state])


def _what(item: HistoryItem) -> Text:
    if item.anomaly:
        return Text(f"anomaly: {item.anomaly}", "red")
    if item.type == event_type(JobCreated):
        return Text("created", "bold")
    if item.type == event_type(JobUpdated):
        return Text(f"spec → version {item.version}", "bold")
    return _state(item.state.state_type) if item.state else Text("")
