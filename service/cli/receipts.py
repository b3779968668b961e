"""What a write did, told; and a job that is waited for. Shared by the commands that change jobs."""

from typing import TYPE_CHECKING

import click

from jobledger.service.cli.output import Output
from jobledger.service.cli.text import STATE_STYLES, Cell, plain, say, styled

if TYPE_CHECKING:
    from jobledger.service.client.answers import JobAnswer, WriteAnswer
    from jobledger.service.client.client import Client

ENDED_OTHERWISE_CODE = 4  # the job's state forbids it: what is waited for can't come any more
TERMINAL_WORD = "terminal"
_UNCHANGED = "nothing was written"


def print_receipt(
    answer: "WriteAnswer", output: Output, *, verb: str, name: str = "", more: str = ""
) -> None:
    """Say what a write did; its warnings go to standard error.

    Args:
        answer: of the service.
        output: how.
        verb: what was done, if something was.
        name: by which the job was meant.
        more: what is said behind it.
    """
    for warning in answer.warnings or ():
        if answer.event_id or _UNCHANGED not in warning:  # that nothing was written is said below
            say(f"Warning: {warning}")
    if output.quiet:
        click.echo(answer.job_id)
    elif output.for_machines:
        output.document(answer.wire)
    else:
        done = verb if answer.event_id else "unchanged"
        shown = answer.job_id if answer.job_id.startswith(name) else f"{plain(name)} ({answer.job_id})"
        click.echo(f"{shown} {done}: version {answer.version}, revision {answer.revision}{more}")


def wanted_states(word: str) -> tuple[str, ...]:
    """The states that a person waits for: one, or any that is an end."""
    from jobledger.service.cli.shared import STATES
    from jobledger.service.client.client import TERMINAL

    if word.lower() == TERMINAL_WORD:
        return TERMINAL
    found = [state for state in STATES if state.lower() == word.lower()]
    if not found:
        raise click.BadParameter(f"{word!r} is no state; use {TERMINAL_WORD} or one of {', '.join(STATES)}")
    return tuple(found)


def wait_for(
    client: "Client",
    ref: str,
    word: str,
    *,
    timeout_seconds: float,
    output: Output,
    namespace: str = "",
    after: "WriteAnswer | None" = None,
) -> bool:
    """Wait and tell; whether the job came to what was waited for, rather than to another end.

    Raises:
        Timeout: neither came in time.
    """
    states = wanted_states(word)
    job = client.wait(ref, states, timeout_seconds=timeout_seconds, namespace=namespace, after=after)
    reached = job.state.state_type in states
    _print_end(job, output)
    if not reached:
        say(f"Error: the job has ended as {job.state.state_type}; {', '.join(states)} can't come any more")
    return reached


def _print_end(job: "JobAnswer", output: Output) -> None:
    if output.quiet:
        click.echo(job.id)
    elif output.for_machines:
        output.document(job.wire)
    else:
        state = job.state.state_type
        message = f": {plain(job.state.message)}" if job.state.message else ""
        shown = styled(Cell(state, STATE_STYLES.get(state, "")))
        click.echo(f"{plain(job.name)} ({plain(job.id)}) is {shown}{message}")
