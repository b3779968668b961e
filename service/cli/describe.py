"""`jobledger job describe`: one job, readable, and its timeline."""

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.lists import watch, watch_option
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.shared import (
    Session,
    VersionName,
    connected,
    job_argument,
    namespace_option,
)
from jobledger.service.cli.text import (
    STATE_STYLES,
    Cell,
    Row,
    plain,
    plain_lines,
    print_table,
    say,
    styled,
)
from jobledger.service.cli.times import PointText, age, exact
from jobledger.service.limits import DESCRIBE_MAX_EVENTS, DESCRIBE_SHOWN_EVENTS

if TYPE_CHECKING:
    from jobledger.service.client.answers import HistoryPage, JobAnswer, TagsAnswer

_LABEL_WIDTH = 13
_SPEC_KEYS = ("Constraints", "Meta", "Tasks")


@click.command(
    epilog=examples(
        "jobledger job describe my-job",
        "jobledger job describe my-job --version 3",
        "jobledger job describe my-job --at 2h -o yaml",
    )
)
@job_argument
@namespace_option
@click.option(
    "--version", type=VersionName(), default=None, help="As this version of its spec was; also by a tag."
)
@click.option(
    "--at",
    type=PointText(revisions=True),
    metavar="POINT",
    default="",
    help="As it was then: a time, an age as `2h`, a sequence, or a revision as `r3`.",
)
@click.option("--wait-for", metavar="CURSOR", default="", help="As it is after this position, or later.")
@watch_option
@output_option("table", "json", "yaml")
@quiet_option
@connected
def describe(
    *,
    job: str,
    namespace: str | None,
    version: str | None,
    at: str,
    wait_for: str,
    watched: bool,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Show a job and its timeline.

    JOB is a name, an id, or the beginning of an id. The timeline tells when, the sequence in the log, version
    and revision, what happened, who did it and why. With --at, all of it is told as it stood then.
    """
    output = Output(form, quiet=quiet)
    with session.client() as client:
        where = session.namespace(namespace)
        found = client.job(job, namespace=where, wait_for=wait_for, version=version or "", at=at)
        if quiet:
            click.echo(plain(found.id))
            return
        job_id = found.id  # the name is asked for once; the id stays the same

        def read(job: "JobAnswer") -> tuple["JobAnswer", "TagsAnswer", "HistoryPage"]:
            tags = client.tags(job_id, at=at)
            return job, tags, client.history(job_id, version=version or "", limit=DESCRIBE_MAX_EVENTS, at=at)

        if watched:
            watch(
                client,
                lambda: read(client.job(job_id, wait_for=wait_for, version=version or "", at=at)),
                lambda parts: _print(output, *parts),
                for_people=output.for_people,
            )
        _print(output, *read(found))


def _print(output: Output, job: "JobAnswer", tags: "TagsAnswer", history: "HistoryPage") -> None:
    if output.for_machines:
        output.document({"Job": job.wire, "Tags": tags.wire["Items"], "History": history.wire})
        return
    now = time.time_ns()
    _print_job(job, tags, now)
    click.echo()
    _print_timeline(job, history, now)


def _print_job(job: "JobAnswer", tags: "TagsAnswer", now: int) -> None:
    state = styled(Cell(job.state.state_type, STATE_STYLES.get(job.state.state_type, "")))
    message = f": {plain(job.state.message)}" if job.state.message else ""
    lines = [
        ("Name", plain(job.name)),
        ("ID", plain(job.id)),
        ("Namespace", plain(job.namespace)),
        ("Type", f"{plain(job.type)}, count {job.wire.get('Count')}, priority {job.wire.get('Priority', 0)}"),
        ("State", state + message),
        *(("", f"{plain(key)}: {plain(value)}") for key, value in job.state.details.items()),
        *_quarantine(job.wire),
        ("Version", str(job.version)),
        ("Revision", str(job.revision)),
        ("Created", f"{exact(job.create_time)} ({age(job.create_time, now)} ago)"),
        ("Modified", f"{exact(job.modify_time)} ({age(job.modify_time, now)} ago)"),
        *_pairs("Tags", {each.tag: f"version {each.job_version}" for each in tags.items}),
        *_pairs("Labels", job.labels),
    ]
    for label, value in lines:
        click.echo(f"{click.style(f'{label:<{_LABEL_WIDTH}}', bold=True)}{value}")
    _print_spec(job.wire)


def _quarantine(wire: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Since which event a frozen job is frozen, and why."""
    quarantine = wire.get("Quarantine")
    if not isinstance(quarantine, dict):
        return []
    text = f"since event {quarantine.get('Sequence')}: {quarantine.get('Reason')}"
    return [("Quarantine", click.style(plain(text), "red"))]


def _pairs(label: str, pairs: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (label if at == 0 else "", f"{plain(key)}={plain(value)}")
        for at, (key, value) in enumerate(pairs.items())
    ]


def _print_spec(wire: Mapping[str, Any]) -> None:
    """What there is of the spec besides, as YAML, without what is empty."""
    from jobledger.service.cli.output import to_yaml

    for key in _SPEC_KEYS:
        value = _without_empty(wire.get(key))
        if value not in (None, {}, []):
            click.echo(f"{click.style(key, bold=True)}")
            for line in to_yaml(value).rstrip("\n").split("\n"):
                click.echo(f"  {plain_lines(line)}")


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {key: _without_empty(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, "", {}, [])}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def _print_timeline(job: "JobAnswer", history: "HistoryPage", now: int) -> None:
    from jobledger.service.cli.jobtable import HISTORY_COLUMNS, history_row

    items = history.items
    half = DESCRIBE_SHOWN_EVENTS // 2
    rows: Sequence[Row] = [history_row(item, now) for item in items]
    if len(items) > DESCRIBE_SHOWN_EVENTS:
        gap: Row = ("…", "", "", "", f"{len(items) - 2 * half} more", "", "")
        rows = [*rows[:half], gap, *rows[-half:]]
    click.echo(click.style("Timeline", bold=True))
    print_table(HISTORY_COLUMNS, rows)
    is_cut = items and items[-1].revision < job.revision
    if is_cut or len(items) > DESCRIBE_SHOWN_EVENTS:
        say(f"All of it: jobledger job history {job.id}")
