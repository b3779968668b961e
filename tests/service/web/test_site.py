"""What every page of the UI keeps: its policy, its links, its forms, and errors that are pages."""

import gzip
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobledger.projections.errors import AsOfBusy
from jobledger.service.api.app import OPERATIONS
from jobledger.service.api.query import Query
from jobledger.service.errors import Forbidden
from jobledger.service.limits import FORM_INLINE_BYTES
from jobledger.service.web import static_files
from jobledger.service.web.pages import PAGES
from jobledger.service.web.site import POLICY, navigation
from jobledger.service.web.visitor import check_sender
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import job_body
from tests.support.web_pages import browser_of, checked_page, parse_page, running_ui

WEB = Path(__file__).parents[3] / "service" / "web"


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def test_a_browser_is_sent_to_the_ui_and_a_client_is_not(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """`/` answers HTML readers with a redirect, and all others with the index of the API."""
    _, client = ui
    answer = await client.get("/", headers={"Accept": "text/html,application/xhtml+xml"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
    answer = await client.get("/", headers={"Accept": "*/*"})
    assert answer.json()["UI"] == "/ui/"


async def test_every_page_of_the_navigation_keeps_the_rules(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Valid HTML, no inline code, labeled fields, the security headers; all links lead to something."""
    _, client = ui
    await client.put(paths.JOBS, json=job_body("etl"))
    seen: set[str] = set()
    for entry in navigation:
        page = checked_page(await client.get(entry.path, follow_redirects=True))
        for link in page.links():
            target = link.partition("#")[0]
            if target and target not in seen:
                seen.add(target)
                answer = await client.get(target)
                assert answer.status_code in {200, 303, 405}, (
                    entry.path,
                    target,
                )  # 405: the action of a form
    assert len(seen) > 10


def test_the_policy_has_no_exception() -> None:
    """Nothing is loaded from elsewhere, nothing inline runs, no page can be framed."""
    assert "unsafe" not in POLICY
    assert "default-src 'none'" in POLICY
    assert "frame-ancestors 'none'" in POLICY


def test_templates_have_no_inline_code_and_mark_nothing_as_safe() -> None:
    """`style=`, `on…=`, `|safe`, `autoescape false` and htmx features that need `eval` are not used."""
    banned = re.compile(r"\bstyle=|\son[a-z]+=|\|\s*safe\b|autoescape|hx-on|hx-vals|\bjs:|<style|<script>")
    for template in (WEB / "templates").rglob("*.html"):
        assert banned.findall(template.read_text()) == [], template.name


def test_view_functions_are_short() -> None:
    """A view has less than 40 lines: what is longer belongs into the API, or into a template."""
    for module in WEB.glob("*.py"):
        for view in re.split(r"(?m)^(?=@page\()", module.read_text())[1:]:
            body = re.split(r"\n\n\n", view)[0]
            assert body.count("\n") < 40 + 5, (module.name, body.splitlines()[:3])


def test_pages_are_in_no_document_of_the_api() -> None:
    """Ids and paths of pages are unique, and the API has none of them."""
    ids = [each.id for each in (*OPERATIONS, *PAGES)]
    assert len(set(ids)) == len(ids)
    assert not [each.path for each in OPERATIONS if each.path.startswith(paths.UI)]
    assert all(each.path.startswith(paths.UI) for each in PAGES)


FIRST_PAGE_BYTES = 150_000
HISTOGRAM_BYTES = 60 * 320  # of a log that is older than that of the test


async def transferred(client: httpx.AsyncClient, url: str) -> tuple[int, str]:
    """The bytes of a response as they are sent, and its text."""
    async with client.stream("GET", url) as answer:
        sent = b"".join([chunk async for chunk in answer.aiter_raw()])
    text = gzip.decompress(sent) if answer.headers.get("content-encoding") == "gzip" else sent
    return len(sent), text.decode()


async def test_the_first_page_is_small(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """With all of its files, as a browser without a cache loads it: a full page of jobs with labels."""
    _, client = ui
    for number in range(50):
        labels = {"env": "production", "owner": "team-platform", "tier": "backend", "number": str(number)}
        answer = await client.put(paths.JOBS, json=job_body(f"nightly-export-of-{number:04}", Labels=labels))
        answer.raise_for_status()
    total, text = await transferred(client, "/ui/")
    assert text.count('<tr id="row-') == 50
    waiting = [each for each in parse_page(text).links() if "/static/" in each]
    seen = set(waiting)
    while waiting:
        url = waiting.pop()
        size, text = await transferred(client, url)
        total += size
        for name in re.findall(r'^import .* from "\./(.*)";', text, re.MULTILINE):
            imported = f"{url.rpartition('/')[0]}/{name}"
            if imported not in seen:
                seen.add(imported)
                waiting.append(imported)
    assert len(seen) >= 10
    assert total + HISTOGRAM_BYTES < FIRST_PAGE_BYTES


async def test_static_files_are_compressed_if_the_browser_accepts_that(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """The content is the same; caches keep both apart."""
    _, client = ui
    url, plain = static_files.static_url("htmx.min.js"), {"Accept-Encoding": "identity"}
    compressed, identical = await client.get(url), await client.get(url, headers=plain)
    assert compressed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in identical.headers
    assert compressed.content == identical.content
    assert compressed.headers["vary"] == identical.headers["vary"] == "Accept-Encoding"
    assert compressed.headers["etag"] != identical.headers["etag"]
    sizes = [int(each.headers["content-length"]) for each in (compressed, identical)]
    assert sizes[0] < sizes[1] / 2
    for header, expected in (
        ("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0.01", True), ("deflate", False), ("", False),
        ("gzip;q=0", False), ("gzip; q=0.00, br", False), ("x-gzip", False),
    ):  # fmt: skip
        assert static_files.accepts_gzip(header) is expected, header


async def test_static_files_never_change_under_their_url(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """They may be cached forever; a URL with another hash is not found."""
    _, client = ui
    answer = await client.get(static_files.static_url("app.css"))
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    again = await client.get(
        static_files.static_url("app.css"), headers={"If-None-Match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")
    assert (await client.get("/ui/static/0000000000000000/app.css")).status_code == 404
    assert (await client.get(f"/ui/static/{static_files.bundle().digest}/..%2Fpages.py")).status_code == 404


async def test_a_mistake_in_a_filter_is_shown_next_to_the_form(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The status and the message are those of the API."""
    _, client = ui
    page = checked_page(await client.get("/ui/", params={"labels": "("}), 400)
    assert page.texts("h1") == ["Jobs"]


async def test_a_page_is_small(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The list with 50 jobs, and all files that it loads, are less than 150 KB."""
    _, client = ui
    files = static_files.bundle().files
    for number in range(50):
        await client.put(paths.JOBS, json=job_body(f"job-{number:02}", Labels={"env": "prod", "team": "a"}))
    answer = await client.get("/ui/")
    names = {each.rpartition("/")[2] for each in parse_page(answer.text).links() if "/static/" in each}
    loaded: set[str] = set()
    while names:  # scripts load others, except those that a page imports only if it needs them
        loaded |= names
        names = {
            str(each)
            for name in names
            for each in re.findall(r'^import .*? from "\./(.*?)";$', files[name].decode(), re.MULTILINE)
        } - loaded
    assert 50_000 < len(answer.content) + sum(len(files[name]) for name in loaded) < 150_000


@pytest.mark.parametrize(
    ("site", "origin", "is_accepted"),
    [
        ("same-origin", "", True),
        ("same-origin", "https://elsewhere", True),  # the browser itself says so
        ("", "http://jobs.test:1234", True),
        ("same-site", "http://jobs.test:1234", False),
        ("cross-site", "http://elsewhere", False),
        ("none", "", False),
        ("", "", False),
        ("", "null", False),
        ("", "http://jobs.test", False),
        ("", "http://jobs.test.evil:1234", False),
    ],
)
def test_only_pages_of_this_service_send_forms(site: str, origin: str, *, is_accepted: bool) -> None:
    """`Sec-Fetch-Site` decides; without it, `Origin` must be the host."""
    try:
        check_sender(site, origin, "jobs.test:1234")
    except Forbidden:
        assert not is_accepted
    else:
        assert is_accepted


async def test_a_form_of_another_site_changes_nothing(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """It is refused before a session is looked at."""
    service, _ = ui
    async with browser_of(service) as client:
        answer = await client.post(
            paths.UI_SIGN_IN, data={"token": "x"}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        assert answer.status_code == 403


async def test_a_path_without_a_page_is_answered_with_a_page(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """Also what is refused before it reaches a view; the API keeps its own form of errors."""
    service, client = ui
    page = checked_page(await client.get("/ui/nothing"), 404)
    assert page.texts("h1") == ["Not Found 404"]
    checked_page(await client.put("/ui"), 405)
    service.draining.set()
    answer = await client.get("/ui/")
    checked_page(answer, 503)
    assert answer.headers["retry-after"]
    assert (await client.get(paths.JOBS)).headers["content-type"] == "application/problem+json"


LINK = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}


async def test_a_link_from_elsewhere_opens_a_page(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """In the window, not in a frame; the API and every change stay closed to other sites."""
    _, client = ui
    assert (await client.get("/ui/", headers=LINK)).status_code == 200
    assert (await client.get("/", headers={**LINK, "Accept": "text/html"})).status_code == 303
    for method, path, headers in (
        ("GET", "/ui/", {"Sec-Fetch-Dest": "iframe"}),
        ("GET", "/ui/", {"Sec-Fetch-Mode": "no-cors"}),
        ("GET", "/ui/", {"Origin": "http://elsewhere"}),
        ("POST", paths.UI_STOP, {}),
        ("GET", paths.JOBS, {}),
    ):
        answer = await client.request(method, path, headers={**LINK, **headers})
        assert answer.status_code == 403, (method, path, headers)


async def test_a_large_form_is_parsed_beside_the_event_loop(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes long; other requests are answered meanwhile."""
    _, client = ui
    threads: set[int] = set()

    class Noted(Query):
        def __init__(self, text: bytes, *, max_fields: int = 1_000) -> None:
            threads.add(threading.get_ident())
            super().__init__(text, max_fields=max_fields)

    monkeypatch.setattr("jobledger.service.api.request.Query", Noted)
    for size, is_beside in ((FORM_INLINE_BYTES - len("spec="), False), (FORM_INLINE_BYTES, True)):
        threads.clear()
        answer = await client.post(paths.UI_SUBMIT_CHECK, data={"spec": "a" * size})
        assert answer.status_code == 200
        assert (threads == {threading.get_ident()}) is not is_beside


async def test_a_page_says_when_to_try_again(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the API does."""
    service, client = ui

    async def busy(*_: object, **__: object) -> None:
        raise AsOfBusy("it is being built", retry_after_seconds=7)

    await client.put(paths.JOBS, json=job_body("etl"))
    monkeypatch.setattr(service.asof, "list", busy)
    answer = await client.get("/ui/", params={"at": "1"})
    checked_page(answer, 503)
    assert answer.headers["retry-after"] == "7"
