"""Authentication with NATS: how the service logs in, its address for other programs, and server accounts.

Password and credentials files are read again at every reconnect, so they can be changed while the service
runs; while a file can't be read, its last content is used. Messages never contain a secret.

`accounts_config` generates the accounts of a nats-server that keep clients of the log from administering it:

    LOG       owns the streams; its only user is the operator
    SERVICE   the service: no JetStream; reaches LOG only through the service imports below
    SUBSCRIBER_<name>   one for each subscription: the same, with fewer imports

Within one account, a user who may publish a single JetStream request may publish anything: the server checks
the subject of a request but not its reply subject, and sends the answer there with the rights of the account.
Through a service import the server replaces the reply subject, so the answer stays in the importing account.
`service_requests` and `subscriber_requests` are the only place that lists the requests of each role;
`deploy/nats/accounts.conf` and the tests of rights derive from them.
"""

import base64
import json
import logging
import os
import re
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec

from jobledger.projections.limits import SUBSCRIPTION_PARTITIONS
from jobledger.projections.subscriptions.definition import Definition, define
from jobledger.service.access.secret_files import exposed, read_secret
from jobledger.service.errors import InvalidSettings
from jobledger.service.settings import Settings
from jobledger.store.embedded import NATS_FOLDER
from jobledger.store.jetstream.declarations import STREAMS, SUBSCRIPTIONS
from jobledger.store.local_service import find_connection
from jobledger.store.model.errors import InvalidInput, LogUnavailable
from jobledger.store.model.subjects import STREAM_NAME

_CREDENTIALS: Final = re.compile(
    rb"-+BEGIN NATS USER JWT-+\s+(?P<jwt>[A-Za-z0-9_.-]+)\s+-+END NATS USER JWT-+"
    rb".*-+BEGIN USER NKEY SEED-+\s+(?P<seed>[A-Z2-7]+)\s+-+END USER NKEY SEED-+",
    re.DOTALL,
)

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class _Login(NamedTuple):
    """The content of a credentials file."""

    jwt: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "_Login(…)"  # a traceback with values must not contain it


def connection_options(settings: Settings) -> dict[str, Any]:
    """Return credentials and TLS options for `JetStreamLog.connect`.

    Raises:
        InvalidSettings: a file can't be read, or does not contain what its setting requires.
    """
    options: dict[str, Any] = {}
    if settings.nats_user:
        options["user"] = settings.nats_user
        options["password"] = _password(settings)
    if settings.nats_nkey_file is not None:
        options["nkeys_seed_str"] = _read_seed(settings.nats_nkey_file)
    if settings.nats_creds_file is not None:
        options.update(_credentials(settings.nats_creds_file))
    context = _tls(settings)
    if context is not None:
        options["tls"] = context
    return options


def _password(settings: Settings) -> str | Callable[[], str]:
    path = settings.nats_password_file
    if path is None:
        return settings.nats_password
    _warn(path, "nats_password_file")

    def read() -> str:
        try:
            return read_secret(path, "nats_password_file").decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise InvalidSettings(f"nats_password_file {path} is not UTF-8") from None

    return _last_good(read)


def _read_seed(path: Path) -> str:
    """Read the seed of an nkey file; lines that start with # are comments, as `nk` writes them."""
    _warn(path, "nats_nkey_file")
    lines = [line.strip() for line in read_secret(path, "nats_nkey_file").splitlines()]
    seeds = [line for line in lines if line and not line.startswith(b"#")]
    if len(seeds) != 1:
        raise InvalidSettings(f"nats_nkey_file {path} must contain one nkey: the seed of a user (SU…)")
    _check_seed(seeds[0], f"nats_nkey_file {path}")
    return seeds[0].decode()


def public_nkey(path: Path) -> str:
    """Return the public key of an nkey file for `nats_nkey_file`; a missing file is created with mode 0600.

    Raises:
        InvalidSettings: the file can't be read or written, or does not contain the seed of a user.
    """
    nkeys = _nkeys()
    seed = nkeys.encode_seed(secrets.token_bytes(32), nkeys.PREFIX_BYTE_USER)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        seed = _read_seed(path).encode()
    except OSError as error:
        raise InvalidSettings(f"can't write the nkey file {path}: {_why(error)}") from error
    else:
        with os.fdopen(handle, "wb") as file:
            file.write(seed + b"\n")
    return str(_key_pair(seed).public_key.decode())


def _credentials(path: Path) -> dict[str, Any]:
    """Read the file here: the library never returns from one without a JWT."""
    _warn(path, "nats_creds_file")

    def read() -> _Login:
        found = _CREDENTIALS.search(read_secret(path, "nats_creds_file"))
        if found is None:
            raise InvalidSettings(
                f"nats_creds_file {path} must contain credentials: a JWT and an nkey seed, as `nsc generate"
                " creds` writes them"
            )
        _check_seed(found["seed"], f"nats_creds_file {path}")
        return _Login(found["jwt"], found["seed"])

    current = _last_good(read)

    def sign(nonce: str) -> bytes:
        return base64.b64encode(_key_pair(current().seed).sign(nonce.encode()))

    return {"user_jwt_cb": lambda: current().jwt, "signature_cb": sign}


def _last_good(read: Callable[[], _T]) -> Callable[[], _T]:
    """Call `read` now and at every call; while it fails, return its last result."""
    good = read()

    def current() -> _T:
        nonlocal good
        try:
            good = read()
        except InvalidSettings as error:
            _log.warning("%s; logging in with its previous content", error)
        return good

    return current


def _check_seed(seed: bytes, where: str) -> None:
    try:
        public = _key_pair(seed).public_key
    except InvalidSettings:
        raise
    except Exception:  # noqa: BLE001  # several types; none may carry the seed further
        raise InvalidSettings(f"{where} contains an invalid nkey seed; create a new one") from None
    if not public.startswith(b"U"):
        raise InvalidSettings(f"{where} contains an nkey of another type; use the seed of a user (SU…)")


def _key_pair(seed: bytes) -> Any:
    return _nkeys().from_seed(bytearray(seed))


def _nkeys() -> Any:
    try:
        import nkeys  # type: ignore[import-untyped]  # an extra, only for this kind of login
    except ImportError:
        raise InvalidSettings(
            "nkeys and credentials files need the package nkeys: `pip install 'jobledger[server]'`"
        ) from None
    return nkeys


def _tls(settings: Settings) -> ssl.SSLContext | None:
    is_configured = settings.nats_tls_ca is not None or settings.nats_tls_cert is not None
    if not is_configured and "tls://" not in settings.nats_url.lower():
        return None
    try:
        context = ssl.create_default_context(cafile=settings.nats_tls_ca)
    except OSError as error:
        raise InvalidSettings(
            f"nats_tls_ca {settings.nats_tls_ca} contains no readable CA certificates ({_why(error)})"
        ) from error
    if settings.nats_tls_cert is not None and settings.nats_tls_key is not None:
        _warn(settings.nats_tls_key, "nats_tls_key")
        try:
            # Without a password argument OpenSSL prompts on the terminal, and blocks forever.
            context.load_cert_chain(settings.nats_tls_cert, settings.nats_tls_key, password="")
        except OSError as error:
            raise InvalidSettings(
                f"nats_tls_cert {settings.nats_tls_cert} and nats_tls_key {settings.nats_tls_key} are not a"
                f" certificate and its key without a password, in PEM ({_why(error)})"
            ) from error
    return context


def _why(error: OSError) -> str:
    return error.strerror or type(error).__name__


def _warn(path: Path, setting: str) -> None:
    warning = exposed(path, setting)
    if warning:
        _log.warning("%s", warning)


# Settings that name files, with the variables of the `nats` command.
_FILES: Final = {
    "nats_nkey_file": "NATS_NKEY",
    "nats_creds_file": "NATS_CREDS",
    "nats_tls_ca": "NATS_CA",
    "nats_tls_cert": "NATS_CERT",
    "nats_tls_key": "NATS_KEY",
}


class NatsAddress(NamedTuple):
    """The address of the log for other programs.

    Attributes:
        servers: URLs without credentials.
        user: empty if there is none, or files are used instead.
        password: of the user.
        files: paths of credentials and TLS files, by the name of the setting.
    """

    servers: tuple[str, ...]
    user: str
    password: str
    files: dict[str, str]

    def __repr__(self) -> str:
        return "NatsAddress(…)"  # a traceback with values must not contain it

    @property
    def url(self) -> str:
        """The servers, comma-separated, each with percent-encoded user and password."""
        if not self.user:
            return ",".join(self.servers)
        login = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        return ",".join(each.replace("://", f"://{login}@", 1) for each in self.servers)

    def wire(self) -> dict[str, Any]:
        """Return the parts as JSON values."""
        parts: dict[str, Any] = {"url": self.url, "servers": list(self.servers)}
        if self.user:
            parts |= {"user": self.user, "password": self.password}
        return parts | self.files

    def variables(self) -> dict[str, str]:
        """Return the parts as the environment variables of the `nats` command."""
        found = {"NATS_URL": ",".join(self.servers)}
        if self.user:
            found |= {"NATS_USER": self.user, "NATS_PASSWORD": self.password}
        return found | {_FILES[name]: path for name, path in self.files.items()}


def nats_address(settings: Settings) -> NatsAddress:
    """Return the servers of `nats_url`, otherwise the embedded server of the service running on `data_dir`.

    Raises:
        LogUnavailable: there is neither.
        EmbeddedServerError: the connection file is not trusted.
        InvalidSettings: the password file can't be read.
    """
    url = settings.nats_url or find_connection(settings.data_dir / NATS_FOLDER)
    if url is None:
        raise LogUnavailable(
            f"no service with an embedded log is running on {settings.data_dir}: start `jobledger serve`, or"
            " pass its directory with --data-dir, or the NATS servers with --nats-url"
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


LOG: Final = "LOG"
SERVICE: Final = "SERVICE"
SYSTEM: Final = "SYS"
OPERATOR_USER: Final = "operator"
SERVICE_USER: Final = "jobledger"
SYSTEM_USER: Final = "system"
_SUBSCRIBER: Final = "SUBSCRIBER_"
_API: Final = "$JS.API"
_FORM: Final = re.compile(r"([^:]*)(?::([0-9]{1,4})(e?))?(?::(plain))?", re.ASCII)

# Requests with more than one response message.
_STREAMED: Final = (f"{_API}.CONSUMER.MSG.NEXT.", f"{_API}.DIRECT.GET.")


class Subscriber(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription whose program has its own account.

    Attributes:
        name: of the subscription.
        consumers: its durable consumers: one, or one per member or partition.
        plain: read by a program in another language, which needs fewer rights.
    """

    name: str
    consumers: tuple[str, ...]
    plain: bool = False

    @property
    def account(self) -> str:
        """The name of its account."""
        return f"{_SUBSCRIBER}{self.name}"

    @property
    def variable(self) -> str:
        """The environment variable of its password."""
        return f"NATS_{re.sub('[^A-Z0-9]', '_', self.name.upper())}_PASSWORD"


class User(msgspec.Struct, frozen=True, kw_only=True):
    """A user: with a password from an environment variable, or with a public nkey instead."""

    name: str
    variable: str = ""
    nkey: str = ""


def subscriber_of(definition: Definition) -> Subscriber:
    """Return the subscriber of a definition."""
    names = tuple(definition.consumer_name(part) for part in range(definition.parts))
    return Subscriber(name=definition.name, consumers=names, plain=definition.plain)


def parse_subscriber(text: str) -> Subscriber:
    """Parse `billing`, `shipping:4` (four members), `audit:32e` (elastic), `node:plain` or `node:4:plain`.

    Raises:
        InvalidInput: it has another form.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise InvalidInput(
            f"invalid subscription {text!r:.80}: use NAME, NAME:4 for four members,"
            f" NAME:{SUBSCRIPTION_PARTITIONS}e for an elastic group, or NAME:plain"
        )
    name, count, elastic, plain = found.groups()
    number = int(count or 0)
    if count and not number:
        raise InvalidInput(f"invalid subscription {text!r:.80}: use at least 1 member or partition")
    return subscriber_of(
        define(
            name=name,
            namespace=None,
            job=None,
            types=(),
            states=(),
            labels="",
            start="beginning",
            members=0 if elastic else number,
            partitions=number if elastic else 0,
            plain=bool(plain),
        )
    )


def service_requests() -> tuple[str, ...]:
    """Return the subjects that the service publishes to.

    It writes records, reads every stream, and creates consumers of the log only. It can't create, change,
    purge or delete a stream.
    """
    consumers = ("CREATE", "INFO", "MSG.NEXT", "RESET", "UNPIN", "DELETE")
    return (
        f"{_API}.INFO",
        *(each.subject.format(name=each.name(STREAM_NAME)) for each in STREAMS),
        *(
            f"{_API}.{verb}.{each.name(STREAM_NAME)}"
            for each in STREAMS
            for verb in ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET")
        ),
        *(f"{_API}.CONSUMER.{verb}.{STREAM_NAME}.*" for verb in consumers),
        f"{_API}.CONSUMER.LIST.{STREAM_NAME}",
        f"$JS.ACK.{STREAM_NAME}.>",
    )


def subscriber_requests(subscriber: Subscriber) -> tuple[str, ...]:
    """Return the subjects that the program of a subscription publishes to.

    Without `$JS.API.INFO` the account would get the server's own JetStream API, which answers that JetStream
    is not enabled.
    """
    log, records = STREAM_NAME, SUBSCRIPTIONS.name(STREAM_NAME)
    verbs = ("INFO", "MSG.NEXT") if subscriber.plain else ("INFO", "MSG.NEXT", "RESET", "UNPIN")
    reading = (
        ()
        if subscriber.plain
        else (
            f"{_API}.STREAM.MSG.GET.{log}",
            f"{_API}.DIRECT.GET.{log}",
            f"{_API}.STREAM.INFO.{records}",
            f"{_API}.STREAM.MSG.GET.{records}",
            f"{_API}.DIRECT.GET.{records}",
            f"{records}.parked.{subscriber.name}.*",
        )
    )
    return (
        f"{_API}.INFO",
        f"{_API}.STREAM.INFO.{log}",
        *reading,
        *(f"{_API}.CONSUMER.{verb}.{log}.{name}" for name in subscriber.consumers for verb in verbs),
        *(f"$JS.ACK.{log}.{name}.>" for name in subscriber.consumers),
    )


def accounts_config(subscribers: Sequence[Subscriber], nkeys: Mapping[str, str] | None = None) -> str:
    """Return the accounts as nats-server configuration.

    Args:
        subscribers: with an account each.
        nkeys: public keys by user; a user without one logs in with a password from the environment.

    Raises:
        InvalidInput: two subscriptions would have the same account or variable.
    """
    _check_distinct(subscribers)
    keys = nkeys or {}
    importers: dict[str, list[str]] = {}
    for subject in service_requests():
        importers.setdefault(subject, []).append(SERVICE)
    for subscriber in subscribers:
        for subject in subscriber_requests(subscriber):
            importers.setdefault(subject, []).append(subscriber.account)
    exports = [_export(subject, accounts) for subject, accounts in importers.items()]
    operator = User(name=OPERATOR_USER, variable="NATS_OPERATOR_PASSWORD", nkey=keys.get(OPERATOR_USER, ""))
    service = User(name=SERVICE_USER, variable="NATS_PASSWORD", nkey=keys.get(SERVICE_USER, ""))
    system = User(name=SYSTEM_USER, variable="NATS_OPERATOR_PASSWORD", nkey=keys.get(SYSTEM_USER, ""))
    blocks = [
        "  # Owns every stream. Only the operator logs in here.",
        f"  {LOG} {{",
        "    jetstream: enabled",
        f"    users: [ {_user(operator)} ]",
        "    exports: [",
        *(f"      {line}" for line in exports),
        "    ]",
        "  }",
        "  # The service. It can't create, change, purge or delete a stream.",
        *_importing(SERVICE, service, service_requests()),
    ]
    for subscriber in subscribers:
        user = User(name=subscriber.name, variable=subscriber.variable, nkey=keys.get(subscriber.name, ""))
        blocks += [
            f"  # Reads the subscription {subscriber.name}.",
            *_importing(subscriber.account, user, subscriber_requests(subscriber)),
        ]
    return "\n".join(
        [
            "# Generated by `jobledger nats accounts` (docs/DEPLOY.md); regenerate it instead of editing it.",
            "accounts {",
            *blocks,
            "  # For `nats server …`: who is connected, which node leads, replacing a lost node.",
            f"  {SYSTEM} {{",
            f"    users: [ {_user(system)} ]",
            "  }",
            "}",
            f"system_account: {SYSTEM}",
            "",
        ]
    )


def users_of(subscribers: Sequence[Subscriber]) -> tuple[str, ...]:
    """Return the names of all users, those of the log and of the service first."""
    return (OPERATOR_USER, SERVICE_USER, SYSTEM_USER, *(each.name for each in subscribers))


def _check_distinct(subscribers: Sequence[Subscriber]) -> None:
    seen: dict[str, str] = dict.fromkeys(users_of(()), "the service or the operator")
    seen |= dict.fromkeys(("NATS_OPERATOR_PASSWORD", "NATS_CLUSTER_PASSWORD"), "the service or the operator")
    for subscriber in subscribers:
        for taken in (subscriber.name, subscriber.variable):
            if taken in seen:
                raise InvalidInput(
                    f"the subscription {subscriber.name} and {seen[taken]} would both use {taken} in the"
                    " configuration: omit one, or rename one"
                )
        seen[subscriber.name] = seen[subscriber.variable] = subscriber.name


def _export(subject: str, accounts: Sequence[str]) -> str:
    response = " response_type: stream," if subject.startswith(_STREAMED) else ""
    return f"{{ service: {json.dumps(subject)},{response} accounts: [{', '.join(accounts)}] }}"


def _importing(account: str, user: User, subjects: Sequence[str]) -> list[str]:
    return [
        f"  {account} {{",
        f"    users: [ {_user(user)} ]",
        "    imports: [",
        *(f"      {{ service: {{ account: {LOG}, subject: {json.dumps(each)} }} }}" for each in subjects),
        "    ]",
        "  }",
    ]


def _user(user: User) -> str:
    return f"{{ nkey: {user.nkey} }}" if user.nkey else f"{{ user: {user.name}, password: ${user.variable} }}"
