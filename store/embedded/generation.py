"""A generation: the files of all streams as they were before nats-server was started on them.

At its start nats-server truncates a block where it cannot read on, deletes blocks, and even whole streams
(`server/filestore.go`: `rebuildStateFromBufLocked`; `server/stream.go`: `mset.stop(true, …)`). So its files
are kept until the start is proven to have lost nothing (`proof`):

    keep ──► start the server ──► proven ──► remove
                    └── not proven ──► stop the server ──► put_back

What nats-server 2.15.1 does to a file, and how the file is kept (as a reflink if the file system supports
it; otherwise as below):

    blocks that are full ("sealed")   truncated *in place* if damaged          hard link, mode 0400
    the last two blocks               appended to, truncated in place          copy
    index.db                          rewritten in place                       copy, and removed
    meta.inf, meta.sum, obs/, others  replaced                                 copy

- A hard link alone would not help: a truncation changes the one file that both names refer to. So a linked
  block gets mode 0400, and the server runs without the capability to override modes
  (`process.drop_override`). This is tried first; if it does not work here, all blocks are copied.
- The last block but one is copied because the server appends to it if the last one turns out to be empty.
- Without index.db the server reads every record and its checksum, which proves that none is damaged.
- The blocks of streams that may remove messages are rewritten, so all are copied; their index.db stays.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

import msgspec

from jobledger.store.embedded.process import drop_override
from jobledger.store.embedded.proof import Block, Inventory, StreamFiles
from jobledger.store.nats_files.blocks import (
    BLOCK_SUFFIX,
    HEAD,
    INDEX_FILE,
    block_key,
    decompress,
    first_sequence,
    last_sequence,
    messages,
    meta_checksum,
    most_expiring,
)
from jobledger.store.nats_files.s2 import S2Error
from jobledger.store.private_files import (
    FOLDER_MODE,
    FileFingerprint,
    file_fingerprint,
    open_private,
    tighten_all,
)

RECOVERY_FOLDER: Final = "recovery"
STORE_FOLDER: Final = "jetstream"  # nats-server's own
META_FILE: Final = "meta.inf"
SUM_FILE: Final = "meta.sum"
WRITABLE_BLOCKS: Final = 2  # the last one, and the one before: it is appended to if the last one is empty

_STREAMS: Final = "streams"
_MESSAGES: Final = "msgs"
_GENERATION: Final = "generation"
_INVENTORY: Final = "generation.json"
_META_COPIES: Final = "meta"
_FICLONE: Final = 0x40049409  # ioctl_ficlone(2)
_SEALED_MODE: Final = 0o400
_WRITABLE_MODE: Final = 0o600
_NO_LIMITS: Final = {"max_age": 0, "max_msgs": -1, "max_msgs_per_subject": -1}


T = TypeVar("T")


class Generation:
    """The generation of one embedded server; at most one exists."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / STORE_FOLDER
        self.folder = directory / RECOVERY_FOLDER
        self.kept = self.folder / _GENERATION
        self._inventory = self.folder / _INVENTORY
        self._configs = _PerFile(_read_config)
        self._expiring = _PerFile(lambda block: most_expiring(block.read_bytes()))

    def keep(
        self, *, full_check_max_bytes: int, may_link: Callable[[Path, Path], bool] | None = None
    ) -> Inventory:
        """Keeps the files as they are; first restores the generation of a start that was never proven.

        Args:
            full_check_max_bytes: the server reads a log up to this size completely, even if its index is
                valid.
            may_link: replaces `server_respects_modes`.

        Raises:
            OSError: they cannot be kept, for example because the disk is full. Then nothing has changed.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        if self._inventory.exists():
            self.put_back()
        shutil.rmtree(self.kept, ignore_errors=True)
        repaired = tuple(self._repair_meta(stream) for stream in self._stream_folders())
        streams = tuple(self._read_stream(stream) for stream in self._stream_folders())
        total = sum(block.size for stream in streams for block in stream.blocks)
        linkable = any(stream.keeps_all and len(stream.blocks) > WRITABLE_BLOCKS for stream in streams)
        linking = linkable and (may_link or server_respects_modes)(self.store, self.folder)
        inventory = Inventory(streams, linking, total, tuple(filter(None, repaired)))
        for stream in streams:
            self._keep_stream(stream, linking=linking)
        sync_folder(self.folder)
        write_durably(self._inventory, msgspec.json.encode(inventory))
        # Last, because it changes the files that the server would start on.
        for stream in streams:
            self._prepare(stream, linking=linking, full_check=total <= full_check_max_bytes)
        return inventory

    def put_back(self) -> None:
        """Puts every file back as it was, and removes the generation."""
        inventory = self.inventory()
        if inventory is None:
            return
        for stream in inventory.streams:
            kept, live = self.kept / stream.folder, self.store / stream.folder
            if not kept.is_dir():  # already put back by a process that was killed here
                continue
            shutil.rmtree(live, ignore_errors=True)
            live.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            shutil.move(kept, live)
            sync_folder(live.parent)
        self.remove()

    def remove(self) -> None:
        """Removes the generation: the start is proven."""
        self._inventory.unlink(missing_ok=True)
        if self.folder.is_dir():
            sync_folder(self.folder)
        shutil.rmtree(self.kept, ignore_errors=True)

    def inventory(self) -> Inventory | None:
        """The content of the generation; None if it does not exist or is incomplete."""
        with suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(self._inventory.read_bytes(), type=Inventory)
        return None

    def copy_to(self, store: Path) -> Inventory:
        """Makes a copy that a server may write to; returns its content.

        Raises:
            OSError: it cannot be copied.
        """
        inventory = self.inventory()
        assert inventory is not None
        shutil.copytree(self.kept, store)
        streams = []
        for stream in inventory.streams:
            blocks = []
            for block in stream.blocks:
                path = store / stream.folder / _MESSAGES / f"{block.number}{BLOCK_SUFFIX}"
                path.chmod(0o600)
                blocks.append(msgspec.structs.replace(block, inode=path.stat().st_ino))
            (store / stream.folder / _MESSAGES / INDEX_FILE).unlink(missing_ok=True)
            streams.append(msgspec.structs.replace(stream, blocks=tuple(blocks)))
        return msgspec.structs.replace(inventory, streams=tuple(streams))

    def messages(self, stream: StreamFiles, *, kept: bool = False) -> Path:
        """The folder of a stream's blocks: that of the server, or the kept one."""
        return (self.kept if kept else self.store) / stream.folder / _MESSAGES

    def save_meta(self) -> None:
        """Keeps a copy of each valid `meta.inf`, to repair it later."""
        for folder in self._stream_folders():
            for meta in (folder / META_FILE, *folder.glob(f"obs/*/{META_FILE}")):
                copy = self.folder / _META_COPIES / meta.relative_to(self.store)
                with suppress(OSError):
                    if _is_sound_meta(meta, _meta_name(meta, folder)):
                        content = meta.read_bytes()
                        if not copy.exists() or copy.read_bytes() != content:
                            copy.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
                            write_durably(copy, content)
        tighten_all([self.folder])

    def seal(self) -> None:
        """Makes full blocks read-only for a server that respects modes.

        Then it cannot truncate a block that it finds damaged while it runs.
        """
        for folder in self._stream_folders():
            if not _keeps_all(_config_of(folder / META_FILE)):
                continue
            for _, path in _blocks_of(folder)[:-WRITABLE_BLOCKS]:
                with suppress(OSError):
                    path.chmod(_SEALED_MODE)

    def expiring(self) -> dict[str, int]:
        """The most messages of each stream that can expire, as its blocks are now.

        A file is read only if it changed since the last call. A stream that cannot be read is left out.
        """
        found: dict[str, int] = {}
        with suppress(OSError):  # a stream is being created or deleted
            for folder in self._stream_folders():
                with suppress(OSError, msgspec.DecodeError):
                    config = self._configs.get(folder / META_FILE)
                    if config:
                        blocks = _blocks_of(folder) if config.get("allow_msg_ttl") else ()
                        found[str(folder.relative_to(self.store))] = self._count_expiring(blocks)
        self._configs.forget_unused()
        self._expiring.forget_unused()
        return found

    def _count_expiring(self, blocks: Iterable[tuple[int, Path]]) -> int:
        return sum(self._expiring.get(path) for _, path in blocks)

    def _stream_folders(self) -> list[Path]:
        return sorted(path for path in self.store.glob(f"*/{_STREAMS}/*") if path.is_dir())

    def _read_stream(self, folder: Path) -> StreamFiles:
        blocks: list[Block] = []
        for number, path in _blocks_of(folder):
            found = path.stat()
            with path.open("rb") as file:
                first = first_sequence(file.read(HEAD.size))
            blocks.append(Block(number, found.st_size, found.st_ino, first))
        last = 0
        for number, path in _blocks_of(folder)[-WRITABLE_BLOCKS:]:
            last = last_sequence(path.read_bytes(), last, block_key(folder.name, number))
        meta = folder / META_FILE
        config = _config_of(meta)
        records, expiring = -1, 0
        if not _keeps_all(config) and config.get("max_age", 0) == 0:
            records = sum(_count(path.read_bytes()) for _, path in _blocks_of(folder))
            expiring = self._count_expiring(_blocks_of(folder))
        problem = "" if _is_sound_meta(meta, folder.name) else _meta_problem(meta)
        return StreamFiles(
            folder=str(folder.relative_to(self.store)),
            name=folder.name,
            created=str(config.get("Created", "")),  # capitalized in this file
            keeps_all=_keeps_all(config),
            begins=int(config.get("first_seq") or 1),
            blocks=tuple(blocks),
            last=last,
            records=records,
            expiring=expiring,
            meta_problem=problem,
        )

    def _keep_stream(self, stream: StreamFiles, *, linking: bool) -> None:
        source, target = self.store / stream.folder, self.kept / stream.folder
        sealed = {
            f"{block.number}{BLOCK_SUFFIX}" for block in stream.blocks[:-WRITABLE_BLOCKS] if stream.keeps_all
        }
        for folder, _, names in os.walk(source):
            here = target / Path(folder).relative_to(source)
            here.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            for name in names:
                path = Path(folder) / name
                if path.is_symlink() or not path.is_file():
                    continue  # nats-server does not write these, and deletes them
                is_sealed = linking and name in sealed and path.parent.name == _MESSAGES
                _keep_file(path, here / name, link=is_sealed)
            sync_folder(here)

    def _prepare(self, stream: StreamFiles, *, linking: bool, full_check: bool) -> None:
        folder = self.messages(stream)
        if full_check and stream.keeps_all:
            (folder / INDEX_FILE).unlink(missing_ok=True)
        # One of the last blocks may have been full before later ones were lost.
        for block in stream.blocks[-WRITABLE_BLOCKS:]:
            (folder / f"{block.number}{BLOCK_SUFFIX}").chmod(_WRITABLE_MODE)
        for block in stream.blocks[:-WRITABLE_BLOCKS] if stream.keeps_all and linking else ():
            (folder / f"{block.number}{BLOCK_SUFFIX}").chmod(_SEALED_MODE)

    def _repair_meta(self, folder: Path) -> str:
        """Repairs `meta.inf` and `meta.sum`, also of consumers, from the copies; returns what was done."""
        done: list[str] = []
        for meta in (folder / META_FILE, *folder.glob(f"obs/*/{META_FILE}")):
            name = _meta_name(meta, folder)
            copy = self.folder / _META_COPIES / meta.relative_to(self.store)
            if _is_sound_meta(meta, name) or not copy.is_file():
                continue
            content, problem = copy.read_bytes(), _meta_problem(meta)
            write_durably(meta, content)
            write_durably(meta.with_name(SUM_FILE), meta_checksum(name, content))
            done.append(f"{name}: {problem}; restored from the copy of the last proven start")
        return "; ".join(done)


class _PerFile(Generic[T]):
    """Caches a function of a file; the value is computed again when the file has changed."""

    def __init__(self, compute: Callable[[Path], T]) -> None:
        self._compute = compute
        self._known: dict[Path, tuple[FileFingerprint, T]] = {}
        self._used: set[Path] = set()

    def get(self, path: Path) -> T:
        """Returns the value; raises what the function raises."""
        fingerprint = file_fingerprint(path)
        self._used.add(path)
        known = self._known.get(path)
        if known is not None and known[0] == fingerprint:
            return known[1]
        value = self._compute(path)
        if fingerprint is not None:
            self._known[path] = fingerprint, value
        return value

    def forget_unused(self) -> None:
        """Drops the files that were not used since the last call."""
        self._known = {path: known for path, known in list(self._known.items()) if path in self._used}
        self._used.clear()


def server_respects_modes(store: Path, folder: Path) -> bool:
    """Tries whether files can be linked from the store to a folder, and the server cannot write to them."""
    trial, link = store / ".trial", folder / ".trial"
    trial.unlink(missing_ok=True)
    link.unlink(missing_ok=True)
    trial.touch(mode=_SEALED_MODE)
    try:
        os.link(trial, link)
        done = subprocess.run(  # noqa: S603 - a fixed command
            ["/bin/sh", "-c", 'echo x >>"$0"', trial],
            preexec_fn=drop_override(store),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode != 0 and trial.stat().st_size == 0
    except OSError:
        return False
    finally:
        trial.unlink(missing_ok=True)
        link.unlink(missing_ok=True)


def _keep_file(source: Path, target: Path, *, link: bool) -> None:
    with source.open("rb") as read, target.open("xb") as write:
        if _clone(read.fileno(), write.fileno()):
            shutil.copystat(source, target)
            return
    target.unlink()
    if link:
        os.link(source, target)
        return
    shutil.copy2(source, target)
    with target.open("rb") as written:
        os.fsync(written.fileno())


def _clone(source: int, target: int) -> bool:
    """Makes two files share disk blocks until one is written (btrfs, XFS, …)."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _blocks_of(folder: Path) -> list[tuple[int, Path]]:
    paths = (folder / _MESSAGES).glob(f"*{BLOCK_SUFFIX}")
    return sorted((int(path.stem), path) for path in paths if path.stem.isdecimal())


def _count(block: bytes) -> int:
    """The number of readable messages of a block."""
    with suppress(S2Error):
        return len(messages(decompress(block)))
    return 0


def _config_of(meta: Path) -> dict[str, Any]:
    with suppress(OSError, msgspec.DecodeError):
        return _read_config(meta)
    return {}


def _read_config(meta: Path) -> dict[str, Any]:
    found = msgspec.json.decode(meta.read_bytes())
    return found if isinstance(found, dict) else {}


def _keeps_all(config: dict[str, Any]) -> bool:
    return bool(config.get("deny_delete") and config.get("deny_purge")) and all(
        config.get(field, off) == off for field, off in _NO_LIMITS.items()
    )


def _meta_name(meta: Path, stream: Path) -> str:
    return stream.name if meta.parent == stream else f"{stream.name}/{meta.parent.name}"


def _is_sound_meta(meta: Path, name: str) -> bool:
    with suppress(OSError):
        return meta.with_name(SUM_FILE).read_bytes() == meta_checksum(name, meta.read_bytes())
    return False


def _meta_problem(meta: Path) -> str:
    for path in (meta, meta.with_name(SUM_FILE)):
        if not path.is_file():
            return f"{path.name} is missing"
    return f"{META_FILE} does not match its checksum in {SUM_FILE}"


def write_durably(path: Path, content: bytes) -> None:
    """Replaces a file atomically and durably."""
    new = path.with_name(f"{path.name}.new")
    with open_private(new, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Makes new, renamed and deleted files of a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
