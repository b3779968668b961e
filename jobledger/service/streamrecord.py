"""What a data directory knows of the streams: a file of its own, and what else proves that they existed.

`log.json` names every stream that the service has used, with its creation time and the last sequence that was
seen. It is outside nats-server's hands, so it outlives a stream that nats-server deletes while it recovers.
The view, the seals and directories that nats-server did not load say the same with less.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.errors import ViewError
from jobledger.projections.view import View
from jobledger.service.access.secretfiles import read_trusted, replace_file
from jobledger.service.audit.sealer import SEALS_FILE
from jobledger.service.audit.sealfile import SealFile
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import STREAM_RECORD_SECONDS
from jobledger.store.jetstream.declarations import LOG
from jobledger.store.jetstream.stream import StreamReport
from jobledger.store.subjects import STREAM_NAME
from jobledger.store.values import rfc3339

RECORD_FILE: Final = "log.json"
_FORMAT: Final = 1

_log = logging.getLogger("jobledger.service")


class SeenStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as it was seen.

    Attributes:
        created: when nats-server created it: its epoch.
        last_sequence: of its last message.
        seen: when, RFC 3339.
    """

    created: str
    last_sequence: int
    seen: str


class _Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    format: int
    streams: dict[str, SeenStream]


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
        """What the file says; empty if there is no file.

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
            raise InvalidSettings(f"the record of streams {self.path} has format {document.format}")
        return document.streams

    def replace(self, reports: Iterable[StreamReport]) -> None:
        """Write what the streams are now, durably.

        Raises:
            InvalidSettings: if the file can't be written.
        """
        now = rfc3339(self._clock())
        self._streams = {
            each.name: SeenStream(created=each.created, last_sequence=each.last_sequence, seen=now)
            for each in reports
        }
        self._write()

    async def note(self, name: str, last_sequence: int) -> None:
        """Write the last sequence of a stream if it rose, at most every STREAM_RECORD_SECONDS.

        A file that can't be written is logged: the service goes on with the older record.
        """
        clock = asyncio.get_running_loop().time
        known = self._streams.get(name)
        if known is None or last_sequence <= known.last_sequence:
            return
        if clock() - self._written_at < STREAM_RECORD_SECONDS:
            return
        self._written_at = clock()
        self._streams[name] = SeenStream(
            created=known.created, last_sequence=last_sequence, seen=rfc3339(self._clock())
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
                f"the record of streams {self.path} can't be written ({error.strerror or error})"
            ) from error


def evidence_in(data_dir: Path, *, store: Path, view: Path) -> Callable[[str], Awaitable[list[str]]]:
    """Finds what in a data directory says that a stream existed; for `JetStreamLog.connect`.

    Args:
        data_dir: of the service.
        store: the embedded server's, where it keeps stream directories.
        view: the file.
    """

    async def evidence(name: str) -> list[str]:
        found = [*_recorded(StreamRecord(data_dir / RECORD_FILE), name), *_left_over(store, name)]
        if name == LOG.name(STREAM_NAME):
            found += await _viewed(view)
            found += _sealed(SealFile(data_dir / SEALS_FILE))
        return found

    return evidence


def _recorded(record: StreamRecord, name: str) -> Iterable[str]:
    try:
        seen = record.read().get(name)
    except InvalidSettings as error:
        yield f"{error}, but a service has written it"
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
            f"{directory} is still there with {len(blocks)} blocks of {sum(blocks)} bytes, and nats-server"
            f" did not load it (its reason is in {store / 'nats.log'})"
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
