"""The guides of `docs/` as pages: all of them, escaped, with links that lead somewhere."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobledger.service.web.guides import GUIDES, rendered
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.web_pages import checked_page, running_ui

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as running:
        yield running


async def test_every_guide_is_a_page_whose_links_lead_somewhere(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """Also within a guide and to the sections of others."""
    _, client = ui
    pages = {}
    for name in GUIDES:
        url = paths.expand(paths.UI_GUIDE, name=name)
        pages[url] = checked_page(await client.get(url))
    ids = {url: {each["id"] for each in page.elements} for url, page in pages.items()}
    for url, page in pages.items():
        for link in page.all("a"):
            target, _, fragment = link["href"].partition("#")
            if (target or url) in ids and fragment:
                assert fragment in ids[target or url], (url, link["href"])
    assert (await client.get(paths.expand(paths.UI_GUIDE, name="nothing"))).status_code == 404


def test_every_page_of_docs_is_a_guide() -> None:
    """One that is added is not forgotten."""
    assert {each.stem.lower() for each in DOCS.glob("[A-Z]*.md")} <= GUIDES.keys()


def test_what_a_guide_contains_is_text() -> None:
    """HTML, and addresses of other sites and files."""
    html = rendered(
        "# A <b>b</b>\n\n<img src=x onerror=alert(1)>\n\n[a](https://example.com) [b](javascript:alert(1))"
        " [c](../store/x.py) [d](API.md#codes) ![e](x.svg)\n"
    ).html
    assert "<img" not in html
    assert rendered("a\n\n![e](x.svg)\n\nb\n").html.count("<p>") == 2  # no empty paragraph for a picture
    assert "<b>" not in html
    assert html.count("href=") == 1
    assert 'href="/ui/guides/api#codes"' in html
