"""Three real nats-servers as a cluster on loopback, with the files that docker-compose.yml mounts."""

import asyncio
import json
import os
import random
import shutil
import socket
from asyncio.subprocess import Process
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx

from jobledger import JetStreamLog, StreamSettings
from jobledger.store.embedded import find_program
from jobledger.store.embedded.process import end_with_parent
from tests.support.logs import eventually

CONFIGS = Path(__file__).parents[2] / "deploy" / "nats"
SUBSCRIBERS = tuple(  # the variables of subscribers' passwords
    f"NATS_{name}_PASSWORD" for name in ("BILLING", "SHIPPING", "AUDIT", "NODE_BILLING")
)
PASSWORD = "12e5"  # a configuration file without the quotes would read it as a number
OPERATOR_PASSWORD = "0x7k"
CLUSTER_PASSWORD = "routes-1"
READY_SECONDS = 30.0  # until three nodes have a leader, on a machine that is busy with other tests

PORTS = (12_000, 30_000)  # to choose from
STOP_SECONDS = 20.0


def free_ports(count: int) -> list[int]:
    """Return distinct free ports of 127.0.0.1.

    They are below the kernel's range for outgoing connections: a restarted node must find its port free,
    and a client that connects to a dead node could otherwise get that port and connect to itself.
    """
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            port = random.randrange(*PORTS)
            with suppress(OSError):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
        return found


class Cluster:
    """`async with Cluster(directory) as cluster`; the nodes are 1, 2 and 3, as in their file names."""

    def __init__(self, directory: Path, *, accounts: str = "accounts.conf", streams: bool = True) -> None:
        """Configure three nodes.

        Args:
            directory: for the files of the nodes.
            accounts: which of the deployed account files to use.
            streams: whether to create the streams as the operator, which a service needs.
        """
        self._directory = directory
        self._configs = directory / "config"
        shutil.copytree(CONFIGS, self._configs)
        shutil.copy(CONFIGS / accounts, self._configs / "accounts.conf")
        self._streams = streams
        self._hosts = dict.fromkeys((1, 2, 3), "127.0.0.1")
        self._prefix: dict[int, tuple[str, ...]] = dict.fromkeys((1, 2, 3), ())  # of a node's command line
        ports = free_ports(9)
        self._client = dict(zip((1, 2, 3), ports[:3], strict=True))
        self._monitor = dict(zip((1, 2, 3), ports[3:6], strict=True))
        self._route = dict(zip((1, 2, 3), ports[6:], strict=True))
        self._processes: dict[int, Process] = {}
        self._http = httpx.AsyncClient(timeout=5)

    @property
    def addresses(self) -> str:
        """The URLs of all nodes without credentials, for the setting `nats_url`."""
        return ",".join(f"nats://{self.address_of(node)}" for node in self._client)

    @property
    def url(self) -> str:
        """The URLs of all nodes with the service's credentials."""
        return self.url_of(1, 2, 3)

    def url_of(self, *nodes: int, user: str = "jobledger", password: str = PASSWORD) -> str:
        """Return the URLs of some nodes with credentials."""
        return ",".join(f"nats://{user}:{password}@{self.address_of(node)}" for node in nodes)

    def address_of(self, node: int) -> str:
        """Return host and port of a node."""
        return f"{self._hosts[node]}:{self._client[node]}"

    def store_of(self, node: int) -> Path:
        """Return the store directory of a node."""
        return self._directory / f"nats-{node}"

    @property
    def operator_url(self) -> str:
        """The URLs of all nodes with the credentials of the operator."""
        return self.url_of(1, 2, 3, user="operator", password=OPERATOR_PASSWORD)

    async def start(self, *nodes: int) -> None:
        """Start some nodes, by default all, and wait until they are ready."""
        for node in nodes or (1, 2, 3):
            await self._launch(node)
        await self.wait_ready()

    def pids(self) -> dict[int, int]:
        """The running processes, by node."""
        return {node: process.pid for node, process in self._processes.items()}

    async def kill(self, node: int) -> None:
        """Kill a node."""
        self._processes[node].kill()
        await self._processes.pop(node).wait()

    async def stop(self) -> None:
        """Shut down all nodes."""
        for process in self._processes.values():
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                for process in self._processes.values():
                    await process.wait()
        finally:
            for process in self._processes.values():
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            self._processes.clear()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
            if self._streams:
                await self.make_streams()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def make_streams(self) -> None:
        """Create the streams with three replicas, as the operator."""
        operator = await JetStreamLog.connect(self.operator_url, StreamSettings(replicas=3))
        try:
            await operator.prepare_streams()
        finally:
            await operator.close()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        await self._http.aclose()

    async def wait_ready(self, within_seconds: float = READY_SECONDS) -> None:
        """Wait until every running node is healthy: it knows the leader and is current."""
        for node in tuple(self._processes):
            await eventually(partial(self._healthy, node), within_seconds=within_seconds)

    async def leader(self, stream: str = "JOBS") -> int:
        """Return the node that leads a stream, once all running nodes agree."""
        found: list[int] = []

        async def agreed() -> bool:
            leaders = {await self._leader_by(node, stream) for node in self._processes}
            found[:] = [leader for leader in leaders if leader in self._processes]
            return len(leaders) == 1 and len(found) == 1

        await eventually(agreed, within_seconds=READY_SECONDS)
        return found[0]

    async def meta_leader(self) -> int:
        """Return the meta leader, which answers for the account and new streams."""
        found: list[int] = []

        async def agreed() -> bool:
            seen = [await self.monitor(node, "/jsz") for node in self._processes]
            names = {each.get("meta_cluster", {}).get("leader", "") for each in seen}
            found[:] = [node for node in self._processes if names == {f"nats-{node}"}]
            return bool(found)

        await eventually(agreed, within_seconds=READY_SECONDS)
        return found[0]

    async def is_alone(self, node: int) -> bool:
        """Whether a node has noticed that it lost the majority; before that it answers like a leader."""
        return not await self._healthy(node) and not await self._leader_by(node, "JOBS")

    async def monitor(self, node: int, path: str) -> dict[str, Any]:
        """Return a monitoring document of a node: `/varz`, `/jsz`, and so on."""
        answer = await self._http.get(f"http://{self._hosts[node]}:{self._monitor[node]}{path}")
        return dict(json.loads(answer.text))

    def log_of(self, node: int) -> str:
        """Return the log of a node."""
        return (self._directory / f"nats-{node}.log").read_text(errors="replace")

    async def _launch(self, node: int) -> None:
        with (self._directory / f"nats-{node}.log").open("ab") as out:
            self._processes[node] = await asyncio.create_subprocess_exec(
                *self._prefix[node],
                find_program(),
                "-c",
                self._configs / f"nats-{node}.conf",
                env=os.environ | {name: _quoted(value) for name, value in self._environment(node).items()},
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                preexec_fn=end_with_parent(),  # plain calls only, like the embedded server's
            )

    def _environment(self, node: int) -> dict[str, object]:
        host = self._hosts[node]
        routes = [
            f"nats://cluster:{CLUSTER_PASSWORD}@{self._hosts[other]}:{port}"
            for other, port in self._route.items()
        ]
        return {
            "NATS_LISTEN": self.address_of(node),
            "NATS_MONITOR_LISTEN": f"{host}:{self._monitor[node]}",
            "NATS_ROUTE_LISTEN": f"{host}:{self._route[node]}",
            "NATS_STORE_DIR": str(self.store_of(node)),
            "NATS_ROUTES": routes,
            "NATS_PASSWORD": PASSWORD,
            **dict.fromkeys(SUBSCRIBERS, PASSWORD),
            "NATS_OPERATOR_PASSWORD": OPERATOR_PASSWORD,
            "NATS_CLUSTER_PASSWORD": CLUSTER_PASSWORD,
        }

    async def _healthy(self, node: int) -> bool:
        assert self._processes[node].returncode is None, f"node {node} ended:\n{self.log_of(node)}"
        try:
            return (await self.monitor(node, "/healthz")).get("status") == "ok"
        except (httpx.HTTPError, ValueError):
            return False

    async def _leader_by(self, node: int, stream: str) -> int:
        """Return the leader of a stream as seen by one node; 0: none."""
        try:
            seen = await self.monitor(node, "/jsz?accounts=true&streams=true")
        except (httpx.HTTPError, ValueError):
            return 0
        for account in seen.get("account_details", ()):
            for detail in account.get("stream_detail", ()):
                if detail["name"] == stream:
                    return int(detail.get("cluster", {}).get("leader", "nats-0").removeprefix("nats-") or 0)
        return 0


def _quoted(value: object) -> str:
    """Return a value for nats-server's configuration: JSON, whose strings are never read as numbers."""
    return json.dumps(value)
