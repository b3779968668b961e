"""Replaces every replica of a stream by a fresh one while the stream is used: a fresh replica has new blocks.

    ┌─► settled: a leader, every replica current, no move in progress
    │     ├─ an old replica left ─► evacuate it: a node without a copy is filled, then the old copy is dropped
    │     │                          └─ no such node ─► one replica fewer: nats-server drops a current one
    │     ├─ none left, one replica missing ─► the number of replicas as before
    │     └─ none left, none missing ─► done
    └─────────────┘

The leader comes last, and nats-server makes a fresh replica the leader before it drops that one. There are
never fewer than two full copies, unless the stream has one. With two, the loss of one node stops writes until
it is back, and loses nothing.

The stream's metadata has the required number of replicas and the ones that are still old, so that the next
run continues an interrupted one. `Streams.prepare` restores the number of replicas.
"""

import asyncio
from collections.abc import Callable

import msgspec

from jobledger.store.jetstream.api import ApiError, ReplicaInfo, StreamInfo, call
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.declarations import (
    COMPRESSED_KEY,
    OLD_REPLICAS_KEY,
    REPLICAS_KEY,
)
from jobledger.store.jetstream.reader import replica_get
from jobledger.store.jetstream.stream import stream_info, update_stream
from jobledger.store.model.errors import LogDamaged, LogRefused, LogUnavailable
from jobledger.store.model.limits import (
    HOLE_PROBES,
    REFILL_GIVE_UP_SECONDS,
    REFILL_LOST_MAX_EVENTS,
    REFILL_POLL_SECONDS,
    REFILL_PROGRESS_SECONDS,
    REFILL_STALLS_MAX,
    REFILL_STEPS_MAX,
    REPLICA_FILL_BYTES_PER_SECOND,
    REPLICA_STALL_SECONDS,
)

_REMAP_FAILED = 10075  # no node can take the replica
_LOST_ROUNDS = 3  # of reads from the replicas for each message, before its last copy might be dropped


class _Answer(msgspec.Struct, frozen=True):
    """The answer to a request that moves a stream."""

    success: bool = False
    error: ApiError | None = None


async def rewrite_replicas(connection: Connection, name: str, report: Callable[[str], None]) -> None:
    """Replaces every replica of a stream, or those that an interrupted run has left.

    Args:
        connection: of a NATS user who may change streams.
        name: of the stream.
        report: called with each step, and every REFILL_PROGRESS_SECONDS during a long one.

    Raises:
        LogRefused: the stream has one replica, which can only be rewritten while its server is stopped.
        LogDamaged: the leader lacks events that another replica may have: fresh ones would lack them too.
        LogNotPermitted: the NATS user lacks the right.
        LogUnavailable: a step makes no progress (REPLICA_STALL_SECONDS and the time to copy the stream) after
            REFILL_STALLS_MAX changes of the leader, or a node is down, or the stream does not settle; the
            next run continues.
    """
    await _Refill(connection, name, report).run()


class _Refill:
    """One run for one stream; every step follows from what the leader reports."""

    def __init__(self, connection: Connection, name: str, report: Callable[[str], None]) -> None:
        self._connection = connection
        self._name = name
        self._report = report
        self._failure = ""  # of the last refused request
        self._lost: set[int] = set()  # messages that no replica has

    async def run(self) -> None:
        info = await self._wait_settled()
        required = int(info.metadata.get(REPLICAS_KEY, info.config["num_replicas"]))
        if required == 1:
            raise LogRefused(
                f"the stream {self._name} has one replica, which cannot be replaced while it is used: stop"
                " nats-server and run `jobledger streams rewrite --store-dir DIRECTORY`"
            )
        old = _old_nodes(info)
        for _ in range(REFILL_STEPS_MAX):
            old &= _nodes(info)
            try:
                await self._refuse_damage(info)
                if await self._step(info, old, required):
                    return
            except LogUnavailable as error:  # an election, or a change by another process: look again
                self._failure = str(error)
            info = await self._wait_settled()
        raise LogUnavailable(
            f"{self._name} was not rewritten in {REFILL_STEPS_MAX} steps"
            f" ({self._failure or 'another process changes it'}); run this again"
        )

    async def _step(self, info: StreamInfo, old: set[str], required: int) -> bool:
        """Makes the next change; True if there is none left."""
        replicas = _replicas(info)
        if not old and replicas >= required:
            await self._note(info, {})
            self._report(f"{self._name}: {required} fresh replicas")
            return True
        info = await self._note(info, {REPLICAS_KEY: str(required), OLD_REPLICAS_KEY: " ".join(sorted(old))})
        if not old:
            self._report(f"{self._name}: back to {required} replicas")
            await self._scale(info, required)
            return False
        leader = _leader(info)
        node = min(old - {leader} or old)
        answer = await self._evacuate(node)
        if answer.success:
            self._report(f"{self._name}: moving the replica of {node}")
            await self._wait_settled(without=node)
        elif replicas == required:
            self._report(f"{self._name}: {required - 1} replicas until the end of the rewrite")
            await self._scale(info, required - 1)
        else:
            raise LogUnavailable(f"no node can take the replica of {node}; are all nodes running?")
        return False

    async def _refuse_damage(self, info: StreamInfo) -> None:
        """Refuses a leader that lacks messages of another replica: fresh replicas would lack them too."""
        state, config = info.state, info.config
        missing = state.last_seq - state.messages
        keeps_all = config.get("deny_delete") and config["max_msgs_per_subject"] < 0 and not config["max_age"]
        if keeps_all and missing > 0 and not await self._is_lost_on_all(info, missing):
            raise LogDamaged(
                f"the replica of {self._name} on {_leader(info)} lacks {missing} messages, and fresh replicas"
                " would be copies of it: run `jobledger audit scrub`, and replace it first",
                sequence=1,
                last=state.last_seq,
            )

    async def _is_lost_on_all(self, info: StreamInfo, missing: int) -> bool:
        """Whether no replica has any of the messages that the leader lacks; False if that is not certain."""
        if not info.config.get("allow_direct") or missing > REFILL_LOST_MAX_EVENTS:
            return False
        detailed = await stream_info(self._connection, self._name, deleted=True)
        if detailed.error is not None or detailed.cluster is None or _leader(detailed) != _leader(info):
            raise LogUnavailable(f"the leader of {self._name} has changed")
        lacks = {*range(1, min(detailed.state.first_seq, missing + 2)), *detailed.state.deleted}
        if len(lacks) != missing:
            return False
        unknown = sorted(lacks - self._lost)
        for start in range(0, len(unknown), HOLE_PROBES):
            some = unknown[start : start + HOLE_PROBES]
            for _ in range(_LOST_ROUNDS):
                requests: list[dict[str, object]] = [{"seq": each} for each in some]
                looks = (replica_get(self._connection, self._name, each) for each in requests)
                if any(each is not None for each in await asyncio.gather(*looks)):
                    return False
            self._lost.update(some)
        if unknown:
            self._report(f"{self._name}: {missing} messages are lost on all replicas; the rest is copied")
        return True

    async def _note(self, info: StreamInfo, notes: dict[str, str]) -> StreamInfo:
        """Records the progress in the metadata; empty notes: the rewrite is complete."""
        done = () if notes else (COMPRESSED_KEY,)
        dropped = (REPLICAS_KEY, OLD_REPLICAS_KEY, *done)
        metadata = {key: text for key, text in info.metadata.items() if key not in dropped} | notes
        if metadata == info.metadata:
            return info
        changed = await update_stream(self._connection, info, {"metadata": metadata})
        return msgspec.structs.replace(info, config=changed.config)

    async def _scale(self, info: StreamInfo, replicas: int) -> None:
        await update_stream(self._connection, info, {"num_replicas": replicas})
        await self._wait_settled(replicas=replicas)

    async def _evacuate(self, node: str) -> _Answer:
        """Moves the replica of a node to a node without one; no success if every node has one.

        Not `PEER.REMOVE`, which drops the old copy before the new one is filled.
        """
        verb = f"STREAM.PEER.EVACUATE.{self._name}"
        answer = await call(self._connection, verb, {"peer": node}, _Answer, permitted=True)
        if answer.error is not None and answer.error.err_code != _REMAP_FAILED:
            raise LogUnavailable(f"moving the replica of {node}: {answer.error.description}")
        return answer

    async def _wait_settled(self, *, replicas: int = 0, without: str = "") -> StreamInfo:
        """Waits until the stream has a leader and full replicas, and no move is in progress.

        The leader drives a move by itself. If that makes no progress, another replica is made the leader: a
        request of the old leader was lost, or it waits for an answer that does not come.
        """
        loop = asyncio.get_running_loop()
        started = reported = moved = loop.time()
        seen: object = None
        stall_seconds = REPLICA_STALL_SECONDS
        stalls = 0
        while True:
            now: object = None
            is_down = False
            try:
                info = await stream_info(self._connection, self._name)
            except LogUnavailable as error:  # an election
                waiting = str(error)
            else:
                if info.error is not None:
                    raise info.error.as_exception(f"looking at the replicas of {self._name}")
                waiting, now = _unsettled_reason(info, replicas, without), _progress(info)
                if not waiting:
                    return info
                cluster = info.cluster
                is_down = cluster is not None and any(_is_down(each) for each in cluster.replicas)
                stall_seconds = REPLICA_STALL_SECONDS + info.state.bytes / REPLICA_FILL_BYTES_PER_SECOND
            time = loop.time()
            if now is not None and now != seen:  # an election alone is not progress
                seen, moved = now, time
            self._check_time(time - started, stall_seconds, waiting)
            if time - moved >= stall_seconds:
                stalls += 1
                if is_down or stalls > REFILL_STALLS_MAX:  # another leader would wait too
                    raise LogUnavailable(
                        f"{self._name} has made no progress for {time - moved:.0f} s: {waiting}; check"
                        f" `nats stream info {self._name}`, and run this again to continue"
                    )
                await self._change_leader()
                moved = time
            if time - reported >= REFILL_PROGRESS_SECONDS:
                reported = time
                self._report(f"{self._name}: {time - started:.0f} s: {waiting}")
            await asyncio.sleep(REFILL_POLL_SECONDS)

    def _check_time(self, seconds: float, stall_seconds: float, waiting: str) -> None:
        if seconds >= REFILL_GIVE_UP_SECONDS + (REFILL_STALLS_MAX + 1) * stall_seconds:
            raise LogUnavailable(
                f"{self._name} has not settled in {seconds:.0f} s: {waiting}; check"
                f" `nats stream info {self._name}`, and run this again to continue"
            )

    async def _change_leader(self) -> None:
        self._report(f"{self._name}: no progress; another replica becomes the leader")
        try:
            await call(self._connection, f"STREAM.LEADER.STEPDOWN.{self._name}", {}, _Answer)
        except LogUnavailable as error:  # there is none
            self._failure = str(error)


def _unsettled_reason(info: StreamInfo, replicas: int, without: str) -> str:
    """What a stream waits for; empty if it is settled."""
    cluster = info.cluster
    if cluster is None or not cluster.leader or cluster.leader_since is None:
        return "it has no leader"
    late = [_lateness(each) for each in cluster.replicas if not each.current or _is_down(each)]
    if cluster.desired is not None:
        nodes = _nodes(info)
        late += [
            f"{each.name} is not added yet" for each in cluster.desired.replicas if each.name not in nodes
        ]
        status = cluster.desired.status
        return "; ".join([(status.description if status is not None else "") or "a move begins", *late])
    nodes = _nodes(info)
    if without in nodes:
        return f"the replica of {without} is not moved yet"
    required = replicas or _replicas(info)
    if len(nodes) != required or _replicas(info) != required:
        return f"it has {len(nodes)} replicas instead of {required}"
    return "; ".join(late)


def _is_down(replica: ReplicaInfo) -> bool:
    return replica.offline or replica.is_gone


def _lateness(replica: ReplicaInfo) -> str:
    return f"{replica.name} is down" if _is_down(replica) else f"{replica.name} lags by {replica.lag}"


def _progress(info: StreamInfo) -> object:
    """Changes while a stream makes progress. Without the lag, which also grows with writes."""
    cluster = info.cluster
    if cluster is None:
        return None
    desired = cluster.desired
    return (
        cluster.leader,
        _replicas(info),
        frozenset((each.name, each.current) for each in cluster.replicas),
        desired and (desired.replicas, desired.status),
    )


def _old_nodes(info: StreamInfo) -> set[str]:
    """The nodes whose replicas must be replaced: those that an interrupted run has recorded, or all."""
    noted = info.metadata.get(OLD_REPLICAS_KEY)
    return _nodes(info) if noted is None else set(noted.split())


def _nodes(info: StreamInfo) -> set[str]:
    assert info.cluster is not None
    return {info.cluster.leader, *(each.name for each in info.cluster.replicas)}


def _leader(info: StreamInfo) -> str:
    assert info.cluster is not None
    return info.cluster.leader


def _replicas(info: StreamInfo) -> int:
    return int(info.config["num_replicas"])
