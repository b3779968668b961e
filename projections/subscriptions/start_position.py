"""Where a subscription begins: the words for it, and the sequence that they mean."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from jobledger.store.log import EventLog, LogInfo, stream_tag
from jobledger.store.model.errors import InvalidInput
from jobledger.store.spec.values import INT_MAX, rfc3339, rfc3339_nanoseconds

Start = str | int | datetime
_PLACE: Final = re.compile(r"(?:([0-9a-f]{12})-)?([0-9]{1,19})", re.ASCII)


def said(start: Start) -> str:
    """A start as text, the same for the same place.

    Raises:
        InvalidInput: if it names none.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise InvalidInput(f"start {start} has no zone; say which, `datetime.now(UTC)` for one")
        since = start - datetime.fromtimestamp(0, UTC)
        return rfc3339((since // timedelta(microseconds=1)) * 1_000)
    if isinstance(start, bool) or (isinstance(start, int) and not 0 <= start <= INT_MAX):
        raise InvalidInput(f"start {start!r} is no sequence")
    return str(start)


async def place_of(log: EventLog, start: str, info: LogInfo) -> int:
    """The sequence after which a start begins.

    Raises:
        InvalidInput: if there is no such place.
    """
    if start == "beginning":
        return 0
    if start == "now":
        return info.last_sequence
    found = _PLACE.fullmatch(start)
    if found is not None and int(found[2]) <= INT_MAX:
        if found[1] is not None and found[1] != stream_tag(info.epoch):
            raise InvalidInput(f"start {start} belongs to another stream: the log was made again")
        if int(found[2]) > info.last_sequence:
            raise InvalidInput(f"start {start} is behind the end of the log, which is {info.last_sequence}")
        return int(found[2])
    at = rfc3339_nanoseconds(start)
    if at is None:
        raise InvalidInput(
            f"start {start!r:.60} is no place: say `beginning`, `now`, a sequence, a cursor, or a time with"
            " its zone"
        )
    return await log.sequence_at(at - 1)
