"""One job: its timeline, its spec with blame, its versions, its past, and every change of it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger.service.web.diff_rows import hunks_of
from jobledger.service.web.timeline import Item, entries_of, spans_of
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from jobledger.store.model.job import State, StateType
from jobledger.store.timestamps import format_rfc3339
from tests.support.api import job_body, ok
from tests.support.web_pages import checked_page, parse_page, running_ui

BOB = {"Jobledger-Actor": "bob"}


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


@pytest.fixture
async def job(ui: tuple[Service, httpx.AsyncClient]) -> str:
    """A job with two versions and three revisions; its id."""
    _, client = ui
    body = {**job_body("etl", Priority=1), "Reason": "first try"}
    job_id = str(ok(await client.put(paths.JOBS, json=body, headers={"Jobledger-Actor": "alice"}))["JobID"])
    await client.put(paths.expand(paths.JOB_STATE, id=job_id), json={"StateType": "Failed", "Message": "oom"})
    body = {**job_body("etl", Priority=7), "Reason": "more memory"}
    ok(await client.put(paths.JOBS, json=body, headers=BOB))
    return job_id


def url(job_id: str, **query: str) -> httpx.URL:
    return httpx.URL(paths.expand(paths.UI_JOB, id=job_id), params=query)


def change(job_id: str) -> str:
    return paths.expand(paths.UI_JOB_CHANGE, id=job_id)


async def state_of(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ok(await client.get(paths.expand(paths.JOB, id=job_id)))["Job"]
    return found


async def test_the_timeline_has_every_event_with_who_and_why(
    ui: tuple[Service, httpx.AsyncClient], job: str
) -> None:
    """Newest first, in three levels of detail."""
    _, client = ui
    for detail in ("compact", "full", "json"):
        answer = await client.get(url(job, timeline=detail))
        checked_page(answer)
        places = [answer.text.index(each) for each in ("more memory", "oom", "first try")]
        assert places == sorted(places), detail
        assert "bob" in answer.text


async def test_the_timeline_is_filtered_by_type_and_actor(
    ui: tuple[Service, httpx.AsyncClient], job: str
) -> None:
    """The filter is in the URL, and in the form; no time in a state is given, since events are left out."""
    _, client = ui
    for query, shown in (
        ({"type": "created"}, ["first try"]),
        ({"type": "created,updated"}, ["first try", "more memory"]),
        ({"type": "state", "timeline": "full"}, ["oom"]),
        ({"actor": "bob"}, ["more memory"]),
        ({"actor": "al*", "timeline": "json"}, ["first try"]),
        ({"actor": "al"}, []),
        ({"actor": "bob", "type": "created"}, []),
    ):
        answer = await client.get(url(job, **query))
        page = checked_page(answer)
        found = [each for each in ("first try", "oom", "more memory") if each in answer.text]
        assert found == shown, query
        boxes = page.all("input", lambda each: each["name"] == "type" and "checked" in each.attributes)
        assert ",".join(each["value"] for each in boxes) == query.get("type", "")
        assert not page.all("figure")
        assert ("No event of this job matches" in answer.text) is (not shown)
        full = next(each["href"] for each in page.all("a") if each.text == "Full")
        assert httpx.URL(full).params == httpx.QueryParams({**query, "timeline": "full"})
    assert checked_page(await client.get(url(job))).all("figure")


async def test_revisions_are_neighbors_of_each_other(ui: tuple[Service, httpx.AsyncClient], job: str) -> None:
    """From the first to the last one; the last one has none after it."""
    _, client = ui
    for revision, neighbors in ((1, ["r2"]), (2, ["r1", "r3"]), (3, ["r2"])):
        page = checked_page(await client.get(url(job, at=f"r{revision}", tab="spec")))
        found = [each for each in page.all("a") if "Revision " in each.text]
        assert [each["href"] for each in found] == [str(url(job, tab="spec", at=each)) for each in neighbors]


async def test_each_line_of_the_spec_has_who_set_it(ui: tuple[Service, httpx.AsyncClient], job: str) -> None:
    """A changed field has the event that changed it, with the way to the state before."""
    _, client = ui
    page = checked_page(await client.get(url(job, tab="spec")))
    lines = {}
    set_by = ""
    for row in page.all("tr"):
        words = row.text.split()
        set_by = next((who for who in ("alice", "bob") if who in words), set_by)
        lines[" ".join(words[words.index(":") if ":" in words else -2 :])] = set_by
    assert lines["Priority: 7"] == "bob"
    assert lines["Name: etl"] == "alice"
    assert [each["href"] for each in page.all("a", lambda each: each["class"] == "before")] == [
        f"/ui/jobs/{job}?tab=spec&at=2"
    ]


async def test_versions_are_compared_side_by_side_and_unified(
    ui: tuple[Service, httpx.AsyncClient], job: str
) -> None:
    """Both layouts show the lines that differ; what cannot be compared is never shown as equal."""
    _, client = ui
    for layout, rows in (("split", 1), ("unified", 2)):
        page = checked_page(await client.get(url(job, tab="versions", layout=layout)))
        changed = page.all("td", lambda each: each["class"] in {"code-line del", "code-line ins"})
        assert [" ".join(each.text.split()) for each in changed] in (
            ['"Priority": 1,', '"Priority": 7,'],
            ['- "Priority": 1,', '+ "Priority": 7,'],
        )
        assert rows
    answer = await client.get(url(job, tab="versions", **{"from": "9", "to": "1"}))
    assert "has no version 9" in answer.text
    assert "Both specs are equal" not in answer.text


async def test_a_job_is_shown_as_of_each_revision(ui: tuple[Service, httpx.AsyncClient], job: str) -> None:
    """With its state and spec then; nothing can be changed there, and nothing is live."""
    _, client = ui
    answer = await client.get(url(job, at="r2", tab="spec"))
    page = checked_page(answer)
    assert "Priority: 1" in answer.text
    assert "Failed" in answer.text
    assert "As of sequence 2, 1 event behind the log" in answer.text
    assert not page.all("a", lambda each: "/change?" in each["href"])
    assert not page.all("div", lambda each: each["id"] == "live")
    checked_page(await client.get(url(job, at="r9")), 404)


async def test_every_change_is_made_with_its_reason(ui: tuple[Service, httpx.AsyncClient], job: str) -> None:
    """Each form leads back to the job, and its event has the reason."""
    _, client = ui
    changes = [
        ({"do": "state", "state": "Running", "message": "on node-1"}, "Running", 2),
        ({"do": "tag", "tag": "golden", "version": "1"}, "Running", 2),
        ({"do": "rerun", "version": "2"}, "Pending", 3),
        ({"do": "revert", "version": "golden"}, "Pending", 4),
        ({"do": "stop"}, "Stopped", 4),
        ({"do": "untag", "tag": "golden"}, "Stopped", 4),
    ]
    for form, state, version in changes:
        query = {name: value for name, value in form.items() if name in {"do", "version", "tag"}}
        page = checked_page(await client.get(change(job), params=query))
        revision = next(each["value"] for each in page.all("input") if each["name"] == "revision")
        sent = {**form, "revision": revision, "reason": f"why {form['do']}"}
        answer = await client.post(change(job), data=sent)
        assert answer.status_code == 303, answer.text
        assert answer.headers["location"] == f"/ui/jobs/{job}?note={form['do']}"
        checked_page(await client.get(answer.headers["location"]))
        now = await state_of(client, job)
        assert (now["State"]["StateType"], now["Version"]) == (state, version), form
    history = ok(await client.get(paths.expand(paths.JOB_HISTORY, id=job), params={"all_job_versions": "1"}))
    assert [each["Reason"] for each in history["Items"][3:]] == [f"why {form['do']}" for form, *_ in changes]


async def test_a_lost_race_shows_what_was_missed(ui: tuple[Service, httpx.AsyncClient], job: str) -> None:
    """The job is unchanged, and the page has the events since the form was opened."""
    _, client = ui
    body = {"StateType": "Running", "Reason": "capacity is free"}
    ok(await client.put(paths.expand(paths.JOB_STATE, id=job), json=body, headers=BOB))
    sent = {"do": "stop", "revision": "3", "reason": "too late"}
    answer = await client.post(change(job), data=sent)
    checked_page(answer, 412)
    assert "capacity is free" in answer.text
    assert "bob" in answer.text
    assert (await state_of(client, job))["State"]["StateType"] == "Running"


async def test_a_mistake_in_a_form_keeps_what_was_typed(
    ui: tuple[Service, httpx.AsyncClient], job: str
) -> None:
    """The page has the message and the values."""
    _, client = ui
    sent = {"do": "tag", "revision": "3", "tag": "9 lives", "version": "1", "reason": "my reason"}
    page = checked_page(await client.post(change(job), data=sent), 400)
    values = {each["name"]: each["value"] for each in page.all("input")}
    assert (values["tag"], values["reason"]) == ("9 lives", "my reason")
    checked_page(await client.post(change(job), data={"do": "stop", "revision": "3"}), 400)
    checked_page(await client.get(change(job), params={"do": "explode"}), 404)


async def test_a_part_of_the_page_is_what_changes(ui: tuple[Service, httpx.AsyncClient], job: str) -> None:
    """It has no frame."""
    _, client = ui
    answer = await client.get(url(job), headers={"HX-Request": "true"})
    assert "<html" not in answer.text
    assert parse_page(answer.text).problems == []


def item(second: int, kind: str, state: StateType | None) -> Item:
    return Item(
        sequence=second,
        time=format_rfc3339(second * 10**9),
        event_id="",
        event_type=f"jobledger.job.{kind}.v1",
        job_version=1,
        revision=1,
        event={},
        state=State(state) if state is not None else None,
    )


def test_the_time_in_a_state_ends_with_the_next_state() -> None:
    """Tags end no state; on an older page the last state's end is not known."""
    pending, running, failed = StateType.PENDING, StateType.RUNNING, StateType.FAILED
    items = [
        item(9, "tagged", failed),
        item(8, "state", failed),
        item(5, "state", running),
        item(1, "created", pending),
    ]
    entries = entries_of(items, 10 * 10**9, is_newest=True)
    assert [each.spent for each in entries] == [None, 2 * 10**9, 3 * 10**9, 4 * 10**9]
    assert [each.before for each in entries[1:]] == ["Running", "Pending", ""]
    assert [each.is_current for each in entries] == [False, True, False, False]
    assert [(each.state, each.width) for each in spans_of(entries)] == [
        ("Pending", 444.44),
        ("Running", 333.33),
        ("Failed", 222.22),
    ]
    assert [each.spent for each in entries_of(items[1:], 0, is_newest=False)] == [None, 3 * 10**9, 4 * 10**9]


async def test_a_job_with_the_id_of_another_as_its_name_is_not_taken_for_it(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """Anyone who may write in `default` chooses names there; links and forms of the UI have ids."""
    _, client = ui
    body = job_body("victim", Namespace="prod")
    victim = str(ok(await client.put(paths.JOBS, json=body))["JobID"])
    impostor = str(ok(await client.put(paths.JOBS, json=job_body(victim)))["JobID"])
    assert impostor != victim
    assert (await state_of(client, victim))["ID"] == impostor  # as in Bacalhau, names come first in the API

    for path in (url(victim), url(victim, tab="spec"), url(victim, tab="versions"), url(victim, at="r1")):
        answer = await client.get(path)
        checked_page(answer)
        assert "victim" in answer.text
        assert impostor not in answer.text
    for each in (
        change(victim) + "?do=stop",
        f"{paths.UI_SUBMIT}?job={victim}",
        f"{paths.UI_STOP}?jobs={victim}",
        paths.expand(paths.UI_JOB_PROOF, id=victim),
    ):
        answer = await client.get(each)
        assert answer.status_code == 200, answer.text
        assert impostor not in answer.text, each
    bundle = await client.get(paths.expand(paths.UI_JOB_BUNDLE, id=victim))
    assert impostor not in bundle.text

    form = {"do": "state", "state": "Running", "message": "", "reason": "", "revision": "1"}
    assert (await client.post(change(victim), data=form)).status_code == 303
    stop = {"job": f"{victim}@2", "reason": "test"}
    assert (await client.post(paths.UI_STOP, data=stop)).status_code == 303
    states = {
        job["ID"]: job["State"]["StateType"]
        for job in ok(await client.get(paths.JOBS, params={"namespace": "*"}))["Items"]
    }
    assert states == {victim: "Stopped", impostor: "Pending"}


async def test_a_long_spec_is_shown_in_part_and_downloaded_whole(
    ui: tuple[Service, httpx.AsyncClient], job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is built in one piece, so the number of its lines has a limit."""
    _, client = ui
    page = checked_page(await client.get(url(job, tab="spec")))
    lines = len(page.all("tr")) - 1
    assert page.all("textarea")
    for most, shown in ((lines, lines), (lines - 1, lines - 1), (3, 3)):
        monkeypatch.setattr("jobledger.service.web.job.UI_SHOWN_LINES", most)
        answer = await client.get(url(job, tab="spec"))
        page = checked_page(answer)
        assert len(page.all("tr")) - 1 == shown
        assert (f"Only the first {shown} lines" in answer.text) is (shown < lines)
        assert bool(page.all("textarea")) is (shown == lines)
    [link] = [each["href"] for each in page.all("a") if "/spec?" in each["href"]]
    answer = await client.get(link)
    assert answer.headers["content-disposition"] == f'attachment; filename="{job}-v2.yaml"'
    assert len(answer.text.splitlines()) == lines
    assert "Priority: 7" in answer.text
    first = await client.get(link, params={"format": "json", "at": "r1"})
    assert first.json()["Priority"] == 1


@pytest.mark.parametrize("most", [1, 3, 5, 6, 7])
def test_a_long_diff_is_cut_and_says_so(most: int) -> None:
    """At the limit it is whole."""
    diff = "--- a\n+++ b\n@@ -1,3 +1,3 @@\n a\n-b\n+c\n d\n"
    whole = hunks_of(diff)
    cut = hunks_of(diff, most)
    assert not whole[-1].is_cut
    assert cut[-1].is_cut is (most < 5)
    assert len(cut[0].rows) == {1: 0, 3: 2}.get(most, 3)


async def test_a_number_with_thousands_of_digits_is_no_failure(
    ui: tuple[Service, httpx.AsyncClient], job: str
) -> None:
    """`int` refuses them."""
    _, client = ui
    digits = "9" * 5_000
    for path in (
        url(job, tab="versions", to=digits),
        url(job, tab="versions", **{"from": digits}),
        httpx.URL(paths.UI_EVENTS, params={"after": digits}),
        httpx.URL(change(job), params={"do": "revert", "version": digits}),
        httpx.URL(paths.UI_CHANGES, params={"from": "1", "next_token": f"1.2.{digits}"}),
    ):
        assert (await client.get(path)).status_code < 500, path
    form = {"do": "rerun", "version": digits, "revision": "3"}
    assert (await client.post(change(job), data=form)).status_code in {400, 404}


async def test_a_job_is_offered_what_its_state_allows(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """A rerun once it has started, a stop until it has ended."""
    _, client = ui
    job_id = str(ok(await client.put(paths.JOBS, json=job_body("states")))["JobID"])
    for state, is_rerun, is_stopped in (
        ("Pending", False, True),
        ("Queued", False, True),
        ("Running", True, True),
        ("Completed", True, False),
    ):
        if state != "Pending":
            ok(await client.put(paths.expand(paths.JOB_STATE, id=job_id), json={"StateType": state}))
        page = checked_page(await client.get(url(job_id)))
        offered = [each for each in page.texts("a") if each in {"Rerun", "Stop…"}]
        assert offered == ["Rerun"] * is_rerun + ["Stop…"] * is_stopped, state


async def test_the_document_of_a_past_revision_is_that_revision(
    ui: tuple[Service, httpx.AsyncClient], job: str
) -> None:
    """The link to JSON shows what the page shows."""
    _, client = ui
    page = checked_page(await client.get(url(job, at="r1")))
    (link,) = [each for each in page.links() if each.startswith(paths.expand(paths.JOB, id=job) + "?")]
    assert ok(await client.get(link))["Job"]["Revision"] == 1
