"""The token file: an untrusted file refuses all requests, and concurrent changes are not lost."""

import json
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile
from jobledger.service.errors import InvalidSettings, NotReady
from jobledger.store.model.limits import PRIVATE_FILE_MAX_BYTES
from tests.support.middleware import bearer, late


@pytest.fixture
def tokens(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "state" / "tokens.json", clock=late, poll_seconds=0)


def put_instead(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_text(""),
    "cut": lambda path: path.write_text(path.read_text()[:-20]),
    "another document": lambda path: path.write_text("[]"),
    "a newer format": lambda path: path.write_text('{"format": 3, "tokens": []}'),
    "an unknown field": lambda path: path.write_text('{"format": 1, "tokens": [], "open": true}'),
    "an unknown role": lambda path: path.write_text(path.read_text().replace("admin", "root")),
    "a hash that is none": lambda path: path.write_text(
        json.dumps(
            {"format": 1, "tokens": [{**json.loads(path.read_text())["tokens"][0], "sha256": "x" * 64}]}
        )
    ),
    "not text": lambda path: path.write_bytes(b"\xff\xfe"),
    "too large": lambda path: path.write_text(" " * (PRIVATE_FILE_MAX_BYTES + 1)),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: put_instead(path, Path.mkdir),
    "a pipe": lambda path: put_instead(path, os.mkfifo),
    "can be written by other users": lambda path: path.chmod(0o620),
    "a link to itself": lambda path: put_instead(path, lambda it: it.symlink_to(it)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_an_untrusted_token_file_refuses_all_requests(
    tokens: TokenFile, damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the reason once, the response does not; a repaired file is accepted."""
    _, text = tokens.create("ci", Role.ADMIN)
    content = tokens.path.read_bytes()
    principal = tokens.authenticate(bearer(text))
    damage(tokens.path)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            with pytest.raises(NotReady) as refused:
                tokens.authenticate(bearer(text))
            assert not tokens.is_open
            assert not tokens.is_valid(principal)
    assert str(tokens.path) not in str(refused.value)
    assert str(tokens.path) in tokens.fault
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    with pytest.raises(InvalidSettings):
        tokens.records()

    if tokens.path.is_dir():
        tokens.path.rmdir()
    tokens.path.unlink(missing_ok=True)
    tokens.path.write_bytes(content)
    assert tokens.authenticate(bearer(text)) == principal
    assert tokens.fault == ""


def test_a_damaged_file_is_not_overwritten(tokens: TokenFile) -> None:
    """Creating a token must not drop the existing ones."""
    tokens.create("ci", Role.ADMIN)
    tokens.path.write_text("{")
    with pytest.raises(InvalidSettings, match="damaged"):
        tokens.create("more", Role.ADMIN)
    assert tokens.path.read_text() == "{"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_token_file_of_another_user_refuses_all_requests(tokens: TokenFile) -> None:
    """Also a symbolic link of another user to a trusted file."""
    _, text = tokens.create("ci", Role.ADMIN)
    os.chown(tokens.path, 12_345, -1)
    with pytest.raises(NotReady):
        tokens.authenticate(bearer(text))
    assert "12345" in tokens.fault
    os.chown(tokens.path, 0, -1)
    assert tokens.authenticate(bearer(text)).name == "ci"
    tokens.path.rename(tokens.path.with_name("kept.json"))
    tokens.path.symlink_to("kept.json")
    assert tokens.authenticate(bearer(text)).name == "ci"  # ours, as container platforms mount secrets
    link = tokens.path.with_name("link")
    link.symlink_to(shutil.copy(tokens.path, tokens.path.with_name("backup.json")))
    os.chown(link, 12_345, -1, follow_symlinks=False)
    link.rename(tokens.path)
    with pytest.raises(NotReady):
        tokens.authenticate(bearer(text))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_file_changed_by_root_stays_readable_for_the_service(tokens: TokenFile) -> None:
    """It keeps its owner; a new file gets the owner of its directory."""
    tokens.path.parent.mkdir()
    os.chown(tokens.path.parent, 12_345, 12_345)
    tokens.create("ci", Role.ADMIN)
    assert tokens.path.stat().st_uid == 12_345
    tokens.create("more", Role.ADMIN)
    assert tokens.path.stat().st_uid == 12_345


def test_a_symbolic_link_is_not_replaced(tokens: TokenFile, tmp_path: Path) -> None:
    """The link would be replaced, and its target would not change."""
    elsewhere = TokenFile(tmp_path / "elsewhere.json")
    elsewhere.create("ci", Role.ADMIN)
    tokens.path.parent.mkdir()
    tokens.path.symlink_to(elsewhere.path)
    with pytest.raises(InvalidSettings, match="symbolic link"):
        tokens.create("more", Role.ADMIN)
    assert len(elsewhere.records()) == 1


def test_concurrent_changes_are_not_lost(tokens: TokenFile) -> None:
    """Each locks, reads and replaces the file."""
    threads = [
        threading.Thread(target=lambda n=n: TokenFile(tokens.path).create(f"t{n}", Role.READER))
        for n in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.name for record in tokens.records()} == {f"t{n}" for n in range(16)}
    assert sorted(each.name for each in tokens.path.parent.iterdir()) == [".tokens.json.lock", "tokens.json"]


def test_a_process_that_starts_while_the_file_is_missing_refuses_if_there_were_tokens(tmp_path: Path) -> None:
    """Such as a worker that replaces another: the owner says that there were."""
    path = tmp_path / "tokens.json"
    assert TokenFile(path, clock=late).is_open
    replaced = TokenFile(path, clock=late, requires_tokens=True)
    assert not replaced.is_open
    assert "was removed" in replaced.fault


def test_a_file_that_another_thread_closes_meanwhile_revokes_no_token(tmp_path: Path) -> None:
    """The request is refused because of the file, so its client keeps the token."""
    tokens = TokenFile(tmp_path / "tokens.json", clock=late, poll_seconds=3_600)
    token, text = tokens.create("ci", Role.ADMIN)
    tokens.refresh()

    class Closing(dict[bytes, Any]):
        def get(self, *_: object) -> None:
            tokens._close("it cannot be read")

    questions: tuple[tuple[Callable[[Any], object], object], ...] = (
        (tokens.lookup, bearer(text)),
        (tokens.principal_of, token.id),
    )
    for ask, told in questions:
        tokens._fault, tokens._live = "", Closing()
        with pytest.raises(NotReady):
            ask(told)
