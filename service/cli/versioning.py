"""`jobledger job revert | tag`: go back to a version, and give versions names."""

import click

from jobledger.service.cli.change import if_revision_option, reason_option
from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option, quiet_option
from jobledger.service.cli.receipts import print_receipt
from jobledger.service.cli.shared import (
    Session,
    VersionName,
    connected,
    job_argument,
    namespace_option,
)


@click.command(
    epilog=examples(
        "jobledger job revert my-job --to 3 --reason 'version 4 fails'",
        "jobledger job revert my-job --to stable",
    )
)
@job_argument
@namespace_option
@click.option(
    "--to", "version", type=VersionName(), metavar="VERSION", required=True, help="Its number, or a tag."
)
@if_revision_option
@reason_option
@output_option()
@quiet_option
@connected
def revert(
    *,
    job: str,
    namespace: str | None,
    version: str,
    if_revision: int | None,
    reason: str,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Give a job the spec of an earlier version, as a new version.

    JOB is a name, an id, or the beginning of an id. Nothing is undone: what was between stays in the log. A
    job that has that very spec stays as it is. Without --reason, the log says which version it was.
    """
    with session.client() as client:
        answer = client.revert(
            job, version, namespace=session.namespace(namespace), reason=reason, revision=if_revision
        )
    print_receipt(answer, Output(form, quiet=quiet), verb=f"reverted to {_named(version)}", name=job)


@click.command(
    epilog=examples("jobledger job tag my-job 3 stable", "jobledger job tag my-job stable --delete")
)
@job_argument
@click.argument("words", nargs=-1, required=True, metavar="{VERSION TAG | TAG --delete}")
@namespace_option
@click.option("-d", "--delete", is_flag=True, help="Take the tag away.")
@if_revision_option
@reason_option
@output_option()
@quiet_option
@connected
def tag(
    *,
    job: str,
    words: tuple[str, ...],
    namespace: str | None,
    delete: bool,
    if_revision: int | None,
    reason: str,
    form: str,
    quiet: bool,
    session: Session,
) -> None:
    """Give a version of a job a name, or take the name away.

    JOB is a name, an id, or the beginning of an id. A TAG is a letter, then letters, digits, `.`, `_` and
    `-`; it can be written wherever a version is asked for. One that names another version moves. VERSION is a
    number, or another tag.
    """
    version, name = _version_and_tag(words, delete=delete)
    where = session.namespace(namespace)
    with session.client() as client:
        if delete:
            answer = client.untag(job, name, namespace=where, reason=reason, revision=if_revision)
            verb = f"no longer has the tag {name}"
        else:
            answer = client.tag(job, version, name, namespace=where, reason=reason, revision=if_revision)
            tagged = _named(version) if version.isdecimal() else f"the version {version}"
            verb = f"has {tagged} tagged {name}"
    print_receipt(answer, Output(form, quiet=quiet), verb=verb, name=job)


def _version_and_tag(words: tuple[str, ...], *, delete: bool) -> tuple[str, str]:
    if delete:
        if len(words) != 1:
            raise click.UsageError("with --delete, give the tag alone")
        return "", words[0]
    if len(words) != 2:
        raise click.UsageError("give a version and a tag: `job tag JOB 3 golden`")
    return VersionName().convert(words[0], None, None), words[1]


def _named(version: str) -> str:
    return f"version {version}" if version.isdecimal() else version
