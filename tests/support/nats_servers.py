"""Real nats-servers with authentication or TLS, and certificates for them."""

import asyncio
import base64
import hashlib
import json
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import nkeys  # type: ignore[import-untyped]

from jobledger.store.embedded import find_program

START_TIMEOUT_SECONDS = 20.0
_OWNER = """
import asyncio, sys
from pathlib import Path
from jobledger import EmbeddedServer

async def main():
    server = await EmbeddedServer(Path(sys.argv[1])).start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@asynccontextmanager
async def nats_server(directory: Path, **config: Any) -> AsyncIterator[int]:
    """Run a nats-server with JetStream and this configuration; yields its port."""
    directory.mkdir(parents=True, exist_ok=True)
    ports = directory / "ports"
    ports.mkdir(exist_ok=True)
    file = directory / "nats.conf"
    # nats-server accepts JSON as configuration.
    file.write_text(
        json.dumps(
            {
                "listen": "127.0.0.1:-1",
                "ports_file_dir": str(ports),
                "jetstream": {"store_dir": str(directory / "store")},
                **config,
            }
        )
    )
    with (directory / "nats.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(find_program(), "-c", file, stdout=log, stderr=log)
    try:
        async with asyncio.timeout(START_TIMEOUT_SECONDS):
            port = await _port(process, ports, directory / "nats.log")
        yield port
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def start_owner(directory: Path) -> tuple[asyncio.subprocess.Process, int]:
    """Start a process that owns an embedded server; returns it and the pid of that server."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _OWNER, directory, stdout=asyncio.subprocess.PIPE
    )
    assert owner.stdout is not None
    return owner, int(await owner.stdout.readline())


async def _port(process: asyncio.subprocess.Process, ports: Path, log: Path) -> int:
    """Wait for the file to which the server writes its port."""
    while True:
        assert process.returncode is None, log.read_text()
        for file in ports.glob("*.ports"):
            text = file.read_text()
            if text.endswith("}"):
                return int(json.loads(text)["nats"][0].rpartition(":")[2])
        await asyncio.sleep(0.005)


def make_certificates(directory: Path) -> None:
    """Create `ca.pem`, `server.pem` and `client.pem`, each with its `.key`, for 127.0.0.1 and localhost."""
    directory.mkdir(parents=True, exist_ok=True)
    _openssl(directory, "req", "-x509", "-subj", "/CN=test CA", "-keyout", "ca.key", "-out", "ca.pem")
    for name in ("server", "client"):
        extensions = directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\n")
        _openssl(directory, "req", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        subprocess.run(
            [
                *("openssl", "x509", "-req", "-in", f"{name}.csr", "-days", "2", "-extfile", extensions),
                *("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", f"{name}.pem"),
            ],
            cwd=directory,
            check=True,
            capture_output=True,
        )


def _openssl(directory: Path, command: str, *more: str) -> None:
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(["openssl", command, *key, *more], cwd=directory, check=True, capture_output=True)


def new_nkey(prefix: int = nkeys.PREFIX_BYTE_USER) -> tuple[str, str]:
    """Return a seed and its public key."""
    seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
    return seed.decode(), nkeys.from_seed(bytearray(seed)).public_key.decode()


class Operator:
    """A decentralized setup: an operator, an account with JetStream, and credentials of its users."""

    def __init__(self) -> None:
        self._operator, self.operator_key = new_nkey(nkeys.PREFIX_BYTE_OPERATOR)
        self._account, self.account_key = new_nkey(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system, self.system_key = new_nkey(nkeys.PREFIX_BYTE_ACCOUNT)

    def config(self) -> dict[str, Any]:
        """The configuration of the server."""
        limits = {"subs": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1, "data": -1, "payload": -1}
        storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1, "wildcards": True}
        claims = {"type": "account", "version": 2}
        return {
            "operator": _jwt(self._operator, self.operator_key, "op", {"type": "operator", "version": 2}),
            "system_account": self.system_key,
            "resolver": "MEMORY",
            "resolver_preload": {
                self.account_key: _jwt(
                    self._operator, self.account_key, "jobs", {**claims, "limits": {**limits, **storage}}
                ),
                self.system_key: _jwt(self._operator, self.system_key, "SYS", {**claims, "limits": limits}),
            },
        }

    def credentials(self, *, expires_in_seconds: int | None = None) -> str:
        """Create a credentials file of a new user, in the format of `nsc generate creds`."""
        seed, public = new_nkey()
        limits = {"subs": -1, "data": -1, "payload": -1}
        claims = {"type": "user", "version": 2, "pub": {}, "sub": {}, **limits}
        jwt = _jwt(self._account, public, "jobledger", claims, expires_in_seconds)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )


def _jwt(
    issuer_seed: str, subject: str, name: str, nats: dict[str, Any], expires_in_seconds: int | None = None
) -> str:
    issuer = nkeys.from_seed(bytearray(issuer_seed.encode()))
    claims: dict[str, Any] = {
        "iat": int(time.time()),
        "iss": issuer.public_key.decode(),
        "name": name,
        "sub": subject,
        "nats": nats,
    }
    if expires_in_seconds is not None:
        claims["exp"] = int(time.time()) + expires_in_seconds
    digest = hashlib.new("sha512_256", json.dumps(claims).encode()).digest()
    claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
    parts = [_part({"typ": "JWT", "alg": "ed25519-nkey"}), _part(claims)]
    signature = issuer.sign(".".join(parts).encode())
    return ".".join([*parts, base64.urlsafe_b64encode(signature).decode().rstrip("=")])


def _part(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")
