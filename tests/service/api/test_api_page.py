"""docs/API.md has every route, and each of its `curl` lines is run."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from docs.api import BEGIN
from jobledger.service.api.app import OPERATIONS
from jobledger.service.api.problems import KINDS
from tests.support.service_process import RunningService, running_service

ROOT = Path(__file__).parents[3]
PAGE = "docs/API.md"
ADDRESS = "http://127.0.0.1:1234"
ANYTHING = "…"
TIMED_OUT = 28  # curl's exit code after `--max-time`, which ends a feed


class Example(NamedTuple):
    """A command of a page, and the JSON that the page shows below it, if any."""

    command: str
    shown: str


def examples(page: str) -> Iterator[Example]:
    """Every `curl` command of a page, in order."""
    text = (ROOT / page).read_text()
    for block, shown in re.findall(r"```sh\n(.*?)```(?:\n\n```json\n(.*?)```)?", text, re.DOTALL):
        commands = [line for line in block.replace("\\\n", " ").splitlines() if line.startswith("curl ")]
        for command in commands:
            yield Example(command, shown if command is commands[-1] else "")


def differences(answer: Any, shown: Any, where: str = "$") -> list[str]:
    """What is shown but not in the response; `…` matches anything."""
    if shown == ANYTHING:
        return []
    if isinstance(shown, dict) and isinstance(answer, dict):
        missing = [f"{where}.{name} is missing" for name in shown.keys() - answer.keys()]
        both = shown.keys() & answer.keys()
        return missing + [
            each for name in both for each in differences(answer[name], shown[name], f"{where}.{name}")
        ]
    if isinstance(shown, list) and isinstance(answer, list) and len(shown) == len(answer):
        pairs = zip(answer, shown, strict=True)
        return [each for pair in pairs for each in differences(*pair, where=f"{where}[]")]
    return [] if answer == shown else [f"{where} is {answer!r}, not {shown!r}"]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RunningService]:
    with running_service(tmp_path) as running:
        yield running


@pytest.mark.slow
def test_the_curl_lines_of_the_page_work(service: RunningService) -> None:
    """Run in order on a new service, each answers what the page shows; without that, with success."""
    found = list(examples(PAGE))
    assert len(found) > 3
    for command, shown in found:
        words = command.replace(ADDRESS, service.url) + " -w '\\n%{http_code}'"
        done = subprocess.run(
            ["/bin/sh", "-c", words], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode in {0, TIMED_OUT}, f"{command}\n{done.stderr}"
        body, _, status = done.stdout.rpartition("\n")
        if shown:
            assert differences(json.loads(body), json.loads(shown)) == [], f"{command}\n{body}"
        else:
            assert status in {"200", "304"}, f"{command}\n{done.stdout}"


def test_what_a_page_shows_is_compared_key_by_key() -> None:
    """The comparison finds a wrong value, a missing key and a list of another length."""
    answer = {"a": 1, "b": [{"c": "x"}]}
    assert differences(answer, {"a": 1, "b": [{"c": ANYTHING}]}) == []
    assert differences(answer, {"a": 2}) == ["$.a is 1, not 2"]
    assert differences(answer, {"z": 1}) == ["$.z is missing"]
    assert len(differences(answer, {"b": []})) == 1


def test_every_route_has_a_section() -> None:
    """The headings below "Routes" are the operations."""
    _, _, reference = (ROOT / "docs" / "API.md").read_text().partition(BEGIN)
    documented = re.findall(r"^#### `([A-Z]+) ([^`]+)`$", reference, re.MULTILINE)
    assert documented == [(operation.method, operation.path) for operation in OPERATIONS]


def test_every_parameter_status_and_code_is_documented() -> None:
    """Each is in the section of its route, or in the table of codes."""
    page = (ROOT / "docs" / "API.md").read_text()
    for operation in OPERATIONS:
        section = page.partition(f"#### `{operation.method} {operation.path}`")[2].partition("\n####")[0]
        for parameter in operation.parameters:
            assert f"| `{parameter.name}`" in section, f"{operation.id}: {parameter.name}"
        for status in operation.errors:
            assert f" {status}" in section, f"{operation.id}: {status}"
    for kind in KINDS:
        assert f"| {kind.status} | `{kind.code}` |" in page
