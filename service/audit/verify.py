"""The whole audit of an installation, by somebody who may read its log: log, seals and view together."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from jobledger.service.audit.checkpoint import origin_of
from jobledger.service.audit.findings import Finding
from jobledger.service.audit.log_check import LogReport, Tell, check_log
from jobledger.service.audit.note import VerifierKey
from jobledger.service.audit.seals.sources import MergedSeals, kept, published
from jobledger.service.audit.view_check import check_view
from jobledger.service.cursor import stream_tag
from jobledger.store.jetstream.adapter import JetStreamLog


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked, and what was found.

    Attributes:
        origin: of the log.
        log: what hashing it came to.
        view: findings about the view; None: it was not looked at.
    """

    origin: str
    log: LogReport
    view: tuple[Finding, ...] | None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them; what is most telling first: an exact place before a range."""
        return (*(self.view or ()), *self.log.findings)


async def verify(
    log: JetStreamLog,
    keys: Sequence[VerifierKey],
    tell: Tell,
    *,
    seal_files: Sequence[Path] = (),
    view: Path | None = None,
    scratch: Path | None = None,
) -> Verification:
    """Audit.

    Args:
        log: to read, from its first event to its last.
        keys: those that seals may be signed with.
        tell: hears how far it is.
        seal_files: with more seals than those that are published beside the log.
        view: to compare with a fresh fold of the log; None: none.
        scratch: a folder for that fold.

    Raises:
        InvalidInput: if a file of seals can't be read.
        LogUnavailable: if the log does not answer for long.
        ViewError: if there is no view there, or another release made it.
    """
    mark = stream_tag((await log.info()).epoch)
    origin = origin_of(mark)
    rows = [published(await log.seals(mark), keys, origin)]
    rows += [kept(path, keys, origin) for path in seal_files]
    report = await check_log(log, MergedSeals(rows), tell)
    found = None if view is None else tuple(await check_view(log, view, tell, scratch=scratch))
    return Verification(origin=origin, log=report, view=found)
