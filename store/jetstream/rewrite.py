"""Rewrites the compressed blocks of a stopped nats-server, and proves that no message changed.

    each compressed block: decoded, checked ─► written next to the store ─► a hard link keeps the old one
                           ─► renamed over the old one
    embedded server: digest of all messages ─► stopped ─► rewritten ─► started ─► same digest?
                                               yes: old blocks dropped ◄──┴──► no: put back
    another server: rewritten ─► every new block compared with its old one ─► old ones dropped

A decoded block is what nats-server has in memory after it read the compressed one: the same records with the
same checksums, in the same file. So every single rename leaves a complete store, and an interrupted rewrite
is simply started again. `meta.inf` stays, and with it the stream's creation time, which is the log's epoch.
`index.db` is removed first, because it describes the old blocks; nats-server writes a new one.

Layout: `jetstream/<account>/streams/<stream>/msgs/<number>.blk` (nats-server 2.15, `filestore.go`).
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from jobledger.store.embedded import EmbeddedServer
from jobledger.store.embedded.generation import sync_folder
from jobledger.store.embedded.process import lock_directory
from jobledger.store.jetstream.declarations import LOG, SEALS, STREAMS
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.errors import LogBroken, StoreDamaged
from jobledger.store.nats_files.blocks import BLOCK_SUFFIX, INDEX_FILE, decompress, is_compressed
from jobledger.store.nats_files.s2 import S2Error

_HEAD_BYTES: Final = 16  # show whether a block is compressed
KEPT_FOLDER: Final = "rewrite"
"""Next to `jetstream`: the old blocks, until the new ones are verified."""


class Block(NamedTuple):
    """A block on disk."""

    stream: str
    path: Path
    size: int
    compressed: bool


def find_blocks(store: Path, streams: Sequence[str]) -> list[Block]:
    """Returns the blocks of these streams, in every account.

    Args:
        store: the folder that contains `jetstream`.
        streams: their names.

    Raises:
        OSError: one cannot be read.
    """
    found = []
    for name in streams:
        for path in sorted(store.glob(f"jetstream/*/streams/{name}/msgs/*{BLOCK_SUFFIX}")):
            with path.open("rb") as file:
                compressed = is_compressed(file.read(_HEAD_BYTES))
            found.append(Block(name, path, path.stat().st_size, compressed))
    return found


def rewrite_blocks(store: Path, blocks: Sequence[Block], on_rewritten: Callable[[Block], None]) -> None:
    """Replaces compressed blocks by their content, durably. The server must be stopped.

    Every block is decoded before the first one is replaced, so a damaged one changes nothing.

    Args:
        store: the folder that contains `jetstream`.
        blocks: of `find_blocks`.
        on_rewritten: called after each replaced block.

    Raises:
        LogBroken: a block is damaged.
        OSError: the disk is full, or a file cannot be written.
    """
    compressed = [each for each in blocks if each.compressed]
    for block in compressed:
        decode_block(block)
    for folder in sorted({each.path.parent for each in compressed}):
        (folder / INDEX_FILE).unlink(missing_ok=True)
        sync_folder(folder)
    for block in compressed:
        kept = _kept(store, block.path)
        kept.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = kept.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(decode_block(block))
            file.flush()
            os.fsync(file.fileno())
        if not kept.exists():
            kept.hardlink_to(block.path)
        sync_folder(kept.parent)
        fresh.replace(block.path)
        sync_folder(block.path.parent)
        on_rewritten(block)


def decode_block(block: Block) -> bytes:
    """Returns the content of a block on disk.

    Raises:
        LogBroken: it is damaged.
    """
    try:
        return decompress(block.path.read_bytes())
    except S2Error as error:
        raise LogBroken(
            f"the block {block.path} of the stream {block.stream} is damaged: {error}; nothing was changed;"
            " restore the stream from a backup or from another replica"
        ) from error


def check_kept(store: Path, streams: Sequence[str]) -> None:
    """Compares new blocks byte for byte with the old ones that are kept. They may have grown since.

    Args:
        store: the folder that contains `jetstream`.
        streams: to compare. A server that ran since has changed the blocks of streams whose messages expire.

    Raises:
        LogBroken: one differs.
    """
    for kept, path in _kept_blocks(store):
        if path.parent.parent.name not in streams:
            continue
        if path.exists() and path.samefile(kept):  # the run ended before this one was replaced
            continue
        content = decode_block(Block(path.parent.parent.name, kept, 0, compressed=True))
        if not path.exists() or not path.read_bytes().startswith(content):
            raise LogBroken(
                f"the block {path} differs from {kept}, from which it was rewritten; copy both"
                " to another disk before you do anything else"
            )


def put_back(store: Path) -> None:
    """Undoes a rewrite, as long as nothing was appended to the new blocks. The server must be stopped."""
    for kept, path in list(_kept_blocks(store)):
        (path.parent / INDEX_FILE).unlink(missing_ok=True)
        kept.replace(path)
        sync_folder(path.parent)
    drop_kept(store)


def drop_kept(store: Path) -> None:
    """Removes the old blocks of a verified rewrite."""
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


async def rewrite_embedded(
    directory: Path,
    log: str,
    open_log: Callable[[str], Awaitable[JetStreamLog]],
    report: Callable[[str], None],
) -> int:
    """Rewrites the store of an embedded server; returns how many blocks were rewritten.

    Args:
        directory: the server's.
        log: the name of the log's stream.
        open_log: connects to a server by its URL.
        report: called with each step.

    Raises:
        EmbeddedServerInUse: a service uses the directory.
        LogBroken: a block is damaged, or the messages differ afterwards; nothing was changed.
        OSError: the disk is full.
    """
    names = [each.name(log) for each in STREAMS]
    await asyncio.to_thread(_finish, directory, log)
    async with EmbeddedServer(directory) as server:
        opened = await open_log(server.url)
        try:
            await opened.prepare_streams()
            before = await opened.digest_streams(_without_expiry(log))
        finally:
            await opened.close()
    with lock_directory(directory):
        count = await asyncio.to_thread(_rewrite, directory, names, report)
    try:
        async with EmbeddedServer(directory) as server:
            opened = await open_log(server.url)
            try:
                after = await opened.digest_streams(_without_expiry(log))
                if after == before:
                    await opened.note_rewritten()
            finally:
                await opened.close()
    except StoreDamaged as error:  # the server does not start on the new blocks
        with lock_directory(directory):
            put_back(directory)
        raise LogBroken(f"the rewrite failed: {error}\nThe old blocks were put back") from error
    if after != before:
        with lock_directory(directory):
            put_back(directory)
        wrong = [name for name in before if after.get(name) != before[name]]
        raise LogBroken(
            f"the messages of the streams {', '.join(wrong)} differed after the rewrite; the old blocks were"
            " put back"
        )
    drop_kept(directory)
    return count


def rewrite_store(store: Path, log: str, report: Callable[[str], None]) -> int:
    """Rewrites the store of any stopped nats-server; returns how many blocks were rewritten.

    Args:
        store: its `store_dir`, which contains the folder `jetstream`.
        log: the name of the log's stream.
        report: called with each step.

    Raises:
        LogBroken: a block is damaged; nothing was changed.
        OSError: the disk is full.
    """
    _finish(store, log)
    count = _rewrite(store, [each.name(log) for each in STREAMS], report)
    drop_kept(store)
    return count


def _finish(store: Path, log: str) -> None:
    """Verifies what an earlier run has rewritten, and removes its old blocks."""
    check_kept(store, _without_expiry(log))
    drop_kept(store)


def _without_expiry(log: str) -> list[str]:
    """The streams whose messages never expire, so that their content must not change."""
    return [LOG.name(log), SEALS.name(log)]


def _rewrite(store: Path, names: list[str], report: Callable[[str], None]) -> int:
    found = find_blocks(store, names)
    rewrite_blocks(store, found, lambda each: report(f"{each.stream}: {each.path.name}"))
    check_kept(store, names)
    return sum(each.compressed for each in found)
