"""The list of jobs: its filters, counts, pages and columns are in its URL; the past is read only."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.api.capacity import queued
from jobledger.service.api.query import Query
from jobledger.service.web import stop
from jobledger.service.web.list_state import ListState, read_state
from jobledger.service.web.zones import read_local
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from jobledger.store.model.errors import LogUnavailable
from tests.support.api import job_body, ok
from tests.support.web_pages import Page, checked_page, parse_page, running_ui, sign_in

EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def put(client: httpx.AsyncClient, name: str, **fields: Any) -> str:
    answer = await client.put(paths.JOBS, json=job_body(name, **fields))
    answer.raise_for_status()
    return str(answer.json()["JobID"])


async def set_state(client: httpx.AsyncClient, job_id: str, state: str) -> int:
    answer = await client.put(paths.expand(paths.JOB_STATE, id=job_id), json={"StateType": state})
    answer.raise_for_status()
    return int(answer.json()["Sequence"])


def names(page: Page) -> list[str]:
    return [each["title"] for each in page.all("a", lambda each: each["href"].startswith("/ui/jobs/"))]


def counts(page: Page) -> dict[str, str]:
    """The counts by state, of the links above the table."""
    text = " ".join(next(each.text for each in page.all("ul") if each["id"] == "counts").split())
    words = text.split(" ")
    return dict(zip(words[::2], words[1::2], strict=True))


async def test_filters_and_counts_agree_with_the_api(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Rows are those of the API with the same filters; counts are by state, whatever state is selected."""
    _, client = ui
    for number in range(4):
        job_id = await put(client, f"etl-{number}", Labels={"env": "prod" if number % 2 else "dev"})
        if number == 3:
            await set_state(client, job_id, "Running")
    await put(client, "other", Type="service")
    page = checked_page(await client.get("/ui/"))
    assert names(page) == ["other", "etl-3", "etl-2", "etl-1", "etl-0"]  # newest first
    assert counts(page) == {"All": "5", "Pending": "4", "Running": "1"} | dict.fromkeys(
        ("Queued", "Completed", "Failed", "Stopped"), "0"
    )
    page = checked_page(await client.get("/ui/", params={"labels": "env=prod", "state": "Running"}))
    assert names(page) == ["etl-3"]
    assert (counts(page)["All"], counts(page)["Pending"], counts(page)["Running"]) == ("2", "1", "1")
    page = checked_page(await client.get("/ui/", params={"name": "TL-0"}))
    assert names(page) == ["etl-0"]
    assert names(checked_page(await client.get("/ui/", params={"type": "service"}))) == ["other"]


async def test_pages_lead_to_older_jobs_and_back(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Every job is on one page; the way back leads over the same pages to the first."""
    _, client = ui
    for number in range(5):
        await put(client, f"job-{number}")
    url, seen, pages = "/ui/?limit=2", [], []
    while url:
        page = checked_page(await client.get(url))
        pages.append(names(page))
        seen += names(page)
        url = next((each["href"] for each in page.all("a", lambda each: each["rel"] == "next")), "")
    assert seen == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    back = [names(page)]
    while url := next((each["href"] for each in page.all("a", lambda each: each["rel"] == "prev")), ""):
        page = checked_page(await client.get(url))
        back.append(names(page))
    assert back == pages[::-1]


async def test_the_past_is_shown_and_cannot_be_changed(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """List and counts are those of the point, a time becomes a sequence, and there is no form that writes."""
    _, client = ui
    first = await put(client, "first")
    point = await set_state(client, first, "Running")
    await set_state(client, first, "Completed")
    await put(client, "second")
    answer = await client.get("/ui/", params={"at": str(point)})
    page = checked_page(answer)
    assert names(page) == ["first"]
    assert counts(page)["Running"] == "1"
    assert "As of sequence 2, 2 events behind the log" in answer.text
    assert not page.all(
        "form", lambda each: each["action"] != paths.UI_STOP_SELECTED and each["method"] == "post"
    )
    assert "Stop selected" not in answer.text
    assert not page.all("div", lambda each: each["id"] == "live")
    moved = await client.get("/ui/", params={"at": "0s", "state": "Completed"})
    assert (moved.status_code, moved.headers["location"]) == (303, "/ui/?state=Completed&at=4")
    assert (await client.get("/ui/", params={"at": "99"})).status_code == 400


async def test_everything_that_users_wrote_is_escaped(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Names, labels, messages, reasons and filters are text on every page."""
    _, client = ui
    job_id = await put(client, EVIL, Labels={"x": f'">{EVIL}'})
    body = {"StateType": "Running", "Message": EVIL, "Reason": EVIL, "Details": {EVIL[:9]: EVIL}}
    await client.put(paths.expand(paths.JOB_STATE, id=job_id), json=body)
    job = paths.expand(paths.UI_JOB, id=job_id)
    for url in (
        "/ui/", f"/ui/?name={EVIL}", f"/ui/?labels=%22%3E{EVIL}", f"/ui/stop?jobs={job_id}",
        f"{paths.UI_SUBMIT}?job={job_id}", job,
        f"{job}?timeline=full", f"{job}?timeline=json", f"{job}?tab=spec", f"{job}?tab=spec&format=json",
        f"{job}?tab=versions", f"{job}/change?do=stop", f"{paths.UI_CHANGES}?from=0",
    ):  # fmt: skip
        answer = await client.get(url)
        page = parse_page(answer.text)
        assert page.problems == [], url
        assert not page.all("img", lambda each: each["src"] == "x"), url
        assert "&lt;img" in answer.text, url


async def test_a_reader_is_offered_no_change(tmp_path: Path) -> None:
    """The forms are not shown, and are refused when they are sent."""
    async with running_ui(tmp_path) as (service, client):
        job_id = await put(client, "job")
        await sign_in(service, client, "alice", Role.READER)
        answer = await client.get("/ui/")
        assert "Stop selected" not in answer.text
        assert "Submit a job" not in answer.text
        page = checked_page(await client.get(paths.expand(paths.UI_JOB, id=job_id)))
        assert not page.all("a", lambda each: "/change?" in each["href"] or paths.UI_SUBMIT in each["href"])
        assert (
            await client.get(f"{paths.expand(paths.UI_JOB_CHANGE, id=job_id)}?do=stop")
        ).status_code == 403
        form = {"do": "stop", "revision": "1", "reason": "x"}
        assert (await client.post(paths.expand(paths.UI_JOB_CHANGE, id=job_id), data=form)).status_code == 403
        assert (await client.get(paths.UI_SUBMIT)).status_code == 403


async def test_selected_jobs_are_stopped_with_a_reason(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The reader sees them first; one that changed meanwhile is refused and named, the others are stopped."""
    _, client = ui
    ids = [await put(client, f"job-{number}") for number in range(3)]
    asked = await client.post(paths.UI_STOP_SELECTED, data={"job": ids})
    assert asked.status_code == 303
    page = checked_page(await client.get(asked.headers["location"]))
    shown = [each["value"] for each in page.all("input", lambda each: each["name"] == "job")]
    assert shown == [f"{each}@1" for each in ids]
    await set_state(client, ids[1], "Running")
    assert (await client.post(paths.UI_STOP, data={"job": shown, "reason": " "})).status_code == 400
    answer = await client.post(paths.UI_STOP, data={"job": shown, "reason": "obsolete"})
    page = checked_page(answer, 409)
    assert "2 jobs stopped, 1 refused" in answer.text
    assert [each.text for each in page.all("a", lambda each: each["href"].startswith("/ui/jobs/"))] == [
        ids[1]
    ]
    history = (await client.get(paths.expand(paths.JOB_HISTORY, id=ids[0]))).json()
    assert history["Items"][-1]["Reason"] == "obsolete"


async def test_all_that_match_are_stopped_in_portions(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count and the sequence come first; each job is stopped at the revision that it had then."""
    monkeypatch.setattr(stop, "UI_STOP_MAX_JOBS", 2)
    monkeypatch.setattr(stop, "UI_STOP_MATCHING_MAX_JOBS", 5)
    monkeypatch.setattr(stop, "LIST_MAX_LIMIT", 3)  # several pages
    _, client = ui
    ids = [await put(client, f"job-{number}", Labels={"set": "bulk"}) for number in range(8)]
    await put(client, "other")
    await set_state(client, ids[0], "Completed")
    url = httpx.URL(paths.UI_STOP, params={"labels": "set=bulk"})
    first = await client.get(url)
    page = checked_page(first)
    assert "7 active jobs" in first.text
    assert "1 finished match" in first.text
    assert "at sequence 10." in first.text
    assert "Stop 5 jobs" in page.texts("button")
    assert len([each for each in page.all("input") if each["name"] == "job"]) == 2
    done = await client.post(url, data={**sent_by(page), "reason": "obsolete"})
    assert done.status_code == 303
    second = await client.get(done.headers["location"])
    page = checked_page(second)
    assert "5 jobs stopped." in second.text
    assert "Stop 2 jobs" in page.texts("button")
    await set_state(client, ids[1], "Running")
    refused = await client.post(url, data={**sent_by(page), "reason": "obsolete"})
    page = checked_page(refused, 409)
    assert "1 job stopped, 1 refused" in refused.text
    assert ids[1] in refused.text
    states = [ok(await client.get(paths.expand(paths.JOB, id=each)))["Job"]["State"] for each in ids]
    assert [each["StateType"] for each in states] == ["Completed", "Running", *["Stopped"] * 6]
    again = next(each["href"] for each in page.all("a") if each.text == "Jobs that still match")
    assert "Stop 1 job" in checked_page(await client.get(again)).texts("button")


async def test_a_damaged_list_of_jobs_stops_none(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The form is refused as a whole."""
    _, client = ui
    job_id = await put(client, "job")
    sent = {"job": f"{job_id}@1", "reason": "x", "rest": "[[1]]"}
    checked_page(await client.post(paths.UI_STOP, data=sent), 400)
    assert ok(await client.get(paths.expand(paths.JOB, id=job_id)))["Job"]["Revision"] == 1


def sent_by(page: Page) -> dict[str, Any]:
    """The jobs of the form that stops them."""
    fields = [each for each in page.all("input") if each["name"] in {"job", "rest"}]
    return {
        name: [each["value"] for each in fields if each["name"] == name]
        for name in {each["name"] for each in fields}
    }


async def test_a_part_is_the_table_alone(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Caches never mix it up with the page."""
    _, client = ui
    await put(client, "job")
    answer = await client.get("/ui/", headers={"HX-Request": "true"})
    assert answer.text.lstrip().startswith('<ul class="counts"')
    assert "HX-Request" in answer.headers["vary"]
    assert parse_page(answer.text).problems == []


def test_the_url_has_the_whole_state() -> None:
    """Reading a URL that a state writes gives the same state."""
    state = ListState(
        name="a b", namespace="n", states=("Running", "Failed"), types=("ops",), labels=("a in (b,c)", "!d"),
        created_from="2026-01-01T00:00", modified_to="2026-02-01T00:00:00Z", order="modified_at",
        is_ascending=True, limit=100, at="7", token="t", previous=("", "s"), columns=("id", "state"),
    )  # fmt: skip
    url = urlsplit(state.here())
    assert read_state(Query(url.query.encode())) == state._replace(columns=("state", "id"))
    assert "next_token" not in parse_qs(
        urlsplit(state.url(name="x")).query
    )  # another list begins at its start
    assert ListState().here() == "/ui/"


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("", ""),
        ("2026-01-31T12:00", "2026-01-31T12:00Z"),
        ("2026-01-31T12:00:05", "2026-01-31T12:00:05Z"),
        ("2026-01-31T12:00:05Z", "2026-01-31T12:00:05Z"),
        ("2026-01-31T12:00:05+01:00", "2026-01-31T12:00:05+01:00"),
        ("1769860800000000000", "1769860800000000000"),
    ],
)
def test_a_time_without_a_zone_is_utc(text: str, time: str) -> None:
    """The control for times has no zone; the page says that it is UTC."""
    assert read_local(text, "") == time


async def test_a_search_that_tested_only_some_jobs_says_so(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty page is not the end then."""
    _, client = ui
    for number in range(3):
        ok(await client.put(paths.JOBS, json=job_body(f"x-{number}")))
    monkeypatch.setattr("jobledger.projections.query.planner.LIST_SCAN_MAX_ROWS", 2)
    answer = await client.get(paths.UI_JOBS, params={"name": "x-0"})
    checked_page(answer)
    assert "None of the jobs that were tested for this page match" in answer.text
    answer = await client.get(paths.UI_JOBS, params={"name": "x-2"})
    assert "Only some of the jobs were tested for this page" in answer.text
    answer = await client.get(paths.UI_JOBS, params={"labels": "!none", "type": "service"})
    assert "None of the jobs that were tested for this page match" in answer.text
    older = parse_page(answer.text).all("a", lambda each: each["rel"] == "next")[0]["href"]
    assert "No job matches" in (await client.get(older)).text


async def test_counts_and_searches_take_turns(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Now and as of a point: they test many jobs."""
    service, client = ui
    last = ok(await client.put(paths.JOBS, json=job_body("x")))["Sequence"]
    taken: list[object] = []

    def noted(queue: Any) -> Any:
        taken.append(queue)
        return queued(queue)

    monkeypatch.setattr("jobledger.service.api.jobs.queued", noted)
    for path, query in (
        (paths.COUNTS, {}),
        (paths.COUNTS, {"at": str(last)}),
        (paths.JOBS, {"name": "x"}),
    ):
        taken.clear()
        ok(await client.get(path, params=query))
        assert taken == [service.scans], (path, query)


async def test_the_list_is_shown_while_the_log_does_not_answer(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the slider: the jobs come from the view."""
    service, client = ui
    await put(client, "x")

    async def unavailable() -> None:
        raise LogUnavailable("no answer")

    monkeypatch.setattr(service.log, "info", unavailable)
    answer = await client.get("/ui/")
    assert names(checked_page(answer)) == ["x"]


async def test_the_list_does_not_wait_for_the_histogram_of_a_large_log(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """While it is prepared after a start, the page has no slider."""
    service, client = ui
    await put(client, "etl")
    service.event_times.is_preparing = True
    page = checked_page(await client.get("/ui/"))
    assert names(page) == ["etl"]
    assert not page.all("section", lambda each: each["id"] == "slider")
    service.event_times.is_preparing = False
    page = checked_page(await client.get("/ui/"))
    assert page.all("section", lambda each: each["id"] == "slider")


async def test_a_caller_of_some_namespaces_has_a_slider_of_their_jobs(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """List, counts and bars are of what the caller may see, now and as of a bar's time."""
    service, client = ui
    for number in range(3):
        await put(client, f"mine-{number}", Namespace="team-a")
    await put(client, "theirs", Namespace="team-b")
    await sign_in(service, client, "ann", Role.READER, ["team-a"])
    page = checked_page(await client.get(paths.UI_JOBS))
    titles = [each.text for each in page.all("title") if "created" in each.text]
    assert sum(int(each.rsplit(": ", 1)[1].split()[0]) for each in titles) == 3
    assert counts(page)["All"] == "3"
    (slider,) = page.all("input", lambda each: each["id"] == "slider-range")
    assert "data-times" not in slider.attributes
    assert int(slider["data-start"]) < int(slider["data-end"])
    answer = await client.get(paths.UI_JOBS, params={"at": "2"})
    page = checked_page(answer)
    assert names(page) == ["mine-1", "mine-0"]
    assert counts(page)["All"] == "2"
    assert page.all("line", lambda each: each["class"] == "marker")
    answer = await client.get(paths.UI_JOBS, params={"namespace": "team-b"})
    page = checked_page(answer, 400)
    assert not page.all("section", lambda each: each["id"] == "slider")


async def test_order_columns_and_ranges_are_in_the_url(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Each is what the table shows, and what the API returns for the same URL."""
    _, client = ui
    ids = [await put(client, f"job-{number}") for number in range(3)]
    await set_state(client, ids[0], "Running")
    jobs = [ok(await client.get(paths.expand(paths.JOB, id=each)))["Job"] for each in ids]
    for query, shown in (
        ({"order_by": "modified_at"}, ["job-0", "job-2", "job-1"]),
        ({"order_by": "modified_at", "reverse": "false"}, ["job-1", "job-2", "job-0"]),
        ({"reverse": "false"}, ["job-0", "job-1", "job-2"]),
        ({"created_from": str(jobs[1]["CreateTime"])}, ["job-2", "job-1"]),
        ({"created_to": str(jobs[1]["CreateTime"])}, ["job-0"]),
        ({"modified_from": str(jobs[0]["ModifyTime"])}, ["job-0"]),
        ({"modified_to": str(jobs[2]["ModifyTime"])}, ["job-1"]),
    ):
        page = checked_page(await client.get(paths.UI_JOBS, params=query))
        assert names(page) == shown, query
    page = checked_page(await client.get(paths.UI_JOBS, params={"order_by": "modified_at"}))
    heads = {each.text.strip(" ↑↓"): each["aria-sort"] for each in page.all("th") if each["aria-sort"]}
    assert heads == {"Modified": "descending"}
    page = checked_page(await client.get(paths.UI_JOBS, params=[("columns", "id"), ("columns", "created")]))
    assert [each for each in page.texts("th") if each] == ["Name", "Created ↓", "ID"]


async def test_changes_between_points_are_at_a_permanent_url(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """An age is resolved once; a point that cannot be read is explained."""
    _, client = ui
    job_id = await put(client, "etl")
    await set_state(client, job_id, "Running")
    answer = await client.get(paths.UI_CHANGES)
    assert answer.status_code == 303
    assert parse_qs(urlsplit(answer.headers["location"]).query) == {"from": ["0"]}
    answer = await client.get(paths.UI_CHANGES, params={"from": "1", "to": "2"})
    checked_page(answer)
    assert "Sequence 1 → 2: 1 event in the log" in answer.text
    assert "Running" in answer.text
    checked_page(await client.get(paths.UI_CHANGES, params={"from": "nonsense"}), 400)
