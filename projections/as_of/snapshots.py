"""Copies of the view as of a point: made when they are asked for, kept within bounds, the least used dropped.

    nothing ──► building (`building-…`) ──► kept ──► dropped
                    └── a crash, an error: the file is worth nothing, and removed (a crash: at the next start)

Each point is built once however many ask for it. A client has one build at a time, and ASOF_BUILDS_AT_ONCE
run at once, so one client's builds delay no other's; those who would wait too long get `AsOfBusy`. A build
runs in a thread (`elsewhere`). When copies are dropped, those of the client with the most go first. A copy
never changes, so its readers need no locks. A file says in its name what it was made of: the log, the meaning
of the rows, and the boot of the machine, since nothing was synced and a power cut may have torn it.
"""

import asyncio
import hashlib
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext, suppress
from pathlib import Path
from typing import Final, Self

from jobledger.projections.as_of.build import BuildInputs, build_copy, in_thread
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
from jobledger.projections.view import View
from jobledger.projections.writer import PROJECTION_VERSION
from jobledger.store.log import EventLog

_BUILDING: Final = "building-"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")

WaitScope = Callable[[], AbstractContextManager[None]]
"""Entered while somebody waits, so that it takes no place from those who work."""

_log = logging.getLogger("jobledger.asof")


class _Copy:
    """One that is kept."""

    def __init__(self, path: Path, sequence: int, client: str = "") -> None:
        self.path = path
        self.client = client  # it was built for
        self.sequence = sequence
        self.size_bytes = path.stat().st_size
        self.users = 0
        self.stale = False  # its connections read another live view than the present one
        self.view: View | None = None
        self.opening = asyncio.Lock()

    async def close(self) -> None:
        view, self.view, self.stale = self.view, None, False
        if view is not None:
            await view.close()


class SnapshotCache:
    """The copies in one directory, which no other process uses; made by `open`.

    Args:
        log: of the view.
        epoch: of the log.
        view: the live view.
        directory: where they are.
        max_copies: kept at most.
        max_bytes: that they may take together; the one that was used last stays, whatever its size.
    """

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
        self._kept: dict[int, _Copy] = {}  # by sequence; the one that was used last is the last
        self._builds: dict[int, asyncio.Task[None]] = {}
        self._reached: dict[int, int] = {}  # of the builds under way
        self._builders: dict[int, str] = {}  # the clients that these are for
        self._turns = FairQueue(
            ASOF_BUILDS_AT_ONCE, per_client=1, waiting_per_client=ASOF_BUILDS_MAX, refusal=_too_many
        )
        self.built = 0  # so far
        self._suspended: ViewError | None = None

    @classmethod
    async def open(
        cls, log: EventLog, view: View, directory: Path, *, max_copies: int, max_bytes: int
    ) -> Self:
        """Take up what an earlier run has left, if it still holds; the rest is removed.

        Raises:
            OSError: if the directory can't be used.
            LogUnavailable: if the log does not answer.
        """
        epoch = (await log.info()).epoch
        copies = cls(log, epoch, view, directory, max_copies=max_copies, max_bytes=max_bytes)
        copies._take_up()
        await copies._evict()
        return copies

    async def close(self) -> None:
        """Stop what is being built, and let go of the files. Closing twice is harmless."""
        builds = [*self._builds.values()]
        for build in builds:
            build.cancel()
        await asyncio.gather(*builds, return_exceptions=True)
        for copy in self._kept.values():
            await copy.close()

    async def suspend(self, why: ViewError) -> None:
        """See `Gate.suspend`: the copies read their specs from the live view."""
        self._suspended = why
        for copy in self._kept.values():
            copy.stale = True
            if not copy.users:
                await copy.close()

    async def resume(self) -> None:
        """See `Gate.resume`."""
        self._suspended = None

    @property
    def sequences(self) -> tuple[int, ...]:
        """What the copies are as of; the one that was used last is the last."""
        return tuple(self._kept)

    @property
    def size_bytes(self) -> int:
        """Of all copies that are kept."""
        return sum(copy.size_bytes for copy in self._kept.values())

    @asynccontextmanager
    async def at(
        self, sequence: int, client: str = "", waiting: WaitScope = nullcontext
    ) -> AsyncIterator[View]:
        """The view as of a sequence, made if it is not there; it stays while the block runs.

        Args:
            sequence: from 1 to what the live view has come to.
            client: who asks; builds are bounded and take turns by client.
            waiting: entered while a build is waited for.

        Raises:
            AsOfBusy: if too many are being built for this client or at all, or this one takes longer than one
                may wait for it.
            ViewError: if it can't be made.
            LogError: if the log can't be read.
        """
        if self._suspended is not None:
            raise type(self._suspended)(str(self._suspended))
        copy = await self._taken(sequence, client, waiting)
        try:
            yield await self._opened(copy)
        finally:
            copy.users -= 1
            if not copy.users and (copy.stale or self._kept.get(copy.sequence) is not copy):
                await copy.close()  # it was dropped, or the live view was rebuilt, meanwhile
            await self._evict()

    async def _taken(self, sequence: int, client: str, waiting: WaitScope) -> _Copy:
        """A copy, with one more user."""
        while (copy := self._kept.get(sequence)) is None or not copy.path.exists():
            if copy is not None:  # somebody removed its file: it is made again
                await self._drop(copy)
            with waiting():
                await self._built(sequence, client)
        copy.users += 1
        self._kept[sequence] = self._kept.pop(sequence)  # used last
        return copy

    async def _opened(self, copy: _Copy) -> View:
        async with copy.opening:
            if copy.view is None:
                try:
                    copy.view = await View.open(copy.path, readers=ASOF_READERS, live=self._view.path)
                except ViewError:
                    await self._drop(copy)  # whatever is wrong with it: the next one who asks gets another
                    raise
        return copy.view

    async def _drop(self, copy: _Copy) -> None:
        if self._kept.get(copy.sequence) is copy:
            del self._kept[copy.sequence]
            copy.path.unlink(missing_ok=True)
        if not copy.users:
            await copy.close()

    async def _built(self, sequence: int, client: str) -> None:
        """Wait for a build, begun here if nobody else has, no longer than one may."""
        build = self._builds.get(sequence)
        if build is None:
            mine = sum(each == client for each in self._builders.values())
            for count, most in ((mine, ASOF_BUILDS_MAX), (len(self._builds), ASOF_BUILDS_MAX_TOTAL)):
                if count >= most:
                    raise _too_many(count)
            build = self._builds[sequence] = asyncio.create_task(self._build(sequence, client))
            self._builders[sequence] = client
            build.add_done_callback(lambda done: self._ended(sequence, done))
        try:
            async with asyncio.timeout(ASOF_WAIT_SECONDS):
                await asyncio.shield(build)
        except TimeoutError:
            raise AsOfBusy(
                f"the view as of {sequence} is being made, and has come to {self._reached.get(sequence, 0)};"
                " that goes on: ask again in a while",
                retry_after_seconds=ASOF_RETRY_SECONDS,
            ) from None
        except asyncio.CancelledError:
            if not build.cancelled():
                raise  # it is the asker who was cancelled
            raise ViewError(f"the copies in {self._directory} are closed; open them again") from None

    def _ended(self, sequence: int, build: asyncio.Task[None]) -> None:
        del self._builds[sequence], self._builders[sequence]
        if not build.cancelled() and (error := build.exception()) is not None:
            _log.warning("the view as of %d could not be made: %s", sequence, error)

    async def _build(self, sequence: int, client: str) -> None:
        async with self._turns.turn(client):
            base = self._below(sequence)
            distance = sequence - (base.sequence if base is not None else 0)
            if distance > ASOF_NEAR_MAX_EVENTS and self._max_copies > 1:
                # So that points before this one are near to something, too.
                await self._make(sequence - ASOF_NEAR_EVENTS, client, asked=sequence)
            await self._make(sequence, client, asked=sequence)

    async def _make(self, sequence: int, client: str, *, asked: int) -> None:
        if sequence in self._kept:  # another build left it here meanwhile
            return
        base = self._below(sequence)
        if base is not None:
            base.users += 1  # not to be dropped meanwhile
        # Two builds may leave a copy at one sequence: each has a file of its own.
        path = self._directory / f"{_BUILDING}{asked}-{sequence}.sqlite"
        path.unlink(missing_ok=True)
        ingredients = BuildInputs(
            self._log,
            self._epoch,
            self._view.path,
            base.path if base is not None else None,
            base.sequence if base is not None else 0,
        )
        try:
            await in_thread(
                lambda log: build_copy(
                    path,
                    sequence,
                    ingredients._replace(log=log),
                    lambda reached: self._reached.update({asked: reached}),
                ),
                self._log,
                name=f"asof-{sequence}",
            )
            if sequence not in self._kept:
                final = self._directory / f"{self._prefix}{sequence}.sqlite"
                path.rename(final)
                self._kept[sequence] = _Copy(final, sequence, client)
                self.built += 1
        except OSError as error:
            raise ViewUnwritable(
                f"the view as of {sequence} can't be made in {self._directory}: {error.strerror or error};"
                " check space and permissions"
            ) from error
        finally:
            self._reached.pop(asked, None)
            path.unlink(missing_ok=True)
            if base is not None:
                base.users -= 1
        await self._evict()

    def _below(self, sequence: int) -> _Copy | None:
        """The nearest copy at a sequence or before."""
        return max(
            (copy for copy in self._kept.values() if copy.sequence <= sequence and copy.path.exists()),
            key=lambda copy: copy.sequence,
            default=None,
        )

    async def _evict(self) -> None:
        """Drop until the bounds hold what was used longest ago of the client with the most copies.

        What is in use, and the last one, stays.
        """
        while len(self._kept) > self._max_copies or self.size_bytes > self._max_bytes:
            counts = Counter(copy.client for copy in self._kept.values())
            victims = [copy for copy in [*self._kept.values()][:-1] if not copy.users]
            if not victims:
                return
            await self._drop(max(victims, key=lambda copy: counts[copy.client]))  # of equal ones the first

    def _take_up(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        found: list[_Copy] = []
        for path in self._directory.glob("*.sqlite*"):
            number = path.name.removeprefix(self._prefix).removesuffix(".sqlite")
            if path.name.startswith(self._prefix) and number.isdecimal():
                found.append(_Copy(path, int(number)))
            else:
                path.unlink(missing_ok=True)
        for copy in sorted(found, key=lambda copy: copy.path.stat().st_mtime):
            self._kept[copy.sequence] = copy


def _too_many(count: int) -> AsOfBusy:
    return AsOfBusy(
        f"{count} other points are being made ready; ask again in a while",
        retry_after_seconds=ASOF_RETRY_SECONDS,
    )


def _prefix(epoch: str) -> str:
    """What the name of a file that holds begins with."""
    boot = str(uuid.uuid4())  # where the system does not say: nothing outlives the process
    with suppress(OSError):
        boot = _BOOT_ID.read_text().strip()
    made_of = f"{epoch} {PROJECTION_VERSION} {migrations()[-1][0]} {boot}"
    return f"{hashlib.sha256(made_of.encode()).hexdigest()[:16]}-"
