"""Operator confirmations that a log with a new origin replaces one that was sealed before.

They are kept in `audit/accepted.json` of the data directory, which a NATS administrator alone can't write,
and repeated in the next seal, so that other replicas and auditors see them signed.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import SEAL_ACCEPTED_MAX, SEAL_REASON_MAX_CHARACTERS
from jobledger.store.model.errors import InvalidInput
from jobledger.store.private_files import PrivateDocument
from jobledger.store.timestamps import format_rfc3339

FORMAT: Final = 1
ACCEPTED_FILE: Final = Path("audit", "accepted.json")  # below the data directory


class AcceptedLog(msgspec.Struct, frozen=True, kw_only=True):
    """One confirmation.

    Attributes:
        old: the origin of the log that was sealed before.
        new: the origin of the log that replaces it.
        time: RFC 3339.
        actor: who confirmed it.
        reason: one line.
    """

    old: str
    new: str
    time: str
    actor: str
    reason: str


class _Document(msgspec.Struct, frozen=True):
    format: int
    accepted: tuple[AcceptedLog, ...]


class AcceptedFile:
    """The file of confirmations; changes by other processes take effect immediately.

    Args:
        path: of the file.
        clock: Unix nanoseconds.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock
        self._file = PrivateDocument(
            path,
            _Document,
            title="file of confirmations",
            error=InvalidSettings,
            formats=(FORMAT,),
            remedy="restore it from a backup, or delete it and confirm again",
        )

    def replaced_by(self, new: str) -> dict[str, AcceptedLog]:
        """Return the confirmations for the log of this origin, by the origin of the earlier log.

        Raises:
            InvalidSettings: the file can't be read, or others can write it.
        """
        return {each.old: each for each in self._records(self._file.read()) if each.new == new}

    def add(self, *, old: str, new: str, actor: str, reason: str) -> AcceptedLog:
        """Record a confirmation; it replaces an earlier one for the same pair.

        Raises:
            InvalidInput: an argument is not valid, or the file is full.
            InvalidSettings: the file can't be read or written.
        """
        for name, text in (("old", old), ("new", new), ("actor", actor)):
            if not text or any(each.isspace() or not each.isprintable() for each in text):
                raise InvalidInput(
                    f"{name} must be one word such as jobledger/3f9c0a7b51de, got {text!r:.80}"
                )
        if old == new:
            raise InvalidInput(f"old and new are both {old!r:.80}: name two different logs")
        reason = reason.strip()
        if not reason or len(reason) > SEAL_REASON_MAX_CHARACTERS or not reason.isprintable():
            raise InvalidInput(
                f"reason must be one line of 1..{SEAL_REASON_MAX_CHARACTERS} characters, got {reason!r:.80}"
            )
        added = AcceptedLog(old=old, new=new, time=format_rfc3339(self._clock()), actor=actor, reason=reason)

        def change(document: _Document | None) -> _Document:
            kept = [each for each in self._records(document) if (each.old, each.new) != (old, new)]
            if len(kept) >= SEAL_ACCEPTED_MAX:
                raise InvalidInput(f"{self.path} has {len(kept)} confirmations, the maximum")
            return _Document(FORMAT, (*kept, added))

        self._file.update(change)
        return added

    @staticmethod
    def _records(document: _Document | None) -> tuple[AcceptedLog, ...]:
        return document.accepted if document is not None else ()
