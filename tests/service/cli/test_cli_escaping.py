"""What others wrote reaches no terminal raw: file names, a URL's password, events, ids."""

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
    """All that a command writes, to a pipe."""
    done = subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", *args],
        env=clean_env(home, env),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return (done.stdout + done.stderr).decode()


def is_plain(text: str) -> bool:
    """Whether it speaks to no terminal."""
    return text.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", [("job", "validate"), ("job", "run"), ("audit", "check")])
@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_name_is_shown_escaped(tmp_path: Path, command: tuple[str, ...], is_there: bool) -> None:
    """In errors and in results, of files that are there and of others."""
    name = tmp_path / f"{EVIL}.yaml"
    if is_there:
        name.write_text("a: [")
    told = run(tmp_path, *command, os.fspath(name), JOBLEDGER_URL="http://127.0.0.1:1")
    assert told
    assert is_plain(told), ascii(told)


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", [("job", "list"), ("version",), ("config", "show"), ("events", "tail")])
def test_a_password_in_the_url_is_never_shown(tmp_path: Path, url: str, command: tuple[str, ...]) -> None:
    """By no command and no error."""
    told = run(tmp_path, *command, JOBLEDGER_URL=url)
    assert told
    assert SECRET not in told


@pytest.mark.parametrize("url", URLS[:5])
def test_a_transport_shows_no_password(url: str) -> None:
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
    """Of a list of servers neither."""
    url = f"nats://a:{SECRET}@h1:4222,nats://b:x/{SECRET}@h2:4222"
    assert SECRET not in repr(load_settings({"nats_url": url}, {}).settings)


def test_replayed_events_are_json_without_characters_that_speak_to_a_terminal() -> None:
    """In a pipe as well; the values are the same, and printable text stays as it is."""

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
def test_what_is_forgotten_is_escaped_at_the_end(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    """Colors pass to a terminal; everything else that speaks to it never does."""
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    written = io.StringIO()
    monkeypatch.setattr(written, "isatty", lambda: is_terminal)
    _SafeStream(written).write(f"\x1b[31mZoë\x1b[0m\t{EVIL}\n")
    told = written.getvalue().replace("\t", "").replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert is_plain(told), ascii(told)
    assert ("\x1b[31m" in written.getvalue()) is is_terminal
    assert "Zoë" in told
