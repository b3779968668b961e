"""`jobledger streams`: create, check and repair the streams that Jobledger keeps on NATS."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from jobledger.service.cli.examples import examples
from jobledger.service.cli.options import Session, with_settings
from jobledger.service.cli.output import Output, output_option
from jobledger.service.cli.text import Column, print_table, say
from jobledger.service.errors import ERROR_KINDS
from jobledger.store.model.errors import LogError

if TYPE_CHECKING:
    from jobledger.service.settings import Settings
    from jobledger.service.stream_record import StreamRecord
    from jobledger.store.jetstream.log import JetStreamLog
    from jobledger.store.jetstream.stream import StreamReport

_stream_settings = with_settings(
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
    help="Print what is lost with a stream that is missing or was replaced, then continue without it.",
)
@click.option(
    "--rewritten",
    is_flag=True,
    help="Record that the blocks were rewritten with --store-dir, which ends the warning of readiness.",
)
@output_option("table", "json")
@_stream_settings
def create(*, accept_loss: bool, rewritten: bool, output: Output, session: Session) -> None:
    """Create missing streams, and repair their settings.

    Repairs compression and replicas. Run it as a NATS user with the permission to create and change streams
    if the user of the service lacks it. A stream that existed and is missing, or differs from the one
    recorded in --data-dir, is an error. With --accept-loss, what is lost is printed first, and then the
    streams are used as they are. The exit code is 6 if something could not be repaired.
    """
    _print(asyncio.run(_create(session.settings, accept_loss=accept_loss, rewritten=rewritten)), output)


async def _create(settings: "Settings", *, accept_loss: bool, rewritten: bool) -> "Sequence[StreamReport]":
    from jobledger.projections.database import move_damaged
    from jobledger.service.log_access import VIEW_FILE
    from jobledger.store.model.errors import LogMissing, LogTruncated
    from jobledger.store.model.subjects import STREAM_NAME

    record, view = _record_of(settings), settings.data_dir / VIEW_FILE
    created: set[str] = set()

    def accept_loss_of(missing: LogMissing) -> None:
        created.add(missing.stream)
        say(f"Lost: everything in {missing.stream}: {'; '.join(missing.evidence)}")

    async with _connected(settings, create=True, accept_loss=accept_loss_of if accept_loss else None) as log:
        if record is not None and not accept_loss:
            await record.verify(log.report_streams)
        for each in record.differences(await log.report_streams()) if record is not None else ():
            if each.stream not in created:
                say(f"Lost: {each.difference}")
            if isinstance(each, LogTruncated) and each.stream == STREAM_NAME:
                move_damaged(view)  # it contains events that the log lacks; the service builds a new one
        found = await log.prepare_streams()
        if rewritten:
            await log.note_rewritten()
            found = await log.report_streams()
    if accept_loss and record is not None and (record.path.exists() or view.exists()):
        record.replace(found)
    return found


def _record_of(settings: "Settings") -> "StreamRecord | None":
    """The record of the streams in the data directory; None if that directory belongs to another log."""
    from jobledger.service.log_access import log_exists
    from jobledger.service.stream_record import RECORD_FILE, StreamRecord

    if settings.nats_url and log_exists(settings):
        return None
    return StreamRecord(settings.data_dir / RECORD_FILE)


@streams.command(epilog=examples("jobledger streams show", "jobledger streams show -o json"))
@output_option("table", "json")
@_stream_settings
def show(*, output: Output, session: Session) -> None:
    """Show every stream with its replicas, messages and bytes.

    Changes nothing. `Compressed` counts the compressed blocks on disk if the store is in --data-dir;
    otherwise it is `maybe` for a stream that once was compressed. The exit code is 6 if a stream is missing
    (the evidence that it existed is printed), differs from the one recorded in --data-dir, is compressed, or
    has fewer replicas than the log.
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
                found_evidence = "; ".join(await evidence(name))
                existed = f", and existed: {found_evidence}" if found_evidence else ""
                problems.append(f"{name} is missing{existed}")
        return found, problems

    reports, problems = asyncio.run(run())
    _print(reports, output, settings, problems)


@streams.command(epilog=examples("jobledger streams rewrite --data-dir /var/lib/jobledger"))
@click.option(
    "--store-dir",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The store_dir of a stopped nats-server; it contains the directory `jetstream`.",
)
@_stream_settings
def rewrite(*, store_dir: Path | None, session: Session) -> None:
    """Rewrite compressed blocks without compression.

    By default, rewrites the embedded log in --data-dir; the service must be stopped. With --nats-url,
    replaces every replica by a new one, one at a time, while the cluster is in use. With --store-dir,
    rewrites the files of a stopped nats-server. Run an interrupted rewrite again to finish it.
    """
    from jobledger.store.jetstream.rewrite import rewrite_store
    from jobledger.store.model.subjects import STREAM_NAME

    if store_dir is not None:
        count = rewrite_store(store_dir, STREAM_NAME, say)
        say(f"{count} blocks rewritten; start nats-server, then run `jobledger streams create --rewritten`")
        return
    settings = session.settings
    if settings.nats_url:
        asyncio.run(_rewrite_replicas(settings))
        return
    say(f"{asyncio.run(_rewrite_embedded(settings))} blocks rewritten")


@streams.command(
    "accept-damage", epilog=examples("jobledger streams accept-damage --data-dir /var/lib/jobledger")
)
@click.option("--yes", is_flag=True, help="Do it; otherwise the loss is only shown.")
@with_settings("data_dir")
def accept_damage(*, yes: bool, session: Session) -> None:
    """Discard the damaged part of an embedded log.

    The service does not start if nats-server cannot read all of its files. This command shows which files and
    sequences are damaged or missing; with --yes it rewrites the damaged blocks without them. Their sequences
    stay empty, so all other events keep theirs. The damaged files are kept in `nats/recovery`. Restore a
    backup instead if you have one. The service must be stopped.
    """
    asyncio.run(_accept_damage(session.settings, yes=yes))


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
                say("No damage found")
                return
        except StoreDamaged:
            damage = read_damage(directory / RECOVERY_FOLDER)
        for each in damage:
            click.echo(str(each))
        events = sum(each.lost.count for each in damage if each.lost and not each.witness)
        witnesses = sorted({each.witness for each in damage if each.witness})
        if not yes:
            for path in witnesses:
                say(f"{path} would be moved to a backup and rebuilt from this log, if this is the right log")
            say(f"{events} messages would be discarded; repeat the command with --yes to do it")
            raise click.exceptions.Exit(1)
        for path in witnesses:
            say(f"{path} was moved to {await asyncio.to_thread(move_damaged, Path(path))}")
        kept = give_up(directory, damage)
        known = await known_of(settings)
        async with EmbeddedServer(directory, known=known):  # checks that everything else can be read
            say(f"{events} messages discarded; the damaged files are in {kept}")


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
    """Print the table and the problems; ends with an exit code if there are problems."""
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
        click.get_current_context().exit(ERROR_KINDS[LogError].exit_code)


def _blocks_left(report: "StreamReport", blocks: dict[str, int] | None) -> str:
    if blocks is not None:
        return str(blocks.get(report.name, 0))
    return "maybe" if report.once_compressed else "0"


def _compressed_blocks(settings: "Settings | None", names: Sequence[str]) -> dict[str, int] | None:
    """The number of compressed blocks of each stream; None if the store is on another machine."""
    if settings is None or settings.nats_url:
        return None
    from jobledger.store.embedded import NATS_FOLDER
    from jobledger.store.jetstream.rewrite import find_blocks

    counts: dict[str, int] = {}
    for block in find_blocks(settings.data_dir / NATS_FOLDER, names):
        counts[block.stream] = counts.get(block.stream, 0) + block.compressed
    return counts
