"""Whether the stream continues what was read before, and whether its answer is to be believed.

`../doubts.py` has the verdict over time, this module the questions. DESIGN.md, "When events count as lost",
has the reasons.
"""

import time
from collections.abc import Callable

from jobledger.store.jetstream.api import has_others, leader_of
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.reader import leader_get, record_of, replica_get
from jobledger.store.jetstream.stream import log_info, stream_info
from jobledger.store.log import LogInfo, check_continues, other_record
from jobledger.store.model.errors import LogBehind, LogTruncated, LogUnavailable
from jobledger.store.model.events import Record
from jobledger.store.model.limits import LEADER_CONTACT_SECONDS, REQUEST_TIMEOUT_SECONDS
from jobledger.store.model.truncation import Doubts


class Continuity:
    """Judges one stream for all its readers over one connection."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._doubts = Doubts(time.monotonic)
        self._is_single: bool | None = None  # whether it has one replica; None: not asked yet

    async def check(
        self,
        *,
        epoch: str | None,
        after: int,
        same: Callable[[Record], bool] | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    ) -> LogInfo:
        """See `EventLog.continues`.

        Args:
            epoch: see there.
            after: see there.
            same: see there.
            timeout_seconds: for each question.
        """
        place = (epoch, after)
        answer = await stream_info(self._connection, self._stream, timeout_seconds=timeout_seconds)
        info = log_info(answer, self._stream)
        self._is_single = not has_others(answer)
        try:
            check_continues(info, epoch=epoch, after=after)
            if same is not None and after:
                request: dict[str, object] = {"seq": after}
                found = await leader_get(
                    self._connection, self._stream, request, timeout_seconds=timeout_seconds
                )
                if found is not None and not same(record_of(found)):
                    raise other_record(after)
        except LogTruncated as error:
            if info.first_sequence > after + 1 and await self._has_another(after + 1):
                return LogInfo(info.epoch, 1, info.last_sequence)  # the leader lost its first blocks
            # The record may have come from another server than the description did.
            second = await stream_info(self._connection, self._stream, timeout_seconds=timeout_seconds)
            leader = leader_of(answer)
            if not self._doubts.judge(place, leader if leader == leader_of(second) else ""):
                raise self._doubts.behind(place, str(error).partition(":")[0]) from None
            if not self._is_single and await self._is_kept(after, same):
                raise self._doubts.behind(
                    place,
                    f"the leader of the stream {self._stream} lacks event {after}, and another replica has"
                    " it: the leader's files are damaged, so let another node lead (`nats stream cluster"
                    f" step-down {self._stream}`) and replace its copy",
                ) from error
            raise
        self._doubts.clear(place)
        return info

    async def confirm_leader(self) -> None:
        """See `EventLog.confirm_current`."""
        if self._is_single:
            return
        answer = await stream_info(self._connection, self._stream)
        log_info(answer, self._stream)
        self._is_single = not has_others(answer)
        if not leader_of(answer):
            raise LogUnavailable(
                f"the leader of the stream {self._stream} has not heard from a majority for"
                f" {LEADER_CONTACT_SECONDS:g} s, so another one may lead; nothing was written; try again"
            )

    async def _has_another(self, sequence: int) -> bool:
        return not self._is_single and await self._is_kept(sequence, None)

    async def _is_kept(self, sequence: int, same: Callable[[Record], bool] | None) -> bool:
        """Whether any replica has the event.

        Raises:
            LogBehind: if one that may have it does not answer.
        """
        try:
            found = await replica_get(self._connection, self._stream, {"seq": sequence}, same=same)
        except LogUnavailable as error:
            raise LogBehind(f"event {sequence} is not counted as lost yet: {error}") from error
        return found is not None
