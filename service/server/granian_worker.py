"""Granian's worker for an ASGI app, which may answer requests on the server's thread.

    Granian's runtime ──► its Python thread ──► the event loop: the app's `__call__`
    (Rust: connections)     makes the scope,
                            offers it to `answer_now`

Granian calls a scheduler on its Python thread for each request, which passes the request to the event loop.
Ours offers the request to `answer_now` first: to wake the event loop and to start a task takes longer than to
send an answer that is already encoded. It uses classes that Granian does not document, so its version is
bounded.
"""

import inspect
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, Final

from granian import _futures, _granian, asgi
from granian.server.embed import AsyncWorker, Server

AnswerNow = Callable[[Any], tuple[Any, Any] | None]
"""Returns both messages of the answer to the request of a scope, or None: the event loop has to answer it."""

_log = logging.getLogger("jobledger.http")

# They have no types, or incomplete ones.
_futures_: Any = _futures
_native: Any = _granian
_asgi: Any = asgi
_AsyncWorker: Any = AsyncWorker


# What Granian passes to its own function for ASGI apps, in the release that this module was written for.
_KNOWN_PARAMETERS: Final = (
    "worker_id, shutdown_event, callback, sock, loop, runtime_threads, runtime_blocking_threads,"
    " blocking_threads, blocking_threads_idle_timeout, backpressure, task_impl, http_mode, http1_settings,"
    " http2_settings, websockets, static_path, log_access_fmt, ssl_ctx, scope_opts"
)


def is_supported() -> bool:
    """Whether this release of Granian passes what is expected; logs a warning if it does not."""
    found = inspect.signature(Server._spawn_asgi_worker).parameters  # noqa: SLF001
    if ", ".join(found) == _KNOWN_PARAMETERS:
        return True
    _log.warning(
        "granian %s has another worker than expected: reads of jobs take more CPU; install a version that"
        " Jobledger was tested with",
        version("granian"),
    )
    return False


def worker_target(answer_now: AnswerNow) -> Callable[..., Any]:
    """What Granian's embedded server runs as its worker, instead of its own function for ASGI apps."""

    async def run(number: int, stop: Any, app: Any, sockets: Any, loop: Any, *options: Any) -> None:
        *threads, backpressure, _, mode, http1, http2, websockets, static, _, tls, scope_options = options
        ended = loop.create_future()
        stop.add_cb(lambda: loop.call_soon_threadsafe(ended.set_result, None))
        no_metrics = (None, None)
        worker = _native.ASGIWorker(
            number,
            sockets,
            None,
            *threads,
            backpressure,
            mode,
            http1,
            http2,
            websockets,
            static,
            *tls,
            no_metrics,
        )
        callback = _futures_._future_watcher_wrapper(_asgi._callback_wrapper(app, scope_options, {}))  # noqa: SLF001
        worker.serve_async(_Scheduler(loop, callback, answer_now, None, None), loop, stop)
        await ended

    target: Callable[..., Any] = _AsyncWorker.wrap_target(run)
    return target


class _Scheduler(_native.CallbackScheduler):  # type: ignore[misc]
    """Answers a request at once, or passes it to the event loop."""

    __slots__ = ()

    # Granian's class takes five arguments.
    def __init__(self, loop: Any, callback: Any, answer_now: AnswerNow, *_: None) -> None:
        super().__init__()
        pass_on = _futures_._cbsched_aioschedule(loop, self._ctx, callback)  # noqa: SLF001

        def schedule(watcher: Any) -> None:
            try:
                answer = answer_now(watcher.scope)
            except Exception:  # noqa: BLE001 - Granian would ignore it, and the client would wait
                _log.exception("can't answer a request on the server's thread")
                answer = None
            if answer is None:
                pass_on(watcher)
                return
            send = watcher.proto.send  # its results need not be awaited: an unstarted body never waits
            try:
                send(answer[0])
            except Exception:  # noqa: BLE001 - nothing is sent yet
                _log.exception("can't send an answer on the server's thread")
                pass_on(watcher)
                return
            send(answer[1])

        self._schedule_fn = schedule  # type: ignore[misc]  # of Granian's class
