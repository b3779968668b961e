"""A linearizability checker: the clients' observations of each job must fit one order of events.

A job is a register with compare-and-swap whose value is its revision. Finding an order that explains a
history is exponential in general (Wing and Gong, 1993; Jepsen's Knossos). It is not needed here: the log is
the order, and each event names its call. So the check is whether *that* order explains the history:

1. every acknowledged write is the event of the revision that its response names, once;
2. a refused write has no event; one without a response has at most one;
3. a write that expected revision r created revision r + 1;
4. the order agrees with time: a call that ended before another started is not after it in the order.

A response that writes nothing (a strong read, a no-op, a refusal that names the job's revision) is a read:
it is placed after the event of that revision and before the next. Rule 4 needs one pass: by increasing
place, a call must not end before the latest start of any call with a lower place.
"""

from collections.abc import Iterable, Mapping
from itertools import groupby
from operator import itemgetter
from typing import NamedTuple

from tests.chaos.history import FOREVER, Call


class Logged(NamedTuple):
    """An event of a job in the log."""

    sequence: int
    revision: int
    event_id: str
    token: str


def problems_of_job(job: str, events: Iterable[Logged], calls: Iterable[Call]) -> list[str]:
    """Return the contradictions of a job's history; empty if it is linearizable.

    Args:
        job: its name.
        events: its events that create revisions, in log order.
        calls: the calls on the job.
    """
    events = tuple(events)
    by_token: dict[str, list[Logged]] = {}
    for event in events:
        by_token.setdefault(event.token, []).append(event)
    found = [
        f"{job}: the event at {event.sequence} has revision {event.revision}, and is number {number}"
        for number, event in enumerate(events, 1)
        if event.revision != number
    ]
    placed: list[tuple[tuple[int, int], Call]] = []
    for call in calls:
        mine = by_token.get(call.token, [])
        found += [f"{job}: {problem}: {call}" for problem in _problems_of_call(call, mine)]
        if mine and call.verb != "read":
            placed.append(((mine[0].revision, 0), call))
        elif call.revision and _is_strong_answer(call):
            placed.append(((call.revision, 1), call))
            if call.revision > len(events):
                found.append(f"{job}: an answer names revision {call.revision} of {len(events)}: {call}")
    return found + [f"{job}: {problem}" for problem in _against_time(placed)]


def problems_of_tokens(events: Mapping[str, int], calls: Iterable[Call]) -> list[str]:
    """Return the events that no call explains, given the sequence of each event by token."""
    known = {call.token for call in calls}
    return [
        f"the event at {sequence} is of no call: {token!r}"
        for token, sequence in events.items()
        if token not in known
    ]


def _is_strong_answer(call: Call) -> bool:
    """Whether the call wrote nothing and was decided on the log."""
    if call.verb == "read":
        return call.strong and call.outcome == "ok"
    return call.outcome == "refused" or (call.outcome == "ok" and not call.changed)


def _problems_of_call(call: Call, mine: list[Logged]) -> list[str]:
    if call.verb == "read":
        return ["a read is in the log"] if mine else []
    if len(mine) > 1:
        return [f"its event is in the log {len(mine)} times, at {[event.sequence for event in mine]}"]
    if not mine:
        return ["it was acknowledged and is not in the log"] if call.acknowledged else []
    (event,) = mine
    found = []
    if call.outcome == "refused":
        found.append(f"it was refused and is in the log at {event.sequence}")
    if call.outcome == "ok" and not call.changed:
        found.append(f"it was called a no-op and is in the log at {event.sequence}")
    if call.acknowledged and (call.revision, call.sequence or event.sequence) != event[1::-1]:
        found.append(f"the log has it as revision {event.revision} at {event.sequence}")
    if call.acknowledged and call.event_id and call.event_id != event.event_id:
        found.append(f"the log has it with the id {event.event_id}")
    if call.expected is not None and event.revision != call.expected + 1:
        found.append(f"it made revision {event.revision}")
    return found


def _against_time(placed: list[tuple[tuple[int, int], Call]]) -> list[str]:
    found = []
    latest: Call | None = None  # the latest start of the calls with a lower place
    for _, group in groupby(sorted(placed, key=itemgetter(0)), key=itemgetter(0)):
        calls = [call for _, call in group]
        if latest is not None:
            found += [
                f"the order contradicts time: {call} ended before {latest} started, and is after it"
                for call in calls
                if call.ended != FOREVER and call.ended < latest.started
            ]
        started = max(calls, key=lambda call: call.started)
        if latest is None or started.started > latest.started:
            latest = started
    return found
