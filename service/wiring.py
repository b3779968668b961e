"""The composition root: the only module that puts concrete objects together."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

from jobledger.projections.as_of.reader import AsOf
from jobledger.projections.errors import ViewDamaged
from jobledger.projections.fair_queue import FairQueue
from jobledger.projections.pool import ReaderPool
from jobledger.projections.projector import Projector
from jobledger.projections.self_check import SelfCheck
from jobledger.projections.subscriptions.admin import Subscriptions
from jobledger.projections.tree_reader import TreeReader
from jobledger.projections.view import View
from jobledger.projections.view_jobs import ViewJobs
from jobledger.service.access.sessions import Sessions
from jobledger.service.access.tokens import TokenFile
from jobledger.service.audit.accepted_logs import ACCEPTED_FILE, AcceptedFile
from jobledger.service.audit.keys import KeyFile, read_keys
from jobledger.service.audit.model.checkpoint import origin_of
from jobledger.service.audit.seal_scan import SCAN_FILE
from jobledger.service.audit.sealer import SEALS_FILE, Sealer
from jobledger.service.audit.seals import SealFile
from jobledger.service.cursor import default_source, stream_tag
from jobledger.service.errors import TooManyRequests
from jobledger.service.feed.hub import FeedHub, FeedLimits
from jobledger.service.histogram import EventTimes
from jobledger.service.idempotency import IdempotentWrites
from jobledger.service.job_answers import JobAnswers
from jobledger.service.limits import (
    FEEDS_MAX,
    QUEUE_MAX_PER_CLIENT,
    VERSIONS_SCANS_MAX,
    VERSIONS_SCANS_MAX_PER_CLIENT,
)
from jobledger.service.log_access import VIEW_FILE, evidence_of, known_of
from jobledger.service.log_witness import ViewWitness
from jobledger.service.metrics import Metrics
from jobledger.service.nats_auth import connection_options
from jobledger.service.own_writes import OwnWrites, SharedOwnWrites
from jobledger.service.server.monitor import Monitor
from jobledger.service.settings import Settings
from jobledger.service.stream_record import RECORD_FILE, StreamRecord
from jobledger.service.webhooks.deliverer import Deliverer, SubscribedSource
from jobledger.service.webhooks.registry import Webhooks
from jobledger.service.webhooks.secret_keys import WebhookKeys
from jobledger.service.webhooks.sender import Sender
from jobledger.service.webhooks.targets import Targets
from jobledger.service.workers.families import families_of
from jobledger.service.workers.link import (
    OwnerLink,
    OwnersPart,
    RemoteMonitor,
    RemoteProjector,
)
from jobledger.service.workers.messages import Start
from jobledger.service.workers.positions import OWNER, SharedPositions
from jobledger.store.embedded import NATS_FOLDER, EmbeddedServer
from jobledger.store.jetstream.declarations import StreamSettings
from jobledger.store.jetstream.heartbeat import LogProbe, replica_id
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.jetstream.stream import StreamReport
from jobledger.store.ledger import Ledger
from jobledger.store.model.subjects import STREAM_NAME

ASOF_FOLDER = "asof"
_SCANS: Final = (VERSIONS_SCANS_MAX, VERSIONS_SCANS_MAX_PER_CLIENT)
SESSIONS_FILE = "sessions.json"


class OpenWebhooks(NamedTuple):
    """The webhooks of a running service."""

    registry: Webhooks
    sender: Sender
    deliverer: Deliverer


@dataclass(frozen=True, kw_only=True)
class Service:
    """A running service; made by `open_service`.

    Attributes:
        streams: all Jobledger streams, as they were at the start.
        record: the streams as recorded in the data directory.
        probe: test appends and reads of the log.
        selfcheck: checks the view's file for damage.
        asof: queries as of an earlier point.
        stream_tag: the tag of the stream, for cursors.
        server: the embedded nats-server; None if `nats_url` is set.
        owner: the connection to the owner; None if this process is the owner, or the only one.
        positions: shared with the workers; None if there are none.
        processes: how many processes of this service answer requests; each limit is divided by it.
        answers: the encoded answers to reads of jobs; a worker does not know which jobs change, and keeps
            none.
        draining: set when the service starts to shut down.
        comparing: the queue for comparisons of two specs, and for blame.
        scans: the queue for reads of a job's whole history.
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
    sessions: Sessions
    metrics: Metrics
    stream_tag: str
    server: EmbeddedServer | None
    own_writes: OwnWrites
    event_times: EventTimes
    idempotent: IdempotentWrites
    tree: TreeReader
    sealer: Sealer
    subscriptions: Subscriptions
    webhooks: OpenWebhooks
    owner: OwnerLink | None = None
    positions: SharedPositions | None = None
    processes: int = 1
    answers: JobAnswers = field(default_factory=lambda: JobAnswers(0))
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    comparing: FairQueue = field(default_factory=lambda: _queue(1, 1))
    scans: FairQueue = field(default_factory=lambda: _queue(*_SCANS))

    @cached_property
    def monitor(self) -> Monitor:
        """Observes this service for `/readyz`, `/metrics` and the log."""
        return Monitor(self)


@dataclass(frozen=True, kw_only=True)
class WorkerService(Service):
    """The service as a worker has it: the parts that only the owner has are stand-ins."""

    @cached_property
    def monitor(self) -> Monitor:
        """The checks of the owner, and of this worker."""
        assert self.owner is not None
        remote: Any = RemoteMonitor(self.owner, self.log, self.tokens, self.draining)
        monitor: Monitor = remote
        return monitor


def _queue(slots: int, per_client: int) -> FairQueue:
    return FairQueue(
        slots, per_client=per_client, waiting_per_client=QUEUE_MAX_PER_CLIENT, refusal=_queue_full
    )


def _queue_full(waiting: int) -> TooManyRequests:
    return TooManyRequests(f"{waiting} such requests of this client are already queued; try again later")


@asynccontextmanager
async def open_service(settings: Settings) -> AsyncIterator[Service]:
    """Starts the parts of a service in order, and stops them in reverse order.

    Raises:
        EmbeddedServerError: the embedded server does not start, or its directory is in use.
        InvalidSettings: a setting, or a file that a setting names, can't be used.
        StoreDamaged: the embedded server can't read all of its files.
        LogUnavailable: no server answers.
        LogError: the log can't keep its guarantees, or is not the one that was recorded.
        ViewError: the view's file can't be used.
    """
    metrics, draining = Metrics(), asyncio.Event()
    tokens, targets = TokenFile(settings.tokens_file), Targets(settings.webhook_allow)
    async with AsyncExitStack() as stack:
        positions = SharedPositions.create(settings.workers) if settings.workers > 1 else None
        if positions is not None:
            stack.callback(positions.close)
        witness = ViewWitness(settings.data_dir / VIEW_FILE, STREAM_NAME)
        server, log, streams = await _open_log(stack, settings, witness)
        record, recorded_epoch = await _verify_record(settings, log)
        tag = stream_tag((await log.info()).epoch)
        source = settings.event_source or default_source(tag)
        projector, view = await _open_view(stack, settings, log, witness, recorded_epoch)
        tree = TreeReader(view)
        hub = _open_hub(stack, settings, log, view, tag=tag, source=source, draining=draining)
        projector.attach(hub)
        answers = JobAnswers() if settings.workers == 1 else JobAnswers(0)  # an owner answers no requests
        projector.watch_rows(answers)
        subscriptions = _open_subscriptions(stack, log, metrics)
        service = Service(
            settings=settings,
            log=log,
            streams=streams,
            record=record,
            probe=log.probe(replica_id(settings.data_dir)),
            ledger=Ledger(log, known=ViewJobs(view, log)),
            projector=projector,
            view=view,
            selfcheck=_open_selfcheck(stack, settings, log, projector),
            asof=await _open_asof(stack, settings, log, view, projector=projector, metrics=metrics),
            hub=hub,
            tokens=tokens,
            sessions=Sessions(settings.data_dir / SESSIONS_FILE, tokens),
            metrics=metrics,
            stream_tag=tag,
            server=server,
            own_writes=(
                OwnWrites(projector) if positions is None else SharedOwnWrites(projector, positions, OWNER)
            ),
            positions=positions,
            event_times=EventTimes(log),
            idempotent=IdempotentWrites(await log.key_value("KEYS"), tag, refusal=lambda: log.refusal),
            tree=tree,
            sealer=await _open_sealer(
                stack, settings, log, projector=projector, tree=tree, metrics=metrics, tag=tag
            ),
            subscriptions=subscriptions,
            webhooks=await _open_webhooks(
                stack,
                log,
                subscriptions,
                metrics,
                settings=settings,
                targets=targets,
                draining=draining,
                source=source,
            ),
            answers=answers,
            draining=draining,
        )
        metrics.state.watch(service.monitor)
        stack.push_async_callback(service.monitor.close)
        yield service


@asynccontextmanager
async def open_worker(start: Start, link: OwnerLink) -> AsyncIterator[WorkerService]:
    """Starts the parts of a worker, and stops them in reverse order.

    Args:
        start: the owner's first message.
        link: to the owner.

    Raises:
        LogUnavailable: no server answers.
        LogError: the log can't keep its guarantees.
        ViewError: the view's file can't be used.
    """
    settings, metrics, draining = start.settings, Metrics(), asyncio.Event()
    remote = link.projector
    assert remote is not None  # made with the first message
    async with AsyncExitStack() as stack:
        stack.callback(remote.positions.close)
        log = await JetStreamLog.connect(
            start.url,
            StreamSettings(replicas=settings.stream_replicas),
            evidence=evidence_of(settings),
            **(connection_options(settings) if settings.nats_url else {}),
        )
        stack.push_async_callback(log.close)
        tag = stream_tag((await log.info()).epoch)
        view = await _open_worker_view(stack, settings.data_dir / VIEW_FILE, remote)
        source = settings.event_source or default_source(tag)
        hub = _open_hub(
            stack, settings, log, view, tag=tag, source=source, draining=draining, processes=start.workers
        )
        remote.attach(hub)
        # Typed as what they stand for: handlers need not know in which process they run.
        projector: Any = remote
        owners: Any = OwnersPart()
        tokens = TokenFile(settings.tokens_file, requires_tokens=start.requires_tokens)
        service = WorkerService(
            settings=settings,
            log=log,
            streams=(),
            record=owners,
            probe=owners,
            ledger=Ledger(log, known=ViewJobs(view, log)),
            projector=projector,
            view=view,
            selfcheck=owners,
            asof=AsOf(log, view, owners),
            hub=hub,
            tokens=tokens,
            sessions=Sessions(settings.data_dir / SESSIONS_FILE, tokens),
            metrics=metrics,
            stream_tag=tag,
            server=None,
            event_times=EventTimes(log),
            own_writes=SharedOwnWrites(projector, remote.positions, start.number),
            idempotent=IdempotentWrites(await log.key_value("KEYS"), tag, refusal=lambda: log.refusal),
            tree=TreeReader(view),
            sealer=owners,
            subscriptions=Subscriptions(log),
            webhooks=owners,
            owner=link,
            processes=start.workers,
            draining=draining,
            scans=_queue(*(max(1, each // start.workers) for each in _SCANS)),
        )
        metrics.source = owners
        link.collect = lambda: families_of(metrics.registry)
        stack.push_async_callback(service.monitor.close)
        yield service


async def _open_worker_view(stack: AsyncExitStack, path: Path, projector: RemoteProjector) -> View:
    opened: list[View] = []

    async def open_pool() -> ReaderPool:
        opened.append(await stack.enter_async_context(await View.open(path)))
        return opened[0].pool

    await projector.open_view(open_pool)
    return opened[0]


async def _open_log(
    stack: AsyncExitStack, settings: Settings, witness: ViewWitness
) -> tuple[EmbeddedServer | None, JetStreamLog, tuple[StreamReport, ...]]:
    server: EmbeddedServer | None = None
    url = settings.nats_url
    if not url:
        known = await known_of(settings)
        embedded = EmbeddedServer(
            settings.data_dir / NATS_FOLDER,
            known=known,
            witness=witness,
            stage_in_memory=settings.batch_staging == "memory",
        )
        server = await stack.enter_async_context(embedded)
        url = server.url
    stream = StreamSettings(replicas=settings.stream_replicas)
    evidence = evidence_of(settings)
    log = await JetStreamLog.connect(url, stream, evidence=evidence, **connection_options(settings))
    stack.push_async_callback(log.close)
    streams = await log.prepare_streams()
    if server is not None and any("compression" in each.changed for each in streams):
        # nats-server keeps compressing the blocks of a stream until it is restarted.
        await server.restart("the compression of its streams was turned off")
        streams = await log.prepare_streams()
    if server is not None:
        await server.stage()
    return server, log, streams


async def _verify_record(settings: Settings, log: JetStreamLog) -> tuple[StreamRecord, str | None]:
    """Compares the streams with the record; returns the record and the log's epoch if it was recorded."""
    record = StreamRecord(settings.data_dir / RECORD_FILE)
    verified = await record.verify(log.report_streams)
    record.replace(verified.streams)  # not the report of `prepare_streams`: that server may have been behind
    return record, (await log.info()).epoch if verified.was_recorded else None


async def _open_view(
    stack: AsyncExitStack,
    settings: Settings,
    log: JetStreamLog,
    witness: ViewWitness,
    recorded_epoch: str | None,
) -> tuple[Projector, View]:
    path = settings.data_dir / VIEW_FILE
    # If the log is the recorded one, a view of another log is a misplaced file.
    projector = Projector(log, path, epoch=recorded_epoch)
    if witness.problem:
        projector.report_damage(ViewDamaged(witness.problem))
    await stack.enter_async_context(projector)
    view = await stack.enter_async_context(await View.open(path))
    view.pool.on_damage = projector.report_damage
    await projector.add_view_reader(view.pool)
    return projector, view


def _open_selfcheck(
    stack: AsyncExitStack, settings: Settings, log: JetStreamLog, projector: Projector
) -> SelfCheck:
    path, every_seconds = settings.data_dir / VIEW_FILE, settings.view_check_seconds
    selfcheck = SelfCheck(log, projector, path, every_seconds=every_seconds)
    stack.push_async_callback(selfcheck.close)
    selfcheck.start()
    return selfcheck


def _open_hub(
    stack: AsyncExitStack,
    settings: Settings,
    log: JetStreamLog,
    view: View,
    *,
    tag: str,
    source: str,
    draining: asyncio.Event,
    processes: int = 1,
) -> FeedHub:
    limits = FeedLimits(feeds=FEEDS_MAX // processes, feeds_per_client=settings.feeds_per_client // processes)
    hub = FeedHub(log, view, tag=tag, source=source, draining=draining, limits=limits)
    stack.push_async_callback(hub.close)
    return hub


async def _open_sealer(
    stack: AsyncExitStack,
    settings: Settings,
    log: JetStreamLog,
    *,
    projector: Projector,
    tree: TreeReader,
    metrics: Metrics,
    tag: str,
) -> Sealer:
    """Starts the sealer; the first start creates its first key."""
    origin = origin_of(tag)
    keys = KeyFile(settings.audit_keys_file)
    keys.ensure(origin)
    read_keys(settings.audit_trusted_keys)  # reports a mistake there at the start
    sealer = Sealer(
        log,
        projector,
        tree,
        await log.seals(tag),
        keys=keys,
        file=SealFile(settings.data_dir / SEALS_FILE),
        accepted=AcceptedFile(settings.data_dir / ACCEPTED_FILE),
        scan_file=settings.data_dir / SCAN_FILE,
        trusted_keys=settings.audit_trusted_keys,
        origin=origin,
        every_events=settings.seal_every_events,
        every_seconds=settings.seal_every_seconds,
    )
    stack.push_async_callback(sealer.close)
    metrics.seals.watch(sealer)
    sealer.start()
    return sealer


async def _open_asof(
    stack: AsyncExitStack,
    settings: Settings,
    log: JetStreamLog,
    view: View,
    *,
    projector: Projector,
    metrics: Metrics,
) -> AsOf:
    opened = await AsOf.open(
        log,
        view,
        settings.data_dir / ASOF_FOLDER,
        max_copies=settings.asof_max_copies,
        max_bytes=settings.asof_max_bytes,
    )
    asof = await stack.enter_async_context(opened)
    await projector.add_view_reader(asof.snapshots)
    metrics.asof.watch(asof.snapshots)
    return asof


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
