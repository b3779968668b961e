"""Replaces every replica of a stream by a fresh one, while it is used: the blocks of a fresh one are new.

    more replicas than nodes to spare? ──► one replica less: the copy on that node is dropped
    for each old replica that does not lead: evacuate it ─► a node without a copy fills itself from the leader
    leader steps down to a fresh replica ─► the old leader is evacuated ─► the number of replicas as before

There are never fewer than two copies, unless the stream has one. With two, the loss of one node stops writes
until it is back, and loses nothing. A run that is interrupted leaves the number of replicas that is wanted in
the stream's metadata, and `Streams.prepare` goes back to it.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from jobledger.store.errors import LogRefused, LogUnavailable
from jobledger.store.jetstream.api import ApiError, StreamInfo, call
from jobledger.store.jetstream.connection import Connection
from jobledger.store.jetstream.declarations import COMPRESSED_KEY, REPLICAS_KEY
from jobledger.store.jetstream.stream import stream_info, update_stream
from jobledger.store.limits import REPLICA_FILL_TIMEOUT_SECONDS, RETRY_MAX_WAIT_SECONDS

_REMAP_FAILED = 10075  # there is no node that could take the replica


class _Answer(msgspec.Struct, frozen=True):
    """The answer to a request that changes where a stream is."""

    success: bool = False
    error: ApiError | None = None


async def rewrite_replicas(connection: Connection, name: str, tell: Callable[[str], None]) -> None:
    """Replace every replica of a stream.

    Args:
        connection: of a NATS user who may change streams.
        name: of the stream.
        tell: called with each step.

    Raises:
        LogRefused: if the stream has one replica: that one is rewritten while its server is stopped.
        LogNotPermitted: if the NATS user may not.
        LogUnavailable: if a replica is not filled within REPLICA_FILL_TIMEOUT_SECONDS; run it again.
    """
    info = await _settled(connection, name)
    wanted = int(info.metadata.get(REPLICAS_KEY, info.config["num_replicas"]))
    if wanted == 1:
        raise LogRefused(
            f"the stream {name} has one replica, which can't be replaced while it is used: stop nats-server"
            " and run `jobledger streams rewrite --store-dir DIRECTORY`"
        )
    info = await _change(connection, info, {"metadata": {**info.metadata, REPLICAS_KEY: str(wanted)}})
    old = _nodes(info)
    while old:
        leader = _leader(info)
        if leader in old and old - {leader}:
            node = min(old - {leader})
        elif leader in old:
            fresh = min(_nodes(info) - old)
            tell(f"{name}: {fresh} leads instead of {leader}")
            await _ask(connection, f"LEADER.STEPDOWN.{name}", {"placement": {"preferred": fresh}})
            info = await _settled(connection, name, leader=fresh)
            continue
        else:
            node = min(old)
        if not await _evacuate(connection, name, node):
            tell(f"{name}: {wanted - 1} replicas for now")
            info = await _change(connection, info, {"num_replicas": wanted - 1})
            old &= _nodes(info)
            continue
        info = await _settled(connection, name, without=node)
        old.discard(node)
        tell(f"{name}: {node} is replaced by {', '.join(sorted(_nodes(info) - old))}")
    metadata = {key: text for key, text in info.metadata.items() if key not in (REPLICAS_KEY, COMPRESSED_KEY)}
    await _change(connection, info, {"num_replicas": wanted, "metadata": metadata})
    tell(f"{name}: {wanted} fresh replicas")


async def _evacuate(connection: Connection, name: str, node: str) -> bool:
    """Move the replica of a node to another one; False if there is none to move it to."""
    answer = await _ask(connection, f"PEER.REMOVE.{name}", {"peer": node}, may_fail=_REMAP_FAILED)
    return answer.success


async def _ask(connection: Connection, verb: str, request: dict[str, Any], may_fail: int = 0) -> _Answer:
    answer = await call(connection, f"STREAM.{verb}", request, _Answer, permitted=True)
    if answer.error is not None and answer.error.err_code != may_fail:
        raise answer.error.as_exception(verb)
    return answer


async def _change(connection: Connection, info: StreamInfo, changes: dict[str, Any]) -> StreamInfo:
    changed = await update_stream(connection, info, changes)
    name, replicas = str(info.config["name"]), int(changed.config["num_replicas"])
    return await _settled(connection, name, replicas=replicas)


async def _settled(
    connection: Connection, name: str, *, replicas: int = 0, without: str = "", leader: str = ""
) -> StreamInfo:
    """Wait until the stream has a leader, and replicas that hold what it holds."""
    deadline = asyncio.get_running_loop().time() + REPLICA_FILL_TIMEOUT_SECONDS
    while True:
        try:
            info = await stream_info(connection, name)
            if _is_settled(info, replicas or int(info.config["num_replicas"]), without, leader):
                return info
        except LogUnavailable:  # an election
            pass
        if asyncio.get_running_loop().time() >= deadline:
            raise LogUnavailable(
                f"the replicas of {name} are not current after {REPLICA_FILL_TIMEOUT_SECONDS:g} s; look at"
                f" `nats stream info {name}`, and run this again"
            )
        await asyncio.sleep(min(RETRY_MAX_WAIT_SECONDS, 0.2))


def _is_settled(info: StreamInfo, replicas: int, without: str, leader: str) -> bool:
    if info.error is not None:
        raise info.error.as_exception("looking at the replicas")
    cluster = info.cluster
    if cluster is None or not cluster.leader or (leader and cluster.leader != leader):
        return False
    nodes = _nodes(info)
    return (
        len(nodes) == replicas
        and without not in nodes
        and all(each.current and not each.offline and not each.lag for each in cluster.replicas)
    )


def _nodes(info: StreamInfo) -> set[str]:
    assert info.cluster is not None
    return {info.cluster.leader, *(each.name for each in info.cluster.replicas)}


def _leader(info: StreamInfo) -> str:
    assert info.cluster is not None
    return info.cluster.leader
