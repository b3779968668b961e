"""The message blocks of stopped nats-servers on disk: which are compressed, and how they are rewritten.

    for each compressed block: decoded, checked ──► written beside the store ──► a hard link keeps the old one
                               ──► renamed over the old one
    then the new blocks are verified, and the old ones dropped or put back

A block that was decoded is what nats-server has in memory after it read the compressed one: the same records
with the same checksums, in the same file. So every single rename leaves a store that is whole, and a rewrite
that is killed anywhere is simply started again. `meta.inf` stays, and with it the stream's creation time,
which is the log's epoch. `index.db` goes first, because it describes the old blocks; nats-server makes a new
one.

Layout: `jetstream/<account>/streams/<stream>/msgs/<number>.blk` (nats-server 2.15, `filestore.go`).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from jobledger.store.model.errors import LogBroken
from jobledger.store.nats_files.blocks import BLOCK_SUFFIX, INDEX_FILE, decompress, is_compressed
from jobledger.store.nats_files.s2 import S2Error

_HEAD_BYTES: Final = 16  # enough to see whether a block is compressed
KEPT_FOLDER: Final = "rewrite"
"""Beside `jetstream`: the old blocks, until the new ones are verified."""


class Block(NamedTuple):
    """A block on disk."""

    stream: str
    path: Path
    size: int
    compressed: bool


def find_blocks(store: Path, streams: Sequence[str]) -> list[Block]:
    """The blocks of these streams, in every account.

    Args:
        store: the folder that holds `jetstream`.
        streams: their names.

    Raises:
        OSError: if one can't be read.
    """
    found = []
    for name in streams:
        for path in sorted(store.glob(f"jetstream/*/streams/{name}/msgs/*{BLOCK_SUFFIX}")):
            with path.open("rb") as file:
                compressed = is_compressed(file.read(_HEAD_BYTES))
            found.append(Block(name, path, path.stat().st_size, compressed))
    return found


def rewrite_blocks(store: Path, blocks: Sequence[Block], tell: Callable[[Block], None]) -> None:
    """Replace compressed blocks by what they hold, durably. The server must not run.

    Every block is decoded before the first one is replaced, so a damaged one changes nothing.

    Args:
        store: the folder that holds `jetstream`.
        blocks: of `find_blocks`.
        tell: called after each one that was replaced.

    Raises:
        LogBroken: if a block is damaged.
        OSError: if the disk is full, or a file can't be written.
    """
    wanted = [each for each in blocks if each.compressed]
    for block in wanted:
        decoded(block)
    for folder in sorted({each.path.parent for each in wanted}):
        (folder / INDEX_FILE).unlink(missing_ok=True)
        _sync(folder)
    for block in wanted:
        kept = _kept(store, block.path)
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = kept.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(decoded(block))
            file.flush()
            os.fsync(file.fileno())
        if not kept.exists():
            kept.hardlink_to(block.path)
        _sync(kept.parent)
        fresh.replace(block.path)
        _sync(block.path.parent)
        tell(block)


def decoded(block: Block) -> bytes:
    """The content of a block on disk.

    Raises:
        LogBroken: if it is damaged.
    """
    try:
        return decompress(block.path.read_bytes())
    except S2Error as error:
        raise LogBroken(
            f"the block {block.path} of the stream {block.stream} is damaged: {error}; nothing was changed."
            " Restore the stream from a backup, or from another replica"
        ) from error


def check_kept(store: Path, streams: Sequence[str]) -> None:
    """Compare new blocks, byte for byte, with the old ones that are kept. They may have grown since.

    Args:
        store: the folder that holds `jetstream`.
        streams: whose. A server that ran since has changed the blocks of streams whose messages expire.

    Raises:
        LogBroken: if one differs.
    """
    for kept, path in _kept_blocks(store):
        if path.parent.parent.name not in streams:
            continue
        if path.exists() and path.samefile(kept):  # the run ended before this one was replaced
            continue
        content = decoded(Block(path.parent.parent.name, kept, 0, compressed=True))
        if not path.exists() or not path.read_bytes().startswith(content):
            raise LogBroken(
                f"the block {path} does not hold what {kept} holds, from which it was rewritten; copy both"
                " away before you do anything else"
            )


def put_back(store: Path) -> None:
    """Undo a rewrite, as long as nothing was appended to the new blocks. The server must not run."""
    for kept, path in list(_kept_blocks(store)):
        (path.parent / INDEX_FILE).unlink(missing_ok=True)
        kept.replace(path)
        _sync(path.parent)
    drop_kept(store)


def drop_kept(store: Path) -> None:
    """Remove the old blocks of a rewrite that was verified."""
    folder = store / KEPT_FOLDER
    for path, folders, files in os.walk(folder, topdown=False):
        for name in files:
            Path(path, name).unlink()
        for name in folders:
            Path(path, name).rmdir()
    if folder.exists():
        folder.rmdir()


def _kept(store: Path, path: Path) -> Path:
    return store / KEPT_FOLDER / path.relative_to(store)


def _kept_blocks(store: Path) -> Iterator[tuple[Path, Path]]:
    folder = store / KEPT_FOLDER
    for kept in sorted(folder.glob(f"jetstream/*/streams/*/msgs/*{BLOCK_SUFFIX}")):
        yield kept, store / kept.relative_to(folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
