"""Health probes: their content, timing, cost and visibility."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobledger import Ledger, LogUnavailable, ProjectorState
from jobledger.service.limits import OBSERVE_SECONDS
from jobledger.service.server.checks import CHECKS
from jobledger.service.server.monitor import Monitor
from jobledger.service.wiring import Service
from jobledger.store.log import LogInfo
from tests.conftest import make_spec
from tests.support.api import client_of, job_body, running_api

ROOT = "http://127.0.0.1"


class Clock:
    """The loop's time, and more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        loop = asyncio.get_running_loop()
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + self.ahead)

    def later(self) -> None:
        """What was seen is old now."""
        self.ahead += OBSERVE_SECONDS


async def verbose(client: httpx.AsyncClient) -> tuple[int, dict[str, str]]:
    """The status of `/readyz?verbose`, and its checks by name."""
    answer = await client.get(f"{ROOT}/readyz?verbose")
    lines = answer.text.splitlines()
    assert lines[-1] == f"readyz check {'passed' if answer.status_code == 200 else 'failed'}"
    checks = {}
    for line in lines[:-1]:
        name, _, said = line[3:].partition(" ")
        assert line.startswith("[+]" if said == "ok" else ("[-]", "[!]"))
        checks[name] = said
    return answer.status_code, checks


async def test_a_healthy_service_is_live_and_ready(tmp_path: Path) -> None:
    """Each check is listed by name; for GET and HEAD, and not cacheable."""
    async with running_api(tmp_path) as (service, client):
        await service.projector.wait_live()
        for path in ("/livez", "/readyz"):
            answer = await client.get(f"{ROOT}{path}")
            assert (answer.status_code, answer.text) == (200, "ok\n")
            assert answer.headers["content-type"] == "text/plain; charset=utf-8"
            assert answer.headers["cache-control"] == "no-store"
            assert (await client.head(f"{ROOT}{path}")).status_code == 200
        status, checks = await verbose(client)
        assert status == 200
        assert checks == dict.fromkeys((check.name for check in CHECKS), "ok")
        assert (await client.get(f"{ROOT}/readyz?verbose=false")).text == "ok\n"


async def test_a_draining_service_is_live_and_not_ready(tmp_path: Path) -> None:
    """Traffic goes elsewhere and nothing restarts it; the short answer names the failed check."""
    async with running_api(tmp_path) as (service, client):
        await service.projector.wait_live()
        service.draining.set()
        answer = await client.get(f"{ROOT}/readyz")
        assert answer.status_code == 503
        assert answer.text == "[-]draining failed: the service is shutting down\nreadyz check failed\n"
        assert (await client.get(f"{ROOT}/livez")).status_code == 200


async def test_a_view_that_is_behind_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to ready_max_gap events it is ready; from one more on the check states how far it is behind."""
    async with running_api(tmp_path, ready_max_gap=3) as (service, client):
        receipt = (await client.put("/jobs", json=job_body())).json()
        await service.projector.wait_live()
        await service.projector.wait_for(receipt["Sequence"])
        clock = Clock(monkeypatch)
        last = service.projector.sequence

        def end_at(sequence: int) -> None:
            async def info() -> LogInfo:
                return LogInfo(epoch="e", first_sequence=1, last_sequence=sequence)

            monkeypatch.setattr(service.log, "info", info)
            clock.later()

        end_at(last + 3)
        assert (await verbose(client))[0] == 200
        end_at(last + 4)
        status, checks = await verbose(client)
        assert status == 503
        assert checks["view"] == "failed: 4 events behind, more than 3 (ready_max_gap)"


async def test_a_view_that_never_caught_up_is_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the gap: the events that existed at the start must have been folded once."""
    async with running_api(tmp_path) as (service, _):
        await service.projector.wait_live()
        monitor, clock = Monitor(service), Clock(monkeypatch)
        assert not monitor.is_ready, "nobody has looked yet"
        for state, problems in (
            (ProjectorState.CATCHING_UP, ["view"]),
            (ProjectorState.LIVE, []),
            (ProjectorState.CATCHING_UP, []),  # after a lost connection, say: the gap alone counts
        ):
            monkeypatch.setattr(service.projector, "_state", state)
            clock.later()
            await monitor.observe()
            assert [check.name for check in monitor.checks if check.problem] == problems
        monkeypatch.setattr(service.projector, "_state", ProjectorState.LIVE)


async def test_a_log_that_does_not_answer_fails_its_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the timeout, for an error and for silence; it recovers with the log."""
    monkeypatch.setattr("jobledger.service.server.monitor.OBSERVE_TIMEOUT_SECONDS", 0.05)
    async with running_api(tmp_path) as (service, client):
        await service.projector.wait_live()
        clock, well = Clock(monkeypatch), service.log.info

        async def fails() -> LogInfo:
            raise LogUnavailable("no connection")

        async def hangs() -> LogInfo:
            await asyncio.Event().wait()
            raise AssertionError

        for info, said in ((fails, "no connection"), (hangs, "no answer within 0.05 s")):
            monkeypatch.setattr(service.log, "info", info)
            clock.later()
            status, checks = await verbose(client)
            assert (status, checks["log"]) == (503, f"failed: {said}")
        monkeypatch.setattr(service.log, "info", well)
        monkeypatch.setattr("jobledger.service.server.monitor.OBSERVE_TIMEOUT_SECONDS", 10.0)
        clock.later()
        assert (await verbose(client))[0] == 200


async def test_an_unreadable_token_file_fails_its_check(tmp_path: Path) -> None:
    """A damaged token file refuses all requests, so the service is not ready."""
    async with running_api(tmp_path) as (service, client):
        await service.projector.wait_live()
        service.tokens.path.write_text("damaged")
        service.tokens.path.chmod(0o600)
        assert (await client.get(f"{ROOT}/readyz")).status_code == 503
        assert [check.name for check in service.monitor.checks if check.problem] == ["tokens"]


async def test_many_probes_send_the_log_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is asked once in OBSERVE_SECONDS."""
    async with running_api(tmp_path) as (service, client):
        await service.projector.wait_live()
        clock, info, asked = Clock(monkeypatch), service.log.info, 0

        async def counted() -> LogInfo:
            nonlocal asked
            asked += 1
            return await info()

        monkeypatch.setattr(service.log, "info", counted)
        clock.later()
        await asyncio.gather(*(client.get(f"{ROOT}/readyz") for _ in range(20)))
        await client.get(f"{ROOT}/readyz")
        assert asked == 1
        clock.later()
        await client.get(f"{ROOT}/metrics")
        assert asked == 2


async def test_reasons_need_a_token(tmp_path: Path) -> None:
    """Without a token a probe gets the failed check, without paths and addresses."""
    async with running_api(tmp_path) as (service, client):
        await service.projector.wait_live()
        service.tokens.create("ops", _role("admin"))
        service.draining.set()
        answer = await client.get(f"{ROOT}/readyz")
        assert answer.text.startswith("[-]draining failed: reason withheld\n")
        assert (await client.get(f"{ROOT}/readyz?verbose")).status_code == 401
        assert (await client.get(f"{ROOT}/metrics")).status_code == 401


async def test_metrics_and_reasons_need_a_token_for_all_namespaces(tmp_path: Path) -> None:
    """They concern the whole installation."""
    async with running_api(tmp_path) as (service, _):
        _, scoped = service.tokens.create("team", _role("writer"), ["team"])
        _, admin = service.tokens.create("ops", _role("admin"))
        for token, status in ((scoped, 403), (admin, 200)):
            async with client_of(service, {"Authorization": f"Bearer {token}"}) as client:
                assert (await client.get(f"{ROOT}/metrics")).status_code == status


async def test_the_release_has_the_form_of_bacalhau(tmp_path: Path) -> None:
    """The service's address alone redirects to it."""
    async with running_api(tmp_path) as (_, client):
        assert (await client.get(f"{ROOT}/api/v1/agent/alive")).json() == {"Status": "OK"}
        version = (await client.get(f"{ROOT}/api/v1/agent/version")).json()
        assert version["GitVersion"] == f"v{version['Major']}.{version['Minor']}.0"
        assert (await client.get(f"{ROOT}/version")).json() == version
        for path in (await client.get(f"{ROOT}/")).json().values():
            if path.startswith("/") and path != "/api/v1/events":
                assert (await client.get(f"{ROOT}{path}")).status_code == 200


async def test_the_lag_is_the_age_of_the_oldest_event_not_in_the_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """0 without any."""
    async with running_api(tmp_path) as (service, _):
        monitor = await _monitor_of_a_stopped_projector(service, monkeypatch)
        assert monitor.latest.gap == 2
        assert 3600 < monitor.latest.lag_seconds < 3660
        assert monitor.latest.log_sequence == monitor.latest.view_sequence + 2


async def _monitor_of_a_stopped_projector(service: Service, monkeypatch: pytest.MonkeyPatch) -> Monitor:
    await service.projector.wait_live()
    await service.projector.stop()
    ledger: Ledger = service.ledger
    for name in ("one", "other"):
        await ledger.create(make_spec(name), actor="a")
    import time

    now = time.time
    monkeypatch.setattr("jobledger.service.server.monitor.time.time", lambda: now() + 3600)
    monitor = Monitor(service)
    await monitor.observe()
    return monitor


def _role(name: str) -> Any:
    from jobledger.service.access.principal import Role

    return Role(name)


async def test_a_service_has_one_monitor(tmp_path: Path) -> None:
    """Probes, metrics and the log use the same observation."""
    async with running_api(tmp_path) as (service, _):
        assert service.monitor is service.monitor is service.metrics.state._monitor
