"""The balance of an elastic group: it settles, it stays settled, and nobody's partition is ever nobody's."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobledger.projections.subscriptions.rebalance import (
    OBSERVATIONS_TO_BE_SURE,
    Balance,
    fair_share,
    members_seen,
)

SETTLES_WITHIN_LOOKS = 300
PASSES_ON_AGAIN = 0.2  # of the looks of all: a while is over
MISCOUNTED = 0.1  # of the looks: a request is just being renewed, or was given up and is still there


class Group:
    """A group as the server sees it: a holder of each partition, and those who wait, in no order."""

    def __init__(self, partitions: int, rng: random.Random) -> None:
        self.partitions = partitions
        self.members: dict[int, Balance] = {}
        self.held: dict[int, dict[int, None]] = {}  # by member, in the order in which they came
        self.moves = 0
        self._rng = rng
        self._wrong: set[int] = set()
        self._sated: set[int] = set()
        self._passed: set[tuple[int, int]] = set()  # which member passed on which partition, of late

    def holder(self, partition: int) -> int | None:
        return next((member for member, held in self.held.items() if partition in held), None)

    def join(self, member: int) -> None:
        self.members[member] = Balance(self.partitions)
        self.held[member] = {}
        self._give()

    def leave(self, member: int) -> None:
        """As well as dying: what it held is free, and it waits nowhere."""
        del self.members[member], self.held[member]
        self._give()

    def look(self, member: int) -> None:
        """The member looks, and lets go if it should."""
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
        is_sated = self.members[member].is_at_quota(others)
        self._sated = self._sated | {member} if is_sated else self._sated - {member}
        if partition is not None:
            self._give(away=member)

    def look_all(self, times: int) -> None:
        for _ in range(times):
            self._give()  # a member that let a partition go waits for it again, LET_GO_WAIT_SECONDS later
            for member in self._rng.sample(sorted(self.members), len(self.members)):
                self.look(member)
            if self._rng.random() < PASSES_ON_AGAIN:
                self._passed.clear()

    def _give(self, away: int | None = None) -> None:
        for partition in range(self.partitions):
            waiting = [member for member in self.members if member != away]
            self._rng.shuffle(waiting)
            while waiting and self.holder(partition) is None:
                member = waiting.pop(0)
                if member in self._sated and (member, partition) not in self._passed:
                    self._passed.add((member, partition))
                    waiting.append(member)
                    continue
                self.held[member][partition] = None


@given(st.data())
def test_a_group_settles_and_then_nothing_moves(data: st.DataObject) -> None:
    """After any joining, leaving and dying, at any moment: nobody above its share, all held, no moves."""
    group = Group(data.draw(st.integers(1, 32), label="partitions"), random.Random(data.draw(st.integers())))
    coming = 0
    for _ in range(data.draw(st.integers(1, 12), label="changes")):
        if not group.members or data.draw(st.booleans(), label="joins"):
            group.join(coming)
            coming += 1
        else:
            group.leave(data.draw(st.sampled_from(sorted(group.members)), label="leaves"))
        if group.members:
            group.look_all(data.draw(st.integers(0, 6), label="looks between"))
    if group.members:
        assert_settles(group)


def assert_settles(group: Group) -> None:
    """After enough looks every partition is held, no member has more than its share, and nothing moves."""
    group.look_all(SETTLES_WITHIN_LOOKS)
    share = fair_share(group.partitions, len(group.members))
    assert max(len(held) for held in group.held.values()) <= share
    assert all(group.holder(partition) is not None for partition in range(group.partitions))
    settled = group.moves
    group.look_all(50)
    assert group.moves == settled


@pytest.mark.parametrize("seed", [1660, *range(50)])
def test_a_partition_let_go_after_a_miscount_is_held_again_by_the_only_member(seed: int) -> None:
    """The last member of a group may let a partition go after one miscounted look; it takes it back."""
    group = Group(32, random.Random(seed))
    for action, member, looks in (
        ("join", 0, 0),
        ("join", 1, 1),
        ("leave", 0, 0),
        ("join", 2, 0),
        ("join", 3, 4),
        ("leave", 1, 3),
        ("leave", 3, 0),
    ):
        getattr(group, action)(member)
        group.look_all(looks)
    assert_settles(group)


def test_the_shares_hold_every_partition() -> None:
    """Whatever the numbers, the members together may keep all, and one alone keeps everything."""
    for partitions in range(1, 33):
        for members in range(1, 40):
            assert fair_share(partitions, members) * members >= partitions
            assert fair_share(partitions, members) >= 1
    assert fair_share(8, 1) == 8
    assert fair_share(8, 3) == 3


def test_who_has_its_share_is_sated() -> None:
    """With its share or more, and not with less: what it is given then is for others."""
    balance = Balance(8)
    assert [balance.is_at_quota(dict.fromkeys(range(held), 2)) for held in range(6)] == [False] * 3 + [
        True
    ] * 3
    assert not balance.is_at_quota({})


def test_a_member_alone_keeps_everything() -> None:
    """Nobody waits, so nobody is there to let anything go for."""
    balance = Balance(8)
    assert {balance.release(dict.fromkeys(range(8), 0)) for _ in range(5)} == {None}
    assert members_seen({}) == 1


def test_one_look_is_not_enough() -> None:
    """A count that is wrong for a moment moves nothing; only looks in a row that agree do."""
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
def test_one_is_let_go_at_a_time_and_it_is_the_newest(held: int) -> None:
    """Down to the share and not below, from what came last to what came first."""
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


def test_one_partition_where_the_count_is_wrong_changes_nothing() -> None:
    """A request that is being renewed is missing from one, one that was given up may still stand in one."""
    assert members_seen({0: 2, 1: 1, 2: 2}) == 3
    assert members_seen({0: 2, 1: 7, 2: 2}) == 3
    assert members_seen({0: 2, 1: 7}) == 3  # of two that differ, the one by which less is let go
