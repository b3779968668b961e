"""Fixtures of a view's file without a projector."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from jobledger.projections.view import View
from tests.support.view_file import ViewFile


@pytest.fixture
def file(tmp_path: Path) -> Iterator[ViewFile]:
    """A view's file without jobs."""
    made = ViewFile(tmp_path / "view.db")
    yield made
    made.close()


@pytest.fixture
async def view(file: ViewFile) -> AsyncIterator[View]:
    """A view of that file."""
    async with await View.open(file.path, readers=2) as opened:
        yield opened
