"""Where settings come from: flags, the environment, a TOML file; and the values that they may have there."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
from platformdirs import user_config_path

ENV_PREFIX: Final = "JOBLEDGER_"
CONFIG: Final = "config"  # `--config` and JOBLEDGER_CONFIG name the TOML file; no setting itself
DEFAULT: Final = "default"  # the origin of a value that nobody set
CONFIG_MAX_BYTES: Final = 1_048_576
FILE_NAME: Final = "config.toml"

# What URLs say before their hosts, up to the last `@` of each: a password may have `/`, `,` and `@`, too.
_USERINFO: Final = re.compile(r"(?<=//)(?:(?!,[a-z]+://).)*(?=@)", re.DOTALL)
_MASK: Final = "********"


def without_userinfo(url: str) -> str:
    """URLs as they may be shown: user and password are masked."""
    return _USERINFO.sub(_MASK, url)


class Setting(NamedTuple):
    """One row of the table of settings."""

    name: str
    section: str
    """Whom it concerns: `server` or `client`."""
    description: str
    kind: type
    """`str`, `int`, `float`, `Path`, or `tuple` for a list of texts."""
    type: Any
    """The annotated type that values are checked against."""
    default: object
    """None: none, or made from other settings when they are put together."""
    default_text: str
    """As the documentation tells it."""
    wanted: str
    """What a value must be."""
    secret: bool
    words: tuple[str, ...] = ()
    """The only values that it may have, in lower case; empty: others."""

    @property
    def flag(self) -> str:
        """As it is written on a command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def env(self) -> str:
        """Its environment variable."""
        return f"{ENV_PREFIX}{self.name.upper()}"

    def shown(self, value: object) -> str:
        """A value as text for people, without what must stay secret."""
        if value is None or value == "":
            return ""
        if self.secret:
            return _MASK
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        return without_userinfo(text)


class Found(NamedTuple):
    """A value and who said it: `flag`, a variable's name, a file's path, or `default`."""

    value: Any
    origin: str
    strength: int = 0
    """Larger wins: 3 flag, 2 environment, 1 file, 0 default."""


def strength_of(origin: str) -> int:
    """How much who said a value counts, by the name of the origin; as `Found.strength`."""
    named = {"flag": 3, DEFAULT: 0}
    return named.get(origin, 2 if origin.startswith(ENV_PREFIX) else 1)


def gather(
    table: Mapping[str, Setting], flags: Mapping[str, object], env: Mapping[str, str]
) -> tuple[dict[str, Found], list[str], Path | None]:
    """The strongest value of each setting that somebody set, what is wrong, and the TOML file that was read.

    Args:
        table: by name.
        flags: by name; None or an empty list: not given. `config` names the TOML file.
        env: the environment; an empty variable counts as not set.
    """
    problems: list[str] = []
    found: dict[str, Found] = {}
    file, in_file = _read_file(flags, env, problems)
    layers: list[tuple[str, int, Iterable[tuple[str, object]]]] = [
        (str(file), 1, in_file.items()),
        ("", 2, _in_environment(table, env, problems)),
        ("flag", 3, ((name, value) for name, value in flags.items() if name != CONFIG)),
    ]
    for origin, strength, values in layers:
        for name, value in values:
            if value is None or value == ():
                continue
            setting = table.get(name)
            if setting is None:
                problems.append(_unknown(name, origin or f"{ENV_PREFIX}{name.upper()}", table))
                continue
            base = file.parent if strength == 1 and file is not None else Path.cwd()
            try:
                checked = _value(setting, value, base, is_text=strength != 1)
            except ValueError:
                told = "" if setting.secret else f" is {setting.shown(value)!r:.80}, which"
                problems.append(
                    f"{name} ({origin or setting.env}){told} is not {setting.wanted}{_links(value)}"
                )
                continue
            found[name] = Found(checked, origin or setting.env, strength)
    return found, problems, file


def _read_file(
    flags: Mapping[str, object], env: Mapping[str, str], problems: list[str]
) -> tuple[Path | None, dict[str, object]]:
    named = flags.get(CONFIG) or env.get(f"{ENV_PREFIX}CONFIG")
    path = Path(str(named)).expanduser() if named else user_config_path("jobledger") / FILE_NAME
    path = path.absolute()
    if not named and not path.exists():
        return None, {}
    import tomllib  # only who has a file pays for it

    by = "--config" if flags.get(CONFIG) else f"{ENV_PREFIX}CONFIG" if named else "the default place"
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_MAX_BYTES + 1)
        if len(data) > CONFIG_MAX_BYTES:
            problems.append(f"{path} ({by}) is over {CONFIG_MAX_BYTES:,} bytes; that is no file of settings")
            return path, {}
        return path, tomllib.loads(data.decode())
    except OSError as error:
        problems.append(f"config ({by}): can't read {path}: {error.strerror or error}")
    except ValueError as error:  # of the decoding, too
        problems.append(f"config ({by}): {path} is no TOML: {error}")
    return path, {}


def _in_environment(
    table: Mapping[str, Setting], env: Mapping[str, str], problems: list[str]
) -> list[tuple[str, object]]:
    values: list[tuple[str, object]] = []
    for variable in sorted(env):
        if not variable.startswith(ENV_PREFIX) or not env[variable]:
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if name == CONFIG and variable.isupper():
            continue
        if name in table and not variable.isupper():
            problems.append(f"{variable} is no setting; write {table[name].env}")
        elif name not in table:
            problems.append(_unknown(name, variable, table) + _links(env[variable], variable))
        else:
            values.append((name, env[variable]))
    return values


def _unknown(name: str, origin: str, table: Mapping[str, Setting]) -> str:
    from difflib import get_close_matches  # only when something is wrong

    near = get_close_matches(name.replace("-", "_").lower(), [*table, CONFIG], n=1)
    shown = origin if origin.startswith(ENV_PREFIX) else f"{name} ({origin})"
    upper = origin.startswith(ENV_PREFIX)
    advice = f"did you mean {table[near[0]].env if upper and near[0] in table else near[0]}?" if near else ""
    return f"{shown} is no setting; {advice or '`jobledger config show` lists all'}"


def _links(value: object, variable: str = "") -> str:
    """Kubernetes puts variables about a service named `jobledger` into every pod beside it."""
    if str(value).startswith("tcp://") or re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d+_", variable):
        return " (did Kubernetes set it? `enableServiceLinks: false` in the pod's spec stops that)"
    return ""


def _value(setting: Setting, value: object, base: Path, *, is_text: bool) -> object:
    """The checked value.

    Raises:
        ValueError: if it is not what is wanted.
    """
    if setting.kind is Path:
        if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
            raise ValueError
        try:
            return base / Path(value).expanduser()
        except RuntimeError as error:  # ~nobody
            raise ValueError from error
    if setting.kind is tuple and is_text:
        texts = [value] if isinstance(value, str) else list(value)  # type: ignore[call-overload]
        value = [part.strip() for text in texts for part in text.split(",") if part.strip()]
    if setting.words and isinstance(value, str):
        value = value.lower()
    try:
        checked = msgspec.convert(value, setting.type, strict=not is_text)
    except msgspec.ValidationError as error:
        raise ValueError from error
    if isinstance(checked, str) and not checked.isprintable():
        raise ValueError
    return checked
