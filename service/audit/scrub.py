"""Compares every replica of the log with the Merkle tree, range by range, bounded and resumable.

    for each range: read it from each server's store ──► hash ──► compare with the tree of a view, or without
                    a view with the majority of the replicas

nats-server never compares replicas: one with a damaged block stays damaged, and answers direct gets and
consumers as if the event did not exist.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final, Protocol

import msgspec

from jobledger.projections.errors import ViewError
from jobledger.projections.merkle.frontier import Frontier
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.projections.tree_reader import TreeReader
from jobledger.projections.view import View
from jobledger.service.audit.log_pass import Progress, SealedTree, unfit
from jobledger.service.audit.model.checkpoint import origin_of
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.audit.seals import judge_seal, newest_seals
from jobledger.service.audit.state_file import StateFile
from jobledger.service.cursor import stream_tag
from jobledger.service.limits import (
    PROOF_SEALS_MAX,
    SCRUB_RANGE_EVENTS,
    SCRUB_RANGES_MAX,
    SCRUB_READ_TRIES,
    SCRUB_RETRY_SECONDS,
)
from jobledger.service.log_access import open_log
from jobledger.service.settings import Settings
from jobledger.store.jetstream.replicas import Replica
from jobledger.store.kv import KeyHistory
from jobledger.store.model.errors import LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import parse_subject

SCRUBBING: Final = "comparing replicas"
FORMAT: Final = 1


class Replicas(Protocol):
    """The replicas of a log, each readable separately."""

    async def replicas(self) -> Sequence[Replica]:
        """Return all replicas, the leader first."""
        ...

    async def read_replica(self, server: str, first: int, last: int) -> Mapping[int, Record]:
        """Return a range as one replica has it, without the events that it can't read."""
        ...


class Leaves(Protocol):
    """The leaf hashes of a view's tree."""

    async def leaves(self, first: int, last: int) -> Sequence[bytes]:
        """Return those of a range of sequences that the tree has."""
        ...


class BadRange(msgspec.Struct, frozen=True, array_like=True):
    """A range that one replica lost, or that differs from the tree."""

    first: int
    last: int
    missing: bool
    job_id: str = ""


class ScrubState(msgspec.Struct, frozen=True, kw_only=True):
    """The progress and the results of a scrub; the content of its state file.

    Attributes:
        origin: of the log.
        last: the sequence to compare up to.
        position: everything up to here was compared.
        servers: with a replica, the leader first, at the last range.
        frontier: the right edge of the tree at the position.
        seal: compared with the tree when the position reaches it.
        bad: bad ranges by server, up to SCRUB_RANGES_MAX.
        more: the number of further bad events, by server.
        unread: servers that could not be read, with the reason.
        undecided: ranges without a view or a majority to decide which replica is right.
        format: of the file.
    """

    origin: str
    last: int
    position: int = 0
    servers: tuple[str, ...] = ()
    frontier: bytes = Frontier().to_bytes()
    seal: SealedTree | None = None
    bad: dict[str, list[BadRange]] = {}
    more: dict[str, int] = {}
    unread: dict[str, str] = {}
    undecided: list[BadRange] = []
    unfit: str = ""
    format: int = FORMAT

    @property
    def done(self) -> bool:
        """Whether everything was compared."""
        return self.position >= self.last


class Scrub:
    """Compares range after range.

    Args:
        replicas: of the log.
        state: where to continue.
        leaves: of a view's tree, at least up to `state.last`; None without a view.
    """

    def __init__(self, replicas: Replicas, state: ScrubState, leaves: Leaves | None) -> None:
        self.state = state
        self._replicas = replicas
        self._leaves = leaves
        self._frontier = Frontier.from_bytes(state.frontier)
        self._bad = {server: [*ranges] for server, ranges in state.bad.items()}
        self._more = Counter(state.more)
        self._unread = dict(state.unread)
        self._undecided = [*state.undecided]
        self._unfit = state.unfit
        self._servers = state.servers

    async def step(self) -> None:
        """Compare the next range.

        Raises:
            LogUnavailable: the stream has no leader, or no replica can be read.
            ViewError: the view can't be read.
        """
        state = self.state
        first = state.position + 1
        last = min(state.last, state.position + SCRUB_RANGE_EVENTS)
        if state.seal is not None and state.position < state.seal.size < last:
            last = state.seal.size
        read = await self._read(first, last)
        expected = await self._expected(read, first, last)
        for server, records in read.items():
            self._compare(server, records, expected, first)
        known = [leaf for leaf in expected if leaf is not None]
        if len(known) == len(expected) and self._frontier.size == state.position:
            self._frontier.extend(known)
            if state.seal is not None and self._frontier.size == state.seal.size:
                root = self._frontier.root()
                self._unfit = "" if root == state.seal.root else unfit(state.seal, root, 0).message
        self.state = msgspec.structs.replace(
            state,
            position=last,
            servers=self._servers,
            frontier=self._frontier.to_bytes(),
            bad=self._bad,
            more=dict(self._more),
            unread=self._unread,
            undecided=self._undecided,
            unfit=self._unfit,
        )

    async def _read(self, first: int, last: int) -> dict[str, Mapping[int, Record]]:
        found: dict[str, Mapping[int, Record]] = {}
        replicas = await self._replicas.replicas()
        self._servers = tuple(replica.server for replica in replicas)
        for replica in replicas:
            if replica.offline or not replica.current:
                why = "its server is offline" if replica.offline else "it is catching up"
                self._unread[replica.server] = why
                continue
            try:
                found[replica.server] = await self._read_one(replica.server, first, last)
            except LogUnavailable as error:
                self._unread[replica.server] = str(error)
        if not found:
            raise LogUnavailable("no replica of the log can be read; try again")
        return found

    async def _read_one(self, server: str, first: int, last: int) -> Mapping[int, Record]:
        found: dict[int, Record] = {}
        for tries in range(1, SCRUB_READ_TRIES + 1):
            try:
                found |= await self._replicas.read_replica(server, first, last)
                if len(found) > last - first or tries > 1:
                    break  # missing twice: not a replica that lags
            except LogUnavailable:
                if tries == SCRUB_READ_TRIES:
                    raise
            await asyncio.sleep(SCRUB_RETRY_SECONDS)
        return found

    async def _expected(
        self, read: Mapping[str, Mapping[int, Record]], first: int, last: int
    ) -> list[bytes | None]:
        """Return the expected hash of each event; None where it can't be decided."""
        if self._leaves is not None:
            return [*await self._leaves.leaves(first, last)]
        expected: list[bytes | None] = []
        for sequence in range(first, last + 1):
            votes = Counter(leaf_hash(of[sequence]) for of in read.values() if sequence in of)
            leaf, count = votes.most_common(1)[0] if votes else (b"", 0)
            # A single replica with an event is right: damage does not produce a valid record. Two that differ
            # without a majority decide nothing.
            decided = count and (len(votes) == 1 or count > len(read) // 2)
            expected.append(leaf if decided else None)
            if not decided:
                _extend(self._undecided, BadRange(sequence, sequence, missing=not votes))
        return expected

    def _compare(
        self, server: str, records: Mapping[int, Record], expected: Sequence[bytes | None], first: int
    ) -> None:
        for sequence, leaf in enumerate(expected, start=first):
            record = records.get(sequence)
            if leaf is None or (record is not None and leaf_hash(record) == leaf):
                continue
            parts = parse_subject(record.subject) if record is not None else None
            bad = BadRange(
                sequence, sequence, missing=record is None, job_id=parts.job_id if parts is not None else ""
            )
            self._more[server] += not _extend(self._bad.setdefault(server, []), bad)


def _extend(ranges: list[BadRange], bad: BadRange) -> bool:
    """Append a sequence, or extend the last range by it; False if there are too many ranges."""
    if ranges and ranges[-1].last == bad.first - 1 and ranges[-1].missing == bad.missing:
        ranges[-1] = msgspec.structs.replace(ranges[-1], last=bad.last)
    elif len(ranges) < SCRUB_RANGES_MAX:
        ranges.append(bad)
    else:
        return False
    return True


def findings_of(state: ScrubState) -> list[Finding]:
    """Return the findings of a scrub."""
    found: list[Finding] = []
    for server, ranges in state.bad.items():
        for each in ranges:
            what = (
                "can't be read there: its block is damaged or lost"
                if each.missing
                else "differs from the tree or the majority"
            )
            more = f" (and {state.more[server]} more events)" if state.more.get(server) else ""
            found.append(
                Finding(
                    Kind.REPLICA,
                    f"the replica on {server or 'the only server'}: {_range(each)} {what}{more}",
                    sequence=each.first,
                    last=each.last,
                    job_id=each.job_id,
                )
            )
    for each in state.undecided:
        text = (
            f"{_range(each)} can't be read from any replica"
            if each.missing
            else f"{_range(each)} differs between the replicas, without a majority: pass a view with --view"
        )
        found.append(Finding(Kind.HOLE if each.missing else Kind.REPLICA, text, each.first, each.last))
    if state.unfit:
        found.append(Finding(Kind.UNFIT, state.unfit))
    return found


def remedy_of(state: ScrubState) -> list[str]:
    """Return the commands that replace the bad replicas, where that is safe."""
    bad = [server for server in state.servers if state.bad.get(server)]
    if not bad:
        return []
    if 2 * len(bad) >= len(state.servers):
        text = "too many replicas are bad to replace them from the others: restore the stream from a backup"
        return [f"{text} (docs/OPERATIONS.md, Backup and restore)"]
    lines: list[str] = []
    count = len(state.servers)
    for server in bad:
        lines += [
            f"to replace the replica on {server} while all others are up (docs/OPERATIONS.md, Replicas):",
            f"  1. stop nats-server on {server}",
            f"  2. nats stream edit JOBS --replicas {count - 1} (as a NATS user who may change streams)",
            f"  3. start nats-server on {server}: it drops its copy",
            f"  4. nats stream edit JOBS --replicas {count}: it copies the stream from the others",
            "  5. run `jobledger audit scrub` again",
        ]
    return lines


def _range(each: BadRange) -> str:
    return (
        f"event {each.first}"
        if each.first == each.last
        else f"each of the events {each.first} to {each.last}"
    )


def scrub_state_file(path: Path) -> StateFile[ScrubState]:
    """Return the state file of a scrub."""
    return StateFile(
        path,
        ScrubState,
        title="scrub's state file",
        remedy="delete it",
        check=lambda state: Frontier.from_bytes(state.frontier),
    )


def resumable_scrub(file: StateFile[ScrubState], origin: str) -> ScrubState | None:
    """Return the saved state of an unfinished scrub of this log; None if there is none.

    Raises:
        InvalidSettings: the file can't be used.
    """
    state = file.load()
    return None if state is None or state.origin != origin or state.done or state.format != FORMAT else state


async def run_scrub(
    scrub: Scrub,
    progress: Progress,
    *,
    seconds: float | None = None,
    file: StateFile[ScrubState] | None = None,
) -> ScrubState:
    """Compare to the end, or for a time; the state is saved after each range.

    Raises:
        LogUnavailable: as `Scrub.step`; the progress is saved.
    """
    deadline = time.monotonic() + seconds if seconds is not None else None
    while not scrub.state.done:
        await scrub.step()
        progress(SCRUBBING, scrub.state.position, scrub.state.last)
        if file is not None:
            file.save(scrub.state)
        if deadline is not None and time.monotonic() >= deadline:
            break
    return scrub.state


async def scrub_log(
    settings: Settings,
    keys: Sequence[VerifierKey],
    progress: Progress,
    *,
    view: Path | None,
    state_file: Path | None,
    seconds: float | None,
) -> ScrubState:
    """Compare every replica of a log with the tree.

    Args:
        settings: for the connection to the log.
        keys: trusted to sign seals; without any, no seal is compared.
        progress: reports progress.
        view: a view with the tree; None: the majority of the replicas decides.
        state_file: where the progress is saved; None: nowhere.
        seconds: time limit; None: to the end.

    Raises:
        InvalidSettings: the state file can't be used.
        LogUnavailable: the log can't be reached.
        ViewError: the view can't be used, or is of another log.
    """
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(settings))
        info = await log.info()
        tag = stream_tag(info.epoch)
        last, tree = info.last_sequence, None
        if view is not None:
            opened = await stack.enter_async_context(await View.open(view, readers=1))
            last, tree = min(last, await _tree_size(opened, view, info.epoch)), TreeReader(opened)
        file = scrub_state_file(state_file) if state_file is not None else None
        state = resumable_scrub(file, origin_of(tag)) if file is not None else None
        if state is None or (view is not None and state.last > last):
            seal = await _newest_seal(await log.seals(tag), keys, origin_of(tag), last) if keys else None
            state = ScrubState(origin=origin_of(tag), last=last, seal=seal)
        return await run_scrub(Scrub(log, state, tree), progress, seconds=seconds, file=file)


async def _tree_size(opened: View, path: Path, epoch: str) -> int:
    place = await opened.checkpoint()
    if place.epoch and place.epoch != epoch:
        raise ViewError(f"the view {path} is of another log (epoch {place.epoch}; this log: {epoch})")
    return (await TreeReader(opened).state()).size


async def _newest_seal(
    seals: KeyHistory, keys: Sequence[VerifierKey], origin: str, last: int
) -> SealedTree | None:
    for record in await newest_seals(seals, before=0, limit=PROOF_SEALS_MAX):
        seal = judge_seal(f"seal {record.sequence}", record.payload, keys, origin)
        if isinstance(seal, SealedTree) and 0 < seal.size <= last:
            return seal
    return None
