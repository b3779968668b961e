"""The NATS subject of a job's events, and the ids in it.

    jobs.<namespace>.<shard>.<job id>

One subject per job is the concurrency boundary. Permissions and filters use the namespace token. The shard
token (00…31, a function of the job id) lets a group of consumers share the log without reading all of it.
"""

import hashlib
import re
import uuid
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

STREAM_NAME = "JOBS"
SUBJECT_ROOT = "jobs"
ALL_SUBJECTS = f"{SUBJECT_ROOT}.>"
SHARD_COUNT = 32
_SHARDS = tuple(f"{number:02d}" for number in range(SHARD_COUNT))
DEFAULT_NAMESPACE = "default"

# The UUID namespace of named jobs. A storage constant: with another one every named job gets another id.
_NAMED_JOBS = uuid.UUID("6f1d3c9e-5b7a-5e0c-9a53-2f5f8a0e7d41").bytes
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NAMELESS_JOB_ID = re.compile(f"j-{UUID7.pattern}")
_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
# Printable ASCII that NATS allows in a token: all but `.`, `*`, `>`, space, and `%`, which is our escape.
_SAFE = "!\"#$&'()+,-/:;<=?@[\\]^_`{|}~"


class SubjectParts(NamedTuple):
    """The namespace and the job id of a subject, decoded."""

    namespace: str
    job_id: str


def named_job_id(namespace: str, name: str) -> str:
    """Return the id of the job with this namespace and name: `j-` and the UUIDv5 of both.

    It is a function of the identity, so two concurrent first submissions race on one subject and exactly one
    creates the job.
    """
    # Neither may contain NUL, so different pairs give different texts.
    digest = hashlib.sha1(_NAMED_JOBS + f"{namespace}\0{name}".encode(), usedforsecurity=False).hexdigest()
    # Not `uuid.UUID(…, version=5)`, which is slow: the fold checks the id of every job.
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"j-{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def nameless_job_id(event_id: str) -> str:
    """Return the id of a job without a name: `j-` and the UUIDv7 of its first event.

    A repeated submission has the same event id and so the same subject, where it is recognized.
    """
    return f"j-{event_id}"


def is_identity(namespace: str, name: str, job_id: str) -> bool:
    """Return whether the job with this id can have this namespace and name.

    Without this rule a writer with rights on one namespace could claim the id of a job of another namespace.
    """
    if name == job_id and NAMELESS_JOB_ID.fullmatch(job_id):
        return True
    return job_id == named_job_id(namespace, name)


def shard_of(job_id: str) -> str:
    """Return the shard token of a job id: the first byte of its SHA-256, modulo 32, as two digits."""
    return _SHARDS[hashlib.sha256(job_id.encode()).digest()[0] % SHARD_COUNT]


def job_subject(namespace: str, job_id: str) -> str:
    """Return the subject of a job."""
    return f"{SUBJECT_ROOT}.{token(namespace)}.{_job_tokens(job_id)}"


def plain_job_subject(namespace: str, shard: str, job_id: str) -> str:
    """Return `job_subject` for a known shard; empty if the id has characters that a token must not have."""
    if not _PLAIN_TOKEN.fullmatch(job_id):
        return ""
    return f"{SUBJECT_ROOT}.{token(namespace)}.{shard}.{job_id}"


def job_subject_anywhere(job_id: str) -> str:
    """Return the filter that matches the subject of a job in any namespace."""
    return f"{SUBJECT_ROOT}.*.{_job_tokens(job_id)}"


def namespace_subjects(namespace: str | None) -> str:
    """Return the filter that matches the subjects of a namespace's jobs; None: of all jobs."""
    return f"{SUBJECT_ROOT}.{'*' if namespace is None else token(namespace)}.*.*"


def shard_token(shard: int) -> str:
    """Return the subject token of a shard."""
    return _SHARDS[shard]


def shard_subjects(namespace: str | None, shard: int) -> str:
    """Return the filter that matches the subjects of a namespace's jobs (None: of all jobs) in one shard."""
    return f"{SUBJECT_ROOT}.{'*' if namespace is None else token(namespace)}.{_SHARDS[shard]}.*"


def subject_matches(filter_tokens: Sequence[str], subject: str) -> bool:
    """Return whether a subject matches the tokens of a filter; `*` matches any one token."""
    tokens = subject.split(".")
    return len(filter_tokens) == len(tokens) and all(
        each in ("*", token) for each, token in zip(filter_tokens, tokens, strict=True)
    )


def parse_subject(subject: str) -> SubjectParts | None:
    """Return the namespace and job id of a subject; None if it is not one that `job_subject` returns."""
    tokens = subject.split(".")
    if len(tokens) != 4 or tokens[0] != SUBJECT_ROOT:
        return None
    _, namespace, shard, job_id = tokens
    if _PLAIN_TOKEN.fullmatch(namespace) and _PLAIN_TOKEN.fullmatch(job_id):  # the usual case
        return SubjectParts(namespace, job_id) if shard == shard_of(job_id) else None
    namespace, job_id = unquote(namespace), unquote(job_id)
    if not (namespace and job_id) or job_subject(namespace, job_id) != subject:
        return None
    return SubjectParts(namespace, job_id)


@lru_cache(maxsize=65_536)  # every reader of the log calls it for every event
def _job_tokens(job_id: str) -> str:
    # Not in the cache of `token` as well: almost all ids are plain.
    plain = job_id if _PLAIN_TOKEN.fullmatch(job_id) else token(job_id)
    return f"{shard_of(job_id)}.{plain}"


@lru_cache(maxsize=4096)
def token(text: str) -> str:
    """Return any text as one subject token, percent-encoded where NATS forbids a character."""
    if _PLAIN_TOKEN.fullmatch(text):
        return text
    return quote(text, safe=_SAFE).replace(".", "%2E")
