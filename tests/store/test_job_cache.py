"""The cache of a ledger is bounded and never goes back to an older job, and its locks leave nothing."""

import asyncio

import pytest

from jobledger.store import job_cache as cache
from jobledger.store.job_cache import CachedJob, JobCache, KeyedLocks
from jobledger.store.model.errors import LogBusy
from jobledger.store.model.job import Job, State, StateType
from tests.support.statuses import job_status


def known(
    sequence: int = 1, *, spec: bytes = b"{}", state: State | None = None, base: CachedJob | None = None
) -> CachedJob:
    """Return a job as seen at a sequence."""
    status = job_status(state=state or State(StateType.PENDING), sequence=sequence)
    return CachedJob("jobs.default.00.j", Job(status=status, spec=spec), sequence, base)


def test_the_least_recently_used_job_is_removed_first() -> None:
    """Above the number of jobs."""
    cache = JobCache(max_jobs=2)
    cache.put("a", known())
    cache.put("b", known())
    assert cache.get("a") is not None
    cache.put("c", known())
    assert [job_id for job_id in "abc" if cache.get(job_id) is not None] == ["a", "c"]
    assert len(cache) == 2


@pytest.mark.parametrize(
    "fat",
    [
        known(spec=b"x" * 100_000),
        known(base=known(spec=b"x" * 100_000)),
        known(state=State(StateType.FAILED, "x" * 100_000)),
        known(state=State(StateType.FAILED, details={"x" * 50_000: "x" * 50_000})),
        known(state=State(StateType.FAILED, "\N{PILE OF POO}" * 25_000)),
    ],
    ids=["spec", "spec of the base", "message", "details", "wide characters"],
)
def test_all_bytes_of_a_job_count(fat: CachedJob) -> None:
    """Specs, messages and details: of ten times 100 KB, four fit into 500 KB."""
    cache = JobCache(max_bytes=500_000)
    for number in range(10):
        cache.put(str(number), fat)
    assert len(cache) == 4
    assert cache.get("9") is fat


def test_the_bytes_of_removed_jobs_are_free() -> None:
    """After any number of replacements and removals."""
    cache = JobCache(max_bytes=250_000)
    for sequence in range(50):
        cache.put("a", known(sequence, spec=b"x" * 100_000))
    cache.put("b", known(spec=b"x" * 100_000))
    assert len(cache) == 2
    cache.pop("a")
    cache.pop("a")
    cache.put("c", known(spec=b"x" * 100_000))
    assert len(cache) == 2
    cache.pop("b")
    cache.pop("c")
    assert (len(cache), cache.size_bytes) == (0, 0)


def test_older_and_missing_jobs_are_not_cached() -> None:
    """A late reader replaces nothing, and a job that does not exist takes no space."""
    cache = JobCache()
    newer = known(5)
    cache.put("a", newer)
    cache.put("a", known(4))
    cache.put("a", CachedJob("jobs.default.00.j", None, 9))
    assert cache.get("a") is newer
    cache.put("b", CachedJob("jobs.default.00.j", None, 9))
    assert len(cache) == 1


async def test_one_caller_holds_a_lock_and_no_lock_remains() -> None:
    """Holders of one key never overlap, those of two keys do."""
    locks = KeyedLocks()
    inside: list[str] = []
    together = 0

    async def turn(key: str) -> None:
        nonlocal together
        async with locks.hold(key):
            assert key not in inside
            inside.append(key)
            together = max(together, len(inside))
            await asyncio.sleep(0)
            inside.remove(key)

    await asyncio.gather(*(turn(key) for key in "abab" * 5))
    assert together == 2
    assert len(locks) == 0


async def test_a_cancelled_or_failed_holder_releases_the_lock() -> None:
    """Also a cancelled waiter blocks no other."""
    locks = KeyedLocks()
    release = asyncio.Event()

    async def hold() -> None:
        async with locks.hold("a"):
            await release.wait()

    async def fail() -> None:
        async with locks.hold("a"):
            raise ValueError

    tasks = [asyncio.create_task(hold()) for _ in range(3)]
    await asyncio.sleep(0)
    assert len(locks) == 1
    tasks[1].cancel()  # waits
    tasks[0].cancel()  # holds
    release.set()
    results = await asyncio.gather(*tasks, fail(), return_exceptions=True)
    assert [type(result) for result in results] == [
        asyncio.CancelledError,
        asyncio.CancelledError,
        type(None),
        ValueError,
    ]
    assert len(locks) == 0


async def test_a_waiter_that_is_cancelled_at_its_turn_passes_it_on() -> None:
    """The lock was handed to it before the cancellation; the next waiter gets it."""
    locks = KeyedLocks()
    taken: list[str] = []

    async def take(name: str) -> None:
        async with locks.hold("a"):
            taken.append(name)

    async def first() -> None:
        async with locks.hold("a"):
            await asyncio.sleep(0)
        second.cancel()

    holder = asyncio.create_task(first())
    second, third = asyncio.create_task(take("second")), asyncio.create_task(take("third"))
    async with asyncio.timeout(5):
        await asyncio.gather(holder, second, third, return_exceptions=True)
    assert taken == ["third"]
    assert len(locks) == 0


async def test_commands_that_wait_for_one_job_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than the limit gets LogBusy at once; the others keep their turn."""
    monkeypatch.setattr(cache, "TURNS_MAX_WAITING", 3)
    locks = KeyedLocks()

    async def take_turn() -> None:
        async with locks.hold("job"):
            await asyncio.sleep(0)

    turns = [asyncio.create_task(take_turn()) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(LogBusy, match="3 commands on job job are waiting"):
        locks.hold("job")
    await asyncio.gather(*turns)
    assert len(locks) == 0
