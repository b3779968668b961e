"""How a program connects to the NATS servers of the log: one URL, and the same in parts."""

from typing import Any, Final, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from jobledger.service.nats_auth import connection_options
from jobledger.service.settings import Settings
from jobledger.store.connection_file import find_connection
from jobledger.store.embedded import NATS_FOLDER
from jobledger.store.model.errors import LogUnavailable

# Settings that name files, with the variables of the `nats` command.
_FILES: Final = {
    "nats_nkey_file": "NATS_NKEY",
    "nats_creds_file": "NATS_CREDS",
    "nats_tls_ca": "NATS_CA",
    "nats_tls_cert": "NATS_CERT",
    "nats_tls_key": "NATS_KEY",
}


class NatsAddress(NamedTuple):
    """Servers and credentials.

    Attributes:
        servers: URLs without credentials.
        user: empty: none, or files are used instead.
        password: of the user.
        files: paths of the credentials and of TLS, by the name of the setting.
    """

    servers: tuple[str, ...]
    user: str
    password: str
    files: dict[str, str]

    def __repr__(self) -> str:
        return "NatsAddress(…)"  # a traceback with values must not show it

    @property
    def url(self) -> str:
        """The servers, with commas between them, each with user and password, percent-encoded."""
        if not self.user:
            return ",".join(self.servers)
        login = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        return ",".join(each.replace("://", f"://{login}@", 1) for each in self.servers)

    def wire(self) -> dict[str, Any]:
        """The parts, for JSON."""
        parts: dict[str, Any] = {"url": self.url, "servers": list(self.servers)}
        if self.user:
            parts |= {"user": self.user, "password": self.password}
        return parts | self.files

    def variables(self) -> dict[str, str]:
        """The parts as environment variables, named as those of the `nats` command."""
        found = {"NATS_URL": ",".join(self.servers)}
        if self.user:
            found |= {"NATS_USER": self.user, "NATS_PASSWORD": self.password}
        return found | {_FILES[name]: path for name, path in self.files.items()}


def nats_address(settings: Settings) -> NatsAddress:
    """The servers of `nats_url`, else the embedded server of the service that runs on `data_dir`.

    Raises:
        LogUnavailable: if neither is there.
        EmbeddedServerError: if the connection file is not trusted.
        InvalidSettings: if the password file can't be read.
    """
    url = settings.nats_url or find_connection(settings.data_dir / NATS_FOLDER)
    if url is None:
        raise LogUnavailable(
            f"no service with an embedded log is running on {settings.data_dir}: start `jobledger serve`, or"
            " name its directory with --data-dir, or the NATS servers with --nats-url"
        )
    user, password = settings.nats_user, ""
    if user:
        secret = connection_options(settings)["password"]
        password = secret() if callable(secret) else secret
    servers = []
    for each in (part.strip() for part in url.split(",")):
        parts = urlsplit(each if "://" in each else f"nats://{each}")
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
        servers.append(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}")
    files = {name: str(getattr(settings, name)) for name in _FILES if getattr(settings, name) is not None}
    return NatsAddress(tuple(servers), user, password, files)
