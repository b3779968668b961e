"""Creating a durable subscription: its definition, written once, and the consumers that keep its place.

`subscribe` does it when it opens a subscription for the first time, `Subscriptions.create` for programs that
may not do it themselves.
"""

import asyncio
import re
import time
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from jobledger.projections.subscriptions.definition import (
    Definition,
    check_same,
    check_start,
    decode_definition,
)
from jobledger.store.consumer import Consumers
from jobledger.store.kv import NO_ENTRY, KeyValue
from jobledger.store.log import EventLog, LogInfo, stream_tag
from jobledger.store.model.errors import InvalidInput, LogNotPermitted, LogUnavailable
from jobledger.store.model.limits import COMMAND_MAX_ATTEMPTS, INT_MAX
from jobledger.store.timestamps import format_rfc3339, parse_rfc3339

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
        return format_rfc3339((since // timedelta(microseconds=1)) * 1_000)
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
    at = parse_rfc3339(start)
    if at is None:
        raise InvalidInput(
            f"start {start!r:.60} is no place: say `beginning`, `now`, a sequence, a cursor, or a time with"
            " its zone"
        )
    return await log.sequence_at(at - 1)


async def agree(log: EventLog, records: KeyValue, consumers: Consumers, wanted: Definition) -> Definition:
    """Return the definition of a subscription: the one that is written, or this one, which is then written.

    Raises:
        InvalidInput: if it exists with another one.
        LogUnfit: if an earlier subscription of the name left a consumer that began elsewhere.
        LogNotPermitted: if there is none, and these credentials may not write one.
        LogUnavailable: if that can't be found out.
    """
    info = await log.info()
    for _ in range(COMMAND_MAX_ATTEMPTS):
        entry = await records.get(wanted.key)
        found = decode_definition(entry.value) if entry is not None else None
        if found is not None and found.epoch == info.epoch:
            check_same(wanted, found)
            return found
        definition = msgspec.structs.replace(
            wanted,
            after=await place_of(log, wanted.start, info),
            epoch=info.epoch,
            created=format_rfc3339(time.time_ns()),
        )
        if found is None:  # otherwise the stream is another one, and its consumers are new
            await _refuse_left_consumers(consumers, definition)
        value = definition.encode()
        expect = entry.revision if entry is not None else NO_ENTRY  # of a stream that is gone: written over
        try:
            written = await records.put(wanted.key, value, expect=expect)
        except LogNotPermitted as error:
            raise LogNotPermitted(
                f"the subscription {wanted.name} does not exist, and this NATS user may not create it"
                f" ({error}): an operator does, with `jobledger subscriptions create {wanted.name}`"
            ) from error
        if written is not None and written.value == value:
            return definition
    raise LogUnavailable(f"the definition of {wanted.name} is written all the time; try again")


async def make_consumers(consumers: Consumers, definition: Definition, parts: Iterable[int]) -> None:
    """Make the consumers of some parts, or find those that are there.

    Raises:
        LogNotPermitted: if one is missing, and these credentials may not create it.
        LogUnfit: if one that is there is not this subscription's.
    """
    made = await asyncio.gather(
        *(consumers.create(definition.consumer(part), note=definition.note(part)) for part in parts)
    )
    for info in made:
        check_start(definition, info)


async def _refuse_left_consumers(consumers: Consumers, definition: Definition) -> None:
    names = [definition.consumer_name(part) for part in range(definition.parts)]
    for info in await asyncio.gather(*map(consumers.info, names)):
        if info is not None:
            check_start(definition, info)
