"""The one place where concrete things are put together: settings in, a running service out."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from jobledger.projections.as_of.reader import AsOf
from jobledger.projections.errors import ViewDamaged, WaitTimeout
from jobledger.projections.fair_queue import FairQueue
from jobledger.projections.projector import Projector, ProjectorState
from jobledger.projections.self_check import SelfCheck
from jobledger.projections.subscriptions.admin import Subscriptions
from jobledger.projections.tree_reader import TreeReader
from jobledger.projections.view import View
from jobledger.service.access.tokens import TokenFile
from jobledger.service.audit.accepted import ACCEPTED_FILE, AcceptedFile
from jobledger.service.audit.checkpoint import origin_of
from jobledger.service.audit.keys import KeyFile, read_keys
from jobledger.service.audit.seal_scan import SCAN_FILE
from jobledger.service.audit.sealer import SEALS_FILE, Sealer
from jobledger.service.audit.seals import SealFile
from jobledger.service.cursor import default_source, stream_tag
from jobledger.service.errors import TooManyRequests
from jobledger.service.feed.hub import FeedHub, FeedLimits
from jobledger.service.idempotency import IdempotentWrites
from jobledger.service.limits import (
    OWN_WRITE_WAIT_SECONDS,
    OWN_WRITES_MAX_JOBS,
    QUEUE_MAX_PER_CLIENT,
    VERSIONS_SCANS_MAX,
    VERSIONS_SCANS_MAX_PER_CLIENT,
)
from jobledger.service.log_access import VIEW_FILE, evidence_of, known_of
from jobledger.service.log_witness import ViewWitness
from jobledger.service.metrics import Metrics
from jobledger.service.nats_auth import connection_options
from jobledger.service.settings import Settings
from jobledger.service.stream_record import RECORD_FILE, StreamRecord
from jobledger.service.webhooks.deliverer import Deliverer, SubscribedSource
from jobledger.service.webhooks.registry import Webhooks
from jobledger.service.webhooks.secret_keys import WebhookKeys
from jobledger.service.webhooks.sender import Sender
from jobledger.service.webhooks.targets import Targets
from jobledger.store.embedded import NATS_FOLDER, EmbeddedServer
from jobledger.store.jetstream.declarations import StreamSettings
from jobledger.store.jetstream.heartbeat import LogProbe, replica_id
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.jetstream.stream import StreamReport
from jobledger.store.ledger import Ledger
from jobledger.store.model.subjects import STREAM_NAME


async def open_sealer(
    settings: Settings, log: JetStreamLog, projector: Projector, tree: TreeReader, mark: str
) -> Sealer:
    """A sealer, ready to be started; at the first start of all, its first key is made.

    Raises:
        InvalidSettings: if the file of keys is not ours alone, damaged, or can't be made.
        LogUnavailable: if the log's server does not answer.
        LogUnfit: if the stream of seals can't keep the promises.
    """
    origin = origin_of(mark)
    keys = KeyFile(settings.audit_keys_file)
    keys.ensure(origin)
    read_keys(settings.audit_trusted_keys)  # a mistake there is said at the start
    return Sealer(
        log,
        projector,
        tree,
        await log.seals(mark),
        keys=keys,
        file=SealFile(settings.data_dir / SEALS_FILE),
        accepted=AcceptedFile(settings.data_dir / ACCEPTED_FILE),
        scan_file=settings.data_dir / SCAN_FILE,
        trusted_keys=settings.audit_trusted_keys,
        origin=origin,
        every_events=settings.seal_every_events,
        every_seconds=settings.seal_every_seconds,
    )


_log = logging.getLogger("jobledger.service")

ASOF_FOLDER = "asof"


class OpenWebhooks(NamedTuple):
    """The webhooks of a running service."""

    registry: Webhooks
    sender: Sender
    deliverer: Deliverer


@dataclass(frozen=True, kw_only=True)
class Service:
    """Everything that serves, running; made by `open_service`.

    Attributes:
        settings: how it was started.
        log: the events.
        streams: all Jobledger streams, as they were at the start.
        record: what is known of them in the data directory.
        probe: test appends and reads of the log.
        ledger: commands in.
        projector: keeps the view up with the log.
        view: queries.
        selfcheck: looks for damage in the view's file.
        asof: queries as of an earlier point.
        hub: live feeds.
        tokens: who may do what.
        metrics: what is counted.
        mark: of the stream, for cursors.
        server: the embedded nats-server; None with a server of its own.
        own_writes: what this process has acknowledged.
        idempotent: runs writes, each idempotency key's once.
        tree: roots and proofs of the log's Merkle tree.
        sealer: signs that tree every so often.
        subscriptions: durable ones, as operators see them.
        webhooks: what is sent where, and who sends it.
        draining: set once the service is to end.
        comparing: turns at comparing two specs, or blaming a part of a history.
        scans: turns at reading a job's whole history.
    """

    settings: Settings
    log: JetStreamLog
    streams: tuple[StreamReport, ...]
    record: StreamRecord
    probe: LogProbe
    ledger: Ledger
    projector: Projector
    view: View
    selfcheck: SelfCheck
    asof: AsOf
    hub: FeedHub
    tokens: TokenFile
    metrics: Metrics
    mark: str
    server: EmbeddedServer | None
    own_writes: "OwnWrites"
    idempotent: IdempotentWrites
    tree: TreeReader
    sealer: Sealer
    subscriptions: Subscriptions
    webhooks: OpenWebhooks
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    comparing: FairQueue = field(default_factory=lambda: _turns(1, 1))
    scans: FairQueue = field(
        default_factory=lambda: _turns(VERSIONS_SCANS_MAX, VERSIONS_SCANS_MAX_PER_CLIENT)
    )


def _turns(slots: int, per_client: int) -> FairQueue:
    return FairQueue(
        slots, per_client=per_client, waiting_per_client=QUEUE_MAX_PER_CLIENT, refusal=_too_many_wait
    )


def _too_many_wait(waiting: int) -> TooManyRequests:
    return TooManyRequests(f"{waiting} such requests of this client wait for their turn; try again later")


class OwnWrites:
    """Lets a read on the process that answered a write see that write.

    Clients create a job and read it at once, without `wait_for`; a 404 would be wrong then. A read waits a
    moment for the view (`visible`); a job that the view still `lacks` is read from the log.
    """

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self._sequence = 0
        self._unseen: dict[str, int] = {}  # the last event of a job that the view may lack; oldest first
        self._forgotten = 0  # the last event of all jobs that `_unseen` had no room for

    def note(self, job_id: str, sequence: int) -> None:
        """Remember that a client was answered with this event of a job."""
        seen = self._projector.sequence
        if sequence <= seen:
            return
        self._sequence = max(self._sequence, sequence)
        self._unseen[job_id] = max(sequence, self._unseen.pop(job_id, 0))
        while self._unseen:
            oldest = next(iter(self._unseen))
            if self._unseen[oldest] > seen:
                if len(self._unseen) <= OWN_WRITES_MAX_JOBS:
                    break
                self._forgotten = max(self._forgotten, self._unseen[oldest])
            del self._unseen[oldest]

    def lacks(self, job_id: str, checkpoint: int) -> bool:
        """Whether a view at this checkpoint lacks an event of this job that a client was answered with."""
        return checkpoint < max(self._forgotten, self._unseen.get(job_id, 0))

    def lacks_any(self, checkpoint: int) -> bool:
        """Whether a view at this checkpoint lacks such an event of any job."""
        return checkpoint < self._sequence

    async def visible(self) -> None:
        """Wait until the view has all of them, for OWN_WRITE_WAIT_SECONDS at most."""
        if self._projector.state in (ProjectorState.REBUILDING, ProjectorState.WAITING):
            return  # it takes longer than that: a single job is read from the log instead
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
        InvalidSettings: if `webhook_allow` has something else than networks and hosts.
        StoreDamaged: if the embedded server can't read everything that was in its files.
        LogUnavailable: if no server answers.
        LogError: if the log can't keep the promises, or is not the one that the view was made from.
        ViewError: if the view's file can't be used.
    """
    metrics = Metrics()
    tokens, targets = TokenFile(settings.tokens_file), Targets(settings.webhook_allow)
    async with AsyncExitStack() as stack:
        witness = ViewWitness(settings.data_dir / VIEW_FILE, STREAM_NAME)
        server, log, streams = await _open_log(stack, settings, witness)
        record = StreamRecord(settings.data_dir / RECORD_FILE)
        found, was_recorded = await record.verify(log.report_streams)
        record.replace(found)  # not `streams`, which a server that was behind may have reported
        epoch = (await log.info()).epoch
        mark = stream_tag(epoch)
        path = settings.data_dir / VIEW_FILE
        # The log is the recorded one, so a view of another log is a file in the wrong place.
        projector = Projector(log, path, epoch=epoch if was_recorded else None)
        if witness.problem:
            projector.report_damage(ViewDamaged(witness.problem))
        await stack.enter_async_context(projector)
        view = await stack.enter_async_context(await View.open(path))
        view.pool.on_damage = projector.report_damage
        await projector.serve(view.pool)
        selfcheck = SelfCheck(log, projector, path, every_seconds=settings.view_check_seconds)
        stack.push_async_callback(selfcheck.close)
        selfcheck.start()
        draining = asyncio.Event()
        limits = FeedLimits(feeds_per_client=settings.feeds_per_client)
        source = settings.event_source or default_source(mark)
        hub = FeedHub(log, view, mark=mark, source=source, draining=draining, limits=limits)
        stack.push_async_callback(hub.close)
        projector.attach(hub)
        tree = TreeReader(view)
        sealer = await open_sealer(settings, log, projector, tree, mark)
        stack.push_async_callback(sealer.close)
        metrics.seals.watch(sealer)
        sealer.start()
        asof = await _open_asof(stack, settings, log, view)
        await projector.serve(asof.copies)
        metrics.asof.watch(asof.copies)
        subscriptions = _open_subscriptions(stack, log, metrics)
        webhooks = await _open_webhooks(
            stack,
            log,
            subscriptions,
            metrics,
            settings=settings,
            targets=targets,
            draining=draining,
            source=source,
        )
        yield Service(
            settings=settings,
            log=log,
            streams=streams,
            record=record,
            probe=log.probe(replica_id(settings.data_dir)),
            ledger=Ledger(log),
            projector=projector,
            view=view,
            selfcheck=selfcheck,
            asof=asof,
            hub=hub,
            tokens=tokens,
            metrics=metrics,
            mark=mark,
            server=server,
            own_writes=OwnWrites(projector),
            idempotent=IdempotentWrites(await log.key_value("KEYS"), mark, refusal=lambda: log.refusal),
            tree=tree,
            sealer=sealer,
            subscriptions=subscriptions,
            webhooks=webhooks,
            draining=draining,
        )


async def _open_log(
    stack: AsyncExitStack, settings: Settings, witness: ViewWitness
) -> tuple[EmbeddedServer | None, JetStreamLog, tuple[StreamReport, ...]]:
    """The log, the embedded server that it is on, if it is on one, and the streams as they were found."""
    server: EmbeddedServer | None = None
    url = settings.nats_url
    if not url:
        known = await known_of(settings)
        embedded = EmbeddedServer(settings.data_dir / NATS_FOLDER, known=known, witness=witness)
        server = await stack.enter_async_context(embedded)
        url = server.url
    stream = StreamSettings(replicas=settings.stream_replicas)
    evidence = evidence_of(settings)
    log = await JetStreamLog.connect(url, stream, evidence=evidence, **connection_options(settings))
    stack.push_async_callback(log.close)
    streams = await log.prepare_streams()
    if server is not None and any("compression" in each.changed for each in streams):
        # Until then nats-server goes on compressing the blocks of a stream whose compression is off.
        await server.restart("the compression of its streams was turned off")
        streams = await log.prepare_streams()
    return server, log, streams


async def _open_asof(stack: AsyncExitStack, settings: Settings, log: JetStreamLog, view: View) -> AsOf:
    opened = await AsOf.open(
        log,
        view,
        settings.data_dir / ASOF_FOLDER,
        max_copies=settings.asof_max_copies,
        max_bytes=settings.asof_max_bytes,
    )
    return await stack.enter_async_context(opened)


async def _open_webhooks(
    stack: AsyncExitStack,
    log: JetStreamLog,
    subscriptions: Subscriptions,
    metrics: Metrics,
    *,
    settings: Settings,
    targets: Targets,
    draining: asyncio.Event,
    source: str,
) -> OpenWebhooks:
    keys = WebhookKeys(settings.webhook_keys_file)
    keys.ensure()
    # In a stream of their own: subscribers may read the subscriptions' records, and these contain secrets.
    registry, sender = Webhooks(await log.key_value("WEBHOOKS"), targets, keys), Sender(targets)
    deliverer = Deliverer(
        registry, SubscribedSource(log, subscriptions, source), sender, metrics.webhooks, draining
    )
    deliverer.start()
    stack.push_async_callback(deliverer.close)
    return OpenWebhooks(registry, sender, deliverer)


def _open_subscriptions(stack: AsyncExitStack, log: JetStreamLog, metrics: Metrics) -> Subscriptions:
    subscriptions = Subscriptions(log)
    metrics.subscriptions.watch(subscriptions)
    stack.push_async_callback(metrics.subscriptions.close)
    return subscriptions
