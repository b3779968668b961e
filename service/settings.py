"""Every setting, in one table, and what may not be said together.

The fields of `Settings` are the table: flags, environment variables, keys of the TOML file, `jobledger config
show` and the table of docs/OPERATIONS.md are made from them. The command line imports this at every start, so
it imports little.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta
from platformdirs import user_state_path

from jobledger.projections.limits import ASOF_MAX_BYTES, ASOF_MAX_COPIES
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import (
    DISK_MIN_FREE_BYTES,
    DISK_STOP_FREE_BYTES,
    FEEDS_MAX_PER_CLIENT,
    VIEW_CHECK_SECONDS,
)
from jobledger.service.settings_sources import CONFIG, DEFAULT, ENV_PREFIX, Found, Setting, gather

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


# The characters that RFC 3986 takes in a URI reference; empty: not set.
_URI_REFERENCE: Final = r"^(?:[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*$"


def _about(section: str, description: str, *, default: str = "", secret: bool = False, **bounds: Any) -> Meta:
    extra = {"section": section, "default": default, "secret": secret}
    return Meta(description=description, extra=extra, **bounds)


def _server(description: str, **more: Any) -> Meta:
    return _about("server", description, **more)


def _client(description: str, **more: Any) -> Meta:
    return _about("client", description, **more)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, checked: made by `load_settings` (a test may make one by hand)."""

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
        str, _server("NATS servers, `nats://host:port,…`; empty: an embedded one is started")
    ] = ""
    nats_user: Annotated[str, _server("user at the NATS servers")] = ""
    nats_password: Annotated[str, _server("password of that user", secret=True)] = ""
    nats_password_file: Annotated[Path | None, _server("file with the password of that user")] = None
    nats_nkey_file: Annotated[Path | None, _server("file with the nkey seed to log in with")] = None
    nats_creds_file: Annotated[Path | None, _server("credentials file (JWT and nkey) to log in with")] = None
    nats_tls_ca: Annotated[
        Path | None, _server("CA certificates that the NATS servers' are checked with")
    ] = None
    nats_tls_cert: Annotated[Path | None, _server("client certificate for the NATS servers")] = None
    nats_tls_key: Annotated[Path | None, _server("key of that certificate")] = None
    stream_replicas: Annotated[
        int, _server("copies of the log in the NATS cluster, when it is made", ge=1, le=5)
    ] = 1
    tls_cert: Annotated[Path | None, _server("certificate (PEM, with its chain): serve HTTPS")] = None
    tls_key: Annotated[Path | None, _server("key of that certificate (PEM)")] = None
    tokens_file: Annotated[Path, _server("file with the hashed tokens", default="data_dir/tokens.json")] = (
        msgspec.field(default_factory=Path)
    )
    allowed_hosts: Annotated[
        tuple[str, ...], _server("names by which clients may call this service, besides its address")
    ] = ()
    webhook_allow: Annotated[
        tuple[str, ...],
        _server("hosts, addresses and networks that webhooks may be sent to although they are not public"),
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
            "CloudEvents `source` of delivered events, a URI reference that names this installation",
            default="/jobledger/<mark of the stream>",
            pattern=_URI_REFERENCE,
        ),
    ] = ""
    drain_timeout_seconds: Annotated[
        float, _server("at an end: how long requests under way may take to finish", ge=0.1, le=600.0)
    ] = 10.0
    feeds_per_client: Annotated[int, _server("live feeds that one client may hold", ge=1, le=100_000)] = (
        FEEDS_MAX_PER_CLIENT
    )
    ready_max_gap: Annotated[
        int, _server("events that the view may be behind and count as ready", ge=0, le=1_000_000_000)
    ] = 1000
    disk_min_free_bytes: Annotated[
        int,
        _server(
            "free bytes on each file system that is written to, below which the service is not ready;"
            " at most a tenth of the file system counts",
            ge=0,
            le=1_000_000_000_000_000,
        ),
    ] = DISK_MIN_FREE_BYTES
    disk_stop_free_bytes: Annotated[
        int,
        _server(
            "free bytes on the embedded log's file system, below which appends are refused;"
            " at most a fortieth of the file system counts",
            ge=0,
            le=1_000_000_000_000_000,
        ),
    ] = DISK_STOP_FREE_BYTES
    seal_every_events: Annotated[
        int, _server("seal the log after so many events; 0: not for that", ge=0, le=1_000_000_000)
    ] = 10_000
    seal_every_seconds: Annotated[
        float, _server("seal what came after so long; 0: not for that", ge=0.0, le=86_400.0)
    ] = 60.0
    audit_keys_file: Annotated[
        Path, _server("file with the keys that sign seals", default="data_dir/audit/keys.json")
    ] = msgspec.field(default_factory=Path)
    audit_trusted_keys: Annotated[
        tuple[str, ...],
        _server(
            "public keys whose seals count besides those in audit_keys_file, each a vkey or a file of them"
        ),
    ] = ()
    asof_max_copies: Annotated[
        int, _server("copies of the view as of earlier points that are kept", ge=1, le=1_000)
    ] = ASOF_MAX_COPIES
    asof_max_bytes: Annotated[
        int,
        _server(
            "bytes that these may take; the one that was used last is kept, whatever its size",
            ge=0,
            le=1_000_000_000_000,
        ),
    ] = ASOF_MAX_BYTES
    view_check_seconds: Annotated[
        float,
        _server("seconds between two checks of the view's file for damage; 0: never", ge=0.0, le=604_800.0),
    ] = VIEW_CHECK_SECONDS
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], _server("lines of this level and above are logged")
    ] = "info"
    log_format: Annotated[
        Literal["text", "json"], _server("how log lines are written: text with a time zone, or JSON")
    ] = "text"
    access_log: Annotated[
        Literal["on", "off"],
        _server("a line for each request; off: only for those that were refused with 401, 403 or 429"),
    ] = "on"
    # --- the command line
    url: Annotated[str, _client("the service to talk to", pattern="^https?://.")] = "http://127.0.0.1:1234"
    token: Annotated[str, _client("token to talk to it with", secret=True)] = ""
    token_file: Annotated[Path | None, _client("file with that token")] = None
    namespace: Annotated[
        str, _client("namespace of commands that name none; without it `default` for one job, all for lists")
    ] = ""
    tls_ca: Annotated[Path | None, _client("CA certificates that the service's is checked with")] = None

    def __post_init__(self) -> None:
        """Make what other settings decide."""
        if self.tokens_file == Path():
            msgspec.structs.force_setattr(self, "tokens_file", self.data_dir / "tokens.json")
        if self.audit_keys_file == Path():
            msgspec.structs.force_setattr(self, "audit_keys_file", self.data_dir / "audit" / "keys.json")
        if self.webhook_keys_file == Path():
            msgspec.structs.force_setattr(self, "webhook_keys_file", self.data_dir / "webhook-keys.json")

    def __repr__(self) -> str:
        """Without secrets, for logs and tracebacks."""
        shown = (f"{name}={row.shown(getattr(self, name))!r}" for name, row in SETTINGS.items())
        return f"Settings({', '.join(shown)})"


class LoadedSettings(msgspec.Struct, frozen=True):
    """The settings and who said them.

    Attributes:
        settings: checked.
        origins: by name: `flag`, the environment variable, the path of the TOML file, or `default`.
        config_file: the TOML file that was read; None: there is none.
    """

    settings: Settings
    origins: dict[str, str]
    config_file: Path | None = None


def load_settings(flags: Mapping[str, object], env: Mapping[str, str]) -> LoadedSettings:
    """Read, check and put together.

    Args:
        flags: by the names of the settings; None: not given. `config` names the TOML file.
        env: the environment, `os.environ`.

    Raises:
        InvalidSettings: naming every setting that is unknown, wrong, or contradicts another, and who said it.
    """
    found, problems, file = gather(SETTINGS, flags, env)
    found = _without_weaker(found)
    problems += _contradictions(found)
    if problems:
        raise InvalidSettings("\n".join(problems))
    settings = Settings(**{name: each.value for name, each in found.items()})
    return LoadedSettings(
        settings, {name: found[name].origin if name in found else DEFAULT for name in SETTINGS}, file
    )


# Two ways to say one thing: of different strength, the stronger one counts; else they contradict each other.
_EITHER: Final = (("token", "token_file"), ("nats_password", "nats_password_file"))
# Ways to log in to NATS; there can be one.
_LOGINS: Final = ("nats_user", "nats_nkey_file", "nats_creds_file")
# The first makes no sense without one of the others.
_NEEDS: Final = (
    ("nats_user", ("nats_password", "nats_password_file")),
    ("nats_password", ("nats_user",)),
    ("nats_password_file", ("nats_user",)),
    ("nats_tls_cert", ("nats_tls_key",)),
    ("nats_tls_key", ("nats_tls_cert",)),
    ("tls_cert", ("tls_key",)),
    ("tls_key", ("tls_cert",)),
)


def _without_weaker(found: dict[str, Found]) -> dict[str, Found]:
    weaker = {
        min(pair, key=lambda name: found[name].strength)
        for pair in _EITHER
        if _is_set(found, pair[0]) and _is_set(found, pair[1])
        if found[pair[0]].strength != found[pair[1]].strength
    }
    return {name: each for name, each in found.items() if name not in weaker}


def _contradictions(found: Mapping[str, Found]) -> Iterator[str]:
    for one, other in (*_EITHER, *combinations(_LOGINS, 2)):
        if _is_set(found, one) and _is_set(found, other):
            yield f"{_told(found, one)} and {_told(found, other)} contradict each other: keep one of them"
    for one, needed in _NEEDS:
        if _is_set(found, one) and not any(_is_set(found, name) for name in needed):
            others = " or ".join(_told(found, name) for name in needed)
            yield f"{_told(found, one)} needs {others}: set both, or neither"
    yield from _against_url(found)


def _against_url(found: Mapping[str, Found]) -> Iterator[str]:
    url = _told(found, "nats_url")
    if not _is_set(found, "nats_url"):
        for name in SETTINGS:
            if name.startswith("nats_") and _is_set(found, name):
                yield f"{_told(found, name)} needs {url}: the embedded nats-server takes no such setting"
        if _is_set(found, "stream_replicas") and found["stream_replicas"].value > 1:
            yield f"{_told(found, 'stream_replicas')} needs {url}: the embedded nats-server keeps one copy"
    elif "@" in str(found["nats_url"].value):
        for name in _LOGINS:
            if _is_set(found, name):
                yield f"{url} holds credentials and contradicts {_told(found, name)}: keep one of them"


def _told(found: Mapping[str, Found], name: str) -> str:
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
        wanted=f"one of {', '.join(words)}" if words else _wanted(plain, meta),
        words=words,
        secret=meta.extra["secret"],
    )


def _wanted(kind: type, meta: Meta) -> str:
    if kind in {int, float}:
        number = "a whole number" if kind is int else "a number"
        return (
            f"{number} from {meta.ge:,g} to {meta.le:,g}"
            if kind is float
            else f"{number} from {meta.ge} to {meta.le}"
        )
    if meta.pattern:
        return (
            "a URI reference: letters, digits, punctuation of URIs, %-escapes"
            if meta.pattern == _URI_REFERENCE
            else "a URL, http://… or https://…"
        )
    if kind is str:
        return "a text that is not empty" if meta.min_length else "a text on one line"
    return "a path" if kind is Path else "a list of texts"


SETTINGS: Final[Mapping[str, Setting]] = {
    field.name: _row(field) for field in msgspec.structs.fields(Settings)
}
"""The table, by name, in the order of the documentation."""
