"""`SnapshotCache`: views as of a point, built on demand and bounded in number and bytes.

    (none) ──► building (`building-….sqlite`) ──► kept ──► evicted
                    └── an error or a crash: the file is removed (after a crash, at the next start)

A point is built once, however many requests wait for it. A client has one running build, and
ASOF_BUILDS_AT_ONCE run at once, so one client's builds do not delay another's. A request that waits too long
gets `AsOfBusy`. The least recently used snapshot of the client that has the most is evicted first. A snapshot
never changes, so its readers need no locks. Its file name depends on the log, the meaning of the rows, and
the boot id of the machine, because files are not synced and a power failure may corrupt them.
"""

import asyncio
import hashlib
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, Self

from jobledger.projections.as_of.build import BuildInputs, build_snapshot, run_in_thread
from jobledger.projections.as_of.direct import DirectPages, WaitScope
from jobledger.projections.errors import AsOfBusy, ViewError, ViewUnwritable
from jobledger.projections.fair_queue import FairQueue
from jobledger.projections.limits import (
    ASOF_BUILDS_AT_ONCE,
    ASOF_BUILDS_MAX,
    ASOF_BUILDS_MAX_TOTAL,
    ASOF_NEAR_EVENTS,
    ASOF_NEAR_MAX_EVENTS,
    ASOF_READERS,
    ASOF_RETRY_SECONDS,
    ASOF_WAIT_SECONDS,
)
from jobledger.projections.migrations import migrations
from jobledger.projections.query.query import ListQuery, Order
from jobledger.projections.results import Page
from jobledger.projections.view import View
from jobledger.projections.writer import PROJECTION_VERSION
from jobledger.store.log import EventLog

_BUILDING: Final = "building-"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

_log = logging.getLogger("jobledger.asof")


class _Snapshot:
    """A snapshot in the cache."""

    def __init__(self, path: Path, sequence: int, client: str = "") -> None:
        self.path = path
        self.client = client  # that requested the build
        self.sequence = sequence
        self.size_bytes = path.stat().st_size
        self.users = 0
        self.stale = False  # its connections have a live view attached that was replaced
        self.view: View | None = None
        self.opening = asyncio.Lock()

    async def close(self) -> None:
        view, self.view, self.stale = self.view, None, False
        if view is not None:
            await view.close()


class SnapshotCache:
    """The snapshots in one directory, which no other process uses; created by `open`."""

    def __init__(
        self, log: EventLog, epoch: str, view: View, directory: Path, *, max_copies: int, max_bytes: int
    ) -> None:
        self._log = log
        self._epoch = epoch
        self._view = view
        self._directory = directory
        self._max_copies = max_copies
        self._max_bytes = max_bytes
        self._prefix = _prefix(epoch)
        self._direct = DirectPages(log, epoch, view, directory)
        self._kept: dict[int, _Snapshot] = {}  # by sequence; least recently used first
        self._builds: dict[int, asyncio.Task[None]] = {}
        self._reached: dict[int, int] = {}  # progress of the builds, by requested sequence
        self._builders: dict[int, str] = {}  # the clients that requested them
        self._turns = FairQueue(
            ASOF_BUILDS_AT_ONCE, per_client=1, waiting_per_client=ASOF_BUILDS_MAX, refusal=_too_many
        )
        self.built = 0  # number of finished builds
        self._suspended: ViewError | None = None
        self._suspensions = 0

    @classmethod
    async def open(
        cls, log: EventLog, view: View, directory: Path, *, max_copies: int, max_bytes: int
    ) -> Self:
        """Reuse the valid snapshots of an earlier run; delete other files.

        Raises:
            OSError: if the directory cannot be used.
            LogUnavailable: if the log does not answer.
        """
        epoch = (await log.info()).epoch
        snapshots = cls(log, epoch, view, directory, max_copies=max_copies, max_bytes=max_bytes)
        snapshots._load_existing()
        await snapshots._evict()
        return snapshots

    async def close(self) -> None:
        """Cancel builds and close files. Idempotent."""
        builds = [*self._builds.values()]
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)
        for snapshot in self._kept.values():
            await snapshot.close()

    async def suspend(self, why: ViewError) -> None:
        """See `ViewReader.suspend`: snapshots read specs from the live view."""
        self._suspended = why
        self._suspensions += 1
        for snapshot in self._kept.values():
            snapshot.stale = True
            if not snapshot.users:
                await snapshot.close()

    async def resume(self) -> None:
        """See `ViewReader.resume`."""
        self._suspended = None

    @property
    def sequences(self) -> tuple[int, ...]:
        """The sequences of the snapshots, least recently used first."""
        return tuple(self._kept)

    @property
    def size_bytes(self) -> int:
        """Total size of the snapshots."""
        return sum(snapshot.size_bytes for snapshot in self._kept.values())

    async def direct_page(
        self,
        query: ListQuery,
        sequence: int,
        client: str = "",
        waiting: WaitScope = nullcontext,
        turn: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> Page | None:
        """A page as of a sequence without a snapshot. See `DirectPages.find`.

        Returns None if it needs a snapshot, if there is one, if the order is `modified` and it is being
        built, or if the live view was suspended: `at` then answers, or raises the error. A later page starts
        the build of a snapshot, because the pages after it cost less with one.
        """
        if self._suspended is not None or sequence in self._kept:
            return None
        if query.order == Order.MODIFIED and sequence in self._builds:
            return None
        suspensions = self._suspensions
        try:
            page = await self._direct.find(query, sequence, client, waiting, turn)
        except Exception:
            if suspensions == self._suspensions:
                raise
            return None  # the view that is being rebuilt does not have all specs
        if page is None or suspensions != self._suspensions:
            return None
        if query.cursor is not None and page.next_cursor is not None:
            with suppress(AsOfBusy):
                self._start_build(sequence, client)
        return page

    @asynccontextmanager
    async def at(
        self, sequence: int, client: str = "", waiting: WaitScope = nullcontext
    ) -> AsyncIterator[View]:
        """The view as of a sequence, built if missing; it is kept while the block runs.

        Args:
            sequence: from 1 to the live view's checkpoint.
            client: the requesting client; builds are limited and scheduled per client.
            waiting: entered while a build is awaited.

        Raises:
            AsOfBusy: if there are too many builds for this client or in total, or the build takes too long.
            ViewError: if the snapshot cannot be built.
            LogError: if the log cannot be read.
        """
        if self._suspended is not None:
            raise type(self._suspended)(str(self._suspended))
        snapshot = await self._acquire(sequence, client, waiting)
        try:
            yield await self._open_view(snapshot)
        finally:
            snapshot.users -= 1
            if not snapshot.users and (snapshot.stale or self._kept.get(snapshot.sequence) is not snapshot):
                await snapshot.close()  # it was evicted, or the live view rebuilt, meanwhile
            await self._evict()

    async def _acquire(self, sequence: int, client: str, waiting: WaitScope) -> _Snapshot:
        """A snapshot with its user count incremented."""
        while (snapshot := self._kept.get(sequence)) is None or not snapshot.path.exists():
            if snapshot is not None:  # the file was removed: build it again
                await self._drop(snapshot)
            with waiting():
                await self._await_build(sequence, client)
        snapshot.users += 1
        self._kept[sequence] = self._kept.pop(sequence)  # most recently used
        return snapshot

    async def _open_view(self, snapshot: _Snapshot) -> View:
        async with snapshot.opening:
            if snapshot.view is None:
                try:
                    snapshot.view = await View.open(snapshot.path, readers=ASOF_READERS, live=self._view.path)
                except ViewError:
                    await self._drop(snapshot)  # the next request builds a new one
                    raise
        return snapshot.view

    async def _drop(self, snapshot: _Snapshot) -> None:
        if self._kept.get(snapshot.sequence) is snapshot:
            del self._kept[snapshot.sequence]
            snapshot.path.unlink(missing_ok=True)
        if not snapshot.users:
            await snapshot.close()

    async def _await_build(self, sequence: int, client: str) -> None:
        """Wait for the build of a point for a limited time; start it if necessary."""
        build = self._start_build(sequence, client)
        try:
            async with asyncio.timeout(ASOF_WAIT_SECONDS):
                await asyncio.shield(build)
        except TimeoutError:
            raise AsOfBusy(
                f"the view as of {sequence} is being built and is at {self._reached.get(sequence, 0)};"
                " the build continues: try again later",
                retry_after_seconds=ASOF_RETRY_SECONDS,
            ) from None
        except asyncio.CancelledError:
            if not build.cancelled():
                raise  # the caller was cancelled
            raise ViewError(f"the snapshots in {self._directory} are closed") from None

    def _start_build(self, sequence: int, client: str) -> asyncio.Task[None]:
        """The build of a point, which is started unless it runs.

        Raises:
            AsOfBusy: if there are too many builds.
        """
        build = self._builds.get(sequence)
        if build is None:
            own = sum(each == client for each in self._builders.values())
            for count, most in ((own, ASOF_BUILDS_MAX), (len(self._builds), ASOF_BUILDS_MAX_TOTAL)):
                if count >= most:
                    raise _too_many(count)
            build = self._builds[sequence] = asyncio.create_task(self._build(sequence, client))
            self._builders[sequence] = client
            build.add_done_callback(lambda done: self._ended(sequence, done))
        return build

    def _ended(self, sequence: int, build: asyncio.Task[None]) -> None:
        del self._builds[sequence], self._builders[sequence]
        if not build.cancelled() and (error := build.exception()) is not None:
            _log.warning("the view as of %d could not be built: %s", sequence, error)

    async def _build(self, sequence: int, client: str) -> None:
        async with self._turns.turn(client):
            base = self._below(sequence)
            distance = sequence - (base.sequence if base is not None else 0)
            if distance > ASOF_NEAR_MAX_EVENTS and self._max_copies > 1:
                # An extra snapshot, so that points shortly before this one have a near base, too.
                await self._make(sequence - ASOF_NEAR_EVENTS, client, requested=sequence)
            await self._make(sequence, client, requested=sequence)

    async def _make(self, sequence: int, client: str, *, requested: int) -> None:
        if sequence in self._kept:  # built by another task meanwhile
            return
        base = self._below(sequence)
        if base is not None:
            base.users += 1  # protects it from eviction
        # Two builds may create a snapshot of the same sequence, so each has its own file.
        path = self._directory / f"{_BUILDING}{requested}-{sequence}.sqlite"
        path.unlink(missing_ok=True)
        inputs = BuildInputs(
            self._log,
            self._epoch,
            self._view.path,
            base.path if base is not None else None,
            base.sequence if base is not None else 0,
        )
        try:
            await run_in_thread(
                lambda log: build_snapshot(
                    path,
                    sequence,
                    inputs._replace(log=log),
                    lambda reached: self._reached.update({requested: reached}),
                ),
                self._log,
                name=f"asof-{sequence}",
            )
            if sequence not in self._kept:
                final = self._directory / f"{self._prefix}{sequence}.sqlite"
                path.rename(final)
                self._kept[sequence] = _Snapshot(final, sequence, client)
                self.built += 1
        except OSError as error:
            raise ViewUnwritable(
                f"cannot build the view as of {sequence} in {self._directory}: {error.strerror or error};"
                " check disk space and permissions"
            ) from error
        finally:
            self._reached.pop(requested, None)
            path.unlink(missing_ok=True)
            if base is not None:
                base.users -= 1
        await self._evict()

    def _below(self, sequence: int) -> _Snapshot | None:
        """The nearest snapshot at or before a sequence."""
        return max(
            (
                snapshot
                for snapshot in self._kept.values()
                if snapshot.sequence <= sequence and snapshot.path.exists()
            ),
            key=lambda snapshot: snapshot.sequence,
            default=None,
        )

    async def _evict(self) -> None:
        """Evict the least recently used snapshots of the client with the most, until the limits hold.

        Snapshots in use and the most recently used one are kept.
        """
        while len(self._kept) > self._max_copies or self.size_bytes > self._max_bytes:
            counts = Counter(snapshot.client for snapshot in self._kept.values())
            victims = [snapshot for snapshot in [*self._kept.values()][:-1] if not snapshot.users]
            if not victims:
                return
            await self._drop(
                max(victims, key=lambda snapshot: counts[snapshot.client])
            )  # max returns the first of equals

    def _load_existing(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found: list[_Snapshot] = []
        for path in self._directory.glob("*.sqlite*"):
            number = path.name.removeprefix(self._prefix).removesuffix(".sqlite")
            if path.name.startswith(self._prefix) and number.isdecimal():
                found.append(_Snapshot(path, int(number)))
            else:
                path.unlink(missing_ok=True)
        for snapshot in sorted(found, key=lambda snapshot: snapshot.path.stat().st_mtime):
            self._kept[snapshot.sequence] = snapshot


def _too_many(count: int) -> AsOfBusy:
    return AsOfBusy(
        f"{count} other points are being built; try again later",
        retry_after_seconds=ASOF_RETRY_SECONDS,
    )


def _prefix(epoch: str) -> str:
    """The prefix of the names of valid files."""
    boot = str(uuid.uuid4())  # without a boot id, files do not outlive the process
    with suppress(OSError):
        boot = _BOOT_ID.read_text().strip()
    made_of = f"{epoch} {PROJECTION_VERSION} {migrations()[-1][0]} {boot}"
    return f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}-"
