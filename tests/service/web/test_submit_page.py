"""Submitting a spec: all problems at their lines, a diff before an update, and nothing written unseen."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given, strategies as st

from jobledger.service.web import spec_lines
from jobledger.service.web.submit import read_draft
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import ok
from tests.support.web_pages import Page, checked_page, parse_page, running_ui

SPEC = """\
Name: etl
Type: batch
Count: 1
Tasks:
  - Name: main
    Engine: {Type: docker, Params: {Image: "busybox:1.37.0"}}
"""
TOML = """\
Name = "etl"
Type = "batch"
[[Tasks]]
Name = "main"
Engine = {Type = "docker", Params = {Image = "busybox:1.37.0"}}
"""


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


def fields(page: Page) -> dict[str, str]:
    found = {each["name"]: each["value"] for each in page.all("input")}
    return {**found, "spec": page.all("textarea")[0].text.removeprefix("\n")}


async def count(client: httpx.AsyncClient) -> int:
    return len(ok(await client.get(paths.JOBS))["Items"])


@pytest.mark.parametrize(
    ("text", "name", "lines"),
    [
        (SPEC.replace("batch", "batchh").replace("Count: 1", "Count: -1"), "", [2, 3]),
        (SPEC.replace("Engine: {", "Engine: {Foo: 1, "), "", [6]),
        (SPEC.replace("  - Name: main\n    E", "  - E"), "", [5]),
        ("Name: [", "", [1]),
        ('{\n  "Name": "etl",\n  "Type": "x",\n  "Tasks": []\n}', "", [3, 4]),
        (TOML.replace('"batch"', '"x"').replace('"docker"', '""'), "toml", [2, 5]),
        ("Name = ", "toml", [1]),
    ],
)
def test_problems_are_at_their_lines(text: str, name: str, lines: list[int]) -> None:
    """In YAML, JSON and TOML, for the parser's problems and for those of the spec."""
    checked = read_draft(text, name)
    assert checked.values is None
    assert [each.line for each in checked.problems] == lines, checked.problems


async def test_a_new_job_is_created_after_a_look(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The form first shows what will happen; sent again unchanged, it creates the job."""
    _, client = ui
    checked_page(await client.get(paths.UI_SUBMIT))
    page = checked_page(await client.post(paths.UI_SUBMIT, data={"spec": SPEC, "reason": "new"}))
    assert "A new job" in " ".join(page.texts("h2"))
    assert await count(client) == 0
    answer = await client.post(paths.UI_SUBMIT, data=fields(page))
    assert answer.status_code == 303
    assert answer.headers["location"].endswith("?note=submit")
    assert await count(client) == 1


async def test_an_update_is_written_only_as_it_was_shown(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Another text is shown first; a job that changed since then is not overwritten."""
    _, client = ui
    shown = fields(checked_page(await client.post(paths.UI_SUBMIT, data={"spec": SPEC})))
    job = (await client.post(paths.UI_SUBMIT, data=shown)).headers["location"].partition("?")[0]
    job_id = job.rpartition("/")[2]
    page = checked_page(await client.get(paths.UI_SUBMIT, params={"job": job_id}))
    edited = {**fields(page), "spec": fields(page)["spec"].replace("Count: 1", "Count: 5")}
    answer = await client.post(paths.UI_SUBMIT, data=edited)
    page = checked_page(answer)  # it was not written: the text is not the one that was checked
    assert "Changes to version 1" in answer.text
    shown = fields(page)
    state = {"StateType": "Running"}
    ok(await client.put(paths.expand(paths.JOB_STATE, id=job_id), json=state))
    checked_page(await client.post(paths.UI_SUBMIT, data=shown), 412)
    shown = fields(checked_page(await client.post(paths.UI_SUBMIT_CHECK, data=shown)))
    assert (await client.post(paths.UI_SUBMIT, data=shown)).status_code == 303
    found = ok(await client.get(paths.expand(paths.JOB, id=job_id)))["Job"]
    assert (found["Version"], found["Count"]) == (2, 5)


async def test_typing_gets_the_check_alone(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Htmx replaces the part below the text."""
    _, client = ui
    data = {"spec": SPEC.replace("batch", "batchh")}
    answer = await client.post(paths.UI_SUBMIT_CHECK, data=data, headers={"HX-Request": "true"})
    assert answer.status_code == 200
    assert "<textarea" not in answer.text
    assert "line 2" in answer.text
    assert parse_page(answer.text).problems == []


_texts = st.text(max_size=12) | st.sampled_from(
    ["yes", "null", "1e3", "0x1", "2024-01-01", "- a", "a: b", "~"]
)
_scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _texts
_documents = st.dictionaries(
    _texts,
    st.recursive(
        _scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@given(_documents)
def test_both_formats_read_back_as_the_same_document(document: dict[str, Any]) -> None:
    """Whatever the texts are: none becomes a number, a date or a comment."""
    as_yaml = yaml.safe_load(spec_lines.text_of(spec_lines.yaml_lines(document)))
    assert (as_yaml or {}) == document
    assert json.loads(spec_lines.text_of(spec_lines.json_lines(document))) == document
