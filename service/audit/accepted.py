"""What operators confirmed: that a log with another origin replaces one that was sealed before.

Kept in `audit/accepted.json` of the data directory, where nobody who only administers NATS can write, and
repeated in the next seal, signed, so that other replicas and auditors know of it.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import SEAL_ACCEPTED_MAX, SEAL_REASON_MAX_CHARACTERS
from jobledger.store.model.errors import InvalidInput
from jobledger.store.private_files import read_trusted, replace_file
from jobledger.store.timestamps import format_rfc3339

FORMAT: Final = 1
ACCEPTED_FILE: Final = Path("audit", "accepted.json")  # below the service's directory


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """One confirmation.

    Attributes:
        old: origin of the log that was sealed before.
        new: origin of the log that replaces it.
        time: RFC 3339.
        actor: who confirmed it.
        reason: why.
    """

    old: str
    new: str
    time: str
    actor: str
    reason: str


class _Document(msgspec.Struct, frozen=True):
    format: int
    accepted: tuple[Accepted, ...]


class AcceptedFile:
    """The file of confirmations; it is read again each time, so that a running service needs no restart.

    Args:
        path: of the file.
        clock: Unix nanoseconds.
    """

    def __init__(self, path: Path, clock: Callable[[], int] = time.time_ns) -> None:
        self.path = path
        self._clock = clock

    def of(self, new: str) -> dict[str, Accepted]:
        """What the log of this origin replaces, by the origins of the earlier logs.

        Raises:
            InvalidSettings: if the file can't be read, or others may write it.
        """
        return {each.old: each for each in self._records() if each.new == new}

    def add(self, *, old: str, new: str, actor: str, reason: str) -> Accepted:
        """Record a confirmation; the same pair again replaces the earlier one.

        Raises:
            InvalidInput: if an argument can't be recorded.
            InvalidSettings: if the file can't be read or written.
        """
        for name, text in (("old", old), ("new", new), ("actor", actor)):
            if not text or any(each.isspace() or not each.isprintable() for each in text):
                raise InvalidInput(f"{name} {text!r:.80} must be one word, such as jobledger/3f9c0a7b51de")
        if old == new:
            raise InvalidInput(f"old and new are both {old!r:.80}: name two different logs")
        reason = reason.strip()
        if not reason or len(reason) > SEAL_REASON_MAX_CHARACTERS or not reason.isprintable():
            raise InvalidInput(f"reason must be one line of 1 to {SEAL_REASON_MAX_CHARACTERS} characters")
        made = Accepted(old=old, new=new, time=format_rfc3339(self._clock()), actor=actor, reason=reason)

        def write() -> bytes:
            kept = [each for each in self._records() if (each.old, each.new) != (old, new)]
            if len(kept) >= SEAL_ACCEPTED_MAX:
                raise InvalidInput(f"{self.path} has {len(kept)} confirmations, the maximum")
            document = msgspec.json.encode(_Document(FORMAT, (*kept, made)))
            return msgspec.json.format(document, indent=1) + b"\n"

        try:
            replace_file(self.path, write)
        except OSError as error:
            raise self._failed(f"can't be written: {error.strerror or error}") from error
        return made

    def _records(self) -> tuple[Accepted, ...]:
        try:
            document = msgspec.json.decode(read_trusted(self.path), type=_Document)
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise self._failed(f"can't be read: {error.strerror or error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise self._failed(
                "is damaged: restore it from a backup, or delete it and confirm again"
            ) from None
        except ValueError as error:
            raise self._failed(str(error)) from None
        if document.format != FORMAT:
            raise self._failed(f"has format {document.format}, and this release knows {FORMAT}: upgrade")
        return document.accepted

    def _failed(self, what: str) -> InvalidSettings:
        return InvalidSettings(f"the file of confirmations {self.path} {what}")
