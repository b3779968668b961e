"""The record of the streams in a data directory, and other evidence there that a stream existed.

`log.json` lists every stream that the service has used, with its creation time and last sequence. nats-server
does not write it, so it survives a stream that nats-server deletes during recovery. The view, the seals and
directories that nats-server did not load are weaker evidence.

The record is compared with the streams before a service uses them: a stream with another creation time is
another stream (for example the directory of another ledger), and a shorter one has lost its end.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from jobledger.projections.errors import ViewError
from jobledger.projections.view import View
from jobledger.service.audit.sealer import SEALS_FILE
from jobledger.service.audit.seals import SealFile
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import STREAM_RECORD_SECONDS
from jobledger.store.disk_space import cause_of
from jobledger.store.embedded.proof import Known
from jobledger.store.jetstream.declarations import LOG, STREAMS, StreamDeclaration
from jobledger.store.jetstream.stream import StreamReport
from jobledger.store.model.errors import LogReplaced, LogTruncated
from jobledger.store.model.limits import TRUNCATION_GIVE_UP_SECONDS, TRUNCATION_POLL_SECONDS
from jobledger.store.model.subjects import STREAM_NAME
from jobledger.store.model.truncation import Doubts, LogPosition
from jobledger.store.private_files import read_trusted, replace_file
from jobledger.store.timestamps import format_rfc3339

RECORD_FILE: Final = "log.json"
_FORMAT: Final = 1
_PLACE: Final[LogPosition] = (None, 0)  # the doubts about a stream are about its recorded end alone

_log = logging.getLogger("jobledger.service")


class SeenStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream at the time of the record.

    Attributes:
        created: when nats-server created it: its epoch.
        last_sequence: of its last message.
        seen: time of the record, RFC 3339.
    """

    created: str
    last_sequence: int
    seen: str


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of the file."""

    format: int
    streams: dict[str, SeenStream]


class Verified(NamedTuple):
    """The verified streams, and whether the record contained the log (False at the first start)."""

    streams: tuple[StreamReport, ...]
    was_recorded: bool


class StreamRecord:
    """The file `log.json` of a data directory.

    Args:
        path: of the file.
        clock: Unix nanoseconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._streams: dict[str, SeenStream] = {}
        self._written_at = float("-inf")

    def read(self) -> Mapping[str, SeenStream]:
        """Return the recorded streams by name; empty if there is no file.

        Raises:
            InvalidSettings: it can't be read, or is damaged.
        """
        try:
            document = msgspec.json.decode(read_trusted(self.path), type=_Document)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise InvalidSettings(f"the record of streams {self.path} can't be read: {error}") from error
        if document.format != _FORMAT:
            raise InvalidSettings(
                f"the record of streams {self.path} has format {document.format}; this release reads"
                f" {_FORMAT}"
            )
        return document.streams

    def differences(self, reports: Iterable[StreamReport]) -> list[LogReplaced | LogTruncated]:
        """Return how the streams differ from the record; missing streams are not included.

        A record that can't be read is logged and ignored: `replace` writes a new one.
        """
        try:
            recorded = self.read()
        except InvalidSettings as error:
            _log.warning("%s; the streams are not compared with it, and it is replaced", error)
            return []
        found: list[LogReplaced | LogTruncated] = []
        for each in reports:
            seen, declaration = recorded.get(each.name), _declaration(each.name)
            if seen is None or declaration is None or not declaration.keeps_records:
                continue
            if seen.created != each.created:
                found.append(self._replaced(each, seen, declaration))
            elif each.last_sequence < seen.last_sequence:
                found.append(self._truncated(each, seen, declaration))
        return found

    async def verify(self, report: Callable[[], Awaitable[Sequence[StreamReport]]]) -> Verified:
        """Check that the streams are the recorded ones, and not shorter.

        A server that lags reports too little, so a stream that seems shorter is checked again until one
        current leader has reported it for TRUNCATION_PROOF_SECONDS.

        Args:
            report: requests the streams from the server.

        Raises:
            LogBehind: no verdict within TRUNCATION_GIVE_UP_SECONDS.
            LogReplaced: a stream has another creation time.
            LogTruncated: a stream ends earlier.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + TRUNCATION_GIVE_UP_SECONDS
        doubts: dict[str, Doubts] = {}
        while found := self.differences(reports := await report()):
            for each in found:
                if isinstance(each, LogReplaced):
                    raise each
            leaders = {each.name: each.leader for each in reports}
            doubts = {each.stream: doubts.get(each.stream) or Doubts(clock) for each in found}
            for each in found:
                if doubts[each.stream].judge(_PLACE, leaders[each.stream]):
                    raise each
            if clock() >= deadline:
                raise doubts[found[0].stream].behind(_PLACE, found[0].difference.rpartition(":")[0])
            await asyncio.sleep(TRUNCATION_POLL_SECONDS)
        with suppress(InvalidSettings):
            return Verified(tuple(reports), LOG.name(STREAM_NAME) in self.read())
        return Verified(tuple(reports), was_recorded=False)

    def _replaced(self, now: StreamReport, seen: SeenStream, declaration: StreamDeclaration) -> LogReplaced:
        difference = (
            f"the stream {now.name} is not the one recorded in {self.path}: recorded as created"
            f" {seen.created} with last sequence {seen.last_sequence}, now created {now.created} with last"
            f" sequence {now.last_sequence}"
        )
        message = f"{difference}. {_remedy(declaration)}"
        return LogReplaced(message, stream=now.name, difference=difference)

    def _truncated(self, now: StreamReport, seen: SeenStream, declaration: StreamDeclaration) -> LogTruncated:
        difference = (
            f"the stream {now.name} ends at {now.last_sequence}, but {self.path} recorded"
            f" {seen.last_sequence} at {seen.seen}: its end is lost"
        )
        message = f"{difference}. {_remedy(declaration)}"
        return LogTruncated(message, stream=now.name, difference=difference)

    def replace(self, reports: Iterable[StreamReport]) -> None:
        """Record the streams, durably.

        Raises:
            InvalidSettings: the file can't be written.
        """
        now = format_rfc3339(self._clock())
        self._streams = {
            each.name: SeenStream(created=each.created, last_sequence=each.last_sequence, seen=now)
            for each in reports
        }
        self._write()

    async def update(self, name: str, last_sequence: int) -> None:
        """Record the last sequence of a stream if it rose, at most every STREAM_RECORD_SECONDS.

        A write error is logged; the older record stays valid.
        """
        clock = asyncio.get_running_loop().time
        known = self._streams.get(name)
        if known is None or last_sequence <= known.last_sequence:
            return
        if clock() - self._written_at < STREAM_RECORD_SECONDS:
            return
        self._written_at = clock()
        self._streams[name] = SeenStream(
            created=known.created, last_sequence=last_sequence, seen=format_rfc3339(self._clock())
        )
        try:
            await asyncio.to_thread(self._write)
        except InvalidSettings as error:
            _log.warning("%s", error)

    def _write(self) -> None:
        content = msgspec.json.format(msgspec.json.encode(_Document(_FORMAT, self._streams)), indent=1)
        try:
            replace_file(self.path, lambda: content)
        except OSError as error:
            raise InvalidSettings(
                f"the record of streams {self.path} can't be written: {cause_of(error, self.path.parent)}"
            ) from error


def _declaration(name: str) -> StreamDeclaration | None:
    return next((each for each in STREAMS if each.name(STREAM_NAME) == name), None)


def _remedy(declaration: StreamDeclaration) -> str:
    return (
        "Use the right data directory or NATS servers; or restore the stream from a backup"
        f" (docs/OPERATIONS.md); or continue without the missing part of {declaration.description}, with"
        " `jobledger streams create --accept-loss`"
    )


def evidence_in(data_dir: Path, *, store: Path, view: Path) -> Callable[[str], Awaitable[list[str]]]:
    """Return the function that lists the evidence in a data directory that a stream existed.

    Args:
        data_dir: of the service.
        store: the directory of the embedded server.
        view: the view's file.
    """

    async def evidence(name: str) -> list[str]:
        found = [*_recorded(StreamRecord(data_dir / RECORD_FILE), name), *_left_over(store, name)]
        if name == LOG.name(STREAM_NAME):
            found += await _viewed(view)
            found += _sealed(SealFile(data_dir / SEALS_FILE))
        return found

    return evidence


async def known_in(data_dir: Path, *, view: Path) -> dict[str, Known]:
    """Return how far the record and the view of a data directory have seen each stream."""
    known: dict[str, Known] = {}
    with suppress(InvalidSettings):  # reported when the streams are opened
        seen = StreamRecord(data_dir / RECORD_FILE).read()
        known = {name: Known(created=each.created, last=each.last_sequence) for name, each in seen.items()}
    with suppress(ViewError):
        async with await View.open(view, readers=1) as opened:
            checkpoint = await opened.checkpoint()
        facts = known.get(LOG.name(STREAM_NAME))
        if facts is None or (checkpoint.epoch == facts.created and checkpoint.sequence > facts.last):
            known[LOG.name(STREAM_NAME)] = Known(created=checkpoint.epoch, last=checkpoint.sequence)
    return known


def _recorded(record: StreamRecord, name: str) -> Iterable[str]:
    try:
        seen = record.read().get(name)
    except InvalidSettings as error:
        yield f"{error}, but a service wrote it"
        return
    if seen is not None:
        yield (
            f"{record.path} recorded it at {seen.seen}: created {seen.created}, last sequence"
            f" {seen.last_sequence}"
        )


def _left_over(store: Path, name: str) -> Iterable[str]:
    for directory in sorted(store.glob(f"jetstream/*/streams/{name}")):
        blocks = [each.stat().st_size for each in directory.glob("msgs/*.blk")]
        yield (
            f"{directory} still exists with {len(blocks)} blocks of {sum(blocks)} bytes, but nats-server did"
            f" not load it (its reason is in {store / 'nats.log'})"
        )


async def _viewed(path: Path) -> Iterable[str]:
    if not path.exists():
        return []
    try:
        async with await View.open(path) as view:
            checkpoint = await view.checkpoint()
    except ViewError:
        return []
    if not checkpoint.sequence:
        return []
    return [f"the view {path} was made from {checkpoint.sequence} events"]


def _sealed(file: SealFile) -> Iterable[str]:
    try:
        seals = file.newest().values()
    except InvalidSettings:
        return []
    return [f"the last seal of {each.origin} in {file.path} covers {each.size} events" for each in seals]
