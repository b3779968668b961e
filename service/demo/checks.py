"""The check list: each check takes evidence and finds what is wrong with it.

Pure, so each can be shown wrong evidence. Each holds two things against each other that came about apart:
receipts and log, view and a fold in memory, the fold's counters and plain counting.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import msgspec

from jobledger.projections.results import Checkpoint, JobVersion
from jobledger.store.command import Receipt
from jobledger.store.model.events import JobCreated, JobUpdated, Record, Recorded, read_record
from jobledger.store.model.fold import Anomaly, fold_job
from jobledger.store.model.history import build_history_item
from jobledger.store.model.job import Job, JobStatus
from jobledger.store.model.subjects import parse_subject


class RaceAttempt(msgspec.Struct, frozen=True, kw_only=True):
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
    seen_revision: int | None = None
    seen_missed: tuple[str, ...] = ()


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """Writers that all decided on the same revision of one job."""

    job_id: str
    revision: int
    attempts: tuple[RaceAttempt, ...]


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
    snapshots: tuple[Mapping[str, JobStatus], ...]
    digest: str
    rebuilt_digest: str


SIGKILL_EXIT_CODE = -9


class Check(msgspec.Struct, frozen=True):
    """One line of the list.

    Attributes:
        claim: what must hold.
        figures: what was looked at.
        problems: what does not hold; none: the check passed.
    """

    claim: str
    figures: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the claim holds."""
        return not self.problems


def check_all(evidence: Evidence) -> list[Check]:
    """Every check, in the order of the story."""
    records = evidence.records
    return [
        check_revisions(records, evidence.receipts),
        check_acknowledged(records, evidence.receipts),
        check_race(records, evidence.race),
        check_killed(evidence.kill),
        check_view(records, evidence.checkpoint, evidence.viewed),
        check_counters(records, evidence.viewed, evidence.snapshots),
        check_rebuilt(evidence.digest, evidence.rebuilt_digest, evidence.checkpoint),
    ]


def check_revisions(records: Sequence[Record], receipts: Iterable[Receipt]) -> Check:
    """Per job, the log gives the revisions 1…N, and the writers were told the same ones."""
    problems: list[str] = []
    told = {(receipt.job_id, receipt.sequence): receipt.revision for receipt in receipts}
    longest = 0
    jobs = _by_job(records)
    for job_id, of_job in jobs.items():
        history, status = [], None
        for record in of_job:
            item, status = build_history_item(record, status)
            history.append(item)
        longest = max(longest, len(history))
        for expected, item in enumerate(history, start=1):
            if item.revision != expected:
                reason = f" ({item.anomaly})" if item.anomaly else ""
                problems.append(
                    f"{job_id}: event {item.sequence} is revision {item.revision}, not {expected}{reason}"
                )
            was_told = told.get((job_id, item.sequence), expected)
            if was_told != expected:
                problems.append(
                    f"{job_id}: event {item.sequence} was told to be revision {was_told}, not {expected}"
                )
    figures = f"{_count(len(jobs), 'job')}, {_count(len(records), 'event')}, longest 1…{longest}"
    return Check("Revisions are 1…N, without a gap", figures, tuple(problems))


def check_acknowledged(records: Sequence[Record], receipts: Sequence[Receipt]) -> Check:
    """Each receipt's event is in the log once, where the receipt says; and the log holds nothing else."""
    problems: list[str] = []
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for record in records:
        recorded = read_record(record)
        if isinstance(recorded, Recorded):
            found[recorded.event.id].append((recorded.sequence, recorded.event.subject))
        else:
            problems.append(f"event {record.sequence} can't be read: {recorded.reason}")
    for receipt in receipts:
        places = found.pop(receipt.event_id, [])
        if len(places) != 1:
            problems.append(f"acknowledged event {receipt.sequence} is in the log {len(places)} times")
        elif places[0] != (receipt.sequence, receipt.job_id):
            problems.append(
                f"acknowledged event {receipt.sequence} is at {places[0][0]}, of job {places[0][1]}"
            )
    problems += [f"event {places[0][0]} is in the log, and nobody was told so" for places in found.values()]
    figures = f"{_count(len(receipts), 'receipt')}, {_count(len(records), 'event')} in the log"
    return Check("Each acknowledged event is there once", figures, tuple(problems))


def check_race(records: Iterable[Record], race: Race) -> Check:
    """One writer won, the others wrote nothing and were told what they had missed."""
    problems: list[str] = []
    winners = [attempt for attempt in race.attempts if attempt.won is not None]
    if len(winners) != 1:
        names = ", ".join(attempt.writer for attempt in winners) or "nobody"
        problems.append(f"not one writer won, but {len(winners)}: {names}")
    in_log = {recorded.event.id for recorded in map(read_record, records) if isinstance(recorded, Recorded)}
    for attempt in race.attempts:
        if attempt.won is not None:
            if attempt.won.revision != race.revision + 1:
                problems.append(
                    f"{attempt.writer} won revision {attempt.won.revision}, not {race.revision + 1}"
                )
            continue
        if attempt.event_id in in_log:
            problems.append(f"{attempt.writer} was told that it lost, and its event is in the log")
        if attempt.seen_revision != race.revision + 1:
            problems.append(
                f"{attempt.writer} was told revision {attempt.seen_revision}, not {race.revision + 1}"
            )
        if attempt.seen_missed != tuple(winner.event_id for winner in winners):
            problems.append(
                f"{attempt.writer} was told {len(attempt.seen_missed)} missed events, not the winner's"
            )
    losers = [attempt for attempt in race.attempts if attempt.won is None]
    figures = "; ".join(f"{loser.writer} was told: now revision {loser.seen_revision}" for loser in losers)
    return Check("Exactly one of two racing writers won", figures, tuple(problems))


def check_killed(kill: Kill) -> Check:
    """The projector really died in the middle, by `kill -9`, and came to lack events."""
    problems: list[str] = []
    if kill.exit_code != SIGKILL_EXIT_CODE:
        problems.append(f"it ended with exit code {kill.exit_code}, not by kill -9")
    if not 0 < kill.acknowledged < kill.events:
        problems.append(f"{kill.acknowledged} of {kill.events} events were written: that is not the middle")
    if not 0 < kill.view_sequence < kill.log_sequence:
        problems.append(f"the view was at {kill.view_sequence} and the log ended at {kill.log_sequence}")
    behind = kill.log_sequence - kill.view_sequence
    figures = f"{kill.acknowledged:,} of {kill.events:,} written; fell {behind:,} behind"
    return Check("kill -9 hit the projector amid a load", figures, tuple(problems))


def check_view(records: Sequence[Record], checkpoint: Checkpoint, viewed: Iterable[ViewedJob]) -> Check:
    """The view has what a fold of the whole log in memory has: every job, field and version."""
    problems: list[str] = []
    last_sequence = records[-1].sequence if records else 0
    if checkpoint.sequence != last_sequence:
        problems.append(f"the view is at {checkpoint.sequence}, and the log ends at {last_sequence}")
    folded, anomalies = _fold_all(records)
    if checkpoint.anomalies != anomalies:
        problems.append(f"the view counted {checkpoint.anomalies} anomalies, the fold {anomalies}")
    rows = {each.job.status.id: each for each in viewed}
    problems += [f"{job_id} is in the view, and not in the log" for job_id in rows.keys() - folded.keys()]
    versions = 0
    for job_id, expected in folded.items():
        versions += len(expected.versions)
        row = rows.get(job_id)
        if row is None:
            problems.append(f"{job_id} is missing in the view")
            continue
        names = [
            name
            for name in JobStatus.__struct_fields__
            if getattr(row.job.status, name) != getattr(expected.job.status, name)
        ]
        names += ["spec"] * (row.job.spec != expected.job.spec)
        names += ["versions"] * (row.versions != expected.versions)
        problems += [f"{job_id}: {name} differs" for name in names]
    figures = f"{_count(len(rows), 'row')}, {_count(versions, 'version')}"
    return Check("The view equals a pure fold of the log", figures, tuple(problems))


def check_counters(
    records: Iterable[Record], viewed: Iterable[ViewedJob], snapshots: Sequence[Mapping[str, JobStatus]]
) -> Check:
    """Version, Revision and the times follow their rules, counted from the log without the fold."""
    problems: list[str] = []
    by_job = _by_job(records)
    now = {each.job.status.id: each.job.status for each in viewed}
    for job_id, status in now.items():
        of_job = by_job.get(job_id, [])
        specs = sum(isinstance(_event_of(record), JobCreated | JobUpdated) for record in of_job)
        times = [record.time for record in of_job]
        rules = {
            "Version": (status.version, specs),
            "Revision": (status.revision, len(of_job)),
            "CreateTime": (status.create_time, times[0] if times else None),
            "ModifyTime": (status.modify_time, max(times, default=None)),
        }
        problems += [
            f"{job_id}: {name} is {actual}, not {expected}"
            for name, (actual, expected) in rules.items()
            if actual != expected
        ]
    for before, after in pairwise((*snapshots, now)):
        for job_id, status in before.items():
            later = after.get(job_id)
            if later is None or later.modify_time < status.modify_time:
                problems.append(f"{job_id}: ModifyTime went back, or the job vanished")
    figures = f"{_count(len(now), 'job')}, seen at {len(snapshots) + 1} moments"
    return Check("Counters and times keep their rules", figures, tuple(problems))


def check_rebuilt(digest: str, rebuilt_digest: str, checkpoint: Checkpoint) -> Check:
    """The view that was made anew is the one that was deleted."""
    problems = [] if digest == rebuilt_digest else [f"digest {digest[:12]} became {rebuilt_digest[:12]}"]
    figures = f"at event {checkpoint.sequence:,}, digest {digest[:12]}"
    return Check("The rebuilt view equals the first one", figures, tuple(problems))


def _fold_all(records: Iterable[Record]) -> tuple[dict[str, ViewedJob], int]:
    """All jobs of a log with all their versions, and the number of events that made no sense."""
    jobs: dict[str, Job] = {}
    versions: defaultdict[str, list[JobVersion]] = defaultdict(list)
    anomalies = 0
    for record in records:
        recorded = read_record(record)
        job_id = recorded.event.subject if isinstance(recorded, Recorded) else recorded.job_id
        job = fold_job(jobs.get(job_id), recorded)
        if isinstance(job, Anomaly):
            anomalies += 1
            continue
        jobs[job_id] = job
        if job.status.spec_sequence == record.sequence:
            version = JobVersion(job.status.version, record.sequence, record.time, job.spec)
            versions[job_id].append(version)
    return {job_id: ViewedJob(job, tuple(versions[job_id])) for job_id, job in jobs.items()}, anomalies


def _by_job(records: Iterable[Record]) -> dict[str, list[Record]]:
    jobs: defaultdict[str, list[Record]] = defaultdict(list)
    for record in records:
        where = parse_subject(record.subject)
        jobs[where.job_id if where else record.subject].append(record)
    return dict(jobs)


def _event_of(record: Record) -> object:
    recorded = read_record(record)
    return recorded.event if isinstance(recorded, Recorded) else None


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
