"""Files and directories that only their owner can read, with any umask.

A umask protects only files that this process creates while it is set. SQLite gives `-wal` and `-shm` the mode
of the main file, and an existing file keeps its mode, so both are set explicitly here.

A private file is replaced as a whole (a reader sees the old content or the new one, also after a power loss),
read with a size limit, and trusted only if no other user can have written it.
"""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final, Generic, Literal, Protocol, TypeVar, overload

import msgspec

from jobledger.store.model.limits import PRIVATE_FILE_MAX_BYTES

FILE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700
_OTHERS: Final = 0o077


class _HasFormat(Protocol):
    @property
    def format(self) -> int: ...


DocumentT = TypeVar("DocumentT", bound=_HasFormat)


def make_private(path: Path) -> None:
    """Create an empty file with mode 0600, or remove the rights of others from the one that exists.

    Raises:
        OSError: if it can't be created.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
    tighten(path)


@overload
def open_private(path: Path, mode: Literal["ab", "wb"]) -> IO[bytes]: ...
@overload
def open_private(path: Path, mode: Literal["a+"]) -> IO[str]: ...
def open_private(path: Path, mode: Literal["a+", "ab", "wb"]) -> IO[str] | IO[bytes]:
    """Open a Jobledger file to append to it or to replace its content; a new file gets mode 0600.

    Raises:
        OSError: if it can't be opened.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC, FILE_MODE)

    file: IO[str] | IO[bytes] = open(path, mode, opener=opener)  # noqa: SIM115 - `Path.open` takes no opener
    tighten(path)
    return file


def tighten(path: Path) -> None:
    """Remove the rights of group and others from a Jobledger file or directory, if it exists."""
    with suppress(OSError):  # another user's file can't be changed; `exposure` reports the directory
        found = path.lstat()
        if not stat.S_ISLNK(found.st_mode) and found.st_mode & _OTHERS:
            path.chmod(stat.S_IMODE(found.st_mode) & ~_OTHERS)


def tighten_all(paths: Iterable[Path]) -> None:
    """`tighten` each path, and everything below those that are directories."""
    for path in paths:
        tighten(path)
        if path.is_dir() and not path.is_symlink():
            for folder, folders, files in os.walk(path):
                for name in (*folders, *files):
                    tighten(Path(folder, name))


def exposure(folder: Path) -> str:
    """Return a warning if other users can enter or own a directory; empty if not, or if that is unknown."""
    try:
        found = folder.stat()
    except OSError:
        return ""
    if found.st_uid not in (os.geteuid(), 0):
        return f"the directory {folder} belongs to user {found.st_uid}, who can replace every file in it"
    if found.st_mode & _OTHERS:
        return (
            f"the directory {folder} is open to other users (mode {stat.S_IMODE(found.st_mode):o}):"
            f" `chmod 700 {folder}`"
        )
    return ""


FileFingerprint = tuple[int, int, int, int, int]
"""Device, inode, size and change times of a file: it differs after every change of the content."""


def file_fingerprint(path: Path) -> FileFingerprint | None:
    """Return the fingerprint of a file, which differs after every change; None if the file does not exist.

    Raises:
        OSError: if it can't be read.
    """
    try:
        found = os.stat(path)  # noqa: PTH116  # on the path of every request, where `Path.stat` is slower
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def read_trusted(path: Path, *, secret: bool = False) -> bytes:
    """Read a file that no other user can have created or can change.

    Its owner, and that of a symbolic link to it, must be this user, root, or the owner of the directory (who
    could replace it anyway).

    Args:
        path: of the file.
        secret: also refuse a file that other users can read.

    Raises:
        ValueError: what is wrong; the text continues a sentence that starts with the path.
        OSError: if it can't be read.
    """
    owners = {0, os.geteuid(), path.parent.stat().st_uid}
    # O_NONBLOCK: opening a named pipe without a writer would block for ever.
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as file:
        target = os.fstat(handle)
        if not stat.S_ISREG(target.st_mode):
            raise ValueError("is not a regular file")
        for found in (path.lstat(), target):
            if found.st_uid not in owners:
                raise ValueError(f"belongs to user {found.st_uid}, who is not trusted with it: chown it")
        if target.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise ValueError(
                f"can be written by other users (mode {stat.S_IMODE(target.st_mode):o}): chmod 600 it"
            )
        if secret and target.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ValueError(
                f"can be read by other users (mode {stat.S_IMODE(target.st_mode):o}): chmod 600 it"
            )
        return read_bounded(file, PRIVATE_FILE_MAX_BYTES)


def read_bounded(file: IO[bytes], max_bytes: int) -> bytes:
    """Read a whole file of limited size.

    Raises:
        ValueError: if it is larger.
    """
    content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"has more than {max_bytes} bytes")
    return content


def replace_file(path: Path, write: Callable[[], bytes]) -> None:
    """Replace the content of a private file: readers see the old or the new one, also after a power loss.

    Args:
        path: of the file; it and its directory are created if missing.
        write: returns the new content; called while no other process changes the file.

    Raises:
        OSError: if it can't be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    with _locked(path):
        content = write()
        if len(content) > PRIVATE_FILE_MAX_BYTES:
            raise OSError(errno.EFBIG, f"it would have more than {PRIVATE_FILE_MAX_BYTES} bytes")
        if path.is_symlink():  # the rename would replace the link and leave its target unchanged
            raise OSError(errno.ELOOP, "it is a symbolic link; name the file itself")
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(handle, "wb") as file:
                _keep_owner(path, file.fileno())
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _keep_owner(path: Path, handle: int) -> None:
    """Keep the owner if root changes a file, so that the service, another user, can still read it."""
    if os.geteuid() != 0:
        return
    try:
        kept = path.stat()
    except FileNotFoundError:
        kept = path.parent.stat()
    os.fchown(handle, kept.st_uid, kept.st_gid)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; the lock is a file of its own, because the file itself is replaced."""
    lock = path.with_name(f".{path.name}.lock")
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class PrivateDocument(Generic[DocumentT]):
    """A Struct with a field `format`, kept as JSON in a private file.

    Every call checks the file, so a change made by another process takes effect at once; it is decoded
    again only if its fingerprint changed.

    Args:
        path: of the file.
        kind: type of the Struct.
        title: of the file in messages, such as `file of audit keys`.
        error: exception type for a file that can't be used.
        secret: refuse a file that other users can read.
        formats: the values of `format` that this release reads.
        remedy: what to do with a damaged file.
        check: raises ValueError for a document that is not valid, with a text that continues a sentence
            starting with the path.
    """

    def __init__(
        self,
        path: Path,
        kind: type[DocumentT],
        *,
        title: str,
        error: type[Exception],
        secret: bool = False,
        formats: tuple[int, ...] = (1,),
        remedy: str = "restore it from a backup",
        check: Callable[[DocumentT], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._decoder = msgspec.json.Decoder(kind)
        self._title = title
        self._error = error
        self._secret = secret
        self._formats = formats
        self._remedy = remedy
        self._check = check
        self._fingerprint: FileFingerprint | None = None
        self._document: DocumentT | None = None

    def read(self) -> DocumentT | None:
        """Return the document; None if there is no file.

        Raises:
            Exception: `error`, if the file can't be read, other users have rights to it, or it is damaged;
                the content is never in the message.
        """
        try:
            fingerprint = file_fingerprint(self.path)
            if fingerprint != self._fingerprint:
                self._document = None if fingerprint is None else self._load()
                self._fingerprint = fingerprint
        except OSError as error:
            raise self._failed("can't be read", error) from error
        except ValueError as error:
            raise self._error(f"the {self._title} {self.path} {error}") from None
        return self._document

    def update(self, change: Callable[[DocumentT | None], DocumentT]) -> None:
        """Replace the document with what a function makes of it, while no other process changes it.

        Raises:
            Exception: `error`, as `read`, or if the file can't be written.
        """

        def write() -> bytes:
            # Read it again: two changes within one tick of the clock of the file system look the same.
            self._fingerprint = self._document = None
            return msgspec.json.format(msgspec.json.encode(change(self.read())), indent=1) + b"\n"

        try:
            replace_file(self.path, write)
        except OSError as error:
            raise self._failed("can't be written", error) from error

    def _load(self) -> DocumentT:
        content = read_trusted(self.path, secret=self._secret)
        try:
            document = self._decoder.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise ValueError(f"is damaged: {self._remedy}") from None
        if document.format not in self._formats:
            raise ValueError(
                f"has format {document.format}; this release reads up to {max(self._formats)}: upgrade"
            )
        self._check(document)
        return document

    def _failed(self, what: str, error: OSError) -> Exception:
        return self._error(f"the {self._title} {self.path} {what}: {error.strerror or type(error).__name__}")
