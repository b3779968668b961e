"""`jobledger config show`: every setting, its value and who said it."""

import os
from pathlib import Path
from typing import Any

import click
import msgspec

from jobledger.service.cli.examples import examples
from jobledger.service.cli.settingflags import setting_flags
from jobledger.service.settings import SETTINGS, LoadedSettings, load_settings


@click.group(epilog=examples("jobledger config show"))
def config() -> None:
    """Look at the settings."""


@config.command(epilog=examples("jobledger config show", "jobledger config show -o json"))
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="For people or machines."
)
@setting_flags("server", "client")
def show(output: str, **flags: Any) -> None:
    """Show every setting, its value, and where that came from.

    The origin is `flag`, an environment variable, the TOML file, or `default`. Secrets are masked. It takes
    the flags of `serve` and of the other commands, to see what would count.
    """
    loaded = load_settings(flags, os.environ)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(_rows(loaded)), indent=2).decode())
        return
    rows = [(each["name"], _cell(each["value"]), each["origin"]) for each in _rows(loaded)]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, value, origin in rows:
        click.echo(f"{name:<{widths[0]}}  {value:<{widths[1]}}  {origin}")


def _rows(loaded: LoadedSettings) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "value": _plain(getattr(loaded.settings, name), setting.shown(getattr(loaded.settings, name))),
            "origin": loaded.origins[name],
            "section": setting.section,
            "description": setting.description,
        }
        for name, setting in SETTINGS.items()
    ]


def _plain(value: object, shown: str) -> object:
    """As JSON has it; texts and paths as they may be shown."""
    if value is None or isinstance(value, int | float | tuple):
        return value
    return shown if isinstance(value, str | Path) else str(value)


def _cell(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value) or "-"
    return "-" if value is None or value == "" else str(value)
