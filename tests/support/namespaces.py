"""Three nats-servers in network namespaces, so that a node can be isolated like by a broken cable."""

import os
import random
import subprocess
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Self

from tests.support.cluster import Cluster


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@cache
def why_no_namespaces() -> str:
    """Return why network namespaces cannot be used here; empty if they can."""
    name = f"jlprobe{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("link", "add", name, "type", "bridge")
        _ip("link", "del", name)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces (needs root and iproute2): {getattr(error, 'stderr', error)}".strip()
    finally:
        with suppress(OSError, subprocess.CalledProcessError):
            _ip("netns", "del", name)
    return ""


class NamespaceCluster(Cluster):
    """A `Cluster` with one network namespace per node, all on one bridge with the test."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._net = f"{random.SystemRandom().randrange(16, 250)}.{random.SystemRandom().randrange(1, 250)}"
        self._tag = f"jl{os.getpid() % 100_000}{random.SystemRandom().randrange(10)}"
        self._hosts = {node: f"10.{self._net}.{node}" for node in (1, 2, 3)}
        self._prefix = {node: ("ip", "netns", "exec", f"{self._tag}n{node}") for node in (1, 2, 3)}

    async def __aenter__(self) -> Self:
        bridge = f"{self._tag}b"
        try:
            _ip("link", "add", bridge, "type", "bridge")
            _ip("addr", "add", f"10.{self._net}.254/24", "dev", bridge)
            _ip("link", "set", bridge, "up")
            for node in (1, 2, 3):
                space, outer = f"{self._tag}n{node}", f"{self._tag}v{node}"
                _ip("netns", "add", space)
                _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
                _ip("link", "set", outer, "master", bridge, "up")
                _ip("-n", space, "addr", "add", f"{self._hosts[node]}/24", "dev", "eth0")
                _ip("-n", space, "link", "set", "eth0", "up")
                _ip("-n", space, "link", "set", "lo", "up")
            return await super().__aenter__()
        except BaseException:
            self._remove()
            raise

    async def __aexit__(self, *details: object) -> None:
        try:
            await super().__aexit__(*details)
        finally:
            self._remove()

    def isolate(self, node: int) -> None:
        """Isolate a node: packets are lost, connections stay open."""
        _ip("link", "set", f"{self._tag}v{node}", "down")

    def reconnect(self, node: int) -> None:
        """Reconnect a node."""
        _ip("link", "set", f"{self._tag}v{node}", "up")

    def _remove(self) -> None:
        for node in (1, 2, 3):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", f"{self._tag}n{node}")
        with suppress(subprocess.CalledProcessError):
            _ip("link", "del", f"{self._tag}b")
