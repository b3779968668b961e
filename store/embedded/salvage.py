"""Makes a damaged log readable after an operator accepts the loss.

nats-server gives up the rest of a block after the first record that it cannot read. Here only the damaged
records are given up: the block is written without them, and their sequences stay empty. If the end of the log
is lost, a mark prevents that its sequences are used again. The damaged files are moved away, never deleted.
"""

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from jobledger.store.embedded.generation import RECOVERY_FOLDER, STORE_FOLDER, write_durably
from jobledger.store.embedded.process import lock_directory
from jobledger.store.embedded.proof import Damage, Known, Range, ranges_of
from jobledger.store.embedded.stream_states import read_known, write_damage, write_known
from jobledger.store.model.errors import EmbeddedServerError
from jobledger.store.nats_files.blocks import (
    BLOCK_SUFFIX,
    HEAD,
    INDEX_FILE,
    block_key,
    is_compressed,
    mark_of_sequence,
    records,
    sound_records,
)
from jobledger.store.private_files import tighten_all

BLOCKS_NARROWED_MAX: Final = 8  # blocks of which every record is checked for a report: a few seconds each


def narrow(store: Path, damage: Sequence[Damage]) -> tuple[Damage, ...]:
    """Limits damage to the records that really cannot be read, instead of the rest of a block after them.

    Args:
        store: nats-server's folder, with the files as found.
        damage: what a start would have lost.
    """
    found: list[Damage] = []
    for number, each in enumerate(damage):
        path = store / each.file
        if each.witness:
            found.append(each)
        elif number < BLOCKS_NARROWED_MAX and each.lost is not None and _is_readable(path):
            found += _narrow(path, each, each.lost)
        else:
            found.append(each)
    return tuple(found)


def give_up(directory: Path, damage: Sequence[Damage]) -> Path:
    """Rewrites the damaged blocks without what cannot be read, and records the holes as accepted.

    Skips damage that only a witness reports: then the witness is to be given up.

    Args:
        directory: of the embedded server, which must be stopped.
        damage: as reported by the refused start.

    Returns:
        The folder that the damaged files were moved to.

    Raises:
        EmbeddedServerInUse: a server runs there.
        EmbeddedServerError: some damage cannot be given up piece by piece.
    """
    lock = lock_directory(directory)
    try:
        return _give_up(directory, damage)
    finally:
        lock.close()


def _give_up(directory: Path, damage: Sequence[Damage]) -> Path:
    store, folder = directory / STORE_FOLDER, directory / RECOVERY_FOLDER
    damage = [each for each in damage if not each.witness]
    _refuse_hopeless(store, damage)
    backup = folder / f"given-up-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    known = read_known(folder)
    for stream in sorted({_stream_folder(each) for each in damage}):
        here = [each for each in damage if _stream_folder(each) == stream]
        for file in sorted({each.file for each in here if (store / each.file).is_file()}):
            _rewrite(store / file, backup / file)
        facts = known.get(stream, Known())
        lost = [each.lost for each in here if each.lost is not None]
        last = max([facts.last, *(each.last for each in lost)])
        _mark_end(store / stream, last)
        (store / stream / "msgs" / INDEX_FILE).unlink(missing_ok=True)
        accepted = tuple(sorted({*facts.accepted, *lost}))
        known[stream] = msgspec.structs.replace(facts, last=last, accepted=accepted, messages=0)
    write_known(folder, known)
    write_damage(folder, ())
    tighten_all([folder])
    return backup


def _refuse_hopeless(store: Path, damage: Iterable[Damage]) -> None:
    for each in damage:
        path = store / each.file
        if not each.in_pieces:
            raise EmbeddedServerError(
                f"{each}: this cannot be given up piece by piece; restore a backup, or give up the whole"
                f" stream: move {store / _stream_folder(each)} away, then run"
                " `jobledger streams create --accept-loss`"
            )
        if path.is_file() and not _is_readable(path):
            raise EmbeddedServerError(
                f"{each}: a compressed block can only be read as a whole; restore a backup"
            )


def _stream_folder(damage: Damage) -> str:
    return damage.file.partition("/msgs/")[0].removesuffix("/meta.inf")


def _is_readable(path: Path) -> bool:
    if path.suffix != BLOCK_SUFFIX or not path.is_file():
        return False
    with path.open("rb") as file:
        return not is_compressed(file.read(HEAD.size))


def _key_of(path: Path) -> bytes:
    return block_key(path.parent.parent.name, int(path.stem))


def _narrow(path: Path, damage: Damage, lost: Range) -> list[Damage]:
    block = path.read_bytes()
    readable: set[int] = set()
    end, offset = 0, -1
    for record in sound_records(block, _key_of(path)):
        if record.offset != end and offset < 0:
            offset = end
        end = record.offset + record.length
        if record.is_event:
            readable.add(record.sequence)
    if offset < 0:
        offset = end if end < len(block) else damage.offset
    left = ranges_of(each for each in range(lost.first, lost.last + 1) if each not in readable)
    rest = [damage] if not left else []
    return rest + [
        msgspec.structs.replace(damage, lost=each, offset=offset if each is left[0] else -1) for each in left
    ]


def _rewrite(path: Path, backup: Path) -> None:
    """Writes a block without what cannot be read; keeps a copy of the damaged one."""
    block = path.read_bytes()
    sound = b"".join(
        block[record.offset : record.offset + record.length] for record in sound_records(block, _key_of(path))
    )
    backup.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copy2(path, backup)
    write_durably(path, sound)


def _mark_end(folder: Path, last: int) -> None:
    """Appends a mark to the last block, if it ends before the last sequence that was acknowledged."""
    blocks = sorted((folder / "msgs").glob(f"*{BLOCK_SUFFIX}"), key=lambda path: int(path.stem))
    path = blocks[-1] if blocks else folder / "msgs" / f"1{BLOCK_SUFFIX}"
    block = path.read_bytes() if blocks else b""
    reached = 0
    for before in reversed(blocks):
        for record in records(before.read_bytes()):
            if record.is_event:
                reached = max(reached, record.sequence)
        if reached:
            break
    if reached < last:
        write_durably(path, block + mark_of_sequence(last, time.time_ns(), _key_of(path)))
