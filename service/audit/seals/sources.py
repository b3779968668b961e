"""Seals from where they are published and kept, opened with known keys, as one row that rises in size."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from jobledger.projections.errors import ProofError
from jobledger.service.audit.checkpoint import open_seal, read_seal
from jobledger.service.audit.findings import Finding, Kind
from jobledger.service.audit.log_check import SealedTree
from jobledger.service.audit.note import VerifierKey
from jobledger.service.limits import AUDIT_READ_MAX_TRIES, AUDIT_READ_WAIT_SECONDS, NOTE_MAX_BYTES
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.events import Record
from jobledger.store.seals import SealStore

Row = AsyncIterator[SealedTree | Finding]
_SIGNATURE: Final = "\N{EM DASH} "


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


async def published(store: SealStore, keys: Sequence[VerifierKey], origin: str) -> Row:
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


async def _page(store: SealStore, after: int, last: int) -> Sequence[Record]:
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
