"""Checks after a run; each function returns its findings, one line each."""

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from jobledger import JetStreamLog
from jobledger.store.model.events import Record, Recorded, SpecData, StateData, read_record
from jobledger.store.model.fold import Anomaly, fold
from jobledger.store.model.job import JobStatus
from jobledger.store.model.subjects import named_job_id
from tests.chaos.history import Call
from tests.chaos.linearizable import Logged, problems_of_job, problems_of_tokens
from tests.support.oracle import checkpoint_of, fold_of, rows_of
from tests.support.service_process import clean_env

COMMAND_SECONDS: Final = 120.0
_SHOWN: Final = 10  # problems of one kind


class _Meta(msgspec.Struct, rename="pascal"):
    meta: dict[str, str] = {}


class Received(NamedTuple):
    """An event received by a reader."""

    sequence: int
    job_id: str
    revision: int


async def read_all(log: JetStreamLog) -> list[Record]:
    """Return every record of the log, oldest first."""
    last = (await log.info()).last_sequence
    records: list[Record] = []
    if last:
        feed = await log.follow(after=0)
        while not records or records[-1].sequence < last:
            records.extend(await feed.take(1_000))
        await feed.close()
    return [record for record in records if record.sequence <= last]


def problems_of_log(records: Sequence[Record], calls: Iterable[Call]) -> list[str]:
    """Check the log against the history: complete, exactly once, revisions 1..N, linearizable per job."""
    sequences = [record.sequence for record in records]
    found = []
    if sequences != list(range(1, len(records) + 1)):
        missing = sorted(set(range(1, max(sequences) + 1)) - set(sequences))
        found.append(f"the log has {len(records)} events, and lacks the sequences {missing[:_SHOWN]}")
    statuses: dict[str, JobStatus] = {}
    events: dict[str, list[Logged]] = defaultdict(list)
    ids: dict[str, int] = {}
    for record in records:
        recorded = read_record(record)
        job_id = recorded.event.subject if isinstance(recorded, Recorded) else ""
        status = fold(statuses.get(job_id), recorded)
        if isinstance(status, Anomaly) or not isinstance(recorded, Recorded):
            found.append(f"the event at {record.sequence} is an anomaly: {status}")
            continue
        if recorded.event.id in ids:
            found.append(
                f"the event {recorded.event.id} is at {ids[recorded.event.id]} and {record.sequence}"
            )
        ids[recorded.event.id] = record.sequence
        statuses[job_id] = status
        events[job_id].append(
            Logged(record.sequence, status.revision, recorded.event.id, _token_of(recorded))
        )
    by_job: dict[str, list[Call]] = defaultdict(list)
    all_calls = tuple(calls)
    for call in all_calls:
        by_job[call.job].append(call)
    for job, theirs in by_job.items():
        found += problems_of_job(job, events.pop(named_job_id("default", job), ()), theirs)
    tokens = {event.token: event.sequence for rest in events.values() for event in rest}
    return found + problems_of_tokens(tokens, all_calls)


def _token_of(recorded: Recorded) -> str:
    data = recorded.event.data
    if isinstance(data, SpecData):
        return msgspec.json.decode(bytes(data.spec), type=_Meta).meta.get("call", "")
    return data.state.message if isinstance(data, StateData) else ""


def problems_of_reads(calls: Iterable[Call]) -> list[str]:
    """Find reads of a view that waited for an acknowledged position and returned an older state."""
    return [
        f"a read saw revision {call.revision}, and waited for the position of {call.floor}: {call}"
        for call in calls
        if call.verb == "read" and call.outcome == "ok" and call.revision < call.floor
    ]


def problems_of_views(records: Sequence[Record], views: Iterable[Path]) -> list[str]:
    """Compare each view with a fold of the log, row by row; equal to the fold means equal to each other."""
    expected = fold_of(records)
    found = []
    for view in views:
        _, sequence, anomalies = checkpoint_of(view)
        if sequence != len(records):
            found.append(f"{view}: its checkpoint is {sequence} of {len(records)}")
            continue
        if anomalies:
            found.append(f"{view}: it counts {anomalies} anomalies")
        rows = rows_of(view)
        found += [
            f"{view}: the table {table} is not the fold of the log"
            for table in expected
            if rows[table] != expected[table]
        ]
    return found


def read_received(path: Path) -> list[Received]:
    """Return the events that a reader process wrote, without a line truncated by a kill."""
    if not path.exists():
        return []
    return [
        Received(int(sequence), job_id, int(revision))
        for sequence, job_id, revision in (
            line.decode().split() for line in path.read_bytes().split(b"\n")[:-1]
        )
    ]


def problems_of_feed(name: str, received: Iterable[Received], records: Sequence[Record]) -> list[str]:
    """Check a feed that resumes at its cursor: every event once, in log order."""
    expected = [record.sequence for record in records]
    sequences = [each.sequence for each in received if each.sequence <= len(records)]
    if sequences == expected:
        return []
    missing = sorted(set(expected) - set(sequences))
    disorder = [(before, after) for before, after in pairwise(sequences) if after <= before]
    return [f"{name}: {len(missing)} events are missing {missing[:_SHOWN]}, out of order {disorder[:_SHOWN]}"]


def problems_of_subscription(name: str, received: Iterable[Received], records: Sequence[Record]) -> list[str]:
    """Check a subscription: every event at least once; first handlings in order per job."""
    seen: set[int] = set()
    newest: dict[str, int] = {}
    found = []
    for each in received:
        if each.sequence not in seen and each.sequence < newest.get(each.job_id, 0):
            found.append(f"{name}: {each.sequence} of {each.job_id} came first after {newest[each.job_id]}")
        seen.add(each.sequence)
        newest[each.job_id] = max(newest.get(each.job_id, 0), each.sequence)
    missing = sorted({record.sequence for record in records} - seen)
    if missing:
        found.append(f"{name}: {len(missing)} events never came: {missing[:_SHOWN]}")
    return found


class Verdict(NamedTuple):
    """The result of `jobledger audit verify`."""

    exit_code: int
    text: str


def audit_verify(
    home: Path, keys: Sequence[str], flags: Sequence[str], env: dict[str, str], view: Path | None
) -> Verdict:
    """Run `jobledger audit verify` on log, seals and a view."""
    trusted = [word for key in keys for word in ("--key", key)]
    where = ["--view", str(view)] if view else ["--no-view"]
    return command(home, "audit", "verify", *trusted, *where, *flags, env=env)


def audit_keys(home: Path, url: str) -> list[str]:
    """Return the public keys of a service."""
    shown = command(home, "audit", "key", "show", "--quiet", "--url", url)
    assert shown.exit_code == 0, shown.text
    return shown.text.split()


def command(home: Path, *words: str, env: dict[str, str] | None = None) -> Verdict:
    """Run a command and wait for it."""
    done = subprocess.run(
        [sys.executable, "-m", "jobledger.service.cli.main", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=COMMAND_SECONDS,
        env=clean_env(home, env),
        cwd=Path(__file__).parent.parent.parent,
    )
    return Verdict(done.returncode, done.stdout)


def save_findings(directory: Path, findings: Sequence[str], repeat: str) -> Path:
    """Write the findings and the command that repeats them next to the history."""
    path = directory / "findings.json"
    path.write_text(json.dumps({"repeat": repeat, "findings": list(findings)}, indent=1))
    return path
