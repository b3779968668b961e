"""Text of others never controls the terminal: file names, passwords in URLs, events, IDs."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobledger.service.cli.main import _SafeStream
from jobledger.service.client.transport import Target, Transport
from jobledger.service.export.text_format import JSONLines
from jobledger.service.settings import load_settings
from jobledger.store.model.errors import InvalidInput
from tests.support.service_process import clean_env

EVIL = "a\x1b]0;x\x07\x9b2J\u202eb\u2066"
SECRET = "hunter2"
URLS = (
    f"http://u:{SECRET}@127.0.0.1:1",
    f"http://u:p/{SECRET}@127.0.0.1:1",
    f"http://u:p@{SECRET}@127.0.0.1:1",
    f"http://u:{SECRET}@",
    f"http://u:p,{SECRET}@127.0.0.1:1",
    f"ftp://u:{SECRET}@127.0.0.1:1",
)


def run(home: Path, *args: str, **env: str) -> str:
    """The whole output of a command, written to a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", *args],
        env=clean_env(home, env),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return (done.stdout + done.stderr).decode()


def is_plain(text: str) -> bool:
    """Whether it contains no control characters."""
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", [("job", "validate"), ("job", "run"), ("audit", "check")])
@pytest.mark.parametrize("is_there", [True, False])
def test_file_name_is_escaped(tmp_path: Path, command: tuple[str, ...], is_there: bool) -> None:
    """In errors and results, for existing and missing files."""
    name = tmp_path / f"{EVIL}.yaml"
    if is_there:
        name.write_text("a: [")
    output = run(tmp_path, *command, os.fspath(name), JOBLEDGER_URL="http://127.0.0.1:1")
    assert output
    assert is_plain(output), ascii(output)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", [("job", "list"), ("version",), ("config", "show"), ("events", "tail")])
def test_password_in_the_url_is_never_shown(tmp_path: Path, url: str, command: tuple[str, ...]) -> None:
    """By any command or error."""
    output = run(tmp_path, *command, JOBLEDGER_URL=url)
    assert output
    assert SECRET not in output


@pytest.mark.parametrize("url", URLS[:5])
def test_transport_shows_no_password(url: str) -> None:
    """Nor does its target."""
    assert SECRET not in repr(Target(url))
    shown = ""
    try:
        transport = Transport(Target(url))
    except InvalidInput as error:
        shown = str(error)
    else:
        shown = transport.url
        transport.close()
    assert SECRET not in shown


def test_settings_show_no_password_of_any_url() -> None:
    """Also in a list of servers."""
    url = f"nats://a:{SECRET}@h1:4222,nats://b:x/{SECRET}@h2:4222"
    assert SECRET not in repr(load_settings({"nats_url": url}, {}).settings)


def test_exported_events_are_json_without_control_characters() -> None:
    """Also in a pipe; values are unchanged, and printable text is not escaped."""

    class Kept:
        def __init__(self) -> None:
            self.written = b""

        def write(self, content: bytes) -> None:
            self.written += content

    target = Kept()
    texts = [EVIL, "Zoë 😀", "\x7f", "plain"]
    documents = [json.dumps({"reason": text}, ensure_ascii=False).encode() for text in texts]
    JSONLines(target).write(documents)  # type: ignore[arg-type]
    lines = target.written.decode()
    assert is_plain(lines), ascii(lines)
    assert [json.loads(line)["reason"] for line in lines.splitlines()] == texts
    assert "Zoë 😀" in lines


@pytest.mark.parametrize("is_terminal", [True, False])
def test_output_streams_escape_what_commands_did_not(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    """Colors are passed on to a terminal; other control characters never are."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: is_terminal)
    _SafeStream(written).write(f"\x1b[31mZoë\x1b[0m\t{EVIL}\n")
    output = written.getvalue().replace("\t", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert is_plain(output), ascii(output)
    assert ("\x1b[31m" in written.getvalue()) is is_terminal
    assert "Zoë" in output
