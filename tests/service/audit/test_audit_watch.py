"""`audit watch` remembers the past of a log, and raises an alarm when it changes."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from jobledger import Ledger
from jobledger.service.audit import watcher as watch_module
from jobledger.service.audit.model.checkpoint import make_seal
from jobledger.service.audit.model.findings import Finding, Kind
from jobledger.service.audit.watch_command import Watch, WatchOptions
from jobledger.service.audit.watcher import watch_state_file
from jobledger.service.errors import InvalidSettings
from jobledger.service.settings import Settings
from tests.conftest import make_spec
from tests.support.audited_log import (
    Installation,
    make_installation,
    origin_of_log,
    publish,
    seal_log,
    seal_of,
)
from tests.support.histories import records_of
from tests.support.logs import eventually
from tests.support.proofs import OTHER_SIGNER, SIGNER
from tests.support.stored_records import flip_bit, with_payload, without_last

pytestmark = [
    pytest.mark.slow,  # auditors in processes of their own
    pytest.mark.usefixtures("quick_proof"),
]

EVENTS = 9
DAY = 86_400 * 1_000_000_000


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation of nine events with a watcher's state, which tests copy."""
    installation = make_installation(tmp_path_factory.mktemp("watched"))
    assert asyncio.run(Watcher(installation).once()) == []
    return installation.directory


@pytest.fixture
def watcher(original: Path, tmp_path: Path) -> "Watcher":
    """A watcher that has seen all of it, of a copy."""
    shutil.copytree(original, tmp_path / "copy", ignore=shutil.ignore_patterns("lock"))
    return Watcher(Installation(tmp_path / "copy"))


class Watcher:
    """Runs `audit watch` on an installation."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.state_file = installation.directory / "watch.json"
        self.said: list[str] = []

    def watch(self, settings: Settings | None = None, *, ahead: int = 0, **options: Any) -> Watch:
        """One run, with a clock that may go ahead (nanoseconds)."""
        import time

        return Watch(
            settings or Settings(data_dir=self.installation.directory),
            WatchOptions(**{"keys": (SIGNER.key,), "state_file": self.state_file, **options}),
            self.said.append,
            clock=lambda: time.time_ns() + ahead,
        )

    async def once(self, **options: Any) -> list[Finding]:
        """Look at all there is."""
        return list(await self.watch(**{"once": True, **options}).run())

    async def only_alarm(self, **options: Any) -> Finding:
        """The same, with one alarm; it must be raised again at the next start."""
        [first], [again] = [await self.once(**options) for _ in range(2)]
        assert first == again
        return first


async def test_a_watcher_of_an_unchanged_log_raises_no_alarm(watcher: Watcher) -> None:
    """While the log grows and is sealed; its state is in a private file."""
    assert await watcher.once() == []
    async with watcher.installation.log() as log:
        await Ledger(log).create(make_spec("later"))
        await seal_log(log)
    assert await watcher.once() == []
    state = watch_state_file(watcher.state_file).load()
    assert state is not None
    assert (state.size, state.sealed_size, state.seals) == (EVENTS + 1, EVENTS + 1, 3)
    assert watcher.state_file.stat().st_mode & 0o777 == 0o600


async def test_a_rewrite_is_detected_when_everything_is_read_again(watcher: Watcher) -> None:
    """The alarm names the marks around the changed event."""
    watcher.installation.tamper(with_payload(2, flip_bit))
    assert await watcher.once() == [], "events after the last seal are not read at each start"
    alarm = await watcher.only_alarm(ahead=2 * DAY)
    assert (alarm.kind, alarm.sequence) == (Kind.REWRITE, 1)
    assert "an event from 1 to 3 differs from the one read before" in alarm.message
    assert (await watcher.only_alarm(again_seconds=0)).kind is Kind.REWRITE


async def test_a_rewrite_after_the_last_seal_is_detected_at_the_next_start(watcher: Watcher) -> None:
    """Events without a seal are read again at each start."""
    async with watcher.installation.log() as log:
        for name in ("a", "b"):
            await Ledger(log).create(make_spec(name))
    assert await watcher.once() == []
    watcher.installation.tamper(with_payload(EVENTS + 1, flip_bit))
    alarm = await watcher.only_alarm()
    assert (alarm.kind, alarm.sequence) == (Kind.REWRITE, EVENTS + 1)


async def test_a_truncation_is_detected(watcher: Watcher) -> None:
    """Even if the view that would prove it is missing."""
    watcher.installation.tamper(without_last)
    watcher.installation.forget_view()
    alarm = await watcher.only_alarm()
    assert (alarm.kind, alarm.sequence) == (Kind.TRUNCATION, EVENTS)


async def test_a_truncation_of_unread_events_is_detected(watcher: Watcher) -> None:
    """A seal covers events that the log does not have."""
    async with watcher.installation.log() as log:
        await Ledger(log).create(make_spec("gone"))
        await seal_log(log)
    watcher.installation.tamper(without_last)
    alarm = await watcher.only_alarm()
    assert (alarm.kind, alarm.sequence) == (Kind.TRUNCATION, EVENTS + 1)


async def test_a_hole_is_detected(watcher: Watcher) -> None:
    """A record was removed from the part that is read."""
    watcher.installation.tamper(lambda records: records[:3] + records[4:])
    alarm = await watcher.only_alarm(again_seconds=0)
    assert (alarm.kind, alarm.sequence) == (Kind.HOLE, 4)


async def test_a_recreated_stream_is_detected(watcher: Watcher) -> None:
    """Another epoch is another log."""
    shutil.rmtree(watcher.installation.directory / "nats")
    async with watcher.installation.log() as log:
        await Ledger(log).create(make_spec("first"))
    assert (await watcher.only_alarm()).kind is Kind.REPLACED


async def test_a_replaced_history_with_a_new_tree_and_seals_is_detected(watcher: Watcher) -> None:
    """Everything was replaced with the same key and length: the watcher remembers the old root."""
    watcher.installation.tamper(with_payload(8, flip_bit))
    async with watcher.installation.log() as log:
        await publish(log, seal_of(await records_of(log), await origin_of_log(log)))
    alarm = await watcher.only_alarm()
    assert alarm.kind is Kind.FORK, "two seals of nine events by one key"


async def test_two_seals_that_fork_are_detected(watcher: Watcher) -> None:
    """A second seal of the same size with another root."""
    async with watcher.installation.log() as log:
        await publish(log, make_seal(await origin_of_log(log), EVENTS, bytes(32), (SIGNER,)))
    alarm = await watcher.only_alarm()
    assert alarm.kind is Kind.FORK
    assert "seal 2 and seal 3 cover the same 9 events" in alarm.message


async def test_a_seal_that_does_not_fit_is_detected(watcher: Watcher) -> None:
    """Signed by the known key, for another history."""
    async with watcher.installation.log() as log:
        await Ledger(log).create(make_spec("later"))
        await publish(log, make_seal(await origin_of_log(log), EVENTS + 1, bytes(32), (SIGNER,)))
    alarm = await watcher.only_alarm()
    assert (alarm.kind, alarm.sequence) == (Kind.UNFIT, EVENTS + 1)


async def test_a_seal_smaller_than_one_before_is_detected(watcher: Watcher) -> None:
    """Seals only grow."""
    async with watcher.installation.log() as log:
        await seal_log(log, 5)
    assert (await watcher.only_alarm()).kind is Kind.UNFIT


async def test_a_seal_by_an_unknown_key_is_detected(watcher: Watcher) -> None:
    """An operator must pass a new key to the watcher; then its seals are valid."""
    async with watcher.installation.log() as log:
        await seal_log(log, signers=(OTHER_SIGNER,))
    assert (await watcher.only_alarm()).kind is Kind.UNKNOWN_KEY
    assert await watcher.once(keys=(SIGNER.key, OTHER_SIGNER.key)) == []


async def test_a_key_rotated_with_overlap_raises_no_alarm(watcher: Watcher) -> None:
    """While both keys sign, either of them is enough."""
    async with watcher.installation.log() as log:
        await Ledger(log).create(make_spec("later"))
        await seal_log(log, signers=(OTHER_SIGNER, SIGNER))
    assert await watcher.once() == []


async def test_stale_seals_are_detected_on_request(watcher: Watcher) -> None:
    """Events wait too long for a seal; without events there is nothing to seal."""
    assert await watcher.once(seal_age_seconds=60.0, ahead=DAY // 2) == []
    async with watcher.installation.log() as log:
        await Ledger(log).create(make_spec("later"))
    assert await watcher.once(seal_age_seconds=60.0) == []
    alarm = (await watcher.once(seal_age_seconds=60.0, ahead=DAY // 2))[0]
    assert (alarm.kind, alarm.sequence) == (Kind.STALE, EVENTS + 1)
    assert "1 events wait for a seal" in alarm.message


async def test_the_first_run_reads_everything(watcher: Watcher) -> None:
    """Without a state the log is trusted as it is, if all seals fit; the operator is informed."""
    watcher.state_file.unlink()
    assert await watcher.once() == []
    assert "is trusted as it is now" in watcher.said[0]
    watcher.state_file.unlink()
    watcher.installation.tamper(with_payload(2, flip_bit))
    assert {each.kind for each in await watcher.once()} == {Kind.UNFIT}


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"{", b'{"origin":"o","epoch":"e","anchor":""}', b'{"origin":"o","epoch":"e","x":1}'],
)
def test_a_damaged_state_file_is_rejected(watcher: Watcher, content: bytes) -> None:
    """Treating it as missing would forget the past."""
    watcher.state_file.write_bytes(content)
    with pytest.raises(InvalidSettings, match=r"watcher's state file .* is damaged"):
        watcher.watch()


def test_a_state_file_that_others_can_write_is_rejected(watcher: Watcher) -> None:
    """Another user could hide a rewrite with it."""
    watcher.state_file.chmod(0o666)
    with pytest.raises(InvalidSettings, match="can be written by other users"):
        watcher.watch()


async def test_a_running_watcher_survives_a_restart_of_the_server(watcher: Watcher) -> None:
    """It reconnects, and detects changes made meanwhile."""
    installation = watcher.installation
    watch = watcher.watch()
    async with installation.log() as log:
        task = asyncio.create_task(watch.run())
        await Ledger(log).create(make_spec("before"))
        await _reads(watcher, EVENTS + 1)
        await seal_log(log)
        await _reads(watcher, EVENTS + 1, sealed=EVENTS + 1)
    assert not task.done()
    async with installation.log() as log:
        await Ledger(log).create(make_spec("after"))
        await _reads(watcher, EVENTS + 2)
    installation.tamper(without_last)
    async with installation.log():
        async with asyncio.timeout(60):
            [alarm] = await task
    assert (alarm.kind, alarm.sequence) == (Kind.TRUNCATION, EVENTS + 2)
    assert any(text.startswith("ALARM: truncation") for text in watcher.said)


async def _reads(watcher: Watcher, size: int, *, sealed: int = 0) -> None:
    def is_there() -> bool:
        state = watch_state_file(watcher.state_file).load()
        return state is not None and state.size >= size and state.sealed_size >= sealed

    await eventually(is_there, within_seconds=60)


async def test_a_running_watcher_does_not_start_a_server(watcher: Watcher) -> None:
    """Its server would block the service's; it waits until the log is served."""
    task = asyncio.create_task(watcher.watch().run())
    await eventually(
        lambda: any("no service is running on" in text for text in watcher.said), within_seconds=30
    )
    async with watcher.installation.log() as log:
        await publish(log, make_seal(await origin_of_log(log), EVENTS, bytes(32), (SIGNER,)))
        async with asyncio.timeout(60):
            assert [alarm.kind for alarm in await task] == [Kind.FORK]


async def test_the_watcher_states_the_detection_delay_of_sealed_events(watcher: Watcher) -> None:
    """At the start the interval and the next time; each reread is announced."""
    assert await watcher.once(again_seconds=7_200.0) == []
    [bound] = [line for line in watcher.said if "--reread" in line]
    assert f"sealed events up to {EVENTS} " in bound
    assert "every 7200 s" in bound
    watcher.said.clear()
    assert await watcher.once(ahead=2 * DAY) == []
    assert "reading all events again from the first one" in watcher.said[0]
    assert watcher.said[1] == f"all {EVENTS} events were read again: none was changed"


async def test_an_interrupted_reread_starts_over(watcher: Watcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a restart in the middle would postpone it by the whole interval."""
    monkeypatch.setattr(watch_module, "AUDIT_TAKE_EVENTS", 2)
    state = watch_state_file(watcher.state_file).load()
    assert state is not None
    async with watcher.installation.log() as log:
        following = watch_module.Watcher(
            log, await log.seals(state.origin.partition("/")[2]), (SIGNER.key,), state
        )
        await following.begin(again=True)
        while not following.caught_up:
            assert following.state.read_again == state.read_again
            await following.step(5.0)
        assert following.state.read_again > state.read_again
        await following.close()


async def test_an_unreadable_event_is_detected_although_the_reader_is_silent(
    watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the leader can't read it, an alarm; otherwise another reader is opened."""
    monkeypatch.setattr(watch_module, "WATCH_STALL_SECONDS", 0.1)
    state = watch_state_file(watcher.state_file).load()
    assert state is not None
    async with watcher.installation.log() as log:
        seals = await log.seals(state.origin.partition("/")[2])
        following = watch_module.Watcher(log, seals, (SIGNER.key,), state)
        await following.begin(again=False)
        assert following._reader is not None
        silent = asyncio.Event()
        following._reader.take = lambda _: silent.wait()  # type: ignore[assignment,method-assign,return-value]
        for name in ("one", "two"):
            await Ledger(log).create(make_spec(name))
        while following._tree.size < EVENTS + 2:  # another feed is opened, and it is not silent
            await following.step(0.05)
        following._reader.take = lambda _: silent.wait()  # type: ignore[assignment,method-assign,return-value]
        for name in ("three", "four"):
            await Ledger(log).create(make_spec(name))
        read_at = log.read_at

        async def damaged(sequence: int) -> Any:
            return None if sequence == EVENTS + 3 else await read_at(sequence)

        monkeypatch.setattr(log, "read_at", damaged)

        async def until_broken() -> None:
            while True:
                await following.step(0.05)

        with pytest.raises(watch_module.WatchBroken) as broken:
            await until_broken()
        found = broken.value.finding
        assert (found.kind, found.sequence, found.last) == (Kind.HOLE, EVENTS + 3, EVENTS + 3)
        await following.close()
