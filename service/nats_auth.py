"""How the service logs in to NATS: settings in, options of the connection out.

Password and credentials files are read again at every reconnect, so that they can be changed under a running
service; while one of them can't be read, what it last said goes on. No secret is ever in a message.
"""

import base64
import logging
import os
import re
import secrets
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from jobledger.service.access.secret_files import exposed, read_secret
from jobledger.service.errors import InvalidSettings
from jobledger.service.settings import Settings

_CREDENTIALS: Final = re.compile(
    rb"-+BEGIN NATS USER JWT-+\s+(?P<jwt>[A-Za-z0-9_.-]+)\s+-+END NATS USER JWT-+"
    rb".*-+BEGIN USER NKEY SEED-+\s+(?P<seed>[A-Z2-7]+)\s+-+END USER NKEY SEED-+",
    re.DOTALL,
)

_T = TypeVar("_T")

_log = logging.getLogger(__name__)


class _Login(NamedTuple):
    """What a credentials file holds."""

    jwt: bytes
    seed: bytes

    def __repr__(self) -> str:
        return "_Login(…)"  # a traceback with values must not show it


def connection_options(settings: Settings) -> dict[str, Any]:
    """Credentials and TLS, as `JetStreamLog.connect` takes them.

    Args:
        settings: `nats_url` and all that begins with `nats_`; they do not contradict each other.

    Raises:
        InvalidSettings: if a file can't be read or is not what its setting says.
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
    """The seed in an nkey file; lines that begin with # are comments, as in the ones that `nk` writes."""
    _warn(path, "nats_nkey_file")
    lines = [line.strip() for line in read_secret(path, "nats_nkey_file").splitlines()]
    seeds = [line for line in lines if line and not line.startswith(b"#")]
    if len(seeds) != 1:
        raise InvalidSettings(f"nats_nkey_file {path} holds no nkey; put the seed of a user (SU…) there")
    _check_seed(seeds[0], f"nats_nkey_file {path}")
    return seeds[0].decode()


def public_nkey(path: Path) -> str:
    """The public key of a user whose seed is in a file, as `nats_nkey_file` takes it; made if it is missing.

    A new file has mode 0600.

    Raises:
        InvalidSettings: if the file can't be read or written, or holds no seed of a user.
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
    """The library reads such files itself, and never returns from one that has no JWT in it."""
    _warn(path, "nats_creds_file")

    def read() -> _Login:
        found = _CREDENTIALS.search(read_secret(path, "nats_creds_file"))
        if found is None:
            raise InvalidSettings(
                f"nats_creds_file {path} holds no credentials; put there what `nsc generate creds` writes:"
                " a JWT and an nkey seed"
            )
        _check_seed(found["seed"], f"nats_creds_file {path}")
        return _Login(found["jwt"], found["seed"])

    current = _last_good(read)

    def sign(nonce: str) -> bytes:
        return base64.b64encode(_key_pair(current().seed).sign(nonce.encode()))

    return {"user_jwt_cb": lambda: current().jwt, "signature_cb": sign}


def _last_good(read: Callable[[], _T]) -> Callable[[], _T]:
    """`read` once now, and again at every call; what it last returned while it fails."""
    good = read()

    def current() -> _T:
        nonlocal good
        try:
            good = read()
        except InvalidSettings as error:
            _log.warning("%s; logging in with what it said before", error)
        return good

    return current


def _check_seed(seed: bytes, where: str) -> None:
    try:
        public = _key_pair(seed).public_key
    except InvalidSettings:
        raise
    except Exception:  # noqa: BLE001  # of the library, of several kinds; none may carry the seed further
        raise InvalidSettings(f"{where} holds no valid nkey seed; make one anew") from None
    if not public.startswith(b"U"):
        raise InvalidSettings(f"{where} holds an nkey that is no user's; use the seed of a user (SU…)")


def _key_pair(seed: bytes) -> Any:
    return _nkeys().from_seed(bytearray(seed))


def _nkeys() -> Any:
    try:
        import nkeys  # type: ignore[import-untyped]  # an extra: only who logs in this way needs it
    except ImportError:
        raise InvalidSettings(
            "nkeys and credentials files need the package nkeys: `pip install 'jobledger[server]'`"
        ) from None
    return nkeys


def _tls(settings: Settings) -> ssl.SSLContext | None:
    wanted = settings.nats_tls_ca is not None or settings.nats_tls_cert is not None
    if not wanted and "tls://" not in settings.nats_url.lower():
        return None
    try:
        context = ssl.create_default_context(cafile=settings.nats_tls_ca)
    except OSError as error:
        raise InvalidSettings(
            f"nats_tls_ca {settings.nats_tls_ca} holds no CA certificates that can be read ({_why(error)})"
        ) from error
    if settings.nats_tls_cert is not None and settings.nats_tls_key is not None:
        _warn(settings.nats_tls_key, "nats_tls_key")
        try:
            # Without a password given, OpenSSL would ask for one at the terminal, and so wait for ever.
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
