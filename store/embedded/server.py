"""A nats-server as a child process.

It listens on a loopback port that it chooses, with credentials generated for this run; every message is on
disk before it is acknowledged (`sync_interval: always`). A lock prevents a second server on the directory,
the kernel ends the server when this process ends (on Linux), and it is restarted on the same port if it dies,
hangs, or cannot write any more.

    keep a generation ──► start ──► proven ──► remove the generation ──► serving ──┐
            ▲                └── not proven ──► stop, put it back, StoreDamaged      │
            └────────────── died, hangs, or wedged while there is disk space ◄─────┘

The first start serves no client before it is proven, because no client has the credentials. A restart is
proven on a port and with a password of its own, and only then uses the port that the clients know: no append
can be acknowledged by a server whose files may still be put back.
"""

import asyncio
import json
import logging
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, ParamSpec, Self, TypeVar

import msgspec

from jobledger.store.backoff import Backoff
from jobledger.store.disk_space import cause_of, free_bytes, full_disk
from jobledger.store.embedded import stream_states
from jobledger.store.embedded.generation import (
    RECOVERY_FOLDER,
    STORE_FOLDER,
    Generation,
    server_respects_modes,
)
from jobledger.store.embedded.process import (
    CONFIG_FILE,
    drop_override,
    end_with_parent,
    find_program,
    lock_directory,
)
from jobledger.store.embedded.proof import (
    Damage,
    Inventory,
    Known,
    State,
    StreamFiles,
    Witness,
    describe,
    find_damage,
)
from jobledger.store.embedded.salvage import narrow
from jobledger.store.embedded.staging import Staging
from jobledger.store.embedded.stream_states import Extent, read_known, write_damage, write_known
from jobledger.store.jetstream.connection import Connection
from jobledger.store.local_service import NATS_FOLDER, ConnectionFile, default_directory
from jobledger.store.model.errors import EmbeddedServerError, JobledgerError, StoreDamaged
from jobledger.store.model.events import Record
from jobledger.store.model.limits import (
    FIRST_START_BYTES,
    FULL_CHECK_MAX_BYTES,
    HEALTH_FAILURES_MAX,
    HEALTH_SECONDS,
    HEALTH_TIMEOUT_SECONDS,
    NATS_LOG_MAX_BYTES,
    NATS_LOG_MAX_FILES,
    RESTART_SPARE_BYTES,
    START_BYTES_PER_SECOND,
)
from jobledger.store.nats_files.blocks import BLOCK_SUFFIX, Tail, block_key, decompress, messages, tail_after
from jobledger.store.nats_files.s2 import S2Error
from jobledger.store.private_files import FOLDER_MODE, open_private, tighten_all

START_TIMEOUT_SECONDS = 20.0
CANCEL_SECONDS = 1.0  # before a task that did not end is cancelled once more
STOP_TIMEOUT_SECONDS = 10.0
RESTART_WAIT_SECONDS = 0.2  # the first wait before a dead server is restarted; doubles up to the next line
RESTART_MAX_WAIT_SECONDS = 5.0
LOG_TAIL_LINES = 5
LOG_TAIL_BYTES = 65_536
_HEALTHY_SECONDS = 10.0  # after a server ran this long, the waits start over
_PORT_POLL_SECONDS = 0.005
_USER: Final = "jobledger"
_LOG_FILE: Final = "nats.log"
_DIAGNOSIS: Final = "diagnosis"
# What nats-server logs when a stream, or JetStream, refuses every write until the next start.
_WEDGED: Final = re.compile(rb"critical write error|will be DISABLED|disabling JetStream", re.IGNORECASE)

_log = logging.getLogger("jobledger.store")

P = ParamSpec("P")
Answer = TypeVar("Answer")


class EmbeddedServer:
    """A nats-server; call `start`, or use `async with EmbeddedServer(directory) as server`.

    Args:
        directory: of the streams; created if missing. None: `default_directory()`.
        sync: `always` (power loss loses no acknowledged message), or an interval such as `2m`.
        known: what is known of each stream, by its name, such as a view's checkpoint: a start that does not
            reach it has lost events.
        witness: compares the content of a stream with a record of it; called at each start, for each stream
            from which nothing is missing.
        stage_in_memory: stage atomic batches on a tmpfs, if the machine has one with enough space.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        sync: str = "always",
        known: Mapping[str, Known] | None = None,
        witness: Witness | None = None,
        stage_in_memory: bool = True,
    ) -> None:
        self.directory = (directory or default_directory()).absolute()
        self.restarts = 0
        self.problem = ""  # why it does not serve; empty while it does
        self.supervision_problem = ""  # why it may not be restarted; empty if it is supervised
        self._sync = sync
        self._expected = dict(known or {})
        self._witness = witness
        self._password = secrets.token_urlsafe(24)
        self._port = -1  # chosen by the first start, and kept
        self._process: asyncio.subprocess.Process | None = None
        self._lock: IO[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._connection_file: ConnectionFile | None = None
        self._generation = Generation(self.directory)
        self._staging = Staging(self._generation.store, in_memory=stage_in_memory)
        self._respects_modes = False
        self._serving = asyncio.Event()
        self._reason = ""  # for the next restart
        self._suspicion = ""
        self._staging_error = ""  # the last one that was logged, as the next one
        self._known_error = ""

    @property
    def url(self) -> str:
        """URL for clients, with the credentials of this run. Not for logs."""
        return f"nats://{_USER}:{self._password}@127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """Host and port, without credentials."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id."""
        if self._process is None:
            raise EmbeddedServerError("the embedded nats-server is not running; start it first")
        return self._process.pid

    @property
    def wedged(self) -> str:
        """Why it stores nothing until a restart, which waits for disk space; empty if it does."""
        return self.problem if self._suspicion and self._serving.is_set() else ""

    @property
    def staging_problem(self) -> str:
        """Why batches are staged on disk although memory was asked for; empty if they are not."""
        return self._staging.problem

    async def stage(self) -> None:
        """Stages the batches of new streams in memory at once, not within HEALTH_SECONDS."""
        try:
            await _in_thread(self._staging.check)
        except OSError as error:  # too many open files, for instance; the next probe tries again
            if str(error) != self._staging_error:
                _log.warning("the staging of batches cannot be checked, trying again: %s", error)
            self._staging_error = str(error)
        else:
            self._staging_error = ""

    async def start(self) -> Self:
        """Starts it; returns when it accepts connections and is proven to have lost nothing.

        Raises:
            EmbeddedServerInUse: the directory is in use.
            EmbeddedServerError: no nats-server found, the directory cannot be written, or it does not start.
            StoreDamaged: it cannot read all of its files, which are unchanged.
        """
        if self._lock is not None:
            raise EmbeddedServerError("this embedded nats-server is already running; stop it first")
        program = find_program()
        try:
            self._check_room()
            self.directory.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            (self.directory / STORE_FOLDER).mkdir(exist_ok=True, mode=FOLDER_MODE)
            tighten_all([self.directory])
            self._lock = await _in_thread(lock_directory, self.directory)
            await self._launch_proven(program, private=False)
            # Restarts keep port and password, so this is written once.
            self._connection_file = ConnectionFile.write(self.directory, self.url)
        except BaseException as error:  # also when cancelled: nothing would stop it later
            await self._end_process()
            if self._lock is not None:
                await _in_thread(self._generation.put_back)
                await _in_thread(self._staging.close)
            self._unlock()
            if isinstance(error, OSError):
                raise EmbeddedServerError(
                    f"cannot use {self.directory} for the embedded nats-server:"
                    f" {cause_of(error, self.directory)}"
                ) from error
            raise
        self._serving.set()
        self._tasks = [
            asyncio.create_task(self._persist(lambda: self._keep(program))),
            asyncio.create_task(self._persist(self._watch)),
        ]
        return self

    async def stop(self) -> None:
        """Stops it after it has written its state, and unlocks the directory. May be called twice."""
        await _cancel(self._tasks)
        self._tasks = []
        if self._connection_file is not None:
            self._connection_file.remove()
            self._connection_file = None
        await self._end_process()
        if self._lock is not None:
            if self._serving.is_set():
                self._serving.clear()
                await _in_thread(self._generation.save_meta)
            await _in_thread(self._generation.put_back)  # of a restart that is not proven yet
            await _in_thread(self._staging.close)
        self._unlock()

    def suspect(self, reason: str) -> None:
        """Reports that appends are not answered: it is restarted as soon as its disk has space.

        Args:
            reason: for the log.
        """
        self._suspicion = self._suspicion or reason

    async def restart(self, reason: str) -> None:
        """Restarts it, and waits until it serves again; connections reconnect by themselves.

        Args:
            reason: for the log.

        Raises:
            EmbeddedServerError: it does not serve again in time.
        """
        self._kill(reason)
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._serving.wait()
        except TimeoutError:
            raise EmbeddedServerError(
                f"the embedded nats-server does not serve again: {self.problem}; look at its {_LOG_FILE}"
            ) from None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def _config_file(self) -> Path:
        return self.directory / CONFIG_FILE

    def _check_room(self) -> None:
        """Refuses a first start on a full disk, before nats-server creates half of its files.

        An existing log is started anyway: it can be read.
        """
        is_first = not any((self.directory / STORE_FOLDER).glob("*/streams/*"))
        if is_first and free_bytes(self.directory) < FIRST_START_BYTES:
            raise EmbeddedServerError(
                f"the embedded nats-server is not started: {full_disk(self.directory, FIRST_START_BYTES)};"
                " nothing was created"
            )

    # --- starting -----------------------------------------------------------------------------------------

    async def _launch_proven(self, program: Path, *, private: bool) -> None:
        """Starts it, and keeps a generation until it is proven that nothing is lost.

        Args:
            program: nats-server.
            private: prove the start on a port that no client knows, and then start it again.

        Raises:
            Exception: it is not started, and the files are as before.
        """
        try:
            await self._prove(program, private=private)
        except Exception:
            # No second server may start on the files while this one runs.
            await self._end_process()
            await _in_thread(self._generation.put_back)
            raise

    async def _prove(self, program: Path, *, private: bool) -> None:
        await _in_thread(self._staging.reset)
        inventory = await _in_thread(self._keep_generation)
        for repair in inventory.repaired:
            _log.warning("stream file repaired before the start: %s", repair)
        timeout_seconds = START_TIMEOUT_SECONDS + inventory.bytes / START_BYTES_PER_SECOND
        known = self._known(inventory)
        url = await self._launch(program, timeout_seconds, private=private and bool(inventory.streams))
        states = await _read_states(url, inventory, timeout_seconds) if inventory.streams else {}
        damage = await _in_thread(self._find_damage, inventory, states, known, self._generation.store)
        if damage:
            await self._end_process()
            damage = await self._diagnose(program, inventory, known) or damage
        elif damage := await self._ask_witness(inventory):
            await self._end_process()
        if damage:
            await _in_thread(self._generation.put_back)
            damage = await _in_thread(narrow, self.directory / STORE_FOLDER, damage)
            write_damage(self._generation.folder, damage)
            raise self._damaged(damage)
        await _in_thread(self._accept_start, inventory, states, known)
        if private and inventory.streams:
            await self._end_process()
            await self._launch(program, timeout_seconds, private=False)

    def _keep_generation(self) -> Inventory:
        return self._generation.keep(full_check_max_bytes=FULL_CHECK_MAX_BYTES, may_link=self._may_link)

    def _may_link(self, store: Path, folder: Path) -> bool:
        self._respects_modes = server_respects_modes(store, folder)
        return self._respects_modes

    def _known(self, inventory: Inventory) -> dict[str, Known]:
        """What is known of each stream from earlier runs and from the caller."""
        known = read_known(self._generation.folder)
        for stream in inventory.streams:
            facts = known.get(stream.folder, Known())
            if facts.created and stream.created and facts.created != stream.created:
                facts = Known()  # it was deleted and created again
            expected = self._expected.get(stream.name, Known())
            if expected.created and stream.created and expected.created != stream.created:
                expected = Known()
            last = max(facts.last, expected.last)
            known[stream.folder] = msgspec.structs.replace(facts, created=stream.created, last=last)
        return known

    def _find_damage(
        self,
        inventory: Inventory,
        states: Mapping[str, State],
        known: Mapping[str, Known],
        store: Path,
    ) -> tuple[Damage, ...]:
        def size(stream: StreamFiles, number: int) -> tuple[int, int] | None:
            with suppress(FileNotFoundError):
                found = (store / stream.folder / "msgs" / f"{number}{BLOCK_SUFFIX}").stat()
                return found.st_ino, found.st_size
            return None

        return find_damage(inventory, states, known, size, self._tail)

    async def _ask_witness(self, inventory: Inventory) -> tuple[Damage, ...]:
        """Damage that only the witness reports: it recorded other content than the streams have."""
        if self._witness is None:
            return ()
        found: list[Damage] = []
        for stream in inventory.streams:
            folder = self._generation.messages(stream)

            def read(number: int, folder: Path = folder) -> Sequence[Record]:
                with suppress(FileNotFoundError, S2Error):
                    return messages(decompress((folder / f"{number}{BLOCK_SUFFIX}").read_bytes()))
                return ()

            found += await self._witness(stream, read)
        return tuple(found)

    async def _diagnose(
        self, program: Path, inventory: Inventory, known: Mapping[str, Known]
    ) -> tuple[Damage, ...]:
        """Locates the damage with a server on a copy, which it may truncate; empty if that fails.

        If nats-server cannot truncate a block, it deletes the stream instead, which does not show the place.
        """
        folder = self._generation.folder / _DIAGNOSIS
        if free_bytes(self.directory) < inventory.bytes + RESTART_SPARE_BYTES:
            return ()
        try:
            await _in_thread(shutil.rmtree, folder, ignore_errors=True)
            store = folder / STORE_FOLDER
            inventory = await _in_thread(self._generation.copy_to, store)
            timeout_seconds = START_TIMEOUT_SECONDS + inventory.bytes / START_BYTES_PER_SECOND
            url = await self._launch(program, timeout_seconds, private=True, store=store)
            states = await _read_states(url, inventory, timeout_seconds)
            return await _in_thread(self._find_damage, inventory, states, known, store)
        except (JobledgerError, OSError) as error:
            _log.warning("the damage could not be located: %s", error)
            return ()
        finally:
            await self._end_process()
            await _in_thread(shutil.rmtree, folder, ignore_errors=True)

    def _tail(self, stream: StreamFiles, last: int) -> tuple[str, Tail] | None:
        """The content of the generation after a sequence, in the block where that one should be."""
        blocks = [block for block in stream.blocks if block.size]
        here = next((block for block in reversed(blocks) if 0 < block.first <= last + 1), None)
        if here is None:
            here = blocks[0] if blocks else None
        if here is None:
            return None
        path = self._generation.messages(stream, kept=True) / f"{here.number}{BLOCK_SUFFIX}"
        found = tail_after(path.read_bytes(), last, block_key(stream.name, here.number))
        return (f"{stream.folder}/msgs/{path.name}", found) if found else None

    def _accept_start(
        self, inventory: Inventory, states: Mapping[str, State], known: Mapping[str, Known]
    ) -> None:
        """Records a proven start."""
        for stream in inventory.streams:
            state = states[stream.folder]
            torn = self._tail(stream, state.last) if stream.blocks else None
            if torn is not None:
                _log.warning(
                    "stream %s: an unfinished write after sequence %d was removed (%s, from byte %d on);"
                    " it was never acknowledged",
                    *(stream.name, state.last, torn[0], torn[1].offset),
                )
        self._generation.remove()
        write_damage(self._generation.folder, ())
        expiring = {stream.folder: stream.expiring for stream in inventory.streams}
        write_known(
            self._generation.folder,
            {
                folder: msgspec.structs.replace(
                    facts,
                    created=states[folder].created,
                    last=max(facts.last, states[folder].last),
                    messages=max(0, states[folder].messages - expiring.get(folder, 0)),
                )
                for folder, facts in known.items()
                if folder in states
            },
        )
        self._generation.save_meta()
        if self._respects_modes:
            self._generation.seal()

    def _damaged(self, damage: Sequence[Damage]) -> StoreDamaged:
        folder = self.directory / RECOVERY_FOLDER
        # For the directory of a service the command must work from any working directory.
        where = f" --data-dir {shlex.quote(str(self.directory.parent))}" * (
            self.directory.name == NATS_FOLDER
        )
        return StoreDamaged(
            f"the log in {self.directory} is damaged, so it is not started; its files are unchanged:\n"
            f"{describe(damage)}\nThe full report is in {folder / 'damage.json'}. Either restore a backup of"
            " the directory (with the log.json of the same backup, and without view.sqlite*), or give up what"
            f" cannot be read: `jobledger streams accept-damage{where}` lists it, and gives it up with --yes",
            damage=[str(each) for each in damage],
        )

    async def _launch(
        self, program: Path, timeout_seconds: float, *, private: bool, store: Path | None = None
    ) -> str:
        """Starts the process, and waits until it accepts connections; returns the URL for clients."""
        ports = self.directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(mode=FOLDER_MODE)
        password = secrets.token_urlsafe(24) if private else self._password
        store = store or self._generation.store
        config = self._config(ports, store.parent, -1 if private else self._port, password)
        with open_private(self._config_file, "wb") as file:
            file.write(config.encode())
        steps = drop_override(store), end_with_parent()

        def prepare() -> None:
            os.umask(0o077)  # not as an argument, which uvloop does not have
            for step in steps:
                step()

        with open_private(self.directory / _LOG_FILE, "ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "-c",
                self._config_file,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,  # before it has opened its log, and if it panics
                stderr=output,
                # It inherits the locks: if it outlives this process, the next start finds it (`process`).
                pass_fds=((self._lock.fileno(),) if self._lock else ()) + self._staging.handles,
                start_new_session=True,  # Ctrl-C in a terminal must not reach it: `stop` ends it in order
                preexec_fn=prepare,
            )
        try:
            async with asyncio.timeout(timeout_seconds):
                port = await self._wait_ready(ports)
        except (TimeoutError, EmbeddedServerError) as error:
            await self._end_process()
            reason = str(error) or f"not ready within {timeout_seconds:g} s"
            raise EmbeddedServerError(
                f"the embedded nats-server does not start: {reason}\n{self._log_tail()}"
            ) from error
        if not private:
            self._port = port
        return f"nats://{_USER}:{password}@127.0.0.1:{port}"

    async def _wait_ready(self, ports: Path) -> int:
        """Waits until the server has written its ports file and accepts connections; returns the port."""
        process = self._process
        assert process is not None
        while True:
            # Of the streams that it has opened, if possible before a client is back.
            await _in_thread(self._staging.link)
            if process.returncode is not None:
                raise EmbeddedServerError(f"it ended at once (exit code {process.returncode})")
            for file in ports.glob("*.ports"):
                with suppress(ValueError, KeyError, IndexError, OSError):
                    port = int(json.loads(file.read_text())["nats"][0].rpartition(":")[2])
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    await _in_thread(self._staging.link)  # it has opened all streams
                    return port
            await asyncio.sleep(_PORT_POLL_SECONDS)

    # --- supervision --------------------------------------------------------------------------------------

    async def _persist(self, supervise: Callable[[], Awaitable[None]]) -> None:
        """Runs a part of the supervision, and again if it ends by an error, which is a defect."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(RESTART_WAIT_SECONDS, RESTART_MAX_WAIT_SECONDS)
        while True:
            began = loop.time()
            try:
                await supervise()
            except Exception as error:  # noqa: BLE001 - without supervision the server is not restarted
                if loop.time() - began > _HEALTHY_SECONDS:
                    backoff.reset()
                seconds = backoff.next_seconds()
                self.supervision_problem = (
                    f"the supervision of nats-server fails and is started again: {error!r}"
                )
                _log.critical(
                    "the supervision of the embedded nats-server failed; it is started again in %.1f s",
                    seconds,
                    exc_info=error,
                )
                await asyncio.sleep(seconds)
            else:
                return

    async def _keep(self, program: Path) -> None:
        """Restarts it whenever it dies, until its log turns out to be damaged."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(RESTART_WAIT_SECONDS, RESTART_MAX_WAIT_SECONDS)
        while True:
            started = loop.time()
            if self._process is not None:  # None: its last restart failed by a defect
                code = await self._process.wait()
                self._reason = self._reason or f"it died (exit code {code})"
            self._serving.clear()
            self.problem = self._reason
            _log.warning("restarting the embedded nats-server: %s", self.problem)
            if loop.time() - started > _HEALTHY_SECONDS:
                backoff.reset()
            while True:
                await backoff.sleep()
                try:
                    await self._launch_proven(program, private=True)
                    break
                except StoreDamaged as error:
                    self.problem = str(error)
                    _log.critical("the embedded nats-server stays down: %s", error)
                    return
                except (JobledgerError, OSError) as error:
                    if str(error) != self.problem:
                        _log.error("the embedded nats-server cannot be restarted, trying again: %s", error)
                    self.problem = str(error)
            self.restarts += 1
            self.problem = self._reason = self._suspicion = self.supervision_problem = ""
            self._serving.set()

    async def _watch(self) -> None:
        """Probes it, records the ends of its streams, and kills it if it hangs or cannot write any more."""
        failures, log_read, previous = 0, self._log_size(), dict[str, Extent]()
        connection: Connection | None = None
        try:
            while True:
                await asyncio.sleep(HEALTH_SECONDS)
                if not self._serving.is_set():
                    await self._serving.wait()
                    failures, log_read = 0, self._log_size()
                # Before the probe: a message that expires in between makes the count too low, never too high.
                expiring = await _in_thread(self._generation.expiring)
                await self.stage()
                now: dict[str, Extent] | None = None
                try:
                    async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                        if connection is None:
                            connection = await Connection.open(self.url, name="jobledger-supervisor")
                        now = await stream_states.list_streams(connection, HEALTH_TIMEOUT_SECONDS)
                    failures = 0
                except (JobledgerError, TimeoutError, msgspec.DecodeError, OSError):
                    failures += 1
                wedged, log_read = self._wedged(log_read)
                self._suspicion = self._suspicion or wedged
                # After a failed write the server counts messages that it could not store.
                if now is not None and not self._suspicion:
                    # One probe late: the newest messages may not be on disk yet.
                    await _in_thread(self._remember, previous, now, expiring)
                    previous = now
                if failures >= HEALTH_FAILURES_MAX:
                    self._kill(f"it has not answered {failures} probes of {HEALTH_TIMEOUT_SECONDS:g} s")
                elif self._suspicion:
                    await self._restart_with_space()
                if self._serving.is_set():
                    self.supervision_problem = ""
        finally:
            if connection is not None:
                await connection.close()

    async def _restart_with_space(self) -> None:
        """Restarts it if the disk has space; otherwise a restart would not help, and would end reads too."""
        free = free_bytes(self.directory)
        if free >= RESTART_SPARE_BYTES:
            self._kill(self._suspicion)
            return
        problem = f"the disk of {self.directory} is full ({free} bytes free): {self._suspicion}"
        if not self.problem:
            _log.error("%s; nats-server is restarted when %d bytes are free", problem, RESTART_SPARE_BYTES)
        self.problem = problem

    def _kill(self, reason: str) -> None:
        """Kills the process; `_keep` restarts it. Everything acknowledged is on disk."""
        if self._process is not None and self._process.returncode is None and self._serving.is_set():
            self._reason = reason
            self._serving.clear()
            with suppress(ProcessLookupError):
                self._process.kill()

    def _remember(
        self, previous: Mapping[str, Extent], now: Mapping[str, Extent], expiring: Mapping[str, int]
    ) -> None:
        folder = self._generation.folder
        try:
            known = read_known(folder)
        except OSError as error:  # what is known must not be replaced by less
            if str(error) != self._known_error:
                _log.error("what is known of the streams cannot be read, trying again: %s", error)
            self._known_error = str(error)
            return
        self._known_error = ""
        changed = {name: known[name] for name in known if name in now or name not in previous}
        for name, (created, last, count) in previous.items():
            if name not in now or now[name].created != created:
                continue
            facts = known.get(name, Known(created))
            if facts.created != created:
                facts = Known(created)
            kept = min(count, now[name].messages)  # a message may be removed at any time
            kept = max(0, kept - expiring.get(name, kept))
            changed[name] = msgspec.structs.replace(facts, last=max(facts.last, last), messages=kept)
        if changed != known:
            with suppress(OSError):
                if changed.keys() != known.keys():
                    self._generation.save_meta()
                write_known(folder, changed)

    def _wedged(self, read: int) -> tuple[str, int]:
        """A line that the server has logged since if it cannot write, and the position in its log."""
        path = self.directory / _LOG_FILE
        with suppress(OSError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(read if read <= size else 0)  # a smaller file is a new one
            text = file.read(NATS_LOG_MAX_BYTES)
            for line in text.splitlines():
                if _WEDGED.search(line):
                    return line.partition(b"] ")[2].decode(errors="replace") or "it cannot write", size
            return "", size
        return "", read

    def _log_size(self) -> int:
        with suppress(OSError):
            return (self.directory / _LOG_FILE).stat().st_size
        return 0

    # --- ending -------------------------------------------------------------------------------------------

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

    def _config(self, ports: Path, directory: Path, port: int, password: str) -> str:
        # nats-server reads JSON as configuration, so its own quoting rules are not needed.
        return json.dumps(
            {
                "server_name": "jobledger-embedded",
                "listen": f"127.0.0.1:{port}",
                "ports_file_dir": str(ports),
                "log_file": str(self.directory / _LOG_FILE),
                "logfile_size_limit": NATS_LOG_MAX_BYTES,
                "logfile_max_num": NATS_LOG_MAX_FILES,
                "jetstream": {"store_dir": str(directory), "sync_interval": self._sync},
                "authorization": {"user": _USER, "password": password},
            },
            indent=1,
        )

    def _log_tail(self) -> str:
        with suppress(OSError), (self.directory / _LOG_FILE).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
            return "\n".join(lines[-LOG_TAIL_LINES:])
        return ""


async def _read_states(url: str, inventory: Inventory, timeout_seconds: float) -> dict[str, State]:
    """Reads the state of each stream that was on disk from the started server."""
    connection = await Connection.open(url, name="jobledger-recovery")
    try:
        states: dict[str, State] = {}
        for stream in inventory.streams:
            state = await stream_states.state_of(connection, stream, timeout_seconds)
            if state is not None:
                states[stream.folder] = state
        return states
    finally:
        await connection.close()


async def _in_thread(function: Callable[P, Answer], /, *args: P.args, **kwargs: P.kwargs) -> Answer:
    """`asyncio.to_thread` that returns only after the thread has ended, also if it is cancelled."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait({call})
        raise


async def _cancel(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancels tasks and waits for their end; again if the NATS client swallowed the cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_SECONDS)
