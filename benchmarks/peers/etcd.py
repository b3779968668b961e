"""etcd: a key for a job's spec and one for its state, written in one transaction.

The history is etcd's own: it keeps every revision of a key until it is told to compact, and here it is not.
The client is aetcd, whose gRPC stubs are called directly. A write is on disk before it is answered, and
writes that wait at the same time share a sync. The state is a key of its own, because etcd rewrites a whole
value.
"""

import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.peers.jobs import TERMINAL, StateEntry, new_job, state_entry
from benchmarks.peers.peer import (
    PAGE_JOBS,
    Store,
    free_port,
    library,
    program,
    running,
    until_listening,
)
from benchmarks.workload import job_key
from jobledger.store.model.job import StateType

_INSTALL: Final = "apt-get install etcd-server, or put a newer etcd on the PATH"
_QUOTA_BYTES: Final = 8 << 30


def _program() -> str:
    return program("etcd", [], _INSTALL)


def version() -> str:
    """Return the server's version, such as `3.6.5`."""
    text = subprocess.run([_program(), "--version"], check=True, capture_output=True, text=True).stdout
    found = re.search(r"etcd Version: (\S+)", text)
    return found.group(1) if found else ""


class Etcd:
    """The peer."""

    name = "etcd"
    missing_operations = frozenset[str]()

    def check(self) -> None:
        """Look for the server and its client library."""
        library("aetcd", "aetcd")
        self.name = f"etcd {version()}"

    @asynccontextmanager
    async def open(self, directory: Path) -> AsyncIterator[Store]:
        """Start a cluster of one member."""
        port, peer_port = free_port(), free_port()
        url, peer_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{peer_port}"
        arguments = {
            "data-dir": str(directory / "etcd"),
            "listen-client-urls": url,
            "advertise-client-urls": url,
            "listen-peer-urls": peer_url,
            "initial-advertise-peer-urls": peer_url,
            "initial-cluster": f"default={peer_url}",
            "quota-backend-bytes": str(_QUOTA_BYTES),
            "log-level": "error",
        }
        command = [_program(), *(f"--{name}={value}" for name, value in arguments.items())]
        async with running(*command, stop=signal.SIGTERM, cwd=directory) as process:
            await until_listening(process, port)
            client = library("aetcd", "aetcd").Client("127.0.0.1", port)
            await client.connect()
            try:
                yield _Keys(self.name, client, process.pid)
            finally:
                await client.close()


class _Keys:
    def __init__(self, name: str, client: Any, pid: int) -> None:
        self.name = name
        self._client = client
        self._pid = pid
        self._rpc = library("aetcd.rpc", "aetcd")
        self._known = dict[int, tuple[int, str]]()  # a cache, like that of our ledger: no read before a write

    async def create(self, number: int) -> None:
        job = new_job(number)
        rpc, (spec_key, state_key) = self._rpc, _keys(number)
        answer = await self._client.kvstub.Txn(
            rpc.TxnRequest(
                compare=[
                    rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VERSION, key=spec_key, version=0)
                ],
                success=[
                    self._put(spec_key, job.spec.encode()),
                    self._put(state_key, state_entry(StateType.PENDING).encode()),
                ],
            )
        )
        assert answer.succeeded
        self._known[number] = answer.header.revision, str(StateType.PENDING)

    async def set_state(self, number: int, state: StateType) -> None:
        rpc, (_, key) = self._rpc, _keys(number)
        revision, current = self._known.get(number) or await self._read_state(key)
        assert current not in TERMINAL
        answer = await self._client.kvstub.Txn(
            rpc.TxnRequest(
                compare=[
                    rpc.Compare(
                        result=rpc.Compare.EQUAL,
                        target=rpc.Compare.MOD,
                        key=key,
                        mod_revision=revision,
                    )
                ],
                success=[self._put(key, state_entry(state).encode())],
            )
        )
        assert answer.succeeded
        self._known[number] = answer.header.revision, str(state)

    async def get(self, number: int) -> None:
        found = await self._client.kvstub.Txn(
            self._rpc.TxnRequest(success=[self._range(key) for key in _keys(number)])
        )
        assert all(len(each.response_range.kvs) == 1 for each in found.responses)

    async def page(self, namespace: str) -> int:
        prefixes = [f"{kind}/{namespace}/".encode() for kind in ("spec", "state")]
        found = await self._client.kvstub.Txn(
            self._rpc.TxnRequest(
                success=[
                    self._range(prefix, range_end=prefix[:-1] + b"0", limit=PAGE_JOBS) for prefix in prefixes
                ]
            )
        )
        return min(len(each.response_range.kvs) for each in found.responses)

    def forget(self) -> None:
        self._known.clear()

    async def settle(self) -> None:
        pass

    async def used_bytes(self) -> int:
        status = await self._client.maintenancestub.Status(self._rpc.StatusRequest())
        found: int = status.dbSizeInUse
        return found

    def pids(self) -> list[int]:
        return [self._pid]

    async def _read_state(self, key: bytes) -> tuple[int, str]:
        found = await self._client.kvstub.Range(self._rpc.RangeRequest(key=key, serializable=True))
        [pair] = found.kvs
        return pair.mod_revision, msgspec.json.decode(pair.value, type=StateEntry).state

    def _put(self, key: bytes, value: bytes) -> Any:
        return self._rpc.RequestOp(request_put=self._rpc.PutRequest(key=key, value=value))

    def _range(self, key: bytes, **options: Any) -> Any:
        return self._rpc.RequestOp(
            request_range=self._rpc.RangeRequest(key=key, serializable=True, **options)
        )


def _keys(number: int) -> tuple[bytes, bytes]:
    key = job_key(number)
    return f"spec/{key.namespace}/{key.name}".encode(), f"state/{key.namespace}/{key.name}".encode()
