"""Seals page by page, newest first."""

from jobledger.store.model.events import Record
from jobledger.store.seals import SealStore


async def newest_seals(seals: SealStore, *, before: int, limit: int) -> list[Record]:
    """The newest seals before a sequence of their stream.

    Args:
        seals: where they are published.
        before: only those before this sequence; 0: from the newest on.
        limit: how many at most.

    Raises:
        LogUnavailable: if the server can't be reached.
    """
    last = await seals.last()
    oldest = await seals.read() if last is not None else ()
    if last is None or not oldest:
        return []
    end = min(before - 1, last.sequence) if before else last.sequence
    found: list[Record] = []
    # Seals of other epochs of the log may stand in between, so a step back may find fewer than it is long.
    while end >= oldest[0].sequence and len(found) < limit:
        start = max(0, end - limit)
        found += reversed(await _between(seals, start, end))
        end = start
    return found[:limit]


async def _between(seals: SealStore, after: int, up_to: int) -> list[Record]:
    records: list[Record] = []
    while page := await seals.read(after=after, up_to=up_to):
        records += page
        after = page[-1].sequence
    return records
