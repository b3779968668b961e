"""`jobledger version`: the releases of the client and the service."""

import click

from jobledger import __version__
from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import Session, connected
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import plain


@click.command(epilog=examples("jobledger version", "jobledger version --client"))
@click.option("--client", "client_only", is_flag=True, help="Show the client only; do not call the service.")
@output_option("table", "json", "yaml")
@connected
def version(*, client_only: bool, output: Output, session: Session) -> None:
    """Show the versions of the client and the service.

    A service that does not respond is reported, and is not an error.
    """
    document: dict[str, object] = {"Client": {"Version": __version__}}
    lines = [f"Client   {__version__}"]
    if not client_only:
        from jobledger.service.errors import RemoteError, Timeout
        from jobledger.service.settings import without_userinfo

        url = without_userinfo(session.settings.url)
        try:
            with session.client() as client:
                service = client.version()
        except (RemoteError, Timeout) as error:
            document["Service"] = None
            lines.append(f"Service  no response ({error})")
        else:
            document["Service"] = {"URL": url, **service}
            lines.append(f"Service  {str(service.get('GitVersion', '?')).removeprefix('v')} at {url}")
    if output.for_people:
        for line in lines:
            click.echo(plain(line))
        return
    output.document(document)
