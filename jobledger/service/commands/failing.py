"""An error as a person reads it: what is wrong, each problem or missed event on its line, what to do."""

import re
import time

from jobledger.service.commands.shared import event_word
from jobledger.service.commands.text import say
from jobledger.service.commands.times import age
from jobledger.store.errors import Conflict, InvalidSpec, JobledgerError
from jobledger.store.history import HistoryItem


def tell_error(error: JobledgerError) -> None:
    """Say it on standard error."""
    if isinstance(error, InvalidSpec):
        count = len(error.problems)
        say(f"Error: the spec is not valid: {count} problem{'s' if count != 1 else ''}")
        for problem in error.problems:
            say(f"  {problem}")
    else:
        say(f"Error: {error}")
    if isinstance(error, Conflict) and error.missed:
        say(f"What happened since, up to revision {error.revision}:")
        now = time.time_ns()
        for item in error.missed:
            say(f"  {_missed(item, now)}")
    for note in getattr(error, "__notes__", ()):
        if not _words(note) <= _words(str(error)):  # else it says nothing new
            say(f"Hint: {note}")


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _missed(item: HistoryItem, now: int) -> str:
    what = event_word(item.type) or "event"
    state = f" to {item.state.state_type}" if item.state and what == "state" else ""
    who = f" by {item.actor}" if item.actor else ""
    why = f": {item.reason}" if item.reason else ""
    when = f", {age(item.time, now)} ago" if item.time else ""
    return f"revision {item.revision} (version {item.version}): {what}{state}{who}{when}{why}"
