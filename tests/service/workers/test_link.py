"""The worker's side: what it does with the owner's messages."""

import asyncio
import os
from pathlib import Path
from typing import Any

from jobledger.projections.errors import ViewRebuilding
from jobledger.projections.view import View
from jobledger.service.workers import messages
from jobledger.service.workers.link import OwnerLink
from tests.support.api import running_api


async def test_a_worker_that_cannot_open_the_view_again_ends_with_the_reason(tmp_path: Path) -> None:
    """It could never read again; the owner starts another one."""
    async with running_api(tmp_path, workers=2) as (service, _):
        assert service.positions is not None
        fd = os.dup(service.positions.fd)
        link, failure = OwnerLink(fd), messages.Failure.of(ViewRebuilding("soon"))
        start = messages.Start(
            settings=service.settings,
            url="",
            number=1,
            workers=2,
            address="127.0.0.1",
            port=1,
            sequence=0,
            state=service.projector.state,
            trouble="",
            error=None,
            suspended=None,
            requires_tokens=False,
        )
        link.handle(start)
        projector: Any = link.projector
        view = await View.open(tmp_path / "view.sqlite")

        async def opened() -> Any:
            return view.pool

        await projector.open_view(opened)
        try:
            suspended = link.handle(messages.Suspend(failure))
            assert suspended is not None
            assert await suspended == messages.Done()
            (tmp_path / "view.sqlite").rename(tmp_path / "away")
            link.handle(messages.Resume())
            await asyncio.wait_for(link.failed.wait(), 10)
            assert "cannot be opened again" in link.failure
            (tmp_path / "away").rename(tmp_path / "view.sqlite")
        finally:
            await view.close()
            projector.positions.close()
