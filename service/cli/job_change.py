"""`jobledger job set-state`, `stop`, `rerun`, `revert`, `tag`, `accept-unreadable` and `wait`."""

from typing import TYPE_CHECKING

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import (
    STATES,
    Session,
    StateChoice,
    VersionName,
    WholeNumber,
    connected,
    if_revision_option,
    job_argument,
    namespace_option,
    reason_option,
)
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import plain, say, state_cell, styled
from jobledger.service.cli.times import Duration

if TYPE_CHECKING:
    from jobledger.service.client.client import Client
    from jobledger.service.client.responses import WriteResponse

ENDED_OTHERWISE_CODE = 4  # as `Refused`: the job's state forbids what was awaited
TERMINAL_WORD = "terminal"
WAIT_DEFAULT = "5m"
_UNCHANGED = "nothing was written"


def print_result(
    result: "WriteResponse", output: Output, *, verb: str, name: str = "", more: str = ""
) -> None:
    """Print the result of a write; warnings go to standard error.

    Args:
        result: the response of the service.
        output: the format.
        verb: what was done if an event was written.
        name: the job as the user named it.
        more: appended to the line.
    """
    for warning in result.warnings or ():
        if result.event_id or _UNCHANGED not in warning:  # the line below already says it
            say(f"Warning: {warning}")
    if output.quiet:
        click.echo(result.job_id)
    elif output.for_machines:
        output.document(result.wire)
    else:
        done = verb if result.event_id else "unchanged"
        shown = result.job_id if result.job_id.startswith(name) else f"{plain(name)} ({result.job_id})"
        click.echo(f"{shown} {done}: version {result.version}, revision {result.revision}{more}")


def awaited_states(word: str) -> tuple[str, ...]:
    """The states to wait for: one, or every terminal state."""
    from jobledger.service.client.client import TERMINAL

    if word.lower() == TERMINAL_WORD:
        return TERMINAL
    found = [state for state in STATES if state.lower() == word.lower()]
    if not found:
        raise click.BadParameter(f"invalid state {word!r}: use {TERMINAL_WORD} or one of {', '.join(STATES)}")
    return tuple(found)


def wait_for(
    client: "Client",
    ref: str,
    word: str,
    *,
    timeout_seconds: float,
    output: Output,
    namespace: str = "",
    after: "WriteResponse | None" = None,
) -> bool:
    """Wait and print the job; returns whether it reached the awaited state rather than another terminal one.

    Raises:
        Timeout: the job did not end in time.
    """
    states = awaited_states(word)
    job = client.wait(ref, states, timeout_seconds=timeout_seconds, namespace=namespace, after=after)
    state = job.state.state_type
    if output.quiet:
        click.echo(job.id)
    elif output.for_machines:
        output.document(job.wire)
    else:
        message = f": {plain(job.state.message)}" if job.state.message else ""
        click.echo(f"{plain(job.name)} ({plain(job.id)}) is {styled(state_cell(state))}{message}")
    if state not in states:
        say(f"Error: the job ended as {state} and cannot become {' or '.join(states)}")
    return state in states


def _parse_details(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        key, equals, rest = value.partition("=")
        if not (key and equals):
            raise click.BadParameter(f"invalid detail {value!r}: use KEY=VALUE")
        found[key] = rest
    return found


@click.command(
    "set-state",
    epilog=examples(
        "jobledger job set-state my-job Running --message 'on node 3'",
        "jobledger job set-state my-job Running --detail Progress=55",
    ),
)
@job_argument
@click.argument("state", metavar="STATE", type=StateChoice())
@namespace_option
@click.option("--message", default="", help="Message for people.")
@click.option(
    "--detail",
    "details",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_parse_details,
    help="Detail for programs.",
)
@if_revision_option
@reason_option
@output_option(quiet=True)
@connected
def set_state(
    *,
    job: str,
    state: str,
    namespace: str | None,
    message: str,
    details: dict[str, str],
    if_revision: int | None,
    reason: str,
    output: Output,
    session: Session,
) -> None:
    """Set the state of a job.

    JOB is a name, an ID, or the beginning of an ID. STATE is Pending, Queued, Running, Completed, Failed or
    Stopped; the last three are terminal: only a new spec or a rerun changes them.
    """
    with session.client() as client:
        result = client.set_state(
            job,
            state,
            namespace=session.namespace(namespace),
            message=message,
            details=details,
            reason=reason,
            revision=if_revision,
        )
    print_result(result, output, verb=f"is {state}", name=job)


@click.command(epilog=examples("jobledger job stop my-job --reason 'no longer needed'"))
@job_argument
@namespace_option
@reason_option
@output_option(quiet=True)
@connected
def stop(*, job: str, namespace: str | None, reason: str, output: Output, session: Session) -> None:
    """Stop a job.

    JOB is a name, an ID, or the beginning of an ID. Stopping a stopped job changes nothing; a job that has
    completed or failed cannot be stopped.
    """
    with session.client() as client:
        result = client.stop(job, namespace=session.namespace(namespace), reason=reason)
    print_result(result, output, verb="stopped", name=job)


@click.command(epilog=examples("jobledger job rerun my-job", "jobledger job rerun my-job --version 3"))
@job_argument
@namespace_option
@click.option(
    "--version",
    type=VersionName(),
    default=None,
    help="With the spec of this version or tag, instead of the latest.",
)
@reason_option
@output_option(quiet=True)
@connected
def rerun(
    *,
    job: str,
    namespace: str | None,
    version: str | None,
    reason: str,
    output: Output,
    session: Session,
) -> None:
    """Run a job again, as a new version.

    JOB is a name, an ID, or the beginning of an ID. The job must be running or have ended.
    """
    with session.client() as client:
        result = client.rerun(
            job, namespace=session.namespace(namespace), version=version or "", reason=reason
        )
    print_result(result, output, verb="rerun", name=job)


@click.command(
    epilog=examples(
        "jobledger job revert my-job --to 3 --reason 'version 4 fails'",
        "jobledger job revert my-job --to stable",
    )
)
@job_argument
@namespace_option
@click.option(
    "--to", "version", type=VersionName(), metavar="VERSION", required=True, help="Its number or a tag."
)
@if_revision_option
@reason_option
@output_option(quiet=True)
@connected
def revert(
    *,
    job: str,
    namespace: str | None,
    version: str,
    if_revision: int | None,
    reason: str,
    output: Output,
    session: Session,
) -> None:
    """Restore the spec of an earlier version, as a new version.

    JOB is a name, an ID, or the beginning of an ID. All versions stay in the log. If the job already has that
    spec, nothing changes. Without --reason, the reason names the version.
    """
    with session.client() as client:
        result = client.revert(
            job, version, namespace=session.namespace(namespace), reason=reason, revision=if_revision
        )
    print_result(result, output, verb=f"reverted to {_version_text(version)}", name=job)


@click.command(
    epilog=examples("jobledger job tag my-job 3 stable", "jobledger job tag my-job stable --delete")
)
@job_argument
@click.argument("words", nargs=-1, required=True, metavar="{VERSION TAG | TAG --delete}")
@namespace_option
@click.option("-d", "--delete", is_flag=True, help="Remove the tag.")
@if_revision_option
@reason_option
@output_option(quiet=True)
@connected
def tag(
    *,
    job: str,
    words: tuple[str, ...],
    namespace: str | None,
    delete: bool,
    if_revision: int | None,
    reason: str,
    output: Output,
    session: Session,
) -> None:
    """Tag a version of a job, or remove a tag.

    JOB is a name, an ID, or the beginning of an ID. A TAG is a letter, then letters, digits, `.`, `_` and
    `-`; it can be used wherever a version is expected. A TAG of another version moves to this one. VERSION is
    a number or another tag.
    """
    version, name = _parse_tag_words(words, delete=delete)
    where = session.namespace(namespace)
    with session.client() as client:
        if delete:
            result = client.untag(job, name, namespace=where, reason=reason, revision=if_revision)
            verb = f"no longer has the tag {name}"
        else:
            result = client.tag(job, version, name, namespace=where, reason=reason, revision=if_revision)
            tagged = _version_text(version) if version.isdecimal() else f"the version {version}"
            verb = f"has {tagged} tagged {name}"
    print_result(result, output, verb=verb, name=job)


def _parse_tag_words(words: tuple[str, ...], *, delete: bool) -> tuple[str, str]:
    if delete:
        if len(words) != 1:
            raise click.UsageError("--delete takes the tag only: `job tag JOB TAG --delete`")
        return "", words[0]
    if len(words) != 2:
        raise click.UsageError("a version and a tag are required: `job tag JOB 3 golden`")
    return VersionName().convert(words[0], None, None), words[1]


def _version_text(version: str) -> str:
    return f"version {version}" if version.isdecimal() else version


@click.command(
    "accept-unreadable",
    epilog=examples(
        "jobledger job accept-unreadable my-job --sequence 812 --reason 'written by a broken client'"
    ),
)
@job_argument
@click.option(
    "--sequence",
    type=WholeNumber(),
    metavar="N",
    required=True,
    help="Sequence of the event, as shown by `job describe`.",
)
@namespace_option
@reason_option
@output_option(quiet=True)
@connected
def accept_unreadable(
    *,
    job: str,
    sequence: int,
    namespace: str | None,
    reason: str,
    output: Output,
    session: Session,
) -> None:
    """Accept an event that cannot be read.

    JOB, a name, an ID, or the beginning of an ID, is in quarantine. Afterwards its state is built from its
    other events, earlier and later ones. The acceptance is an event of the job, with actor and reason, and
    cannot be undone. A release that can read the event ignores the acceptance. Requires an admin token.
    """
    with session.client() as client:
        result = client.accept_unreadable(
            job, sequence, namespace=session.namespace(namespace), reason=reason
        )
    print_result(result, output, verb=f"continues without event {sequence}", name=job)


@click.command(
    epilog=examples("jobledger job wait my-job", "jobledger job wait my-job --for Running --timeout 30s")
)
@job_argument
@namespace_option
@click.option(
    "--for",
    "state",
    metavar="STATE",
    default="Completed",
    show_default=True,
    help="The state, or `terminal` for any terminal state.",
)
@click.option(
    "--timeout", type=Duration(), default=WAIT_DEFAULT, show_default=True, help="At most this long."
)
@output_option(quiet=True)
@connected
@click.pass_context
def wait(
    ctx: click.Context,
    *,
    job: str,
    namespace: str | None,
    state: str,
    timeout: float,
    output: Output,
    session: Session,
) -> None:
    """Wait until a job reaches a state.

    JOB is a name, an ID, or the beginning of an ID. The exit code is 0 if it reached the state, 4 if it ended
    in another state, and 8 after the timeout.
    """
    with session.client() as client:
        reached = wait_for(
            client,
            job,
            state,
            timeout_seconds=timeout,
            output=output,
            namespace=session.namespace(namespace),
        )
    ctx.exit(0 if reached else ENDED_OTHERWISE_CODE)
