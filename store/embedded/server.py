"""A nats-server as our child process.

It listens on a loopback port that it picks, with credentials made for this run; every message is on disk
before it is acknowledged (`sync_interval: always`). A lock keeps a second one out of the directory, the
kernel ends it when we end (on Linux), and it is restarted, on the same port, if it dies, hangs, or cannot
write any more.

    keep a generation ──► start ──► proven ──► forget the generation ──► serving ──┐
            ▲                └── not proven ──► stop, put it back, StoreDamaged      │
            └────────────── died, hangs, or wedged while there is disk space ◄─────┘

The first start serves nobody before it is proven, because nobody has the credentials. A restart is proven on
a port and with a password of its own, and only then takes the port that the clients know: no append can be
acknowledged by a server whose files may still be put back.
"""

import asyncio
import json
import logging
import os
import re
import secrets
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
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
RESTART_WAIT_SECONDS = (
    0.2  # the first wait before a server that died is restarted; doubles up to the next line
)
RESTART_MAX_WAIT_SECONDS = 5.0
LOG_TAIL_LINES = 5
LOG_TAIL_BYTES = 65_536
_HEALTHY_SECONDS = 10.0  # a server that ran this long gets a fresh first wait
_PORT_LOOK_SECONDS = 0.005
_USER: Final = "jobledger"
_LOG_FILE: Final = "nats.log"
_DIAGNOSIS: Final = "diagnosis"
# What nats-server logs when a stream, or JetStream, refuses every write until the next start.
_WEDGED: Final = re.compile(rb"critical write error|will be DISABLED|disabling JetStream", re.IGNORECASE)

_log = logging.getLogger("jobledger.store")

P = ParamSpec("P")
Answer = TypeVar("Answer")


class EmbeddedServer:
    """A running nats-server; made by `start`, or used as `async with EmbeddedServer(directory) as server`.

    Args:
        directory: where the streams are kept; created if missing. None: `default_directory()`.
        sync: `always` (power loss loses nothing that was acknowledged), or an interval such as `2m`.
        known: what is known of each stream, by its name, such as a view's checkpoint: a start that does not
            reach it has lost events.
        witness: compares the content of a stream with what is remembered of it; it is asked about each
            stream of which nothing is missing, at each start.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        sync: str = "always",
        known: Mapping[str, Known] | None = None,
        witness: Witness | None = None,
    ) -> None:
        self.directory = (directory or default_directory()).absolute()
        self.restarts = 0
        self.problem = ""  # why it does not serve; empty while it does
        self._sync = sync
        self._told_known = dict(known or {})
        self._witness = witness
        self._password = secrets.token_urlsafe(24)
        self._port = -1  # the server picks one; from then on it keeps it
        self._process: asyncio.subprocess.Process | None = None
        self._lock: IO[str] | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._told: ConnectionFile | None = None
        self._generation = Generation(self.directory)
        self._respects_modes = False
        self._serving = asyncio.Event()
        self._reason = ""  # for the next restart
        self._suspicion = ""

    @property
    def url(self) -> str:
        """Where to connect, with this run's credentials. Not for logs."""
        return f"nats://{_USER}:{self._password}@127.0.0.1:{self._port}"

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

    @property
    def wedged(self) -> str:
        """Why it answers and stores nothing until a restart, which waits for disk space; else empty."""
        return self.problem if self._suspicion and self._serving.is_set() else ""

    async def start(self) -> Self:
        """Start it and wait until it accepts connections and has proven that it lost nothing.

        Raises:
            EmbeddedServerInUse: the directory is in use.
            EmbeddedServerError: no nats-server found, the directory cannot be written, or it does not start.
            StoreDamaged: it cannot read everything that was there; all files are as they were before.
        """
        if self._lock is not None:
            raise EmbeddedServerError("this embedded nats-server is running already; stop it first")
        program = find_program()
        try:
            self._check_room()
            self.directory.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
            (self.directory / STORE_FOLDER).mkdir(exist_ok=True, mode=FOLDER_MODE)
            tighten_all([self.directory])
            self._lock = await _in_thread(lock_directory, self.directory)
            await self._launch_proven(program, private=False)
            # Port and password stay over restarts, so this is written once.
            self._told = ConnectionFile.write(self.directory, self.url)
        except BaseException as error:  # also when cancelled: nothing would stop it later
            await self._end_process()
            if self._lock is not None:
                await _in_thread(self._generation.put_back)
            self._unlock()
            if isinstance(error, OSError):
                raise EmbeddedServerError(
                    f"can't use {self.directory} for the embedded nats-server:"
                    f" {cause_of(error, self.directory)}"
                ) from error
            raise
        self._serving.set()
        self._tasks = [asyncio.create_task(self._keep(program)), asyncio.create_task(self._watch())]
        return self

    async def stop(self) -> None:
        """Stop it (it writes its state first), and free the directory. Stopping twice is harmless."""
        await _cancelled(self._tasks)
        self._tasks = []
        if self._told is not None:
            self._told.remove()
            self._told = None
        await self._end_process()
        if self._lock is not None:
            if self._serving.is_set():
                self._serving.clear()
                await _in_thread(self._generation.save_meta)
            await _in_thread(self._generation.put_back)  # of a restart that was not proven yet
        self._unlock()

    def suspect(self, reason: str) -> None:
        """Report that appends are not answered: it is restarted, as soon as its disk has space.

        Args:
            reason: for the log.
        """
        self._suspicion = self._suspicion or reason

    async def restart(self, reason: str) -> None:
        """Restart it now, and wait until it serves again; connections reconnect by themselves.

        Args:
            reason: for the log.

        Raises:
            EmbeddedServerError: if it does not serve again in time.
        """
        self._kill(reason)
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS):
                await self._serving.wait()
        except TimeoutError:
            raise EmbeddedServerError(f"the embedded nats-server is not back: {self.problem}") from None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def _config_file(self) -> Path:
        return self.directory / CONFIG_FILE

    def _check_room(self) -> None:
        """Refuse a first start on a full disk before anything is made: nats-server would get stuck halfway.

        A log that exists is started anyway: it can be read.
        """
        is_first = not any((self.directory / STORE_FOLDER).glob("*/streams/*"))
        if is_first and free_bytes(self.directory) < FIRST_START_BYTES:
            raise EmbeddedServerError(
                f"the embedded nats-server is not started: {full_disk(self.directory, FIRST_START_BYTES)}."
                " Nothing was created"
            )

    # --- starting -----------------------------------------------------------------------------------------

    async def _launch_proven(self, program: Path, *, private: bool) -> None:
        """Start it with a generation kept, until it is proven that nothing is lost.

        Args:
            program: nats-server.
            private: prove it where no client finds it, and then start it again.
        """
        inventory = await _in_thread(self._keep_generation)
        for repair in inventory.repaired:
            _log.warning("stream file repaired before the start: %s", repair)
        timeout_seconds = START_TIMEOUT_SECONDS + inventory.bytes / START_BYTES_PER_SECOND
        try:
            url = await self._launch(program, timeout_seconds, private=private and bool(inventory.streams))
            states = await _ask(url, inventory, timeout_seconds) if inventory.streams else {}
        except (JobledgerError, OSError):
            await self._end_process()
            await _in_thread(self._generation.put_back)
            raise
        known = self._known(inventory)
        damage = await _in_thread(self._judge, inventory, states, known, self._generation.store)
        if damage:
            await self._end_process()
            damage = await self._diagnose(program, inventory, known) or damage
        elif damage := await self._contradicted(inventory):
            await self._end_process()
        if damage:
            await _in_thread(self._generation.put_back)
            damage = await _in_thread(narrow, self.directory / STORE_FOLDER, damage)
            write_damage(self._generation.folder, damage)
            raise self._damaged(damage)
        await _in_thread(self._settle, inventory, states, known)
        if private and inventory.streams:
            await self._end_process()
            await self._launch(program, timeout_seconds, private=False)

    def _keep_generation(self) -> Inventory:
        return self._generation.keep(full_check_max_bytes=FULL_CHECK_MAX_BYTES, may_link=self._may_link)

    def _may_link(self, store: Path, folder: Path) -> bool:
        self._respects_modes = server_respects_modes(store, folder)
        return self._respects_modes

    def _known(self, inventory: Inventory) -> dict[str, Known]:
        """What is known of each stream: of earlier runs, and from the caller."""
        known = read_known(self._generation.folder)
        for stream in inventory.streams:
            facts = known.get(stream.folder, Known())
            if facts.created and stream.created and facts.created != stream.created:
                facts = Known()  # it was deleted and created again
            told = self._told_known.get(stream.name, Known())
            if told.created and stream.created and told.created != stream.created:
                told = Known()
            last = max(facts.last, told.last)
            known[stream.folder] = msgspec.structs.replace(facts, created=stream.created, last=last)
        return known

    def _judge(
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

    async def _contradicted(self, inventory: Inventory) -> tuple[Damage, ...]:
        """Where the witness remembers other content than the streams have now."""
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
        """Find the place of the damage with a server on a copy, which it may truncate; empty if that fails.

        Where it must not truncate a block, nats-server deletes the stream instead, which says nothing.
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
            states = await _ask(url, inventory, timeout_seconds)
            return await _in_thread(self._judge, inventory, states, known, store)
        except (JobledgerError, OSError) as error:
            _log.warning("the place of the damage could not be found: %s", error)
            return ()
        finally:
            await self._end_process()
            await _in_thread(shutil.rmtree, folder, ignore_errors=True)

    def _tail(self, stream: StreamFiles, last: int) -> tuple[str, Tail] | None:
        """What the generation holds after a sequence, in the block where that one should be."""
        blocks = [block for block in stream.blocks if block.size]
        here = next((block for block in reversed(blocks) if 0 < block.first <= last + 1), None)
        if here is None:
            here = blocks[0] if blocks else None
        if here is None:
            return None
        path = self._generation.messages(stream, kept=True) / f"{here.number}{BLOCK_SUFFIX}"
        found = tail_after(path.read_bytes(), last, block_key(stream.name, here.number))
        return (f"{stream.folder}/msgs/{path.name}", found) if found else None

    def _settle(self, inventory: Inventory, states: Mapping[str, State], known: Mapping[str, Known]) -> None:
        """The start is proven."""
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
        # The directory of a service: the command must find it from any shell.
        where = f" --data-dir {shlex.quote(str(self.directory.parent))}" * (
            self.directory.name == NATS_FOLDER
        )
        return StoreDamaged(
            f"the log in {self.directory} is damaged, so it is not started; all its files are as they were"
            f" found:\n{describe(damage)}\nThe full report is in {folder / 'damage.json'}. Either restore a"
            " backup of the directory (with the log.json of the same backup, and without view.sqlite*), or"
            " give up what cannot be read:"
            f" `jobledger streams accept-damage{where}` shows what that is, and does it with --yes",
            damage=[str(each) for each in damage],
        )

    async def _launch(
        self, program: Path, timeout_seconds: float, *, private: bool, store: Path | None = None
    ) -> str:
        """Start the process and wait until it accepts connections; returns where, with credentials."""
        ports = self.directory / "ports"
        shutil.rmtree(ports, ignore_errors=True)
        ports.mkdir(mode=FOLDER_MODE)
        password = secrets.token_urlsafe(24) if private else self._password
        store = store or self._generation.store
        config = self._config(ports, store.parent, -1 if private else self._port, password)
        with open_private(self._config_file, "wb") as file:
            file.write(config.encode())
        drop, ask = drop_override(store), end_with_parent()

        def prepare() -> None:
            drop()
            ask()

        with open_private(self.directory / _LOG_FILE, "ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                program,
                "-c",
                self._config_file,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,  # before it has opened its log, and if it panics
                stderr=output,
                # It holds the lock as well: if it should outlive us, the next start sees it (`lock`).
                pass_fds=(self._lock.fileno(),) if self._lock else (),
                start_new_session=True,  # Ctrl-C in a terminal is for us; we stop it in order
                preexec_fn=prepare,
                umask=0o077,
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
            await asyncio.sleep(_PORT_LOOK_SECONDS)

    # --- keeping it up ------------------------------------------------------------------------------------

    async def _keep(self, program: Path) -> None:
        """Restart it whenever it dies, until its log turns out to be damaged."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(RESTART_WAIT_SECONDS, RESTART_MAX_WAIT_SECONDS)
        while True:
            began = loop.time()
            assert self._process is not None
            code = await self._process.wait()
            self._serving.clear()
            self.problem = self._reason or f"it died (exit code {code})"
            _log.warning("restarting the embedded nats-server: %s", self.problem)
            if loop.time() - began > _HEALTHY_SECONDS:
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
            self.problem = self._reason = self._suspicion = ""
            self._serving.set()

    async def _watch(self) -> None:
        """Probe it, remember how far its streams are, and kill it if it hangs or cannot write any more."""
        failures, log_read, previous = 0, self._log_size(), dict[str, Extent]()
        connection: Connection | None = None
        try:
            while True:
                await asyncio.sleep(HEALTH_SECONDS)
                if not self._serving.is_set():
                    await self._serving.wait()
                    failures, log_read = 0, self._log_size()
                # Before the probe: what expires between the two makes the count too low, never too high.
                expiring = await _in_thread(self._generation.expiring)
                try:
                    async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                        if connection is None:
                            connection = await Connection.open(self.url, name="jobledger-supervisor")
                        now = await stream_states.look(connection, HEALTH_TIMEOUT_SECONDS)
                    failures = 0
                except (JobledgerError, TimeoutError, msgspec.DecodeError, OSError):
                    failures += 1
                else:
                    # One probe late: what it saw first may not have been on disk yet.
                    await _in_thread(self._remember, previous, now, expiring)
                    previous = now
                wedged, log_read = self._wedged(log_read)
                if failures >= HEALTH_FAILURES_MAX:
                    self._kill(f"it has not answered {failures} probes of {HEALTH_TIMEOUT_SECONDS:g} s")
                elif wedged or self._suspicion:
                    self._suspicion = self._suspicion or wedged
                    await self._restart_with_space()
        finally:
            if connection is not None:
                await connection.close()

    async def _restart_with_space(self) -> None:
        """Restart it if the disk has space; otherwise that would not help, and end the reads too."""
        free = free_bytes(self.directory)
        if free >= RESTART_SPARE_BYTES:
            self._kill(self._suspicion)
            return
        problem = f"the disk of {self.directory} is full ({free} bytes free): {self._suspicion}"
        if not self.problem:
            _log.error("%s; nats-server is restarted when %d bytes are free", problem, RESTART_SPARE_BYTES)
        self.problem = problem

    def _kill(self, reason: str) -> None:
        """End the process at once; `_keep` restarts it. Everything acknowledged is on disk."""
        if self._process is not None and self._process.returncode is None and self._serving.is_set():
            self._reason = reason
            self._serving.clear()
            with suppress(ProcessLookupError):
                self._process.kill()

    def _remember(
        self, previous: Mapping[str, Extent], now: Mapping[str, Extent], expiring: Mapping[str, int]
    ) -> None:
        folder = self._generation.folder
        known = read_known(folder)
        changed = {name: known[name] for name in known if name in now or name not in previous}
        for name, (created, last, count) in previous.items():
            if name not in now or now[name].created != created:
                continue
            facts = known.get(name, Known(created))
            if facts.created != created:
                facts = Known(created)
            held = min(count, now[name].messages)  # a message may be removed at any time
            held = max(0, held - expiring.get(name, held))
            changed[name] = msgspec.structs.replace(facts, last=max(facts.last, last), messages=held)
        if changed != known:
            with suppress(OSError):
                if changed.keys() != known.keys():
                    self._generation.save_meta()
                write_known(folder, changed)

    def _wedged(self, read: int) -> tuple[str, int]:
        """What the server has logged since, if it means that it cannot write; and how far we read."""
        path = self.directory / _LOG_FILE
        with suppress(OSError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(read if read <= size else 0)  # it has begun another file
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
        # nats-server reads JSON as configuration, which spares us its quoting rules.
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


async def _ask(url: str, inventory: Inventory, timeout_seconds: float) -> dict[str, State]:
    """The state of each stream that was on disk, as the started server has it."""
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
    """`asyncio.to_thread`, but a cancelled call ends first: nothing of it runs afterward."""
    call = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait({call})
        raise


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end; again, if the NATS client swallowed the cancellation."""
    while pending := [task for task in tasks if not task.done()]:
        for task in pending:
            task.cancel()
        await asyncio.wait(pending, timeout=CANCEL_SECONDS)
