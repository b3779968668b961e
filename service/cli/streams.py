"""`jobledger streams`: the streams that Jobledger keeps on NATS, for their operator."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.settingflags import some_flags
from jobledger.service.cli.shared import Session
from jobledger.service.cli.text import Column, print_table, say

if TYPE_CHECKING:
    from jobledger.service.settings import Settings
    from jobledger.service.stream_record import StreamRecord
    from jobledger.store.jetstream.log import JetStreamLog
    from jobledger.store.jetstream.stream import StreamReport

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: Final = (
    "data_dir",
    "nats_url",
    "nats_user",
    "nats_password_file",
    "nats_nkey_file",
    "nats_creds_file",
    "nats_tls_ca",
    "nats_tls_cert",
    "nats_tls_key",
    "stream_replicas",
)


def _of_streams(function: F) -> F:
    """Give a command the flags that say where the streams are, and what they lead to as `session`."""

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        flags = {name: kwargs.pop(name) for name in ("config", *_FLAGS)}
        return function(*args, session=Session(flags), **kwargs)

    return some_flags(*_FLAGS)(run)  # type: ignore[return-value]


@click.group(epilog=examples("jobledger streams show", "jobledger streams create"))
def streams() -> None:
    """Create, check and rewrite the streams of the log."""


@streams.command(
    epilog=examples(
        "jobledger streams create --nats-url nats://10.0.0.1:4222 --stream-replicas 3",
        "jobledger streams create --accept-loss",
    )
)
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Print what is given up of a stream that is missing or another one, then go on without it.",
)
@click.option(
    "--rewritten",
    is_flag=True,
    help="Note that the blocks were rewritten with --store-dir, so that readiness stops warning.",
)
@output_option("table", "json")
@_of_streams
def create(*, accept_loss: bool, rewritten: bool, form: str, session: Session) -> None:
    """Create the streams that are missing, and repair compression and replicas.

    For a NATS user who may create and change streams, where the user of the service may not. A stream that
    existed and is missing, or is not the one that was recorded in --data-dir, is refused. With --accept-loss
    what is given up is printed first, and then the streams are used as they are. The exit code is 6 if
    something could not be repaired.
    """
    _print(asyncio.run(_create(session.settings, accept_loss=accept_loss, rewritten=rewritten)), Output(form))


async def _create(settings: "Settings", *, accept_loss: bool, rewritten: bool) -> "Sequence[StreamReport]":
    from jobledger.projections.database import move_damaged
    from jobledger.service.log_access import VIEW_FILE
    from jobledger.store.model.errors import LogMissing, LogTruncated
    from jobledger.store.model.subjects import STREAM_NAME

    record, view = _record_of(settings), settings.data_dir / VIEW_FILE
    created: set[str] = set()

    def give_up(missing: LogMissing) -> None:
        created.add(missing.stream)
        say(f"Giving up everything that {missing.stream} held: {'; '.join(missing.evidence)}")

    async with _connected(settings, create=True, accept_loss=give_up if accept_loss else None) as log:
        if record is not None and not accept_loss:
            await record.verify(log.report_streams)
        for each in record.differences(await log.report_streams()) if record is not None else ():
            if each.stream not in created:
                say(f"Giving up what is missing: {each.difference}")
            if isinstance(each, LogTruncated) and each.stream == STREAM_NAME:
                move_damaged(view)  # it has events that the log lacks; the service makes another one
        found = await log.prepare_streams()
        if rewritten:
            await log.note_rewritten()
            found = await log.report_streams()
    if accept_loss and record is not None and (record.path.exists() or view.exists()):
        record.replace(found)
    return found


def _record_of(settings: "Settings") -> "StreamRecord | None":
    """What the data directory knows of the streams; None if it has a log of its own, and another is asked."""
    from jobledger.service.log_access import log_exists
    from jobledger.service.stream_record import RECORD_FILE, StreamRecord

    if settings.nats_url and log_exists(settings):
        return None
    return StreamRecord(settings.data_dir / RECORD_FILE)


@streams.command(epilog=examples("jobledger streams show", "jobledger streams show -o json"))
@output_option("table", "json")
@_of_streams
def show(*, form: str, session: Session) -> None:
    """Show every stream: replicas, compression, messages and bytes.

    Nothing is created or changed. `compressed` counts the blocks on disk that are compressed, where the store
    is in --data-dir; elsewhere it is `maybe` for a stream that was compressed once. The exit code is 6 if a
    stream is missing (then everything that says that it existed is printed), is not the one that was recorded
    in --data-dir, is compressed, or has fewer replicas than the log.
    """
    settings = session.settings

    async def run() -> "tuple[Sequence[StreamReport], list[str]]":
        from jobledger.service.log_access import evidence_of, report_streams_of
        from jobledger.store.jetstream.declarations import STREAMS
        from jobledger.store.model.subjects import STREAM_NAME

        found, evidence = await report_streams_of(settings), evidence_of(settings)
        record = _record_of(settings)
        problems = [str(each) for each in record.differences(found)] if record is not None else []
        for name in (each.name(STREAM_NAME) for each in STREAMS):
            if name not in {each.name for each in found}:
                signs = "; ".join(await evidence(name))
                problems.append(f"{name} is missing" + (f", and existed: {signs}" if signs else ""))
        return found, problems

    reports, problems = asyncio.run(run())
    _print(reports, Output(form), settings, problems)


@streams.command(epilog=examples("jobledger streams rewrite --data-dir /var/lib/jobledger"))
@click.option(
    "--store-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The store_dir of a nats-server that is stopped; it holds a folder `jetstream`.",
)
@_of_streams
def rewrite(*, store_dir: Path | None, session: Session) -> None:
    """Rewrite blocks that are still compressed.

    Without NATS servers: the embedded log in --data-dir, while no service runs on it. With --nats-url: every
    replica is replaced by a fresh one, one at a time, while the cluster is used. With --store-dir: the files
    of a nats-server that is stopped. A rewrite that was interrupted is finished by running it again.
    """
    from jobledger.store.jetstream.rewrite import rewrite_store
    from jobledger.store.model.subjects import STREAM_NAME

    if store_dir is not None:
        count = rewrite_store(store_dir, STREAM_NAME, say)
        say(f"{count} blocks were rewritten; start nats-server, then `jobledger streams create --rewritten`")
        return
    settings = session.settings
    if settings.nats_url:
        asyncio.run(_rewrite_replicas(settings))
        return
    say(f"{asyncio.run(_rewrite_embedded(settings))} blocks were rewritten")


@streams.command(
    "accept-damage", epilog=examples("jobledger streams accept-damage --data-dir /var/lib/jobledger")
)
@click.option("--yes", is_flag=True, help="Give it up; without this, it is only shown.")
@some_flags("data_dir")
def accept_damage(*, yes: bool, **flags: Any) -> None:
    """Give up what cannot be read of a damaged embedded log, and keep the rest.

    The service refuses to start if nats-server cannot read everything that was in its files. This command
    shows which files and which sequences are damaged or missing; with --yes it rewrites the damaged blocks
    without them. Their sequences stay empty and are never used again, so everything else keeps its place. The
    damaged files are kept in `nats/recovery`. Restore a backup instead, if there is one. The service must be
    stopped.
    """
    asyncio.run(_accept_damage(Session(flags).settings, yes=yes))


async def _accept_damage(settings: "Settings", *, yes: bool) -> None:
    from jobledger.projections.database import move_damaged
    from jobledger.service.log_access import VIEW_FILE, known_of
    from jobledger.service.log_witness import ViewWitness
    from jobledger.service.server.serve import locked
    from jobledger.store.embedded import NATS_FOLDER, EmbeddedServer
    from jobledger.store.embedded.generation import RECOVERY_FOLDER
    from jobledger.store.embedded.salvage import give_up
    from jobledger.store.embedded.stream_states import read_damage
    from jobledger.store.model.errors import StoreDamaged
    from jobledger.store.model.subjects import STREAM_NAME

    witness = ViewWitness(settings.data_dir / VIEW_FILE, STREAM_NAME)
    directory = settings.data_dir / NATS_FOLDER
    with locked(settings.data_dir):
        known = await known_of(settings)
        try:
            async with EmbeddedServer(directory, known=known, witness=witness):
                say("Nothing is damaged")
                return
        except StoreDamaged:
            damage = read_damage(directory / RECOVERY_FOLDER)
        for each in damage:
            click.echo(str(each))
        events = sum(each.lost.count for each in damage if each.lost and not each.witness)
        witnesses = sorted({each.witness for each in damage if each.witness})
        if not yes:
            for path in witnesses:
                say(f"{path} would be moved aside, and made again from this log, if this is the right one")
            say(f"{events} messages would be given up; run this with --yes to do it")
            raise click.exceptions.Exit(1)
        for path in witnesses:
            say(f"{path} is moved to {await asyncio.to_thread(move_damaged, Path(path))}")
        aside = give_up(directory, damage)
        known = await known_of(settings)
        async with EmbeddedServer(directory, known=known):  # proves that everything else is there
            say(f"{events} messages given up; the damaged files are in {aside}")


async def _rewrite_replicas(settings: "Settings") -> None:
    async with _connected(settings) as log:
        await log.prepare_streams()
        await log.rewrite_replicas(say)


async def _rewrite_embedded(settings: "Settings") -> int:
    from jobledger.service.log_access import evidence_of
    from jobledger.service.server.serve import locked
    from jobledger.store.embedded import NATS_FOLDER
    from jobledger.store.jetstream.log import JetStreamLog
    from jobledger.store.jetstream.rewrite import rewrite_embedded
    from jobledger.store.model.subjects import STREAM_NAME

    async def open_log(url: str) -> JetStreamLog:
        return await JetStreamLog.connect(url, evidence=evidence_of(settings))

    with locked(settings.data_dir):
        return await rewrite_embedded(settings.data_dir / NATS_FOLDER, STREAM_NAME, open_log, say)


@asynccontextmanager
async def _connected(settings: "Settings", **how: Any) -> "AsyncIterator[JetStreamLog]":
    from jobledger.service.log_access import open_log

    async with open_log(settings, **how) as log:
        yield log


def _print(
    reports: "Sequence[StreamReport]",
    output: Output,
    settings: "Settings | None" = None,
    problems: Sequence[str] = (),
) -> None:
    """The table, the problems, and the exit code."""
    blocks = _compressed_blocks(settings, [each.name for each in reports])
    problems = [*problems]
    for each in reports:
        problems += each.problems
    rows = [(each, _blocks_left(each, blocks)) for each in reports]
    if output.for_machines:
        output.document(
            {
                "Streams": [
                    {
                        "Name": each.name,
                        "Created": each.created,
                        "Replicas": each.replicas,
                        "Compression": each.compression,
                        "CompressedBlocks": left,
                        "Messages": each.messages,
                        "Bytes": each.bytes,
                        "FirstSequence": each.first_sequence,
                        "LastSequence": each.last_sequence,
                    }
                    for each, left in rows
                ],
                "Problems": problems,
            }
        )
    else:
        print_table(
            [
                Column("Stream"),
                Column("Replicas", right=True),
                Column("Compression"),
                Column("Compressed", right=True),
                Column("Messages", right=True),
                Column("Bytes", right=True),
                Column("Last", right=True),
            ],
            [
                (
                    each.name,
                    str(each.replicas),
                    each.compression,
                    left,
                    str(each.messages),
                    str(each.bytes),
                    str(each.last_sequence),
                )
                for each, left in rows
            ],
        )
        for problem in problems:
            say(problem)
    if problems:
        click.get_current_context().exit(6)


def _blocks_left(report: "StreamReport", blocks: dict[str, int] | None) -> str:
    if blocks is not None:
        return str(blocks.get(report.name, 0))
    return "maybe" if report.once_compressed else "0"


def _compressed_blocks(settings: "Settings | None", names: Sequence[str]) -> dict[str, int] | None:
    """How many blocks of each stream are compressed, if the store is on this machine."""
    if settings is None or settings.nats_url:
        return None
    from jobledger.store.embedded import NATS_FOLDER
    from jobledger.store.jetstream.rewrite import find_blocks

    counts: dict[str, int] = {}
    for block in find_blocks(settings.data_dir / NATS_FOLDER, names):
        counts[block.stream] = counts.get(block.stream, 0) + block.compressed
    return counts
