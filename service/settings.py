"""The settings: one table, their sources (flags, environment, a TOML file), and contradictions.

The fields of `Settings` are the table: flags, environment variables, keys of the TOML file, `jobledger config
show` and the table in docs/OPERATIONS.md are derived from them. The command line imports this module at every
start, so it imports little.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Meta
from platformdirs import user_config_path, user_state_path

from jobledger.projections.limits import ASOF_MAX_BYTES, ASOF_MAX_COPIES
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import (
    DISK_MIN_FREE_BYTES,
    DISK_STOP_FREE_BYTES,
    FEEDS_MAX_PER_CLIENT,
    VIEW_CHECK_SECONDS,
    WORKERS_MAX,
)

ENV_PREFIX: Final = "JOBLEDGER_"
CONFIG: Final = "config"  # `--config` and JOBLEDGER_CONFIG name the TOML file; not a setting
DEFAULT: Final = "default"  # the origin of a value that was not set
CONFIG_MAX_BYTES: Final = 1_048_576
FILE_NAME: Final = "config.toml"

# The user information of URLs, up to the last `@` of each: a password may contain `/`, `,` and `@`.
_USERINFO: Final = re.compile(r"(?<=//)(?:(?!,[a-z]+://).)*(?=@)", re.DOTALL)
_MASK: Final = "********"


def without_userinfo(url: str) -> str:
    """URLs with user and password masked."""
    return _USERINFO.sub(_MASK, url)


class Setting(NamedTuple):
    """One row of the table of settings."""

    name: str
    section: str
    """`server` or `client`."""
    description: str
    kind: type
    """`str`, `int`, `float`, `Path`, or `tuple` for a list of texts."""
    type: Any
    """The annotated type for `msgspec.convert`."""
    default: object
    """None: none, or derived from other settings."""
    default_text: str
    """For the documentation."""
    accepted: str
    """A phrase that describes valid values."""
    secret: bool
    words: tuple[str, ...] = ()
    """The only valid values, in lower case; empty: no such list."""

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def env(self) -> str:
        """The environment variable."""
        return f"{ENV_PREFIX}{self.name.upper()}"

    def shown(self, value: object) -> str:
        """A value as text, with secrets masked."""
        if value is None or value == "":
            return ""
        if self.secret:
            return _MASK
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        return without_userinfo(text)


class Found(NamedTuple):
    """A value and its origin: `flag`, an environment variable, the path of the TOML file, or `default`."""

    value: Any
    origin: str
    strength: int = 0
    """The precedence: 3 flag, 2 environment, 1 file, 0 default."""


def strength_of(origin: str) -> int:
    """The precedence of an origin; as `Found.strength`."""
    named = {"flag": 3, DEFAULT: 0}
    return named.get(origin, 2 if origin.startswith(ENV_PREFIX) else 1)


def gather(
    table: Mapping[str, Setting], flags: Mapping[str, object], env: Mapping[str, str]
) -> tuple[dict[str, Found], list[str], Path | None]:
    """The value of each setting with the highest precedence, all problems, and the TOML file that was read.

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
                shown = "" if setting.secret else f", got {setting.shown(value)!r:.80}"
                problems.append(
                    f"{name} ({origin or setting.env}) must be {setting.accepted}{shown}{_links(value)}"
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
    import tomllib  # only needed with a file

    by = "--config" if flags.get(CONFIG) else f"{ENV_PREFIX}CONFIG" if named else "the default place"
    try:
        with path.open("rb") as file:
            data = file.read(CONFIG_MAX_BYTES + 1)
        if len(data) > CONFIG_MAX_BYTES:
            problems.append(
                f"{path} ({by}) is larger than {CONFIG_MAX_BYTES:,} bytes; use a file with settings"
            )
            return path, {}
        return path, tomllib.loads(data.decode())
    except OSError as error:
        problems.append(f"config ({by}): can't read {path}: {error.strerror or error}")
    except ValueError as error:  # also from decoding
        problems.append(f"config ({by}): {path} is not valid TOML: {error}")
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
            problems.append(f"unknown setting {variable}; use {table[name].env}")
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
    return f"unknown setting {shown}; {advice or '`jobledger config show` lists all'}"


def _links(value: object, variable: str = "") -> str:
    """A hint: Kubernetes sets variables for a service named `jobledger` in every pod of its namespace."""
    if str(value).startswith("tcp://") or re.search(r"_SERVICE_(HOST|PORT)|_PORT_\d+_", variable):
        return " (did Kubernetes set it? `enableServiceLinks: false` in the pod's spec stops that)"
    return ""


def _value(setting: Setting, value: object, base: Path, *, is_text: bool) -> object:
    """The checked value.

    Raises:
        ValueError: the value is invalid.
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


__all__ = [
    "CONFIG",
    "DEFAULT",
    "ENV_PREFIX",
    "SETTINGS",
    "LoadedSettings",
    "Setting",
    "Settings",
    "load_settings",
]


# The characters of a URI reference (RFC 3986); empty: not set.
_URI_REFERENCE: Final = r"^(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*$"


def _about(section: str, description: str, *, default: str = "", secret: bool = False, **bounds: Any) -> Meta:
    extra = {"section": section, "default": default, "secret": secret}
    return Meta(description=description, extra=extra, **bounds)


def _server(description: str, **more: Any) -> Meta:
    return _about("server", description, **more)


def _client(description: str, **more: Any) -> Meta:
    return _about("client", description, **more)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings; made by `load_settings`, which checks them."""

    # --- the service
    host: Annotated[str, _server("address to listen on", min_length=1)] = "127.0.0.1"
    port: Annotated[int, _server("port to listen on; 0 picks a free one", ge=0, le=65_535)] = 1234
    data_dir: Annotated[
        Path,
        _server(
            "directory of the embedded log, the view and the tokens", default="XDG state directory/jobledger"
        ),
    ] = msgspec.field(default_factory=lambda: user_state_path("jobledger"))
    nats_url: Annotated[
        str, _server("NATS servers, `nats://host:port,…`; empty: an embedded nats-server is started")
    ] = ""
    nats_user: Annotated[str, _server("user at the NATS servers")] = ""
    nats_password: Annotated[str, _server("password of that user", secret=True)] = ""
    nats_password_file: Annotated[Path | None, _server("file with the password of that user")] = None
    nats_nkey_file: Annotated[Path | None, _server("file with the nkey seed to log in with")] = None
    nats_creds_file: Annotated[Path | None, _server("credentials file (JWT and nkey) to log in with")] = None
    nats_tls_ca: Annotated[Path | None, _server("CA certificates to verify the NATS servers with")] = None
    nats_tls_cert: Annotated[Path | None, _server("client certificate for the NATS servers")] = None
    nats_tls_key: Annotated[Path | None, _server("key of that certificate")] = None
    stream_replicas: Annotated[
        int, _server("replicas of the log in the NATS cluster, used when it is created", ge=1, le=5)
    ] = 1
    tls_cert: Annotated[Path | None, _server("certificate (PEM, with its chain) to serve HTTPS")] = None
    tls_key: Annotated[Path | None, _server("key of that certificate (PEM)")] = None
    tokens_file: Annotated[Path, _server("file with the hashed tokens", default="data_dir/tokens.json")] = (
        msgspec.field(default_factory=Path)
    )
    allowed_hosts: Annotated[
        tuple[str, ...],
        _server("host names that clients may use for this service, in addition to its address"),
    ] = ()
    webhook_allow: Annotated[
        tuple[str, ...],
        _server("hosts, addresses and networks that are not public, but allowed as targets of webhooks"),
    ] = ()
    webhook_keys_file: Annotated[
        Path,
        _server(
            "file with the keys that encrypt the secrets of webhooks; the same on every replica",
            default="data_dir/webhook-keys.json",
        ),
    ] = msgspec.field(default_factory=Path)
    event_source: Annotated[
        str,
        _server(
            "CloudEvents `source` of delivered events, a URI reference that identifies this installation",
            default="/jobledger/<stream tag>",
            pattern=_URI_REFERENCE,
        ),
    ] = ""
    workers: Annotated[
        int,
        _server(
            "processes that answer HTTP; from 2, one more process owns the view and everything else",
            ge=1,
            le=WORKERS_MAX,
        ),
    ] = 1
    drain_timeout_seconds: Annotated[
        float, _server("time that running requests have to finish when the service stops", ge=0.1, le=600.0)
    ] = 10.0
    feeds_per_client: Annotated[int, _server("live feeds that one client may open", ge=1, le=100_000)] = (
        FEEDS_MAX_PER_CLIENT
    )
    ready_max_gap: Annotated[
        int, _server("events by which the view may be behind and still be ready", ge=0, le=1_000_000_000)
    ] = 1000
    disk_min_free_bytes: Annotated[
        int,
        _server(
            "free bytes on each written file system below which the service is not ready;"
            " at most a tenth of the file system is required",
            ge=0,
            le=1_000_000_000_000_000,
        ),
    ] = DISK_MIN_FREE_BYTES
    disk_stop_free_bytes: Annotated[
        int,
        _server(
            "free bytes on the embedded log's file system below which appends are rejected;"
            " at most a fortieth of the file system is required",
            ge=0,
            le=1_000_000_000_000_000,
        ),
    ] = DISK_STOP_FREE_BYTES
    batch_staging: Annotated[
        Literal["memory", "disk"],
        _server(
            "where the embedded nats-server stages batches before it writes them to the log: on a tmpfs, if"
            " there is one with enough space, or on disk"
        ),
    ] = "memory"
    seal_every_events: Annotated[
        int, _server("seal the log after this many events; 0: no limit", ge=0, le=1_000_000_000)
    ] = 10_000
    seal_every_seconds: Annotated[
        float, _server("seal new events after this time; 0: no limit", ge=0.0, le=86_400.0)
    ] = 60.0
    audit_keys_file: Annotated[
        Path, _server("file with the keys that sign seals", default="data_dir/audit/keys.json")
    ] = msgspec.field(default_factory=Path)
    audit_trusted_keys: Annotated[
        tuple[str, ...],
        _server(
            "public keys that are trusted in addition to those in audit_keys_file: vkeys, or files with them"
        ),
    ] = ()
    asof_max_copies: Annotated[
        int, _server("copies of the view as of earlier points that are cached", ge=1, le=1_000)
    ] = ASOF_MAX_COPIES
    asof_max_bytes: Annotated[
        int,
        _server(
            "maximum size of these copies in bytes; the one used last is always kept",
            ge=0,
            le=1_000_000_000_000,
        ),
    ] = ASOF_MAX_BYTES
    view_check_seconds: Annotated[
        float,
        _server("seconds between checks of the view's file for damage; 0: never", ge=0.0, le=604_800.0),
    ] = VIEW_CHECK_SECONDS
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _server("minimum level of log lines")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], _server("format of log lines: text with a time zone, or JSON")
    ] = "text"
    access_log: Annotated[
        Literal["on", "off"],
        _server("log a line for each request; off: only for those rejected with 401, 403 or 429"),
    ] = "on"
    # --- the command line
    url: Annotated[str, _client("URL of the service", pattern="^https?://.")] = "http://127.0.0.1:1234"
    token: Annotated[str, _client("token for the service", secret=True)] = ""
    token_file: Annotated[Path | None, _client("file with that token")] = None
    namespace: Annotated[
        str, _client("default namespace of commands; without it `default` for one job, all for lists")
    ] = ""
    tls_ca: Annotated[Path | None, _client("CA certificates to verify the service with")] = None

    def __post_init__(self) -> None:
        """Derive the paths in the data directory."""
        if self.tokens_file == Path():
            msgspec.structs.force_setattr(self, "tokens_file", self.data_dir / "tokens.json")
        if self.audit_keys_file == Path():
            msgspec.structs.force_setattr(self, "audit_keys_file", self.data_dir / "audit" / "keys.json")
        if self.webhook_keys_file == Path():
            msgspec.structs.force_setattr(self, "webhook_keys_file", self.data_dir / "webhook-keys.json")

    def __repr__(self) -> str:
        """Omits secrets, because logs and tracebacks show it."""
        shown = (f"{name}={row.shown(getattr(self, name))!r}" for name, row in SETTINGS.items())
        return f"Settings({', '.join(shown)})"


class LoadedSettings(msgspec.Struct, frozen=True):
    """The settings and their origins.

    Attributes:
        settings: checked.
        origins: by name: `flag`, the environment variable, the path of the TOML file, or `default`.
        config_file: the TOML file that was read, if any.
    """

    settings: Settings
    origins: dict[str, str]
    config_file: Path | None = None


def load_settings(flags: Mapping[str, object], env: Mapping[str, str]) -> LoadedSettings:
    """Read the settings from all sources, and check them.

    Args:
        flags: by the names of the settings; None: not given. `config` names the TOML file.
        env: the environment, `os.environ`.

    Raises:
        InvalidSettings: names every setting that is unknown, invalid or contradicts another.
    """
    found, problems, file = gather(SETTINGS, flags, env)
    found = _without_overridden(found)
    problems += _contradictions(found)
    if problems:
        raise InvalidSettings("\n".join(problems))
    settings = Settings(**{name: each.value for name, each in found.items()})
    return LoadedSettings(
        settings, {name: found[name].origin if name in found else DEFAULT for name in SETTINGS}, file
    )


# Two settings with one meaning: the one with the higher precedence is used; equal ones are a contradiction.
_EITHER: Final = (("token", "token_file"), ("nats_password", "nats_password_file"))
# Credentials for NATS; only one kind can be used.
_LOGINS: Final = ("nats_user", "nats_nkey_file", "nats_creds_file")
# The first requires one of the others.
_NEEDS: Final = (
    ("nats_user", ("nats_password", "nats_password_file")),
    ("nats_password", ("nats_user",)),
    ("nats_password_file", ("nats_user",)),
    ("nats_tls_cert", ("nats_tls_key",)),
    ("nats_tls_key", ("nats_tls_cert",)),
    ("tls_cert", ("tls_key",)),
    ("tls_key", ("tls_cert",)),
)


def _without_overridden(found: dict[str, Found]) -> dict[str, Found]:
    overridden = {
        min(pair, key=lambda name: found[name].strength)
        for pair in _EITHER
        if _is_set(found, pair[0]) and _is_set(found, pair[1])
        if found[pair[0]].strength != found[pair[1]].strength
    }
    return {name: each for name, each in found.items() if name not in overridden}


def _contradictions(found: Mapping[str, Found]) -> Iterator[str]:
    for one, other in (*_EITHER, *combinations(_LOGINS, 2)):
        if _is_set(found, one) and _is_set(found, other):
            yield f"{_named(found, one)} and {_named(found, other)} contradict each other: use one of them"
    for one, needed in _NEEDS:
        if _is_set(found, one) and not any(_is_set(found, name) for name in needed):
            others = " or ".join(_named(found, name) for name in needed)
            yield f"{_named(found, one)} requires {others}: set both, or neither"
    yield from _against_url(found)


def _against_url(found: Mapping[str, Found]) -> Iterator[str]:
    url = _named(found, "nats_url")
    if not _is_set(found, "nats_url"):
        for name in SETTINGS:
            if name.startswith("nats_") and _is_set(found, name):
                yield f"{_named(found, name)} requires {url}: the embedded nats-server does not support it"
        if _is_set(found, "stream_replicas") and found["stream_replicas"].value > 1:
            yield f"{_named(found, 'stream_replicas')} requires {url}: the embedded log has one copy"
    elif "@" in str(found["nats_url"].value):
        for name in _LOGINS:
            if _is_set(found, name):
                yield f"{url} contains credentials and contradicts {_named(found, name)}: use one of them"


def _named(found: Mapping[str, Found], name: str) -> str:
    return f"{name} ({found[name].origin if name in found else 'not set'})"


def _is_set(found: Mapping[str, Found], name: str) -> bool:
    return name in found and found[name].value not in {"", None}


def _row(field: Any) -> Setting:
    kind, meta = get_args(field.type)
    words = get_args(kind) if get_origin(kind) is Literal else ()
    choices = [each for each in (get_args(kind) or (kind,)) if each is not type(None)]
    plain = tuple if kind == tuple[str, ...] else str if words else choices[0]
    default = None if field.default is msgspec.NODEFAULT else field.default
    shown = ",".join(default) if isinstance(default, tuple) else "" if default is None else str(default)
    return Setting(
        name=field.name,
        section=meta.extra["section"],
        description=meta.description,
        kind=plain,
        type=field.type,
        default=default,
        default_text=meta.extra["default"] or shown,
        accepted=f"one of {', '.join(words)}" if words else _accepted(plain, meta),
        words=words,
        secret=meta.extra["secret"],
    )


def _accepted(kind: type, meta: Meta) -> str:
    if kind in {int, float}:
        number = "an integer" if kind is int else "a number"
        return (
            f"{number} from {meta.ge:,g} to {meta.le:,g}"
            if kind is float
            else f"{number} from {meta.ge} to {meta.le}"
        )
    if meta.pattern:
        return (
            "a URI reference: letters, digits, URI punctuation, %-escapes"
            if meta.pattern == _URI_REFERENCE
            else "a URL, http://… or https://…"
        )
    if kind is str:
        return "a text that is not empty" if meta.min_length else "a single line of text"
    return "a path" if kind is Path else "a list of texts"


SETTINGS: Final[Mapping[str, Setting]] = {
    field.name: _row(field) for field in msgspec.structs.fields(Settings)
}
"""By name, in the order of the documentation."""
