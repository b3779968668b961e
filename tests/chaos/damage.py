"""Damage to the files of the log must be repaired or reported, never ignored.

Each case writes a log of several blocks, kills everything with `kill -9`, damages one file, starts again,
and checks what an operator sees:

- `intact`: every acknowledged event is there, exactly once, and `audit verify` agrees;
- `refused`: the service does not start, and names the damaged stream;
- `reported`: the service runs, `/readyz` fails or warns with a reason, and `audit verify` names the damage.

Anything else is silent damage: a finding. With one damaged replica of three the log itself must stay
intact, and `audit scrub` must find that replica healed (`intact`) or name it (`reported`).
"""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Final

import httpx
import msgspec

from jobledger.store.model.errors import JobledgerError
from tests.chaos import checks
from tests.chaos.blocks import blocks_of, flip_bit, flip_payload_bit, stream_folders
from tests.chaos.history import Call
from tests.chaos.topology import NotRecovered, Single, ThreeNodes, Topology
from tests.support.api import PREFIX, job_body

EVENTS: Final = 45
EVENT_BYTES: Final = 500_000  # so that a block of 8 MiB has 16 of them, and the log three blocks
WATCH_SECONDS: Final = 150.0  # until the state after damage is final, on a busy machine
STEADY_SECONDS: Final = 12.0  # that it does not change
POLL_SECONDS: Final = 0.5
_META_BYTES: Final = 4_000  # of one value
_HEALED: Final = 0  # exit codes of `audit scrub`
_BAD_REPLICA: Final = 9


class Result(msgspec.Struct):
    """The result of one case.

    Attributes:
        name: topology and case.
        outcome: `intact`, `refused` or `reported`; empty if there is a problem.
        seconds: from the start until the outcome was certain.
        report: the output for the operator.
        problem: why the outcome is wrong; empty if it is right.
    """

    name: str
    outcome: str = ""
    seconds: float = 0.0
    report: str = ""
    problem: str = ""


Damage = Callable[[Path, Random], None]
"""Damages a file in the store directory of a stopped server."""


def flip_in_the_middle(store: Path, rng: Random) -> None:
    """Flip a bit of a record in the middle block."""
    blocks = blocks_of(store)
    flip_payload_bit(blocks[len(blocks) // 2], rng)


def flip_in_the_last_block(store: Path, rng: Random) -> None:
    """Flip a bit of a record in the last block."""
    flip_payload_bit(blocks_of(store)[-1], rng)


def cut_last_block(store: Path, rng: Random) -> None:
    """Truncate the last block."""
    block = blocks_of(store)[-1]
    with block.open("r+b") as file:
        file.truncate(int(block.stat().st_size * rng.uniform(0.2, 0.8)))


def cut_middle_block(store: Path, rng: Random) -> None:
    """Truncate the middle block."""
    blocks = blocks_of(store)
    block = blocks[len(blocks) // 2]
    with block.open("r+b") as file:
        file.truncate(int(block.stat().st_size * rng.uniform(0.2, 0.8)))


def delete_middle_block(store: Path, _: Random) -> None:
    """Delete the middle block."""
    blocks = blocks_of(store)
    blocks[len(blocks) // 2].unlink()


def delete_last_block(store: Path, _: Random) -> None:
    """Delete the last block."""
    blocks_of(store)[-1].unlink()


def delete_first_block(store: Path, _: Random) -> None:
    """Delete the first block."""
    blocks_of(store)[0].unlink()


def flip_meta(store: Path, rng: Random) -> None:
    """Flip a bit of the stream's description."""
    (folder,) = stream_folders(store)
    path = folder.parent / "meta.inf"
    flip_bit(path, rng.randrange(path.stat().st_size))


def flip_meta_sum(store: Path, rng: Random) -> None:
    """Flip a bit of the checksum of the stream's description."""
    (folder,) = stream_folders(store)
    path = folder.parent / "meta.sum"
    flip_bit(path, rng.randrange(path.stat().st_size))


def delete_meta(store: Path, _: Random) -> None:
    """Delete the stream's description."""
    (folder,) = stream_folders(store)
    (folder.parent / "meta.inf").unlink()


def flip_index(store: Path, rng: Random) -> None:
    """Flip a bit of the index, which the server can recreate."""
    (folder,) = stream_folders(store)
    path = folder / "index.db"
    if path.exists():
        flip_bit(path, rng.randrange(path.stat().st_size))


def delete_stream(store: Path, _: Random) -> None:
    """Delete the stream, as the server itself does when it cannot read it."""
    (folder,) = stream_folders(store)
    shutil.rmtree(folder.parent)


def delete_everything(store: Path, _: Random) -> None:
    """Delete all streams of the server."""
    shutil.rmtree(store / "jetstream")


CASES: Final[dict[str, Damage]] = {
    "flip-in-the-middle": flip_in_the_middle,
    "flip-in-the-last-block": flip_in_the_last_block,
    "cut-last-block": cut_last_block,
    "cut-middle-block": cut_middle_block,
    "delete-first-block": delete_first_block,
    "delete-middle-block": delete_middle_block,
    "delete-last-block": delete_last_block,
    "flip-meta-inf": flip_meta,
    "flip-meta-sum": flip_meta_sum,
    "delete-meta-inf": delete_meta,
    "flip-index": flip_index,
    "delete-stream": delete_stream,
    "delete-everything": delete_everything,
}


async def run_all(topology: str, cases: Sequence[str], seed: int, base: Path) -> list[Result]:
    """Run the cases (empty: all), each on its own system, and print one line each."""
    results = []
    for name in ("single", "cluster") if topology == "both" else (topology,):
        for case in cases or CASES:
            result = await run_case(name, case, seed, base / f"damage-{name}-{case}")
            results.append(result)
            said = result.outcome or f"FAILED: {result.problem}"
            print(f"{result.name} seed {seed}: {said} after {result.seconds:.1f} s", flush=True)
            if result.report:
                print(f"  {result.report[:400]}", flush=True)
    return results


async def run_case(topology: str, case: str, seed: int, directory: Path) -> Result:
    """Run one case; the directory is kept if the outcome is wrong."""
    shutil.rmtree(directory, ignore_errors=True)
    result = Result(f"{topology} {case}")
    rng = Random(f"{seed}-{case}")
    system: Topology = Single(directory) if topology == "single" else ThreeNodes(directory, isolated=False)
    try:
        async with system:
            calls = await _fill(system)
            keys = await asyncio.to_thread(checks.audit_keys, directory, system.urls[0])
            if isinstance(system, Single):
                system.kill_both()
                CASES[case](system.server_directory, rng)
                await _judge_single(system, calls, keys, result)
            elif isinstance(system, ThreeNodes):
                node = rng.choice((1, 2, 3))
                await system.cluster.kill(node)
                CASES[case](system.cluster.store_of(node), rng)
                result.report = f"damaged node {node}"
                await _judge_replica(system, node, calls, keys, result)
    except (NotRecovered, AssertionError, TimeoutError, JobledgerError) as error:
        result.problem = result.problem or f"{type(error).__name__}: {error}"
    if result.problem:
        result.outcome = ""
        (directory / "damage.json").write_bytes(msgspec.json.format(msgspec.json.encode(result)))
    else:
        shutil.rmtree(directory, ignore_errors=True)
    return result


async def _fill(system: Topology) -> list[Call]:
    """Write a log of several blocks; returns the acknowledged calls."""
    calls: list[Call] = []
    async with httpx.AsyncClient(timeout=60.0, trust_env=False) as client:
        for number in range(EVENTS):
            token = f"fill.{number}"
            padding = {f"p{part}": f"{number:04d}" * 1_000 for part in range(EVENT_BYTES // _META_BYTES)}
            body = job_body(f"job-{number % 5}", Meta={"call": token, **padding})
            response = await client.put(f"{system.urls[0]}{PREFIX}/jobs", json=body)
            assert response.status_code == httpx.codes.OK, response.text
            body = response.json()
            calls.append(
                Call(
                    token=token,
                    client="fill",
                    verb="apply",
                    job=f"job-{number % 5}",
                    outcome="ok",
                    revision=body["Revision"],
                    sequence=body["Sequence"],
                    event_id=body["EvaluationID"],
                )
            )
    sealed = await asyncio.to_thread(
        checks.command, system.directory, "audit", "seal", "--url", system.urls[0]
    )
    assert sealed.exit_code == 0, sealed.text
    return calls


async def _judge_single(  # noqa: C901 - the outcomes
    system: Single, calls: list[Call], keys: list[str], result: Result
) -> None:
    started = time.monotonic()
    service = system.service
    logged = len(service.log())
    service.start()
    state, since = "", started
    while time.monotonic() - started < WATCH_SECONDS:
        code, text = await service.readiness()
        exited = service.exit_code()
        now = f"exit {exited}" if exited is not None else str(code)
        if now != state:
            state, since = now, time.monotonic()
        if exited is not None or (code and time.monotonic() - since > STEADY_SECONDS):
            break
        await asyncio.sleep(POLL_SECONDS)
    result.seconds = since - started
    new_log = service.log()[logged:]
    if exited is not None:
        result.outcome = "refused"
        result.report = " ".join(new_log.split())[-1500:]
        if not exited or "JOBS" not in new_log:
            result.problem = f"it ended with {exited} and does not name the stream: {result.report}"
        return
    if not code:
        result.problem = f"in {WATCH_SECONDS:g} s it neither ended nor answered: {text}; {new_log[-500:]}"
        return
    missing = await _missing_from(system, calls)
    flags, env = system.command_flags()
    verdict = await asyncio.to_thread(checks.audit_verify, system.directory, keys, flags, env, service.view)
    result.report = f"/readyz {code}: {text}"[:1500]
    if not missing:
        result.outcome = "intact"
        if verdict.exit_code or code != httpx.codes.OK:
            result.problem = f"nothing is missing, but {result.report}; audit verify: {verdict}"
    elif code == httpx.codes.OK and "[+]damage ok" in text:
        result.problem = f"silent: ready, no warning, and {missing}"
    elif not verdict.exit_code:
        result.problem = f"audit verify finds nothing, and {missing}"
    else:
        result.outcome = "reported"


async def _judge_replica(
    system: ThreeNodes, node: int, calls: list[Call], keys: list[str], result: Result
) -> None:
    started = time.monotonic()
    await system.cluster.start(node)
    await system.wait_ready()
    result.seconds = time.monotonic() - started
    missing = await _missing_from(system, calls)
    if missing:
        result.problem = missing
        return
    flags, env = system.command_flags()
    verdict = await asyncio.to_thread(
        checks.audit_verify, system.directory, keys, flags, env, system.services[0].view
    )
    result.outcome = "intact"
    if verdict.exit_code:
        result.problem = f"audit verify of an intact log: {verdict}"
        return
    # nats-server heals some damage from the other replicas, and other damage never: then it must be reported.
    view = ["--view", str(system.services[0].view)]
    scrubbed = await asyncio.to_thread(
        checks.command, system.directory, "audit", "scrub", *view, *flags, env=env
    )
    if scrubbed.exit_code == _HEALED:
        result.report += ": healed, every replica fits the tree"
    elif scrubbed.exit_code == _BAD_REPLICA and f"nats-{node}" in scrubbed.text:
        result.outcome = "reported"
        result.report += f": {' '.join(scrubbed.text.split())}"[:1500]
    else:
        result.problem = f"audit scrub does not name the damaged node {node}: {scrubbed}"


async def _missing_from(system: Topology, calls: list[Call]) -> str:
    """Return a finding if acknowledged events cannot be read from the log."""
    try:
        async with asyncio.timeout(30.0):
            log = await system.open_log()
            try:
                records = await checks.read_all(log)
            finally:
                await log.close()
    except (TimeoutError, JobledgerError) as error:
        return f"the log cannot be read: {error!r}"
    there = {record.sequence for record in records}
    missing = [call.sequence for call in calls if call.sequence not in there]
    return f"{len(missing)} acknowledged events are missing: {missing[:5]}" if missing else ""
