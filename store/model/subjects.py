"""Where an event of a job lives in the log: its NATS subject, and the ids that go into it.

    jobs.<namespace>.<shard>.<job id>

One subject per job is the concurrency boundary. The namespace token carries permissions and filters. The
shard token (00…31, fixed by the job id) lets a group of consumers share the log by job without reading all of
it.
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

# The UUID namespace of named jobs. A storage constant: change it and every named job gets another id.
_NAMED_JOBS = uuid.UUID("6f1d3c9e-5b7a-5e0c-9a53-2f5f8a0e7d41").bytes
UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NAMELESS_JOB_ID = re.compile(f"j-{UUID7.pattern}")
_PLAIN_TOKEN = re.compile(r"[A-Za-z0-9_-]+")
# Printable ASCII that NATS takes in a token as it is: all but `.`, `*`, `>`, space, and `%`, which is our own
# escape.
_SAFE = "!\"#$&'()+,-/:;<=?@[\\]^_`{|}~"


class SubjectParts(NamedTuple):
    """What a subject says: the namespace and the job id, decoded."""

    namespace: str
    job_id: str


def named_job_id(namespace: str, name: str) -> str:
    """The id of the job of this namespace and name: `j-` and a UUIDv5 over the two.

    It is a function of the identity, so two first submissions meet on one subject and exactly one creates the
    job.
    """
    # NUL is refused in both, so no two pairs give the same text.
    digest = hashlib.sha1(_NAMED_JOBS + f"{namespace}\0{name}".encode(), usedforsecurity=False).hexdigest()
    # `uuid.UUID(…, version=5)` spelled out: the fold checks the id of every job it meets, and that class is
    # slow.
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"j-{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"


def nameless_job_id(event_id: str) -> str:
    """The id of a job without a name: `j-` and the UUIDv7 of its first event.

    Taking the event's id makes a retried submission land on the subject of the first try, where it is
    recognised.
    """
    return f"j-{event_id}"


def is_identity(namespace: str, name: str, job_id: str) -> bool:
    """Whether a job of this id may carry this namespace and name.

    Without this rule a writer who may only write to one namespace could claim, there, the id of a job of
    another one.
    """
    if name == job_id and NAMELESS_JOB_ID.fullmatch(job_id):
        return True
    return job_id == named_job_id(namespace, name)


def shard_of(job_id: str) -> str:
    """The shard token of a job id: the first byte of its SHA-256, modulo 32, as two digits."""
    return _SHARDS[hashlib.sha256(job_id.encode()).digest()[0] % SHARD_COUNT]


def job_subject(namespace: str, job_id: str) -> str:
    """The subject of one job's events."""
    return f"{SUBJECT_ROOT}.{_encode(namespace)}.{_job_tokens(job_id)}"


def job_subject_anywhere(job_id: str) -> str:
    """The filter that matches this job's subject in whatever namespace it is."""
    return f"{SUBJECT_ROOT}.*.{_job_tokens(job_id)}"


def namespace_subjects(namespace: str | None) -> str:
    """The filter that matches the subjects of all jobs of a namespace; None: of all jobs there are."""
    return f"{SUBJECT_ROOT}.{'*' if namespace is None else _encode(namespace)}.*.*"


def shard_token(shard: int) -> str:
    """The token of a shard's number."""
    return _SHARDS[shard]


def shard_subjects(namespace: str | None, shard: int) -> str:
    """The filter that matches the subjects of a namespace's jobs (None: of all) in one shard."""
    return f"{SUBJECT_ROOT}.{'*' if namespace is None else _encode(namespace)}.{_SHARDS[shard]}.*"


def subject_matches(wanted: Sequence[str], subject: str) -> bool:
    """Whether a subject matches the tokens of a filter; `*` stands for any one token."""
    tokens = subject.split(".")
    return len(wanted) == len(tokens) and all(
        want in ("*", token) for want, token in zip(wanted, tokens, strict=True)
    )


def token(text: str) -> str:
    """Any text as one token of a subject."""
    return _encode(text)


def parse_subject(subject: str) -> SubjectParts | None:
    """The namespace and job id that a subject names; None if `job_subject` would not write it."""
    tokens = subject.split(".")
    if len(tokens) != 4 or tokens[0] != SUBJECT_ROOT:
        return None
    _, namespace, shard, job_id = tokens
    if _PLAIN_TOKEN.fullmatch(namespace) and _PLAIN_TOKEN.fullmatch(job_id):  # nearly always
        return SubjectParts(namespace, job_id) if shard == shard_of(job_id) else None
    namespace, job_id = unquote(namespace), unquote(job_id)
    if not (namespace and job_id) or job_subject(namespace, job_id) != subject:
        return None
    return SubjectParts(namespace, job_id)


@lru_cache(maxsize=65_536)  # every reader of the log asks it for every event
def _job_tokens(job_id: str) -> str:
    return f"{shard_of(job_id)}.{_encode(job_id)}"


@lru_cache(maxsize=4096)
def _encode(token: str) -> str:
    """Percent-encode what NATS forbids in a token."""
    if _PLAIN_TOKEN.fullmatch(token):
        return token
    return quote(token, safe=_SAFE).replace(".", "%2E")
