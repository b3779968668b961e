"""Prints errors: what is wrong, each problem or missed event on its own line, and hints."""

import re
import shlex
import sys
import time
from collections.abc import Sequence
from typing import Final

from jobledger.service.cli.options import event_word
from jobledger.service.cli.text import say
from jobledger.service.cli.times import age
from jobledger.store.model.errors import Conflict, InvalidSpec, JobledgerError
from jobledger.store.model.history import HistoryItem

_NATS: Final = ("url", "user", "password-file", "nkey-file", "creds-file", "tls-ca", "tls-cert", "tls-key")
_FOLDER_FLAGS: Final = ("--config", "--data-dir")
_FLAGS: Final = (*_FOLDER_FLAGS, *(f"--nats-{each}" for each in _NATS))
_REPAIRS: Final = re.compile(
    r"`jobledger (?:streams (?:(create|show|rewrite)|accept-damage)|audit accept-log)(?: [^`]*)?`"
)
"""The commands that messages recommend; group 1: a command that takes all of `_FLAGS`."""


def with_flags(text: str, arguments: Sequence[str]) -> str:
    """Add flags of the failed command to the commands in its message, so that they use the same log.

    Args:
        text: of the message.
        arguments: of the failed command.
    """
    flags: dict[str, str] = {}
    for at, argument in enumerate(arguments):
        name, is_joined, value = argument.partition("=")
        if name in _FLAGS:
            flags[name] = value if is_joined else " ".join(arguments[at + 1 : at + 2])

    def complete(found: re.Match[str]) -> str:
        command = found[0]
        taken = [each for each in (_FLAGS if found[1] else _FOLDER_FLAGS) if each in flags]
        if not taken or any(each in command for each in _FLAGS):
            return command
        return f"{command[:-1]} {shlex.join(word for each in taken for word in (each, flags[each]))}`"

    return _REPAIRS.sub(complete, text)


def print_error(error: JobledgerError) -> None:
    """Print an error on standard error."""
    if isinstance(error, InvalidSpec):
        count = len(error.problems)
        say(f"Error: the spec is invalid: {count} problem{'s' if count != 1 else ''}")
        for problem in error.problems:
            say(f"  {problem}")
    else:
        say(f"Error: {with_flags(str(error), sys.argv[1:])}")
    if isinstance(error, Conflict) and error.missed:
        say(f"Events since then, up to revision {error.revision}:")
        now = time.time_ns()
        for item in error.missed:
            say(f"  {_missed(item, now)}")
    for note in getattr(error, "__notes__", ()):
        if not _words(note) <= _words(str(error)):  # otherwise it repeats the message
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
