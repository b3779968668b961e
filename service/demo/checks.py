"""The evidence that the scenario records, and the checks of it. Pure.

Each check compares two independent sources: receipts and log, view and an in-memory fold, the counters of the
fold and plain counting.
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
    """One writer's attempt in a race.

    Attributes:
        writer: its actor.
        event_id: of its event, even if that was not written.
        won: the receipt, if it won.
        seen_revision: the current revision in the error of a loser; None if it won.
        seen_missed: the ids of the missed events in the error of a loser.
    """

    writer: str
    event_id: str
    won: Receipt | None = None
    seen_revision: int | None = None
    seen_missed: tuple[str, ...] = ()


class Race(msgspec.Struct, frozen=True, kw_only=True):
    """Concurrent writers that expect the same revision of one job."""

    job_id: str
    revision: int
    attempts: tuple[RaceAttempt, ...]


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """The `kill -9` of the first projector.

    Attributes:
        exit_code: of the process; Python returns the negative signal number.
        acknowledged: events of the load acknowledged at that moment.
        events: total events of the load.
        view_sequence: of the view after the process ended.
        log_sequence: the last sequence of the log when the projector was restarted.
    """

    exit_code: int
    acknowledged: int
    events: int
    view_sequence: int
    log_sequence: int


class ViewedJob(msgspec.Struct, frozen=True):
    """A job in the view, with every version of its spec."""

    job: Job
    versions: tuple[JobVersion, ...]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """The input of the checks.

    Attributes:
        records: the whole log, read at the end.
        receipts: of every acknowledged event.
        race: the race of two writers.
        kill: the `kill -9` of the projector.
        checkpoint: of the view that was killed and restarted.
        viewed: all its jobs, in the order of creation.
        snapshots: statuses by job id in the view at earlier moments, oldest first.
        digest: of that view.
        rebuilt_digest: of the view that was rebuilt after it was deleted.
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
    """The result of one check.

    Attributes:
        claim: what was checked.
        figures: counts of what was examined.
        problems: violations; empty if the check passed.
    """

    claim: str
    figures: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the claim holds."""
        return not self.problems


def check_all(evidence: Evidence) -> list[Check]:
    """Every check, in the order of the scenario."""
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
    """Per job, the log has the revisions 1…N, and the receipts have the same."""
    problems: list[str] = []
    from_receipts = {(receipt.job_id, receipt.sequence): receipt.revision for receipt in receipts}
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
            received = from_receipts.get((job_id, item.sequence), expected)
            if received != expected:
                problems.append(
                    f"{job_id}: the receipt of event {item.sequence} has revision {received}, not {expected}"
                )
    figures = f"{_count(len(jobs), 'job')}, {_count(len(records), 'event')}, longest 1…{longest}"
    return Check("Revisions are 1…N, without a gap", figures, tuple(problems))


def check_acknowledged(records: Sequence[Record], receipts: Sequence[Receipt]) -> Check:
    """The event of each receipt is in the log once, at its sequence, and the log has no other events."""
    problems: list[str] = []
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for record in records:
        recorded = read_record(record)
        if isinstance(recorded, Recorded):
            found[recorded.event.id].append((recorded.sequence, recorded.event.subject))
        else:
            problems.append(f"event {record.sequence} cannot be read: {recorded.reason}")
    for receipt in receipts:
        places = found.pop(receipt.event_id, [])
        if len(places) != 1:
            problems.append(f"acknowledged event {receipt.sequence} is in the log {len(places)} times")
        elif places[0] != (receipt.sequence, receipt.job_id):
            problems.append(
                f"acknowledged event {receipt.sequence} is at {places[0][0]}, of job {places[0][1]}"
            )
    problems += [f"event {places[0][0]} is in the log without a receipt" for places in found.values()]
    figures = f"{_count(len(receipts), 'receipt')}, {_count(len(records), 'event')} in the log"
    return Check("Each acknowledged event is there once", figures, tuple(problems))


def check_race(records: Iterable[Record], race: Race) -> Check:
    """One writer won; the others wrote nothing, and their errors have the events they missed."""
    problems: list[str] = []
    winners = [attempt for attempt in race.attempts if attempt.won is not None]
    if len(winners) != 1:
        names = ", ".join(attempt.writer for attempt in winners) or "none"
        problems.append(f"{len(winners)} writers won instead of one: {names}")
    in_log = {recorded.event.id for recorded in map(read_record, records) if isinstance(recorded, Recorded)}
    for attempt in race.attempts:
        if attempt.won is not None:
            if attempt.won.revision != race.revision + 1:
                problems.append(
                    f"{attempt.writer} won revision {attempt.won.revision}, not {race.revision + 1}"
                )
            continue
        if attempt.event_id in in_log:
            problems.append(f"{attempt.writer} got an error, but its event is in the log")
        if attempt.seen_revision != race.revision + 1:
            problems.append(
                f"the error of {attempt.writer} has revision {attempt.seen_revision}, not {race.revision + 1}"
            )
        if attempt.seen_missed != tuple(winner.event_id for winner in winners):
            problems.append(
                f"the error of {attempt.writer} has {len(attempt.seen_missed)} missed events, not the winner"
            )
    losers = [attempt for attempt in race.attempts if attempt.won is None]
    figures = "; ".join(f"{loser.writer} lost: now revision {loser.seen_revision}" for loser in losers)
    return Check("Exactly one of two racing writers won", figures, tuple(problems))


def check_killed(kill: Kill) -> Check:
    """`kill -9` ended the projector in the middle of the load, and the view fell behind."""
    problems: list[str] = []
    if kill.exit_code != SIGKILL_EXIT_CODE:
        problems.append(f"the projector ended with exit code {kill.exit_code}, not by kill -9")
    if not 0 < kill.acknowledged < kill.events:
        problems.append(
            f"{kill.acknowledged} of {kill.events} events were written at the kill: not in the middle"
        )
    if not 0 < kill.view_sequence < kill.log_sequence:
        problems.append(
            f"the view was at {kill.view_sequence}, and the log ended at {kill.log_sequence}: not behind"
        )
    behind = kill.log_sequence - kill.view_sequence
    figures = f"{kill.acknowledged:,} of {kill.events:,} written; fell {behind:,} behind"
    return Check("kill -9 hit the projector amid a load", figures, tuple(problems))


def check_view(records: Sequence[Record], checkpoint: Checkpoint, viewed: Iterable[ViewedJob]) -> Check:
    """The view equals an in-memory fold of the whole log in every job, field and version."""
    problems: list[str] = []
    last_sequence = records[-1].sequence if records else 0
    if checkpoint.sequence != last_sequence:
        problems.append(f"the view is at {checkpoint.sequence}, and the log ends at {last_sequence}")
    folded, anomalies = _fold_all(records)
    if checkpoint.anomalies != anomalies:
        problems.append(f"the view counted {checkpoint.anomalies} anomalies, the fold {anomalies}")
    rows = {each.job.status.id: each for each in viewed}
    problems += [f"{job_id} is in the view but not in the log" for job_id in rows.keys() - folded.keys()]
    versions = 0
    for job_id, expected in folded.items():
        versions += len(expected.versions)
        row = rows.get(job_id)
        if row is None:
            problems.append(f"{job_id} is missing from the view")
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
    """Version, Revision and the times follow their rules, as counted from the log without the fold."""
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
                problems.append(f"{job_id}: ModifyTime decreased, or the job disappeared")
    figures = f"{_count(len(now), 'job')}, in {len(snapshots) + 1} snapshots"
    return Check("Counters and times keep their rules", figures, tuple(problems))


def check_rebuilt(digest: str, rebuilt_digest: str, checkpoint: Checkpoint) -> Check:
    """The rebuilt view equals the deleted one."""
    problems = [] if digest == rebuilt_digest else [f"digest {digest[:12]} became {rebuilt_digest[:12]}"]
    figures = f"at event {checkpoint.sequence:,}, digest {digest[:12]}"
    return Check("The rebuilt view equals the first one", figures, tuple(problems))


def _fold_all(records: Iterable[Record]) -> tuple[dict[str, ViewedJob], int]:
    """All jobs of a log with their versions, and the number of anomalies."""
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
