"""The system under test: one service with its embedded server, or three nodes with two services."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Final, Literal, Self

import httpx

from jobledger import JetStreamLog, JobledgerError, StreamSettings
from jobledger.store.local_service import find_connection
from tests.chaos.machine import DiskImage, SmallDisk
from tests.support.cluster import PASSWORD, Cluster, free_ports
from tests.support.namespaces import NamespaceCluster, why_no_namespaces
from tests.support.proxy import Proxy
from tests.support.service_process import clean_env
from tests.support.workers import workers_of

RECOVERY_SECONDS: Final = 120.0  # for an election and two Python processes, on two busy cores
POLL_SECONDS: Final = 0.05
SMALL_DISK_MEGABYTES: Final = 48
IMAGE_MEGABYTES: Final = 96
Storage = Literal["plain", "small", "images"]
_ROOT: Final = Path(__file__).parent.parent.parent


class NotRecovered(AssertionError):
    """The system did not recover in time."""


class Service:
    """`jobledger serve` on a fixed port, as run by a supervisor: killed, paused, restarted."""

    def __init__(
        self, home: Path, name: str, port: int, flags: Sequence[str], env: dict[str, str] | None = None
    ) -> None:
        self.data_dir = home / name
        self.url = f"http://127.0.0.1:{port}"
        self._home = home
        self._flags = ("--port", str(port), "--data-dir", str(self.data_dir), *flags)
        self._env = env or {}
        self._log = home / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def view(self) -> Path:
        """The file of its view."""
        return self.data_dir / "view.sqlite"

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """Its output so far, over all starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it, without waiting."""
        assert self._process is None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "jobledger.service.cli.main", "serve", *self._flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=clean_env(self._home, self._env),
                cwd=_ROOT,
            )

    def embedded_pid(self) -> int:
        """Return the process id of its nats-server; 0: none is running."""
        if self._process is None:
            return 0
        with suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    if "nats-server" in Path(f"/proc/{child}/comm").read_text():
                        return int(child)
        return 0

    def worker_pids(self) -> list[int]:
        """The processes of its workers."""
        return workers_of(self.pid)

    def kill(self) -> None:
        """Kill it, also if it is paused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def stop(self, within_seconds: float = 40.0) -> None:
        """Shut it down in order, or kill it if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        deadline = time.monotonic() + within_seconds
        while self._process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process
            await asyncio.sleep(POLL_SECONDS)
        self.kill()

    def exit_code(self) -> int | None:
        """Return the exit code if it exited by itself, else None."""
        return None if self._process is None else self._process.poll()

    def restart_if_ended(self) -> None:
        """Restart it if it exited, as a supervisor does."""
        if self._process is not None and self._process.poll() is not None:
            self._process = None
            self.start()

    async def readiness(self) -> tuple[int, str]:
        """Return the status and text of `/readyz`; 0 without a response."""
        try:
            async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
                response = await client.get(f"{self.url}/readyz", params={"verbose": ""})
        except httpx.TransportError as error:
            return 0, repr(error)
        return response.status_code, response.text

    async def wait_ready(self, within_seconds: float = RECOVERY_SECONDS, *, supervised: bool = True) -> None:
        """Wait until it is ready.

        Raises:
            NotRecovered: it is not ready in time, or exits and is not `supervised`.
        """
        deadline = time.monotonic() + within_seconds
        answer: tuple[int, str] = (0, "")
        while time.monotonic() < deadline:
            answer = await self.readiness()
            if answer[0] == httpx.codes.OK:
                return
            if self.exit_code() is not None and not supervised:
                break
            self.restart_if_ended()
            await asyncio.sleep(POLL_SECONDS)
        tail = "\n".join(self.log().splitlines()[-30:])
        raise NotRecovered(
            f"{self.data_dir.name} is not ready: {answer}, exit code {self.exit_code()}\n{tail}"
        )


class Topology:
    """The common part of both topologies.

    Args:
        directory: of all files.
        storage: of the log: a plain folder, `small` disks that can be filled, or disk `images`.

    Attributes:
        disks: small disks, by their contents: `log`, `view`, `node-1`, ….
        images: disk images, by the same names.
    """

    name = ""
    replicas = 1

    def __init__(self, directory: Path, storage: Storage = "plain") -> None:
        self.directory = directory
        self.storage = storage
        self.services: list[Service] = []
        self.disks: dict[str, SmallDisk] = {}
        self.images: dict[str, DiskImage] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            await self._set_up()
            for service in self.services:
                service.start()
                self._stack.push_async_callback(service.stop)
            for service in self.services:
                await service.wait_ready()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _set_up(self) -> None:
        raise NotImplementedError

    def _mount(self, name: str, folder: Path) -> None:
        """Mount the storage at a folder, before the system starts."""
        if self.storage == "small":
            self.disks[name] = SmallDisk(folder, SMALL_DISK_MEGABYTES)
            self._stack.callback(self.disks[name].remove)
        elif self.storage == "images":
            self.images[name] = DiskImage(folder, IMAGE_MEGABYTES)
            self._stack.callback(self.images[name].remove)

    @property
    def urls(self) -> list[str]:
        """The URLs of the services."""
        return [service.url for service in self.services]

    def nats_url(self) -> str:
        """The current URL of the log, with credentials; empty if it is down."""
        raise NotImplementedError

    def stores(self) -> dict[str, Path]:
        """Return the store directory of each server, by name."""
        raise NotImplementedError

    async def open_log(self) -> JetStreamLog:
        """Return a direct connection to the log, retrying until it works."""
        deadline = time.monotonic() + RECOVERY_SECONDS
        while True:
            url = self.nats_url()
            try:
                if url:
                    return await JetStreamLog.connect(url, StreamSettings(replicas=self.replicas))
            except (JobledgerError, OSError):
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(POLL_SECONDS)

    async def wait_ready(self, within_seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until every service is ready, restarting those that exited."""
        await asyncio.gather(*(service.wait_ready(within_seconds) for service in self.services))

    def logs(self) -> dict[str, str]:
        """Return the output of every process, by name."""
        return {service.data_dir.name: service.log() for service in self.services}

    def command_flags(self) -> tuple[list[str], dict[str, str]]:
        """Return the flags and environment for commands that read the log, such as `audit verify`."""
        raise NotImplementedError


class Single(Topology):
    """One service with its embedded server."""

    name = "single"
    more_flags: tuple[str, ...] = ()

    @property
    def service(self) -> Service:
        """The only service."""
        return self.services[0]

    @property
    def server_directory(self) -> Path:
        """The directory of the embedded server."""
        return self.service.data_dir / "nats"

    async def _set_up(self) -> None:
        self._mount("view", self.directory / "one")
        if self.storage == "small":  # of an image, log and view lose power together
            self._mount("log", self.directory / "one" / "nats")
        env = {}
        if self.storage == "small":
            runtime = self.directory / "runtime"
            self._mount("staging", runtime)
            env["XDG_RUNTIME_DIR"] = str(runtime)
        (port,) = free_ports(1)
        flags = ("--webhook-allow", "127.0.0.1", "--seal-every-events", "200", "--seal-every-seconds", "5")
        self.services = [Service(self.directory, "one", port, (*flags, *self.more_flags), env)]

    def lose_staging(self) -> None:
        """Delete the memory where the embedded server stages batches."""
        with suppress(OSError):
            link = self.server_directory / "jetstream" / "$G" / "streams" / "JOBS" / "batches"
            shutil.rmtree(link.readlink().parent, ignore_errors=True)

    def nats_url(self) -> str:
        return find_connection(self.server_directory) or ""

    def stores(self) -> dict[str, Path]:
        return {"embedded": self.server_directory}

    def logs(self) -> dict[str, str]:
        path = self.server_directory / "nats.log"
        return {**super().logs(), "embedded": path.read_text(errors="replace") if path.exists() else ""}

    def command_flags(self) -> tuple[list[str], dict[str, str]]:
        return ["--data-dir", str(self.service.data_dir)], {}

    def kill_server(self) -> None:
        """`kill -9` of the embedded server; the service restarts it."""
        pid = self.service.embedded_pid()
        if pid:
            os.kill(pid, signal.SIGKILL)

    def kill_at_end(self, pid: int) -> None:
        """Kill a server that may outlive its service at the end of the run."""
        handle = os.pidfd_open(pid)  # identifies this process, even if its id is reused

        def end() -> None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            os.close(handle)

        self._stack.callback(end)

    def kill_both(self) -> None:
        """`kill -9` of both at once: the server first, or the kernel would shut it down in order."""
        pid = self.service.embedded_pid()
        os.kill(self.service.pid, signal.SIGSTOP)  # so that it does not restart the server meanwhile
        if pid:
            os.kill(pid, signal.SIGKILL)
        self.service.kill()


class SeveralProcesses(Single):
    """One service of an owner and two workers, which answer HTTP."""

    name = "workers"
    # The next service gets the port when the workers of a killed owner have ended.
    more_flags = ("--workers", "2", "--drain-timeout-seconds", "1")


class ThreeNodes(Topology):
    """Three nodes, in network namespaces where allowed, and two services that connect through proxies."""

    name = "cluster"
    replicas = 3

    def __init__(self, directory: Path, storage: Storage = "plain", *, isolated: bool | None = None) -> None:
        super().__init__(directory, storage)
        if isolated is None:
            isolated = not why_no_namespaces()
        self.cluster: Cluster = NamespaceCluster(directory) if isolated else Cluster(directory)
        self.proxies: dict[int, Proxy] = {}

    async def _set_up(self) -> None:
        for node in (1, 2, 3):
            self._mount(f"node-{node}", self.cluster.store_of(node))
        await self._stack.enter_async_context(self.cluster)
        for node in (1, 2, 3):
            self.proxies[node] = await self._stack.enter_async_context(Proxy(self.cluster.url_of(node)))
        urls = ",".join(f"nats://{proxy.url.rpartition('@')[2]}" for proxy in self.proxies.values())
        keys = self.directory / "keys.json"
        flags = (
            *("--nats-url", urls, "--nats-user", "jobledger", "--stream-replicas", "3"),
            *("--audit-keys-file", str(keys), "--webhook-allow", "127.0.0.1"),
            *("--seal-every-events", "200", "--seal-every-seconds", "5"),
        )
        env = {"JOBLEDGER_NATS_PASSWORD": PASSWORD}
        self.services = [
            Service(self.directory, name, port, flags, env)
            for name, port in zip(("one", "two"), free_ports(2), strict=True)
        ]

    def nats_url(self) -> str:
        return self.cluster.url

    def stores(self) -> dict[str, Path]:
        return {f"node-{node}": self.cluster.store_of(node) for node in (1, 2, 3)}

    def logs(self) -> dict[str, str]:
        return {**super().logs(), **{f"nats-{node}": self.cluster.log_of(node) for node in (1, 2, 3)}}

    def command_flags(self) -> tuple[list[str], dict[str, str]]:
        env = {"JOBLEDGER_NATS_USER": "jobledger", "JOBLEDGER_NATS_PASSWORD": PASSWORD}
        flags = ["--nats-url", self.cluster.addresses, "--data-dir", str(self.services[0].data_dir)]
        return flags, env

    async def kill_nodes(self, *nodes: int) -> None:
        """`kill -9` of some nodes at once."""
        await asyncio.gather(*(self.cluster.kill(node) for node in nodes))

    def signal_node(self, node: int, number: signal.Signals) -> None:
        """Send a signal to a node, such as SIGSTOP."""
        os.kill(self.cluster.pids()[node], number)

    def cut_connections(self) -> None:
        """Cut every connection between services and nodes; new ones are allowed at once."""
        for proxy in self.proxies.values():
            proxy.cut()
