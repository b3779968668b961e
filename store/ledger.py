"""The ledger: commands in, receipts out. How each finds its way into the log is told in `attempt`."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Unpack

import uuid_utils

from jobledger.store.command import (
    CommandMetadata,
    Receipt,
    check_about,
    check_job_id,
    check_state,
    check_tag,
    receipt_of,
)
from jobledger.store.command_execution import Command, CommandExecution, Decide, event_id_taken
from jobledger.store.job_cache import CachedJob, JobCache, KeyedLocks
from jobledger.store.job_reader import JobReader
from jobledger.store.log import EventLog, refused
from jobledger.store.model.decide import (
    check_not_quarantined,
    decide_accept,
    decide_apply,
    decide_create,
    decide_rerun,
    decide_state,
    decide_stop,
    decide_tag,
    decide_untag,
    decide_update,
    not_found,
)
from jobledger.store.model.errors import InvalidInput, JobNotQuarantined
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job, State
from jobledger.store.spec.prepare import Prepared, is_nameless_job_id, prepare_new, prepare_update
from jobledger.store.spec.spec import JobSpec
from jobledger.store.spec.values import INT_MAX


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

    async def create(self, spec: JobSpec, **about: Unpack[CommandMetadata]) -> Receipt:
        """Create a job from a spec.

        Args:
            spec: normalised and validated here. Without a name the job gets a new id, and that as its name.
            about: see `CommandMetadata`.

        Raises:
            InvalidSpec: every rule that the spec breaks, at once.
            JobExists: if its namespace and name are taken.
            RevisionMismatch: if an expected revision other than 0 was passed, or 0 and the job exists.
            Contention: if other writers won too often in a row.
            LogError: if the log can't take it now, or at all.
        """
        event_id = await self._check(about)
        job_id, namespace, encoded = await self._prepare_new(spec, event_id, about)
        return await self._command(
            job_id, namespace, lambda job: decide_create(job, encoded), event_id, about
        )

    async def apply(self, spec: JobSpec, *, force: bool = False, **about: Unpack[CommandMetadata]) -> Receipt:
        """Create the job of the spec's namespace and name, or give it this spec if it exists.

        Equal after normalisation is a no-op, unless forced. See `create` and `update` for the errors.
        """
        event_id = await self._check(about)
        job_id, namespace, encoded = await self._prepare_new(spec, event_id, about)
        decide: Decide = lambda job: decide_apply(job, encoded, job_id=job_id, force=force)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def update(
        self,
        job_id: str,
        spec: JobSpec,
        *,
        namespace: str | None = None,
        force: bool = False,
        **about: Unpack[CommandMetadata],
    ) -> Receipt:
        """Give a job a new spec: +1 version, Pending again from whatever state. An equal spec is a no-op.

        Args:
            job_id: the full id.
            spec: the whole new spec; name and namespace may be left out, and can't change.
            namespace: the job's namespace, if known: it spares a look-up.
            force: an equal spec makes a new version, too.
            about: see `CommandMetadata`.

        Raises:
            InvalidSpec: every rule that the spec breaks, at once.
            JobNotFound: if there is no such job.
            RevisionMismatch: if the job is not at the expected revision; carries the events that were missed.
            Contention: if other writers won too often in a row.
            LogError: if the log can't take it now, or at all.
        """
        event_id = await self._check(about)
        known = await self._find(job_id, namespace)
        if known.status is not None:
            check_not_quarantined(known.status)
        if known.job is None:
            raise not_found(job_id)
        _, namespace, encoded = prepare_update(spec, known.job.status)
        decide: Decide = lambda job: decide_update(job, encoded, job_id=job_id, force=force)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def rerun(
        self,
        job_id: str,
        spec: bytes | None = None,
        *,
        namespace: str | None = None,
        **about: Unpack[CommandMetadata],
    ) -> Receipt:
        """Begin a job again: a new version, Pending, whether or not its spec differs from the present one.

        Args:
            job_id: the full id.
            spec: the normalised JSON of one of the job's own versions; None: of the present one.
            namespace: the job's namespace, if known.
            about: see `CommandMetadata`.

        Raises:
            JobNotRerunnable: if the job is Pending or Queued.
            JobledgerError: as `update`.
        """
        event_id = await self._check(about)
        namespace = await self._namespace_of(job_id, namespace)
        return await self._command(
            job_id, namespace, lambda job: decide_rerun(job, spec, job_id=job_id), event_id, about
        )

    async def revert(
        self, job_id: str, spec: bytes, *, namespace: str | None = None, **about: Unpack[CommandMetadata]
    ) -> Receipt:
        """Give a job the spec of one of its versions again, as a new version. The present one is a no-op.

        Args:
            job_id: the full id.
            spec: the normalised JSON of that version; it is not judged again.
            namespace: the job's namespace, if known.
            about: see `CommandMetadata`.

        Raises:
            JobledgerError: as `update`.
        """
        event_id = await self._check(about)
        namespace = await self._namespace_of(job_id, namespace)
        decide: Decide = lambda job: decide_update(job, spec, job_id=job_id)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def set_state(
        self, job_id: str, state: State, *, namespace: str | None = None, **about: Unpack[CommandMetadata]
    ) -> Receipt:
        """Set a job's state. The same state, message and details again are a no-op.

        Raises:
            InvalidInput: if the state breaks a limit.
            JobNotFound: if there is no such job.
            JobTerminal: if the job has ended.
            RevisionMismatch: if the job is not at the expected revision; carries the events that were missed.
            Contention: if other writers won too often in a row.
            LogError: if the log can't take it now, or at all.
        """
        event_id = await self._check(about)
        check_state(state)
        namespace = await self._namespace_of(job_id, namespace)
        decide: Decide = lambda job: decide_state(job, state, job_id=job_id)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def stop(
        self, job_id: str, *, namespace: str | None = None, **about: Unpack[CommandMetadata]
    ) -> Receipt:
        """Stop a job: its state becomes Stopped, with the reason as its message. A stopped job is a no-op.

        Raises:
            JobTerminal: if the job has Completed or Failed.
            JobledgerError: as `set_state`.
        """
        event_id = await self._check(about)
        namespace = await self._namespace_of(job_id, namespace)
        reason = about.get("reason", "")
        return await self._command(
            job_id, namespace, lambda job: decide_stop(job, reason, job_id=job_id), event_id, about
        )

    async def tag(
        self,
        job_id: str,
        tag: str,
        version: int,
        *,
        namespace: str | None = None,
        **about: Unpack[CommandMetadata],
    ) -> Receipt:
        """Let a name stand for one of a job's versions; it moves if it stood for another one.

        Version and revision stay: the job is as it was. The sequence rises, as with every event.

        Raises:
            InvalidInput: if this can be no tag.
            VersionNotFound: if the job has no such version.
            TooManyTags: if the job has as many as it may have.
            JobledgerError: as `set_state`, but for `JobTerminal`.
        """
        event_id = await self._check(about)
        check_tag(tag)
        namespace = await self._namespace_of(job_id, namespace)
        decide: Decide = lambda job: decide_tag(job, tag, version, job_id=job_id)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def untag(
        self, job_id: str, tag: str, *, namespace: str | None = None, **about: Unpack[CommandMetadata]
    ) -> Receipt:
        """Take a tag away; one that is not there is a no-op. See `tag` for the errors."""
        event_id = await self._check(about)
        check_tag(tag)
        namespace = await self._namespace_of(job_id, namespace)
        decide: Decide = lambda job: decide_untag(job, tag, job_id=job_id)  # noqa: E731
        return await self._command(job_id, namespace, decide, event_id, about)

    async def accept_unreadable(
        self, job_id: str, sequence: int, *, namespace: str | None = None, **about: Unpack[CommandMetadata]
    ) -> Receipt:
        """Accept that an event which froze a job can't be read: the job goes on without it.

        It is an event of the job, with actor and reason. From there on the job is what its other events make
        of it, also those that came after the unreadable one. While others freeze it, it stays frozen. A
        release that can read the event ignores the acceptance. To accept an event again is a no-op.

        Args:
            job_id: the full id.
            sequence: of the event, as `Quarantine` names it.
            namespace: the job's namespace, if known.
            about: see `CommandMetadata`.

        Raises:
            JobNotQuarantined: if that event does not freeze the job.
            InvalidInput: if this can't be a sequence.
            JobledgerError: as `set_state`.
        """
        event_id = await self._check(about)
        if type(sequence) is not int or not 1 <= sequence <= INT_MAX:
            raise InvalidInput(f"sequence is {sequence!r:.40}; pass that of the event, a number from 1")
        if namespace is None:
            known = await self._find(job_id, None)
            if known.status is None:
                raise not_found(job_id)
            namespace = known.status.namespace
        decide: Decide = lambda job: decide_accept(job, sequence, job_id=job_id)  # noqa: E731
        try:
            return await self._command(job_id, namespace, decide, event_id, about, of_frozen=True)
        except JobNotQuarantined:
            known = await self._reader.fresh(job_id, namespace)
            async for item in self._reader.story(after=CachedJob(known.subject), up_to=known):
                if item.accepted == sequence and not item.anomaly and known.status is not None:
                    return receipt_of(known.status, event_id, changed=False)
            raise

    async def load(self, job_id: str, *, namespace: str | None = None) -> Job:
        """The job as the log's leader has it now.

        A frozen job is what it was before the first event that can't be read; `status.quarantine` says so.

        Raises:
            JobNotFound: if there is no such job.
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
        if known.status is None:
            raise not_found(job_id)
        async for item in self._reader.history(known, after=after):
            yield item

    # --- the one way of every command ---------------------------------------------------------------------

    async def _check(self, about: CommandMetadata) -> str:
        check_about(about)
        # A command that is repeated may be in the log already, so it is looked for first. Any other one would
        # only find out after its reads that its event can't be appended.
        if not about.get("event_id") and (refusal := self._log.refusal):
            await asyncio.sleep(0)  # a caller that tries again at once must leave the loop to others
            raise refused(refusal)
        return about.get("event_id") or self._new_id()

    async def _find(self, job_id: str, namespace: str | None) -> CachedJob:
        check_job_id(job_id, namespace)
        return self._reader.cached(job_id, namespace) or await self._reader.fresh(job_id, namespace)

    async def _namespace_of(self, job_id: str, namespace: str | None) -> str:
        check_job_id(job_id, namespace)
        if namespace is not None:
            return namespace
        known = await self._find(job_id, None)
        if known.status is None:
            raise not_found(job_id)
        return known.status.namespace

    async def _prepare_new(self, spec: JobSpec, event_id: str, about: CommandMetadata) -> Prepared:
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
                raise event_id_taken(event_id)
        return prepared

    async def _command(
        self,
        job_id: str,
        namespace: str,
        decide: Decide,
        event_id: str,
        about: CommandMetadata,
        *,
        of_frozen: bool = False,
    ) -> Receipt:
        command = Command(job_id, namespace, decide, event_id, about, of_frozen)
        async with self._turns.hold(job_id):
            return await CommandExecution(command, self._log, self._reader, self._clock).run()
