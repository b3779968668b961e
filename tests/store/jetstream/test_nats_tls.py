"""TLS to NATS: the server's certificate is checked, and nothing is sent unencrypted instead."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jobledger import JetStreamLog
from jobledger.service.nats_auth import connection_options
from jobledger.service.settings import Settings
from jobledger.store.model.errors import LogUnavailable
from tests.support.nats_servers import make_certificates, nats_server

RECONNECT_TIMEOUT_SECONDS = 20.0


async def connect(url: str, **settings: Any) -> JetStreamLog:
    """A log on that server, by settings."""
    return await JetStreamLog.connect(url, **connection_options(Settings(nats_url=url, **settings)))


def tls_of(directory: Path) -> dict[str, Any]:
    """A server's configuration with the existing certificate."""
    return {"cert_file": str(directory / "server.pem"), "key_file": str(directory / "server.key")}


async def test_the_certificate_is_checked_against_the_given_ca(tmp_path: Path) -> None:
    """A certificate of another CA, of the system's CA, or with another name is refused."""
    make_certificates(tmp_path)
    make_certificates(tmp_path / "other")
    async with nats_server(tmp_path / "nats", tls=tls_of(tmp_path)) as port:
        for host in ("nats://127.0.0.1", "tls://127.0.0.1", "tls://localhost"):
            await (await connect(f"{host}:{port}", nats_tls_ca=tmp_path / "ca.pem")).close()
        for ca in (None, tmp_path / "other" / "ca.pem"):
            with pytest.raises(LogUnavailable, match=r"certificate .* is not trusted"):
                await connect(f"tls://127.0.0.1:{port}", nats_tls_ca=ca)
    async with nats_server(tmp_path / "nats", tls=tls_of(tmp_path), listen="127.0.0.2:-1") as port:
        with pytest.raises(LogUnavailable, match=r"certificate .* is not trusted"):
            await connect(f"tls://127.0.0.2:{port}", nats_tls_ca=tmp_path / "ca.pem")


async def test_client_certificate_is_sent_if_required(tmp_path: Path) -> None:
    """Without one the connection is refused."""
    make_certificates(tmp_path)
    tls = {**tls_of(tmp_path), "ca_file": str(tmp_path / "ca.pem"), "verify": True}
    mine = {"nats_tls_cert": tmp_path / "client.pem", "nats_tls_key": tmp_path / "client.key"}
    async with nats_server(tmp_path / "nats", tls=tls) as port:
        url = f"tls://127.0.0.1:{port}"
        await (await connect(url, nats_tls_ca=tmp_path / "ca.pem", **mine)).close()
        with pytest.raises(LogUnavailable, match="certificate"):
            await connect(url, nats_tls_ca=tmp_path / "ca.pem")


@pytest.mark.parametrize("scheme", ["nats", "tls"])
async def test_password_is_never_sent_unencrypted_if_tls_is_configured(tmp_path: Path, scheme: str) -> None:
    """Another server in its place could pretend that it needs no TLS."""
    make_certificates(tmp_path)
    login = {"user": "u", "password": "hunter2"}
    async with nats_server(tmp_path / "nats", authorization=login) as port:
        with pytest.raises(LogUnavailable, match="TLS is configured") as refused:
            await connect(
                f"{scheme}://127.0.0.1:{port}",
                nats_tls_ca=tmp_path / "ca.pem",
                nats_user="u",
                nats_password="hunter2",
            )
        assert "hunter2" not in str(refused.value)
        if scheme == "tls":  # also without a configured CA
            with pytest.raises(LogUnavailable, match="TLS is configured"):
                await connect(f"tls://127.0.0.1:{port}", nats_user="u", nats_password="hunter2")


async def test_repaired_certificate_is_accepted_again(tmp_path: Path) -> None:
    """A failed handshake does not end the attempts to connect."""
    make_certificates(tmp_path)
    make_certificates(tmp_path / "other")
    async with nats_server(tmp_path / "nats", tls=tls_of(tmp_path)) as port:
        log = await connect(f"tls://127.0.0.1:{port}", nats_tls_ca=tmp_path / "ca.pem")
    listen = f"127.0.0.1:{port}"
    try:
        wrong = tmp_path / "wrong"
        async with nats_server(wrong, tls=tls_of(tmp_path / "other"), listen=listen, debug=True):
            await handshake_failed(wrong / "nats.log")
        async with nats_server(tmp_path / "nats", tls=tls_of(tmp_path), listen=listen):
            await log._connection.wait_up(RECONNECT_TIMEOUT_SECONDS)
            assert (await log.info()).last_sequence == 0
    finally:
        await log.close()


async def handshake_failed(server_log: Path) -> None:
    """Waits until the server has logged two of them."""
    async with asyncio.timeout(RECONNECT_TIMEOUT_SECONDS):
        while server_log.read_text().count("TLS handshake error") < 2:  # noqa: ASYNC110  # a file
            await asyncio.sleep(0.01)
