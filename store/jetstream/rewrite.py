"""Rewrites the compressed blocks of a server that is not running, and proves that no message changed.

embedded: digest of all messages ─► server stopped ─► blocks rewritten ─► server started ─► same digest?
yes: old blocks dropped ◄──┴──► no: put back
another server's store: blocks rewritten ─► every new block compared with its old one ─► old ones dropped
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from jobledger.store.embedded import EmbeddedServer
from jobledger.store.embedded.process import lock_directory
from jobledger.store.jetstream.declarations import LOG, SEALS, STREAMS
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.model.errors import LogBroken, StoreDamaged
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


async def rewrite_embedded(
    directory: Path,
    log: str,
    open_log: Callable[[str], Awaitable[JetStreamLog]],
    tell: Callable[[str], None],
) -> int:
    """Rewrite the store of an embedded server that no service runs on.

    Args:
        directory: the server's.
        log: the name of the log's stream.
        open_log: connects to a server by its URL.
        tell: called with what was done.

    Returns:
        How many blocks were rewritten.

    Raises:
        EmbeddedServerInUse: if a service runs.
        LogBroken: if a block is damaged, or the messages are not the same afterwards; nothing was changed.
        OSError: if the disk is full.
    """
    names = [each.name(log) for each in STREAMS]
    await asyncio.to_thread(_finish, directory, log)
    async with EmbeddedServer(directory) as server:
        opened = await open_log(server.url)
        try:
            await opened.prepare_streams()
            before = await opened.digest_streams(_unforgetting(log))
        finally:
            await opened.close()
    with lock_directory(directory):
        count = await asyncio.to_thread(_rewrite, directory, names, tell)
    try:
        async with EmbeddedServer(directory) as server:
            opened = await open_log(server.url)
            try:
                after = await opened.digest_streams(_unforgetting(log))
                if after == before:
                    await opened.note_rewritten()
            finally:
                await opened.close()
    except StoreDamaged as error:  # the server does not start on what was written
        with lock_directory(directory):
            put_back(directory)
        raise LogBroken(f"after the rewrite {error}\nThe old blocks were put back") from error
    if after != before:
        with lock_directory(directory):
            put_back(directory)
        wrong = [name for name in before if after.get(name) != before[name]]
        raise LogBroken(
            f"after the rewrite the streams {', '.join(wrong)} did not hold the same messages; the old blocks"
            " were put back"
        )
    drop_kept(directory)
    return count


def rewrite_store(store: Path, log: str, tell: Callable[[str], None]) -> int:
    """Rewrite the store of any nats-server that is stopped; returns how many blocks were rewritten.

    Args:
        store: its `store_dir`, which holds the folder `jetstream`.
        log: the name of the log's stream.
        tell: called with what was done.

    Raises:
        LogBroken: if a block is damaged; nothing was changed.
        OSError: if the disk is full.
    """
    _finish(store, log)
    count = _rewrite(store, [each.name(log) for each in STREAMS], tell)
    drop_kept(store)
    return count


def _finish(store: Path, log: str) -> None:
    """Verify what an earlier run has rewritten, and drop its old blocks."""
    check_kept(store, _unforgetting(log))
    drop_kept(store)


def _unforgetting(log: str) -> list[str]:
    """The streams whose messages never expire, so that two looks at them must find the same."""
    return [LOG.name(log), SEALS.name(log)]


def _rewrite(store: Path, names: list[str], tell: Callable[[str], None]) -> int:
    found = find_blocks(store, names)
    rewrite_blocks(store, found, lambda each: tell(f"{each.stream}: {each.path.name}"))
    check_kept(store, names)
    return sum(each.compressed for each in found)
