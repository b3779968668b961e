"""Every job has one subject, and every subject is that of one job, for any characters."""

import hashlib
import re
import uuid

import pytest
from hypothesis import example, given, strategies as st

from jobledger.store.model.subjects import (
    SHARD_COUNT,
    is_identity,
    job_subject,
    job_subject_anywhere,
    named_job_id,
    nameless_job_id,
    parse_subject,
    shard_of,
)

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
pairs = st.tuples(names, names)


@given(pair=pairs)
@example(pair=("a.b", "*"))
@example(pair=("%", "%2E"))
@example(pair=("%2E", "."))
@example(pair=(">", " "))
@example(pair=("~!@#$^&()", "ünï\u0000code🦜"))
def test_subject_parses_to_its_namespace_and_job_id(pair: tuple[str, str]) -> None:
    """Namespace and job id are the same after a round trip."""
    assert parse_subject(job_subject(*pair)) == pair


@given(pair=pairs)
def test_subject_has_only_characters_that_nats_accepts(pair: tuple[str, str]) -> None:
    """Four tokens of printable ASCII without a wildcard or a separator."""
    tokens = job_subject(*pair).split(".")
    assert len(tokens) == 4
    assert all(re.fullmatch(r"[!-)+-=?-~]+", token) for token in tokens)


@given(one=pairs, other=pairs)
def test_two_jobs_never_share_a_subject(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Different pairs of namespace and id have different subjects."""
    assert (job_subject(*one) == job_subject(*other)) == (one == other)


@given(job_id=names)
def test_shard_is_fixed_by_the_job_id(job_id: str) -> None:
    """00…31, the first byte of the id's SHA-256 modulo 32: a storage constant."""
    assert re.fullmatch("[0-2][0-9]|3[01]", shard_of(job_id))
    assert int(shard_of(job_id)) == hashlib.sha256(job_id.encode()).digest()[0] % SHARD_COUNT


@given(pair=pairs)
def test_filter_for_a_job_anywhere_matches_its_subject(pair: tuple[str, str]) -> None:
    """The filter differs from the subject only in the namespace, which is a wildcard."""
    subject, anywhere = job_subject(*pair).split("."), job_subject_anywhere(pair[1]).split(".")
    assert [subject[0], "*", *subject[2:]] == anywhere


@pytest.mark.parametrize(
    "subject",
    [
        "",
        "jobs",
        "jobs.default.00",
        "jobs.default.00.x.y",
        "tasks.default.00.x",
        f"jobs.default.{(int(shard_of('x')) + 1) % 32:02d}.x",  # the shard of another job
        f"jobs.default.{int(shard_of('x'))}.x.",
        f"jobs..{shard_of('x')}.x",
        f"jobs.default.{shard_of('')}.",
        f"jobs.*.{shard_of('x')}.x",
        f"jobs.de%66ault.{shard_of('x')}.x",  # escapes that `job_subject` would not write
        f"jobs.a%2eb.{shard_of('x')}.x",
        f"jobs.%FF.{shard_of('x')}.x",
        f"jobs.%.{shard_of('x')}.x",
        f"jobs.é.{shard_of('x')}.x",
        f"jobs.\ufffd.{shard_of('x')}.x",
    ],
)
def test_subject_that_is_not_ours_names_no_job(subject: str) -> None:
    """A subject that `job_subject` does not return is not parsed."""
    assert parse_subject(subject) is None


@given(text=st.text(max_size=60) | st.from_regex(r"jobs\.[ -~]{0,9}\.[0-9]{2}\.[ -~]{0,9}", fullmatch=True))
def test_parsing_is_the_inverse_of_job_subject(text: str) -> None:
    """Any text either parses to exactly the arguments of its `job_subject`, or to None."""
    parts = parse_subject(text)
    assert parts is None or job_subject(*parts) == text


@given(pair=pairs)
def test_named_job_id_is_a_uuid_5_over_the_identity(pair: tuple[str, str]) -> None:
    """The id is `j-` and the version-5 UUID of the two names, as in the standard library."""
    job_id = named_job_id(*pair)
    made = uuid.UUID(job_id.removeprefix("j-"))
    assert (made.version, made.variant) == (5, uuid.RFC_4122)
    root = uuid.UUID("6f1d3c9e-5b7a-5e0c-9a53-2f5f8a0e7d41")
    assert made == uuid.uuid5(root, f"{pair[0]}\0{pair[1]}")
    assert job_id == f"j-{made}"
    assert is_identity(*pair, job_id)


def test_named_job_id_is_a_storage_constant() -> None:
    """The id of a job with a name is the same in every release."""
    assert named_job_id("default", "hello") == "j-abbd3073-d01b-5f6a-b188-08a70705350d"


def test_identity_cannot_be_claimed_elsewhere() -> None:
    """An id belongs to one namespace and name; the name of a nameless job is its id."""
    assert not is_identity("default", "b", named_job_id("default", "a"))
    assert not is_identity("other", "a", named_job_id("default", "a"))
    nameless = nameless_job_id("0198c0de-0000-7000-8000-000000000001")
    assert is_identity("default", nameless, nameless)
    assert not is_identity("default", "a", nameless)
    claimed = named_job_id("default", "a")
    assert not is_identity("other", claimed, claimed)
