"""A small installation to audit: a real nats-server, its log, its view, and seals by a test key."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from jobledger import EmbeddedServer, JetStreamLog, Ledger, Projector, State, StateType
from jobledger.projections.database import remove_view
from jobledger.projections.merkle.hashing import leaf_hash
from jobledger.service.audit.model.checkpoint import Seal, make_seal, origin_of
from jobledger.service.audit.model.findings import Kind
from jobledger.service.audit.model.note import Signer, VerifierKey
from jobledger.service.audit.verification import Verification, verify
from jobledger.service.cursor import stream_tag
from jobledger.service.stream_record import RECORD_FILE
from jobledger.store.model.events import Record
from tests.conftest import make_spec
from tests.support.histories import records_of
from tests.support.proofs import SIGNER, mth
from tests.support.stored_records import Change, tamper

KEYS = (SIGNER.key,)


class Installation:
    """An installation in one directory; its server runs while `log` is used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.view = directory / "view.sqlite"

    @asynccontextmanager
    async def log(self) -> AsyncIterator[JetStreamLog]:
        """Start the server and connect to the log."""
        async with EmbeddedServer(self.directory / "nats") as server:
            log = await JetStreamLog.connect(server.url)
            try:
                yield log
            finally:
                await log.close()

    async def verify(
        self, log: JetStreamLog, keys: Sequence[VerifierKey] = KEYS, **more: Any
    ) -> Verification:
        """Audit the log and the view."""
        return await verify(log, keys, lambda *_: None, view=self.view, **more)

    async def verify_stopped(self, keys: Sequence[VerifierKey] = KEYS, **more: Any) -> Verification:
        """Start a server and audit the log and the view."""
        async with self.log() as log:
            return await self.verify(log, keys, **more)

    def tamper(self, change: Change) -> None:
        """Change the stored records while the server is stopped, and the recorded facts about them."""
        tamper(self.directory / "nats", change)
        (self.directory / RECORD_FILE).unlink(missing_ok=True)

    def edit_view(self, sql: str, *parameters: Any) -> None:
        """Change the view's file while it is closed."""
        with sqlite3.connect(self.view) as connection:
            assert connection.execute(sql, parameters).rowcount > 0
        connection.close()

    def forget_view(self) -> None:
        """Delete the view's file."""
        remove_view(self.view)


async def fill(log: JetStreamLog, jobs: int = 3) -> None:
    """Append three events of each job: created, Running, Completed."""
    ledger = Ledger(log)
    receipts = [
        await ledger.create(make_spec(f"job-{n}"), actor="alice", reason="first") for n in range(jobs)
    ]
    for state in (StateType.RUNNING, StateType.COMPLETED):
        for receipt in receipts:
            await ledger.set_state(receipt.job_id, State(state, "reported"), actor="scheduler")


async def project(log: JetStreamLog, view: Path) -> None:
    """Project the whole log into the view."""
    async with Projector(log, view) as projector:
        await projector.wait_live(60)


async def origin_of_log(log: JetStreamLog) -> str:
    """The origin of the log."""
    return origin_of(stream_tag((await log.info()).epoch))


def seal_of(
    records: Sequence[Record], origin: str, size: int | None = None, signers: Sequence[Signer] = (SIGNER,)
) -> Seal:
    """Return a seal of the first records, by default of all."""
    size = len(records) if size is None else size
    return make_seal(origin, size, mth([leaf_hash(record) for record in records[:size]]), signers)


async def publish(log: JetStreamLog, *seals: Seal) -> None:
    """Publish seals after the existing ones."""
    store = await log.seals(stream_tag((await log.info()).epoch))
    for seal in seals:
        last = await store.last()
        assert await store.append(seal.note.encode(), expect=last.sequence if last is not None else 0)


async def seal_log(log: JetStreamLog, size: int | None = None, signers: Sequence[Signer] = (SIGNER,)) -> Seal:
    """Seal the first events of the log, by default all."""
    seal = seal_of(await records_of(log), await origin_of_log(log), size, signers)
    await publish(log, seal)
    return seal


def kinds(verification: Verification) -> list[Kind]:
    """Return the kinds of the findings, in order."""
    return [finding.kind for finding in verification.findings]


def make_installation(directory: Path, jobs: int = 3) -> Installation:
    """Create an installation with a few jobs, a view, and seals after the third and the last event."""
    installation = Installation(directory)

    async def make() -> None:
        async with installation.log() as log:
            await fill(log, jobs)
            await seal_log(log, 3)
            await seal_log(log)
            await project(log, installation.view)

    asyncio.run(make())
    return installation
