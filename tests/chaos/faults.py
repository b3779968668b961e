"""The faults, by topology: each is injected while the clients work, and heals itself.

A fault is a coroutine function of a `Hurt`. It may not lose anything: what was acknowledged before, during
and after it is checked at the end of the run. Damage to files, whose right answer may be a refusal, is in
`damage.py`.
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


class Hurt:
    """A system that is being hurt, and what was found on its disks meanwhile.

    Attributes:
        topology: the system.
        rng: chooses.
        findings: what was wrong on a disk right after a kill.
    """

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
        """Let a fault last."""
        await asyncio.sleep(self.rng.uniform(*HOLD_SECONDS))

    def inspect(self, *names: str) -> None:
        """Look at the blocks of servers that are down."""
        for name, store in self.topology.stores().items():
            if name in names:
                self.findings += [f"{name}: {problem}" for problem in corrupt_blocks(store)]


async def kill_server(hurt: Hurt) -> None:
    """`kill -9` of the embedded nats-server; the service starts it again."""
    hurt.single.kill_server()
    hurt.inspect("embedded")


async def kill_both(hurt: Hurt) -> None:
    """`kill -9` of service and embedded server at once; the service is started again."""
    hurt.single.kill_both()
    hurt.inspect("embedded")
    hurt.single.service.start()


async def pause_server(hurt: Hurt) -> None:
    """SIGSTOP and SIGCONT of the embedded server."""
    pid = hurt.single.service.embedded_pid()
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        await hurt.hold()
        os.kill(pid, signal.SIGCONT)


async def kill_service_of_paused_server(hurt: Hurt) -> None:
    """`kill -9` of the service while its server is stopped by SIGSTOP; both must come back by themselves."""
    pid = hurt.single.service.embedded_pid()
    hurt.single.kill_at_end(pid)
    os.kill(pid, signal.SIGSTOP)
    hurt.single.service.kill()
    hurt.single.service.start()


async def kill_one(hurt: Hurt) -> None:
    """`kill -9` of any node."""
    await _kill(hurt, hurt.rng.choice((1, 2, 3)))


async def kill_leader(hurt: Hurt) -> None:
    """`kill -9` of the log's leader."""
    await _kill(hurt, await hurt.nodes.cluster.leader())


async def kill_several(hurt: Hurt) -> None:
    """`kill -9` of two or all three nodes at once."""
    await _kill(hurt, *hurt.rng.sample((1, 2, 3), hurt.rng.choice((2, 3))))


async def _kill(hurt: Hurt, *nodes: int) -> None:
    await hurt.nodes.kill_nodes(*nodes)
    hurt.inspect(*(f"node-{node}" for node in nodes))
    if len(nodes) == 1:
        await hurt.hold()
    await hurt.nodes.cluster.start(*nodes)


async def pause_leader(hurt: Hurt) -> None:
    """SIGSTOP and SIGCONT of the leader."""
    await _pause(hurt, await hurt.nodes.cluster.leader())


async def pause_several(hurt: Hurt) -> None:
    """SIGSTOP and SIGCONT of two or all three nodes."""
    await _pause(hurt, *hurt.rng.sample((1, 2, 3), hurt.rng.choice((2, 3))))


async def _pause(hurt: Hurt, *nodes: int) -> None:
    for node in nodes:
        hurt.nodes.signal_node(node, signal.SIGSTOP)
    try:
        await hurt.hold()
    finally:
        for node in nodes:
            hurt.nodes.signal_node(node, signal.SIGCONT)


async def isolate_leader(hurt: Hurt) -> None:
    """The leader's network is gone for seconds."""
    await _isolate(hurt, await hurt.nodes.cluster.leader())


async def isolate_follower(hurt: Hurt) -> None:
    """A follower's network is gone for seconds."""
    leader = await hurt.nodes.cluster.leader()
    await _isolate(hurt, hurt.rng.choice([node for node in (1, 2, 3) if node != leader]))


async def isolate_follower_then_leader(hurt: Hurt) -> None:
    """A follower that lags is followed by the leader's isolation: the new leader may lag.

    This made a healthy log look truncated (issue 8, F3).
    """
    network = hurt.nodes.cluster
    assert isinstance(network, NamespaceCluster)
    leader = await hurt.nodes.cluster.leader()
    follower = hurt.rng.choice([node for node in (1, 2, 3) if node != leader])
    network.isolate(follower)
    try:
        await asyncio.sleep(hurt.rng.uniform(3.0, 6.0))
    finally:
        network.reconnect(follower)
    hurt.nodes.cut_connections()
    await _isolate(hurt, leader)


async def _isolate(hurt: Hurt, node: int) -> None:
    network = hurt.nodes.cluster
    assert isinstance(network, NamespaceCluster)
    network.isolate(node)
    try:
        await hurt.hold()
    finally:
        network.reconnect(node)


async def cut_connections(hurt: Hurt) -> None:
    """Every connection between services and nodes is cut, several times."""
    for _ in range(hurt.rng.randrange(1, 5)):
        hurt.nodes.cut_connections()
        await asyncio.sleep(hurt.rng.uniform(0.0, 0.3))


async def kill_service(hurt: Hurt) -> None:
    """`kill -9` of a service; it is started again."""
    service = _any_service(hurt)
    service.kill()
    service.start()


async def pause_service(hurt: Hurt) -> None:
    """SIGSTOP and SIGCONT of a service."""
    service = _any_service(hurt)
    os.kill(service.pid, signal.SIGSTOP)
    try:
        await hurt.hold()
    finally:
        os.kill(service.pid, signal.SIGCONT)


async def full_log_disk(hurt: Hurt) -> None:
    """The disk of the log is full for seconds."""
    await _fill(hurt, "log")


async def full_view_disk(hurt: Hurt) -> None:
    """The disk of a view is full for seconds."""
    await _fill(hurt, "view")


async def full_disk_of_one_node(hurt: Hurt) -> None:
    """The disk of one node is full for seconds; an operator restarts the node, as nats-server requires."""
    await _fill_nodes(hurt, hurt.rng.sample((1, 2, 3), 1))


async def full_disk_of_two_nodes(hurt: Hurt) -> None:
    """The disks of two nodes are full for seconds: no quorum; both are restarted."""
    await _fill_nodes(hurt, hurt.rng.sample((1, 2, 3), 2))


async def _fill_nodes(hurt: Hurt, nodes: list[int]) -> None:
    await _fill(hurt, *(f"node-{node}" for node in nodes))
    await hurt.nodes.kill_nodes(*nodes)
    await hurt.nodes.cluster.start(*nodes)


async def _fill(hurt: Hurt, *names: str) -> None:
    disks = [hurt.topology.disks[name] for name in names]
    for disk in disks:
        disk.fill()
    try:
        await asyncio.sleep(FULL_SECONDS)
    finally:
        for disk in disks:
            disk.free()


async def power_loss(hurt: Hurt) -> None:
    """Everything ends at once, and the disks hold what was synced and no more."""
    topology = hurt.topology
    if isinstance(topology, Single):
        topology.kill_both()
    else:
        await hurt.nodes.kill_nodes(1, 2, 3)
    copies = {name: image.snapshot() for name, image in topology.images.items()}
    for name, copy in copies.items():
        topology.images[name].restore(copy)
    if isinstance(topology, Single):
        topology.service.start()
    else:
        await hurt.nodes.cluster.start()


async def delete_view(hurt: Hurt) -> None:
    """The file of a view is deleted while its service runs."""
    for path in _files_of_view(_any_service(hurt)):
        path.unlink(missing_ok=True)


async def truncate_view(hurt: Hurt) -> None:
    """The file of a view is cut while its service runs."""
    view = _any_service(hurt).view
    with view.open("r+b") as file:
        file.truncate(hurt.rng.randrange(0, view.stat().st_size))


async def flip_view(hurt: Hurt) -> None:
    """Pages of a view's file are overwritten with noise while its service runs."""
    view = _any_service(hurt).view
    size = view.stat().st_size
    with view.open("r+b") as file:
        for _ in range(4):
            file.seek(hurt.rng.randrange(0, max(1, size - 512)))
            file.write(hurt.rng.randbytes(512))


async def replace_view(hurt: Hurt) -> None:
    """The file of a view is replaced by an empty database while its service runs."""
    service = _any_service(hurt)
    other = service.view.with_name("other.sqlite")
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE other (x)")
    connection.commit()
    connection.close()
    other.replace(service.view)


def _any_service(hurt: Hurt) -> Service:
    return hurt.rng.choice(hurt.topology.services)


def _files_of_view(service: Service) -> list[Path]:
    return [service.view.with_name(f"{service.view.name}{suffix}") for suffix in ("", "-wal", "-shm")]


Fault = Callable[[Hurt], Awaitable[None]]

SINGLE: Final[dict[str, Fault]] = {
    "kill-server": kill_server,
    "kill-both": kill_both,
    "kill-service": kill_service,
    "pause-server": pause_server,
    "pause-service": pause_service,
    "kill-service-of-paused-server": kill_service_of_paused_server,
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
}
FULL_CLUSTER: Final[dict[str, Fault]] = {
    "full-disk-of-one-node": full_disk_of_one_node,
    "full-disk-of-two-nodes": full_disk_of_two_nodes,
}
POWER: Final[dict[str, Fault]] = {"power-loss": power_loss}
