"""The client of the HTTP API: one method per operation on jobs, versions and events."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Self, TypeVar

import msgspec

from jobledger.service.client.event_stream import EventStream
from jobledger.service.client.responses import (
    BlameResponse,
    ChangesPage,
    DiffResponse,
    HistoryPage,
    JobPage,
    JobResponse,
    TagsResponse,
    VersionsDiffResponse,
    WriteResponse,
    read_items,
    read_response,
)
from jobledger.service.client.transport import TRANSIENT, Retries, Target, Transport
from jobledger.service.errors import RemoteError, Timeout
from jobledger.service.limits import (
    CLIENT_PAGE_CHANGES,
    CLIENT_PAGE_HISTORY,
    CLIENT_PAGE_JOBS,
    CLIENT_PROBE_TIMEOUT_SECONDS,
    CLIENT_RESPONSE_TIMEOUT_SECONDS,
    CLIENT_RETRY_WAIT_SECONDS,
    CLIENT_WAIT_SECONDS,
    CLIENT_WRITE_MAX_TRIES,
)
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput, JobNotFound, OutcomeUnknown
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.spec import JobSpec, encode_spec
from jobledger.store.spec.values import is_utf8

TERMINAL: Final = tuple(state.value for state in StateType if state.is_terminal)
T = TypeVar("T")
PageT = TypeVar("PageT", JobPage, ChangesPage)


class Client:
    """A client of one service. Every method raises what `Transport.request` raises.

    `ref` is a full ID, a unique prefix of an ID, or a name in `namespace` (empty: the default namespace). A
    version is its number or a tag; empty: the latest.
    """

    def __init__(self, target: Target, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.transport = Transport(target)
        self._sleep = sleep
        self._refs: dict[str, str] = {}  # names that were requested by ID

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.transport.close()

    @property
    def url(self) -> str:
        """The address of the service, without credentials."""
        return self.transport.url

    # --- writes -------------------------------------------------------------------------------------------

    def submit(
        self,
        spec: JobSpec,
        *,
        reason: str = "",
        force: bool = False,
        key: str = "",
        create_only: bool = False,
    ) -> WriteResponse:
        """Create the job with the spec's namespace and name, or update its spec.

        Args:
            spec: as the user wrote it.
            reason: kept in the event.
            force: create a new version even if the spec is equal.
            key: the idempotency key; empty: a random one.
            create_only: fail if the job exists.
        """
        headers = {"If-None-Match": "*"} if create_only else {}
        body = {"Job": _raw(spec), "Force": force, "Reason": reason}
        return self._write("PUT", paths.JOBS, body=body, headers=headers, key=key)

    def update(
        self,
        ref: str,
        spec: JobSpec,
        *,
        namespace: str = "",
        revision: int | None = None,
        force: bool = False,
        reason: str = "",
    ) -> WriteResponse:
        """Update the spec of a job; with `revision`, only if the job still has it."""
        body = {"Job": _raw(spec), "Force": force, "Reason": reason}
        path = self._path(paths.JOB, ref, namespace)
        return self._write("PUT", path, body=body, namespace=namespace, revision=revision)

    def set_state(
        self,
        ref: str,
        state: str,
        *,
        namespace: str = "",
        message: str = "",
        details: Mapping[str, str] | None = None,
        reason: str = "",
        revision: int | None = None,
    ) -> WriteResponse:
        """Set the state of a job; with `revision`, only if the job still has it."""
        body = {"StateType": state, "Message": message, "Details": dict(details or {}), "Reason": reason}
        path = self._path(paths.JOB_STATE, ref, namespace)
        return self._write("PUT", path, body=body, namespace=namespace, revision=revision)

    def stop(self, ref: str, *, namespace: str = "", reason: str = "") -> WriteResponse:
        """Stop a job; stopping a stopped job changes nothing."""
        path = self._path(paths.JOB, ref, namespace)
        return self._write("DELETE", path, body={"reason": reason}, namespace=namespace)

    def rerun(self, ref: str, *, namespace: str = "", version: str = "", reason: str = "") -> WriteResponse:
        """Run a job again, with the spec of a version."""
        path = self._path(paths.JOB_RERUN, ref, namespace)
        return self._write_version("PUT", path, namespace, version=version, reason=reason)

    def revert(
        self, ref: str, version: str, *, namespace: str = "", reason: str = "", revision: int | None = None
    ) -> WriteResponse:
        """Restore the spec of an earlier version; with `revision`, only if the job still has it."""
        path = self._path(paths.JOB_REVERT, ref, namespace)
        return self._write_version("PUT", path, namespace, version=version, reason=reason, revision=revision)

    def tag(
        self,
        ref: str,
        version: str,
        tag: str,
        *,
        namespace: str = "",
        reason: str = "",
        revision: int | None = None,
    ) -> WriteResponse:
        """Tag a version."""
        path = self._path(paths.JOB_TAG, ref, namespace, tag=tag)
        return self._write_version("PUT", path, namespace, version=version, reason=reason, revision=revision)

    def untag(
        self, ref: str, tag: str, *, namespace: str = "", reason: str = "", revision: int | None = None
    ) -> WriteResponse:
        """Remove a tag."""
        path = self._path(paths.JOB_TAG, ref, namespace, tag=tag)
        return self._write_version("DELETE", path, namespace, reason=reason, revision=revision)

    def accept_unreadable(
        self, ref: str, sequence: int, *, namespace: str = "", reason: str = ""
    ) -> WriteResponse:
        """Accept that an event which froze a job cannot be read; requires an admin token."""
        body = {"Sequence": sequence, "Reason": reason, "Namespace": namespace}
        path = self._path(paths.JOB_ACCEPT, ref, namespace)
        return self._write("POST", path, body=body, namespace=namespace)

    # --- reads --------------------------------------------------------------------------------------------

    def job(
        self, ref: str, *, namespace: str = "", wait_for: str = "", version: str = "", at: str = ""
    ) -> JobResponse:
        """A job; with the spec of a version, or as of a point."""
        query = {"namespace": namespace, "wait_for": wait_for, "job_version": version or None, "at": at}
        return _read_job(self._request("GET", self._path(paths.JOB, ref, namespace), query=query))

    def jobs(
        self, query: Mapping[str, Any], *, timeout_seconds: float = CLIENT_RESPONSE_TIMEOUT_SECONDS
    ) -> JobPage:
        """One page of jobs; `query` has the parameters of the API."""
        return read_items(
            self._request("GET", paths.JOBS, query=query, timeout_seconds=timeout_seconds), JobPage
        )

    def job_pages(self, query: Mapping[str, Any], *, limit: int | None) -> Iterator[JobPage]:
        """Pages of jobs, until all or `limit` jobs are read."""
        return self._pages(self.jobs, query, CLIENT_PAGE_JOBS, limit)

    def change_pages(self, query: Mapping[str, Any], *, limit: int | None) -> Iterator[ChangesPage]:
        """Pages of the jobs that changed between two points, until all or `limit` jobs are read."""

        def read(page_query: Mapping[str, Any]) -> ChangesPage:
            return read_response(self._request("GET", paths.CHANGES, query=page_query), ChangesPage)

        return self._pages(read, query, CLIENT_PAGE_CHANGES, limit)

    def history(
        self,
        ref: str,
        *,
        namespace: str = "",
        version: str = "",
        since_seconds: int | None = None,
        limit: int = CLIENT_PAGE_HISTORY,
        token: str = "",
        at: str = "",
    ) -> HistoryPage:
        """One page of a job's history, oldest first, up to a point; of all versions or of one."""
        query = {
            "namespace": namespace,
            "job_version": version or None,
            "all_job_versions": None if version else "true",
            "since": since_seconds,
            "limit": limit,
            "next_token": token,
            "at": at,
        }
        path = self._path(paths.JOB_HISTORY, ref, namespace)
        return read_items(self._request("GET", path, query=query), HistoryPage)

    def versions(self, ref: str, *, namespace: str = "") -> Iterator[JobPage]:
        """Pages of a job's versions, ascending: the job as it was with each of its specs."""
        path = self._path(paths.JOB_VERSIONS, ref, namespace)

        def read(query: Mapping[str, Any]) -> JobPage:
            return read_items(self._request("GET", path, query=query), JobPage)

        return self._pages(read, {"namespace": namespace}, CLIENT_PAGE_JOBS, None)

    def tags(self, ref: str, *, namespace: str = "", at: str = "") -> TagsResponse:
        """The tags of a job, now or as of a point."""
        path = self._path(paths.JOB_TAGS, ref, namespace)
        return read_response(
            self._request("GET", path, query={"namespace": namespace, "at": at}), TagsResponse
        )

    def diff(self, spec: JobSpec) -> DiffResponse:
        """How a spec differs from that of the job with its name."""
        query = {"compare": "true"}  # otherwise the path would mean a job with the name `diff`
        wire = self._request("PUT", paths.JOBS_DIFF, query=query, body={"Job": _raw(spec)})
        return read_response(wire, DiffResponse)

    def diff_versions(
        self, ref: str, old: str, new: str = "", *, namespace: str = ""
    ) -> VersionsDiffResponse:
        """How two versions of a job's spec differ."""
        query = {"namespace": namespace, "from": old, "to": new}
        path = self._path(paths.JOB_DIFF, ref, namespace)
        return read_response(self._request("GET", path, query=query), VersionsDiffResponse)

    def blame(self, ref: str, *, namespace: str = "", at: str = "", path: str = "") -> BlameResponse:
        """The event that set each field of a job, or of the part at `path`."""
        query = {"namespace": namespace, "at": at, "path": path}
        return read_items(
            self._request("GET", self._path(paths.JOB_BLAME, ref, namespace), query=query), BlameResponse
        )

    def wait(
        self,
        ref: str,
        states: tuple[str, ...],
        *,
        timeout_seconds: float,
        namespace: str = "",
        after: WriteResponse | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> JobResponse:
        """Wait until a job is in one of these states or has ended.

        Args:
            ref: the job.
            states: their names.
            timeout_seconds: for the whole wait, which may take several requests.
            namespace: of the name.
            after: a write; only states that are at least as new count.
            clock: seconds.

        Raises:
            Timeout: the job did not reach a state in time.
            ServiceUnreachable: the service never responded; later interruptions are retried.
        """
        deadline = clock() + timeout_seconds
        retries = Retries(self.transport, max_tries=None)
        # A job that has ended reaches no other state.
        query = {"namespace": namespace, "state": ",".join(dict.fromkeys((*states, *TERMINAL)))}
        while True:
            left = max(0.0, deadline - clock())
            share = min(left, CLIENT_WAIT_SECONDS)
            try:
                if after is not None:  # the replica that responds must have applied the write
                    self.job(ref, namespace=namespace, wait_for=str(after.sequence))
                found = self._wait_once(ref, namespace, query, share)
                if found is None and left > share:
                    continue
                job = found or self.job(ref, namespace=namespace)
            except TRANSIENT as error:
                wait_seconds = retries.wait_seconds(error)
                if clock() + wait_seconds >= deadline:
                    raise Timeout(
                        f"the service did not respond within {timeout_seconds:.10g} s: {error}"
                    ) from error
                self._sleep(wait_seconds)
                continue
            retries.reset()
            is_new = after is None or job.revision >= after.revision
            if is_new and job.state.state_type in (*states, *TERMINAL):
                return job
            if found is None:  # the deadline has passed
                goal = "end" if states == TERMINAL else f"become {' or '.join(states)}"
                raise Timeout(
                    f"job {job.id} is {job.state.state_type} (revision {job.revision}) and did not {goal}"
                    f" within {timeout_seconds:.10g} s; wait longer, or follow its events"
                )

    def _wait_once(
        self, ref: str, namespace: str, query: Mapping[str, str], seconds: float
    ) -> JobResponse | None:
        """One request of a wait; None: the job is not in one of the states yet."""
        try:
            wire = self._request(
                "GET",
                self._path(paths.JOB_WAIT, ref, namespace),
                query={**query, "timeout": f"{max(1, round(seconds * 1000))}ms"},
                timeout_seconds=seconds + CLIENT_RESPONSE_TIMEOUT_SECONDS,
            )
        except Timeout:
            return None
        return _read_job(wire)

    def with_retries(self, read: Callable[[], T]) -> T:
        """Call `read`, and again after a transient error; not if the service never responded."""
        retries: Retries | None = None
        while True:
            try:
                return read()
            except TRANSIENT as error:
                retries = retries or Retries(self.transport)
                self._sleep(retries.wait_seconds(error))

    def event_stream(
        self, query: Mapping[str, Any], *, after: str, report: Callable[[str], None]
    ) -> EventStream:
        """The live feed; `query` has the parameters of the API."""
        return EventStream(self.transport, query, after=after, report=report)

    def version(self) -> dict[str, Any]:
        """The version of the service."""
        wire = self._request("GET", paths.AGENT_VERSION, timeout_seconds=CLIENT_PROBE_TIMEOUT_SECONDS)
        if not isinstance(wire, dict):
            raise RemoteError(f"{self.url} does not report its version; is it a Jobledger service?")
        return wire

    # --- requests -----------------------------------------------------------------------------------------

    def _request(self, method: str, path: str, **options: Any) -> Any:
        """`Transport.request`; if a job is not found, the error names it as the caller did."""
        try:
            return self.transport.request(method, path, **options)
        except JobNotFound as error:
            message = str(error)
            for job_id, ref in self._refs.items():
                message = message.replace(repr(job_id), repr(ref)).replace(job_id, ref)
            error.args = (message,)
            raise

    def _pages(
        self,
        read: Callable[[Mapping[str, Any]], PageT],
        query: Mapping[str, Any],
        page_size: int,
        limit: int | None,
    ) -> Iterator[PageT]:
        token, left = query.get("next_token", ""), limit
        while left is None or left > 0:
            size = page_size if left is None else min(left, page_size)
            page = read({**query, "limit": size, "next_token": token})
            yield page
            token = page.next_token
            left = left - len(page.items) if left is not None else None
            if not token:
                return

    def _path(self, template: str, ref: str, namespace: str, **values: str) -> str:
        """The path of a job. A name that would change the structure of the path is replaced by its ID.

        Raises:
            InvalidInput: no job can have such a name.
        """
        if not ref or "\0" in ref or not is_utf8(ref):
            raise InvalidInput(f"invalid job {ref!r:.80}: use a name, an ID, or the beginning of an ID")
        if "/" in ref or ref in {".", ".."}:
            job_id = named_job_id(namespace or DEFAULT_NAMESPACE, ref)
            self._refs[job_id] = ref
            ref = job_id
        return paths.expand(template, id=ref, **values)

    def _write_version(
        self,
        method: str,
        path: str,
        namespace: str,
        *,
        version: str = "",
        reason: str,
        revision: int | None = None,
    ) -> WriteResponse:
        body: dict[str, object] = {"Reason": reason, "Namespace": namespace}
        if version:
            body["JobVersion"] = int(version) if version.isdecimal() else version
        return self._write(method, path, body=body, namespace=namespace, revision=revision)

    def _write(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object],
        namespace: str = "",
        revision: int | None = None,
        headers: Mapping[str, str] | None = None,
        key: str = "",
    ) -> WriteResponse:
        """Write; if the response is lost, repeat the request with the same key, which writes nothing twice.

        Raises:
            OutcomeUnknown: no response arrived.
        """
        sent = {**(headers or {}), "Idempotency-Key": key or str(uuid.uuid4())}
        if revision is not None:
            sent["If-Match"] = f'"{revision}"'
        query = {"namespace": namespace}
        for attempt in range(1, CLIENT_WRITE_MAX_TRIES + 1):
            try:
                wire = self._request(method, path, query=query, body=body, headers=sent)
                return read_response(wire, WriteResponse)
            except OutcomeUnknown:
                if attempt == CLIENT_WRITE_MAX_TRIES:
                    raise
                self._sleep(CLIENT_RETRY_WAIT_SECONDS * attempt)
        raise AssertionError  # the last attempt returns or raises


def _read_job(wire: object) -> JobResponse:
    return read_response(wire.get("Job") if isinstance(wire, Mapping) else None, JobResponse)


def _raw(spec: JobSpec) -> msgspec.Raw:
    return msgspec.Raw(encode_spec(spec))


__all__ = ["TERMINAL", "Client", "Target"]
