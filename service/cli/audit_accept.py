"""`jobledger audit accept-log`: an operator confirms that a log replaces one that was sealed before."""

from typing import TYPE_CHECKING

import click

from jobledger.service.cli.audit_keys import with_settings
from jobledger.service.cli.examples import examples
from jobledger.service.cli.text import plain, say

if TYPE_CHECKING:
    from jobledger.service.settings import Settings


@click.command(
    epilog=examples("jobledger audit accept-log --old OLD --new NEW --reason 'restored from backup'")
)
@click.option("--old", required=True, metavar="ORIGIN", help="Of the log that was sealed before.")
@click.option("--new", required=True, metavar="ORIGIN", help="Of the log that replaces it.")
@click.option("--reason", required=True, metavar="TEXT", help="Why; it becomes part of the next seal.")
@with_settings
def accept_log(*, old: str, new: str, reason: str, settings: "Settings") -> None:
    """Confirm that a log replaces one that was sealed before.

    A service that finds seals of another log seals nothing and raises an alarm, which names both origins.
    Find out first why the stream was created again: with this command you state that the seals of the old log
    prove nothing about the new one. It is recorded in audit/accepted.json of the data directory, and in the
    next seal, with your name, the time and the reason. A running service needs no restart.
    """
    import getpass

    from jobledger.service.audit.accepted_logs import ACCEPTED_FILE, AcceptedFile

    try:
        actor = getpass.getuser()
    except (KeyError, OSError):  # a user id without a name, in a container, say
        import os

        actor = f"uid-{os.geteuid()}"
    file = AcceptedFile(settings.data_dir / ACCEPTED_FILE)
    made = file.add(old=old, new=new, actor=actor, reason=reason)
    click.echo(f"{plain(made.new)} replaces {plain(made.old)}: confirmed by {plain(made.actor)}, {made.time}")
    say(f"recorded in {file.path}; the next seal repeats it")
