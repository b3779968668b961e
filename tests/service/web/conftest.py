"""A browser that the tests of a module share: its start takes longer than most of them."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.browser import Browser


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_browser(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    async with Browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def browser(shared_browser: Browser) -> AsyncIterator[Browser]:
    """A new profile, without anything of the test before; no page may log an error or violate the policy.

    For tests in the event loop of their module: `pytest.mark.asyncio(loop_scope="module")`.
    """
    await shared_browser.renew()
    await shared_browser.look()
    yield shared_browser
    assert shared_browser.complaints == []
