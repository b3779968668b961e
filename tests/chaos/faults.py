"""The faults, by topology. Each is injected while the clients work, and heals itself.

A fault is a coroutine function of a `FaultTarget`. It must not lose anything: everything acknowledged
before, during and after it is checked at the end of the run. Damage to files, which may be answered by a
refusal, is in `damage.py`.
"""

import asyncio
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Final

from tests.chaos.blocks import corrupt_blocks
from tests.chaos.topology import Service, Single, ThreeNodes, Topology
from tests.support.namespaces import NamespaceCluster

HOLD_SECONDS: Final = (0.5, 3.0)  # how long a pause or an isolation lasts
FULL_SECONDS: Final = 4.0  # how long a disk stays full


class FaultTarget:
    """A system under faults, and the findings on its disks right after a kill."""

    def __init__(self, topology: Topology, rng: Random) -> None:
        self.topology = topology
        self.rng = rng
        self.findings: list[str] = []

    @property
    def single(self) -> Single:
        """The topology of one server."""
        assert isinstance(self.topology, Single)
        return self.topology

    @property
    def nodes(self) -> ThreeNodes:
        """The topology of three nodes."""
        assert isinstance(self.topology, ThreeNodes)
        return self.topology

    async def hold(self) -> None:
        """Wait for the duration of a fault."""
        await asyncio.sleep(self.rng.uniform(*HOLD_SECONDS))

    def inspect(self, *names: str) -> None:
        """Check the blocks of stopped servers."""
        for name, store in self.topology.stores().items():
            if name in names:
                self.findings += [f"{name}: {problem}" for problem in corrupt_blocks(store)]


async def kill_server(target: FaultTarget) -> None:
    """`kill -9` of the embedded nats-server; the service restarts it."""
    target.single.kill_server()
    target.inspect("embedded")


async def kill_both(target: FaultTarget) -> None:
    """`kill -9` of service and embedded server at once; the service is restarted."""
    target.single.kill_both()
    target.inspect("embedded")
    target.single.service.start()


async def pause_server(target: FaultTarget) -> None:
    """SIGSTOP and SIGCONT of the embedded server."""
    pid = target.single.service.embedded_pid()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        await target.hold()
        os.kill(pid, signal.SIGCONT)


async def kill_service_of_paused_server(target: FaultTarget) -> None:
    """`kill -9` of the service while its server is stopped by SIGSTOP; both must recover automatically."""
    pid = target.single.service.embedded_pid()
    target.single.kill_at_end(pid)
    os.kill(pid, signal.SIGSTOP)
    target.single.service.kill()
    target.single.service.start()


async def lose_staging(target: FaultTarget) -> None:
    """Delete the memory where batches are staged, several times, and once together with `kill -9`."""
    for _ in range(target.rng.randrange(1, 5)):
        target.single.lose_staging()
        await target.hold()
    target.single.kill_server()
    target.single.lose_staging()
    target.inspect("embedded")


async def kill_one(target: FaultTarget) -> None:
    """`kill -9` of any node."""
    await _kill(target, target.rng.choice((1, 2, 3)))


async def kill_leader(target: FaultTarget) -> None:
    """`kill -9` of the log's leader."""
    await _kill(target, await target.nodes.cluster.leader())


async def kill_several(target: FaultTarget) -> None:
    """`kill -9` of two or all three nodes at once."""
    await _kill(target, *target.rng.sample((1, 2, 3), target.rng.choice((2, 3))))


async def _kill(target: FaultTarget, *nodes: int) -> None:
    await target.nodes.kill_nodes(*nodes)
    target.inspect(*(f"node-{node}" for node in nodes))
    if len(nodes) == 1:
        await target.hold()
    await target.nodes.cluster.start(*nodes)


async def pause_leader(target: FaultTarget) -> None:
    """SIGSTOP and SIGCONT of the leader."""
    await _pause(target, await target.nodes.cluster.leader())


async def pause_several(target: FaultTarget) -> None:
    """SIGSTOP and SIGCONT of two or all three nodes."""
    await _pause(target, *target.rng.sample((1, 2, 3), target.rng.choice((2, 3))))


async def _pause(target: FaultTarget, *nodes: int) -> None:
    for node in nodes:
        target.nodes.signal_node(node, signal.SIGSTOP)
    try:
        await target.hold()
    finally:
        for node in nodes:
            target.nodes.signal_node(node, signal.SIGCONT)


async def isolate_leader(target: FaultTarget) -> None:
    """Isolate the leader from the network for seconds."""
    await _isolate(target, await target.nodes.cluster.leader())


async def isolate_follower(target: FaultTarget) -> None:
    """Isolate a follower from the network for seconds."""
    leader = await target.nodes.cluster.leader()
    await _isolate(target, target.rng.choice([node for node in (1, 2, 3) if node != leader]))


async def isolate_follower_then_leader(target: FaultTarget) -> None:
    """Isolate a follower until it lags, then the leader: the new leader may lag.

    This once made a healthy log look truncated.
    """
    network = target.nodes.cluster
    assert isinstance(network, NamespaceCluster)
    leader = await target.nodes.cluster.leader()
    follower = target.rng.choice([node for node in (1, 2, 3) if node != leader])
    network.isolate(follower)
    try:
        await asyncio.sleep(target.rng.uniform(3.0, 6.0))
    finally:
        network.reconnect(follower)
    target.nodes.cut_connections()
    await _isolate(target, leader)


async def _isolate(target: FaultTarget, node: int) -> None:
    network = target.nodes.cluster
    assert isinstance(network, NamespaceCluster)
    network.isolate(node)
    try:
        await target.hold()
    finally:
        network.reconnect(node)


async def cut_connections(target: FaultTarget) -> None:
    """Cut every connection between services and nodes, several times."""
    for _ in range(target.rng.randrange(1, 5)):
        target.nodes.cut_connections()
        await asyncio.sleep(target.rng.uniform(0.0, 0.3))


async def kill_service(target: FaultTarget) -> None:
    """`kill -9` of a service; it is restarted."""
    service = _any_service(target)
    service.kill()
    service.start()


async def pause_service(target: FaultTarget) -> None:
    """SIGSTOP and SIGCONT of a service."""
    service = _any_service(target)
    os.kill(service.pid, signal.SIGSTOP)
    try:
        await target.hold()
    finally:
        os.kill(service.pid, signal.SIGCONT)


async def kill_worker(target: FaultTarget) -> None:
    """`kill -9` of a worker; the owner replaces it."""
    os.kill(_any_worker(target), signal.SIGKILL)


async def kill_all_workers(target: FaultTarget) -> None:
    """`kill -9` of every worker at once."""
    for pid in _any_service(target).worker_pids():
        os.kill(pid, signal.SIGKILL)


async def pause_worker(target: FaultTarget) -> None:
    """SIGSTOP and SIGCONT of a worker."""
    pid = _any_worker(target)
    os.kill(pid, signal.SIGSTOP)
    try:
        await target.hold()
    finally:
        with suppress(ProcessLookupError):  # it was replaced
            os.kill(pid, signal.SIGCONT)


async def full_log_disk(target: FaultTarget) -> None:
    """Fill the disk of the log for seconds."""
    await _fill(target, "log")


async def full_staging(target: FaultTarget) -> None:
    """Fill the memory where batches are staged for seconds."""
    await _fill(target, "staging")


async def read_only_staging(target: FaultTarget) -> None:
    """Make the memory where batches are staged read-only for seconds."""
    disk = target.topology.disks["staging"]
    while not disk.make_read_only():  # noqa: ASYNC110 - a file system
        await asyncio.sleep(0)  # a batch is being written
    await asyncio.sleep(FULL_SECONDS)
    disk.make_writable()


async def full_view_disk(target: FaultTarget) -> None:
    """Fill the disk of a view for seconds."""
    await _fill(target, "view")


async def full_disk_of_one_node(target: FaultTarget) -> None:
    """Fill the disk of one node for seconds, then restart the node, as nats-server requires."""
    await _fill_nodes(target, target.rng.sample((1, 2, 3), 1))


async def full_disk_of_two_nodes(target: FaultTarget) -> None:
    """Fill the disks of two nodes for seconds, which takes the quorum, then restart both."""
    await _fill_nodes(target, target.rng.sample((1, 2, 3), 2))


async def _fill_nodes(target: FaultTarget, nodes: list[int]) -> None:
    await _fill(target, *(f"node-{node}" for node in nodes))
    await target.nodes.kill_nodes(*nodes)
    await target.nodes.cluster.start(*nodes)


async def _fill(target: FaultTarget, *names: str) -> None:
    disks = [target.topology.disks[name] for name in names]
    for disk in disks:
        disk.fill()
    try:
        await asyncio.sleep(FULL_SECONDS)
    finally:
        for disk in disks:
            disk.free()


async def power_loss(target: FaultTarget) -> None:
    """Kill everything at once; the disks keep only what was synced."""
    topology = target.topology
    if isinstance(topology, Single):
        topology.kill_both()
        topology.lose_staging()
    else:
        await target.nodes.kill_nodes(1, 2, 3)
    copies = {name: image.snapshot() for name, image in topology.images.items()}
    for name, copy in copies.items():
        topology.images[name].restore(copy)
    if isinstance(topology, Single):
        topology.service.start()
    else:
        await target.nodes.cluster.start()


async def delete_view(target: FaultTarget) -> None:
    """Delete the file of a view while its service runs."""
    for path in _files_of_view(_any_service(target)):
        path.unlink(missing_ok=True)


async def truncate_view(target: FaultTarget) -> None:
    """Truncate the file of a view while its service runs."""
    view = _any_service(target).view
    with view.open("r+b") as file:
        file.truncate(target.rng.randrange(0, view.stat().st_size))


async def flip_view(target: FaultTarget) -> None:
    """Overwrite pages of a view's file with noise while its service runs."""
    view = _any_service(target).view
    size = view.stat().st_size
    with view.open("r+b") as file:
        for _ in range(4):
            file.seek(target.rng.randrange(0, max(1, size - 512)))
            file.write(target.rng.randbytes(512))


async def replace_view(target: FaultTarget) -> None:
    """Replace the file of a view by an empty database while its service runs."""
    service = _any_service(target)
    other = service.view.with_name("other.sqlite")
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE other (x)")
    connection.commit()
    connection.close()
    other.replace(service.view)


def _any_service(target: FaultTarget) -> Service:
    return target.rng.choice(target.topology.services)


def _any_worker(target: FaultTarget) -> int:
    return target.rng.choice(_any_service(target).worker_pids())


def _files_of_view(service: Service) -> list[Path]:
    return [service.view.with_name(f"{service.view.name}{suffix}") for suffix in ("", "-wal", "-shm")]


Fault = Callable[[FaultTarget], Awaitable[None]]

SINGLE: Final[dict[str, Fault]] = {
    "kill-server": kill_server,
    "kill-both": kill_both,
    "kill-service": kill_service,
    "pause-server": pause_server,
    "pause-service": pause_service,
    "kill-service-of-paused-server": kill_service_of_paused_server,
    "lose-staging": lose_staging,
}
WORKERS: Final[dict[str, Fault]] = {
    "kill-worker": kill_worker,
    "kill-all-workers": kill_all_workers,
    "pause-worker": pause_worker,
}
CLUSTER: Final[dict[str, Fault]] = {
    "kill-one": kill_one,
    "kill-leader": kill_leader,
    "kill-several": kill_several,
    "pause-leader": pause_leader,
    "pause-several": pause_several,
    "cut-connections": cut_connections,
    "kill-service": kill_service,
    "pause-service": pause_service,
}
ISOLATION: Final[dict[str, Fault]] = {
    "isolate-leader": isolate_leader,
    "isolate-follower": isolate_follower,
    "isolate-follower-then-leader": isolate_follower_then_leader,
}
VIEW: Final[dict[str, Fault]] = {
    "delete-view": delete_view,
    "truncate-view": truncate_view,
    "flip-view": flip_view,
    "replace-view": replace_view,
}
FULL_SINGLE: Final[dict[str, Fault]] = {
    "full-log-disk": full_log_disk,
    "full-view-disk": full_view_disk,
    "full-staging": full_staging,
    "read-only-staging": read_only_staging,
}
FULL_CLUSTER: Final[dict[str, Fault]] = {
    "full-disk-of-one-node": full_disk_of_one_node,
    "full-disk-of-two-nodes": full_disk_of_two_nodes,
}
POWER: Final[dict[str, Fault]] = {"power-loss": power_loss}
