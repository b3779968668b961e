"""`jobledger version`: which releases are talking to each other."""

import click

from jobledger import __version__
from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.shared import Session, connected
from jobledger.service.cli.text import plain


@click.command(epilog=examples("jobledger version", "jobledger version --client"))
@click.option("--client", "client_only", is_flag=True, help="Of this command only; ask no service.")
@output_option("table", "json", "yaml")
@connected
def version(*, client_only: bool, form: str, session: Session) -> None:
    """Show the versions of client and service.

    That no service answers is told, and is no failure.
    """
    told: dict[str, object] = {"Client": {"Version": __version__}}
    lines = [f"Client   {__version__}"]
    if not client_only:
        from jobledger.service.errors import RemoteError, Timeout  # what only the question needs
        from jobledger.service.settings_sources import without_userinfo

        url = without_userinfo(session.settings.url)
        try:
            with session.client() as client:
                service = client.version()
        except (RemoteError, Timeout) as error:
            told["Service"] = None
            lines.append(f"Service  no answer ({error})")
        else:
            told["Service"] = {"URL": url, **service}
            lines.append(f"Service  {str(service.get('GitVersion', '?')).removeprefix('v')} at {url}")
    if form == "table":
        for line in lines:
            click.echo(plain(line))
        return
    Output(form).document(told)
