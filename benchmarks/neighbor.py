"""`neighbor`: the effect of one client's heavy reads on the latency of another client's writes.

Two tokens, one service. The quiet client writes, one request after the other. The noisy one keeps
connections busy with one kind of heavy read at a time, and with all kinds at once: blame, version lists and
diffs of large specs, scans of lists, comparisons of points.

The noisy client, the service and its nats-server also use the machine. That cost is measured by sending the
same noise to a second service with the same jobs on the same machine: this is the baseline, and the ratio
is the cost of sharing a service. The latency without any noise is printed too.

Run as a program, it is the noisy client.
"""

import asyncio
import random
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from benchmarks.harness import Output, judge, percentile
from benchmarks.http import JOBS, body_of, fill
from benchmarks.http_load import load, request
from benchmarks.http_server import serving
from benchmarks.sizes import Sizes
from benchmarks.workload import Child, child, named_spec
from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile

_CONNECTIONS: Final = 16  # of the noisy client
_FAT_BYTES: Final = 100_000  # of a spec that is compared and blamed; the limit is 128 KiB
_FAT_VARIABLES: Final = 400
_WARM_UP_SECONDS: Final = 0.3
_REFUSED_SECONDS: Final = 0.05  # before a refused request is repeated


async def run(sizes: Sizes, output: Output) -> None:
    """Measure real services in their own processes."""
    with TemporaryDirectory(prefix="jobledger-bench-") as directory:
        one, other = Path(directory) / "one", Path(directory) / "other"
        output.say(f"neighbor: filling a service with {sizes.neighbor_jobs:,} jobs")
        one.mkdir(mode=0o700)
        await fill(one, sizes.neighbor_jobs)
        tokens = TokenFile(one / "tokens.json")
        quiet, noisy = (tokens.create(name, Role.ADMIN)[1] for name in ("quiet", "noisy"))
        output.say("neighbor: writing jobs with large specs and long histories")
        async with serving(data_dir=str(one)) as port:
            await _prepare(port, noisy, sizes)
        shutil.copytree(one, other)
        async with serving(data_dir=str(one)) as port, serving(data_dir=str(other)) as other_port:
            await _measure((port, other_port), (quiet, noisy), sizes, output)


def _noises() -> dict[str, list[str]]:
    """Paths of heavy reads, by kind."""
    fat = f"{JOBS}/fat-0"
    noises = {
        "blame": [f"{fat}/blame", f"{JOBS}/long-0/blame"],
        "diff": [f"{fat}/diff?from=1", f"{fat}/diff?from=2&to=3"],
        "versions": [f"{fat}/versions", f"{JOBS}/long-0/versions"],
        "history": [f"{JOBS}/long-0/history?limit=1000", f"{fat}/history?limit=1000&all_job_versions=true"],
        "scans": [
            f"{JOBS}?labels=env%3Dnowhere&limit=1000&namespace=*",
            f"{JOBS}?limit=1000&namespace=*",
            f"{JOBS}?labels=!nothing&order_by=modified_at&limit=1000&namespace=*",
        ],
        "points": ["/api/v1/diff?from=1h&limit=200&namespace=*", f"{JOBS}?at=500&namespace=*&limit=500"],
    }
    return noises | {"all of these": [path for paths in noises.values() for path in paths]}


class _Noise:
    """A client in its own process that sends requests without a pause."""

    def __init__(self, child: Child, token: str) -> None:
        self._child = child
        self._token = token

    @asynccontextmanager
    async def at(self, port: int, kind: str) -> AsyncIterator[None]:
        """Send noise to the service at this port, from its first response on."""
        await self._say(port, kind)
        await asyncio.sleep(_WARM_UP_SECONDS)
        yield
        await self._say(port, "")

    async def _say(self, port: int, kind: str) -> None:
        await self._child.send((port, self._token, kind))
        if not await self._child.stdout.readline():
            raise RuntimeError("the noisy client exited; see its message above")


@asynccontextmanager
async def _noisy(token: str) -> AsyncIterator[_Noise]:
    async with child("benchmarks.neighbor") as process:
        yield _Noise(process, token)


async def _make_noise() -> None:
    """Execute the task of each line of standard input, until it is closed."""
    tasks: list[asyncio.Task[None]] = []
    while line := await asyncio.to_thread(sys.stdin.buffer.readline):
        port, token, kind = msgspec.json.decode(line, type=tuple[int, str, str])
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        answered = asyncio.Event()
        tasks = [
            asyncio.create_task(_request_all(port, token, _noises()[kind], answered, random.Random(number)))
            for number in range(_CONNECTIONS if kind else 0)
        ]
        if tasks:
            await answered.wait()
        print("done", flush=True)


async def _request_all(
    port: int, token: str, paths: Sequence[str], answered: asyncio.Event, chance: random.Random
) -> None:
    """Request these paths, whatever the responses."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    try:
        while True:
            writer.write(request("GET", chance.choice(paths), port=port, token=token))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            at = head.index(b"content-length: ") + len(b"content-length: ")
            await reader.readexactly(int(head[at : head.index(b"\r", at)]))
            answered.set()
            if b" 429 " in head[:16]:
                await asyncio.sleep(_REFUSED_SECONDS)
    finally:
        writer.transport.abort()


async def _measure(ports: tuple[int, int], tokens: tuple[str, str], sizes: Sizes, output: Output) -> None:
    async with _noisy(tokens[1]) as noise:
        await _compare(ports, tokens[0], noise, sizes, output)


async def _compare(ports: tuple[int, int], token: str, noise: _Noise, sizes: Sizes, output: Output) -> None:
    port, other_port = ports
    numbers = count(10_000_000)

    async def write() -> list[float]:
        puts = [
            request("PUT", JOBS, body_of(named_spec(next(numbers))), port=port, token=token)
            for _ in range(sizes.neighbor_writes)
        ]
        _, seconds = await load(port, puts, 1)
        return seconds

    await write()
    for kind in _noises():
        alone = await write()
        async with noise.at(other_port, kind):
            elsewhere = await write()
        async with noise.at(port, kind):
            shared = await write()
        for share, name in ((0.5, "p50"), (0.99, "p99")):
            quietly, before, after = (
                1e3 * percentile(seconds, share) for seconds in (alone, elsewhere, shared)
            )
            output.report(
                judge(
                    f"neighbor/{name}",
                    f"PUT /jobs of one client, {name}, while another keeps {_CONNECTIONS} connections busy"
                    f" with {kind}, against the same at another service ({quietly:.1f} ms with none)",
                    after,
                    "ms",
                    baseline=before,
                    ratio=after / before,
                )
            )


async def _prepare(port: int, token: str, sizes: Sizes) -> None:
    """Create jobs that are expensive to compare, to blame and to list the history of."""
    fill_up = "x" * (_FAT_BYTES // _FAT_VARIABLES - 20)

    def fat(version: int) -> bytes:
        spec = msgspec.json.decode(body_of(named_spec(0)))["Job"]
        spec |= {"Name": "fat-0", "Namespace": "default"}
        variables = {f"V{each:03}": f"{fill_up}{each}" for each in range(_FAT_VARIABLES)}
        variables |= {f"V{each:03}": f"{version}{fill_up}" for each in range(version % 7, _FAT_VARIABLES, 7)}
        spec["Tasks"][0]["Env"] = variables
        return msgspec.json.encode({"Job": spec})

    puts = [
        request("PUT", JOBS, fat(version), port=port, token=token)
        for version in range(sizes.neighbor_versions)
    ]
    await load(port, puts, 1)
    spec = msgspec.json.decode(body_of(named_spec(0)))["Job"] | {"Name": "long-0", "Namespace": "default"}
    await load(port, [request("PUT", JOBS, msgspec.json.encode({"Job": spec}), port=port, token=token)], 1)
    states = [
        request(
            "PUT",
            f"{JOBS}/long-0/state",
            msgspec.json.encode({"StateType": "Running", "Message": f"step {each}"}),
            port=port,
            token=token,
        )
        for each in range(10 * sizes.neighbor_versions)
    ]
    await load(port, states, 1)


if __name__ == "__main__":
    asyncio.run(_make_noise())
