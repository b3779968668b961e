"""The process of a worker: `python -m jobledger.service.workers.process SOCKET POSITIONS`.

The owner starts it. Both arguments are inherited file descriptors. It ends when the owner asks for it
(`Drain`), on SIGTERM, and when the owner has ended; in each case it accepts no new connection and answers the
requests in flight.
"""

import asyncio
import logging
import os
import socket
import sys

from jobledger.service.api.app import create_app
from jobledger.service.logs import configure_logs
from jobledger.service.server import event_loop
from jobledger.service.server.http_server import HttpServer, allow_many_files
from jobledger.service.server.serve import (
    ShutdownSignals,
    drain,
    freeze_gc,
    run_background,
    shorten_thread_switches,
)
from jobledger.service.wiring import open_worker
from jobledger.service.workers.channel import Channel
from jobledger.service.workers.link import OwnerLink
from jobledger.service.workers.messages import Serving
from jobledger.store.model.errors import JobledgerError

_log = logging.getLogger("jobledger.workers")


async def run(sock: socket.socket, positions_fd: int) -> int:
    """Serve until the end; returns the exit code.

    Raises:
        JobledgerError: the worker could not start.
    """
    ending = ShutdownSignals()
    ending.listen()
    link = OwnerLink(positions_fd)
    link.channel = await Channel.open(sock, link.handle)
    start = await link.started()
    settings = start.settings
    configure_logs(settings.log_level, settings.log_format, worker=start.number)
    allow_many_files()
    async with open_worker(start, link) as service:
        http = await HttpServer.start(create_app(service), settings, start.address, shared_port=start.port)
        link.in_flight = lambda: http.in_flight
        ending.starting = None
        background = asyncio.create_task(run_background(service))
        try:
            freeze_gc()
            shorten_thread_switches()
            await service.monitor.observe()
            link.channel.post(Serving())
            code = await _until_ended(http, link, ending)
            code = await drain(service, http, settings.drain_timeout_seconds) or code
        finally:
            background.cancel()
            await asyncio.gather(background, return_exceptions=True)
            await http.stop()
    await link.channel.close()
    return code


async def _until_ended(http: HttpServer, link: OwnerLink, ending: ShutdownSignals) -> int:
    """Wait for a reason to end; returns a nonzero exit code if it is a failure."""
    asked = [asyncio.create_task(event.wait()) for event in (ending.requested, link.drained)]
    gone = asyncio.create_task(link.channel.closed.wait())
    unable = asyncio.create_task(link.failed.wait())
    failed = asyncio.create_task(http.wait_ended())
    tasks = [*asked, gone, unable, failed]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if any(task.done() for task in asked):
            return 0
        if unable.done():
            _log.error("%s: ending, to be replaced", link.failure)
        elif failed.done():
            _log.error("the HTTP server failed: %s", failed.exception() or "it ended unexpectedly")
        else:
            _log.error("the owner process has ended: ending")
        return 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def main() -> None:
    """Run a worker."""
    sock, positions_fd = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    try:
        code = event_loop.run(run(sock, positions_fd))
    except (JobledgerError, asyncio.CancelledError) as error:
        _log.error("a worker can't start: %s", error)
        code = 1
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)  # as `jobledger serve`: threads of the HTTP server may still be ending


if __name__ == "__main__":
    main()
