"""Faults of nats-server, reproduced with stock binaries and a plain client: `python -m tests.chaos.upstream`.

Each case prints the configuration, what it did, what is expected, and what happened; the server's own log is
quoted. It needs `nats-server` on the PATH or in this Python's environment, and `nats-py`.

    python -m tests.chaos.upstream s2-kill --rounds 40      # R3, s2, kill -9: the store is corrupt
    python -m tests.chaos.upstream s2-flip                  # R1, s2, one flipped bit: the stream is emptied
    python -m tests.chaos.upstream flip                     # R1, no s2, one flipped bit: messages vanish
    python -m tests.chaos.upstream meta                     # R1, damaged meta.inf: the stream vanishes
    python -m tests.chaos.upstream replica                  # R3, damage on one replica: it is never healed
    python -m tests.chaos.upstream stale-info --rounds 20   # R3, a new leader's STREAM.INFO goes back (root)
    python -m tests.chaos.upstream disk-full                # R1, space again: publishes still fail (root)
    python -m tests.chaos.upstream update                   # R1, compression turned off: not before a restart
    python -m tests.chaos.upstream in-place                 # R1, a flipped bit: a sealed block is truncated
    python -m tests.chaos.upstream lost-block               # R1, a block is gone: later messages aren't found
    python -m tests.chaos.upstream peer-remove              # R3 on three nodes: a peer can't be removed
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.errors import Error as JetStreamError

from tests.chaos.blocks import blocks_of, corrupt_blocks, flip_payload_bit, stream_folders
from tests.chaos.machine import SmallDisk
from tests.support.namespaces import NamespaceCluster, why_no_namespaces

PAYLOAD: Final = b"x" * 700
STREAM: Final = "S"
READY_SECONDS: Final = 60.0


class Servers:
    """Stock nats-servers with JetStream: one, or a cluster of three."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        self.count = count
        self._ports = _free_ports(2 * count)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        binary = Path(sysconfig.get_path("scripts")) / "nats-server"
        self.binary = str(binary) if binary.exists() else shutil.which("nats-server") or "nats-server"

    def __enter__(self) -> Self:
        for number in self.numbers:
            self.start(number)
        return self

    def __exit__(self, *_: object) -> None:
        for number in tuple(self._processes):
            self.kill(number)

    @property
    def numbers(self) -> range:
        """The numbers of the nodes, from 1."""
        return range(1, self.count + 1)

    @property
    def urls(self) -> list[str]:
        """The URLs of all nodes."""
        return [f"nats://127.0.0.1:{self._ports[number - 1]}" for number in self.numbers]

    def store(self, number: int) -> Path:
        """Return the store directory of a node."""
        return self.directory / f"n{number}"

    def config(self, number: int) -> dict[str, Any]:
        """Write the configuration of a node (nats-server reads JSON)."""
        config: dict[str, Any] = {
            "server_name": f"n{number}",
            "listen": f"127.0.0.1:{self._ports[number - 1]}",
            "jetstream": {"store_dir": str(self.store(number)), "sync_interval": "always"},
        }
        if self.count > 1:
            routes = [f"nats://127.0.0.1:{port}" for port in self._ports[self.count :]]
            listen = f"127.0.0.1:{self._ports[self.count + number - 1]}"
            config["cluster"] = {"name": "c", "listen": listen, "routes": routes}
        return config

    def start(self, number: int) -> None:
        """Start a node."""
        path = self.directory / f"n{number}.conf"
        path.write_text(json.dumps(self.config(number)))
        with (self.directory / f"n{number}.log").open("ab") as log:
            self._processes[number] = subprocess.Popen(
                [self.binary, "-c", str(path)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, number: int) -> None:
        """`kill -9`."""
        process = self._processes.pop(number)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def log(self, *words: str) -> list[str]:
        """Return the lines of all logs that contain one of these words."""
        lines = []
        for number in self.numbers:
            text = (self.directory / f"n{number}.log").read_text(errors="replace")
            lines += [
                f"n{number}: {line}" for line in text.splitlines() if any(word in line for word in words)
            ]
        return lines

    async def connect(self) -> Client:
        """A client of all nodes that reconnects forever."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                return await nats.connect(
                    self.urls,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.1,
                    error_cb=_quiet,
                    allow_reconnect=True,
                )
            except (OSError, nats.errors.Error):
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)


async def _quiet(_: Exception) -> None:
    """Ignore connection errors, which are part of the experiment."""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


async def request(client: Client, subject: str, body: object, within_seconds: float = 30.0) -> dict[str, Any]:
    """Send a JetStream API request until it is answered."""
    deadline = time.monotonic() + within_seconds
    while True:
        try:
            answer = await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=2.0)
            return dict(json.loads(answer.data))
        except nats.errors.Error:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def create(client: Client, replicas: int, compression: str, name: str = STREAM) -> dict[str, Any]:
    """Create the stream of every case."""
    config = {
        "name": name,
        "subjects": [f"{name.lower()}.>"],
        "storage": "file",
        "retention": "limits",
        "discard": "new",
        "num_replicas": replicas,
        "compression": compression,
        "deny_delete": True,
        "deny_purge": True,
        "allow_direct": True,
    }
    for _ in range(60):
        answer = await request(client, f"STREAM.CREATE.{name}", config)
        if "error" not in answer:
            return config
        await asyncio.sleep(0.5)
    raise AssertionError(answer)


async def publish(client: Client, count: int, start: int = 0) -> int:
    """Publish messages, some at a time; returns the last acknowledged sequence."""
    stream = client.jetstream(timeout=10.0)
    last = 0
    for first in range(start, start + count, 100):
        numbers = range(first, min(first + 100, start + count))
        acks = await asyncio.gather(*(stream.publish(f"s.{number % 50}", PAYLOAD) for number in numbers))
        last = max(ack.seq for ack in acks)
    return last


async def state(client: Client) -> dict[str, Any]:
    """Return the stream's info from its leader, or its error."""
    answer = await request(client, f"STREAM.INFO.{STREAM}", {"deleted_details": True})
    return dict(answer.get("state") or {"error": answer.get("error")})


@asynccontextmanager
async def started(
    directory: Path, count: int, compression: str = "none"
) -> AsyncIterator[tuple[Servers, Client, dict[str, Any]]]:
    """Start servers with the stream of the case, and a client."""
    with Servers(directory, count) as servers:
        client = await servers.connect()
        try:
            config = await create(client, count, compression)
            say("stream", json.dumps(config))
            say("config", json.dumps(servers.config(1)))
            yield servers, client, config
        finally:
            await client.close()


def say(what: str, text: object) -> None:
    """Print a labeled line or block."""
    print(f"{what:>9}: {text}", flush=True)


async def s2_kill(directory: Path, rng: random.Random, rounds: int) -> bool:  # noqa: C901 - one experiment
    """R3, s2, 20 to 60 publishes a second, `kill -9` of two or three nodes, restart."""
    acknowledged: list[int] = []
    async with started(directory, 3, "s2") as (servers, client, _config):
        running = True

        async def writer() -> None:
            stream, number = client.jetstream(timeout=2.0), 0
            while running:
                number += 1
                with suppress(nats.errors.Error, JetStreamError):
                    acknowledged.append((await stream.publish(f"s.{number % 50}", PAYLOAD)).seq)
                await asyncio.sleep(rng.uniform(0.05, 0.2))

        writers = [asyncio.create_task(writer()) for _ in range(6)]
        found = False
        for number in range(1, rounds + 1):
            await asyncio.sleep(rng.uniform(1.0, 2.0))
            victims = rng.sample((1, 2, 3), rng.choice((2, 3)))
            for victim in victims:
                servers.kill(victim)
            for victim in victims:
                for problem in corrupt_blocks(servers.store(victim), STREAM):
                    found = True
                    say("actual", f"round {number}, after kill -9 of {victims}: n{victim}: {problem}")
            for victim in victims:
                servers.start(victim)
            last = -1
            with suppress(nats.errors.Error):
                last = int((await state(client)).get("last_seq", -1))
            if found:
                await asyncio.sleep(3.0)
                for line in servers.log("recreating", "corrupt input", "unsupported input"):
                    say("log", line)
                say("actual", f"acknowledged up to {max(acknowledged)}, the stream's last sequence is {last}")
                break
        running = False
        for task in writers:
            task.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
    say("expected", "every block can be read after kill -9")
    return found


async def flipped(directory: Path, rng: random.Random, compression: str) -> bool:
    """R1: a flipped bit in a block, `kill -9`, restart."""
    async with started(directory, 1, compression) as (servers, client, _config):
        # Blocks are compressed when they are full (8 MiB).
        last = await publish(client, 12_500 if compression == "s2" else 1_000)
        await asyncio.sleep(1.0)
        servers.kill(1)
        block = blocks_of(servers.store(1), STREAM)[0]
        flip_payload_bit(block, rng)
        say("done", f"{last} messages acknowledged, kill -9, one bit of {block.name} flipped, restart")
        servers.start(1)
        await asyncio.sleep(2.0)
        after = await state(client)
        after["deleted"] = f"{len(after.get('deleted') or [])} sequences"
        say("expected", f"an error that names the damage; {last} messages, or fewer and a report")
        say("actual", json.dumps(after))
        left = [(each.name, each.stat().st_size) for each in blocks_of(servers.store(1), STREAM)]
        say("actual", f"blocks now: {left}")
        for line in servers.log("WRN", "ERR"):
            say("log", line)
    return bool(after.get("messages", 0) != last)


async def s2_flip(directory: Path, rng: random.Random, _: int) -> bool:
    """`flip` with compression."""
    return await flipped(directory, rng, "s2")


async def flip(directory: Path, rng: random.Random, _: int) -> bool:
    """`flip` without compression."""
    return await flipped(directory, rng, "none")


async def meta(directory: Path, _: random.Random, __: int) -> bool:
    """R1: a damaged meta.inf; the stream is skipped, and the same name can be created over its blocks."""
    async with started(directory, 1) as (servers, client, config):
        last = await publish(client, 200)
        servers.kill(1)
        (folder,) = stream_folders(servers.store(1), STREAM)
        path = folder.parent / "meta.inf"
        content = bytearray(path.read_bytes())
        content[10] ^= 1
        path.write_bytes(bytes(content))
        say("done", f"{last} messages acknowledged, kill -9, one bit of meta.inf flipped, restart")
        servers.start(1)
        after = await state(client)
        say("expected", "a start that fails, or a stream that reports an error, while its data is there")
        say("actual", json.dumps(after))
        for line in servers.log("WRN", "ERR"):
            say("log", line)
        say("actual", f"blocks on disk: {[each.name for each in blocks_of(servers.store(1), STREAM)]}")
        again = await request(client, f"STREAM.CREATE.{STREAM}", config)
        say("actual", f"STREAM.CREATE: {json.dumps(again.get('state') or again)}")
    return "error" in after


async def replica(directory: Path, rng: random.Random, _: int) -> bool:
    """R3: a flipped bit on a follower, kill -9, restart: the copy is not healed, and reads of it fail."""
    async with started(directory, 3) as (servers, client, _config):
        last = await publish(
            client, 30_000
        )  # three blocks of 8 MiB: the last one is replayed from the Raft log
        info = await request(client, f"STREAM.INFO.{STREAM}", {})
        victim = next(number for number in servers.numbers if f"n{number}" != info["cluster"]["leader"])
        servers.kill(victim)
        sequence = flip_payload_bit(blocks_of(servers.store(victim), STREAM)[0], rng)
        say(
            "done",
            f"{last} messages, kill -9 of follower n{victim}, a bit of message {sequence} flipped, restart",
        )
        servers.start(victim)
        await asyncio.sleep(20.0)
        misses = 0
        for _number in range(90):
            answer = await client.request(
                f"$JS.API.DIRECT.GET.{STREAM}", json.dumps({"seq": sequence}).encode(), timeout=5.0
            )
            misses += (answer.headers or {}).get("Status") == "404"
        say("expected", "n catches up from its peers, or reports its damage; no direct get answers 404")
        say("actual", f"20 s later {misses} of 90 direct gets of message {sequence} answer 404")
        info = await request(client, f"STREAM.INFO.{STREAM}", {})
        say("actual", f"replicas by STREAM.INFO: {json.dumps(info['cluster']['replicas'])}")
        for line in servers.log("WRN", "ERR"):
            if f"n{victim}:" in line:
                say("log", line)
    return misses > 0


async def stale_info(directory: Path, rng: random.Random, rounds: int) -> bool:
    """R3 in network namespaces: a follower is isolated, then the leader: STREAM.INFO goes back.

    The configuration is deploy/nats/*.conf; only Linux's `ip` stands between the nodes.
    """
    acknowledged = [0]
    stale: list[tuple[int, int, str]] = []
    async with NamespaceCluster(directory) as servers:
        clients = [
            await nats.connect(
                servers.operator_url.split(","),
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.1,
                ping_interval=1,
                max_outstanding_pings=1,
                error_cb=_quiet,
            )
            for _ in range(2)
        ]
        client, asker = clients
        say("stream", json.dumps(await create(client, 3, "none")))
        running = True

        async def writer(name: int) -> None:
            stream = client.jetstream(timeout=2.0)
            while running:
                with suppress(nats.errors.Error, JetStreamError):
                    acknowledged[0] = max(acknowledged[0], (await stream.publish(f"s.{name}", PAYLOAD)).seq)
                await asyncio.sleep(0.002)

        async def ask() -> None:
            while running:
                known = acknowledged[0]
                with suppress(nats.errors.Error, asyncio.TimeoutError):
                    answer = await asker.request(f"$JS.API.STREAM.INFO.{STREAM}", b"", timeout=1.0)
                    body = json.loads(answer.data)
                    last = body.get("state", {}).get("last_seq", known)
                    if last < known:
                        cluster = body.get("cluster", {})
                        stale.append((known, last, cluster.get("leader_since", "")))
                await asyncio.sleep(0.005)

        tasks = [asyncio.create_task(writer(number)) for number in range(16)]
        tasks += [asyncio.create_task(ask()) for _ in range(4)]
        for _number in range(rounds):
            leader = await servers.leader(STREAM)
            follower = rng.choice([node for node in (1, 2, 3) if node != leader])
            servers.isolate(follower)
            await asyncio.sleep(rng.uniform(3.0, 8.0))
            servers.reconnect(follower)
            await asyncio.sleep(rng.uniform(0.0, 1.0))
            servers.isolate(leader)
            await asyncio.sleep(rng.uniform(3.0, 8.0))
            servers.reconnect(leader)
        running = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in clients:
            await each.close()
    say("done", f"{rounds} times a follower and then the leader isolated; {acknowledged[0]} acknowledged")
    say(
        "expected",
        "last_seq of STREAM.INFO is never below a sequence that was acknowledged before the request",
    )
    worst = max(stale, key=lambda each: each[0] - each[1], default=None)
    leaderless = sum(not since for _, _, since in stale)
    say(
        "actual",
        f"{len(stale)} answers lagged; the worst: {worst} (acknowledged, last_seq, leader_since)",
    )
    say(
        "actual", f"{leaderless} of them have no cluster.leader_since: a replica answered that knew no leader"
    )
    return bool(stale)


async def disk_full(directory: Path, _: random.Random, __: int) -> bool:
    """R1 on a small tmpfs: a full disk, then space again."""
    store = directory / "n1"
    disk = SmallDisk(store, 24)
    try:
        with Servers(directory, 1) as servers:
            client = await servers.connect()
            await create(client, 1, "none")
            await create(client, 1, "none", "IDLE")
            say("config", json.dumps(servers.config(1)))
            await publish(client, 100)
            disk.fill()
            outcomes = []
            for _number in range(3):
                try:
                    await client.jetstream(timeout=5.0).publish("s.1", PAYLOAD)
                    outcomes.append("acknowledged")
                except (nats.errors.Error, JetStreamError) as error:
                    outcomes.append(repr(error))
            disk.free()
            await asyncio.sleep(5.0)
            try:
                after = str((await client.jetstream(timeout=5.0).publish("s.1", PAYLOAD)).seq)
            except (nats.errors.Error, JetStreamError) as error:
                after = repr(error)
            say("expected", "full: an error; with space again: publishes work")
            say("actual", f"full: {outcomes}")
            say("actual", f"5 s after space returned: {after}")
            idle = (await client.jetstream(timeout=5.0).publish("idle.1", PAYLOAD)).seq
            say("actual", f"a stream that got nothing meanwhile: acknowledged at {idle}")
            for line in servers.log("WRN", "ERR"):
                say("log", line)
            servers.kill(1)
            servers.start(1)
            restarted = 0
            while not restarted:
                with suppress(nats.errors.Error, JetStreamError):
                    restarted = (await client.jetstream(timeout=2.0).publish("s.1", PAYLOAD)).seq
            say("actual", f"after a restart: acknowledged at {restarted}")
            await client.close()
    finally:
        disk.remove()
    return not after.isdigit()


async def update(directory: Path, _: random.Random, __: int) -> bool:
    """R1: a stream with s2 is updated to `none`; blocks that are filled afterwards are compressed anyway."""
    async with started(directory, 1, "s2") as (servers, client, config):
        await publish(client, 1_000)
        answer = await request(client, f"STREAM.UPDATE.{STREAM}", config | {"compression": "none"})
        say("done", f"STREAM.UPDATE: compression is {answer['config']['compression']!r} now")
        await publish(client, 30_000)
        await asyncio.sleep(3.0)
        before = _compressed(servers)
        servers.kill(1)
        servers.start(1)
        await state(client)
        await publish(client, 30_000)
        await asyncio.sleep(3.0)
        after = _compressed(servers)
    say("expected", "no block that is filled after the update is compressed")
    say("actual", f"compressed blocks, of those filled after the update: {before}; after a restart: {after}")
    return bool(before)


def _compressed(servers: Servers) -> list[str]:
    return [each.name for each in blocks_of(servers.store(1), STREAM) if each.read_bytes()[:3] == b"cmp"]


async def in_place(directory: Path, rng: random.Random, _: int) -> bool:
    """R1: a bit of a sealed block is flipped; the start truncates that very file, hard links included."""
    async with started(directory, 1) as (servers, client, _config):
        last = await publish(client, 30_000)
        servers.kill(1)
        block = blocks_of(servers.store(1), STREAM)[0]
        kept = directory / "kept.blk"
        os.link(block, kept)
        size = kept.stat().st_size
        flip_payload_bit(block, rng)
        # Without the index the block is read, as after any start that does not trust it.
        (block.parent / "index.db").unlink(missing_ok=True)
        say(
            "done",
            f"{last} messages, kill -9, one bit of {block.name} (sealed, {size} bytes) flipped, restart",
        )
        servers.start(1)
        after = await state(client)
        left = kept.stat().st_size
    say("expected", "the file stays as it is, or is replaced by another one; what can't be read is reported")
    say("actual", f"a hard link that was made before the start has {left} of {size} bytes")
    say("actual", json.dumps({name: after.get(name) for name in ("messages", "num_deleted", "lost")}))
    return left < size


async def lost_block(directory: Path, _: random.Random, __: int) -> bool:
    """R1: a block is deleted under a running server: the next message after it is not found."""
    async with started(directory, 1) as (servers, client, _config):
        last = await publish(client, 40_000)
        blocks = blocks_of(servers.store(1), STREAM)
        blocks[1].unlink()
        say(
            "done", f"{last} messages in {len(blocks)} blocks, {blocks[1].name} deleted while the server runs"
        )
        found: dict[str, Any] = {}
        for _number in range(30):  # until the server has dropped the block from its memory
            ask = {"seq": last // 3, "next_by_subj": "s.>"}
            found = await request(client, f"STREAM.MSG.GET.{STREAM}", ask)
            if "error" in found:
                break
            await asyncio.sleep(1.0)
        there = await request(client, f"STREAM.MSG.GET.{STREAM}", {"seq": last})
        info = await state(client)
    say("expected", "the first message after the lost ones, or an error that names the block")
    say("actual", f"next_by_subj from {last // 3}: {json.dumps(found.get('error') or 'found')}")
    say("actual", f"message {last} by its sequence: {json.dumps(there.get('error') or 'found')}")
    say(
        "actual",
        json.dumps({name: info.get(name) for name in ("messages", "last_seq", "num_deleted", "lost")}),
    )
    return "error" in found and "error" not in there


async def peer_remove(directory: Path, _: random.Random, __: int) -> bool:
    """R3 on three nodes: a peer of the stream can't be removed, so a bad copy can't be replaced that way."""
    async with started(directory, 3) as (_servers, client, _config):
        info = await request(client, f"STREAM.INFO.{STREAM}", {})
        peer = info["cluster"]["replicas"][0]["name"]
        answer = await request(client, f"STREAM.PEER.REMOVE.{STREAM}", {"peer": peer})
    say("done", f"STREAM.PEER.REMOVE of {peer}, while all three nodes are up")
    say("expected", "the peer is removed, and its copy is made again")
    say("actual", json.dumps(answer.get("error") or answer))
    return "error" in answer


CASES: Final[dict[str, Callable[[Path, random.Random, int], Coroutine[Any, Any, bool]]]] = {
    "s2-kill": s2_kill,
    "s2-flip": s2_flip,
    "flip": flip,
    "meta": meta,
    "replica": replica,
    "stale-info": stale_info,
    "disk-full": disk_full,
    "update": update,
    "in-place": in_place,
    "lost-block": lost_block,
    "peer-remove": peer_remove,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; exit code 0 if every case that ran reproduced its bug."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.upstream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("cases", nargs="*", choices=[*CASES, []], metavar="CASE", default=[*CASES])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args(words)
    reproduced = []
    for case in given.cases or [*CASES]:
        missing = "needs root" if case == "disk-full" and os.geteuid() else ""
        missing = why_no_namespaces() if case == "stale-info" else missing
        if missing:
            print(f"{case}: skipped: {missing}")
            continue
        print(f"== {case}, seed {given.seed}", flush=True)
        with tempfile.TemporaryDirectory(prefix=f"nats-{case}-") as directory:
            found = asyncio.run(CASES[case](Path(directory), random.Random(given.seed), given.rounds))
        reproduced.append(found)
        print(f"{case}: {'reproduced' if found else 'NOT reproduced'}", flush=True)
    return int(not all(reproduced))


if __name__ == "__main__":
    sys.exit(main())
