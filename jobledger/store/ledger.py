"""The ledger: commands in, receipts out. load ─► decide ─► append, and again if a race was lost.

A decision that appends is held to the truth by its expectation, so it may start from the cache. A decision that appends
nothing (refused, not found, already so) has no such guard, so it is made again on a fresh read before anyone is told.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Unpack

import msgspec
import uuid_utils

from jobledger.store.cache import JobCache, KeyedLocks, Known
from jobledger.store.command import About, Receipt, check_about, check_job_id, check_state
from jobledger.store.decide import (
    Decision,
    check_revision,
    decide_apply,
    decide_create,
    decide_state,
    decide_stop,
    decide_update,
    not_found,
)
from jobledger.store.errors import Conflict, Contention, JobNotFound, Refused, RevisionMismatch
from jobledger.store.events import SOURCE, encode_event
from jobledger.store.history import HistoryItem
from jobledger.store.job import Job, State
from jobledger.store.jobs import JobReader
from jobledger.store.limits import (
    COMMAND_MAX_ATTEMPTS,
    COMMAND_MAX_WAIT_SECONDS,
    COMMAND_WAIT_SECONDS,
    MISSED_MAX_EVENTS,
)
from jobledger.store.log import Draft, EventLog, Lost
from jobledger.store.prepare import prepare_new, prepare_update
from jobledger.store.spec import JobSpec
from jobledger.store.subjects import job_subject

Decide = Callable[[Job | None], Decision | None]
"""A command that knows everything but the job."""


def new_event_id() -> str:
    """A UUIDv7: unique, and in the order of time."""
    return str(uuid_utils.uuid7())


class Ledger:
    """Commands on jobs, and strongly consistent reads of one job. Any number of ledgers may share a log.

    Args:
        log: where the events are.
        clock: the writer's clock, Unix nanoseconds; goes into events as information only.
        new_id: makes event ids (UUIDv7).
    """

    def __init__(
        self,
        log: EventLog,
        *,
        clock: Callable[[], int] = time.time_ns,
        new_id: Callable[[], str] = new_event_id,
    ) -> None:
        self._log = log
        self._clock = clock
        self._new_id = new_id
        self._reader = JobReader(log, JobCache())
        self._turns = KeyedLocks()
        self._random = random.Random()  # noqa: S311 - spreads retries; nothing secret

    async def create(self, spec: JobSpec, **about: Unpack[About]) -> Receipt:
        """Create a job from a spec.

        Args:
            spec: normalised and validated here. Without a name the job gets a new id, and that as its name.
            about: see `About`.

        Raises:
            InvalidSpec: every rule that the spec breaks, at once.
            JobExists: if its namespace and name are taken.
            LogError: if the log can't take it now, or at all.
        """
        event_id = self._check(about)
        job_id, namespace, encoded = prepare_new(spec, event_id)
        return await self._command(
            job_id, namespace, lambda job: decide_create(job, encoded), event_id, about
        )

    async def apply(self, spec: JobSpec, **about: Unpack[About]) -> Receipt:
        """Create the job of the spec's namespace and name, or give it this spec if it exists.

        Equal after normalisation is a no-op. See `create` and `update` for the errors.
        """
        event_id = self._check(about)
        job_id, namespace, encoded = prepare_new(spec, event_id)
        decide: Decide = lambda job: decide_apply(job, encoded, job_id=job_id)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def update(
        self, job_id: str, spec: JobSpec, *, namespace: str | None = None, **about: Unpack[About]
    ) -> Receipt:
        """Give a job a new spec: +1 version, Pending again from whatever state. An equal spec is a no-op.

        Args:
            job_id: the full id.
            spec: the whole new spec; name and namespace may be left out, and can't change.
            namespace: the job's namespace, if known: it spares a look-up.
            about: see `About`.

        Raises:
            InvalidSpec: every rule that the spec breaks, at once.
            JobNotFound: if there is no such job.
            RevisionMismatch: if the job is not at the expected revision; carries the events that were missed.
            Contention: if other writers won too often in a row.
            LogError: if the log can't take it now, or at all.
        """
        event_id = self._check(about)
        known = await self._find(job_id, namespace)
        if known.job is None:
            raise not_found(job_id)
        _, namespace, encoded = prepare_update(spec, known.job.status)
        decide: Decide = lambda job: decide_update(job, encoded, job_id=job_id)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def set_state(
        self, job_id: str, state: State, *, namespace: str | None = None, **about: Unpack[About]
    ) -> Receipt:
        """Set a job's state. The state and message that it already has are a no-op.

        Raises:
            InvalidInput: if the state breaks a limit.
            JobNotFound: if there is no such job.
            JobTerminal: if the job has ended.
            RevisionMismatch: if the job is not at the expected revision; carries the events that were missed.
            Contention: if other writers won too often in a row.
            LogError: if the log can't take it now, or at all.
        """
        event_id = self._check(about)
        check_state(state)
        namespace = await self._namespace_of(job_id, namespace)
        decide: Decide = lambda job: decide_state(job, state, job_id=job_id)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def stop(self, job_id: str, *, namespace: str | None = None, **about: Unpack[About]) -> Receipt:
        """Stop a job: its state becomes Stopped, with the reason as its message. A stopped job is a no-op.

        Raises:
            JobTerminal: if the job has Completed or Failed.
            JobledgerError: as `set_state`.
        """
        event_id = self._check(about)
        namespace = await self._namespace_of(job_id, namespace)
        reason = about.get("reason", "")
        return await self._command(
            job_id, namespace, lambda job: decide_stop(job, reason, job_id=job_id), event_id, about
        )

    async def load(self, job_id: str, *, namespace: str | None = None) -> Job:
        """The job as the log's leader has it now.

        Raises:
            JobNotFound: if there is no such job.
            LogUnavailable: if the log can't be read.
        """
        check_job_id(job_id, namespace)
        known = await self._reader.fresh(job_id, namespace)
        if known.job is None:
            raise not_found(job_id)
        return known.job

    async def history(
        self, job_id: str, *, namespace: str | None = None, after: int = 0
    ) -> AsyncIterator[HistoryItem]:
        """The job's events, oldest first, up to the one that is last when this is asked.

        Args:
            job_id: the full id.
            namespace: the job's namespace, if known.
            after: only events beyond this stream sequence.

        Raises:
            JobNotFound: if there is no such job.
            LogUnavailable: if the log can't be read.
        """
        check_job_id(job_id, namespace)
        empty = True
        async for item in self._reader.history(job_id, namespace):
            empty = False
            if item.sequence > after:
                yield item
        if empty:
            raise not_found(job_id)

    # --- the one way of every command -------------------------------------------------------------------------

    def _check(self, about: About) -> str:
        check_about(about)
        return about.get("event_id") or self._new_id()

    async def _find(self, job_id: str, namespace: str | None) -> Known:
        check_job_id(job_id, namespace)
        return self._reader.cached(job_id, namespace) or await self._reader.fresh(job_id, namespace)

    async def _namespace_of(self, job_id: str, namespace: str | None) -> str:
        check_job_id(job_id, namespace)
        if namespace is not None:
            return namespace
        known = await self._find(job_id, None)
        if known.job is None:
            raise not_found(job_id)
        return known.job.status.namespace

    async def _command(
        self, job_id: str, namespace: str, decide: Decide, event_id: str, about: About
    ) -> Receipt:
        async with self._turns.hold(job_id):
            if about.get("event_id"):
                earlier = await self._reader.find_event(job_id, namespace, event_id)
                if earlier is not None:
                    return _receipt_of_earlier(job_id, namespace, earlier)
            return await self._attempt(job_id, namespace, decide, event_id, about)

    async def _attempt(
        self, job_id: str, namespace: str, decide: Decide, event_id: str, about: About
    ) -> Receipt:
        expected_revision = about.get("expected_revision")
        known = self._reader.cached(job_id, namespace)
        fresh = False
        if known is None:
            known = Known(
                job_subject(namespace, job_id)
            )  # a new job, as far as we know: the append will tell
        first_revision = known.job.status.revision if known.job else 0
        wait_seconds = COMMAND_WAIT_SECONDS
        for _ in range(COMMAND_MAX_ATTEMPTS):
            decision: Decision | None = None
            try:
                check_revision(known.job, expected_revision, job_id=job_id)
                decision = decide(known.job)
            except (Refused, Conflict, JobNotFound) as refusal:
                if fresh:
                    raise await self._with_missed(refusal, job_id, namespace, expected_revision) from None
            if decision is not None:
                draft = self._draft(known.subject, job_id, namespace, decision, event_id, about)
                outcome = await self._log.append(draft, expect=known.sequence)
                if not isinstance(outcome, Lost):
                    return self._reader.appended(job_id, known, draft, outcome.sequence)
                await asyncio.sleep(self._random.uniform(0, wait_seconds))
                wait_seconds = min(2 * wait_seconds, COMMAND_MAX_WAIT_SECONDS)
            elif fresh:
                assert known.job is not None  # only an existing job can be "already so"
                return _receipt_of_no_op(known.job, event_id)
            known = await self._reader.fresh(job_id, namespace)
            fresh = True
        contention = Contention(
            f"job {job_id}: {COMMAND_MAX_ATTEMPTS} attempts lost the race against other writers; nothing was written;"
            " try again later",
            job_id=job_id,
            revision=known.job.status.revision if known.job else 0,
        )
        raise await self._with_missed(contention, job_id, namespace, first_revision)

    def _draft(
        self, subject: str, job_id: str, namespace: str, decision: Decision, event_id: str, about: About
    ) -> Draft:
        written = datetime.fromtimestamp(self._clock() / 1e9, UTC).isoformat(timespec="milliseconds")
        event = decision.event(
            specversion="1.0",
            id=event_id,
            source=SOURCE,
            subject=job_id,
            time=written.replace("+00:00", "Z"),
            datacontenttype="application/json",
            namespace=namespace,
            actor=about.get("actor", ""),
            reason=about.get("reason", ""),
            traceparent=about.get("traceparent", ""),
            data=decision.data,  # type: ignore[arg-type]  # Decision pairs event and data; mypy sees two unions
        )
        return Draft(subject, event_id, encode_event(event))

    async def _with_missed(
        self, error: Exception, job_id: str, namespace: str, seen_revision: int | None
    ) -> Exception:
        """A conflict, with the events after the revision that the caller had seen."""
        if not isinstance(error, (RevisionMismatch, Contention)):
            return error
        missed: deque[HistoryItem] = deque(maxlen=MISSED_MAX_EVENTS)
        async for item in self._reader.history(job_id, namespace):
            if item.revision > (seen_revision or 0):
                missed.append(item)
        return type(error)(str(error), job_id=job_id, revision=error.revision, missed=missed)


def _receipt_of_no_op(job: Job, event_id: str) -> Receipt:
    status = job.status
    return Receipt(
        job_id=status.id,
        namespace=status.namespace,
        event_id=event_id,
        sequence=status.sequence,
        revision=status.revision,
        version=status.version,
        changed=False,
    )


def _receipt_of_earlier(job_id: str, namespace: str, item: HistoryItem) -> Receipt:
    return Receipt(
        job_id=job_id,
        namespace=namespace,
        event_id=item.event_id,
        sequence=item.sequence,
        revision=item.revision,
        version=item.version,
        changed=True,
    )
