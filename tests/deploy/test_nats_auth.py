"""Authentication with NATS by settings, on real servers, and the messages of failures."""

import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]
import pytest

from jobledger import JetStreamLog
from jobledger.service.errors import InvalidSettings
from jobledger.service.nats_auth import connection_options
from jobledger.service.settings import Settings
from jobledger.store.model.errors import LogError, LogUnavailable
from tests.support.api import job_body, running_api
from tests.support.http_servers import receiving
from tests.support.logs import ask, eventually
from tests.support.nats_servers import Operator, make_certificates, nats_server, new_nkey
from tests.support.webhooks import LOCAL

PASSWORD = "correct horse battery staple"


def put(path: Path, text: str) -> Path:
    """A secret file, for its owner alone."""
    path.write_text(text)
    path.chmod(0o600)
    return path


async def connects(url: str, **settings: Any) -> None:
    """Connect with the settings, and use the log."""
    found = Settings(nats_url=url, **settings)
    log = await JetStreamLog.connect(found.nats_url, **connection_options(found))
    try:
        assert (await log.info()).last_sequence == 0
    finally:
        await log.close()


async def refused(url: str, **settings: Any) -> str:
    """What is said, with all of its causes."""
    with pytest.raises(LogError) as error:
        await connects(url, **settings)
    assert isinstance(error.value, LogUnavailable)
    return "".join(traceback.format_exception(error.value))


async def test_user_and_password_authenticate(tmp_path: Path) -> None:
    """From settings or from a file, without its last newline; wrong or missing ones do not."""
    authorization = {"user": "jobledger", "password": PASSWORD}
    file = put(tmp_path / "password", PASSWORD + "\n")
    async with nats_server(tmp_path / "nats", authorization=authorization) as port:
        url = f"nats://127.0.0.1:{port}"
        await connects(url, nats_user="jobledger", nats_password=PASSWORD)
        await connects(url, nats_user="jobledger", nats_password_file=file)
        for login in ({}, {"nats_user": "jobledger", "nats_password": PASSWORD + "!"}):
            said = await refused(url, **login)
            assert "credentials" in said
            assert PASSWORD not in said


async def test_a_changed_password_file_is_used_at_the_next_connect(tmp_path: Path) -> None:
    """While the file is missing, the previous password is used."""
    file = put(tmp_path / "password", "old")
    options = connection_options(Settings(nats_url="nats://x", nats_user="u", nats_password_file=file))
    assert options["password"]() == "old"
    put(file, "new")
    assert options["password"]() == "new"
    file.unlink()
    assert options["password"]() == "new"


async def test_an_nkey_authenticates(tmp_path: Path) -> None:
    """Its file may have comments; another key is rejected."""
    seed, public = new_nkey()
    other, _ = new_nkey()
    async with nats_server(tmp_path / "nats", authorization={"users": [{"nkey": public}]}) as port:
        url = f"nats://127.0.0.1:{port}"
        await connects(url, nats_nkey_file=put(tmp_path / "key", f"# of the test\n{seed}\n"))
        said = await refused(url, nats_nkey_file=put(tmp_path / "other", other))
        assert "credentials" in said
        assert other not in said


async def test_a_credentials_file_authenticates(tmp_path: Path) -> None:
    """JWT and nkey of a decentralized setup; those of another account, or expired ones, are rejected."""
    operator, stranger = Operator(), Operator()
    async with nats_server(tmp_path / "nats", **operator.config()) as port:
        url = f"nats://127.0.0.1:{port}"
        await connects(url, nats_creds_file=put(tmp_path / "creds", operator.credentials()))
        for name, wrong in (
            ("stranger", stranger.credentials()),
            ("expired", operator.credentials(expires_in_seconds=-10)),
        ):
            said = await refused(url, nats_creds_file=put(tmp_path / name, wrong))
            assert "credentials" in said
            assert wrong.splitlines()[1] not in said


async def test_the_service_needs_only_the_documented_rights(tmp_path: Path) -> None:
    """It writes, reads, repeats, seals and delivers with these subjects."""
    permissions = {
        "publish": [
            *("jobs.>", "jobledger.keys.*", "jobledger.seals.*", "JOBS_SUBSCRIPTIONS.>"),
            *("JOBS_WEBHOOKS.>", "$JS.API.>", "$JS.ACK.JOBS.>"),
        ],
        "subscribe": ["_INBOX.>"],
    }
    user = {"user": "jobledger", "password": PASSWORD, "permissions": permissions}
    page = (Path(__file__).parents[2] / "docs" / "SECURITY.md").read_text()
    assert all(f"`{subject}`" in page for subjects in permissions.values() for subject in subjects)
    async with nats_server(tmp_path / "nats", authorization={"users": [user]}) as port:
        url = f"nats://127.0.0.1:{port}"
        login: dict[str, Any] = {"nats_url": url, "nats_user": "jobledger", "nats_password": PASSWORD}
        async with (
            receiving() as receiver,
            running_api(tmp_path / "data", webhook_allow=LOCAL, **login) as (service, client),
        ):
            key = {"Idempotency-Key": "abc"}
            first = await client.put("/jobs", json=job_body(), headers=key)
            assert (await client.put("/jobs", json=job_body(), headers=key)).json() == first.json()
            job_id = first.json()["JobID"]
            assert (await client.get(f"/jobs/{job_id}/history")).json()["Items"]
            api = "http://127.0.0.1/api/v1"
            hook = {"URL": receiver.url("/hook"), "Name": "hook", "After": "0"}
            assert (await client.post(f"{api}/webhooks", json=hook)).status_code == 200
            (delivered,) = await receiver.wait_for(1)
            assert delivered.event["subject"] == job_id
            assert (await client.post(f"{api}/audit/seals")).status_code == 200
            name = "webhook-hook"

            async def is_acknowledged() -> bool:
                reported = await ask(service.log, f"CONSUMER.INFO.JOBS.{name}")
                return bool(reported["ack_floor"]["stream_seq"] == 1)

            await eventually(is_acknowledged, within_seconds=60)


FILES: dict[str, tuple[str, bytes]] = {
    "password, empty": ("nats_password_file", b"\n"),
    "password, not text": ("nats_password_file", b"\xff"),
    "password, too large": ("nats_password_file", b"x" * 70_000),
    "nkey, empty": ("nats_nkey_file", b""),
    "nkey, none": ("nats_nkey_file", b"SUSECRETSECRETSECRET"),
    "nkey, of an account": ("nats_nkey_file", new_nkey(nkeys.PREFIX_BYTE_ACCOUNT)[0].encode()),
    "nkey, public": ("nats_nkey_file", new_nkey()[1].encode()),
    "nkey, two": ("nats_nkey_file", f"{new_nkey()[0]}\n{new_nkey()[0]}".encode()),
    "creds, without a JWT": ("nats_creds_file", b"SUSECRETSECRETSECRET"),
    "creds, with a wrong seed": (
        "nats_creds_file",
        Operator().credentials().replace("\nSU", "\nSUA").encode(),
    ),
}


@pytest.mark.parametrize(("setting", "content"), FILES.values(), ids=FILES)
def test_an_invalid_secret_file_is_rejected(tmp_path: Path, setting: str, content: bytes) -> None:
    """Before a connection; the message names setting and file, and no content."""
    path = tmp_path / "secret"
    for exists in (True, False):
        if exists:
            path.write_bytes(content)
        else:
            path.unlink()
        given: dict[str, Any] = {setting: path}
        found = Settings(nats_url="nats://x", nats_user="u", **given)
        with pytest.raises(InvalidSettings, match=f"{setting} {path}") as error:
            connection_options(found)
        said = "".join(traceback.format_exception(error.value))
        assert "SECRETSECRET" not in said
        assert not exists or len(content) < 20 or content[:20].decode() not in said


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: (path / "ca.pem").write_text("nothing"),
        lambda path: (path / "ca.pem").unlink(),
        lambda path: (path / "client.key").write_text("nothing"),
        lambda path: (path / "client.key").write_bytes((path / "server.key").read_bytes()),
        lambda path: (path / "client.pem").unlink(),
    ],
)
def test_invalid_certificates_are_rejected(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    """By the names of their settings."""
    make_certificates(tmp_path)
    settings = Settings(
        nats_url="tls://x",
        nats_tls_ca=tmp_path / "ca.pem",
        nats_tls_cert=tmp_path / "client.pem",
        nats_tls_key=tmp_path / "client.key",
    )
    assert isinstance(connection_options(settings)["tls"], ssl.SSLContext)
    spoil(tmp_path)
    with pytest.raises(InvalidSettings, match="nats_tls_c"):
        connection_options(settings)


def test_a_warning_is_logged_for_a_secret_that_every_user_can_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is used nevertheless: container platforms mount secrets like that."""
    seed, _ = new_nkey()
    file = put(tmp_path / "key", seed)
    connection_options(Settings(nats_url="nats://x", nats_nkey_file=file))
    assert caplog.text == ""
    file.chmod(0o644)
    connection_options(Settings(nats_url="nats://x", nats_nkey_file=file))
    assert "nats_nkey_file" in caplog.text
    assert seed not in caplog.text


def test_without_settings_there_are_no_options() -> None:
    """The URL of the embedded server contains its credentials."""
    assert connection_options(Settings()) == {}
