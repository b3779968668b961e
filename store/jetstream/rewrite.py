"""Rewrites the compressed blocks of a server that is not running, and proves that no message changed.

embedded: digest of all messages ─► server stopped ─► blocks rewritten ─► server started ─► same digest?
yes: old blocks dropped ◄──┴──► no: put back
another server's store: blocks rewritten ─► every new block compared with its old one ─► old ones dropped
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from jobledger.store.embedded import EmbeddedServer
from jobledger.store.embedded.lock import lock_directory
from jobledger.store.jetstream import blocks
from jobledger.store.jetstream.declarations import LOG, SEALS, STREAMS
from jobledger.store.model.errors import LogBroken, StoreDamaged

if TYPE_CHECKING:
    from jobledger.store.jetstream.adapter import JetStreamLog


async def rewrite_embedded(
    directory: Path,
    log: str,
    open_log: "Callable[[str], Awaitable[JetStreamLog]]",
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
            blocks.put_back(directory)
        raise LogBroken(f"after the rewrite {error}\nThe old blocks were put back") from error
    if after != before:
        with lock_directory(directory):
            blocks.put_back(directory)
        wrong = [name for name in before if after.get(name) != before[name]]
        raise LogBroken(
            f"after the rewrite the streams {', '.join(wrong)} did not hold the same messages; the old blocks"
            " were put back"
        )
    blocks.drop_kept(directory)
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
    blocks.drop_kept(store)
    return count


def _finish(store: Path, log: str) -> None:
    """Verify what an earlier run has rewritten, and drop its old blocks."""
    blocks.check_kept(store, _unforgetting(log))
    blocks.drop_kept(store)


def _unforgetting(log: str) -> list[str]:
    """The streams whose messages never expire, so that two looks at them must find the same."""
    return [LOG.name(log), SEALS.name(log)]


def _rewrite(store: Path, names: list[str], tell: Callable[[str], None]) -> int:
    found = blocks.find_blocks(store, names)
    blocks.rewrite_blocks(store, found, lambda each: tell(f"{each.stream}: {each.path.name}"))
    blocks.check_kept(store, names)
    return sum(each.compressed for each in found)
