"""The sizes of each benchmark, full and quick. The bounds are the same; each case names its size."""

from typing import Final

import msgspec


class Load(msgspec.Struct, frozen=True):
    """The messages per round of each side; the faster side gets more, to take equally long."""

    baseline: int
    ours: int


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """One set of sizes.

    Attributes:
        rounds: runs of each side.
        append: messages by case, as in `harness.BOUNDS`.
        create: messages of a round.
        set_state: messages of a round; three are of one job, and all jobs fit into the cache of the ledger.
        project_jobs: jobs of the log to catch up on; each has four events.
        large_jobs: jobs in the large view of `project`.
        new_jobs: jobs of a round that are added to a view of `large_jobs`, and of `read_small_jobs`.
        hot_jobs: the newest jobs, there and in `memory`, which get the updates.
        live_rate: events per second.
        live_round_seconds: how long a round lasts.
        read_small_jobs: jobs in the small view.
        read_large_jobs: jobs in the large view.
        read_calls: calls of a round.
        memory_jobs: jobs of the log over which the memory is watched.
        memory_every: events between two samples of the memory.
        http_get: requests of a round: for the fixed response, for a job.
        http_put: jobs of a round: by the library, by the service.
        http_pages: pages of a round.
        http_small_jobs: jobs of the small service.
        http_large_jobs: jobs of the large service.
        neighbor_jobs: jobs of the shared service.
        neighbor_versions: of a job there with large specs; another job has ten times as many states.
        neighbor_writes: writes of a round there.
        feed_rate: events per second.
        feed_readers: number of feeds.
        feed_round_seconds: how long a round lasts.
        replay_jobs: jobs of the exported log; each has four events.
        replay_rounds: runs of each side, which are long.
        subscribe_jobs: jobs of the log that a subscription catches up on; each has four events.
        asof_jobs: jobs of the logs; each has four events.
        asof_calls: jobs that are read.
        audit_jobs: jobs of the log; each has four events.
        audit_calls: proofs of a round.
        disk_space_jobs: jobs of the log whose disk space is measured.
        peers_jobs: jobs that exist before the first round; reads and changes are of these.
        peers_round_seconds: how long a round of one side lasts.
    """

    rounds: int
    append: dict[str, Load]
    create: Load
    set_state: Load
    project_jobs: int
    large_jobs: int
    new_jobs: int
    hot_jobs: int
    live_rate: int
    live_round_seconds: float
    read_small_jobs: int
    read_large_jobs: int
    read_calls: int
    memory_jobs: int
    memory_every: int
    http_get: Load
    http_put: Load
    http_pages: int
    http_small_jobs: int
    http_large_jobs: int
    neighbor_jobs: int
    neighbor_versions: int
    neighbor_writes: int
    feed_rate: int
    feed_readers: int
    feed_round_seconds: float
    replay_jobs: int
    replay_rounds: int
    subscribe_jobs: int
    asof_jobs: int
    asof_calls: int
    audit_jobs: int
    audit_calls: int
    disk_space_jobs: int
    peers_jobs: int
    peers_round_seconds: float


FULL: Final = Sizes(
    rounds=7,
    append={
        "append/always/256": Load(6_000, 40_000),
        "append/always/64": Load(5_000, 15_000),
        "append/always/16": Load(3_000, 8_000),
        "append/always/1": Load(1_500, 1_500),
        "append/2m/256": Load(30_000, 50_000),
    },
    create=Load(6_000, 30_000),
    set_state=Load(5_000, 15_000),
    project_jobs=50_000,
    large_jobs=1_000_000,
    new_jobs=20_000,
    hot_jobs=50_000,
    live_rate=1_000,
    live_round_seconds=4.0,
    read_small_jobs=10_000,
    read_large_jobs=1_000_000,
    read_calls=2_000,
    memory_jobs=1_000_000,
    memory_every=50_000,
    http_get=Load(20_000, 10_000),
    http_put=Load(15_000, 6_000),
    http_pages=500,
    http_small_jobs=10_000,
    http_large_jobs=1_000_000,
    neighbor_jobs=50_000,
    neighbor_versions=60,
    neighbor_writes=500,
    feed_rate=100,
    feed_readers=1_000,
    feed_round_seconds=5.0,
    replay_jobs=250_000,
    replay_rounds=5,
    subscribe_jobs=25_000,
    asof_jobs=250_000,
    asof_calls=1_000,
    audit_jobs=250_000,
    audit_calls=500,
    disk_space_jobs=12_000,
    peers_jobs=10_000,
    peers_round_seconds=2.0,
)

QUICK: Final = Sizes(
    rounds=5,
    append={
        "append/always/256": Load(2_000, 12_000),
        "append/always/64": Load(1_500, 4_500),
        "append/always/16": Load(1_000, 2_500),
        "append/always/1": Load(500, 500),
        "append/2m/256": Load(8_000, 12_000),
    },
    create=Load(2_500, 10_000),
    set_state=Load(1_500, 4_500),
    project_jobs=8_000,
    large_jobs=100_000,
    new_jobs=10_000,
    hot_jobs=8_000,
    live_rate=1_000,
    live_round_seconds=2.0,
    read_small_jobs=10_000,
    read_large_jobs=200_000,
    read_calls=1_000,
    memory_jobs=250_000,
    memory_every=10_000,
    http_get=Load(6_000, 3_000),
    http_put=Load(5_000, 2_000),
    http_pages=100,
    http_small_jobs=10_000,
    http_large_jobs=100_000,
    neighbor_jobs=10_000,
    neighbor_versions=60,
    neighbor_writes=200,
    feed_rate=200,
    feed_readers=100,
    feed_round_seconds=2.0,
    replay_jobs=25_000,
    replay_rounds=5,
    subscribe_jobs=8_000,
    asof_jobs=5_000,
    asof_calls=200,
    audit_jobs=20_000,
    audit_calls=200,
    disk_space_jobs=3_000,
    peers_jobs=2_000,
    peers_round_seconds=0.2,
)
