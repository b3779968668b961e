"""The audit of an installation by a reader of its log: the log, the seals and the view together.

The view is compared row by row with a fresh fold of the log by the ordinary projector:

    checkpoint C ──► fold 1…C into a scratch file ──► snapshot of the view at C' ──► fold to C' ──► compare

The long fold comes first, so that the snapshot, which blocks SQLite's checkpoints, is short.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, cast

import msgspec

from jobledger.projections.database import Reader
from jobledger.projections.errors import ViewDamaged, ViewError, WaitTimeout
from jobledger.projections.projector import Projector
from jobledger.projections.view import View
from jobledger.projections.view_diff import compare_views, first_changed_event, tree_is_equal
from jobledger.projections.writer import PROJECTION_VERSION
from jobledger.service.audit.log_check import LogReport, check_log
from jobledger.service.audit.log_pass import Progress, wait_continues
from jobledger.service.audit.model.checkpoint import origin_of
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.audit.seals import MergedSeals, published_seals, seals_in_file
from jobledger.service.cursor import stream_tag
from jobledger.service.limits import AUDIT_FOLD_TIMEOUT_SECONDS
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.log import EventLog, LogInfo, LogReader
from jobledger.store.model.errors import LogBroken, LogTruncated
from jobledger.store.model.events import Record
from jobledger.store.model.subjects import parse_subject

FOLDING: Final = "folding the log"
COMPARING: Final = "comparing the view"
_CHECKPOINT: Final = "SELECT epoch, sequence, projection, tree_size FROM checkpoint"


async def check_view(
    log: EventLog, path: Path, progress: Progress, *, scratch: Path | None = None
) -> list[Finding]:
    """Compare a view with a fresh fold of the log.

    Args:
        log: to fold.
        path: of the view; a service may be running on it.
        progress: reports progress.
        scratch: a directory with space for a second view; None: the one for temporary files.

    Raises:
        ViewError: there is no view, or another release made it.
        LogUnavailable: the log can't be reached for long.
    """
    await (await View.open(path, readers=1)).close()  # reports why if this release can't read it
    reader = await Reader.open(path)
    try:
        with tempfile.TemporaryDirectory(prefix="jobledger-audit-", dir=scratch) as folder:
            return await _compare(log, reader, Path(folder) / "fresh.sqlite", progress)
    except ViewDamaged as error:
        return [Finding(Kind.DAMAGED, str(error))]
    except LogBroken as error:  # while folding: records are missing
        return [Finding(Kind.HOLE, str(error))]
    except WaitTimeout as error:
        text = (
            f"the log can't be folded, so the view was not compared: no event arrived for"
            f" {AUDIT_FOLD_TIMEOUT_SECONDS:g} s ({error})"
        )
        return [Finding(Kind.HOLE, text)]
    finally:
        await reader.close()


async def _compare(log: EventLog, reader: Reader, fresh_path: Path, progress: Progress) -> list[Finding]:
    problem, sequence = await _place(log, reader)
    if problem is not None:
        return [problem]
    await _fold(log, fresh_path, sequence, progress)
    async with _snapshot(reader):
        problem, sequence = await _place(log, reader)
        if problem is not None:
            return [problem]
        await _fold(log, fresh_path, sequence, progress)
        progress(COMPARING, 0, 0)
        fresh = await Reader.open(fresh_path)
        try:
            return await _differences(log, reader, fresh)
        finally:
            await fresh.close()


async def _place(log: EventLog, reader: Reader) -> tuple[Finding | None, int]:
    """Return a finding if the view is of another log or ahead of it, and the view's sequence."""
    [(epoch, sequence, projection, _)] = await reader.rows(_CHECKPOINT)
    info = await log.info()  # after the view was read, which a service may advance
    if projection != PROJECTION_VERSION:
        raise ViewError(
            f"another release made the rows of the view {reader.path} (projection {projection}, this release:"
            f" {PROJECTION_VERSION}): audit it with that release, or let a service of this release rebuild it"
        )
    if epoch and epoch != info.epoch:
        text = (
            f"the view was made from a stream with the epoch {epoch}, but that of the stream is {info.epoch}:"
            " it was deleted and created again"
        )
        return Finding(Kind.REPLACED, text), sequence
    try:
        if sequence > info.last_sequence:
            await wait_continues(log, epoch=info.epoch, after=sequence)
    except LogTruncated:
        info = await log.info()
        text = (
            f"the view has folded event {sequence}, but the log ends at {info.last_sequence}: the events from"
            f" {info.last_sequence + 1} on are missing"
        )
        return Finding(Kind.TRUNCATION, text, sequence=info.last_sequence + 1), sequence
    if sequence and await log.read_at(sequence) is None:
        text = f"the view has folded event {sequence}, but it is missing from the log"
        return Finding(Kind.HOLE, text, sequence=sequence), sequence
    return None, sequence


async def _differences(log: EventLog, reader: Reader, fresh: Reader) -> list[Finding]:
    findings: list[Finding] = []
    [(_, _, _, tree_size)] = await reader.rows(_CHECKPOINT)
    changed = await first_changed_event(reader, fresh) if tree_size else 0
    if changed:
        job = await _job_at(log, changed)
        of_job = f" (of job {job})" if job else ""
        text = (
            f"event {changed}{of_job} differs from the one that the view has folded: the log or the view's"
            " tree was changed there"
        )
        findings.append(Finding(Kind.REWRITE, text, sequence=changed, job_id=job))
    for each in await compare_views(reader, fresh):
        column = f"{each.table}.{each.column}" if each.column else each.table
        findings.append(Finding(Kind.VIEW, str(each), job_id=each.job_id, column=column))
    if tree_size and not changed and not await tree_is_equal(reader, fresh):
        findings.append(Finding(Kind.TREE, "the tree in the view differs from that of the log"))
    [(sound,)] = await reader.rows("PRAGMA integrity_check(1)")
    if sound != "ok":
        findings.append(Finding(Kind.DAMAGED, f"the view's file is damaged: {sound}"))
    return findings


async def _job_at(log: EventLog, sequence: int) -> str:
    record = await log.read_at(sequence)
    parts = parse_subject(record.subject) if record is not None else None
    return parts.job_id if parts is not None else ""


@asynccontextmanager
async def _snapshot(reader: Reader) -> AsyncIterator[None]:
    await reader.rows("BEGIN")
    try:
        yield
    finally:
        await reader.rows("ROLLBACK")


async def _fold(log: EventLog, path: Path, up_to: int, progress: Progress) -> None:
    """Fold into a file up to a sequence, with the ordinary projector."""
    async with Projector(cast("EventLog", _UpTo(log, up_to)), path) as projector:
        while projector.sequence < up_to:
            await projector.wait_for(projector.sequence + 1, AUDIT_FOLD_TIMEOUT_SECONDS)
            progress(FOLDING, projector.sequence, up_to)


class _UpTo:
    """A log truncated at a sequence, as far as a projector needs it."""

    def __init__(self, log: EventLog, last: int) -> None:
        self._log = log
        self._last = last

    async def info(self) -> LogInfo:
        info = await self._log.info()
        return LogInfo(info.epoch, info.first_sequence, min(info.last_sequence, self._last))

    async def continues(
        self, *, epoch: str | None, after: int, same: Callable[[Record], bool] | None = None
    ) -> LogInfo:
        info = await self._log.continues(epoch=epoch, after=after, same=same)
        return LogInfo(info.epoch, info.first_sequence, min(info.last_sequence, self._last))

    async def follow(self, *, after: int, epoch: str | None = None) -> LogReader:
        return cast(
            "LogReader", _ReaderUpTo(await self._log.follow(after=after, epoch=epoch), self._last, after)
        )


class _ReaderUpTo:
    def __init__(self, reader: LogReader, last: int, after: int) -> None:
        self._reader = reader
        self._last = last
        self._reached = after

    async def take(self, max_records: int) -> Sequence[Record]:
        if self._reached < self._last:
            records = await self._reader.take(max_records)
            self._reached = records[-1].sequence
            if self._reached > self._last:
                records = [record for record in records if record.sequence <= self._last]
            if records:
                return records
        await asyncio.Event().wait()  # forever: there are no more events, and the projector is stopped
        raise AssertionError

    @property
    def connected(self) -> bool:
        return self._reader.connected

    async def close(self) -> None:
        await self._reader.close()


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an audit.

    Attributes:
        origin: of the log.
        log: the report about log and seals.
        view: findings about the view; None if it was not examined.
    """

    origin: str
    log: LogReport
    view: tuple[Finding, ...] | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings, the most specific first: those about the view name an exact place."""
        return (*(self.view or ()), *self.log.findings)


async def verify(
    log: JetStreamLog,
    keys: Sequence[VerifierKey],
    progress: Progress,
    *,
    seal_files: Sequence[Path] = (),
    view: Path | None = None,
    scratch: Path | None = None,
) -> Verification:
    """Audit a log, its seals and a view.

    Args:
        log: to read from its first event to its last.
        keys: trusted to sign seals.
        progress: reports progress.
        seal_files: with seals in addition to the published ones.
        view: to compare with a fresh fold of the log; None: none.
        scratch: a directory for that fold.

    Raises:
        InvalidInput: a file of seals can't be read.
        LogUnavailable: the log does not answer for long.
        ViewError: the view does not exist, or another release made it.
    """
    tag = stream_tag((await log.info()).epoch)
    origin = origin_of(tag)
    sources = [published_seals(await log.seals(tag), keys, origin)]
    sources += [seals_in_file(path, keys, origin) for path in seal_files]
    report = await check_log(log, MergedSeals(sources), progress)
    found = None if view is None else tuple(await check_view(log, view, progress, scratch=scratch))
    return Verification(origin=origin, log=report, view=found)
