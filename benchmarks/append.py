"""Durable appends and whole commands, against the client library's `js.publish`."""

from functools import partial
from itertools import count

from benchmarks.harness import Output, take_turns
from benchmarks.sizes import Load, Sizes
from benchmarks.workload import (
    ACTOR,
    AFTER_CREATION,
    REASON,
    Bench,
    named_spec,
    new_drafts,
    publish,
    rate_of,
    served,
    state_payload,
)
from jobledger.store.command import Receipt
from jobledger.store.ledger import Ledger, new_event_id
from jobledger.store.log import NO_JOB, Appended, PendingEvent
from jobledger.store.model.job import State, StateType
from jobledger.store.spec.spec import JobSpec


async def run(sizes: Sizes, output: Output) -> None:
    """Measure every combination of sync interval and number of callers, each on its own server."""
    for key, load in sizes.append.items():
        await _append(key, load, sizes.rounds, output)


async def _append(key: str, load: Load, rounds: int, output: Output) -> None:
    _, sync, many = key.split("/")
    callers = int(many)
    async with served(sync) as bench:

        async def baseline() -> float:
            return await rate_of(new_drafts(load.baseline), callers, partial(publish, bench.jetstream))

        async def ours() -> float:
            return await rate_of(new_drafts(load.ours), callers, partial(_send, bench))

        await take_turns(1, baseline, ours)  # warm-up: the publisher measures the disk of this server
        of_baseline, of_ours = await take_turns(rounds, baseline, ours)
    case = (
        f"append, sync_interval {sync}, {callers} caller{'s' * (callers > 1)} on distinct jobs,"
        f" {load.ours:,} events a round, against js.publish"
    )
    output.compare(key, case, of_ours, of_baseline, "events/s")


async def _send(bench: Bench, draft: PendingEvent) -> None:
    assert isinstance(await bench.log.append(draft, expect=NO_JOB), Appended)


_CREATE_CALLERS = 256


async def run_create(sizes: Sizes, output: Output) -> None:
    """Normalize, validate, encode, decide and append; the baseline only appends."""
    load = sizes.create
    async with served("always") as bench:
        ledger = Ledger(bench.log)
        numbers = count()

        async def create(spec: JobSpec) -> None:
            await ledger.create(spec, actor=ACTOR, reason=REASON)

        async def baseline() -> float:
            return await rate_of(
                new_drafts(load.baseline), _CREATE_CALLERS, partial(publish, bench.jetstream)
            )

        async def ours() -> float:
            return await rate_of(
                [named_spec(next(numbers)) for _ in range(load.ours)], _CREATE_CALLERS, create
            )

        await take_turns(1, baseline, ours)  # warm-up: the publisher measures the disk of this server
        of_baseline, of_ours = await take_turns(sizes.rounds, baseline, ours)
    output.compare(
        "create/always/256",
        f"create from a decoded spec, sync_interval always, {_CREATE_CALLERS} callers,"
        f" {load.ours:,} jobs a round, against js.publish",
        of_ours,
        of_baseline,
        "jobs/s",
    )


_STATE_CALLERS = 64


async def run_set_state(sizes: Sizes, output: Output) -> None:
    """Three states of each job, decided on the cached job; the baseline only appends events of that size."""
    load = sizes.set_state
    async with served("always") as bench:
        ledger = Ledger(bench.log)
        numbers = count()

        async def new_job() -> Receipt:
            return await ledger.create(named_spec(next(numbers)), actor=ACTOR, reason=REASON)

        async def change(item: tuple[Receipt, StateType]) -> None:
            job, state = item
            await ledger.set_state(job.job_id, State(state), namespace=job.namespace, actor=ACTOR)

        async def baseline() -> float:
            payload = state_payload(0, new_event_id(), StateType.RUNNING)
            return await rate_of(
                new_drafts(load.baseline, payload), _STATE_CALLERS, partial(publish, bench.jetstream)
            )

        async def ours() -> float:
            jobs: list[Receipt] = []

            async def create(_: int) -> None:
                jobs.append(await new_job())

            await rate_of(range(load.ours // len(AFTER_CREATION)), _CREATE_CALLERS, create)
            changes = [(job, state) for state in AFTER_CREATION for job in jobs]
            return await rate_of(changes, _STATE_CALLERS, change)

        await take_turns(1, baseline, ours)  # warm-up: the publisher measures the disk of this server
        of_baseline, of_ours = await take_turns(sizes.rounds, baseline, ours)
    output.compare(
        "set_state/always/64",
        f"set_state of a cached job, sync_interval always, {_STATE_CALLERS} callers,"
        f" {load.ours:,} states a round, against js.publish",
        of_ours,
        of_baseline,
        "states/s",
    )
