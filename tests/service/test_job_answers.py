"""Kept answers: bounded in bytes, and forgotten before a row of their job changes."""

import pytest

from jobledger.service.job_answers import JobAnswers, KeptAnswer
from jobledger.service.limits import JOB_ANSWER_MAX_BYTES, JOB_ANSWER_OVERHEAD_BYTES, JOB_ANSWERS_MAX_BYTES
from jobledger.store.model.job import JobStatus
from tests.support.statuses import job_status


def answer(size_bytes: int = 100) -> KeptAnswer:
    return KeptAnswer("default", [], b"x" * (size_bytes - JOB_ANSWER_OVERHEAD_BYTES))


def test_an_answer_is_found_until_its_job_changes() -> None:
    """By its id and by its name; those of other jobs stay."""
    kept = JobAnswers()
    for ref in ("j-1", "etl", "j-2"):
        kept.keep(ref, answer(1_000))
    kept.changing([job_status(id="j-1", name="etl")])
    assert [kept.find(ref) is None for ref in ("j-1", "etl", "j-2")] == [True, True, False]
    kept.changing(None)
    assert kept.find("j-2") is None
    assert kept.size_bytes == 0


@pytest.mark.parametrize("changing", [[job_status(id="j-1", name="etl")], None])
def test_nothing_is_kept_of_a_job_while_its_row_changes(changing: list[JobStatus] | None) -> None:
    """A read may return the row of before the commit; after it, the new row is kept."""
    kept = JobAnswers()
    kept.changing(changing)
    for ref in ("j-1", "etl"):
        kept.keep(ref, answer(1_000))
        assert kept.find(ref) is None
    kept.settled()
    kept.keep("etl", answer(1_000))
    assert kept.find("etl") is not None


def test_answers_use_a_limited_number_of_bytes() -> None:
    """The first ones are dropped, also if some are kept again; the last ones are found."""
    kept = JobAnswers(max_bytes=20_000)
    for number in range(100):
        kept.keep(f"j-{number}", answer(1_000))
        kept.keep(f"j-{number // 2}", answer(1_000))
        assert kept.size_bytes <= 20_000
        assert kept.find(f"j-{number}") is not None
    assert kept.find("j-60") is None
    for number in range(100):
        kept.changing([job_status(id=f"j-{number}", name="")])
    assert kept.size_bytes == 0


@pytest.mark.parametrize(("over", "is_kept"), [(0, True), (1, False)])
def test_a_large_answer_is_not_kept(over: int, is_kept: bool) -> None:
    """Each request encodes it."""
    kept = JobAnswers()
    kept.keep("j-1", answer(JOB_ANSWER_MAX_BYTES + JOB_ANSWER_OVERHEAD_BYTES + over))
    assert (kept.find("j-1") is not None) is is_kept


def test_the_limit_is_that_of_the_service() -> None:
    """A half is dropped at once."""
    kept = JobAnswers()
    for number in range(JOB_ANSWERS_MAX_BYTES // JOB_ANSWER_MAX_BYTES + 2):
        kept.keep(f"j-{number}", answer(JOB_ANSWER_MAX_BYTES))
    assert JOB_ANSWERS_MAX_BYTES // 2 <= kept.size_bytes <= JOB_ANSWERS_MAX_BYTES


def test_a_service_may_keep_none() -> None:
    """A worker does not know which jobs change."""
    kept = JobAnswers(0)
    kept.keep("j-1", answer(1_000))
    assert kept.find("j-1") is None


def test_a_long_reference_is_not_kept() -> None:
    """Its text would take more than the overhead that is counted."""
    kept = JobAnswers()
    limit = JOB_ANSWER_OVERHEAD_BYTES // 4
    for length in (limit, limit + 1):
        kept.keep("n" * length, answer(1_000))
    assert [kept.find("n" * length) is None for length in (limit, limit + 1)] == [False, True]
