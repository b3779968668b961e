"""The examples in docs/CLI.md that need a service are what a service answers."""

import re
import shlex
from pathlib import Path

from tests.service_process import jobledger, running_service

PAGE = Path(__file__).parent.parent / "docs" / "CLI.md"
# Ages depend on the clock; so does the space before them.
_AGE = re.compile(r"(?:^| +)\d+[smh]\b", re.MULTILINE)


def examples() -> list[list[tuple[str, str]]]:
    """Blocks of commands and what each prints."""
    blocks = re.findall(r"```console service\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [re.findall(r"\$ jobledger (.*)\n((?:(?!\$ ).*\n)*)", block) for block in blocks]


def test_what_the_page_shows_of_a_service_is_what_it_answers(tmp_path: Path) -> None:
    """Each block runs in order against one fresh service; only ages may differ."""
    assert examples()
    for block in examples():
        with running_service(tmp_path) as service:
            for words, shown in block:
                done = jobledger(tmp_path, *shlex.split(words), url=service.url, env={"LOGNAME": "alice"})
                assert done.returncode == 0, done.stderr
                assert _AGE.sub(" AGE", done.stdout) == _AGE.sub(" AGE", shown), done.stdout
