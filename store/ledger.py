"""The ledger: commands in, receipts out. How each finds its way into the log is told in `attempt`."""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Unpack

import msgspec
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
from jobledger.store.job_cache import CachedJob, JobCache, KeyedLocks
from jobledger.store.job_reader import JobReader
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
from jobledger.store.model.events import SOURCE, JobEvent, SpecData, encode_event
from jobledger.store.model.fold import spec_head
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
from jobledger.store.spec.normalize import Prepared, is_nameless_job_id, prepare_new, prepare_update
from jobledger.store.spec.spec import JobSpec

Decide = Callable[[Job | None], Decision | None]
"""A command that knows everything but the job."""

_random = random.Random()  # noqa: S311 - spreads retries; nothing secret


class Command(msgspec.Struct, frozen=True):
    """What is to be done, and to which job.

    Attributes:
        job_id: the job.
        namespace: the job's namespace.
        decide: what it means for the job as it is then.
        event_id: of the event to append.
        about: what came with the command.
        of_frozen: whether it is for a job in quarantine, too; others are refused there.
    """

    job_id: str
    namespace: str
    decide: Decide
    event_id: str
    about: CommandMetadata
    of_frozen: bool = False


class CommandExecution:
    """A command under way.

    Args:
        command: what is to be done.
        log: where the event goes.
        reader: knows the job.
        clock: the writer's clock, Unix nanoseconds.
    """

    def __init__(self, command: Command, log: EventLog, reader: JobReader, clock: Callable[[], int]) -> None:
        self._command = command
        self._log = log
        self._reader = reader
        self._clock = clock
        nothing = CachedJob(job_subject(command.namespace, command.job_id))
        # If nothing is remembered, it is a new job, as far as we know: the append will tell.
        self._known = reader.cached(command.job_id, command.namespace) or nothing
        self._fresh = False
        self._searched = nothing  # up to here, an event id that the caller gave is not in the log
        self._seen_revision = _revision(self._known.job) if self._known.job is not None else None

    async def run(self) -> Receipt:
        """Go through with it.

        Raises:
            JobledgerError: as the commands of `Ledger` say.
        """
        command = self._command
        if self._is_repeatable:
            await self._refresh()
        wait_seconds = COMMAND_WAIT_SECONDS
        for _ in range(COMMAND_MAX_ATTEMPTS):
            decision = await self._decide()
            if isinstance(decision, Receipt):
                return decision
            event = self._event(decision)
            draft = PendingEvent(self._known.subject, event.id, encode_event(event))
            outcome = await self._log.append(draft, expect=self._known.sequence)
            if not isinstance(outcome, WrongSequence):
                if self._is_repeatable:
                    return await self._prove()
                return self._reader.appended(self._known, event, outcome.sequence)
            await asyncio.sleep(_random.uniform(0, wait_seconds))
            wait_seconds = min(2 * wait_seconds, COMMAND_MAX_WAIT_SECONDS)
            await self._refresh()
        error = contention(self._known.job, job_id=command.job_id)
        raise await self._with_missed(error, self._seen_revision)

    @property
    def _is_repeatable(self) -> bool:
        """Whether the caller gave the event id: only then can the event be in the log already."""
        return self._command.about.get("event_id") is not None

    async def _refresh(self) -> None:
        self._known = await self._reader.fresh(self._command.job_id, self._command.namespace)
        self._fresh = True
        if self._seen_revision is None:
            self._seen_revision = _revision(self._known.job)

    async def _decide(self) -> Decision | Receipt:
        """What to append, or the answer if there is nothing to append."""
        earlier = await self._find_earlier() if self._is_repeatable else None
        if earlier is not None:
            return earlier
        command, job = self._command, self._known.job
        if command.of_frozen:
            job = job or self._known.lost
        expected_revision = command.about.get("expected_revision")
        try:
            if self._known.status is not None and not command.of_frozen:
                check_not_quarantined(self._known.status)
            if job is None:
                command.decide(None)  # "no such job" says more than "it is at revision 0"
            check_revision(job, expected_revision, job_id=command.job_id)
            decision = command.decide(job)
        except (Refused, Conflict, JobNotFound) as refusal:
            if self._fresh:
                await self._log.confirm_current()  # nothing is refused from what a leader of before knows
                raise await self._with_missed(refusal, expected_revision) from None
            decision = None
        if decision is not None:
            return decision
        if self._fresh:
            assert job is not None  # only an existing job can be "already so"
            return receipt_of(job.status, command.event_id, changed=False)
        await self._refresh()
        return await self._decide()

    def _event(self, decision: Decision) -> JobEvent:
        command = self._command
        return decision.event(
            specversion="1.0",
            id=command.event_id,
            source=SOURCE,
            subject=command.job_id,
            time=_rfc3339(self._clock() // 1_000_000),
            datacontenttype="application/json",
            namespace=command.namespace,
            actor=command.about.get("actor", ""),
            reason=command.about.get("reason", ""),
            traceparent=command.about.get("traceparent", ""),
            previous=str(self._known.sequence or ""),
            name=self._name(decision),
            data=decision.data,  # type: ignore[arg-type]  # Decision pairs event and data; mypy sees two unions
        )

    def _name(self, decision: Decision) -> str:
        if self._known.job is not None:
            return self._known.job.status.name
        # A job's first event sets its spec, except where one that cannot be read came before it.
        return spec_head(decision.data.spec).name if isinstance(decision.data, SpecData) else ""

    async def _find_earlier(self) -> Receipt | None:
        """The first answer, if the event of this id is in the log; looks at each event of the job once."""
        event_id = self._command.event_id
        item = await self._reader.find_event(event_id, after=self._searched, up_to=self._known)
        self._searched = self._known
        if item is None:
            return None
        if item.anomaly or not await self._is_repeat_of(item):
            raise event_id_taken(event_id)
        return Receipt(
            job_id=self._command.job_id,
            namespace=self._command.namespace,
            event_id=event_id,
            sequence=item.sequence,
            revision=item.revision,
            version=item.version,
            changed=True,
        )

    async def _is_repeat_of(self, item: HistoryItem) -> bool:
        """Whether this very command would have appended that event: an id alone does not identify it."""
        job, event = await self._reader.event_at(self._known.subject, item.sequence)
        if job is not None and job.status.is_lost and not self._command.of_frozen:
            job = None
        try:
            decision = self._command.decide(job)
        except (Refused, Conflict, JobNotFound):
            return False
        about = self._command.about
        return (
            decision is not None
            and isinstance(event, decision.event)
            and is_same_data(event.data, decision.data)
            and (event.actor, event.reason) == (about.get("actor", ""), about.get("reason", ""))
        )

    async def _prove(self) -> Receipt:
        """The receipt of an append whose event id the caller gave, from what is in the log.

        The log knows a repeated append by the id alone. Where two use one id at once, the answer may be about
        an event with another body, or of another job.
        """
        event_id = self._command.event_id
        try:
            await self._refresh()
            receipt = await self._find_earlier()
        except LogUnavailable as error:
            raise OutcomeUnknown(
                "the log took the event, and could not be read afterwards; ask again with the same event id"
                f" ({event_id})",
                event_id=event_id,
            ) from error
        if receipt is None:
            raise event_id_taken(event_id)
        return receipt

    async def _with_missed(self, error: Exception, seen_revision: int | None) -> Exception:
        """A conflict, with the events after the revision that the caller had seen."""
        if not isinstance(error, (RevisionMismatch, Contention)):
            return error
        seen, missed, size = seen_revision or 0, deque[HistoryItem](), 0
        if error.revision > seen:
            async for item in self._reader.story(after=CachedJob(self._known.subject), up_to=self._known):
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


def _rfc3339(milliseconds: int) -> str:
    seconds, rest = divmod(milliseconds, 1_000)
    return f"{_whole_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=8)  # a busy writer has many events in a second
def _whole_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def event_id_taken(event_id: str) -> InvalidInput:
    """The error for an event id that names another event."""
    return InvalidInput(
        f"event_id {event_id} is taken by another event; make a new one for each command, and repeat a"
        " command with the same arguments"
    )


def _revision(job: Job | None) -> int:
    return job.status.revision if job is not None else 0


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
