"""Keys and seals over HTTP: any token may verify, an admin may seal."""

from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile
from jobledger.service.audit.model.checkpoint import make_seal, open_seal
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.limits import SEALS_MAX_LIMIT
from tests.support.api import client_of, job_body, running_api
from tests.support.logs import publish_raw

ROOT = "http://127.0.0.1"
SEALS = f"{ROOT}/api/v1/audit/seals"
KEYS = f"{ROOT}/api/v1/audit/keys"
QUIET: dict[str, Any] = {"seal_every_events": 0, "seal_every_seconds": 0.0}


async def test_an_admin_seals_and_everyone_verifies(tmp_path: Path) -> None:
    """The events just written are sealed with the published key, over the root of the tree."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        receipt = (await client.put("/jobs", json=job_body())).json()
        sealed = (await client.post(SEALS)).json()
        keys = (await client.get(KEYS)).json()
        assert sealed["Size"] == receipt["Sequence"] == 1
        [key] = keys["Items"]
        assert key["Signs"] is True
        assert keys["Origin"] == f"jobledger/{service.stream_tag}"
        seal = open_seal(sealed["Note"], [VerifierKey.parse(key["Key"])])
        assert (seal.origin, seal.size) == (keys["Origin"], 1)
        assert seal.root == b64decode(sealed["Root"]) == await service.tree.root(1)
        assert sealed["Keys"] == [key["ID"]]
        assert (await client.post(SEALS)).json() == sealed
        assert (await client.get(SEALS)).json() == {"Items": [sealed], "NextToken": ""}


async def test_seals_are_paged_newest_first(tmp_path: Path) -> None:
    """Every page starts where the previous one ended; nothing is repeated or omitted."""
    async with running_api(tmp_path / "data", **QUIET) as (_, client):
        for number in range(7):
            await client.put("/jobs", json=job_body(f"job-{number}"))
            assert (await client.post(SEALS)).status_code == 200
        sizes, token = [], ""
        while True:
            page = (await client.get(SEALS, params={"limit": 3, "next_token": token})).json()
            sizes += [[each["Size"] for each in page["Items"]]]
            token = page["NextToken"]
            if not token:
                break
        assert sizes == [[7, 6, 5], [4, 3, 2], [1]]
        for limit, status in ((SEALS_MAX_LIMIT, 200), (SEALS_MAX_LIMIT + 1, 400), (0, 200)):
            assert (await client.get(SEALS, params={"limit": limit})).status_code == status


async def test_an_empty_log_has_no_seals(tmp_path: Path) -> None:
    """An empty list, and a refusal with the reason."""
    async with running_api(tmp_path / "data", **QUIET) as (_, client):
        assert (await client.get(SEALS)).json() == {"Items": [], "NextToken": ""}
        answer = await client.post(SEALS)
        assert (answer.status_code, answer.json()["Code"]) == (409, "NotSealed")


async def test_only_an_admin_seals(tmp_path: Path) -> None:
    """A reader of one namespace may read keys and seals but not seal; without a token, neither."""
    directory = tmp_path / "data"
    directory.mkdir()
    tokens = TokenFile(directory / "tokens.json")
    _, reader = tokens.create("reader", Role.READER, ["team"])
    _, writer = tokens.create("writer", Role.WRITER)
    _, admin = tokens.create("admin", Role.ADMIN)
    async with running_api(directory, **QUIET) as (service, client):
        assert (await client.get(KEYS)).status_code == 401
        for token, status in ((reader, 403), (writer, 403), (admin, 409)):
            async with client_of(service, {"Authorization": f"Bearer {token}"}) as mine:
                assert (await mine.get(KEYS)).status_code == 200
                assert (await mine.get(SEALS)).status_code == 200
                assert (await mine.post(SEALS)).status_code == status


@pytest.mark.parametrize("path", [KEYS, SEALS])
async def test_a_key_file_that_others_may_read_is_reported(tmp_path: Path, path: str) -> None:
    """503, with the remedy in the log; the response has no path of the machine."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        await client.put("/jobs", json=job_body())
        service.settings.audit_keys_file.chmod(0o644)
        answer = await (client.get(path) if path == KEYS else client.post(path))
        assert answer.status_code == 503
        assert ("chmod 600" in answer.text) is (path == SEALS)
        assert (str(tmp_path) in answer.text) is (path == SEALS)


async def test_an_alarm_is_visible_everywhere(tmp_path: Path) -> None:
    """A published seal that does not match the log: 409, /readyz?verbose, a metric; the service runs on."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        await client.put("/jobs", json=job_body())
        forged = make_seal(service.sealer.origin, 1, b"\0" * 32, service.sealer.keys.signers())
        await publish_raw(service.log, f"jobledger.seals.{service.stream_tag}", forged.note.encode())
        answer = await client.post(SEALS)
        assert (answer.status_code, answer.json()["Code"]) == (409, "AuditFailed")
        ready = await client.get(f"{ROOT}/readyz?verbose")
        assert ready.status_code == 200
        assert "[!]seals failed: the first 1 events are not those that were sealed" in ready.text
        metrics = (await client.get(f"{ROOT}/metrics")).text
        assert "jobledger_seal_alarm 1.0" in metrics
        assert "jobledger_seal_failures_total 1.0" in metrics
        assert (await client.put("/jobs", json=job_body("another"))).status_code == 200


async def test_an_invalid_seal_is_listed_with_its_problem(tmp_path: Path) -> None:
    """A malformed message in the stream of seals is listed with the reason."""
    async with running_api(tmp_path / "data", **QUIET) as (service, client):
        await publish_raw(service.log, f"jobledger.seals.{service.stream_tag}", b"gar\xffbage")
        [item] = (await client.get(SEALS)).json()["Items"]
        assert (item["Size"], item["Keys"]) == (0, [])
        assert "not a signed note" in item["Problem"]


async def test_metrics_report_the_last_seal(tmp_path: Path) -> None:
    """How many events it covers, and how old it is."""
    async with running_api(tmp_path / "data", **QUIET) as (_, client):
        await client.put("/jobs", json=job_body())
        await client.post(SEALS)
        lines = dict(
            line.rsplit(" ", 1)
            for line in (await client.get(f"{ROOT}/metrics")).text.splitlines()
            if line.startswith("jobledger_seal")
        )
        assert lines["jobledger_seal_events"] == "1.0"
        assert 0 <= float(lines["jobledger_seal_age_seconds"]) < 60
        assert lines["jobledger_seal_alarm"] == "0.0"


async def test_a_service_seals_automatically(tmp_path: Path) -> None:
    """With a limit of one event, the next seal covers it; the file has it, too."""
    from tests.support.logs import eventually

    async with running_api(tmp_path / "data", seal_every_events=1) as (service, client):
        await client.put("/jobs", json=job_body())
        await eventually(lambda: service.sealer.state.last is not None, within_seconds=30)
        assert (tmp_path / "data" / "audit" / "seals.txt").read_text().startswith(service.sealer.origin)
