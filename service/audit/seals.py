"""The file of seals: a copy in the service's own hands, which whoever has the log's server can't change.

Notes, one after the other, each followed by an empty line: to be read, copied and mailed as it is.
"""

import asyncio
import io
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from jobledger.projections.errors import ProofError
from jobledger.service.audit.checkpoint import Seal, open_seal, read_seal
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.log_check import SealedTree
from jobledger.service.audit.note import VerifierKey
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import (
    AUDIT_READ_MAX_TRIES,
    AUDIT_READ_WAIT_SECONDS,
    NOTE_MAX_BYTES,
    SEALS_FILE_TAIL_BYTES,
)
from jobledger.store.kv import KeyHistory
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.private_files import FILE_MODE, tighten

_SIGNATURE: Final = "\N{EM DASH} "
_NOTE_END: Final = re.compile(
    rb"^\xe2\x80\x94 [^\n]*\n\n", re.MULTILINE
)  # the last signature, and its empty line


def split_notes(text: str) -> Iterator[str]:
    """The notes of a text with several, one after the other; what is none is passed over.

    A note is lines that are not empty, an empty one, and lines of signatures. The text is gone through once,
    line by line: who can write to the file must not hold up the service with it.
    """
    above: list[str] = []  # lines since the last empty one
    body: list[str] = []  # such lines, with an empty one behind them
    signatures: list[str] = []
    for line in io.StringIO(text, newline="\n"):
        if body and line.startswith(_SIGNATURE) and line.endswith("\n"):
            signatures.append(line)
            continue
        if signatures:
            yield "".join((*body, "\n", *signatures))
            above, signatures = [], []
        if line == "\n":
            body, above = above, []
        else:
            body = []
            above.append(line)
    if signatures:
        yield "".join((*body, "\n", *signatures))


class SealFile:
    """A file that seals are added to; it is made when the first one comes.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def last(self, origin: str) -> Seal | None:
        """The last whole seal of this origin; None if there is none.

        Raises:
            InvalidSettings: if the file can't be read.
        """
        return self.newest().get(origin)

    def newest(self) -> dict[str, Seal]:
        """The last whole seal of each origin in the newest SEALS_FILE_TAIL_BYTES of the file.

        Raises:
            InvalidSettings: if the file can't be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - SEALS_FILE_TAIL_BYTES))
                text = file.read().decode(errors="replace")
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._failed("can't be read", error) from error
        found: dict[str, Seal] = {}
        for note in split_notes(text):
            try:
                seal = read_seal(note)
            except ProofError:  # a line that was written by half, or by somebody else
                continue
            found[seal.origin] = seal
        return found

    def add(self, seal: Seal) -> None:
        """Add a seal, and have it on disk.

        Raises:
            InvalidSettings: if the file can't be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, FILE_MODE), "r+b") as file:
                tighten(self.path)  # older releases made it readable for all
                file.write(_mend_end(file, seal.origin) + seal.note.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed("can't be written", error) from error

    def _failed(self, what: str, error: OSError) -> InvalidSettings:
        return InvalidSettings(
            f"the file of seals {self.path} {what}: {error.strerror or type(error).__name__}"
        )


def _mend_end(file: BinaryIO, origin: str) -> bytes:
    """Make an end behind which a note can be written: what to write before it.

    A crash may have left half a note there. It is cut off: the stream of seals has all of it. What somebody
    else put there stays, apart from what comes.
    """
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - SEALS_FILE_TAIL_BYTES))
    tail = file.read()
    end = max((found.end() for found in _NOTE_END.finditer(tail)), default=0)
    rest = tail[end:].rstrip(b"\0")  # after a loss of power, zeros may stand for what was not written
    ours = f"{origin}\n".encode()
    if (end or not start) and (rest.startswith(ours) or ours.startswith(rest)):
        is_whole = _is_note(rest)  # its empty line alone is missing
        file.truncate(start + end + (len(rest) if is_whole else 0))
        file.seek(0, os.SEEK_END)
        return b"\n" if is_whole else b""
    # Else what comes must not be taken for the rest of it, nor half a signature for a whole one, which never
    # ends with a space.
    return b" \n\n" if tail and not tail.endswith(b"\n\n") else b""


def _is_note(text: bytes) -> bool:
    try:
        read_seal(text)
    except ProofError:
        return False
    return True


Row = AsyncIterator[SealedTree | Finding]


def judge_seal(name: str, note: bytes, keys: Sequence[VerifierKey], origin: str) -> SealedTree | Finding:
    """A seal whose words can be counted on, or what is wrong with it.

    Args:
        name: what to call it in a message.
        note: its text.
        keys: those that are known.
        origin: of the log that it must be of.
    """
    try:
        told = read_seal(note)
    except ProofError as error:
        return Finding(Kind.DAMAGED, f"{name} can't be read: {error}")
    try:
        seal = open_seal(note, keys)
    except ProofError as error:
        text = f"{name} (of {told.size} events) is not signed by a known key: {error}"
        return Finding(Kind.UNKNOWN_KEY, text, sequence=told.size)
    if seal.origin != origin:
        text = (
            f"{name} is of the log {seal.origin!r:.200}, and this one is {origin}: the stream was deleted"
            " and made again, or the seal belongs elsewhere"
        )
        return Finding(Kind.REPLACED, text, sequence=seal.size)
    return SealedTree(name, seal.size, seal.root)


async def published(store: KeyHistory, keys: Sequence[VerifierKey], origin: str) -> Row:
    """The seals of the stream that there are when this begins."""
    last = await store.last()
    if last is None:
        return
    after = 0
    while after < last.sequence:
        page = await _page(store, after, last.sequence)
        if not page:
            text = f"the seals after {after}, up to {last.sequence}, can't be read from their stream"
            yield Finding(Kind.DAMAGED, text)
            return
        for record in page:
            yield judge_seal(f"seal {record.sequence}", record.payload, keys, origin)
        after = page[-1].sequence


async def _page(store: KeyHistory, after: int, last: int) -> Sequence[Record]:
    for _ in range(AUDIT_READ_MAX_TRIES):
        page = await store.read(after=after, up_to=last)
        if page:
            return page
        await asyncio.sleep(AUDIT_READ_WAIT_SECONDS)  # a replica that lags answered
    return ()


async def kept(path: Path, keys: Sequence[VerifierKey], origin: str) -> Row:
    """The seals of a file, such as the one that a service keeps."""
    others: dict[str, Finding] = {}
    succeeded: set[str] = set()
    for number, note in enumerate(notes_in(path), start=1):
        if not note.endswith("\n"):  # none follows it
            text = (
                f"the last seal of {path.name} was written by half, as a loss of power leaves it: the service"
                " mends its file with the next seal; `jobledger audit seal` makes one"
            )
            yield Finding(Kind.DAMAGED, text)
            return
        found = judge_seal(f"seal {number} of {path.name}", note.encode(), keys, origin)
        if isinstance(found, Finding) and found.kind is Kind.REPLACED:
            others.setdefault(read_seal(note).origin, found)
            continue
        if isinstance(found, SealedTree):
            succeeded |= {*open_seal(note, keys).succeeds}
        yield found
    for other, finding in others.items():
        if other not in succeeded:  # else an operator confirmed, under a trusted key, that it was replaced
            yield finding


def notes_in(path: Path) -> Iterator[str]:
    """The notes of a file with any number of them, one in memory at a time.

    Raises:
        InvalidInput: if the file can't be read, or holds something that is no seal.
    """
    lines: list[str] = []
    size = 0
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            while line := file.readline(NOTE_MAX_BYTES):
                if line == "\n" and lines and lines[-1].startswith(_SIGNATURE):  # that ends a note
                    yield from _note_at_end(lines)
                    lines, size = [], 0
                    continue
                lines.append(line)
                size += len(line)
                if size > 2 * NOTE_MAX_BYTES:
                    raise InvalidInput(f"{path} holds something that is no seal: no note is that long")
    except OSError as error:
        raise InvalidInput(f"the file of seals {path} can't be read: {error.strerror}") from error
    yield from _note_at_end(lines)


def _note_at_end(lines: list[str]) -> Iterator[str]:
    """The note that lines end with, if they do: signatures, an empty line, and text without empty lines."""
    end = len(lines)
    while end and lines[end - 1].startswith(_SIGNATURE):
        end -= 1
    start = end - 1  # of the empty line, then of the text
    while start > 0 and lines[start - 1] != "\n":
        start -= 1
    if end < len(lines) and 0 <= start < end - 1 and lines[end - 1] == "\n":
        yield "".join(lines[start:])


class MergedSeals:
    """Several rows as one, in the order of sizes."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = list(rows)
        self._heads: list[SealedTree | Finding | None] | None = None

    async def next(self) -> SealedTree | Finding | None:
        """See `Seals.next`."""
        if self._heads is None:
            self._heads = [await _next(row) for row in self._rows]
        there = [(_size(head), at) for at, head in enumerate(self._heads) if head is not None]
        if not there:
            return None
        _, at = min(there)
        found = self._heads[at]
        self._heads[at] = await _next(self._rows[at])
        return found


async def _next(row: Row) -> SealedTree | Finding | None:
    async for found in row:
        return found
    return None


def _size(head: SealedTree | Finding) -> int:
    return head.size if isinstance(head, SealedTree) else -1


class Given:
    """Seals that are at hand."""

    def __init__(self, seals: Iterable[SealedTree]) -> None:
        self._seals = iter(seals)

    async def next(self) -> SealedTree | Finding | None:
        """See `Seals.next`."""
        return next(self._seals, None)


async def newest_seals(seals: KeyHistory, *, before: int, limit: int) -> list[Record]:
    """The newest seals before a sequence of their stream.

    Args:
        seals: where they are published.
        before: only those before this sequence; 0: from the newest on.
        limit: how many at most.

    Raises:
        LogUnavailable: if the server can't be reached.
    """
    last = await seals.last()
    oldest = await seals.read() if last is not None else ()
    if last is None or not oldest:
        return []
    end = min(before - 1, last.sequence) if before else last.sequence
    found: list[Record] = []
    # Seals of other epochs of the log may stand in between, so a step back may find fewer than it is long.
    while end >= oldest[0].sequence and len(found) < limit:
        start = max(0, end - limit)
        found += reversed(await _between(seals, start, end))
        end = start
    return found[:limit]


async def _between(seals: KeyHistory, after: int, up_to: int) -> list[Record]:
    records: list[Record] = []
    while page := await seals.read(after=after, up_to=up_to):
        records += page
        after = page[-1].sequence
    return records
