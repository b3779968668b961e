"""The ledger: commands in, receipts out. load ─► decide ─► append, and again if a race was lost.

A decision that appends is held to the truth by its expectation, so it may start from the cache. A decision that
appends nothing (refused, not found, already so) has no such guard, so it is made again on a fresh read before anyone
is told.
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
from jobledger.store.command import About, Receipt, check_about, check_job_id, check_state, receipt_of
from jobledger.store.decide import (
    Decision,
    check_revision,
    contention,
    decide_apply,
    decide_create,
    decide_state,
    decide_stop,
    decide_update,
    not_found,
)
from jobledger.store.errors import (
    Conflict,
    Contention,
    InvalidInput,
    JobNotFound,
    LogUnavailable,
    OutcomeUnknown,
    Refused,
    RevisionMismatch,
)
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
from jobledger.store.prepare import Prepared, is_nameless_job_id, prepare_new, prepare_update
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
        job_id, namespace, encoded = await self._prepare_new(spec, event_id, about)
        return await self._command(
            job_id, namespace, lambda job: decide_create(job, encoded), event_id, about
        )

    async def apply(self, spec: JobSpec, **about: Unpack[About]) -> Receipt:
        """Create the job of the spec's namespace and name, or give it this spec if it exists.

        Equal after normalisation is a no-op. See `create` and `update` for the errors.
        """
        event_id = self._check(about)
        job_id, namespace, encoded = await self._prepare_new(spec, event_id, about)
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
        known = await self._reader.fresh(job_id, namespace)
        if known.job is None:
            raise not_found(job_id)
        async for item in self._reader.story(after=Known(known.subject), up_to=known):
            if item.sequence > after:
                yield item

    # --- the one way of every command ---------------------------------------------------------------------

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

    async def _prepare_new(self, spec: JobSpec, event_id: str, about: About) -> Prepared:
        """Where a spec belongs that may be a new job's."""
        prepared = prepare_new(spec, event_id)
        if is_nameless_job_id(spec.name):
            # A nameless job has its id for a name; who reads its spec and submits it again means that job.
            known = await self._find(spec.name, prepared.namespace)
            if known.job is not None:
                return prepared._replace(job_id=spec.name)
        elif not spec.name and about.get("event_id"):
            known = await self._reader.fresh(prepared.job_id, None)
            if known.job is not None and known.job.status.namespace != prepared.namespace:
                raise _event_id_taken(event_id)
        return prepared

    async def _command(
        self, job_id: str, namespace: str, decide: Decide, event_id: str, about: About
    ) -> Receipt:
        async with self._turns.hold(job_id):
            return await self._attempt(job_id, namespace, decide, event_id, about)

    async def _attempt(
        self, job_id: str, namespace: str, decide: Decide, event_id: str, about: About
    ) -> Receipt:
        expected_revision = about.get("expected_revision")
        repeatable = about.get("event_id") is not None  # only then can the event be in the log already
        searched = Known(job_subject(namespace, job_id))  # up to here it is not
        # If nothing is remembered, it is a new job, as far as we know: the append will tell.
        known = self._reader.cached(job_id, namespace) or searched
        fresh = False
        if repeatable:
            known, fresh = await self._reader.fresh(job_id, namespace), True
        seen_revision = _revision(known) if known.job is not None or fresh else None
        lost, wait_seconds = 0, COMMAND_WAIT_SECONDS
        while lost < COMMAND_MAX_ATTEMPTS:
            if repeatable:
                earlier = await self._find_earlier(event_id, searched, known)
                if earlier is not None:
                    return earlier
                searched = known
            try:
                decision = _decide(decide, known.job, expected_revision, job_id)
            except (Refused, Conflict, JobNotFound) as refusal:
                if fresh:
                    raise await self._with_missed(refusal, known, expected_revision) from None
            else:
                if decision is not None:
                    draft = self._draft(known.subject, job_id, namespace, decision, event_id, about)
                    outcome = await self._log.append(draft, expect=known.sequence)
                    if not isinstance(outcome, Lost):
                        if repeatable:
                            return await self._prove(job_id, namespace, event_id, known)
                        return self._reader.appended(job_id, known, draft, outcome.sequence)
                    lost += 1
                    await asyncio.sleep(self._random.uniform(0, wait_seconds))
                    wait_seconds = min(2 * wait_seconds, COMMAND_MAX_WAIT_SECONDS)
                elif fresh:
                    assert known.job is not None  # only an existing job can be "already so"
                    return receipt_of(known.job.status, event_id, changed=False)
            known, fresh = await self._reader.fresh(job_id, namespace), True
            seen_revision = _revision(known) if seen_revision is None else seen_revision
        raise await self._with_missed(contention(job_id, _revision(known)), known, seen_revision)

    async def _find_earlier(self, event_id: str, searched: Known, known: Known) -> Receipt | None:
        """The receipt of the event of this id, if it was appended between two moments."""
        item = await self._reader.find_event(event_id, after=searched, up_to=known)
        if item is None:
            return None
        job = known.job
        if item.anomaly or job is None:
            raise _event_id_taken(event_id)
        return Receipt(
            job_id=job.status.id,
            namespace=job.status.namespace,
            event_id=event_id,
            sequence=item.sequence,
            revision=item.revision,
            version=item.version,
            changed=True,
        )

    async def _prove(self, job_id: str, namespace: str, event_id: str, before: Known) -> Receipt:
        """The receipt of an append whose event id the caller gave, from what is in the log.

        The log knows a repeated append by the id alone. Where two use one id at once, the answer may be about an event
        with another body, or of another job.
        """
        try:
            known = await self._reader.fresh(job_id, namespace)
            receipt = await self._find_earlier(event_id, before, known)
        except LogUnavailable as error:
            raise OutcomeUnknown(
                "the log took the event, and could not be read afterwards; ask again with the same event id"
                f" ({event_id})",
                event_id=event_id,
            ) from error
        if receipt is None:
            raise _event_id_taken(event_id)
        return receipt

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

    async def _with_missed(self, error: Exception, known: Known, seen_revision: int | None) -> Exception:
        """A conflict, with the events after the revision that the caller had seen."""
        if not isinstance(error, (RevisionMismatch, Contention)):
            return error
        missed: deque[HistoryItem] = deque(maxlen=MISSED_MAX_EVENTS)
        if error.revision > (seen_revision or 0):
            async for item in self._reader.story(after=Known(known.subject), up_to=known):
                if item.revision > (seen_revision or 0) and not item.anomaly:
                    missed.append(item)
        return type(error)(str(error), job_id=error.job_id, revision=error.revision, missed=missed)


def _decide(decide: Decide, job: Job | None, expected_revision: int | None, job_id: str) -> Decision | None:
    if job is None:
        decide(None)  # "no such job" says more than "it is at revision 0"
    check_revision(job, expected_revision, job_id=job_id)
    return decide(job)


def _revision(known: Known) -> int:
    return known.job.status.revision if known.job is not None else 0


def _event_id_taken(event_id: str) -> InvalidInput:
    return InvalidInput(f"event_id {event_id} is taken by another event; make a new one for each command")
