"""What can be asked of the service, as methods with types: one per route that the command line needs."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Self, TypeVar
from urllib.parse import quote

import msgspec

from jobledger.service.client.answers import (
    DiffAnswer,
    HistoryPage,
    JobAnswer,
    JobPage,
    WriteAnswer,
    read_answer,
    read_history,
    read_job,
    read_jobs,
)
from jobledger.service.client.feed import Feed
from jobledger.service.client.interruptions import PASSING, Interruptions
from jobledger.service.client.transport import Target, Transport
from jobledger.service.client.versions import VersionCalls
from jobledger.service.errors import RemoteError, Timeout
from jobledger.service.limits import (
    CLIENT_ANSWER_TIMEOUT_SECONDS,
    CLIENT_PAGE_HISTORY,
    CLIENT_PAGE_JOBS,
    CLIENT_PROBE_TIMEOUT_SECONDS,
    CLIENT_RETRY_WAIT_SECONDS,
    CLIENT_WAIT_SECONDS,
    CLIENT_WRITE_MAX_TRIES,
)
from jobledger.store.model.errors import InvalidInput, JobNotFound, OutcomeUnknown
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.spec import JobSpec, encode_spec
from jobledger.store.spec.values import is_utf8

_JOBS: Final = "/api/v1/orchestrator/jobs"
_VERSION: Final = "/api/v1/agent/version"
TERMINAL: Final = tuple(state.value for state in StateType if state.is_terminal)


Answered = TypeVar("Answered")


class Client(VersionCalls):
    """Asks one service. Every method raises what `Transport.ask` raises.

    Jobs are meant by `ref`: full id, unique short id, or the name in `namespace` (empty: the default one).
    """

    def __init__(self, target: Target, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._transport = Transport(target)
        self._sleep = sleep
        self._typed: dict[str, str] = {}  # the names that were asked for by their ids

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._transport.close()

    @property
    def url(self) -> str:
        """Where the service is."""
        return self._transport.url

    @property
    def transport(self) -> Transport:
        """For what other modules of this folder ask."""
        return self._transport

    # --- writing ------------------------------------------------------------------------------------------

    def submit(
        self,
        spec: JobSpec,
        *,
        reason: str = "",
        force: bool = False,
        key: str = "",
        create_only: bool = False,
    ) -> WriteAnswer:
        """Create the job of the spec's namespace and name, or give it this spec if it exists.

        Args:
            spec: as the user wrote it.
            reason: why; kept in the event.
            force: a new version also if the spec is the present one.
            key: the idempotency key; empty: one is made.
            create_only: refuse if there is a job of that name.
        """
        headers = {"If-None-Match": "*"} if create_only else {}
        body = {"Job": _raw(spec), "Force": force, "Reason": reason}
        return self._write("PUT", _JOBS, body=body, headers=headers, key=key)

    def update(
        self,
        ref: str,
        spec: JobSpec,
        *,
        namespace: str = "",
        revision: int | None = None,
        force: bool = False,
        reason: str = "",
    ) -> WriteAnswer:
        """Give a job a new spec; with a revision, only if it is still at that one."""
        body = {"Job": _raw(spec), "Force": force, "Reason": reason}
        return self._write(
            "PUT", self._path(ref, namespace=namespace), body=body, namespace=namespace, revision=revision
        )

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
    ) -> WriteAnswer:
        """Say which state a job has come to; with a revision, only if it is still at that one."""
        body = {"StateType": state, "Message": message, "Details": dict(details or {}), "Reason": reason}
        return self._write(
            "PUT",
            self._path(ref, "/state", namespace=namespace),
            body=body,
            namespace=namespace,
            revision=revision,
        )

    def stop(self, ref: str, *, namespace: str = "", reason: str = "") -> WriteAnswer:
        """Stop a job; one that is stopped already stays as it is."""
        return self._write(
            "DELETE", self._path(ref, namespace=namespace), body={"reason": reason}, namespace=namespace
        )

    def diff(self, spec: JobSpec) -> DiffAnswer:
        """How a spec differs from the one that the job of its name has."""
        query = {"compare": "true"}  # a job may have the name `diff`
        wire = self._ask("PUT", f"{_JOBS}/diff", query=query, body={"Job": _raw(spec)})
        return read_answer(wire, DiffAnswer)

    # --- reading ------------------------------------------------------------------------------------------

    def job(
        self, ref: str, *, namespace: str = "", wait_for: str = "", version: str = "", at: str = ""
    ) -> JobAnswer:
        """One job; with a version, by its number or a tag, as its spec was then; or as of a point."""
        query = {"namespace": namespace, "wait_for": wait_for, "job_version": version or None, "at": at}
        return read_job(self._ask("GET", self._path(ref, namespace=namespace), query=query))

    def jobs(self, query: Mapping[str, Any], *, timeout_seconds: float | None = None) -> JobPage:
        """A page of jobs; the query is the API's."""
        return read_jobs(
            self._ask(
                "GET", _JOBS, query=query, timeout_seconds=timeout_seconds or CLIENT_ANSWER_TIMEOUT_SECONDS
            )
        )

    def job_pages(self, query: Mapping[str, Any], *, limit: int | None) -> Iterator[JobPage]:
        """Pages of jobs until there are no more, or as many jobs as the limit says."""
        token, left = query.get("next_token", ""), limit
        while left is None or left > 0:
            size = CLIENT_PAGE_JOBS if left is None else min(left, CLIENT_PAGE_JOBS)
            page = self.jobs({**query, "limit": size, "next_token": token})
            yield page
            token = page.next_token
            left = left - len(page.items) if left is not None else None
            if not token:
                return

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
        """A page of a job's history, oldest first, up to a point; of all versions, or of one."""
        query = {
            "namespace": namespace,
            "job_version": version or None,
            "all_job_versions": None if version else "true",
            "since": since_seconds,
            "limit": limit,
            "next_token": token,
            "at": at,
        }
        return read_history(self._ask("GET", self._path(ref, "/history", namespace=namespace), query=query))

    def wait(
        self,
        ref: str,
        states: tuple[str, ...],
        *,
        timeout_seconds: float,
        namespace: str = "",
        after: WriteAnswer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> JobAnswer:
        """Wait until a job is in one of these states or has ended.

        Args:
            ref: the job.
            states: by name.
            timeout_seconds: for all of it; the service is asked as often as that takes.
            namespace: of the name.
            after: a write of ours: only a state that is as new as this one counts.
            clock: seconds.

        Raises:
            Timeout: it did not come to that in time.
            ServiceUnreachable: the service never answered. Once it has, the wait goes on while it is away.
        """
        deadline = clock() + timeout_seconds
        interruptions = Interruptions(self._transport, max_tries=None)
        # Any end ends the wait: what is waited for can't come any more.
        query = {
            "namespace": namespace,
            "state": ",".join(dict.fromkeys((*states, *TERMINAL))),
        }
        while True:
            left = max(0.0, deadline - clock())
            share = min(left, CLIENT_WAIT_SECONDS)
            try:
                if after is not None:  # the state before our write is not meant, wherever it is asked for
                    self.job(ref, namespace=namespace, wait_for=str(after.sequence))
                found = self._wait_once(ref, namespace, query, share)
                if found is None and left > share:
                    continue
                job = found or self.job(ref, namespace=namespace)
            except PASSING as error:
                wait_seconds = interruptions.wait_seconds(error)
                if clock() + wait_seconds >= deadline:
                    raise Timeout(
                        f"the service did not answer before the {timeout_seconds:.10g} s were over: {error}"
                    ) from error
                self._sleep(wait_seconds)
                continue
            interruptions.over()
            is_new = after is None or job.revision >= after.revision
            if is_new and job.state.state_type in (*states, *TERMINAL):
                return job
            if found is None:  # all of the time is over
                raise _late(job, states, timeout_seconds)

    def _wait_once(
        self, ref: str, namespace: str, query: Mapping[str, str], seconds: float
    ) -> JobAnswer | None:
        """One request's share of a wait; None: the job is not in one of the states yet."""
        try:
            wire = self._ask(
                "GET",
                self._path(ref, "/wait", namespace=namespace),
                query={**query, "timeout": f"{max(1, round(seconds * 1000))}ms"},
                timeout_seconds=seconds + CLIENT_ANSWER_TIMEOUT_SECONDS,
            )
        except Timeout:
            return None
        return read_job(wire)

    def through_interruptions(self, ask: Callable[[], Answered]) -> Answered:
        """Ask again while the service is away, a named number of times; not if it never answered."""
        interruptions = Interruptions(self._transport)
        while True:
            try:
                return ask()
            except PASSING as error:
                self._sleep(interruptions.wait_seconds(error))

    def feed(self, query: Mapping[str, Any], *, after: str, tell: Callable[[str], None]) -> Feed:
        """The live feed; the query is the API's."""
        return Feed(self._transport, query, after=after, tell=tell)

    def version(self) -> dict[str, Any]:
        """What the service says of itself."""
        wire = self._ask("GET", _VERSION, timeout_seconds=CLIENT_PROBE_TIMEOUT_SECONDS)
        if not isinstance(wire, dict):
            raise RemoteError(f"{self.url} does not tell its version; is it a Jobledger service?")
        return wire

    def _ask(self, method: str, path: str, **how: Any) -> Any:
        """As `Transport.ask`; a job that is not found is told by the word that was typed."""
        try:
            return self._transport.ask(method, path, **how)
        except JobNotFound as error:
            message = str(error)
            for job_id, ref in self._typed.items():
                message = message.replace(repr(job_id), repr(ref)).replace(job_id, ref)
            error.args = (message,)
            raise

    def _path(self, ref: str, end: str = "", *, namespace: str = "") -> str:
        """Where a job is asked for. A name that would be part of the path's structure is asked for by its id.

        Raises:
            InvalidInput: there is no such name.
        """
        if not ref or "\0" in ref or not is_utf8(ref):
            raise InvalidInput(f"{ref!r:.80} is no job; pass a name, an id, or the beginning of an id")
        if "/" in ref or ref in {".", ".."}:
            job_id = named_job_id(namespace or DEFAULT_NAMESPACE, ref)
            self._typed[job_id] = ref
            ref = job_id
        return f"{_JOBS}/{quote(ref, safe='')}{end}"

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
    ) -> WriteAnswer:
        """Write; if the answer is lost, ask for it again with the same key, which writes nothing twice.

        Raises:
            OutcomeUnknown: the answer stayed away.
        """
        key = key or str(uuid.uuid4())
        sent = {**(headers or {}), "Idempotency-Key": key}
        if revision is not None:
            sent["If-Match"] = f'"{revision}"'
        query = {"namespace": namespace}
        for attempt in range(1, CLIENT_WRITE_MAX_TRIES + 1):
            try:
                wire = self._ask(method, path, query=query, body=body, headers=sent)
                return read_answer(wire, WriteAnswer)
            except OutcomeUnknown:
                if attempt == CLIENT_WRITE_MAX_TRIES:
                    raise
                self._sleep(CLIENT_RETRY_WAIT_SECONDS * attempt)
        raise AssertionError  # the last try returns or raises


def _late(job: JobAnswer, states: tuple[str, ...], timeout_seconds: float) -> Timeout:
    """A wait that was in vain, in the words of who asked."""
    wanted = "end" if states == TERMINAL else f"become {' or '.join(states)}"
    return Timeout(
        f"job {job.id} is {job.state.state_type} (revision {job.revision}) and did not {wanted} within"
        f" {timeout_seconds:.10g} s; wait longer, or follow its events"
    )


def _raw(spec: JobSpec) -> msgspec.Raw:
    return msgspec.Raw(encode_spec(spec))


__all__ = ["TERMINAL", "Client", "Target"]
