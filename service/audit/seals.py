"""Where seals are published and kept: pages and sources of seals, and the seal file.

The seal file is the service's own copy, which an administrator of the NATS server can't change. It contains
the notes one after the other, each followed by an empty line, as plain text.
"""

import asyncio
import io
import os
import re
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from jobledger.projections.errors import ProofError
from jobledger.service.audit.log_pass import SealedTree
from jobledger.service.audit.model.checkpoint import Seal, open_seal, read_seal
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.model.note import VerifierKey
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
# The last signature of a note, and the empty line after it.
_NOTE_END: Final = re.compile(rb"^\xe2\x80\x94 [^\n]*\n\n", re.MULTILINE)


def split_notes(text: str) -> Iterator[str]:
    """Yield the notes of a text, and skip everything else.

    A note is non-empty lines, an empty line, and signature lines. The text is scanned once, line by line, so
    that a writer of the file can't block the service with it.
    """
    above: list[str] = []  # lines since the last empty one
    body: list[str] = []  # such lines, followed by an empty one
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
    """The seal file; the first seal creates it. Every method raises InvalidSettings if it can't be used."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def last(self, origin: str) -> Seal | None:
        """Return the last complete seal of an origin; None if there is none."""
        return self.newest().get(origin)

    def newest(self) -> dict[str, Seal]:
        """Return the last complete seal of each origin in the last SEALS_FILE_TAIL_BYTES of the file."""
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
            except ProofError:  # written incompletely, or by another program
                continue
            found[seal.origin] = seal
        return found

    def add(self, seal: Seal) -> None:
        """Append a seal, and sync it to disk."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            with os.fdopen(os.open(self.path, flags, FILE_MODE), "r+b") as file:
                tighten(self.path)  # older releases made it readable by all users
                file.write(_repair_end(file, seal.origin) + seal.note.encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise self._failed("can't be written", error) from error

    def _failed(self, what: str, error: OSError) -> InvalidSettings:
        return InvalidSettings(f"the seal file {self.path} {what}: {error.strerror or type(error).__name__}")


def _repair_end(file: BinaryIO, origin: str) -> bytes:
    """Repair the end of the file; returns the bytes to write before the next note.

    An incomplete note, left by a crash, is cut off: the stream of seals has the complete one. Text by others
    stays, separated from the next note.
    """
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - SEALS_FILE_TAIL_BYTES))
    tail = file.read()
    end = max((found.end() for found in _NOTE_END.finditer(tail)), default=0)
    rest = tail[end:].rstrip(b"\0")  # after a power loss, zeros may replace unwritten data
    ours = f"{origin}\n".encode()
    if (end or not start) and (rest.startswith(ours) or ours.startswith(rest)):
        is_whole = _is_note(rest)  # only its empty line is missing
        file.truncate(start + end + (len(rest) if is_whole else 0))
        file.seek(0, os.SEEK_END)
        return b"\n" if is_whole else b""
    # The next note must not look like the rest of that text, nor half a signature like a complete one, which
    # never ends with a space.
    return b" \n\n" if tail and not tail.endswith(b"\n\n") else b""


def _is_note(text: bytes) -> bool:
    try:
        read_seal(text)
    except ProofError:
        return False
    return True


Source = AsyncIterator[SealedTree | Finding]


def judge_seal(name: str, note: bytes, keys: Sequence[VerifierKey], origin: str) -> SealedTree | Finding:
    """Verify a seal; returns its tree, or a finding.

    Args:
        name: for messages.
        note: the text of the seal.
        keys: trusted to sign it.
        origin: the log that it must be of.
    """
    try:
        unverified = read_seal(note)
    except ProofError as error:
        return Finding(Kind.DAMAGED, f"{name} can't be read: {error}")
    try:
        seal = open_seal(note, keys)
    except ProofError as error:
        text = f"{name} (of {unverified.size} events) is not signed by a known key: {error}"
        return Finding(Kind.UNKNOWN_KEY, text, sequence=unverified.size)
    if seal.origin != origin:
        text = (
            f"{name} is of the log {seal.origin!r:.200}, but this one is {origin}: the stream was deleted and"
            " created again, or the seal is of another installation"
        )
        return Finding(Kind.REPLACED, text, sequence=seal.size)
    return SealedTree(name, seal.size, seal.root)


async def published_seals(store: KeyHistory, keys: Sequence[VerifierKey], origin: str) -> Source:
    """Yield the seals that were on the stream when this started."""
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
        await asyncio.sleep(AUDIT_READ_WAIT_SECONDS)  # a lagging replica answered
    return ()


async def seals_in_file(path: Path, keys: Sequence[VerifierKey], origin: str) -> Source:
    """Yield the seals of a file, such as the seal file of a service."""
    others: dict[str, Finding] = {}
    succeeded: set[str] = set()
    for number, note in enumerate(notes_in(path), start=1):
        if not note.endswith("\n"):  # the last one
            text = (
                f"the last seal of {path.name} is incomplete, as after a power loss: the service repairs its"
                " file with the next seal; make one with `jobledger audit seal`"
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
        if other not in succeeded:  # no seal by a trusted key confirms the replacement
            yield finding


def notes_in(path: Path) -> Iterator[str]:
    """Yield the notes of a file of any size, one in memory at a time.

    Raises:
        InvalidInput: the file can't be read, or contains something that is not a seal.
    """
    lines: list[str] = []
    size = 0
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
            while line := file.readline(NOTE_MAX_BYTES):
                if line == "\n" and lines and lines[-1].startswith(_SIGNATURE):  # the end of a note
                    yield from _note_at_end(lines)
                    lines, size = [], 0
                    continue
                lines.append(line)
                size += len(line)
                if size > 2 * NOTE_MAX_BYTES:
                    raise InvalidInput(f"{path} contains something that is not a seal: no note is that long")
    except OSError as error:
        raise InvalidInput(f"the seal file {path} can't be read: {error.strerror}") from error
    yield from _note_at_end(lines)


def _note_at_end(lines: list[str]) -> Iterator[str]:
    """Yield the note at the end of the lines, if there is one."""
    end = len(lines)
    while end and lines[end - 1].startswith(_SIGNATURE):
        end -= 1
    start = end - 1  # of the empty line, then of the text
    while start > 0 and lines[start - 1] != "\n":
        start -= 1
    if end < len(lines) and 0 <= start < end - 1 and lines[end - 1] == "\n":
        yield "".join(lines[start:])


class MergedSeals:
    """Merges several sources in the order of sizes; a `SealSource`."""

    def __init__(self, sources: Iterable[Source]) -> None:
        self._sources = list(sources)
        self._heads: list[SealedTree | Finding | None] | None = None

    async def next(self) -> SealedTree | Finding | None:
        """See `SealSource.next`."""
        if self._heads is None:
            self._heads = [await _next(source) for source in self._sources]
        there = [(_size(head), at) for at, head in enumerate(self._heads) if head is not None]
        if not there:
            return None
        _, at = min(there)
        found = self._heads[at]
        self._heads[at] = await _next(self._sources[at])
        return found


async def _next(source: Source) -> SealedTree | Finding | None:
    async for found in source:
        return found
    return None


def _size(head: SealedTree | Finding) -> int:
    return head.size if isinstance(head, SealedTree) else -1


class SealList:
    """Seals in memory; a `SealSource`."""

    def __init__(self, seals: Iterable[SealedTree]) -> None:
        self._seals = iter(seals)

    async def next(self) -> SealedTree | Finding | None:
        """See `SealSource.next`."""
        return next(self._seals, None)


async def newest_seals(seals: KeyHistory, *, before: int, limit: int) -> list[Record]:
    """Return the newest seals of a stream, newest first.

    Args:
        seals: the stream.
        before: only those before this sequence; 0: all.
        limit: the maximum number.

    Raises:
        LogUnavailable: the server can't be reached.
    """
    last = await seals.last()
    oldest = await seals.read() if last is not None else ()
    if last is None or not oldest:
        return []
    end = min(before - 1, last.sequence) if before else last.sequence
    found: list[Record] = []
    # Seals of other epochs of the log may be in between, so a step may return fewer than its length.
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
