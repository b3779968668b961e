"""The ledger: commands on jobs, and strongly consistent reads of one job.

    command ─► load ─► decide ─┬─ an event ─► append ─┬─ appended ─────► Receipt
                ▲              │                      └─ a lost race ──► load again, and decide again
                └── read again ┴─ nothing to append, or a refusal, decided on a cached job

A decision that appends is guarded by the expected last sequence of the append, so it can start from a cached
job, or from one that a view has (`KnownJobs`). A decision that appends nothing (a refusal, an unknown job, a
no-op) has no such guard, so it is repeated on a fresh read before the caller gets it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Unpack

import uuid_utils

from jobledger.store.backoff import Backoff
from jobledger.store.command import (
    CommandMetadata,
    Prepared,
    Receipt,
    check_job_id,
    check_metadata,
    check_state,
    check_tag,
    is_nameless_job_id,
    prepare_new,
    prepare_update,
    receipt_of,
)
from jobledger.store.job_cache import CachedJob, JobCache, KeyedLocks
from jobledger.store.job_reader import JobReader, KnownJobs
from jobledger.store.log import EventLog, PendingEvent, WrongSequence, refused
from jobledger.store.model.decide import (
    Decision,
    check_not_quarantined,
    check_revision,
    contention,
    decide_accept,
    decide_apply,
    decide_create,
    decide_rerun,
    decide_state,
    decide_stop,
    decide_tag,
    decide_untag,
    decide_update,
    is_same_data,
    not_found,
)
from jobledger.store.model.errors import (
    Conflict,
    Contention,
    InvalidInput,
    JobNotFound,
    JobNotQuarantined,
    LogUnavailable,
    OutcomeUnknown,
    Refused,
    RevisionMismatch,
)
from jobledger.store.model.events import SOURCE, JobEvent, encode_event
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job, State
from jobledger.store.model.limits import (
    COMMAND_MAX_ATTEMPTS,
    COMMAND_MAX_WAIT_SECONDS,
    COMMAND_WAIT_SECONDS,
    INT_MAX,
    MISSED_MAX_BYTES,
    MISSED_MAX_EVENTS,
)
from jobledger.store.model.subjects import job_subject
from jobledger.store.spec.spec import JobSpec
from jobledger.store.timestamps import format_rfc3339

Decide = Callable[[Job | None], Decision | None]
"""A command with everything but the job: returns the event to append, None for a no-op, or raises."""


def new_event_id() -> str:
    """Return a UUIDv7: unique, and ordered by time."""
    return str(uuid_utils.uuid7())


class Ledger:
    """Commands on jobs, and strongly consistent reads of one job. Any number of ledgers can share a log.

    Every command accepts the keywords of `CommandMetadata`.

    Args:
        log: of the events.
        clock: the writer's clock, Unix nanoseconds; informative only.
        new_id: returns event ids (UUIDv7).
        known: where commands find a job that is not in this ledger's cache before they read its history from
            the log, for example `ViewJobs`. None: nowhere.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        clock: Callable[[], int] = time.time_ns,
        new_id: Callable[[], str] = new_event_id,
        known: KnownJobs | None = None,
    ) -> None:
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._reader = JobReader(log, JobCache(), known)
        self._turns = KeyedLocks()

    async def create(self, spec: JobSpec, **metadata: Unpack[CommandMetadata]) -> Receipt:
        """Create a job from a spec, which is validated and normalized.

        A job without a name gets a new id, and the id as its name.

        Raises:
            InvalidSpec: with all problems of the spec.
            JobExists: if a job has its namespace and name.
            RevisionMismatch: if the expected revision is not 0, or it is 0 and the job exists.
            Contention: if other writers won the race too often in a row.
            LogError: if the log can't take the event now, or at all.
        """
        event_id = await self._start(metadata)
        new = await self._prepare_new(spec, event_id, metadata)
        decide: Decide = lambda job: decide_create(job, new.spec)  # noqa: E731
        return await self._execute(new.job_id, new.namespace, decide, event_id, metadata, name=new.name)

    async def apply(
        self, spec: JobSpec, *, force: bool = False, **metadata: Unpack[CommandMetadata]
    ) -> Receipt:
        """Create the job of the spec's namespace and name, or update it if it exists.

        An equal spec is a no-op unless forced. See `create` and `update` for the errors.
        """
        event_id = await self._start(metadata)
        new = await self._prepare_new(spec, event_id, metadata)
        decide: Decide = lambda job: decide_apply(job, new.spec, job_id=new.job_id, force=force)  # noqa: E731
        return await self._execute(new.job_id, new.namespace, decide, event_id, metadata, name=new.name)

    async def update(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        namespace: str | None = None,
        force: bool = False,
        **metadata: Unpack[CommandMetadata],
    ) -> Receipt:
        """Give a job a new spec: version + 1, and Pending. An equal spec is a no-op.

        Args:
            job_id: the full id.
            spec: the whole new spec; name and namespace can be left out, and can't change.
            namespace: of the job, if known: saves a lookup.
            force: create a new version from an equal spec too.
            metadata: see `CommandMetadata`.

        Raises:
            InvalidSpec: with all problems of the spec.
            JobNotFound: if the job does not exist.
            RevisionMismatch: if the job has another revision than expected; has the missed events.
            Contention: if other writers won the race too often in a row.
            LogError: if the log can't take the event now, or at all.
        """
        event_id = await self._start(metadata)
        known = await self._find(job_id, namespace)
        if known.status is not None and known.status.quarantine is not None:
            known = await self._reader.fresh(job_id, namespace)  # not a refusal of a cached job
            if known.status is not None:
                check_not_quarantined(known.status)
        if known.job is None:
            raise not_found(job_id)
        new = prepare_update(spec, known.job.status)
        decide: Decide = lambda job: decide_update(job, new.spec, job_id=job_id, force=force)  # noqa: E731
        return await self._execute(job_id, new.namespace, decide, event_id, metadata)

    async def rerun(
        self,
        job_id: str,
        spec: bytes | None = None,
        *,
        namespace: str | None = None,
        **metadata: Unpack[CommandMetadata],
    ) -> Receipt:
        """Start a job again: a new version, Pending, also if its spec equals the current one.

        Args:
            job_id: the full id.
            spec: normalized JSON of one of the job's versions; None: of the current one.
            namespace: of the job, if known.
            metadata: see `CommandMetadata`.

        Raises:
            JobNotRerunnable: if the job is Pending or Queued.
            JobledgerError: as `update`.
        """
        decide: Decide = lambda job: decide_rerun(job, spec, job_id=job_id)  # noqa: E731
        return await self._change(job_id, namespace, decide, metadata)

    async def revert(
        self, job_id: str, spec: bytes, *, namespace: str | None = None, **metadata: Unpack[CommandMetadata]
    ) -> Receipt:
        """Give a job the spec of one of its versions, as a new version. The current one is a no-op.

        Args:
            job_id: the full id.
            spec: normalized JSON of that version; it is not validated again.
            namespace: of the job, if known.
            metadata: see `CommandMetadata`.

        Raises:
            JobledgerError: as `update`.
        """
        return await self._change(
            job_id, namespace, lambda job: decide_update(job, spec, job_id=job_id), metadata
        )

    async def set_state(
        self, job_id: str, state: State, *, namespace: str | None = None, **metadata: Unpack[CommandMetadata]
    ) -> Receipt:
        """Set the state of a job. An equal state (type, message and details) is a no-op.

        Raises:
            InvalidInput: if the state exceeds a limit.
            JobNotFound: if the job does not exist.
            JobTerminal: if the job is terminal.
            RevisionMismatch: if the job has another revision than expected; has the missed events.
            Contention: if other writers won the race too often in a row.
            LogError: if the log can't take the event now, or at all.
        """
        check_state(state)
        return await self._change(
            job_id, namespace, lambda job: decide_state(job, state, job_id=job_id), metadata
        )

    async def stop(
        self, job_id: str, *, namespace: str | None = None, **metadata: Unpack[CommandMetadata]
    ) -> Receipt:
        """Stop a job: Stopped, with the reason as message. Stopping a stopped job is a no-op.

        Raises:
            JobTerminal: if the job is Completed or Failed.
            JobledgerError: as `set_state`.
        """
        reason = metadata.get("reason", "")
        return await self._change(
            job_id, namespace, lambda job: decide_stop(job, reason, job_id=job_id), metadata
        )

    async def tag(
        self,
        job_id: str,
        tag: str,
        version: int,
        *,
        namespace: str | None = None,
        **metadata: Unpack[CommandMetadata],
    ) -> Receipt:
        """Set a tag to a version of a job, or move it there.

        Version and revision of the job stay the same; its sequence increases.

        Raises:
            InvalidInput: if the tag is not valid.
            VersionNotFound: if the job has no such version.
            TooManyTags: if the job has the maximum number of tags.
            JobledgerError: as `set_state`, except `JobTerminal`.
        """
        check_tag(tag)
        decide: Decide = lambda job: decide_tag(job, tag, version, job_id=job_id)  # noqa: E731
        return await self._change(job_id, namespace, decide, metadata)

    async def untag(
        self, job_id: str, tag: str, *, namespace: str | None = None, **metadata: Unpack[CommandMetadata]
    ) -> Receipt:
        """Remove a tag; removing one that does not exist is a no-op. See `tag` for the errors."""
        check_tag(tag)
        return await self._change(
            job_id, namespace, lambda job: decide_untag(job, tag, job_id=job_id), metadata
        )

    async def accept_unreadable(
        self,
        job_id: str,
        sequence: int,
        *,
        namespace: str | None = None,
        **metadata: Unpack[CommandMetadata],
    ) -> Receipt:
        """Accept that an event which froze a job can't be read: the job continues without it.

        The acceptance is an event of the job, with actor and reason. After it, the job is the result of its
        other events, including those after the unreadable one. It stays frozen while other events freeze it.
        A release that can read the event ignores the acceptance. A repeated acceptance is a no-op.

        Args:
            job_id: the full id.
            sequence: of the event, as in `Quarantine`.
            namespace: of the job, if known.
            metadata: see `CommandMetadata`.

        Raises:
            JobNotQuarantined: if that event does not freeze the job.
            InvalidInput: if the sequence is not valid.
            JobledgerError: as `set_state`.
        """
        if type(sequence) is not int or not 1 <= sequence <= INT_MAX:
            raise InvalidInput(
                f"sequence must be an integer from 1, got {sequence!r:.40}; pass that of the event"
            )
        decide: Decide = lambda job: decide_accept(job, sequence, job_id=job_id)  # noqa: E731
        try:
            return await self._change(job_id, namespace, decide, metadata, accepts_frozen=True)
        except JobNotQuarantined:
            known = await self._reader.fresh(job_id, namespace)
            async for item in self._reader.history_between(CachedJob(known.subject), known):
                if item.accepted == sequence and not item.anomaly and known.status is not None:
                    event_id = metadata.get("event_id") or self._new_id()
                    return receipt_of(known.status, event_id, changed=False)
            raise

    async def load(self, job_id: str, *, namespace: str | None = None) -> Job:
        """Return a job as the leader of the log has it now.

        A frozen job is returned as it was before the first event that can't be read, with
        `status.quarantine`.

        Raises:
            JobNotFound: if the job does not exist.
            JobQuarantined: if no event that creates the job can be read.
            LogUnavailable: if the log can't be read.
        """
        check_job_id(job_id, namespace)
        known = await self._reader.fresh(job_id, namespace)
        if known.lost is not None:
            check_not_quarantined(known.lost.status)
        if known.job is None:
            raise not_found(job_id)
        return known.job

    async def history(
        self, job_id: str, *, namespace: str | None = None, after: int = 0
    ) -> AsyncIterator[HistoryItem]:
        """Iterate over the events of a job, oldest first, up to the last one at the time of the call.

        Args:
            job_id: the full id.
            namespace: of the job, if known.
            after: only events after this stream sequence.

        Raises:
            JobNotFound: if the job does not exist.
            LogUnavailable: if the log can't be read.
        """
        check_job_id(job_id, namespace)
        known = await self._reader.fresh(job_id, namespace)
        if known.status is None:
            raise not_found(job_id)
        async for item in self._reader.history(known, after=after):
            yield item

    # --- executing a command ------------------------------------------------------------------------------

    async def _start(self, metadata: CommandMetadata) -> str:
        """Check what all commands have in common, and return the event id."""
        check_metadata(metadata)
        # The event of a repeated command may be in the log already, so it is searched first. Any other
        # command would only fail after its reads.
        if not metadata.get("event_id") and (refusal := self._log.refusal):
            await asyncio.sleep(0)  # a caller that repeats the command at once must not block the loop
            raise refused(refusal)
        return metadata.get("event_id") or self._new_id()

    async def _change(
        self,
        job_id: str,
        namespace: str | None,
        decide: Decide,
        metadata: CommandMetadata,
        *,
        accepts_frozen: bool = False,
    ) -> Receipt:
        """Execute a command on an existing job."""
        event_id = await self._start(metadata)
        check_job_id(job_id, namespace)
        if namespace is None:
            known = await self._find(job_id, None)
            if known.status is None:
                raise not_found(job_id)
            namespace = known.status.namespace
        return await self._execute(
            job_id, namespace, decide, event_id, metadata, accepts_frozen=accepts_frozen
        )

    async def _execute(
        self,
        job_id: str,
        namespace: str,
        decide: Decide,
        event_id: str,
        metadata: CommandMetadata,
        *,
        name: str = "",
        accepts_frozen: bool = False,
    ) -> Receipt:
        async with self._turns.hold(job_id):  # inside: the execution starts from the cached job
            return await CommandExecution(
                self._log,
                self._reader,
                self._clock,
                job_id=job_id,
                namespace=namespace,
                decide=decide,
                event_id=event_id,
                metadata=metadata,
                name=name,
                accepts_frozen=accepts_frozen,
            ).run()

    async def _find(self, job_id: str, namespace: str | None) -> CachedJob:
        check_job_id(job_id, namespace)
        return await self._reader.last_seen(job_id, namespace) or await self._reader.fresh(job_id, namespace)

    async def _prepare_new(self, spec: JobSpec, event_id: str, metadata: CommandMetadata) -> Prepared:
        prepared = prepare_new(spec, event_id)
        if is_nameless_job_id(spec.name):
            # The name of a nameless job is its id: a caller who reads its spec and submits it means that job.
            known = await self._find(spec.name, prepared.namespace)
            if known.job is not None:
                return prepared._replace(job_id=spec.name)
        elif not spec.name and metadata.get("event_id"):
            known = await self._reader.fresh(prepared.job_id, None)
            if known.job is not None and known.job.status.namespace != prepared.namespace:
                raise _event_id_taken(event_id)
        return prepared


class CommandExecution:
    """The execution of one command, as drawn at the top of this module.

    Args:
        log: where the event is appended.
        reader: of the job.
        clock: the writer's clock, Unix nanoseconds.
        job_id: of the job.
        namespace: of the job.
        decide: the command.
        event_id: of the event to append.
        metadata: of the command.
        name: of the job that the command may create; empty for other commands.
        accepts_frozen: whether the command is allowed on a job in quarantine.
    """

    def __init__(
        self,
        log: EventLog,
        reader: JobReader,
        clock: Callable[[], int],
        *,
        job_id: str,
        namespace: str,
        decide: Decide,
        event_id: str,
        metadata: CommandMetadata,
        name: str,
        accepts_frozen: bool,
    ) -> None:
        self._log = log
        self._reader = reader
        self._clock = clock
        self._job_id = job_id
        self._namespace = namespace
        self._decide_on = decide
        self._event_id = event_id
        self._metadata = metadata
        self._name = name
        self._accepts_frozen = accepts_frozen
        # Only if the caller chose the event id can the event be in the log already.
        self._is_repeatable = metadata.get("event_id") is not None
        self._known = CachedJob(job_subject(namespace, job_id))
        self._is_fresh = False
        self._searched: CachedJob | None = None  # up to here, the caller's event id is not in the log
        self._seen_revision: int | None = None

    async def run(self) -> Receipt:
        """Execute the command.

        Raises:
            JobledgerError: as the commands of `Ledger`.
        """
        if self._is_repeatable:
            await self._refresh()
        else:
            await self._recall()
        backoff: Backoff | None = None
        for _ in range(COMMAND_MAX_ATTEMPTS):
            decision = await self._decide()
            if isinstance(decision, Receipt):
                return decision
            event = self._event(decision)
            pending = PendingEvent(self._known.subject, event.id, encode_event(event))
            outcome = await self._log.append(pending, expect=self._known.sequence)
            if not isinstance(outcome, WrongSequence):
                if self._is_repeatable:
                    return await self._confirm()
                return self._reader.appended(self._known, event, outcome.sequence)
            if await self._recall_existing(outcome.sequence):
                continue
            # Full jitter spreads writers that race on one job best.
            backoff = backoff or Backoff(COMMAND_WAIT_SECONDS, COMMAND_MAX_WAIT_SECONDS, jitter=1.0)
            await backoff.sleep()
            await self._refresh()
        error = contention(self._known.job, job_id=self._job_id)
        raise await self._with_missed(error, self._seen_revision)

    async def _recall(self) -> None:
        """Start from the job as last seen.

        For a command that may create it, a job that is not cached counts as new: the append finds out.
        """
        if self._name:
            known = self._reader.cached(self._job_id, self._namespace)
        else:
            known = await self._reader.last_seen(self._job_id, self._namespace)
        if known is not None:
            self._start_from(known)

    async def _recall_existing(self, sequence: int) -> bool:
        """Start from the job as last seen, after it counted as new and the log has events of it.

        Args:
            sequence: the last of these events; only a job that has it is used.
        """
        if self._is_fresh or self._known.status is not None:
            return False
        known = await self._reader.last_seen(self._job_id, self._namespace)
        if known is None or known.sequence != sequence:
            return False
        self._start_from(known)
        return True

    def _start_from(self, known: CachedJob) -> None:
        self._known = known
        self._seen_revision = known.job.status.revision if known.job is not None else None

    async def _refresh(self) -> None:
        self._known = await self._reader.fresh(self._job_id, self._namespace)
        self._is_fresh = True
        if self._seen_revision is None:
            self._seen_revision = self._known.job.status.revision if self._known.job is not None else 0

    async def _decide(self) -> Decision | Receipt:
        """Return the event to append, or the receipt if there is nothing to append."""
        earlier = await self._find_earlier() if self._is_repeatable else None
        if earlier is not None:
            return earlier
        job = self._known.job
        if self._accepts_frozen:
            job = job or self._known.lost
        expected_revision = self._metadata.get("expected_revision")
        try:
            if self._known.status is not None and not self._accepts_frozen:
                check_not_quarantined(self._known.status)
            # "Job not found" is a better error than "it has revision 0".
            decision = self._decide_on(None) if job is None else None
            if expected_revision is not None:
                check_revision(job, expected_revision, job_id=self._job_id)
            if job is not None:
                decision = self._decide_on(job)
        except (Refused, Conflict, JobNotFound) as refusal:
            if self._is_fresh:
                await self._log.confirm_current()  # a replaced leader must not be the reason of a refusal
                raise await self._with_missed(refusal, expected_revision) from None
            decision = None
        if decision is not None:
            return decision
        if self._is_fresh:
            assert job is not None  # only a command on an existing job is a no-op
            return receipt_of(job.status, self._event_id, changed=False)
        await self._refresh()
        return await self._decide()

    def _event(self, decision: Decision) -> JobEvent:
        known, metadata = self._known, self._metadata
        return decision.event(
            specversion="1.0",
            id=self._event_id,
            source=SOURCE,
            subject=self._job_id,
            time=format_rfc3339(self._clock(), digits=3),
            datacontenttype="application/json",
            namespace=self._namespace,
            actor=metadata.get("actor", ""),
            reason=metadata.get("reason", ""),
            traceparent=metadata.get("traceparent", ""),
            previous=str(known.sequence or ""),
            name=known.job.status.name if known.job is not None else self._name,
            data=decision.data,  # type: ignore[arg-type]  # Decision pairs event and data; mypy sees two unions
        )

    async def _find_earlier(self) -> Receipt | None:
        """Return the first receipt if the event is in the log; reads each event of the job once."""
        searched = self._searched or CachedJob(self._known.subject)
        item = await self._reader.find_event(self._event_id, searched, self._known)
        self._searched = self._known
        if item is None:
            return None
        if item.anomaly or not await self._is_repeat_of(item):
            raise _event_id_taken(self._event_id)
        return Receipt(
            job_id=self._job_id,
            namespace=self._namespace,
            event_id=self._event_id,
            sequence=item.sequence,
            revision=item.revision,
            version=item.version,
            changed=True,
        )

    async def _is_repeat_of(self, item: HistoryItem) -> bool:
        """Return whether this command would have appended that event: the id alone does not identify it."""
        job, event = await self._reader.event_at(self._known.subject, item.sequence)
        if job is not None and job.status.is_lost and not self._accepts_frozen:
            job = None
        try:
            decision = self._decide_on(job)
        except (Refused, Conflict, JobNotFound):
            return False
        metadata = self._metadata
        return (
            decision is not None
            and isinstance(event, decision.event)
            and is_same_data(event.data, decision.data)
            and (event.actor, event.reason) == (metadata.get("actor", ""), metadata.get("reason", ""))
        )

    async def _confirm(self) -> Receipt:
        """Return the receipt of an append with the caller's event id, from the log.

        The log recognizes a repeated append by its id only: if two commands use one id at the same time, the
        acknowledgement can be that of the other event.
        """
        try:
            await self._refresh()
            receipt = await self._find_earlier()
        except LogUnavailable as error:
            raise OutcomeUnknown(
                "the log took the event and could not be read afterwards; repeat the command with the same"
                f" event id ({self._event_id})",
                event_id=self._event_id,
            ) from error
        if receipt is None:
            raise _event_id_taken(self._event_id)
        return receipt

    async def _with_missed(self, error: Exception, seen_revision: int | None) -> Exception:
        """Return a conflict with the events after the revision that the caller has seen."""
        if not isinstance(error, (RevisionMismatch, Contention)):
            return error
        seen, missed, size = seen_revision or 0, deque[HistoryItem](), 0
        if error.revision > seen:
            async for item in self._reader.history_between(CachedJob(self._known.subject), self._known):
                if item.revision > seen and not item.anomaly:
                    missed.append(item)
                    size += item.size
                    while len(missed) > 1 and (size > MISSED_MAX_BYTES or len(missed) > MISSED_MAX_EVENTS):
                        size -= missed.popleft().size
        return type(error)(
            str(error),
            job_id=error.job_id,
            revision=error.revision,
            sequence=error.sequence,
            missed=missed,
        )


def _event_id_taken(event_id: str) -> InvalidInput:
    return InvalidInput(
        f"event_id {event_id} is taken by another event; use a new id for each command, and repeat a command"
        " with the same arguments"
    )
