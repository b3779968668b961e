"""What a command prints for machines: JSON, YAML, or a line of JSON each; and the option that chooses."""

import json
import sys
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from jobledger.service.cli.shared import SharedOption

FORMATS: Final = ("table", "json", "yaml", "ndjson")
F = TypeVar("F", bound=Callable[..., Any])


class Output:
    """How the user wants to be told.

    Args:
        form: one of `FORMATS`.
        quiet: ids only.
    """

    def __init__(self, form: str, *, quiet: bool = False) -> None:
        self.form = form
        self.quiet = quiet
        self._documents = 0

    @property
    def for_machines(self) -> bool:
        """Whether what came is to be printed as it came."""
        return self.form in FORMATS[1:] and not self.quiet

    @property
    def for_people(self) -> bool:
        """Whether a table is wanted."""
        return self.form in {"table", "wide"} and not self.quiet

    @property
    def by_line(self) -> bool:
        """Whether each item stands on a line of its own."""
        return self.form == "ndjson" and not self.quiet

    def document(self, wire: object) -> None:
        """One document; of several, YAML's have `---` between them."""
        if self.form == "yaml":
            click.echo(("---\n" if self._documents else "") + to_yaml(wire), nl=False)
        else:
            click.echo(to_json(wire, compact=self.form == "ndjson"))
        self._documents += 1
        sys.stdout.flush()

    def page(self, items: list[Any], **more: object) -> None:
        """A list: one document with `Items`, or a line for each of them."""
        if self.by_line:
            for item in items:
                self.document(item)
        else:
            self.document({"Items": items, **more})


def output_option(*forms: str) -> Callable[[F], F]:
    """`-o/--output`; the command gets it as `form`."""
    return click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice(forms or FORMATS),
        default="table",
        show_default=True,
        cls=SharedOption,
        help="For people, or for machines.",
    )


quiet_option = click.option("-q", "--quiet", is_flag=True, cls=SharedOption, help="Print ids only.")


def to_json(wire: object, *, compact: bool) -> str:
    """JSON, without characters that would speak to a terminal: they are escaped, which changes no value."""
    indent, separators = (None, (",", ":")) if compact else (2, (",", ": "))
    text = json.dumps(wire, ensure_ascii=False, indent=indent, separators=separators)
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def to_yaml(wire: object) -> str:
    """YAML, with the keys in the order in which they came, and the same care."""
    import yaml  # slow to import, and only who asks for YAML needs it

    dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
    text: str = yaml.dump(wire, Dumper=dumper, sort_keys=False, allow_unicode=True, width=1_000)
    if text.replace("\n", "").isprintable():
        return text
    escaped: str = yaml.dump(wire, Dumper=dumper, sort_keys=False, allow_unicode=False, width=1_000)
    return escaped
