"""The labels that jobs had: those of the spec that was valid at an event, from the view."""

import asyncio
from collections.abc import Iterable, Mapping

from jobledger.projections.view import View
from jobledger.service.limits import FEED_LABELS_CHARACTERS, FEED_LABELS_SPECS, FEED_SPECS_AT_ONCE
from jobledger.store.fold import spec_head

Labels = Mapping[str, str]


class LabelsOfSpecs:
    """Labels by the sequence of the spec that sets them; remembers the last ones, for all feeds together."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._known: dict[int, Labels] = {}  # oldest first
        self._turn = asyncio.Lock()  # a hundred feeds that need one spec ask for it once

    async def of(self, spec_sequences: Iterable[int]) -> dict[int, Labels]:
        """The labels of these specs; none for a spec that the view does not have.

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
            specs = await self._view.specs_at(asked)
            for sequence in asked:
                spec = specs.get(sequence)
                labels: Labels = spec_head(spec).labels if spec is not None else {}
                found[sequence] = labels
                if sum(map(len, (*labels.keys(), *labels.values()))) <= FEED_LABELS_CHARACTERS:
                    self._known[sequence] = labels
        for sequence in list(self._known)[: max(0, len(self._known) - FEED_LABELS_SPECS)]:
            del self._known[sequence]
