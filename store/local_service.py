"""The log of the service on this machine, for a program that does not name one.

    JOBLEDGER_NATS_URL is set ──► those servers, with JOBLEDGER_NATS_USER and JOBLEDGER_NATS_PASSWORD if set
    otherwise ──────────────────► the embedded server of the service that runs on JOBLEDGER_DATA_DIR, or on
                                  the default data directory

The embedded server has another port and password after every start. It writes them to its connection file
with mode 0600, and holds a lock on the file while it runs. The kernel releases the lock when the process
ends, so a file that remains after `kill -9` is recognized by its free lock. (A process id could be that of
another process, and the port that of another server, which would get the password.)
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
from jobledger.store.private_files import read_bounded

URL_VARIABLE: Final = "JOBLEDGER_NATS_URL"
DATA_DIR_VARIABLE: Final = "JOBLEDGER_DATA_DIR"
NATS_FOLDER: Final = "nats"  # of the embedded server, below the data directory of a service
CONNECTION_FILE: Final = "connection.json"
_CREDENTIALS: Final = {"user": "JOBLEDGER_NATS_USER", "password": "JOBLEDGER_NATS_PASSWORD"}


class LocalLog(NamedTuple):
    """How to connect to the log.

    Attributes:
        url: of one NATS server, or of several, separated by commas.
        options: `user` and `password`, if they are not in the URL.
    """

    url: str
    options: dict[str, str]

    def __repr__(self) -> str:
        return "LocalLog(…)"  # without credentials, for tracebacks


def default_directory() -> Path:
    """Return the default directory of the embedded server, below the user's state directory."""
    return user_state_path("jobledger") / NATS_FOLDER


def find_local_log(env: Mapping[str, str] | None = None) -> LocalLog:
    """Return how to connect to the log of the service on this machine.

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


class _Connection(msgspec.Struct, frozen=True):
    """The content of the file.

    Attributes:
        url: `nats://user:password@host:port`.
    """

    url: str

    def __repr__(self) -> str:
        return "_Connection(…)"  # without credentials, for tracebacks


class ConnectionFile:
    """The connection file of a running server; the caller holds the directory."""

    def __init__(self, path: Path, handle: int) -> None:
        self._path = path
        self._handle = handle

    @classmethod
    def write(cls, directory: Path, url: str) -> Self:
        """Write the file of a server, replacing that of an earlier one.

        Args:
            directory: of the server.
            url: of the server, with credentials.

        Raises:
            OSError: if it can't be written.
        """
        path = directory / CONNECTION_FILE
        new = directory / f"{CONNECTION_FILE}.new"
        new.unlink(missing_ok=True)
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # before the file can be found by its name
            with os.fdopen(os.dup(handle), "wb") as file:
                file.write(msgspec.json.encode(_Connection(url)))
            new.replace(path)
        except BaseException:
            os.close(handle)
            raise
        return cls(path, handle)

    def remove(self) -> None:
        """Remove the file when the server stops, unless it is that of another server."""
        with suppress(OSError):
            if os.path.samestat(self._path.lstat(), os.fstat(self._handle)):
                self._path.unlink()
        os.close(self._handle)


def find_connection(directory: Path) -> str | None:
    """Return the URL of the embedded server on a directory, with credentials; None if no server runs there.

    Raises:
        EmbeddedServerError: if another user than this one, or root, can have written or can read the file;
            the URL is never in the message.
    """
    path = directory / CONNECTION_FILE
    try:
        # O_NONBLOCK: opening a named pipe without a writer would block for ever.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        why = "is a symbolic link" if path.is_symlink() else f"can't be read ({error.strerror or error})"
        raise _refused(path, why) from None
    try:
        _check_owner(path, os.fstat(handle))  # first, because fdopen refuses a directory
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
            return None  # the server that wrote it has ended
        try:
            content = read_bounded(file, CONNECTION_FILE_MAX_BYTES)
        except ValueError as error:
            raise _refused(path, str(error)) from None
    try:
        return msgspec.json.decode(content, type=_Connection).url
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise _refused(path, "has no URL") from None


def _check_owner(path: Path, found: os.stat_result) -> None:
    owners = {os.geteuid()}
    if os.geteuid() == 0:  # root can use the server of another user, the owner of the directory
        owners.add(path.parent.stat().st_uid)
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, "is not a regular file")
    if found.st_uid not in owners:
        raise _refused(path, f"belongs to user {found.st_uid}")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise _refused(path, f"is open to other users (mode {stat.S_IMODE(found.st_mode):o})")


def _refused(path: Path, why: str) -> EmbeddedServerError:
    return EmbeddedServerError(
        f"{path} {why}, so it is not trusted as the connection file of the embedded nats-server: stop the"
        " service, remove the file, and start the service again"
    )
