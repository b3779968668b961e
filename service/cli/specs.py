"""Spec files on their way to the service: all good, or told about and nothing is sent."""

from collections.abc import Sequence

import click
import msgspec

from jobledger.service.cli.text import say
from jobledger.service.errors import BAD_INPUT_CODE
from jobledger.service.spec_files import read_spec_file, tell_problems
from jobledger.store.model.errors import InvalidInput
from jobledger.store.spec.spec import JobSpec


def good_specs(ctx: click.Context, names: Sequence[str], namespace: str) -> list[JobSpec]:
    """The specs of these files; bad ones end the command with 2 and every problem.

    Args:
        ctx: of the command.
        names: of the files; `-` is standard input.
        namespace: for specs that name none; empty: left to the service.

    Raises:
        InvalidInput: a spec names another namespace.
    """
    if names.count("-") > 1:
        raise click.UsageError("- is standard input, which can be read once")
    files = [read_spec_file(name) for name in names]
    for found in files:
        tell_problems(found, err=True)
        for warning in found.warnings:
            say(f"{found.file}: warning: {warning}")
    if any(found.problems for found in files):
        ctx.exit(BAD_INPUT_CODE)
    return [_placed(found.spec, namespace, found.file) for found in files if found.spec is not None]


def _placed(spec: JobSpec, namespace: str, file: str) -> JobSpec:
    if not namespace or spec.namespace == namespace:
        return spec
    if spec.namespace:
        raise InvalidInput(
            f"{file} is of namespace {spec.namespace!r:.80}, and {namespace!r:.80} was asked for; name the"
            " same with --namespace, or take it out of the file"
        )
    return msgspec.structs.replace(spec, namespace=namespace)
