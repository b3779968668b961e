"""The pictures of the web UI: of every page, each in the docs exists, and none is too large."""

import re
from pathlib import Path

import pytest

from docs.screenshots import FOLDER, NARROW, NOT_SHOWN, SHOTS, WIDE
from jobledger.service.web.pages import PAGES

ROOT = Path(__file__).parents[2]
NAMES = {shot.name for shot in SHOTS}
FOLDER_MAX_BYTES = 3_500_000


def test_every_page_has_a_picture() -> None:
    """Of each GET route of the UI, but those that are listed with a reason."""
    drawn = [re.sub(r"[?#].*", "", shot.page) for shot in SHOTS]
    for page in PAGES:
        if page.method == "GET" and page.id not in NOT_SHOWN:
            route = re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(page.path)))
            assert any(route.fullmatch(each) for each in drawn), f"no picture of {page.id} {page.path}"
    assert NOT_SHOWN.keys() <= {page.id for page in PAGES}


def test_the_folder_has_the_pictures_of_the_list() -> None:
    """`make screenshots` draws them all."""
    wanted = {f"{name}-{scheme}.webp" for name in NAMES for scheme in ("light", "dark")}
    wanted |= {
        f"{shot.name}-narrow-{scheme}.webp"
        for shot in SHOTS
        if shot.is_narrow
        for scheme in ("light", "dark")
    }
    assert {each.name for each in FOLDER.iterdir()} == wanted
    assert len(NAMES) == len(SHOTS)
    assert sum(each.stat().st_size for each in FOLDER.iterdir()) < FOLDER_MAX_BYTES


@pytest.mark.parametrize("page", ["README.md", "docs/UI.md"])
def test_every_picture_of_the_docs_exists(page: str) -> None:
    """They are of both color schemes, and of a wide or a small window."""
    found = re.findall(r"screenshots/([\w-]+\.webp)", (ROOT / page).read_text())
    assert found
    for name in found:
        assert (FOLDER / name).is_file(), name
    assert any(name.endswith("-dark.webp") for name in found)
    assert any(name.endswith("-light.webp") for name in found)
    assert NARROW < WIDE
