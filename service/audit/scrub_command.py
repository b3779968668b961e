"""A scrub as it runs: finds the log, the tree and the seal, and goes on where the last one stopped."""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from jobledger.projections.errors import ViewError
from jobledger.projections.tree_reader import TreeReader
from jobledger.projections.view import View
from jobledger.service.audit.checkpoint import origin_of
from jobledger.service.audit.log_check import SealedTree, Tell
from jobledger.service.audit.note import VerifierKey
from jobledger.service.audit.scrub import Scrub, ScrubState, load_scrub, run_scrub
from jobledger.service.audit.seals.pages import newest_seals
from jobledger.service.audit.seals.sources import judge_seal
from jobledger.service.cursor import stream_tag
from jobledger.service.limits import PROOF_SEALS_MAX
from jobledger.service.log_access import open_log
from jobledger.service.settings import Settings
from jobledger.store.seals import SealStore


async def scrub_log(
    settings: Settings,
    keys: Sequence[VerifierKey],
    tell: Tell,
    *,
    view: Path | None,
    state_file: Path | None,
    seconds: float | None,
) -> ScrubState:
    """Compare every replica of a log with the tree.

    Args:
        settings: say where the log is.
        keys: that a seal may be signed with; without any, no seal is compared.
        tell: hears how far it is.
        view: with the tree; None: the majority of the replicas counts.
        state_file: where the place is kept; None: nowhere.
        seconds: how long to go on; None: to the end.

    Raises:
        InvalidSettings: if the file of the place can't be used.
        LogUnavailable: if the log can't be reached.
        ViewError: if the view can't be used, or is of another log.
    """
    async with AsyncExitStack() as stack:
        log = await stack.enter_async_context(open_log(settings))
        info = await log.info()
        mark = stream_tag(info.epoch)
        last, tree = info.last_sequence, None
        if view is not None:
            opened = await stack.enter_async_context(await View.open(view, readers=1))
            last, tree = min(last, await _tree_size(opened, view, info.epoch)), TreeReader(opened)
        state = load_scrub(state_file, origin_of(mark)) if state_file is not None else None
        if state is None or (view is not None and state.last > last):
            seal = await _newest_seal(await log.seals(mark), keys, origin_of(mark), last) if keys else None
            state = ScrubState(origin=origin_of(mark), last=last, seal=seal)
        return await run_scrub(Scrub(log, state, tree), tell, seconds=seconds, path=state_file)


async def _tree_size(opened: View, path: Path, epoch: str) -> int:
    place = await opened.checkpoint()
    if place.epoch and place.epoch != epoch:
        raise ViewError(f"the view {path} is of another log, of {place.epoch}; this one is of {epoch}")
    return (await TreeReader(opened).state()).size


async def _newest_seal(
    seals: SealStore, keys: Sequence[VerifierKey], origin: str, last: int
) -> SealedTree | None:
    for record in await newest_seals(seals, before=0, limit=PROOF_SEALS_MAX):
        seal = judge_seal(f"seal {record.sequence}", record.payload, keys, origin)
        if isinstance(seal, SealedTree) and 0 < seal.size <= last:
            return seal
    return None
