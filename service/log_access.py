"""Opens the log for a command, without the HTTP service.

    nats_url is set ──────────────────────────────► those servers, with the credentials of the settings
    a service runs on data_dir ───────────────────► its embedded server (`store/local_service`)
    data_dir contains a log, and no service runs ─► an embedded server for the duration of the command
    otherwise ────────────────────────────────────► an error that names the settings

A service may start or stop meanwhile, so a conflict with one is retried for a bounded time.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final, TypeVar

from jobledger.service.limits import LOG_ACCESS_TIMEOUT_SECONDS, LOG_ACCESS_WAIT_SECONDS
from jobledger.service.nats_auth import connection_options
from jobledger.service.settings import Settings
from jobledger.service.stream_record import evidence_in, known_in
from jobledger.store.embedded import NATS_FOLDER, EmbeddedServer
from jobledger.store.embedded.proof import Known
from jobledger.store.jetstream.declarations import StreamSettings
from jobledger.store.jetstream.log import JetStreamLog
from jobledger.store.jetstream.stream import AcceptLoss, EvidenceSource, StreamReport
from jobledger.store.local_service import find_connection
from jobledger.store.model.errors import EmbeddedServerError, EmbeddedServerInUse, LogUnavailable

Answer = TypeVar("Answer")

VIEW_FILE: Final = "view.sqlite"
_STORE_FOLDER: Final = "jetstream"  # created by nats-server with the first stream


@asynccontextmanager
async def open_log(
    settings: Settings, *, create: bool = False, accept_loss: AcceptLoss | None = None
) -> AsyncIterator[JetStreamLog]:
    """Open the log of these settings for the block.

    Args:
        settings: `nats_url` and the other settings of the connection, otherwise `data_dir`.
        create: start an embedded server on `data_dir` even if it contains no log.
        accept_loss: called with each lost stream; then a new one is created.

    Raises:
        LogMissing: the log existed, and is missing.
        LogUnavailable: there is no log, or its servers do not answer.
        EmbeddedServerError: the embedded server on `data_dir` can be neither reached nor started.
        InvalidSettings: a file that a setting names can't be used.
        LogUnfit: the server or the stream can't keep the guarantees.
    """
    async with AsyncExitStack() as stack:
        if settings.nats_url:
            stream = StreamSettings(replicas=settings.stream_replicas)
            log = await JetStreamLog.connect(
                settings.nats_url,
                stream,
                evidence=evidence_of(settings),
                accept_loss=accept_loss,
                **connection_options(settings),
            )
        else:
            if not create and not log_is_served(settings) and not log_exists(settings):
                raise LogUnavailable(
                    f"no log to read: nats_url is not set, and data_dir {settings.data_dir} contains none;"
                    " pass the NATS servers with --nats-url, or the service's directory with --data-dir"
                )

            async def connect(url: str) -> JetStreamLog:
                evidence = evidence_of(settings)
                return await JetStreamLog.connect(url, evidence=evidence, accept_loss=accept_loss)

            log = await _embedded(settings, stack, connect)
        stack.push_async_callback(log.close)
        yield log


def evidence_of(settings: Settings) -> EvidenceSource:
    """Return the evidence in the data directory of these settings that missing streams existed."""
    data_dir = settings.data_dir
    return evidence_in(data_dir, store=data_dir / NATS_FOLDER, view=data_dir / VIEW_FILE)


async def known_of(settings: Settings) -> dict[str, Known]:
    """Return what the data directory proves about the streams of its embedded server."""
    return await known_in(settings.data_dir, view=settings.data_dir / VIEW_FILE)


def log_is_served(settings: Settings) -> bool:
    """Whether the log is served: by the servers of `nats_url`, or by a service on `data_dir`.

    Raises:
        EmbeddedServerError: the connection file in `data_dir` can't be trusted.
    """
    return bool(settings.nats_url) or find_connection(settings.data_dir / NATS_FOLDER) is not None


def log_exists(settings: Settings) -> bool:
    """Whether `data_dir` contains a log."""
    return (settings.data_dir / NATS_FOLDER / _STORE_FOLDER).is_dir()


async def report_streams_of(settings: Settings) -> tuple[StreamReport, ...]:
    """Return the existing streams, even if the log is missing; nothing is created or changed.

    Raises:
        LogError: the servers do not answer, or refuse the request.
        EmbeddedServerError: the embedded server on `data_dir` can be neither reached nor started.
        StoreDamaged: the embedded server can't read all of its files.
    """
    if settings.nats_url:
        return await JetStreamLog.look(settings.nats_url, **connection_options(settings))
    if not log_exists(settings) and not log_is_served(settings):
        return ()
    async with AsyncExitStack() as stack:
        return await _embedded(settings, stack, JetStreamLog.look)


async def _embedded(
    settings: Settings, stack: AsyncExitStack, connect: Callable[[str], Awaitable[Answer]]
) -> Answer:
    """Call `connect` with the embedded server on `data_dir`; the server is started if it does not run."""
    directory = settings.data_dir / NATS_FOLDER
    deadline = asyncio.get_running_loop().time() + LOG_ACCESS_TIMEOUT_SECONDS
    while True:
        try:
            url = find_connection(directory)
            if url is None:
                _check_owner(directory)
                known = await known_of(settings)
                in_memory = settings.batch_staging == "memory"
                embedded = EmbeddedServer(directory, known=known, stage_in_memory=in_memory)
                url = (await stack.enter_async_context(embedded)).url
            return await connect(url)
        except (EmbeddedServerInUse, LogUnavailable):  # it is just starting, stopping or restarting
            if asyncio.get_running_loop().time() >= deadline:
                raise
        await stack.aclose()
        await asyncio.sleep(LOG_ACCESS_WAIT_SECONDS)


def _check_owner(directory: Path) -> None:
    """Check the owner: files written as another user would be unwritable for the service.

    Raises:
        EmbeddedServerError: the directory belongs to another user.
    """
    if not directory.exists():
        return
    owner = directory.stat().st_uid
    if owner != os.geteuid():
        raise EmbeddedServerError(
            f"{directory} belongs to user {owner}, and no service runs on it: run the command as that user,"
            " or start the service first"
        )
