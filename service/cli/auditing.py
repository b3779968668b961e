"""What the commands of audits share: the keys that are trusted, findings, progress."""

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from jobledger.service.cli.output import Output
from jobledger.service.cli.text import StatusLine, plain, say
from jobledger.store.model.errors import InvalidInput

if TYPE_CHECKING:
    from jobledger.service.audit.findings import Finding
    from jobledger.service.audit.note import VerifierKey
    from jobledger.service.settings import Settings

FOUND_CODE: Final = 9  # as of `AuditFailed` in `service.errors`
_PROGRESS_SECONDS: Final = 0.2
F = TypeVar("F", bound=Callable[..., Any])


def key_option(function: F, *, is_required: bool = True) -> F:
    """`--key`, several times; the command gets texts as `keys`."""
    default = "" if is_required else " Default: the keys of the service in --data-dir."
    return click.option(
        "--key",
        "keys",
        multiple=True,
        required=is_required,
        metavar="KEY",
        help=f"A trusted key: as `audit key show` prints it, or a file with one on each line.{default}",
    )(function)


def trusted_keys(keys: tuple[str, ...], settings: "Settings") -> tuple["VerifierKey", ...]:
    """The keys of `--key`; without any, those that the service in the data directory trusts.

    Raises:
        InvalidInput: if a key is invalid, or there is no key at all.
    """
    from jobledger.service.audit.keys import KeyFile, read_keys

    if keys:
        return read_keys(keys)
    path = settings.audit_keys_file
    found = tuple(dict.fromkeys((*KeyFile(path).trusted(), *read_keys(settings.audit_trusted_keys))))
    if not found:
        raise InvalidInput(
            f"no key to check seals with: {path} does not exist; pass --key with what"
            " `jobledger audit key show --quiet` printed"
        )
    say(
        f"Seals are checked with the service's own keys, in {path}. Pass --key to check them with keys that"
        " you got independently of the service."
    )
    return found


def print_findings(findings: Iterable["Finding"], output: Output, **facts: object) -> None:
    """What was found, for people or machines.

    Args:
        findings: each on its line.
        output: how.
        facts: what machines are told besides.
    """
    found = list(findings)
    if output.for_machines:
        wires = [
            {
                "Kind": each.kind.value,
                "Message": each.message,
                "Sequence": each.sequence,
                "Last": each.last or each.sequence,
                "JobID": each.job_id,
                "Column": each.column,
            }
            for each in found
        ]
        output.document({"OK": not found, "Findings": wires, **facts})
        return
    for each in found:
        click.echo(f"{click.style(each.kind.value, fg='red', bold=True)}: {plain(each.message)}")


class Progress:
    """How far it is, on a line of its own that is written over; on terminals only."""

    def __init__(self) -> None:
        self._is_shown = sys.stderr.isatty()
        self._told = 0.0
        self._line = StatusLine()

    def tell(self, doing: str, done: int, of: int) -> None:
        """Say it, if it was not said a moment ago."""
        now = time.monotonic()
        if not self._is_shown or (now - self._told < _PROGRESS_SECONDS and of):
            return
        self._told = now
        self._line.show(f"{doing}: {100 * done // of} %, {done:,} of {of:,}" if of else f"{doing} …")

    def clear(self) -> None:
        """Take the line away."""
        self._line.clear()
