"""An HTTP server in a process of its own: `jobledger serve` itself, or a bare handler to compare it with.

Run as a program it reads its task from the first line of standard input, prints its port, and ends when
standard input does: so it outlives nobody.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from litestar import Litestar, Response, get

from benchmarks.broadcaster import serve_broadcaster
from jobledger.service.server.http_server import HttpServer
from jobledger.service.server.serve import serve
from jobledger.service.settings import Settings
from jobledger.service.wiring import Service

_REPOSITORY = Path(__file__).parents[1]
FIXED_PATH = "/fixed"


@asynccontextmanager
async def serving(**task: str) -> AsyncIterator[int]:
    """A server that is up; its port.

    Args:
        task: `data_dir` for the service on that directory (and `apart` for the experiment of that name), or
            `body` for a handler that answers this, or `broadcast` for a bare feed.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.httpchild",
        cwd=_REPOSITORY,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        child.stdin.write(json.dumps(task).encode() + b"\n")
        await child.stdin.drain()
        line = await child.stdout.readline()
        if not line:
            raise RuntimeError("the HTTP server did not start; its own message is above")
        yield int(line)
        child.stdin.close()
        await child.wait()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _fixed(body: bytes) -> None:
    """The least that a service could do: an answer of this framework on this server, made of nothing."""

    @get(f"{FIXED_PATH}/{{job_id:str}}")
    async def answer(job_id: str) -> Response[bytes]:
        assert job_id
        return Response(body, media_type="application/json")

    app = Litestar([answer], openapi_config=None, logging_config=None)
    http = await HttpServer.start(app, Settings(port=0), "127.0.0.1")
    print(http.port, flush=True)
    await http.wait_ended()


async def _service(data_dir: Path) -> None:
    def announce(_: Service, http: HttpServer) -> None:
        print(http.port, flush=True)

    await serve(Settings(port=0, data_dir=data_dir), announce)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Serve until standard input ends."""
    task: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if "body" in task:
        asyncio.run(_fixed(task["body"].encode()))
    elif "broadcast" in task:
        asyncio.run(serve_broadcaster())
    else:
        if "apart" in task:
            from benchmarks.apart import set_projector_apart  # it imports this module

            set_projector_apart()
        asyncio.run(_service(Path(task["data_dir"])))


if __name__ == "__main__":
    main()
