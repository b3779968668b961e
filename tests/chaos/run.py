"""One run: a system, its clients, rounds of faults, and all checks at the end.

A round waits for some acknowledged writes, injects a fault, and writes a probe through every service until
it is acknowledged: the time from the end of the fault to that moment is the recovery time. The probe's
sequence must be beyond everything acknowledged before, so a lost tail is found in the round that lost it.
"""

import asyncio
import itertools
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final, Self

import httpx
import msgspec

from jobledger.store.model.events import Record
from tests.chaos import checks
from tests.chaos.client import Plan
from tests.chaos.faults import (
    CLUSTER,
    FULL_CLUSTER,
    FULL_SINGLE,
    ISOLATION,
    POWER,
    SINGLE,
    VIEW,
    WORKERS,
    Fault,
    FaultTarget,
)
from tests.chaos.history import Call, Recorder, read_calls
from tests.chaos.topology import RECOVERY_SECONDS, NotRecovered, SeveralProcesses, ThreeNodes, Topology
from tests.support.api import PREFIX, job_body
from tests.support.http_servers import Receiver, receiving
from tests.support.namespaces import NamespaceCluster
from tests.support.service_process import clean_env

PROGRESS_SECONDS: Final = 120.0  # for the writes of one burst
CATCH_UP_SECONDS: Final = 60.0  # for feeds, subscriptions and webhooks, after the last write
BURST_WRITES: Final = (5, 25)
WRITERS_END_SECONDS: Final = 60.0
SETTLING_READS: Final = 5
_ROOT: Final = Path(__file__).parent.parent.parent


class Round(msgspec.Struct, frozen=True):
    """The measurements of one round.

    Attributes:
        recovery_seconds: from the end of the fault until a write was acknowledged by every service.
        outage_seconds: the longest time without an acknowledged write, from the start of the fault.
    """

    number: int
    fault: str
    recovery_seconds: float
    outage_seconds: float


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The participants of a run.

    Attributes:
        writers: client processes; every second one uses the library.
        workers: concurrent calls of each.
        pause_seconds: mean pause between two calls of a worker.
        readers: whether feeds, subscriptions, a webhook and `audit watch` run.
    """

    writers: int = 2
    workers: int = 4
    pause_seconds: float = 0.15
    readers: bool = True


class Progress:
    """The acknowledged writes so far, read incrementally from the clients' files."""

    def __init__(self) -> None:
        self._offsets: dict[Path, int] = {}
        self.acknowledged = 0
        self.last_sequence = 0
        self.ends: list[float] = []

    def read(self, paths: Sequence[Path]) -> None:
        """Read what was written since."""
        for path in paths:
            if not path.exists():
                continue
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                content = file.read()
            whole = content.rfind(b"\n") + 1
            self._offsets[path] = self._offsets.get(path, 0) + whole
            for line in content[:whole].splitlines():
                call = msgspec.json.decode(line, type=Call)
                if call.acknowledged:
                    self.acknowledged += 1
                    self.last_sequence = max(self.last_sequence, call.sequence)
                    self.ends.append(call.ended)


class Run:
    """`async with Run(topology, seed) as run`: rounds, then `finish`."""

    def __init__(self, topology: Topology, seed: int, options: Options | None = None) -> None:
        self.topology = topology
        self.seed = seed
        self.options = options or Options()
        self.rounds: list[Round] = []
        self.findings: list[str] = []
        self.progress = Progress()
        self._rng = Random(seed)
        self._directory = topology.directory
        self._writers: list[asyncio.subprocess.Process] = []
        self._readers: dict[str, asyncio.subprocess.Process] = {}
        self._histories: list[Path] = []
        self._probes = Recorder(self._directory / "calls-probe.jsonl")
        self._probe_number = itertools.count(1)
        self._receiver: Receiver | None = None
        self._receiving = receiving()
        self._keys: list[str] = []

    async def __aenter__(self) -> Self:
        await self.probe()  # creates the stream and the first job
        if self.options.readers:
            self._receiver = await self._receiving.__aenter__()
            await self._start_readers()
        for number in range(self.options.writers):
            await self._start_writer(number)
        return self

    async def __aexit__(self, *_: object) -> None:
        for process in (*self._writers, *self._readers.values()):
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._probes.close()
        if self._receiver is not None:
            await self._receiving.__aexit__(None, None, None)

    async def round(self, name: str, fault: Fault) -> Round:
        """Run a burst of writes, a fault, and the recovery from it.

        Raises:
            NotRecovered: the system does not recover in time.
        """
        await self._burst()
        target = FaultTarget(self.topology, self._rng)
        started = time.monotonic()
        await fault(target)
        healed = time.monotonic()
        before = self.progress.last_sequence
        await self.topology.wait_ready()
        sequences = [await self.probe(service_index) for service_index in range(len(self.topology.services))]
        ended = time.monotonic()
        self.findings += [f"round {len(self.rounds) + 1}, {name}: {each}" for each in target.findings]
        if min(sequences) <= before:
            self.findings.append(
                f"round {len(self.rounds) + 1}, {name}: {before} was acknowledged, and afterwards {sequences}"
            )
        self.progress.read(self._histories)
        done = Round(len(self.rounds) + 1, name, ended - healed, self._outage(started, ended))
        self.rounds.append(done)
        return done

    async def probe(self, service_index: int = 0) -> int:
        """Write through one service until it is acknowledged; returns the event's sequence.

        Raises:
            NotRecovered: it is not acknowledged in time.
        """
        deadline = time.monotonic() + RECOVERY_SECONDS
        last = ""
        service = self.topology.services[service_index]
        async with httpx.AsyncClient(timeout=10.0, trust_env=False) as client:
            while time.monotonic() < deadline:
                number = next(self._probe_number)
                call = Call(token=f"probe.{number}", client="probe", verb="apply", job="probe")
                body = job_body("probe", Meta={"call": call.token})
                self._probes.begin(call)
                try:
                    response = await client.put(f"{service.url}{PREFIX}/jobs", json=body)
                except httpx.TransportError as error:
                    last = repr(error)
                else:
                    last = response.text
                    if response.status_code == httpx.codes.OK:
                        body = response.json()
                        call.outcome = "ok"
                        call.revision, call.sequence = body["Revision"], body["Sequence"]
                        call.event_id = body["EvaluationID"]
                        self._probes.end(call)
                        return call.sequence
                service.restart_if_ended()
                await asyncio.sleep(0.1)
        tail = "\n".join(service.log().splitlines()[-20:])
        raise NotRecovered(f"no write is acknowledged by {service.data_dir.name}: {last}\n{tail}")

    async def finish(self) -> list[str]:
        """Stop the writers, wait for the readers, and run all checks; returns the findings."""
        await self._stop_writers()
        await self.topology.wait_ready()
        for service_index in range(len(self.topology.services)):
            await self.probe(service_index)
        records = await self._settled_records()
        calls = self.calls()
        findings = [*self.findings, *checks.problems_of_log(records, calls), *checks.problems_of_reads(calls)]
        views = [service.view for service in self.topology.services]
        findings += await asyncio.to_thread(checks.problems_of_views, records, views)
        if self.options.readers:
            await self._readers_caught_up(len(records))
            findings += self._problems_of_readers(records)
            findings += await self._problems_of_audit()
        return findings

    def calls(self) -> list[Call]:
        """Return every call so far, including the probes."""
        return read_calls([*self._histories, self._directory / "calls-probe.jsonl"])

    async def _burst(self) -> None:
        wanted = self.progress.acknowledged + self._rng.randint(*BURST_WRITES)
        deadline = time.monotonic() + PROGRESS_SECONDS
        while self.progress.acknowledged < wanted:
            if time.monotonic() > deadline:
                raise NotRecovered(f"only {self.progress.acknowledged} of {wanted} writes are acknowledged")
            await asyncio.sleep(0.02)
            self.progress.read(self._histories)

    def _outage(self, started: float, ended: float) -> float:
        """Return the longest time between two acknowledgements around a fault."""
        before = max((end for end in self.progress.ends if end <= started), default=started)
        within = sorted(end for end in self.progress.ends if started < end <= ended)
        return max(after - each for each, after in itertools.pairwise([before, *within, ended]))

    async def _start_client(self, plan: Plan) -> asyncio.subprocess.Process:
        with (self._directory / f"{plan.name}.err").open("ab") as err:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.chaos.client",
                msgspec.json.encode(plan).decode(),
                stdin=subprocess.DEVNULL,
                stdout=err,
                stderr=err,
                cwd=_ROOT,
                env=clean_env(self._directory),
            )

    def _plan(self, kind: str, name: str, file: Path, *, elastic: bool = False, seed: int = 0) -> Plan:
        directory = getattr(self.topology, "server_directory", None)
        return Plan(
            kind=kind,
            name=name,
            file=str(file),
            seed=seed,
            urls=self.topology.urls,
            nats_url="" if directory else self.topology.nats_url(),
            server_directory=str(directory or ""),
            replicas=self.topology.replicas,
            workers=self.options.workers,
            pause_seconds=self.options.pause_seconds,
            elastic=elastic,
        )

    async def _start_writer(self, number: int) -> None:
        name = f"writer-{number}"
        path = self._directory / f"calls-{name}.jsonl"
        self._histories.append(path)
        kind = "library" if number % 2 else "http"
        plan = self._plan(kind, name, path, seed=self.seed * 1_000 + number)
        self._writers.append(await self._start_client(plan))

    async def _start_readers(self) -> None:
        assert self._receiver is not None
        self._keys = await asyncio.to_thread(checks.audit_keys, self._directory, self.topology.urls[0])
        for name, kind, elastic in (
            ("feed", "feed", False),
            ("static", "subscription", False),
            ("elastic", "subscription", True),
        ):
            plan = self._plan(kind, name, self._directory / f"{name}.txt", elastic=elastic)
            self._readers[name] = await self._start_client(plan)
        async with httpx.AsyncClient(timeout=30.0, trust_env=False) as client:
            response = await client.post(
                f"{self.topology.urls[0]}/api/v1/webhooks",
                json={"URL": self._receiver.url(), "Name": "chaos", "After": "0"},
            )
            assert response.status_code == httpx.codes.OK, response.text
        if isinstance(self.topology, ThreeNodes):  # the address of an embedded server changes
            flags, env = self.topology.command_flags()
            keys = [word for key in self._keys for word in ("--key", key)]
            with (self._directory / "watch.txt").open("ab") as out:
                self._readers["watch"] = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", "jobledger.service.cli.main", "audit", "watch", *keys, *flags),
                    *("--state", str(self._directory / "watch.state")),
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd=_ROOT,
                    env=clean_env(self._directory, env),
                )

    async def _stop_writers(self) -> None:
        for process in self._writers:
            process.terminate()
        for process in self._writers:
            try:
                async with asyncio.timeout(WRITERS_END_SECONDS):
                    await process.wait()
            except TimeoutError:
                process.kill()
                self.findings.append("a client did not end its last call in time")

    async def _settled_records(self) -> list[Record]:
        """Return every record when each view has reached exactly that position.

        A service may still be reconciling an append whose client gave up, so the log may grow once more.
        """
        log = await self.topology.open_log()
        try:
            for _ in range(SETTLING_READS):
                records = await checks.read_all(log)
                await self._views_caught_up(len(records))
                if (await log.info()).last_sequence == len(records):
                    break
        finally:
            await log.close()
        return records

    async def _views_caught_up(self, sequence: int) -> None:
        async with httpx.AsyncClient(timeout=70.0, trust_env=False) as client:
            for url in self.topology.urls:
                parameters = {"wait_for": str(sequence), "timeout": "60s"}
                response = await client.get(f"{url}{PREFIX}/jobs/probe", params=parameters)
                if response.status_code != httpx.codes.OK:
                    self.findings.append(f"{url} does not get to {sequence}: {response.text}")

    def _received(self) -> dict[str, list[checks.Received]]:
        assert self._receiver is not None
        received = {
            name: checks.read_received(self._directory / f"{name}.txt")
            for name in ("feed", "static", "elastic")
        }
        received["webhook"] = [
            checks.Received(int(each.event["sequence"]), each.event["subject"], 0)
            for each in tuple(self._receiver.got)
        ]
        return received

    async def _readers_caught_up(self, last: int) -> None:
        deadline = time.monotonic() + CATCH_UP_SECONDS
        while time.monotonic() < deadline:
            if all(len({each.sequence for each in got}) >= last for got in self._received().values()):
                return
            await asyncio.sleep(0.5)

    def _problems_of_readers(self, records: Sequence[Record]) -> list[str]:
        received = self._received()
        found = checks.problems_of_feed("feed", received.pop("feed"), records)
        for name, got in received.items():
            found += checks.problems_of_subscription(name, got, records)
        watch = self._readers.get("watch")
        if watch is not None:
            text = (self._directory / "watch.txt").read_text(errors="replace")
            if watch.returncode is not None or "ALARM" in text:
                found.append(f"audit watch ended with {watch.returncode}: {text[-500:]}")
        return found

    async def _problems_of_audit(self) -> list[str]:
        flags, env = self.topology.command_flags()
        found = []
        for service in self.topology.services:
            verdict = await asyncio.to_thread(
                checks.audit_verify, self._directory, self._keys, flags, env, service.view
            )
            if verdict.exit_code:
                found.append(f"audit verify: exit code {verdict.exit_code}: {verdict.text[-1000:]}")
        return found


def faults_of(topology: Topology) -> dict[str, Fault]:
    """Return the faults that this topology, machine and storage support."""
    cluster = isinstance(topology, ThreeNodes)
    if topology.storage == "small":
        return FULL_CLUSTER if cluster else FULL_SINGLE
    if topology.storage == "images":
        return POWER
    if isinstance(topology, SeveralProcesses):
        return WORKERS | SINGLE | VIEW
    if not isinstance(topology, ThreeNodes):
        return SINGLE | VIEW
    if not isinstance(topology.cluster, NamespaceCluster):
        return CLUSTER | VIEW
    return CLUSTER | ISOLATION | VIEW


def measured(rounds: Sequence[Round]) -> dict[str, list[Round]]:
    """Return the rounds by fault."""
    found: dict[str, list[Round]] = defaultdict(list)
    for each in rounds:
        found[each.fault].append(each)
    return dict(found)
