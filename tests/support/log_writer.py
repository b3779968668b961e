"""Writes a log of jobs that all change in rounds, and records every position."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from jobledger import LogUnavailable, OutcomeUnknown
from jobledger.store.log import Appended, EventLog, PendingEvent
from jobledger.store.model.events import JobCreated, JobStateChanged
from jobledger.store.model.job import StateType
from jobledger.store.model.subjects import named_job_id
from tests.support.histories import draft, spec_data, state_data

PAUSE_SECONDS = 0.05  # before an append is retried: a tight loop would delay the restart of the server


class Writer:
    """Appends events to a log without other writers.

    Args:
        jobs: their number; each has one event per round, so the sequences of a round are known.
        message: of each state change, followed by a number.
        states: the states of a job after its creation, repeatedly.

    Attributes:
        of_job: the sequences of each job, by id.
        job_at: the job of each sequence.
        revisions: the revision of each sequence.
    """

    def __init__(
        self,
        log: EventLog,
        jobs: int,
        *,
        message: str = "",
        states: Sequence[StateType] = (StateType.QUEUED, StateType.RUNNING),
    ) -> None:
        self._log = log
        self._message = message
        self._states = states
        self._ids = [named_job_id("default", f"job-{number}") for number in range(jobs)]
        self._last = [0] * jobs
        self.of_job: dict[str, list[int]] = defaultdict(list)
        self.job_at: dict[int, str] = {}
        self.revisions: dict[int, int] = {}

    async def round(self) -> None:
        """Append one more event of each job, through restarts of the server."""
        await asyncio.gather(*(self._one(number) for number in range(len(self._ids))))

    async def _one(self, number: int) -> None:
        job_id = self._ids[number]
        revision = len(self.of_job[job_id]) + 1
        item = self._draft(number, revision)
        while True:
            try:
                appended = await self._log.append(item, expect=self._last[number])
                break
            except (LogUnavailable, OutcomeUnknown):
                await asyncio.sleep(PAUSE_SECONDS)
        assert isinstance(appended, Appended)
        self._last[number] = appended.sequence
        self.of_job[job_id].append(appended.sequence)
        self.job_at[appended.sequence] = job_id
        self.revisions[appended.sequence] = revision

    def _draft(self, number: int, revision: int) -> PendingEvent:
        event, job_id = revision * len(self._ids) + number, self._ids[number]
        if revision == 1:
            return draft(JobCreated, job_id, spec_data(f"job-{number}"), event)
        state = self._states[revision % len(self._states)]
        return draft(JobStateChanged, job_id, state_data(state, f"no {revision} {self._message}"), event)
