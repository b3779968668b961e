"""The rebalancing of an elastic group settles, stays settled, and leaves no partition unassigned."""

import random

import pytest
from hypothesis import given, strategies as st

from jobledger.projections.subscriptions.rebalance import (
    OBSERVATIONS_TO_BE_SURE,
    Balance,
    fair_share,
    members_seen,
)

SETTLES_WITHIN_ROUNDS = 300
PASSES_ON_AGAIN = 0.2  # of the rounds: a member may pass a partition on again
MISCOUNTED = 0.1  # of the observations: a request is being renewed, or was abandoned and still counts


class Group:
    """A group as the server sees it: a holder of each partition, and the waiting members, in no order."""

    def __init__(self, partitions: int, rng: random.Random) -> None:
        self.partitions = partitions
        self.members: dict[int, Balance] = {}
        self.held: dict[int, dict[int, None]] = {}  # by member, oldest first
        self.moves = 0
        self._rng = rng
        self._wrong: set[int] = set()
        self._at_quota: set[int] = set()
        self._passed: set[tuple[int, int]] = set()  # which member recently passed on which partition

    def holder(self, partition: int) -> int | None:
        return next((member for member, held in self.held.items() if partition in held), None)

    def join(self, member: int) -> None:
        self.members[member] = Balance(self.partitions)
        self.held[member] = {}
        self._give()

    def leave(self, member: int) -> None:
        """Leave or die: its partitions are free, and it waits nowhere."""
        del self.members[member], self.held[member]
        self._give()

    def observe(self, member: int) -> None:
        """The member observes, and releases a partition if it should."""
        others = dict.fromkeys(self.held[member], len(self.members) - 1)
        wrong = member not in self._wrong and self._rng.random() < MISCOUNTED
        self._wrong = self._wrong | {member} if wrong else self._wrong - {member}  # never twice in a row
        if wrong:
            others = {
                partition: max(0, each + self._rng.choice((-1, 1))) for partition, each in others.items()
            }
        partition = self.members[member].release(others)
        if partition is not None:
            self.moves += 1
            del self.held[member][partition], others[partition]
        is_at_quota = self.members[member].is_at_quota(others)
        self._at_quota = self._at_quota | {member} if is_at_quota else self._at_quota - {member}
        if partition is not None:
            self._give(away=member)

    def observe_all(self, times: int) -> None:
        for _ in range(times):
            self._give()  # a member waits again for a partition that it released
            for member in self._rng.sample(sorted(self.members), len(self.members)):
                self.observe(member)
            if self._rng.random() < PASSES_ON_AGAIN:
                self._passed.clear()

    def _give(self, away: int | None = None) -> None:
        for partition in range(self.partitions):
            waiting = [member for member in self.members if member != away]
            self._rng.shuffle(waiting)
            while waiting and self.holder(partition) is None:
                member = waiting.pop(0)
                if member in self._at_quota and (member, partition) not in self._passed:
                    self._passed.add((member, partition))
                    waiting.append(member)
                    continue
                self.held[member][partition] = None


@given(st.data())
def test_a_group_settles_and_then_nothing_moves(data: st.DataObject) -> None:
    """After any joins, leaves and deaths at any moment: no member above its share, all held, no moves."""
    group = Group(data.draw(st.integers(1, 32), label="partitions"), random.Random(data.draw(st.integers())))
    coming = 0
    for _ in range(data.draw(st.integers(1, 12), label="changes")):
        if not group.members or data.draw(st.booleans(), label="joins"):
            group.join(coming)
            coming += 1
        else:
            group.leave(data.draw(st.sampled_from(sorted(group.members)), label="leaves"))
        if group.members:
            group.observe_all(data.draw(st.integers(0, 6), label="rounds between"))
    if group.members:
        assert_settles(group)


def assert_settles(group: Group) -> None:
    """After enough observations every partition is held, no member is above its share, and nothing moves."""
    group.observe_all(SETTLES_WITHIN_ROUNDS)
    share = fair_share(group.partitions, len(group.members))
    assert max(len(held) for held in group.held.values()) <= share
    assert all(group.holder(partition) is not None for partition in range(group.partitions))
    settled = group.moves
    group.observe_all(50)
    assert group.moves == settled


@pytest.mark.parametrize("seed", [1660, *range(50)])
def test_a_partition_released_after_a_miscount_is_taken_back_by_the_only_member(seed: int) -> None:
    """The last member of a group may release a partition after a wrong observation."""
    group = Group(32, random.Random(seed))
    for action, member, rounds in (
        ("join", 0, 0),
        ("join", 1, 1),
        ("leave", 0, 0),
        ("join", 2, 0),
        ("join", 3, 4),
        ("leave", 1, 3),
        ("leave", 3, 0),
    ):
        getattr(group, action)(member)
        group.observe_all(rounds)
    assert_settles(group)


def test_the_shares_cover_every_partition() -> None:
    """For any numbers the members together may keep all partitions, and one member alone keeps all."""
    for partitions in range(1, 33):
        for members in range(1, 40):
            assert fair_share(partitions, members) * members >= partitions
            assert fair_share(partitions, members) >= 1
    assert fair_share(8, 1) == 8
    assert fair_share(8, 3) == 3


def test_a_member_with_its_share_is_at_quota() -> None:
    """With its share or more, and not with less: further partitions are for others."""
    balance = Balance(8)
    assert [balance.is_at_quota(dict.fromkeys(range(held), 2)) for held in range(6)] == [False] * 3 + [
        True
    ] * 3
    assert not balance.is_at_quota({})


def test_a_member_alone_keeps_everything() -> None:
    """No other member waits, so it releases nothing."""
    balance = Balance(8)
    assert {balance.release(dict.fromkeys(range(8), 0)) for _ in range(5)} == {None}
    assert members_seen({}) == 1


def test_one_observation_is_not_enough() -> None:
    """A count that is wrong for a moment moves nothing; only observations in a row that agree do."""
    balance = Balance(8)
    over, well = dict.fromkeys(range(8), 1), dict.fromkeys(range(8), 0)
    for _ in range(5):
        assert [balance.release(over) for _ in range(OBSERVATIONS_TO_BE_SURE - 1)] == [None] * (
            OBSERVATIONS_TO_BE_SURE - 1
        )
        assert balance.release(well) is None
    for _ in range(OBSERVATIONS_TO_BE_SURE - 1):
        balance.release(over)
    assert balance.release(over) is not None


@pytest.mark.parametrize("held", [5, 6, 8])
def test_the_newest_partition_is_released_one_at_a_time(held: int) -> None:
    """Down to the share and not below, from the newest to the oldest."""
    balance = Balance(8)
    holding = dict.fromkeys(reversed(range(held)), 1)
    gone = []
    for _ in range(20):
        partition = balance.release(holding)
        if partition is not None:
            gone.append(partition)
            del holding[partition]
    assert gone == list(range(held - 4))
    assert len(holding) == 4


def test_a_wrong_count_in_one_partition_changes_nothing() -> None:
    """A request that is being renewed is missing from one; an abandoned one may still count in another."""
    assert members_seen({0: 2, 1: 1, 2: 2}) == 3
    assert members_seen({0: 2, 1: 7, 2: 2}) == 3
    assert members_seen({0: 2, 1: 7}) == 3  # of two that differ, the one with which fewer are released
