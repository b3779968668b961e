"""Every file that the service creates is readable only by its owner, in any directory and with any umask."""

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from jobledger.projections.database import Writer
from jobledger.service.export.output_file import open_output
from jobledger.store.model.limits import PRIVATE_FILE_MAX_BYTES
from jobledger.store.private_files import (
    PrivateDocument,
    exposure,
    make_private,
    open_private,
    read_trusted,
    replace_file,
    tighten_all,
)
from tests.support.api import job_body
from tests.support.service_process import running_service


def exposed(folder: Path) -> list[str]:
    """Return files and directories below a directory to which group or others have rights."""
    return [
        f"{path.relative_to(folder)} {stat.S_IMODE(path.lstat().st_mode):o}"
        for path in folder.rglob("*")
        if not path.is_symlink() and path.lstat().st_mode & 0o077
    ]


@pytest.fixture
def _umask_022() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("_umask_022")
@pytest.mark.slow
def test_a_used_data_directory_has_no_file_that_others_can_read(tmp_path: Path) -> None:
    """Log, view, -wal, -shm, lock, tokens, keys, seals, as-of copies; an open directory is reported."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "lock").write_text("")
    with running_service(tmp_path, "--seal-every-events", "1") as service:
        with httpx.Client(base_url=f"{service.url}/api/v1/orchestrator", timeout=30.0) as client:
            for number in range(3):
                client.put("/jobs", json=job_body(f"job-{number}")).raise_for_status()
        with httpx.Client(base_url=service.url, timeout=30.0) as client:
            client.get("/api/v1/counts", params={"at": 2}).raise_for_status()  # makes a copy of the view
            client.post("/api/v1/audit/seals", json={}).raise_for_status()
        names = {str(path.relative_to(data)) for path in data.rglob("*") if path.is_file()}
        assert {"lock", "view.sqlite", "view.sqlite-wal", "view.sqlite-shm"} <= names
        assert {"audit/keys.json", "audit/seals.txt", "nats/nats.log", "nats/lock"} <= names
        assert any(name.startswith("asof/") for name in names)
        assert exposed(data) == []
        assert any("is open to other users (mode 755)" in line for line in service.output)
    assert exposed(data) == []


@pytest.mark.slow
@pytest.mark.usefixtures("_umask_022")
def test_files_of_an_older_release_are_tightened_at_start(tmp_path: Path) -> None:
    """After the next start no file is readable by others."""
    data = tmp_path / "data"
    with running_service(tmp_path):
        pass
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (data / "audit" / "keys.json").chmod(0o600)  # one that others can read is refused
    with running_service(tmp_path):
        assert exposed(data) == []


def test_a_private_folder_gives_no_warning(tmp_path: Path) -> None:
    """Mode 700 and owned by us gives no warning; any right of others, or another owner, does."""
    folder = tmp_path / "folder"
    folder.mkdir(mode=0o700)
    assert exposure(folder) == ""
    for mode in (0o710, 0o701, 0o755, 0o770):
        folder.chmod(mode)
        assert f"mode {mode:o}" in exposure(folder)
    assert exposure(tmp_path / "missing") == ""
    if os.geteuid() == 0:
        folder.chmod(0o700)
        os.chown(folder, 12_345, -1)
        assert "belongs to user 12345" in exposure(folder)


@pytest.mark.usefixtures("_umask_022")
async def test_a_view_of_the_library_is_private(tmp_path: Path) -> None:
    """Including SQLite's own files; of a symbolic link only the target changes."""
    path = tmp_path / "deep" / "view.db"
    writer = await Writer.open(path)
    await writer.execute("CREATE TABLE t (x)")
    assert sorted(each.name for each in path.parent.iterdir()) == ["view.db", "view.db-shm", "view.db-wal"]
    assert exposed(tmp_path) == []
    await writer.close()


@pytest.mark.usefixtures("_umask_022")
def test_tightening_does_not_follow_links(tmp_path: Path) -> None:
    """A link out of the directory must not change a file elsewhere."""
    outside = tmp_path / "outside"
    outside.write_text("x")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    make_private(folder / "own")
    open_private(folder / "log", "ab").close()
    tighten_all([folder, tmp_path / "missing"])
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert exposed(folder) == []


@pytest.mark.usefixtures("_umask_022")
def test_files_for_the_user_keep_the_umask(tmp_path: Path) -> None:
    """A file at a path that the user names, such as an export, is the user's."""
    target = open_output(tmp_path / "out.ndjson")
    target.write(b"{}\n")
    target.finish()
    assert stat.S_IMODE((tmp_path / "out.ndjson").stat().st_mode) == 0o644


class _Document(msgspec.Struct, frozen=True):
    format: int
    names: tuple[str, ...] = ()


class _Failure(Exception):
    pass


def _document(path: Path, **options: Any) -> PrivateDocument[_Document]:
    return PrivateDocument(path, _Document, title="test file", error=_Failure, **options)


def _with(name: str) -> Callable[[_Document | None], _Document]:
    return lambda now: _Document(1, (*(now.names if now else ()), name))


@pytest.mark.usefixtures("_umask_022")
def test_a_document_is_shared_by_its_users(tmp_path: Path) -> None:
    """A change by one is read by the other at once; the file and its directory are private."""
    path = tmp_path / "deep" / "document.json"
    one, other = _document(path), _document(path)
    assert one.read() is None
    one.update(_with("a"))
    assert other.read() == _Document(1, ("a",))
    other.update(_with("b"))
    assert one.read() == _Document(1, ("a", "b"))
    assert one.read() is one.read()
    assert path.read_bytes().endswith(b"}\n")
    assert exposed(tmp_path) == []


def test_a_change_does_not_bring_back_a_removed_document(tmp_path: Path) -> None:
    """Keys that an operator removed stay removed, although this process has read them."""
    path = tmp_path / "document.json"
    document = _document(path)
    document.update(_with("removed"))
    assert document.read() == _Document(1, ("removed",))
    path.unlink()
    document.update(_with("new"))
    assert document.read() == _Document(1, ("new",))


def test_a_failed_change_leaves_the_document(tmp_path: Path) -> None:
    """Whether the change raises or its result is too large."""
    path = tmp_path / "document.json"
    document = _document(path)
    document.update(_with("a"))

    def fail(_: _Document | None) -> _Document:
        raise KeyError("a mistake")

    with pytest.raises(KeyError):
        document.update(fail)
    with pytest.raises(_Failure, match=r"test file .*document\.json can't be written"):
        document.update(_with("x" * PRIVATE_FILE_MAX_BYTES))
    assert document.read() == _Document(1, ("a",))
    assert [each.name for each in tmp_path.iterdir() if each.name != ".document.json.lock"] == [path.name]


def _refuse(document: _Document) -> None:
    raise ValueError(f"names {len(document.names)} unknown tools: remove them")


@pytest.mark.parametrize(
    ("content", "mode", "options", "message"),
    [
        (b"{", 0o600, {}, "is damaged: restore it from a backup"),
        (b"\xff", 0o600, {"remedy": "delete it"}, "is damaged: delete it"),
        (b'{"format":2}', 0o600, {}, "has format 2; this release reads up to 1: upgrade"),
        (b'{"format":1,"names":["a"]}', 0o600, {"check": _refuse}, "names 1 unknown tools"),
        (b'{"format":1}', 0o620, {}, "can be written by other users (mode 620): chmod 600 it"),
        (b'{"format":1}', 0o640, {"secret": True}, "can be read by other users (mode 640): chmod 600 it"),
        (b" " * (PRIVATE_FILE_MAX_BYTES + 1), 0o600, {}, f"has more than {PRIVATE_FILE_MAX_BYTES} bytes"),
    ],
)
def test_a_document_that_cannot_be_trusted_is_refused(
    tmp_path: Path, content: bytes, mode: int, options: dict[str, Any], message: str
) -> None:
    """With the path, what is wrong, and what to do; never with the content. A repaired file is read again."""
    path = tmp_path / "document.json"
    path.write_bytes(content)
    path.chmod(mode)
    document = _document(path, **options)
    for _ in range(2):
        with pytest.raises(_Failure, match=re.escape(f"the test file {path} {message}")):
            document.read()
    path.unlink()
    assert document.read() is None


def test_only_a_regular_file_is_trusted(tmp_path: Path) -> None:
    """A named pipe does not block the reader, and a symbolic link is not replaced."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="is not a regular file"):
        read_trusted(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is a symbolic link"):
        replace_file(tmp_path / "link", lambda: b"")
