"""What somebody else puts among the seals stops no sealing where it can be nobody's seal, and is told."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jobledger import JetStreamLog
from jobledger.projections.merkle.hashing import EMPTY_ROOT
from jobledger.service.audit.checkpoint import make_seal
from jobledger.service.audit.note import Signer
from jobledger.service.audit.sealer import SealAlarm
from jobledger.service.limits import SEAL_STRANGE_MAX
from jobledger.store.jetstream.seals import SUBJECT_PREFIX
from tests.logs import publish_raw
from tests.sealing import MARK, ORIGIN, Sealing, more, sealing

STRANGER = Signer.of("stranger", b"\x02" * 32)


def forged(size: int, origin: str = ORIGIN) -> bytes:
    """A seal over another tree, by a key that nobody knows."""
    return make_seal(origin, size, EMPTY_ROOT, [STRANGER]).note.encode()


async def put(one: Sealing, *payloads: bytes) -> None:
    """Publish among the seals, as whoever may write to that stream can."""
    for payload in payloads:
        await publish_raw(one.log, f"{SUBJECT_PREFIX}{MARK}", payload)


@pytest.fixture
async def one(jetstream_log: JetStreamLog, tmp_path: Path) -> AsyncIterator[Sealing]:
    """A replica whose log has 20 events."""
    await more(jetstream_log, 20)
    async with sealing(jetstream_log, tmp_path / "one") as running:
        await running.caught_up()
        yield running


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"garbage", "is none"),
        (b"", "is none"),
        (forged(1, "elsewhere"), "is of the log 'elsewhere'"),
    ],
    ids=["garbage", "empty", "elsewhere"],
)
async def test_what_can_be_no_seal_of_this_log_is_passed_over(
    one: Sealing, payload: bytes, words: str
) -> None:
    """Before the first seal and behind one: sealed all the same, with an alarm that stays."""
    await put(one, payload)
    assert (await one.sealer.seal()).seal.size == 20
    assert words in one.sealer.state.alarm
    assert "somebody else writes" in one.sealer.state.alarm
    await put(one, payload)
    assert (await one.sealer.seal()).seal.size == 20
    await more(one.log, 25)
    await one.caught_up()
    sealed = await one.sealer.seal()
    last = await one.seals.last()
    assert last is not None
    assert (sealed.seal.size, sealed.sequence) == (25, last.sequence)
    assert words in one.sealer.state.alarm
    assert not one.sealer.state.problem


async def test_a_forged_seal_of_what_was_sealed_is_passed_over(one: Sealing) -> None:
    """By an unknown key, over another past than the seals in this service's hands say: an alarm, and on."""
    await one.sealer.seal()
    await put(one, forged(20))
    await more(one.log, 25)
    await one.caught_up()
    assert (await one.sealer.seal()).seal.size == 25
    assert "by a key that this service does not know" in one.sealer.state.alarm


async def test_a_seal_that_may_be_another_replica_s_is_never_passed_over(one: Sealing) -> None:
    """It covers more than this service has sealed: the log may have changed since: nothing is signed."""
    await one.sealer.seal()
    await more(one.log, 25)
    await one.caught_up()
    await put(one, forged(21))
    with pytest.raises(SealAlarm, match="the first 21 events are not those that were sealed"):
        await one.sealer.seal()


async def test_an_own_seal_that_does_not_fit_is_never_passed_over(one: Sealing) -> None:
    """Signed with this service's key: the past was changed, or the key is in other hands."""
    await one.sealer.seal()
    await put(one, make_seal(ORIGIN, 5, EMPTY_ROOT, one.keys.signers()).note.encode())
    with pytest.raises(SealAlarm, match="the first 5 events"):
        await one.sealer.seal()


async def test_as_much_is_passed_over_as_the_limit_says(one: Sealing) -> None:
    """The seal behind so many strange notes is found; behind one more, nothing is signed."""
    await one.sealer.seal()
    await put(one, *[b"garbage"] * SEAL_STRANGE_MAX)
    assert (await one.sealer.seal()).seal.size == 20
    await put(one, b"garbage")
    with pytest.raises(SealAlarm, match=f"so are the {SEAL_STRANGE_MAX} before it"):
        await one.sealer.seal()
