"""The labels that jobs had before and after an event, from the specs that the view keeps."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from jobledger.projections.view import View
from jobledger.service.limits import FEED_LABELS_CHARACTERS, FEED_LABELS_SPECS, FEED_SPECS_AT_ONCE
from jobledger.store.model.fold import spec_head

Labels = Mapping[str, str]
_NONE: Final[Labels] = {}


class LabelsOfSpecs:
    """Labels by the sequence of the event that set the spec; remembers the last ones, for all feeds.

    Args:
        read: gets specs by such sequences; one that it does not have counts as a spec without labels.
    """

    def __init__(self, read: Callable[[list[int]], Awaitable[Mapping[int, bytes]]]) -> None:
        self._read_specs = read
        self._known: dict[int, Labels] = {}  # oldest first
        self._turn = asyncio.Lock()  # a hundred feeds that need one spec ask for it once

    async def of(self, spec_sequences: Iterable[int]) -> dict[int, Labels]:
        """The labels of these specs.

        Args:
            spec_sequences: as in `JobStatus.spec_sequence`.
        """
        wanted = set(spec_sequences)
        found = self._found(wanted)
        if len(found) < len(wanted):
            async with self._turn:
                found = self._found(wanted)
                await self._read(sorted(wanted - found.keys()), found)
        return found

    def _found(self, wanted: Iterable[int]) -> dict[int, Labels]:
        known = self._known
        return {sequence: known[sequence] for sequence in wanted if sequence in known}

    async def _read(self, missing: list[int], found: dict[int, Labels]) -> None:
        for start in range(0, len(missing), FEED_SPECS_AT_ONCE):
            asked = missing[start : start + FEED_SPECS_AT_ONCE]
            specs = await self._read_specs(asked)
            for sequence in asked:
                spec = specs.get(sequence)
                labels = spec_head(spec).labels if spec is not None else _NONE
                found[sequence] = labels
                if sum(map(len, (*labels.keys(), *labels.values()))) <= FEED_LABELS_CHARACTERS:
                    self._known[sequence] = labels
        for sequence in list(self._known)[: max(0, len(self._known) - FEED_LABELS_SPECS)]:
            del self._known[sequence]


def labels_after(view: View) -> LabelsOfSpecs:
    """The labels that a spec's event sets."""
    return LabelsOfSpecs(view.specs_at)


def labels_before(view: View) -> LabelsOfSpecs:
    """The labels that the job had before a spec's event."""
    return LabelsOfSpecs(view.specs_before)
