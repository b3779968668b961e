"""Flags made from the table of settings."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from jobledger.service.settings import SETTINGS, Setting

_F = TypeVar("_F", bound=Callable[..., Any])


def setting_flags(*sections: str) -> Callable[[_F], _F]:
    """A decorator that gives a command `--config` and a flag for each setting of these sections.

    Secrets have none: a command line can be read by every process of the machine.

    The command gets what was given as keyword arguments, for `load_settings`; values are checked there, so
    that a wrong one is told in the same words wherever it came from.
    """
    return some_flags(
        *(each.name for each in SETTINGS.values() if each.section in sections and not each.secret)
    )


def some_flags(*names: str) -> Callable[[_F], _F]:
    """`setting_flags` for these settings."""

    def decorate(command: _F) -> _F:
        for name in reversed(names):
            command = _option(SETTINGS[name])(command)
        return click.option(
            "--config",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TOML file of settings; default: config.toml in the XDG config directory, if it is there.",
        )(command)

    return decorate


def _option(setting: Setting) -> Callable[[_F], _F]:
    text = f"{setting.description[0].upper()}{setting.description[1:]}."
    default = f"  [default: {setting.default_text}]" if setting.default_text else ""
    return click.option(
        setting.flag,
        setting.name,
        multiple=setting.kind is tuple,
        metavar="|".join(setting.words) or _METAVARS[setting.kind],
        help=f"{text}{default}",
    )


_METAVARS: Mapping[type, str] = {str: "TEXT", int: "NUMBER", float: "SECONDS", Path: "PATH", tuple: "TEXT,…"}
