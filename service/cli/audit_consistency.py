"""`jobledger audit consistency`: whether one seal extends another."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from jobledger.service.cli.auditing import FOUND_CODE, Progress, key_option, print_findings
from jobledger.service.cli.examples import examples
from jobledger.service.cli.logoptions import reading_log
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.shared import Session

if TYPE_CHECKING:
    from jobledger.service.audit.checkpoint import Seal
    from jobledger.service.audit.findings import Finding
    from jobledger.service.audit.note import VerifierKey
    from jobledger.service.client.client import Client

_NUMBER: Final = re.compile(r"seal:([1-9][0-9]{0,18})", re.ASCII)
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_NEWEST: Final = "newest"


@click.command(epilog=examples("jobledger audit consistency old.seal new.seal --key KEY"))
@click.argument("old", metavar="A")
@click.argument("new", metavar="B")
@key_option
@click.option("--log", "from_log", is_flag=True, help="Read the log itself, instead of asking the service.")
@output_option("table", "json")
@reading_log
@click.pass_context
def consistency(
    ctx: click.Context,
    *,
    old: str,
    new: str,
    keys: tuple[str, ...],
    from_log: bool,
    form: str,
    session: Session,
) -> None:
    """Prove that one seal extends another.

    A and B are seals, the older one first: each a file with one, how many events it covers, `seal:N` for the
    N-th that was published, or `newest`. Both must be signed by a key that is trusted. The proof comes from
    the service, or from the log with --log, and is verified here: neither needs to be trusted. The exit code
    is 0 if B extends A, and 9 if that was not shown.
    """
    from jobledger.service.audit.checkpoint import check_order
    from jobledger.service.audit.keys import read_keys

    trusted = read_keys(keys)
    with ExitStack() as stack:
        files = [Path(each) if Path(each).is_file() else None for each in (old, new)]
        client = None if from_log and all(files) else stack.enter_context(session.client())
        first, second = (
            _opened(each, file, trusted, client) for each, file in zip((old, new), files, strict=True)
        )
        found = check_order(first, second)
        if found is None and from_log:
            found = _by_log(first, second, session)
        elif found is None:
            assert client is not None
            found = _by_service(first, second, client)
    output = Output(form)
    print_findings([found] if found else [], output, From=first.size, To=second.size, Origin=first.origin)
    if found is None and not output.for_machines:
        by = ", ".join(dict.fromkeys((*first.signers, *second.signers)))
        click.echo(
            f"{click.style('extends', fg='green', bold=True)}: the {second.size} events of B begin with the"
            f" {first.size} of A; signed by {by}"
        )
    ctx.exit(FOUND_CODE if found else 0)


def _opened(
    text: str, file: Path | None, trusted: "tuple[VerifierKey, ...]", client: "Client | None"
) -> "Seal":
    """The seal that is meant, once a trusted key has vouched for it."""
    from jobledger.projections.errors import ProofError
    from jobledger.service.audit.checkpoint import open_seal
    from jobledger.service.errors import AuditFailed

    note = _in_file(file) if file is not None else _published(text, client)
    try:
        return open_seal(note, trusted)
    except ProofError as error:
        raise AuditFailed(f"the seal {text}: {error}") from error


def _in_file(path: Path) -> str:
    """The one seal in a file, or the last of several."""
    from jobledger.service.audit.seals import notes_in
    from jobledger.store.model.errors import InvalidInput

    note = ""
    for note in notes_in(path):  # noqa: B007 - the last one counts
        pass
    if not note:
        raise InvalidInput(f"{path} holds no seal")
    return note


def _published(text: str, client: "Client | None") -> str:
    """The seal that a service has published."""
    from jobledger.service.client.seals import Seals
    from jobledger.service.errors import NotSealed

    number, size = _NUMBER.fullmatch(text), _SIZE.fullmatch(text)
    if not (number or size or text == _NEWEST):
        raise click.UsageError(
            f"{text!r} is no seal; give a file that is there, how many events it covers, seal:N, or newest"
        )
    assert client is not None
    found: Iterator[dict[str, object]] = iter(Seals(client).seals(1 if text == _NEWEST else None))
    for wire in found:
        is_it = text == _NEWEST
        is_it = is_it or (number is not None and wire.get("Sequence") == int(number[1]))
        if is_it or (size is not None and wire.get("Size") == int(text)):
            return str(wire.get("Note", ""))
    named = f"over {text} events" if size else text
    raise NotSealed(f"the service has published no seal {named}; `jobledger audit seals` lists them")


def _by_service(old: "Seal", new: "Seal", client: "Client") -> "Finding | None":
    from jobledger.service.audit.checkpoint import check_extends
    from jobledger.service.client.audit import Audits

    answer = Audits(client).consistency(old.size, new.size)
    return check_extends(old, new, answer.proof, old_root=answer.from_root, new_root=answer.to_root)


def _by_log(old: "Seal", new: "Seal", session: Session) -> "Finding | None":
    """Hash the log, and hold both seals against it."""
    from jobledger.service.audit.log_check import check_log
    from jobledger.service.audit.log_pass import SealedTree
    from jobledger.service.audit.seals import SealList
    from jobledger.service.log_access import open_log

    progress = Progress()

    async def run() -> "Finding | None":
        async with open_log(session.settings) as log:
            seals = SealList([SealedTree("A", old.size, old.root), SealedTree("B", new.size, new.root)])
            report = await check_log(log, seals, progress.tell)
            return report.findings[0] if report.findings else None

    try:
        return asyncio.run(run())
    finally:
        progress.clear()
