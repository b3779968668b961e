"""Output for programs: JSON, YAML, or one JSON document per line; and the options that choose it."""

import json
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar

import click

from jobledger.service.cli.options import SharedOption

FORMATS: Final = ("table", "json", "yaml", "ndjson")
F = TypeVar("F", bound=Callable[..., Any])


class Output:
    """The output format of a command.

    Args:
        form: one of `FORMATS`, or a format of lists (`wide`, `name`, `csv`).
        quiet: print IDs only.
    """

    def __init__(self, form: str, *, quiet: bool = False) -> None:
        self.form = form
        self.quiet = quiet
        self._documents = 0

    @property
    def for_machines(self) -> bool:
        """Whether to print documents."""
        return self.form in FORMATS[1:] and not self.quiet

    @property
    def for_people(self) -> bool:
        """Whether to print a table."""
        return self.form in {"table", "wide"} and not self.quiet

    @property
    def by_line(self) -> bool:
        """Whether to print each item on its own line."""
        return self.form == "ndjson" and not self.quiet

    def document(self, wire: object) -> None:
        """Print one document; YAML documents are separated by `---`."""
        if self.form == "yaml":
            click.echo(("---\n" if self._documents else "") + to_yaml(wire), nl=False)
        else:
            click.echo(to_json(wire, compact=self.form == "ndjson"))
        self._documents += 1
        sys.stdout.flush()

    def page(self, items: list[Any], **more: object) -> None:
        """Print a list: one document with `Items`, or one line per item."""
        if self.by_line:
            for item in items:
                self.document(item)
        else:
            self.document({"Items": items, **more})


def output_option(*forms: str, quiet: bool = False) -> Callable[[F], F]:
    """`-o/--output`, and with `quiet` also `-q/--quiet`; the command receives `output`."""

    def decorate(function: F) -> F:
        @wraps(function)
        def run(*args: Any, form: str, quiet: bool = False, **kwargs: Any) -> Any:
            return function(*args, output=Output(form, quiet=quiet), **kwargs)

        if quiet:
            click.option("-q", "--quiet", is_flag=True, cls=SharedOption, help="Print IDs only.")(run)
        click.option(
            "-o",
            "--output",
            "form",
            type=click.Choice(forms or FORMATS),
            default="table",
            show_default=True,
            cls=SharedOption,
            help="Output format.",
        )(run)
        return run  # type: ignore[return-value]

    return decorate


def to_json(wire: object, *, compact: bool) -> str:
    """JSON without control characters, which a terminal would interpret; escaping them changes no value."""
    indent, separators = (None, (",", ":")) if compact else (2, (",", ": "))
    text = json.dumps(wire, ensure_ascii=False, indent=indent, separators=separators)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def to_yaml(wire: object) -> str:
    """YAML with keys in their order, without control characters."""
    import yaml  # slow to import

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(wire, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1_000)
    if text.replace("\n", "").isprintable():
        return text
    escaped: str = yaml.dump(wire, Dumper=dumper, sort_keys=False, allow_unicode=False, width=1_000)
    return escaped
