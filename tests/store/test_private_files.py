"""Every file that the service creates is readable by its owner alone, in any directory, under any umask."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from jobledger.projections.database import Writer
from jobledger.service.export.output_file import open_target
from jobledger.store.private_files import exposure, make_private, open_private, tighten_all
from tests.support.api import job_body
from tests.support.service_process import running_service


def exposed(folder: Path) -> list[str]:
    """Files and folders below a folder that group or others have any right to."""
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
    """Log, view, -wal, -shm, lock, tokens, keys, seals, as-of copies; and the open folder is reported."""
    data = tmp_path / "data"
    data.mkdir(mode=0o755)
    (data / "lock").write_text("")
    with running_service(tmp_path, "--seal-every-events", "1") as service:
        with httpx.Client(base_url=f"{service.url}/api/v1/orchestrator", timeout=30.0) as client:
            for number in range(3):
                client.put("/jobs", json=job_body(f"job-{number}")).raise_for_status()
            client.get("/jobs", params={"at": 2}).raise_for_status()
        with httpx.Client(base_url=service.url, timeout=30.0) as client:
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
    """Whatever was left readable is not after the next start."""
    data = tmp_path / "data"
    with running_service(tmp_path):
        pass
    for path in (data, *data.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (data / "audit" / "keys.json").chmod(0o600)  # one that others can read is refused
    with running_service(tmp_path):
        assert exposed(data) == []


def test_a_private_folder_gives_no_warning(tmp_path: Path) -> None:
    """Mode 700 and ours: nothing to report; any right of others, or another owner, is."""
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
    """SQLite's own files beside it as well; a link in the place of a file changes nothing but its target."""
    path = tmp_path / "deep" / "view.db"
    writer = await Writer.open(path)
    await writer.execute("CREATE TABLE t (x)")
    assert sorted(each.name for each in path.parent.iterdir()) == ["view.db", "view.db-shm", "view.db-wal"]
    assert exposed(tmp_path) == []
    await writer.close()


@pytest.mark.usefixtures("_umask_022")
def test_tightening_does_not_follow_links(tmp_path: Path) -> None:
    """A link out of the folder must not change a file elsewhere."""
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
    """What a command writes where the user says is the user's own: a replay, say."""
    target = open_target(tmp_path / "out.ndjson")
    target.write(b"{}\n")
    target.finish()
    assert stat.S_IMODE((tmp_path / "out.ndjson").stat().st_mode) == 0o644
