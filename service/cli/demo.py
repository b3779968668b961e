"""`jobledger demo`: a demonstration on real job specs whose results are checked."""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from jobledger.service.cli.examples import examples
from jobledger.service.cli.spec_files import read_valid_specs
from jobledger.service.demo.checks import Check, check_all
from jobledger.service.demo.environment import NamedSpec, PlannedJob, plan_jobs, read_examples
from jobledger.service.demo.scenario import NATS_FOLDER, VIEW_FILE, DemoResult, run_scenario
from jobledger.service.demo.show import StepReporter, check_list, jobs_table, timeline_table

_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@click.command(epilog=examples("jobledger demo", "jobledger demo job.yaml --keep demo-data"))
@click.argument("specs", metavar="[SPEC]...", nargs=-1)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the log and the view in this directory; it must be new or empty.",
)
@click.pass_context
def demo(ctx: click.Context, specs: tuple[str, ...], keep: Path | None) -> None:
    """Run a demonstration on real job specs, and check its results.

    Starts its own nats-server, submits the SPECs (default: examples that come with Jobledger), updates jobs,
    lets writers race, kills the projector with kill -9, rebuilds the view, and checks the result. Uses and
    leaves no other files. The exit code is 0 if every check passed, else 1.
    """
    started = time.monotonic()
    plan = plan_jobs(_good_specs(ctx, specs))
    err = Console(stderr=True)
    result = _run(plan, keep, StepReporter(err))
    if err.is_terminal:
        err.print()
    checks = check_all(result.evidence)
    out = Console(highlight=False)
    for part in (
        jobs_table(result, time.time_ns(), out.width),
        timeline_table(result, out.width),
        check_list(checks),
    ):
        out.print(part)
        out.print()
    _print_summary(out, checks, time.monotonic() - started, keep)
    ctx.exit(0 if all(check.ok for check in checks) else 1)


def _good_specs(ctx: click.Context, names: Sequence[str]) -> Sequence[NamedSpec]:
    """The specs to submit; an invalid one ends the command before anything is started."""
    if not names:
        return read_examples()
    return [NamedSpec(Path(file).name, spec) for file, spec in read_valid_specs(ctx, names)]


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """The directory to keep, or a temporary one."""
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="jobledger-demo-") as directory:
            yield Path(directory)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        is_empty = not any(keep.iterdir())
    except OSError as error:
        raise click.BadParameter(f"{keep}: {error.strerror}", param_hint="--keep") from error
    if not is_empty:
        raise click.BadParameter(f"{keep} is not empty: use a new directory", param_hint="--keep")
    yield keep


def _run(plan: Sequence[PlannedJob], keep: Path | None, steps: StepReporter) -> DemoResult:
    """Run the scenario; a signal first stops what it started."""
    received: list[signal.Signals] = []

    @contextmanager
    def step(what: str) -> Iterator[Callable[[str], None]]:
        # Before Python 3.12, `asyncio.wait_for`, which requests to NATS use, loses a cancellation that
        # arrives together with its result; therefore each step checks for a signal.
        if received:
            raise asyncio.CancelledError
        with steps(what) as progress:
            yield progress

    async def run() -> DemoResult:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None

        def end(number: signal.Signals) -> None:
            if not received:  # a second signal must not interrupt the cleanup
                received.append(number)
                task.cancel()

        for number in _ENDING_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
                loop.add_signal_handler(number, end, number)
        with _directory(keep) as directory:  # inside the task, so that no signal interrupts its removal
            return await run_scenario(plan, directory, step)

    try:
        return asyncio.run(run())
    except asyncio.CancelledError:
        click.echo("Aborted: everything that was started is stopped.", err=True)
        sys.exit(128 + received[0])


def _print_summary(out: Console, checks: Sequence[Check], seconds: float, keep: Path | None) -> None:
    failed = sum(not check.ok for check in checks)
    if failed:
        out.print(f"[bold red]{failed} of {len(checks)} checks failed[/], after {seconds:.1f} s")
    else:
        out.print(f"[bold green]All {len(checks)} checks passed[/] in {seconds:.1f} s")
    if keep is not None:
        shown = click.format_filename(keep)
        out.print(
            f"Kept in {shown}: the view ({VIEW_FILE}) and the log ({NATS_FOLDER})",
            markup=False,
            soft_wrap=True,
        )
    elif failed:
        out.print("Repeat it with --keep DIR to inspect the log and the view.")
    out.print()
    program = _program()
    out.print("Next, with your own specs:")
    out.print(f"  {program} job validate FILE...   check them offline", soft_wrap=True)
    out.print(f"  {program} demo FILE...           this demo on them", soft_wrap=True)


def _program() -> str:
    """The command to repeat: its name if that is on the PATH, else its path."""
    if shutil.which("jobledger"):
        return "jobledger"
    program = Path(sys.executable).with_name("jobledger")
    here = Path.cwd()
    return str(program.relative_to(here) if program.is_relative_to(here) else program)
