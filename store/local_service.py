"""Where the log of this machine's service is, for a program that names none.

    JOBLEDGER_NATS_URL is set ──► those servers, with JOBLEDGER_NATS_USER and JOBLEDGER_NATS_PASSWORD if set
    else ───────────────────────► the embedded server of the service that runs on JOBLEDGER_DATA_DIR, or on
                                  the default data directory

The embedded server has another port and password at every start, so they are never written into a program.
"""

import fcntl
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

import msgspec
from platformdirs import user_state_path

from jobledger.store.model.errors import EmbeddedServerError, LogUnavailable
from jobledger.store.model.limits import CONNECTION_FILE_MAX_BYTES

NATS_FOLDER: Final = "nats"  # of the embedded server, below the data directory of a service
CONNECTION_FILE: Final = "connection.json"


class _Connection(msgspec.Struct, frozen=True):
    """What the file says.

    Attributes:
        url: `nats://user:password@host:port`.
    """

    url: str

    def __repr__(self) -> str:
        return "_Connection(…)"  # a traceback with values must not show it


class ConnectionFile:
    """The file of a server that runs; made by `write`, which replaces one that was left behind.

    The caller holds the directory for itself.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    @classmethod
    def write(cls, directory: Path, url: str) -> Self:
        """Tell of a server.

        Args:
            directory: of the server.
            url: how to reach it, with credentials.

        Raises:
            OSError: if it can't be written.
        """
        path = directory / CONNECTION_FILE
        new = directory / f"{CONNECTION_FILE}.new"
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # before it can be found by its name
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(msgspec.json.encode(_Connection(url)))
            new.replace(path)
        except BaseException:
            os.close(handle)
            raise
        return cls(path, handle)

    def remove(self) -> None:
        """The server ends: nobody shall look for it. The file of another server is left alone."""
        with suppress(OSError):
            if os.path.samestat(self._path.lstat(), os.fstat(self._handle)):
                self._path.unlink()
        os.close(self._handle)


def find_connection(directory: Path) -> str | None:
    """The URL of the embedded server that runs on a directory, with its credentials; None if none runs.

    Args:
        directory: of the server.

    Raises:
        EmbeddedServerError: if the file is not one that only its own user, or root, can have written and can
            read; the URL is never in the message.
    """
    path = directory / CONNECTION_FILE
    try:
        # A pipe without a writer would hold us up for ever if it were not for O_NONBLOCK.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = "is a symbolic link" if path.is_symlink() else f"can't be read ({error.strerror or error})"
        raise _refused(path, why) from None
    try:
        _check_own(path, os.fstat(handle))  # first: of a folder no file can be made
        opened = os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise
    with opened as file:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return None  # nobody holds it: left behind
        content = file.read(CONNECTION_FILE_MAX_BYTES + 1)
    try:
        if len(content) > CONNECTION_FILE_MAX_BYTES:
            raise _refused(path, f"has more than {CONNECTION_FILE_MAX_BYTES} bytes")
        return msgspec.json.decode(content, type=_Connection).url
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _refused(path, "does not say where the server is") from None


def _check_own(path: Path, found: os.stat_result) -> None:
    """Refuse what anybody else could have put there, or can read."""
    owners = {os.geteuid()}
    if os.geteuid() == 0:  # root looks at the server of another user: whoever has its directory
        owners.add(path.parent.stat().st_uid)
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "is no regular file")
    if found.st_uid not in owners:
        raise _refused(path, f"belongs to user {found.st_uid}")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _refused(path, f"is open to other users (mode {stat.S_IMODE(found.st_mode):o})")


def _refused(path: Path, why: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"{path} {why}, so it is not trusted to say where the embedded nats-server is: stop the service,"
        " remove the file, and start the service again"
    )


URL_VARIABLE: Final = "JOBLEDGER_NATS_URL"
DATA_DIR_VARIABLE: Final = "JOBLEDGER_DATA_DIR"
_CREDENTIALS: Final = {"user": "JOBLEDGER_NATS_USER", "password": "JOBLEDGER_NATS_PASSWORD"}


class LocalLog(NamedTuple):
    """How to reach the log.

    Attributes:
        url: of one NATS server, or of several with commas between them.
        options: `user` and `password`, if they are not part of the URL.
    """

    url: str
    options: dict[str, str]

    def __repr__(self) -> str:
        return "LocalLog(…)"  # a traceback with values must not show credentials


def default_directory() -> Path:
    """Return the directory of the embedded server if none is named: below the user's state directory."""
    return user_state_path("jobledger") / NATS_FOLDER


def find_local_log(env: Mapping[str, str] | None = None) -> LocalLog:
    """The log of this machine's service.

    Args:
        env: the environment; None: that of the process.

    Raises:
        LogUnavailable: if no server is named and no service with an embedded log is running.
        EmbeddedServerError: if the connection file is not trusted (see `find_connection`).
    """
    env = os.environ if env is None else env
    url = env.get(URL_VARIABLE, "")
    if url:
        return LocalLog(url, {name: env[key] for name, key in _CREDENTIALS.items() if env.get(key)})
    data_dir = env.get(DATA_DIR_VARIABLE, "")
    directory = Path(data_dir).expanduser() / NATS_FOLDER if data_dir else default_directory()
    found = find_connection(directory)
    if found is None:
        raise LogUnavailable(
            f"no NATS server was named, and no service with an embedded log is running on {directory.parent}:"
            f" start `jobledger serve`, set {DATA_DIR_VARIABLE} or {URL_VARIABLE}, or pass a URL"
        )
    return LocalLog(found, {})
