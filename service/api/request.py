"""A request as handlers see it, and the job that it names."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any, Final, Generic, TypeVar

import msgspec

from jobledger.projections.errors import ViewError
from jobledger.projections.limits import WAIT_MAX_SECONDS
from jobledger.projections.view import is_full_id, is_short_id
from jobledger.service.access.principal import Principal
from jobledger.service.api.asgi import Receive, Scope
from jobledger.service.api.body import decode_body, is_small, read_fields
from jobledger.service.api.capacity import queued, waiting
from jobledger.service.api.operation import Operation, Permission
from jobledger.service.api.query import Query
from jobledger.service.cursor import parse_cursor
from jobledger.service.limits import FORM_INLINE_BYTES, FORM_MAX_FIELDS, WAIT_DEFAULT_SECONDS
from jobledger.service.wiring import Service
from jobledger.store.model.decide import check_not_quarantined
from jobledger.store.model.errors import InvalidInput, JobledgerError, JobNotFound, JobQuarantined
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.subjects import DEFAULT_NAMESPACE, named_job_id
from jobledger.store.spec.values import is_utf8

ENCODED_SLASH: Final = "\0"
"""Replaces an encoded slash within a segment of the path until the route is found; no name has a NUL."""

_NO_QUERY: Final = Query(b"")

B = TypeVar("B")


class Request(Generic[B]):
    """One request, routed and authenticated. `B` is the Struct that the operation declares as its body.

    Attributes:
        operations: all of the API, for its documents.
        values: the parameters in the path.
        path: normalized, with encoded slashes as `ENCODED_SLASH`.
        receive: for operations that notice when the client disconnects.
        session: the cookie of a browser that signed in; empty for all others.
        exact_ids: a full id names the job with that id only, not a job that has it as its name. Links of the
            UI have ids, and the names of jobs are chosen by others.
    """

    def __init__(
        self,
        operation: Operation,
        values: dict[str, str],
        scope: Scope,
        receive: Receive,
        operations: tuple[Operation, ...],
    ) -> None:
        state = scope["state"]
        self.operation = operation
        self.operations = operations
        self.values = values
        self.service: Service = state["service"]
        self.principal: Principal = state["principal"]
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query_string: bytes = scope["query_string"]
        self.receive = receive
        self.scheme: str = scope.get("scheme", "http")
        self.session: str = state.get("session", "")
        self._headers: Mapping[bytes, bytes] = state["headers"]
        self._query: Query | None = None if self.query_string else _NO_QUERY
        self._raw_body: bytes = state.get("body", b"")
        self.warnings: list[str] = []
        self.exact_ids = False

    @property
    def query(self) -> Query:
        """The parameters of the query; decoded when an operation needs them."""
        if self._query is None:
            self._query = Query(self.query_string)
        return self._query

    @cached_property
    def fields(self) -> dict[str, Any]:
        """The fields of the body as plain values, with keys in lower case."""
        return read_fields(self._raw_body)

    @cached_property
    def form(self) -> Query:
        """The fields of a form, for pages of the UI; call `read_form` before."""
        return Query(self._raw_body, max_fields=FORM_MAX_FIELDS)

    async def read_form(self) -> None:
        """Parse a form; a large one in a thread, in the queue of comparisons, since that takes long."""
        if len(self._raw_body) > FORM_INLINE_BYTES:
            async with queued(self.service.comparing):
                await asyncio.to_thread(getattr, self, "form")

    @cached_property
    def body(self) -> B:
        """The body as the declared Struct; what was ignored in it is added to `warnings`."""
        assert self.operation.body is not None
        body: B = self.decode(
            self.operation.body, strict=self.operation.refuses_unknown_fields or self.query.flag("strict")
        )
        return body

    def decode(self, struct: type[msgspec.Struct], *, strict: bool) -> Any:
        """The body as another Struct, for a path that two operations share."""
        decoded = decode_body(self.fields, struct, strict=strict, is_small=is_small(self._raw_body))
        self.warnings += decoded.warnings
        return decoded.body

    def check_permission(self) -> None:
        """Check what can be checked before the job and its namespace are known.

        Raises:
            Forbidden: if the caller may not use the operation.
        """
        operation = self.operation
        permission = operation.query_permission if self.query_string else operation.permission
        if permission is Permission.ADMIN:
            self.principal.require_admin()
        elif permission is Permission.OBSERVE:
            self.principal.require_observe()

    def header(self, name: bytes) -> str:
        """A header by its name in lower case; empty if absent."""
        return self._headers.get(name, b"").decode("latin-1")

    def has_header(self, name: bytes) -> bool:
        """Whether a header was sent, empty or not; its name in lower case."""
        return name in self._headers

    def condition(self, name: bytes) -> str | None:
        """A header that restricts the request; None if absent.

        Raises:
            InvalidInput: if it is empty: a condition that was lost on the way must not count as none.
        """
        value = self._headers.get(name)
        if value is None:
            return None
        if not value.strip():
            raise InvalidInput(f"the header {name.decode()} is empty; give it a value, or omit it")
        return value.decode("latin-1")

    async def await_position(self, timeout_seconds: float | None = None) -> None:
        """Wait until the view reflects `wait_for`, if given, and what this process has acknowledged.

        Args:
            timeout_seconds: for `wait_for`; None: the query's `timeout`.

        Raises:
            WaitTimeout: if `wait_for` is not reached in time.
            CursorGone: if it is a position in another stream.
            InvalidInput: if either cannot be read.
        """
        service, text = self.service, self.query.text("wait_for")
        if text:
            sequence = parse_cursor(text, service.stream_tag, field="wait_for")
            if timeout_seconds is None:
                timeout_seconds = self.query.seconds("timeout", WAIT_DEFAULT_SECONDS, most=WAIT_MAX_SECONDS)
            if sequence > service.projector.sequence:
                with waiting():
                    await service.projector.wait_for(sequence, timeout_seconds)
        await service.own_writes.visible()  # at most a second, so it keeps its work slot

    @property
    def namespace(self) -> str:
        """The namespace of a job's name: from the query, or from the body; empty for the default."""
        # Decoded in any case: a malformed body is reported before a missing job.
        in_body: str = self.body.namespace if self.operation.body is not None else ""  # type: ignore[attr-defined]
        return self.query.text("namespace") or in_body

    def require(self, namespace: str) -> None:
        """Check that the caller may do in this namespace what the operation does."""
        if self.operation.permission is Permission.READ:
            self.principal.require_read(namespace)
        else:
            self.principal.require_write(namespace)

    async def job(self) -> Job:
        """The job that the path names.

        A write also finds a job that is only in the log yet: one created on another replica a moment ago.

        Raises:
            JobNotFound: if it does not exist, or the caller may not see it.
            JobQuarantined: if no event that creates it can be read.
            AmbiguousId: if it is the beginning of several ids.
            Forbidden: if the operation writes, and the caller may see the job but not change it.
            LogUnavailable: if the log is needed and does not respond.
        """
        ref = self.values["id"]
        if self.operation.permission is Permission.READ:
            return await self.find_job(ref, self.namespace)
        try:
            job = await self.find_job(ref, self.namespace)
        except JobNotFound as not_found:
            job = await self._from_log(ref, self.namespace or DEFAULT_NAMESPACE, not_found)
        self.principal.require_write(job.status.namespace)
        return job

    async def frozen_job(self) -> tuple[str, str]:
        """The id and namespace of the job that the path names, which may have no readable event."""
        try:
            status = (await self.job()).status
        except JobQuarantined as frozen:
            self.principal.require_write(frozen.namespace)
            return frozen.job_id, frozen.namespace
        return status.id, status.namespace

    async def find_job(self, ref: str, namespace: str) -> Job:
        """A job as the view has it, or the log if the view lacks events that were acknowledged here.

        Args:
            ref: name, id or short id.
            namespace: of the name; empty for the default namespace.

        Raises:
            JobledgerError: as `job`.
        """
        if (found := self._find_now(ref, namespace)) is not None:
            return found
        service, checkpoint = self.service, 0
        try:
            await self.await_position()
            checkpoint = service.projector.sequence
            job = await service.view.get(
                ref,
                namespace=namespace or None,
                visible=self.principal.visible,
                by_name=self._may_be_name(ref),
            )
        except ViewError as unreadable:
            return await self._despite_view(ref, namespace, unreadable)
        except JobNotFound as not_found:
            lost = await self._find_lost(ref, namespace or DEFAULT_NAMESPACE)
            if lost is not None:
                check_not_quarantined(lost)
            if not (service.projector.trouble or service.own_writes.lacks_any(checkpoint)):
                raise
            return await self._despite_view(ref, namespace, not_found)
        if service.own_writes.lacks(job.status.id, checkpoint):
            return await service.ledger.load(job.status.id, namespace=job.status.namespace)
        return job

    def usual_job(self) -> Job | None:
        """The job that the path of a read without a query names, if the view has it; None: use `job`."""
        return None if self.query_string else self._find_now(self.values["id"], "")

    def _find_now(self, ref: str, namespace: str) -> Job | None:
        """What `find_job` returns, in the usual case that it need not wait; None otherwise."""
        service = self.service
        if service.own_writes.lacks_any(service.projector.sequence) or self.query.text("wait_for"):
            return None
        return service.view.get_now(
            ref,
            namespace=namespace or None,
            visible=self.principal.visible,
            by_name=self._may_be_name(ref),
        )

    def _may_be_name(self, ref: str) -> bool:
        return not (self.exact_ids and is_full_id(ref))

    async def _despite_view(self, ref: str, namespace: str, error: JobledgerError) -> Job:
        """A job from the log, if the view cannot be read or lags; or else the error that was passed."""
        where = namespace or DEFAULT_NAMESPACE
        not_found = JobNotFound(f"no job has the id, or (in namespace {where!r:.80}) the name {ref!r:.80}")
        try:
            return await self._from_log(ref, where, not_found)
        except JobNotFound:
            if is_short_id(ref):  # only the view can search for those
                raise error from None
            raise

    async def _find_lost(self, ref: str, namespace: str) -> JobStatus | None:
        """A job whose creating event cannot be read, by name or id, if the caller may see it."""
        if not is_utf8(ref) or not is_utf8(namespace):
            return None
        ids = (named_job_id(namespace, ref), ref) if self._may_be_name(ref) else (ref,)
        for status in (await self.service.view.lost(ids)).values():
            if status.quarantine is not None and self.principal.may_read(status.namespace):
                return status
        return None

    async def _from_log(self, ref: str, namespace: str, not_found: JobNotFound) -> Job:
        """A job by its name or full id, in the namespaces that the caller may read.

        Other namespaces are not searched: the time that takes would reveal whether a job exists there.
        """
        ledger, principal = self.service.ledger, self.principal
        try:
            if principal.may_read(namespace) and self._may_be_name(ref):
                with suppress(JobNotFound):
                    return await ledger.load(named_job_id(namespace, ref), namespace=namespace)
            if principal.visible is None:
                return await ledger.load(ref)
            found = await asyncio.gather(
                *(ledger.load(ref, namespace=each) for each in sorted(principal.visible)),
                return_exceptions=True,
            )
        except (JobNotFound, InvalidInput):  # the text may not be a possible id
            raise not_found from None
        for each in found:
            if isinstance(each, Job):
                return each
        for error in found:
            if isinstance(error, BaseException) and not isinstance(error, JobNotFound | InvalidInput):
                raise error
        raise not_found
