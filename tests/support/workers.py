"""The workers of a running service: their processes, and clients that talk to a chosen one."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from tests.support.api import PREFIX
from tests.support.service_process import TIMEOUT_SECONDS, RunningService

_MODULE = b"jobledger.service.workers.process"
_CONNECTIONS_MAX = 200  # the kernel chooses the worker of each connection


def worker_pids(service: RunningService) -> list[int]:
    """The processes of the workers."""
    return workers_of(service.process.pid)


def workers_of(pid: int) -> list[int]:
    """The processes of the workers of this owner."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sorted(each for each in map(int, children) if _is_worker(each))


def _is_worker(pid: int) -> bool:
    try:
        return _MODULE in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


@contextmanager
def client_of_worker(service: RunningService, pid: int) -> Iterator[httpx.Client]:
    """A client whose only connection is served by this worker."""
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=600)
    for _ in range(_CONNECTIONS_MAX):
        with httpx.Client(
            base_url=f"{service.url}{PREFIX}",
            limits=limits,
            trust_env=False,
            timeout=TIMEOUT_SECONDS,
            verify=False,
        ) as client:
            answer = client.get(f"{service.url}/livez")
            if serves(pid, answer):
                yield client
                return
    raise AssertionError(f"no connection reached worker {pid}")


def serves(pid: int, answer: httpx.Response) -> bool:
    """Whether this process has the connection of a response."""
    stream = answer.extensions["network_stream"]
    client, server = stream.get_extra_info("client_addr")[1], stream.get_extra_info("server_addr")[1]
    inode = _inode(server, client)
    with suppress(OSError):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if str(fd.readlink()) == f"socket:[{inode}]":
                    return True
    return False


def _inode(local: int, remote: int) -> str:
    """The socket of a TCP connection on this machine."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ports = [int(fields[at].rpartition(":")[2], 16) for at in (1, 2)]
        if ports == [local, remote]:
            return fields[9]
    return ""


def wait_until_replaced(service: RunningService, pid: int, count: int) -> list[int]:
    """Wait until this worker has ended and `count` workers serve; returns their processes."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        pids = worker_pids(service)
        if pid not in pids and len(pids) == count and all(map(_answers, [service] * count, pids)):
            return pids
        time.sleep(0.05)
    raise AssertionError(f"worker {pid} was not replaced: {service.output}")


def _answers(service: RunningService, pid: int) -> bool:
    return any(f"serves (process {pid})" in line for line in tuple(service.output))


def wait_gone(pids: list[int]) -> None:
    """Wait until these processes have ended."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while any(map(_is_worker, pids)):
        assert time.monotonic() < deadline, f"still running: {pids}"
        time.sleep(0.02)
