"""Writes on jobs that the service has not cached start from the view."""

from pathlib import Path

import pytest

from jobledger import JetStreamLog
from tests.support.api import ok, running_api, submitted


async def test_a_job_that_is_not_cached_is_changed_without_reading_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The service's ledger starts from the row; the log is still what refuses."""
    async with running_api(tmp_path) as (service, client):
        path = await submitted(client, "etl", 1)
        await service.projector.wait_for((await service.log.info()).last_sequence)
        service.ledger._reader._cache.clear()
        with monkeypatch.context() as patched:
            for name in ("read", "read_last", "read_next"):
                patched.delattr(JetStreamLog, name)
            assert ok(await client.put(f"{path}/state", json={"StateType": "Completed"}))["Revision"] == 2
        service.ledger._reader._cache.clear()
        refused = await client.put(f"{path}/state", json={"StateType": "Running"})
        assert refused.status_code == 409
