"""Puts a service's sealer together: its keys, its file, and the stream of seals."""

from jobledger.projections.projector import Projector
from jobledger.projections.tree_reader import TreeReader
from jobledger.service.audit.accepted import ACCEPTED_FILE, AcceptedFile
from jobledger.service.audit.checkpoint import origin_of
from jobledger.service.audit.keys import KeyFile
from jobledger.service.audit.seals.file import SealFile
from jobledger.service.audit.seals.scan import SCAN_FILE
from jobledger.service.audit.seals.sealer import SEALS_FILE, Sealer
from jobledger.service.audit.trusted_keys import read_keys
from jobledger.service.settings import Settings
from jobledger.store.jetstream.adapter import JetStreamLog


async def open_sealer(
    settings: Settings, log: JetStreamLog, projector: Projector, tree: TreeReader, mark: str
) -> Sealer:
    """A sealer, ready to be started; at the first start of all, its first key is made.

    Raises:
        InvalidSettings: if the file of keys is not ours alone, damaged, or can't be made.
        LogUnavailable: if the log's server does not answer.
        LogUnfit: if the stream of seals can't keep the promises.
    """
    origin = origin_of(mark)
    keys = KeyFile(settings.audit_keys_file)
    keys.ensure(origin)
    read_keys(settings.audit_trusted_keys)  # a mistake there is said at the start
    return Sealer(
        log,
        projector,
        tree,
        await log.seals(mark),
        keys=keys,
        file=SealFile(settings.data_dir / SEALS_FILE),
        accepted=AcceptedFile(settings.data_dir / ACCEPTED_FILE),
        scan_file=settings.data_dir / SCAN_FILE,
        trusted_keys=settings.audit_trusted_keys,
        origin=origin,
        every_events=settings.seal_every_events,
        every_seconds=settings.seal_every_seconds,
    )
