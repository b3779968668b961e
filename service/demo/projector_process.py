"""A projector in its own process, and the handle that starts, kills and stops it.

Run as a program (`python -m jobledger.service.demo.projector_process VIEW`), this module is that process. It
ends when its standard input closes, so it can be asked to stop and does not outlive its parent.
"""

import asyncio
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import jobledger
from jobledger.projections.projector import Projector
from jobledger.projections.view import View
from jobledger.store.jetstream import JetStreamLog
from jobledger.store.model.errors import JobledgerError
from jobledger.store.private_files import open_private

URL_VARIABLE = "JOBLEDGER_DEMO_NATS_URL"  # not an argument, which every user of the machine can read
CATCH_UP_SECONDS = 30.0
STOP_SECONDS = 10.0
_READY = b"ready\n"


class ProjectorProcess:
    """A running projector process; created by `start`."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self._process = process
        self._log_file = log_file

    @classmethod
    async def start(cls, url: str, view: Path) -> "ProjectorProcess":
        """Start the process, and wait until it is projecting."""
        log_file = view.with_name("projector.log")
        # The child must import the same package, and nothing from the working directory.
        home = str(Path(jobledger.__file__).parent.parent)
        paths = os.pathsep.join(filter(None, (home, os.environ.get("PYTHONPATH"))))
        with open_private(log_file, "ab") as errors:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                __name__,
                str(view),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env={**os.environ, URL_VARIABLE: url, "PYTHONPATH": paths},
                start_new_session=True,  # Ctrl-C in a terminal goes to the parent, which stops the child
            )
        handle = cls(process, log_file)
        try:
            assert process.stdout is not None
            ready = await process.stdout.readline() == _READY
        except BaseException:
            await handle.kill()
            raise
        if not ready:
            await handle.kill()
            raise handle._ended()
        return handle

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    async def wait_for(self, view: View, sequence: int) -> None:
        """Wait until its view reflects a sequence."""
        waiting = asyncio.create_task(view.wait_for(sequence, CATCH_UP_SECONDS))
        ending = asyncio.create_task(self._process.wait())
        try:
            await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise self._ended()
            await waiting
        finally:
            for task in (waiting, ending):
                task.cancel()
            await asyncio.gather(waiting, ending, return_exceptions=True)

    async def kill(self) -> int:
        """`kill -9`; returns the exit code. Idempotent."""
        with suppress(ProcessLookupError):
            self._process.kill()
        code = await self._process.wait()
        self._close_stdin()
        return code

    async def stop(self) -> None:
        """Let it finish its transaction, and stop it."""
        self._close_stdin()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            await self.kill()

    def _close_stdin(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()

    def _ended(self) -> JobledgerError:
        lines = self._log_file.read_text(errors="replace").splitlines()
        cause = lines[-1] if lines else f"exit code {self._process.returncode}, without output"
        return JobledgerError(f"the demo's projector process ended unexpectedly: {cause}")


async def _project(url: str, path: Path) -> None:
    log = await JetStreamLog.connect(url)
    try:
        async with Projector(log, path) as projector:
            sys.stdout.buffer.write(_READY)
            sys.stdout.buffer.flush()
            parent_gone = asyncio.create_task(_end_of_stdin())
            failed = asyncio.create_task(projector.wait_stopped())
            await asyncio.wait((parent_gone, failed), return_when=asyncio.FIRST_COMPLETED)
            if failed.done():
                failed.result()
            failed.cancel()
            parent_gone.cancel()
    finally:
        await log.close()


async def _end_of_stdin() -> None:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    await reader.read()


def main() -> None:
    """Project until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        asyncio.run(_project(os.environ[URL_VARIABLE], Path(sys.argv[1])))
    except JobledgerError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
