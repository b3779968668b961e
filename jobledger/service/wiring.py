"""The one place where concrete things are put together: settings in, a running service out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field

from jobledger.projections.errors import WaitTimeout
from jobledger.projections.projector import Projector
from jobledger.projections.view import View
from jobledger.service.access.tokens import TokenFile
from jobledger.service.feed.hub import FeedHub, FeedLimits
from jobledger.service.idempotency import IdempotentWrites
from jobledger.service.limits import OWN_WRITE_WAIT_SECONDS, VERSIONS_SCANS_MAX
from jobledger.service.metrics import Metrics
from jobledger.service.natsauth import connection_options
from jobledger.service.position import epoch_mark
from jobledger.service.settings import Settings
from jobledger.store.embedded import EmbeddedServer
from jobledger.store.jetstream.adapter import JetStreamLog
from jobledger.store.jetstream.stream import StreamSettings
from jobledger.store.ledger import Ledger

VIEW_FILE = "view.sqlite"
NATS_FOLDER = "nats"


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything that serves, running; made by `open_service`.

    Attributes:
        settings: how it was started.
        log: the events.
        ledger: commands in.
        projector: keeps the view up with the log.
        view: queries.
        hub: live feeds.
        tokens: who may do what.
        metrics: what is counted.
        mark: of the stream, for cursors.
        server: the embedded nats-server; None with a server of its own.
        own_writes: what this process has acknowledged.
        idempotent: runs writes, each idempotency key's once.
        draining: set once the service is to end.
        comparing: held while two specs are compared.
        scans: held while a job's whole history is read.
    """

    settings: Settings
    log: JetStreamLog
    ledger: Ledger
    projector: Projector
    view: View
    hub: FeedHub
    tokens: TokenFile
    metrics: Metrics
    mark: str
    server: EmbeddedServer | None
    own_writes: "OwnWrites"
    idempotent: IdempotentWrites
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    comparing: asyncio.Lock = field(default_factory=asyncio.Lock)
    scans: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(VERSIONS_SCANS_MAX))


class OwnWrites:
    """Lets a read on the process that acknowledged a write see that write.

    Clients create a job and read it at once, without saying `wait_for`; a 404 then would be a riddle.
    """

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._sequence = 0

    def note(self, sequence: int) -> None:
        """Remember that this event was acknowledged here."""
        self._sequence = max(self._sequence, sequence)

    async def visible(self) -> None:
        """Wait until the view has all of them, within OWN_WRITE_WAIT_SECONDS; then read what there is."""
        if self._projector.sequence < self._sequence:
            with suppress(WaitTimeout):
                await self._projector.wait_for(self._sequence, OWN_WRITE_WAIT_SECONDS)


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Start what serves, in order, and end it in the opposite order.

    Args:
        settings: checked.

    Raises:
        EmbeddedServerError: if the embedded server does not start, or its directory is in use.
        LogUnavailable: if no server answers.
        LogError: if the log can't keep the promises, or is not the one that the view was made from.
        ViewError: if the view's file can't be used.
    """
    metrics = Metrics()
    tokens = TokenFile(settings.tokens_file)
    async with AsyncExitStack() as stack:
        server: EmbeddedServer | None = None
        url = settings.nats_url
        if not url:
            server = await stack.enter_async_context(EmbeddedServer(settings.data_dir / NATS_FOLDER))
            url = server.url
        stream = StreamSettings(replicas=settings.stream_replicas)
        log = await JetStreamLog.connect(url, stream, **connection_options(settings))
        stack.push_async_callback(log.close)
        mark = epoch_mark((await log.info()).epoch)
        path = settings.data_dir / VIEW_FILE
        projector = Projector(log, path)
        await stack.enter_async_context(projector)
        view = await stack.enter_async_context(await View.open(path))
        draining = asyncio.Event()
        limits = FeedLimits(feeds_per_client=settings.feeds_per_client)
        hub = FeedHub(log, view, mark=mark, draining=draining, limits=limits)
        stack.push_async_callback(hub.close)
        projector.attach(hub)
        yield Service(
            settings=settings,
            log=log,
            ledger=Ledger(log),
            projector=projector,
            view=view,
            hub=hub,
            tokens=tokens,
            metrics=metrics,
            mark=mark,
            server=server,
            own_writes=OwnWrites(projector),
            idempotent=IdempotentWrites(await log.keys(), mark),
            draining=draining,
        )
