"""`jobledger job blame`: for every field of a job, who last set it, when, by which event, and why."""

import time
from typing import TYPE_CHECKING

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option, to_json
from jobledger.service.cli.shared import Session, connected, event_word, job_argument, namespace_option

if TYPE_CHECKING:
    from jobledger.service.client.answers import BlameItem


@click.command(
    epilog=examples(
        "jobledger job blame my-job",
        "jobledger job blame my-job --path Tasks[0].Engine",
        "jobledger job blame my-job --at 2h",
    )
)
@job_argument
@namespace_option
@click.option("--at", metavar="POINT", default="", help="As of a time, an age, a sequence, or r3 (revision).")
@click.option("--path", metavar="PATH", default="", help="Only this field and what is in it.")
@output_option()
@connected
def blame(*, job: str, namespace: str | None, at: str, path: str, form: str, session: Session) -> None:
    """Show who last set each field of a job, when, and why.

    JOB is a name, an id, or the beginning of an id. Fields are those of the spec, of the state, and the tags;
    each has the event since which it has its value. PATH is written as the table shows it: `Tasks[0].Env`.
    """
    from jobledger.service.cli.text import say

    output = Output(form)
    with session.client() as client:
        answer = client.blame(job, namespace=session.namespace(namespace), at=at, path=path)
    if output.by_line:
        output.page([item.wire for item in answer.items])
    elif output.for_machines:
        output.document(answer.wire)
    else:
        if path and not answer.items:
            say(f"no field at {path}; without --path all of them are shown")
            return
        _print(answer.items)


def _print(items: "tuple[BlameItem, ...]") -> None:
    from jobledger.service.cli.jobtable import UNKNOWN
    from jobledger.service.cli.text import BOLD, Cell, Column, print_table
    from jobledger.service.cli.times import age
    from jobledger.service.client.errors import nanoseconds_of

    now = time.time_ns()
    print_table(
        (
            Column("Field", flexible=True, least=20, middle=True),
            Column("Value", flexible=True),
            Column("Age", right=True, leaves=4),
            Column("Event", leaves=2),
            Column("Version", right=True, short="Ver", leaves=3),
            Column("Revision", right=True, short="Rev", leaves=1),
            Column("Who", flexible=True),
            Column("Why", flexible=True),
        ),
        [
            (
                Cell(item.path, BOLD),
                to_json(item.value, compact=True),
                age(nanoseconds_of(item.time), now),
                event_word(item.event_type),
                str(item.version),
                str(item.revision),
                item.actor or UNKNOWN,
                item.reason or UNKNOWN,
            )
            for item in items
        ],
    )
