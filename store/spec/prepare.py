"""A spec on its way into an event: named, judged, put into its one form, encoded."""

from typing import NamedTuple

from msgspec.structs import replace

from jobledger.store.model.errors import InvalidInput, InvalidSpec
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, NAMELESS_JOB_ID, named_job_id, nameless_job_id
from jobledger.store.spec.normalize import normalize
from jobledger.store.spec.spec import JobSpec, encode_spec
from jobledger.store.spec.validate import problems_of


class Prepared(NamedTuple):
    """A spec that may be appended, and the job it belongs to."""

    job_id: str
    namespace: str
    spec: bytes


def prepare_new(spec: JobSpec, event_id: str) -> Prepared:
    """The spec of a job that may not exist yet.

    Raises:
        InvalidSpec: every rule that it breaks, at once.
    """
    check_is_spec(spec)
    is_named = bool(spec.name)
    name, namespace = spec.name or nameless_job_id(event_id), spec.namespace or DEFAULT_NAMESPACE
    if not (is_named and spec.namespace):
        spec = replace(spec, name=name, namespace=namespace)
    encoded = _encode(spec)
    # Only now: an id can't be made of a name that is no valid text.
    job_id = named_job_id(namespace, name) if is_named else name
    return Prepared(job_id, namespace, encoded)


def is_nameless_job_id(name: object) -> bool:
    """Whether this is the id that a job without a name gets, and takes for a name."""
    return isinstance(name, str) and NAMELESS_JOB_ID.fullmatch(name) is not None


def prepare_update(spec: JobSpec, status: JobStatus) -> Prepared:
    """The new spec of a job that exists; name and namespace may be left out, and can't change.

    Raises:
        InvalidInput: if they would change.
        InvalidSpec: every rule that it breaks, at once.
    """
    check_is_spec(spec)
    named = {"name": (spec.name, status.name), "namespace": (spec.namespace, status.namespace)}
    for field, (new, current) in named.items():
        if new and new != current:
            raise InvalidInput(
                f"cannot change job name or namespace during update: {field} is {new!r:.80} and the job's is"
                f" {current!r:.80}; leave it out, or create another job"
            )
    return Prepared(
        status.id, status.namespace, _encode(replace(spec, name=status.name, namespace=status.namespace))
    )


def check_is_spec(spec: object) -> None:
    """Tell a caller who passes something else what to pass.

    Raises:
        InvalidInput: if this is no `JobSpec`.
    """
    if not isinstance(spec, JobSpec):
        raise InvalidInput(
            f"the spec is a {type(spec).__name__}, not a JobSpec; pass load_spec(text).spec, say"
        )


def _encode(spec: JobSpec) -> bytes:
    problems = problems_of(spec)  # of what the caller wrote, so that the paths and values are his
    if problems:
        raise InvalidSpec(problems)
    return encode_spec(normalize(spec))
