"""`jobledger events tail`: every event as it happens, and where to go on afterwards."""

import shutil
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.shared import (
    EVENT_WORDS,
    INTERRUPTED_CODE,
    Session,
    StateChoice,
    WholeNumber,
    all_namespaces_option,
    connected,
    event_word,
    namespace_filter,
)
from jobledger.service.cli.text import BOLD, Cell, cut, plain, say, state_cell, styled, text_width
from jobledger.service.cli.times import exact

if TYPE_CHECKING:
    from jobledger.service.client.feed import Feed

_SEQUENCE_WIDTH = 6


@click.command(
    epilog=examples(
        "jobledger events tail --after 0",
        "jobledger events tail --namespace prod --state Failed",
        "jobledger events tail -l env=prod -o ndjson",
    )
)
@namespace_filter
@all_namespaces_option
@click.option("--job", metavar="JOB", default="", help="Of this job: name, id, or the beginning of an id.")
@click.option("--type", "types", multiple=True, type=click.Choice(EVENT_WORDS), help="Of any of these types.")
@click.option(
    "--state",
    multiple=True,
    metavar="STATE",
    type=StateChoice(),
    help="To any of these states.",
)
@click.option("-l", "--selector", multiple=True, metavar="TEXT", help="Of jobs with these labels.")
@click.option(
    "--after", metavar="CURSOR", default="", help="What came after this position; 0: from the beginning."
)
@click.option("--limit", type=WholeNumber(), default=None, help="End after so many events.")
@output_option()
@connected
@click.pass_context
def tail(
    ctx: click.Context,
    *,
    namespace: str | None,
    all_namespaces: bool,
    job: str,
    types: tuple[str, ...],
    state: tuple[str, ...],
    selector: tuple[str, ...],
    after: str,
    limit: int | None,
    form: str,
    session: Session,
) -> None:
    """Follow the events of all jobs.

    It begins now, or where --after says, and goes on until Ctrl-C. A connection that is lost is taken up
    again where it was: no event is lost and none is told twice. At the end, the cursor to go on from is told
    on standard error.
    """
    query = {
        "namespace": session.namespaces(namespace, everything=all_namespaces),
        "job": job,
        "type": list(types),
        "state": list(state),
        "labels": list(selector),
    }
    with session.client() as client:
        feed = client.feed(query, after=after, tell=say)
        try:
            _print(feed, Output(form), limit)
        except KeyboardInterrupt:
            click.echo(err=True)  # behind the ^C that the terminal shows
            ctx.exit(INTERRUPTED_CODE)
        finally:
            if feed.cursor and feed.is_accepted:
                say(f"Go on with: --after {feed.cursor}")


def _print(feed: "Feed", output: Output, limit: int | None) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for count, event in enumerate(feed.events(), start=1):
        if output.for_machines:
            output.document({**event.wire, "cursor": event.cursor})
        else:
            click.echo(event_line(event.wire, width))
        if count == limit:
            return


def event_line(event: Mapping[str, Any], width: int | None) -> str:
    """`when  sequence  job  what  version and revision  who  name, reason, message`.

    Args:
        event: of the feed.
        width: of the terminal: ids are short, and the end is cut; None: everything is whole.
    """
    from jobledger.service.cli.jobtable import short_ids
    from jobledger.service.client.errors import nanoseconds_of  # the client is imported already
    from jobledger.service.cursor import read_sequence
    from jobledger.service.history import tag_words

    data = event.get("data") or {}
    state: Mapping[str, Any] = data.get("State") or {}
    word = event_word(str(event.get("type", "")))
    what = state_cell(str(state.get("StateType", "?"))) if word == "state" else Cell(word, BOLD)
    name = event.get("name") or (data.get("Spec") or {}).get("Name")  # earlier services send no name
    left = "no longer has these labels" if event.get("matches") == "before" else ""
    tag = tag_words(str(data["Tag"]), int(data.get("Version") or 0)) if data.get("Tag") else ""
    why = [str(each) for each in (name, left, tag, event.get("reason"), state.get("Message")) if each]
    job_id = str(event.get("subject"))
    shown_id = job_id if width is None else short_ids([job_id])[job_id]
    sequence = read_sequence(event.get("sequence"))
    parts = [
        exact(nanoseconds_of(str(event.get("streamtime")))),
        plain(f"{'-' if sequence is None else sequence!s:>{_SEQUENCE_WIDTH}}"),
        plain(f"{event.get('namespace')}/{shown_id}"),
        styled(what) + " " * max(0, 9 - len(what.text)),
        f"v{event.get('version')} r{event.get('revision')}",
    ]
    head = "  ".join(parts)
    end = f"  {plain(str(event.get('actor') or '-'))}  {plain(' · '.join(dict.fromkeys(why)))}".rstrip()
    return head + (end if width is None else cut(end, width - text_width(click.unstyle(head))))
