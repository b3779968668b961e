"""Creation of a durable subscription: its start, its definition, and the consumers that keep its position.

`subscribe` creates a subscription when it is first opened; `Subscriptions.create` does so for programs that
lack the rights.
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
_CURSOR: Final = re.compile(r"(?:([0-9a-f]{12})-)?([0-9]{1,19})", re.ASCII)


def format_start(start: Start) -> str:
    """Convert a start to text; equal starts have equal texts.

    Raises:
        InvalidInput: if it is not a start.
    """
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise InvalidInput(f"start {start} has no time zone: use one, such as `datetime.now(UTC)`")
        since = start - datetime.fromtimestamp(0, UTC)
        return format_rfc3339((since // timedelta(microseconds=1)) * 1_000)
    if isinstance(start, bool) or (isinstance(start, int) and not 0 <= start <= INT_MAX):
        raise InvalidInput(f"invalid start {start!r}: a sequence must be 0..{INT_MAX}")
    return str(start)


async def resolve_start(log: EventLog, start: str, info: LogInfo) -> int:
    """The sequence after which a start begins.

    Raises:
        InvalidInput: if it names no position of this log.
    """
    if start == "beginning":
        return 0
    if start == "now":
        return info.last_sequence
    found = _CURSOR.fullmatch(start)
    if found is not None and int(found[2]) <= INT_MAX:
        if found[1] is not None and found[1] != stream_tag(info.epoch):
            raise InvalidInput(
                f"start {start} belongs to another stream, which this log replaced: use a cursor of this one"
            )
        if int(found[2]) > info.last_sequence:
            raise InvalidInput(
                f"start sequence {found[2]} is beyond the end of the log (last sequence:"
                f" {info.last_sequence})"
            )
        return int(found[2])
    at = parse_rfc3339(start)
    if at is None:
        raise InvalidInput(
            f"invalid start {start!r:.60}: use `beginning`, `now`, a sequence, a cursor, or a time with its"
            " time zone"
        )
    return await log.sequence_at(at - 1)


async def ensure_definition(
    log: EventLog, records: KeyValue, consumers: Consumers, requested: Definition
) -> Definition:
    """Return the stored definition of a subscription, after writing the requested one if there is none.

    Raises:
        InvalidInput: if the stored one differs.
        LogUnfit: if an earlier subscription of this name left a consumer with another start.
        LogNotPermitted: if there is none, and the credentials do not allow writing one.
        LogUnavailable: if the log cannot be reached.
    """
    info = await log.info()
    for _ in range(COMMAND_MAX_ATTEMPTS):
        entry = await records.get(requested.key)
        found = decode_definition(entry.value) if entry is not None else None
        if found is not None and found.epoch == info.epoch:
            check_same(requested, found)
            return found
        definition = msgspec.structs.replace(
            requested,
            after=await resolve_start(log, requested.start, info),
            epoch=info.epoch,
            created=format_rfc3339(time.time_ns()),
        )
        if found is None:  # otherwise the stream was created again, and has no consumers
            await _refuse_left_consumers(consumers, definition)
        value = definition.encode()
        expect = entry.revision if entry is not None else NO_ENTRY  # of an earlier stream: overwritten
        try:
            written = await records.put(requested.key, value, expect=expect)
        except LogNotPermitted as error:
            raise LogNotPermitted(
                f"the subscription {requested.name} does not exist, and this NATS user may not create it"
                f" ({error}): have an operator run `jobledger subscriptions create {requested.name}`"
            ) from error
        if written is not None and written.value == value:
            return definition
    raise LogUnavailable(f"the definition of {requested.name} keeps changing: try again")


async def ensure_consumers(consumers: Consumers, definition: Definition, parts: Iterable[int]) -> None:
    """Create the consumers of some parts, unless they exist.

    Raises:
        LogNotPermitted: if one is missing, and the credentials do not allow creating it.
        LogUnfit: if an existing one belongs to another subscription.
    """
    found = await asyncio.gather(
        *(consumers.create(definition.consumer(part), note=definition.note(part)) for part in parts)
    )
    for info in found:
        check_start(definition, info)


async def _refuse_left_consumers(consumers: Consumers, definition: Definition) -> None:
    for info in await asyncio.gather(*map(consumers.info, definition.consumer_names)):
        if info is not None:
            check_start(definition, info)
