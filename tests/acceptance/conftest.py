"""One service for each module of acceptance tests: real log, real view, the app called without a socket."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from jobledger.service import own_writes
from jobledger.service.api.app import create_app
from jobledger.service.settings import Settings
from jobledger.service.wiring import Service, open_service
from tests.acceptance.api import Api
from tests.support.service_loop import pytest_asyncio_loop_factories  # noqa: F401 - a hook


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A running service with an embedded nats-server of its own."""
    folder: Path = tmp_path_factory.mktemp("service")
    with pytest.MonkeyPatch.context() as patched:
        # A read waits so long for what was just written, and other tests run beside these.
        patched.setattr(own_writes, "OWN_WRITE_WAIT_SECONDS", 30.0)
        async with open_service(Settings(data_dir=folder)) as running:
            yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(service: Service) -> AsyncIterator[Api]:
    """Its API, for requests that are answered within this process."""
    # What the app raises is to be answered as a problem, as it would be over a socket.
    app: Any = create_app(service)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:1234") as client:
        yield Api(client)
