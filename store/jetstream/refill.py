"""Replaces every replica of a stream by a fresh one, while it is used: the blocks of a fresh one are new.

    ┌─► settled: a leader, every replica current, no move under way
    │     ├─ an old replica left ─► evacuate it: a node without a copy is filled, then the old copy is dropped
    │     │                          └─ no such node ─► one replica fewer: nats-server drops a current one
    │     ├─ none, one replica short ─► the number of replicas as before
    │     └─ none, none short ─► done
    └─────────────┘

The leader comes last, and nats-server makes a fresh replica the leader before it drops that one. There are
never fewer than two full copies, unless the stream has one. With two, the loss of one node stops writes until
it is back, and loses nothing.

The stream's metadata says how many replicas it must have and which ones are still old, so that an interrupted
run is continued by the next one. `Streams.prepare` restores the number of replicas.
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
    FEED_PROBES,
    REFILL_GIVE_UP_SECONDS,
    REFILL_LOST_MAX_EVENTS,
    REFILL_POLL_SECONDS,
    REFILL_PROGRESS_SECONDS,
    REFILL_STALLS_MAX,
    REFILL_STEPS_MAX,
    REPLICA_FILL_BYTES_PER_SECOND,
    REPLICA_STALL_SECONDS,
)

_REMAP_FAILED = 10075  # there is no node that could take the replica
_LOST_ROUNDS = 3  # of looks at the replicas for each message, before the last copy of it might be dropped


class _Answer(msgspec.Struct, frozen=True):
    """The answer to a request that changes where a stream is."""

    success: bool = False
    error: ApiError | None = None


async def rewrite_replicas(connection: Connection, name: str, tell: Callable[[str], None]) -> None:
    """Replace every replica of a stream, or those that an interrupted run has left.

    Args:
        connection: of a NATS user who may change streams.
        name: of the stream.
        tell: called with each step, and every REFILL_PROGRESS_SECONDS during a long one.

    Raises:
        LogRefused: if the stream has one replica: that one is rewritten while its server is stopped.
        LogDamaged: if the leader lacks events that another replica may have: fresh ones would lack them too.
        LogNotPermitted: if the NATS user may not.
        LogUnavailable: if a step makes no progress (REPLICA_STALL_SECONDS and the time to copy the stream)
            after REFILL_STALLS_MAX changes of the leader, or a node is down, or it changes for ever; the next
            run continues.
    """
    await _Refill(connection, name, tell).run()


class _Refill:
    """One run for one stream; every step is chosen from what the leader reports."""

    def __init__(self, connection: Connection, name: str, tell: Callable[[str], None]) -> None:
        self._connection = connection
        self._name = name
        self._tell = tell
        self._failure = ""  # of the last request that was refused
        self._lost: set[int] = set()  # messages that no replica has

    async def run(self) -> None:
        info = await self._settled()
        wanted = int(info.metadata.get(REPLICAS_KEY, info.config["num_replicas"]))
        if wanted == 1:
            raise LogRefused(
                f"the stream {self._name} has one replica, which can't be replaced while it is used: stop"
                " nats-server and run `jobledger streams rewrite --store-dir DIRECTORY`"
            )
        old = _old_nodes(info)
        for _ in range(REFILL_STEPS_MAX):
            old &= _nodes(info)
            try:
                await self._refuse_damage(info)
                if await self._step(info, old, wanted):
                    return
            except LogUnavailable as error:  # an election, or a change by somebody else: look again
                self._failure = str(error)
            info = await self._settled()
        raise LogUnavailable(
            f"{self._name} was not rewritten in {REFILL_STEPS_MAX} steps"
            f" ({self._failure or 'another process changes it'}); run this again"
        )

    async def _step(self, info: StreamInfo, old: set[str], wanted: int) -> bool:
        """Make the next change; True if that was the last one."""
        replicas = _replicas(info)
        if not old and replicas >= wanted:
            await self._note(info, {})
            self._tell(f"{self._name}: {wanted} fresh replicas")
            return True
        info = await self._note(info, {REPLICAS_KEY: str(wanted), OLD_REPLICAS_KEY: " ".join(sorted(old))})
        if not old:
            self._tell(f"{self._name}: back to {wanted} replicas")
            await self._scale(info, wanted)
            return False
        leader = _leader(info)
        node = min(old - {leader} or old)
        answer = await self._evacuate(node)
        if answer.success:
            self._tell(f"{self._name}: moving the replica of {node}")
            await self._settled(without=node)
        elif replicas == wanted:
            self._tell(f"{self._name}: {wanted - 1} replicas for now")
            await self._scale(info, wanted - 1)
        else:
            raise LogUnavailable(f"no node can take the replica of {node}; are all nodes running?")
        return False

    async def _refuse_damage(self, info: StreamInfo) -> None:
        """Fresh replicas are copies of the leader's, so what it lacks and another one has would be lost."""
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
        """Whether no replica has any of the messages that the leader lacks; False if that is not certain.

        Raises:
            LogUnavailable: if a replica does not answer, or another one leads by now.
        """
        if not info.config.get("allow_direct") or missing > REFILL_LOST_MAX_EVENTS:
            return False
        detailed = await stream_info(self._connection, self._name, deleted=True)
        if detailed.error is not None or detailed.cluster is None or _leader(detailed) != _leader(info):
            raise LogUnavailable(f"the leader of {self._name} has changed")
        lacks = {*range(1, min(detailed.state.first_seq, missing + 2)), *detailed.state.deleted}
        if len(lacks) != missing:
            return False
        unknown = sorted(lacks - self._lost)
        for start in range(0, len(unknown), FEED_PROBES):
            some = unknown[start : start + FEED_PROBES]
            for _ in range(_LOST_ROUNDS):
                requests: list[dict[str, object]] = [{"seq": each} for each in some]
                looks = (replica_get(self._connection, self._name, each) for each in requests)
                if any(each is not None for each in await asyncio.gather(*looks)):
                    return False
            self._lost.update(some)
        if unknown:
            self._tell(f"{self._name}: {missing} messages are lost on all replicas; the rest is copied")
        return True

    async def _note(self, info: StreamInfo, notes: dict[str, str]) -> StreamInfo:
        """Write into the metadata how far this is; without notes: that it is done."""
        done = () if notes else (COMPRESSED_KEY,)
        dropped = (REPLICAS_KEY, OLD_REPLICAS_KEY, *done)
        metadata = {key: text for key, text in info.metadata.items() if key not in dropped} | notes
        if metadata == info.metadata:
            return info
        changed = await update_stream(self._connection, info, {"metadata": metadata})
        return msgspec.structs.replace(info, config=changed.config)

    async def _scale(self, info: StreamInfo, replicas: int) -> None:
        await update_stream(self._connection, info, {"num_replicas": replicas})
        await self._settled(replicas=replicas)

    async def _evacuate(self, node: str) -> _Answer:
        """Move the replica of a node to one without; no success if every node has one.

        Not `PEER.REMOVE`, which drops the old copy before the new one is filled.
        """
        verb = f"STREAM.PEER.EVACUATE.{self._name}"
        answer = await call(self._connection, verb, {"peer": node}, _Answer, permitted=True)
        if answer.error is not None and answer.error.err_code != _REMAP_FAILED:
            raise LogUnavailable(f"moving the replica of {node}: {answer.error.description}")
        return answer

    async def _settled(self, *, replicas: int = 0, without: str = "") -> StreamInfo:
        """Wait until the stream has a leader and full replicas, and no move is under way.

        nats-server drives a move by itself, from the leader. Where that makes no progress, another replica is
        asked to lead: a request of the old leader was lost, or it waits for an answer that does not come.
        """
        loop = asyncio.get_running_loop()
        began = reported = moved = loop.time()
        seen: object = None
        patience = REPLICA_STALL_SECONDS
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
                waiting, now = _unsettled(info, replicas, without), _progress(info)
                if not waiting:
                    return info
                cluster = info.cluster
                is_down = cluster is not None and any(_is_down(each) for each in cluster.replicas)
                patience = REPLICA_STALL_SECONDS + info.state.bytes / REPLICA_FILL_BYTES_PER_SECOND
            time = loop.time()
            if now is not None and now != seen:  # an election alone is no progress
                seen, moved = now, time
            self._check_time(time - began, patience, waiting)
            if time - moved >= patience:
                stalls += 1
                if is_down or stalls > REFILL_STALLS_MAX:  # another leader would wait as well
                    raise LogUnavailable(
                        f"{self._name} makes no progress for {time - moved:.0f} s: {waiting}; look at"
                        f" `nats stream info {self._name}`, and run this again: it continues"
                    )
                await self._change_leader()
                moved = time
            if time - reported >= REFILL_PROGRESS_SECONDS:
                reported = time
                self._tell(f"{self._name}: {time - began:.0f} s: {waiting}")
            await asyncio.sleep(REFILL_POLL_SECONDS)

    def _check_time(self, seconds: float, patience: float, waiting: str) -> None:
        if seconds >= REFILL_GIVE_UP_SECONDS + (REFILL_STALLS_MAX + 1) * patience:
            raise LogUnavailable(
                f"{self._name} changes for {seconds:.0f} s and does not settle: {waiting}; look at"
                f" `nats stream info {self._name}`, and run this again: it continues"
            )

    async def _change_leader(self) -> None:
        self._tell(f"{self._name}: no progress; another replica is to lead")
        try:
            await call(self._connection, f"STREAM.LEADER.STEPDOWN.{self._name}", {}, _Answer)
        except LogUnavailable as error:  # there is none
            self._failure = str(error)


def _unsettled(info: StreamInfo, replicas: int, without: str) -> str:
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
    wanted = replicas or _replicas(info)
    if len(nodes) != wanted or _replicas(info) != wanted:
        return f"it has {len(nodes)} replicas, and {wanted} are wanted"
    return "; ".join(late)


def _is_down(replica: ReplicaInfo) -> bool:
    return replica.offline or replica.is_gone


def _lateness(replica: ReplicaInfo) -> str:
    return f"{replica.name} is down" if _is_down(replica) else f"{replica.name} lags by {replica.lag}"


def _progress(info: StreamInfo) -> object:
    """What changes while a stream gets on; not the lag, which also grows with writes."""
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
    """Where the replicas are that must be replaced: what an interrupted run has noted, or all."""
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
