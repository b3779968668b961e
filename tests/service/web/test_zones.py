"""The time zone of a page: in its URL, for every time that it shows and reads, and for the pages after it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobledger.service.api.query import Query
from jobledger.service.web.zones import Zone, in_zone, keep_zone, keep_zone_in, read_local, zone_info, zone_of
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import format_rfc3339, parse_rfc3339
from tests.support.api import job_body, ok
from tests.support.web_pages import all_pages, checked_page, parse_page, running_ui

TOKYO = Zone("Asia/Tokyo", zone_info("Asia/Tokyo"))
NOON = parse_rfc3339("2026-01-31T12:00:00.5Z")


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


@pytest.mark.parametrize(
    ("zone", "text"),
    [
        ("", "2026-01-31 12:00:00"),
        ("UTC", "2026-01-31 12:00:00"),
        ("Asia/Tokyo", "2026-01-31 21:00:00"),
        ("America/New_York", "2026-01-31 07:00:00"),
    ],
)
def test_a_time_is_shown_in_the_zone(zone: str, text: str) -> None:
    """To the second."""
    assert NOON is not None
    assert in_zone(NOON, zone_of(Query(f"tz={zone}".encode()))) == text


def test_a_time_outside_the_calendar_is_shown_in_utc() -> None:
    """Stream times are 64-bit numbers of nanoseconds."""
    assert in_zone(2**63 - 1, TOKYO).startswith("2262-04-12")


@pytest.mark.parametrize(
    "name", ["nowhere", "../../etc/passwd", "/etc/passwd", "America", "a" * 10_000, "UTC\0", "zone.tab", "é"]
)
def test_an_unknown_zone_is_refused(name: str) -> None:
    """It is not looked for outside of the database."""
    with pytest.raises(InvalidInput, match="tz must be a time zone"):
        zone_info(name)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("", ""),
        ("2026-01-31T12:00", "2026-01-31T12:00:00+09:00"),
        ("2026-01-31T12:00:05Z", "2026-01-31T12:00:05Z"),
        ("2026-01-31T12:00:05+01:00", "2026-01-31T12:00:05+01:00"),
        ("nonsense", "nonsenseZ"),
    ],
)
def test_a_time_of_a_form_is_in_the_zone(text: str, time: str) -> None:
    """Except for one with an offset."""
    assert read_local(text, "Asia/Tokyo") == time


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('<a href="/ui/">', '<a href="/ui/?tz=Asia%2FTokyo">'),
        ('<a href="/ui/jobs/x?at=1&amp;tab=spec#diff">', None),
        ('<div data-url="/ui/health?tz=Asia%2FTokyo">', '<div data-url="/ui/health?tz=Asia%2FTokyo">'),
        ('<a href="/api/v1/jobs">', '<a href="/api/v1/jobs">'),
        ('<link href="/ui/static/0/app.css">', '<link href="/ui/static/0/app.css">'),
        ('<a href="?at=1">', '<a href="?at=1">'),
        ("<p>href=&#34;/ui/&#34;</p>", "<p>href=&#34;/ui/&#34;</p>"),
        (
            '<form method="post" action="/ui/stop">',
            '<form method="post" action="/ui/stop?tz=Asia%2FTokyo">',
        ),
        (
            '<form method="get" action="/ui/">',
            '<form method="get" action="/ui/"><input type="hidden" name="tz" value="Asia/Tokyo">',
        ),
    ],
)
def test_links_and_forms_keep_the_zone(before: str, after: str | None) -> None:
    """Those that lead to pages; a link to a page in UTC is relative."""
    after = after or '<a href="/ui/jobs/x?at=1&amp;tab=spec&amp;tz=Asia%2FTokyo#diff">'
    assert keep_zone(before, TOKYO) == after
    assert keep_zone(before, Zone()) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("/ui/jobs/x?note=stop", "/ui/jobs/x?note=stop&tz=Asia%2FTokyo"),
        ("/ui/#part", "/ui/?tz=Asia%2FTokyo#part"),
        ("/docs", "/docs"),
    ],
)
def test_redirections_keep_the_zone(before: str, after: str) -> None:
    """To the page after a form."""
    assert keep_zone_in(before, TOKYO) == after


async def test_every_page_is_in_the_zone_of_its_url(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """No label says UTC, all links to pages keep the zone, and the switch leads back to UTC."""
    _, client = ui
    job_id = ok(await client.put(paths.JOBS, json=job_body("etl")))["JobID"]
    for priority in range(1, 10):
        ok(await client.put(paths.JOBS, json=job_body("etl", Priority=priority)))
    ok(await client.post(paths.SUBSCRIPTIONS, json={"Name": "billing"}))
    ok(await client.post(paths.AUDIT_SEALS))
    for url in all_pages(job_id):
        if not url.startswith("/ui/") or "/guides/" in url:
            continue
        answer = await client.get(url + ("&" if "?" in url else "?") + "tz=Asia/Tokyo", follow_redirects=True)
        page = parse_page(answer.text)
        assert page.problems == [], url
        if answer.status_code == 404 and not page.all("html")[0]["data-zone"]:
            continue  # no page at all
        links = [each["href"] for each in page.all("a") if each["href"].startswith("/ui/")]
        assert links
        assert [each for each in links if "tz=Asia%2FTokyo" not in each] == [], url
        text = page.all("main")[0].text
        assert "(UTC)" not in text, url
        assert " UTC" not in text.replace("by the server's clock", ""), url
        back = next(each["href"] for each in page.all("a") if each.text == "UTC")
        assert "tz=" not in back


async def test_a_change_leads_to_a_page_in_the_same_zone(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Its times are those of the zone."""
    _, client = ui
    answer = ok(await client.put(paths.JOBS, json=job_body("etl")))
    url = paths.expand(paths.UI_JOB_CHANGE, id=answer["JobID"])
    sent = {"do": "stop", "revision": "1", "reason": "no longer needed"}
    done = await client.post(f"{url}?tz=Asia/Tokyo", data=sent)
    assert done.status_code == 303
    page = checked_page(await client.get(done.headers["location"]))
    job = ok(await client.get(paths.expand(paths.JOB, id=answer["JobID"])))["Job"]
    created = next(each for each in page.all("time") if each["datetime"][:19] == _utc(job["CreateTime"]))
    assert created.text == in_zone(job["CreateTime"], TOKYO)


async def test_filters_are_read_in_the_zone(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The times that the form has are those that its labels name; a mistake in the zone is explained."""
    _, client = ui
    answer = ok(await client.put(paths.JOBS, json=job_body("etl")))
    job = ok(await client.get(paths.expand(paths.JOB, id=answer["JobID"])))["Job"]
    second = job["CreateTime"] // 10**9 * 10**9
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        local = in_zone(second, zone_of(Query(f"tz={zone}".encode()))).replace(" ", "T")
        after = in_zone(second + 10**9, zone_of(Query(f"tz={zone}".encode()))).replace(" ", "T")
        for query, is_found in (
            ({"created_from": local, "created_to": after}, True),
            ({"created_from": after}, False),
        ):
            answer = await client.get("/ui/", params={**query, "tz": zone})
            assert (f"row-{job['ID']}" in answer.text) is is_found, (zone, query)
    checked_page(await client.get("/ui/?tz=nowhere"), 400)


async def test_a_zone_among_too_many_parameters_is_refused(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """On the public page as well."""
    _, client = ui
    many = "&".join(f"a={number}" for number in range(1_001))
    for path in (paths.UI_JOBS, paths.UI_SIGN_IN):
        checked_page(await client.get(f"{path}?tz=Asia/Tokyo&{many}"), 400)


def _utc(time_ns: int) -> str:
    return format_rfc3339(time_ns, digits=0)[:19]
