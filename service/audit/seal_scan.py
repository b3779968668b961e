"""Reading the stream of seals once, forward, and remembering what trusted keys signed there.

Anyone who may publish there can add notes. So a note counts only with a signature by a trusted key; others
are counted and skipped. The place is kept in a file, so that each note is examined once, in bounded portions,
however many there are: junk delays the sealing by the time that it takes to read it, and never stops it.

The file is a cache: without it, or with other trusted keys, the stream is read again from its beginning.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from jobledger.projections.errors import ProofError
from jobledger.service.audit.checkpoint import Seal, named_keys, open_seal
from jobledger.service.audit.note import VerifierKey
from jobledger.service.errors import InvalidSettings, NotSealed
from jobledger.service.limits import SEAL_ORIGINS_MAX, SEAL_SCAN_NOTES
from jobledger.store.kv import KeyHistory
from jobledger.store.model.events import Record
from jobledger.store.private_files import read_trusted, replace_file

_log = logging.getLogger("jobledger.audit")

SCAN_FILE: Final = Path("audit", "scan.json")  # below the service's directory
FORMAT: Final = 1


class Sealed(msgspec.Struct, frozen=True):
    """A published seal, with its place.

    Attributes:
        seal: what it says.
        sequence: its position in the stream of seals.
        time: when it was published, Unix nanoseconds, as the stream of seals has it.
    """

    seal: Seal
    sequence: int
    time: int


class StillReading(NotSealed):
    """The stream of seals has more notes than are examined in one go; the next call goes on."""


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the stream of seals.

    Attributes:
        origin: of the log that is sealed; `last`, `odd` and `succeeds` are about it.
        epoch: of that stream.
        keys: fingerprint of the trusted keys.
        sequence: the last note that was examined.
        last: the largest seal of this log by a trusted key; of two that cover as much, the first.
        odd: seals of this log by a trusted key that cover no more than one before them; still to be compared
            with the tree.
        others: the largest seal of each other log by a trusted key.
        succeeds: origins that a trusted seal of this log says it replaces.
        format: of the file.
    """

    origin: str = ""
    epoch: str = ""
    keys: str = ""
    sequence: int = 0
    last: Sealed | None = None
    odd: tuple[Seal, ...] = ()
    others: dict[str, Seal] = {}
    succeeds: tuple[str, ...] = ()
    format: int = FORMAT


class SealScan:
    """Examines the stream of seals.

    Args:
        seals: the stream.
        path: of the file that keeps the place.
        origin: of the log that is sealed.

    Attributes:
        ignored: notes skipped since the start: by an unknown key, or not seals at all.
    """

    def __init__(self, seals: KeyHistory, path: Path, origin: str) -> None:
        self.ignored = {"unknown_key": 0, "damaged": 0}
        self._seals = seals
        self._path = path
        self._origin = origin
        self._scan: Scan | None = None
        self._warned: set[str] = set()  # a few words each, one log line each

    async def read(self, keys: Sequence[VerifierKey]) -> Scan:
        """Examine what was published since the last call.

        Args:
            keys: that are trusted.

        Raises:
            StillReading: if there is more than one call examines.
            LogUnavailable: if the stream can't be read.
        """
        scan = self._scan if self._scan is not None else _load(self._path)
        info, fingerprint = await self._seals.info(), _fingerprint(keys)
        if (scan.keys, scan.origin) != (fingerprint, self._origin):
            scan = Scan(keys=fingerprint, origin=self._origin)  # other keys, or the log was created again
        if scan.epoch != info.epoch or info.last_sequence < scan.sequence:
            # Restored, created again, or a new leader that is not current. Reading it again is always safe: a
            # seal is only published after the newest note, and the seal file has what this service knows.
            scan = msgspec.structs.replace(scan, epoch=info.epoch, sequence=0, last=None, odd=())
        start = scan
        try:
            while scan.sequence < info.last_sequence:
                if scan.sequence - start.sequence >= SEAL_SCAN_NOTES:
                    raise StillReading(
                        f"{scan.sequence} of {info.last_sequence} notes on the stream of seals were examined;"
                        " it goes on"
                    )
                page = await self._seals.read_all(after=scan.sequence)
                if not page:  # what is left can't be read: damage, which `audit verify` names
                    scan = msgspec.structs.replace(scan, sequence=info.last_sequence)
                    break
                scan = await asyncio.to_thread(self._examine, scan, page, keys)
        finally:
            self._scan = scan
            if scan != start:
                _save(self._path, scan)
        return scan

    def fits(self, seal: Seal) -> None:
        """Note that an odd seal was compared with the tree, and is of this log's past."""
        if self._scan is not None:
            odd = tuple(each for each in self._scan.odd if each != seal)
            self._scan = msgspec.structs.replace(self._scan, odd=odd)

    def _examine(self, scan: Scan, page: Sequence[Record], keys: Sequence[VerifierKey]) -> Scan:
        last, odd, others = scan.last, [*scan.odd], dict(scan.others)
        succeeds = dict.fromkeys(scan.succeeds)
        for record in page:
            try:
                seal = open_seal(record.payload, keys)
            except ProofError as error:
                self._ignore(record, error)
                continue
            if seal.origin == self._origin:
                succeeds |= dict.fromkeys(seal.succeeds)
                if last is None or seal.size > last.seal.size:
                    last = Sealed(seal, record.sequence, record.time)
                elif (seal.size, seal.root) != (last.seal.size, last.seal.root):
                    odd.append(seal)
            elif seal.origin not in others or seal.size > others[seal.origin].size:
                others[seal.origin] = seal
        for origin in [*others][:-SEAL_ORIGINS_MAX]:
            del others[origin]
        return msgspec.structs.replace(
            scan,
            sequence=page[-1].sequence,
            last=last,
            odd=tuple(odd),
            others=others,
            succeeds=tuple(succeeds)[-SEAL_ORIGINS_MAX:],
        )

    def _ignore(self, record: Record, error: ProofError) -> None:
        try:
            signers = ", ".join(named_keys(record.payload))
        except ProofError:
            kind, what = "damaged", "is not a signed note"
        else:
            kind, what = "unknown_key", f"is signed by {signers:.200}, none of them trusted"
        self.ignored[kind] += 1
        if what not in self._warned and len(self._warned) < SEAL_ORIGINS_MAX:
            self._warned.add(what)
            _log.warning(
                "the note at %d of the stream of seals is ignored: it %s (%s). If it is by another replica,"
                " add its key to audit_trusted_keys",
                record.sequence,
                what,
                error,
            )


def _fingerprint(keys: Sequence[VerifierKey]) -> str:
    return hashlib.sha256("\n".join(sorted(map(str, keys))).encode()).hexdigest()[:16]


def _load(path: Path) -> Scan:
    try:
        scan = msgspec.json.decode(read_trusted(path), type=Scan)
    except (OSError, ValueError, msgspec.DecodeError):
        return Scan()
    return scan if scan.format == FORMAT else Scan()


def _save(path: Path, scan: Scan) -> None:
    try:
        replace_file(path, lambda: msgspec.json.encode(scan))
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InvalidSettings(f"the file {path} can't be written: {reason}") from error
