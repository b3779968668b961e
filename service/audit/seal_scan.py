"""Reads the stream of seals once, forward, and remembers what trusted keys signed there.

Other NATS users may be able to publish on the stream, so a note counts only with a signature by a trusted
key; others are counted and skipped. The position is saved in a file, so each note is examined once, in
bounded portions: junk delays sealing by the time needed to read it, and never stops it.

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
from jobledger.service.audit.model.checkpoint import Seal, named_keys, open_seal
from jobledger.service.audit.model.note import VerifierKey
from jobledger.service.errors import InvalidSettings, NotSealed
from jobledger.service.limits import SEAL_ORIGINS_MAX, SEAL_SCAN_NOTES
from jobledger.store.kv import KeyHistory
from jobledger.store.model.events import Record
from jobledger.store.private_files import read_trusted, replace_file

_log = logging.getLogger("jobledger.audit")

SCAN_FILE: Final = Path("audit", "scan.json")  # below the data directory
FORMAT: Final = 1


class Sealed(msgspec.Struct, frozen=True):
    """A published seal.

    Attributes:
        seal: its content.
        sequence: its position in the stream of seals.
        time: when it was published: the stream time, Unix nanoseconds.
    """

    seal: Seal
    sequence: int
    time: int


class StillReading(NotSealed):
    """The stream of seals has more notes than one call examines; the next call continues."""


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the stream of seals; the content of the file.

    Attributes:
        origin: the log to seal; `last`, `odd` and `succeeds` are about it.
        epoch: of the stream.
        keys: fingerprint of the trusted keys.
        sequence: the last note examined.
        last: the largest seal of this log by a trusted key; of two of one size, the first.
        odd: seals of this log by a trusted key that are not larger than an earlier one; still to be compared
            with the tree.
        others: the largest seal of each other log by a trusted key.
        succeeds: origins of the logs that this one replaces, according to a trusted seal.
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
        path: of the file.
        origin: of the log to seal.

    Attributes:
        ignored: the number of notes skipped since the start, by reason.
    """

    def __init__(self, seals: KeyHistory, path: Path, origin: str) -> None:
        self.ignored = {"unknown_key": 0, "damaged": 0}
        self._seals = seals
        self._path = path
        self._origin = origin
        self._scan: Scan | None = None
        self._warned: set[str] = set()  # reasons that were logged

    async def read(self, keys: Sequence[VerifierKey]) -> Scan:
        """Examine the notes published since the last call.

        Raises:
            StillReading: there are more than one call examines.
            LogUnavailable: the stream can't be read.
        """
        scan = self._scan if self._scan is not None else _load(self._path)
        info, fingerprint = await self._seals.info(), _fingerprint(keys)
        if (scan.keys, scan.origin) != (fingerprint, self._origin):
            scan = Scan(
                keys=fingerprint, origin=self._origin
            )  # other trusted keys, or the log was created again
        if scan.epoch != info.epoch or info.last_sequence < scan.sequence:
            # The stream was restored or created again, or a new leader is not current. Reading it again is
            # always safe: a seal is only published after the newest note, and the seal file has this
            # service's.
            scan = msgspec.structs.replace(scan, epoch=info.epoch, sequence=0, last=None, odd=())
        start = scan
        try:
            while scan.sequence < info.last_sequence:
                if scan.sequence - start.sequence >= SEAL_SCAN_NOTES:
                    raise StillReading(
                        f"{scan.sequence} of {info.last_sequence} notes on the stream of seals were examined"
                        " so far"
                    )
                page = await self._seals.read_all(after=scan.sequence)
                if not page:  # the rest can't be read; `audit verify` reports the damage
                    scan = msgspec.structs.replace(scan, sequence=info.last_sequence)
                    break
                scan = await asyncio.to_thread(self._examine, scan, page, keys)
        finally:
            self._scan = scan
            if scan != start:
                _save(self._path, scan)
        return scan

    def mark_fitting(self, seal: Seal) -> None:
        """Record that an odd seal fits the tree."""
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
                "ignoring the note at %d of the stream of seals: it %s (%s). If another replica signed it,"
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
