"""`jobledger job diff`: what a submission would change."""

import click

from jobledger.service.commands.changes import print_diff
from jobledger.service.commands.output import Output, output_option
from jobledger.service.commands.shared import Session, connected, namespace_option
from jobledger.service.commands.specs import good_specs


@click.command()
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@namespace_option
@click.option("--exit-code", is_flag=True, help="Exit with 1 if there is a difference.")
@output_option("table", "json", "yaml")
@connected
@click.pass_context
def diff(
    ctx: click.Context, *, file: str, namespace: str | None, exit_code: bool, form: str, session: Session
) -> None:
    """Show how a spec differs from the one that its job has.

    FILE is a job spec, or - for standard input. Nothing is written. No output means no difference; for
    machines there is also a JSON patch (RFC 6902).
    """
    (spec,) = good_specs(ctx, [file], session.namespace(namespace))
    with session.client() as client:
        answer = client.diff(spec)
    output = Output(form)
    if output.for_machines:
        output.document(answer.wire)
    else:
        print_diff(answer.diff)
    ctx.exit(1 if exit_code and (answer.diff or answer.patch) else 0)
