"""One command on one job until it is answered: load ─► decide ─► append, and again if a race was lost.

A decision that appends is held to the truth by its expectation, so it may start from the cache. A decision
that appends nothing (refused, not found, already so) has no such guard, so it is made again on a fresh read
before anyone is told.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

from jobledger.store.command import CommandMetadata, Receipt, receipt_of
from jobledger.store.job_cache import CachedJob
from jobledger.store.job_reader import JobReader
from jobledger.store.log import EventLog, PendingEvent, WrongSequence
from jobledger.store.model.decide import (
    Decision,
    check_not_quarantined,
    check_revision,
    contention,
    is_same_data,
)
from jobledger.store.model.errors import (
    Conflict,
    Contention,
    InvalidInput,
    JobNotFound,
    LogUnavailable,
    OutcomeUnknown,
    Refused,
    RevisionMismatch,
)
from jobledger.store.model.events import SOURCE, JobEvent, SpecData, encode_event
from jobledger.store.model.fold import spec_head
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import Job
from jobledger.store.model.limits import (
    COMMAND_MAX_ATTEMPTS,
    COMMAND_MAX_WAIT_SECONDS,
    COMMAND_WAIT_SECONDS,
    MISSED_MAX_BYTES,
    MISSED_MAX_EVENTS,
)
from jobledger.store.model.subjects import job_subject

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
