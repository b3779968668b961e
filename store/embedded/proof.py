"""Decides whether a start of nats-server lost anything: compares the files before with the streams after.

A torn write at the end of the last block is not damage: the record was never acknowledged. What is known of
the log (`Known`) and the bytes themselves (`blocks.tail_after`) distinguish the two. Pure.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from jobledger.store.model.events import Record
from jobledger.store.nats_files.blocks import Tail


class Block(msgspec.Struct, frozen=True):
    """A message block before the start.

    Attributes:
        number: of the block; its file is `<number>.blk`.
        size: in bytes.
        inode: of the file that the server works on.
        first: its first sequence; 0 if it has none.
    """

    number: int
    size: int
    inode: int
    first: int


class StreamFiles(msgspec.Struct, frozen=True):
    """A stream before the start.

    Attributes:
        folder: relative to the folder of nats-server: `<account>/streams/<name>`.
        name: of the stream.
        created: when the stream was created, as its `meta.inf` has it; empty if that cannot be read.
        keeps_all: the stream refuses deletion and has no limit that removes messages.
        begins: the sequence of the stream's first message.
        blocks: in order.
        last: the highest sequence found in the last blocks.
        records: number of messages in the blocks, if the stream's messages are replaced and do not expire; -1
            for other streams.
        expiring: the most of these that can expire, such as the marker of a deleted entry.
        meta_problem: what is wrong with `meta.inf` and `meta.sum`; empty if nothing is.
    """

    folder: str
    name: str
    created: str
    keeps_all: bool
    begins: int
    blocks: tuple[Block, ...]
    last: int
    records: int = -1
    expiring: int = 0
    meta_problem: str = ""

    @property
    def first(self) -> int:
        """The first sequence on disk; 0 without one."""
        return next((block.first for block in self.blocks if block.first), 0)


class Inventory(msgspec.Struct, frozen=True):
    """The content of a generation.

    Attributes:
        streams: each stream.
        linked: sealed blocks are hard links.
        bytes: of all blocks.
        repaired: what was repaired before the start, for the log.
    """

    streams: tuple[StreamFiles, ...]
    linked: bool = False
    bytes: int = 0
    repaired: tuple[str, ...] = ()


RANGES_SHOWN: Final = 5  # of each kind, in a message; all are in the file of the report


class Range(msgspec.Struct, frozen=True, order=True):
    """Sequences from first to last."""

    first: int
    last: int

    @property
    def count(self) -> int:
        """The number of sequences."""
        return self.last - self.first + 1

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class State(msgspec.Struct, frozen=True):
    """A stream as the started server reports it.

    Attributes:
        created: when the stream was created.
        first: its first sequence.
        last: its last sequence.
        messages: number of messages.
        holes: the missing sequences between first and last; None if they are too many to request.
    """

    created: str
    first: int
    last: int
    messages: int
    holes: tuple[Range, ...] | None = ()


class Damage(msgspec.Struct, frozen=True):
    """Something that is damaged or missing.

    Attributes:
        stream: its name.
        file: relative to nats-server's folder; empty if unknown.
        offset: in the file, in bytes; -1 if unknown.
        lost: the sequences that cannot be read; None if unknown.
        what: what is wrong.
        in_pieces: it can be given up without the rest of the stream.
        witness: the file that recorded other content, such as a view; empty if the stream itself is damaged.
    """

    stream: str
    what: str
    file: str = ""
    offset: int = -1
    lost: Range | None = None
    in_pieces: bool = True
    witness: str = ""

    def __str__(self) -> str:
        where = f"{self.file} " if self.file else ""
        where += f"at byte {self.offset} " if self.offset >= 0 else ""
        lost = f" (sequence {self.lost}: {self.lost.count} messages)" if self.lost else ""
        return f"stream {self.stream}: {where}{self.what}{lost}"


class Known(msgspec.Struct, frozen=True):
    """What is known of a stream from before the start.

    Attributes:
        created: the creation time of the stream that this is about; empty: unknown.
        last: a sequence that was acknowledged.
        accepted: holes that an operator has accepted.
        messages: the least number of messages, without those that expire.
    """

    created: str = ""
    last: int = 0
    accepted: tuple[Range, ...] = ()
    messages: int = 0


Witness = Callable[[StreamFiles, Callable[[int], Sequence[Record]]], Awaitable[Sequence[Damage]]]
"""Compares a stream with a record of its content, such as the Merkle tree of a view.

Called with the stream, and with a function that reads the messages of a block by its number (blocking). It
limits its own time, and raises nothing.
"""


def ranges_of(sequences: Iterable[int]) -> tuple[Range, ...]:
    """Combines ascending sequences into ranges."""
    found: list[Range] = []
    for sequence in sequences:
        if found and sequence == found[-1].last + 1:
            found[-1] = Range(found[-1].first, sequence)
        else:
            found.append(Range(sequence, sequence))
    return tuple(found)


def without(ranges: Iterable[Range], accepted: Sequence[Range]) -> list[Range]:
    """Returns the parts of ranges that no accepted range covers."""
    left = list(ranges)
    for excluded in accepted:
        rest: list[Range] = []
        for each in left:
            if excluded.last < each.first or each.last < excluded.first:
                rest.append(each)
                continue
            if each.first < excluded.first:
                rest.append(Range(each.first, excluded.first - 1))
            if excluded.last < each.last:
                rest.append(Range(excluded.last + 1, each.last))
        left = rest
    return left


def find_damage(
    inventory: Inventory,
    states: Mapping[str, State],
    known: Mapping[str, Known],
    sizes: Callable[[StreamFiles, int], tuple[int, int] | None],
    tail: Callable[[StreamFiles, int], tuple[str, Tail] | None],
) -> tuple[Damage, ...]:
    """Returns everything that the start lost or could not read.

    Args:
        inventory: of the files before the start.
        states: of the streams after it, by folder.
        known: what is known of each stream, by folder.
        sizes: inode and size of a block now, by its number; None if the block is missing.
        tail: the last block's name, and its content after a sequence before the start.
    """
    found: list[Damage] = []
    for stream in inventory.streams:
        state = states.get(stream.folder)
        if state is None:
            found.append(_missing(stream))
            continue
        facts = known.get(stream.folder, Known())
        if facts.created and facts.created != state.created:  # another stream of that name
            facts = Known()
        here = _truncated(stream, sizes)
        if 0 <= stream.records < facts.messages and not here:
            what = f"has {stream.records} messages, and had {facts.messages} when it was last used"
            here.append(Damage(stream.name, what, stream.folder))
        if stream.keeps_all:
            here = _holes(stream, state, facts, here)
        here += _end(stream, state, facts, tail)
        found += here
    return tuple(found)


def describe(damage: Sequence[Damage]) -> str:
    """Describes damage in a few lines."""
    lines = [f"  - {each}" for each in damage[:RANGES_SHOWN]]
    if len(damage) > RANGES_SHOWN:
        lines.append(f"  - and {len(damage) - RANGES_SHOWN} more")
    return "\n".join(lines)


def _missing(stream: StreamFiles) -> Damage:
    lost = Range(stream.first, stream.last) if 0 < stream.first <= stream.last else None
    if stream.meta_problem:
        what = f"nats-server skips it, because {stream.meta_problem}"
        return Damage(stream.name, what, f"{stream.folder}/meta.inf", lost=lost, in_pieces=False)
    what = "nats-server cannot read it, and deletes it"
    return Damage(stream.name, what, stream.folder, lost=lost, in_pieces=False)


def _truncated(
    stream: StreamFiles, sizes: Callable[[StreamFiles, int], tuple[int, int] | None]
) -> list[Damage]:
    """Blocks that the server truncated, and those that it removed from a stream that keeps everything.

    The last blocks are judged by their records: their end may be a torn write.
    """
    found: list[Damage] = []
    for block, following in pairwise(stream.blocks):
        now = sizes(stream, block.number)
        lost = Range(block.first, following.first - 1) if 0 < block.first < following.first else None
        file = block_file(stream, block.number)
        if now is None:
            if stream.keeps_all and block.size and lost:
                found.append(Damage(stream.name, "has no readable record", file, 0, lost))
        elif now[0] == block.inode and now[1] < block.size:
            found.append(Damage(stream.name, "cannot be read from there on", file, now[1], lost))
    return found


def _holes(stream: StreamFiles, state: State, facts: Known, found: list[Damage]) -> list[Damage]:
    """The missing sequences, each at the block that should contain it."""
    if state.holes is None:
        missing = state.last - state.first + 1 - state.messages
        what = f"{missing} sequences are missing between {state.first} and {state.last}"
        return found or [Damage(stream.name, what, stream.folder)]
    holes = list(state.holes)
    if state.messages and state.first > stream.begins:
        holes.insert(0, Range(stream.begins, state.first - 1))
    named: list[Damage] = []
    for hole in without(holes, facts.accepted):
        block = max((b.number for b in stream.blocks if 0 < b.first <= hole.first), default=0)
        gone = _block_after(stream, block)
        cut = next((each for each in found if each.file == block_file(stream, block)), None)
        if cut is not None:
            named.append(msgspec.structs.replace(cut, lost=hole))
        if gone:
            # If both exist, the hole belongs to the damaged block, whose later records can be read.
            lost = hole if cut is None else None
            named.append(Damage(stream.name, "is missing", block_file(stream, gone), lost=lost))
        if gone or cut is not None:
            continue
        file = block_file(stream, block) if block else stream.folder
        named.append(Damage(stream.name, "lacks messages that belong there", file, lost=hole))
    return named


def _block_after(stream: StreamFiles, before: int) -> int:
    """The number after `before`, if that block is missing and later ones are not; else 0.

    The server numbers the blocks of a stream that keeps everything from 1 on, without a gap.
    """
    numbers = {block.number for block in stream.blocks}
    return before + 1 if numbers and before < max(numbers) and before + 1 not in numbers else 0


def _end(
    stream: StreamFiles,
    state: State,
    facts: Known,
    tail: Callable[[StreamFiles, int], tuple[str, Tail] | None],
) -> list[Damage]:
    """Damage after the last sequence that the server can read."""
    after = tail(stream, state.last)
    file, offset = (after[0], after[1].offset) if after else (stream.folder, -1)
    was_complete = after is not None and not after[1].is_torn
    last = max(facts.last, stream.last if was_complete else 0)
    if last > state.last:
        return [
            Damage(stream.name, "the end is damaged or missing", file, offset, Range(state.last + 1, last))
        ]
    if was_complete:
        return [Damage(stream.name, "the last record is damaged", file, offset, None)]
    return []


def block_file(stream: StreamFiles, number: int) -> str:
    """Returns the file of a block, relative to nats-server's folder."""
    return f"{stream.folder}/msgs/{number}.blk"
