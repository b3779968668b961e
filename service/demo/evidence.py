"""What the story saw: plain values, for the checks to judge. Pure."""

from collections.abc import Mapping

import msgspec

from jobledger.projections.results import Checkpoint, JobVersion
from jobledger.store.command import Receipt
from jobledger.store.model.events import Record
from jobledger.store.model.job import Job, JobStatus


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One writer's part in a race.

    Attributes:
        writer: its actor.
        event_id: the id that its event has, or would have had.
        won: what it was told if it won.
        told_revision: the current revision, as a loser was told; None if it won.
        told_missed: the ids of the events that it had not seen, as a loser was told.
    """

    writer: str
    event_id: str
    won: Receipt | None = None
    told_revision: int | None = None
    told_missed: tuple[str, ...] = ()


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """Writers that all decided on the same revision of one job."""

    job_id: str
    revision: int
    attempts: tuple[Attempt, ...]


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """The end of the first projector.

    Attributes:
        exit_code: of the process, as Python tells it: the negative of the signal.
        acknowledged: events of the load that were acknowledged at that moment.
        events: events of the load in all.
        view_sequence: where the view stood when the process was gone.
        log_sequence: the last sequence of the log when the projector was started again.
    """

    exit_code: int
    acknowledged: int
    events: int
    view_sequence: int
    log_sequence: int


class ViewedJob(msgspec.Struct, frozen=True):
    """A job as the view has it, with every version of its spec."""

    job: Job
    versions: tuple[JobVersion, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the checks look at.

    Attributes:
        records: the whole log, read at the end.
        receipts: of every event that a writer was told is written.
        race: the race of two writers.
        kill: the `kill -9` of the projector.
        checkpoint: how far the view is that survived it.
        viewed: all its jobs, in the order of creation.
        glimpses: statuses by job id, as the view had them at moments on the way, oldest first.
        digest: of the view that survived.
        rebuilt_digest: of the view that was made anew after that one was deleted.
    """

    records: tuple[Record, ...]
    receipts: tuple[Receipt, ...]
    race: Race
    kill: Kill
    checkpoint: Checkpoint
    viewed: tuple[ViewedJob, ...]
    glimpses: tuple[Mapping[str, JobStatus], ...]
    digest: str
    rebuilt_digest: str
