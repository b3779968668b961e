"""What a reader remembers of jobs is bounded, and it knows which ones it may have forgotten."""

import msgspec
import pytest

from jobledger.projections.limits import TRACKER_EVICTED_BITS
from jobledger.projections.subscriptions import state_tracker
from jobledger.projections.subscriptions.state_tracker import (
    _COUNTER_MAX,
    BloomFilter,
    CompactCache,
    WholeCache,
)
from jobledger.store.model.job import Job, JobStatus, State, StateType


def test_numbers_are_kept_up_to_their_largest() -> None:
    """What is packed comes back as it was, for every state and namespace; what does not fit is kept whole."""
    for memory_of in (1, _COUNTER_MAX, _COUNTER_MAX + 1, 2**62):
        memory = CompactCache()
        statuses = {
            f"{namespace}-{state}": job_status(
                state, namespace, revision=memory_of, version=min(memory_of, 7)
            )
            for state in StateType
            for namespace in ("default", "a", "ü b")
        }
        memory.put_all(statuses)
        for job_id, status in statuses.items():
            found = memory.take(job_id)
            assert found is not None
            assert (found.revision, found.version, found.state.state_type, found.namespace) == (
                status.revision,
                status.version,
                status.state.state_type,
                status.namespace,
            )
            assert found.name == status.name
            assert memory.take(job_id) is None


def test_a_name_that_is_the_id_comes_back_and_long_names_count_as_several() -> None:
    """Names with spaces and of any letters are kept; the bound is one of memory."""
    memory = CompactCache(8)
    for name in ("j-1", "a b  c", "ü", "7f 1"):
        memory.put_all({"j-1": msgspec.structs.replace(job_status(StateType.RUNNING), id="j-1", name=name)})
        found = memory.take("j-1")
        assert found is not None
        assert found.name == name
    long = msgspec.structs.replace(job_status(StateType.RUNNING), name="n" * 200)
    memory.put_all({"a": long, "b": long, "c": long})
    assert [key for key in "abc" if memory.take(key)] == ["b", "c"]
    assert memory._weight == 0


def job_status(
    state: StateType, namespace: str = "default", *, revision: int = 1, version: int = 1
) -> JobStatus:
    return JobStatus(
        id="j",
        namespace=namespace,
        name="n",
        state=State(state),
        version=version,
        revision=revision,
        create_time=1,
        modify_time=1,
        created_sequence=1,
        spec_sequence=1,
        sequence=1,
    )


def known_of(memory: CompactCache | WholeCache[JobStatus], count: int) -> list[str]:
    """Six jobs put in, one ended, one used again; those that are still known afterwards."""
    for number in range(5):
        memory.put_all({f"j-{number}": job_status(StateType.RUNNING)})
    memory.put_all({"j-ended": job_status(StateType.COMPLETED)})
    again = memory.take("j-1")
    if again is not None:
        memory.put_all({"j-1": again})
    names = ("j-0", "j-1", "j-2", "j-3", "j-4", "j-ended")
    known = [name for name in names if memory.take(name)]
    assert len(known) == count
    assert all(memory.may_have_evicted(name) for name in names if name not in known)
    assert not any(memory.may_have_evicted(name) for name in known)
    return known


def test_memory_is_bounded_in_number() -> None:
    """Beyond the bound those are forgotten that were not used for longest; of whole ones, ended first."""
    assert known_of(CompactCache(4), 4) == ["j-2", "j-3", "j-4", "j-ended"]
    assert known_of(CompactCache(5), 5) == ["j-1", "j-2", "j-3", "j-4", "j-ended"]
    whole: WholeCache[JobStatus] = WholeCache(lambda each: each, 4, 10**9)
    assert known_of(whole, 4) == ["j-1", "j-2", "j-3", "j-4"]


def test_jobs_that_can_not_be_packed_count_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their tags, and jobs of more namespaces than are numbered: the bound is one of memory."""
    memory = CompactCache(20)
    tagged = msgspec.structs.replace(job_status(StateType.RUNNING), tags={"a": 1, "b": 1})
    memory.put_all({f"j-{number}": tagged for number in range(10)})
    assert [number for number in range(10) if memory.take(f"j-{number}")] == [7, 8, 9]
    monkeypatch.setattr(state_tracker, "TRACKER_MAX_NAMESPACES", 2)
    memory = CompactCache(8)
    for namespace in ("a", "b", "c", "d"):
        memory.put_all({namespace: job_status(StateType.QUEUED, namespace)})
    found = [memory.take(each) for each in ("a", "b", "c", "d")]
    assert [each.namespace if each else "" for each in found] == ["", "", "c", "d"]
    assert memory._weight == 0


def test_memory_is_bounded_in_bytes() -> None:
    """Jobs with long specs are kept in a smaller number: specs and messages count."""
    memory: WholeCache[Job] = WholeCache(lambda job: job.status, 100, 50_000)
    for number in range(10):
        memory.put_all({f"j-{number}": Job(status=job_status(StateType.RUNNING), spec=b"x" * 9_000)})
    assert [number for number in range(10) if memory.take(f"j-{number}")] == [5, 6, 7, 8, 9]
    assert memory._bytes == 0


def test_the_filter_of_evicted_jobs_knows_each_of_them() -> None:
    """What was put in is always found; of what was not, next to nothing; empty, it takes no memory."""
    ids = BloomFilter()
    assert "anything" not in ids
    assert len(ids._bits) == 0
    for number in range(20_000):
        ids.add(f"j-{number}")
    assert len(ids._bits) == TRACKER_EVICTED_BITS // 8
    assert all(f"j-{number}" in ids for number in range(20_000))
    assert sum(f"k-{number}" in ids for number in range(20_000)) < 20
