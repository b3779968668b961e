"""Jobs and their events as rows of tables."""

import re
from collections.abc import Sequence
from typing import Final

from jobledger.service.cli.shared import event_word
from jobledger.service.cli.text import BOLD, Cell, Column, Row, print_table, state_cell
from jobledger.service.cli.times import age
from jobledger.service.client.answers import HistoryAnswer, JobAnswer
from jobledger.service.client.errors import nanoseconds_of
from jobledger.service.history import tag_words

_SHORT_CHARACTERS: Final = 10  # `j-` and eight more of a hash
# A job without a name has an id that begins with the time: the first digits are those of its neighbours, too.
_TIMED: Final = re.compile(r"j-[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
_TIMED_SHORT_CHARACTERS: Final = 20  # the time in milliseconds, and some chance
_NAME_LEAST_WIDTH: Final = 20  # less of a name tells too little
UNKNOWN: Final = Cell("-", "bright_black")


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Beginnings of ids that tell these ids apart, and most likely all others; each can be pasted back."""
    short: dict[str, str] = {}
    taken: dict[str, str] = {}
    for job_id in dict.fromkeys(ids):
        size = _TIMED_SHORT_CHARACTERS if _TIMED.fullmatch(job_id) else _SHORT_CHARACTERS
        short[job_id] = job_id[:size]
        other = taken.setdefault(short[job_id], job_id)
        if other != job_id:
            short[job_id], short[other] = job_id, other
    return short


def print_jobs(jobs: Sequence[JobAnswer], now: int, *, whole: bool = False) -> None:
    """The table of `job list`; if wanted, with whole ids and nothing cut."""
    ids = [job.id for job in jobs]
    short = dict(zip(ids, ids, strict=True)) if whole else short_ids(ids)
    several = len({job.namespace for job in jobs}) > 1
    columns = [
        Column("ID"),
        Column("Name", flexible=True, least=_NAME_LEAST_WIDTH),
        *([Column("Namespace", flexible=True, leaves=4)] if several else []),
        Column("Type", leaves=1),
        Column("State"),
        Column("Version", right=True, short="Ver", leaves=5),
        Column("Revision", right=True, short="Rev", leaves=2),
        Column("Age", right=True, leaves=3),
    ]
    rows: list[Row] = [
        (
            short[job.id],
            UNKNOWN if job.name == job.id else job.name,
            *((job.namespace,) if several else ()),
            job.type,
            state_cell(job.state.state_type) if "Quarantine" not in job.wire else Cell("Quarantined", "red"),
            str(job.version),
            str(job.revision),
            age(job.create_time, now),
        )
        for job in jobs
    ]
    print_table(columns, rows, whole=whole)


HISTORY_COLUMNS: Final = (
    Column("Age", right=True),
    Column("Sequence", right=True, short="Seq", leaves=1),
    Column("Version", right=True, short="Ver", leaves=2),
    Column("Revision", right=True, short="Rev"),
    Column("What", flexible=True),
    Column("Who", flexible=True, leaves=3),
    Column("Why", flexible=True),
)


def history_row(item: HistoryAnswer, now: int) -> Row:
    """An event of a job: when, where in the log, what it became, what happened, who, why."""
    return (
        age(nanoseconds_of(item.time), now),
        str(item.sequence),
        str(item.version),
        str(item.revision),
        what(item),
        item.actor or UNKNOWN,
        _why(item),
    )


def what(item: HistoryAnswer) -> Cell:
    """What happened, in a word or two."""
    word = event_word(item.event_type) or "?"
    if word == "state" and item.state is not None and not item.quarantine:
        return state_cell(item.state.state_type)
    if item.quarantine:
        return Cell(f"{word} (quarantined)", "red")
    if item.accepted_sequence:
        return Cell(f"event {item.accepted_sequence} accepted as unreadable", BOLD)
    if item.tag:
        return Cell(tag_words(item.tag, item.tag_version), BOLD)
    return Cell(f"updated to version {item.version}" if word == "updated" else word, BOLD)


def _why(item: HistoryAnswer) -> str | Cell:
    """The reason, and a state's message."""
    message = item.state.message if item.state is not None and event_word(item.event_type) == "state" else ""
    words = [each for each in (item.reason, message if message != item.reason else "") if each]
    return " · ".join(words) or UNKNOWN
