"""The keys of seals: nobody else's to read, rotated with an overlap, listed for ever."""

import stat
from pathlib import Path

import msgspec
import pytest

from jobledger.service.audit.checkpoint import make_seal, named_keys, read_seal
from jobledger.service.audit.keys import AuditKey, KeyFile
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import (
    AUDIT_KEY_NAME_MAX_CHARACTERS,
    AUDIT_KEYS_MAX,
    BUNDLE_TEXT_MAX_CHARACTERS,
    KEY_OVERLAP_MAX_DAYS,
)
from jobledger.store.model.errors import InvalidInput
from jobledger.store.model.limits import INT_MAX

DAY = 86_400
NOW = 1_760_000_000_000_000_000


class Clock:
    """A time that the test moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> int:
        return self.now

    def wait(self, seconds: float) -> None:
        """So much later."""
        self.now += int(seconds * 1_000_000_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyFile:
    """A file that is not there yet."""
    return KeyFile(tmp_path / "audit" / "keys.json", clock)


def names(keys: KeyFile) -> list[str]:
    return [signer.key.short for signer in keys.signers()]


def test_the_file_is_made_once_and_for_its_owner_alone(keys: KeyFile) -> None:
    """Mode 600 in a folder of mode 700; a second start finds the key that the first one made."""
    assert keys.records() == ()
    with pytest.raises(InvalidSettings, match="no key that signs"):
        keys.signers()
    keys.ensure("jobledger/abc")
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.path.parent.stat().st_mode) == 0o700
    before = keys.path.read_bytes()
    KeyFile(keys.path).ensure("another")
    assert keys.path.read_bytes() == before
    assert [signer.key.name for signer in keys.signers()] == ["jobledger/abc"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660, 0o644])
def test_a_file_that_others_may_read_is_refused(keys: KeyFile, mode: int) -> None:
    """Any right of group or world: no signing, and what to do."""
    keys.ensure("a")
    keys.path.chmod(mode)
    with pytest.raises(InvalidSettings, match="chmod 600"):
        KeyFile(keys.path).signers()
    with pytest.raises(InvalidSettings, match="chmod 600"):
        KeyFile(keys.path).ensure("a")


def test_rotation_overlaps(keys: KeyFile, clock: Clock) -> None:
    """Both sign until the end of the overlap, the newest first; then the old one is listed, and is no key."""
    old = keys.create("example.com/jobs")
    new = keys.rotate(7 * DAY)
    assert old.public.name == new.public.name
    assert names(keys) == [new.public.short, old.public.short]
    clock.wait(7 * DAY - 0.001)
    assert names(keys) == [new.public.short, old.public.short]
    clock.wait(0.001)
    assert names(keys) == [new.public.short]
    keys.drop_retired_seeds()
    kept = KeyFile(keys.path, clock).records()
    assert [each.key for each in kept] == [old.key, new.key]
    assert [each.seed is None for each in kept] == [True, False]
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600


def test_a_rotation_without_overlap_counts_at_once(keys: KeyFile) -> None:
    """The old key signs no more, and its private half is gone from the file."""
    old = keys.create("a")
    assert old.seed is not None
    new = keys.rotate(0, "b")
    assert names(keys) == [new.public.short]
    assert new.public.name == "b"
    assert keys.path.read_text().count('"seed"') == 1


def test_a_second_rotation_leaves_the_end_of_the_first_as_it_is(keys: KeyFile, clock: Clock) -> None:
    """A key that is to retire retires when it was said to, however often there is a new one."""
    keys.create("a")
    keys.rotate(2 * DAY)
    clock.wait(DAY)
    keys.rotate(5 * DAY)
    assert len(names(keys)) == 3
    clock.wait(DAY)
    assert len(names(keys)) == 2


def test_a_running_service_sees_a_rotation(keys: KeyFile) -> None:
    """Another process changes the file: the next seal is signed by the new key as well."""
    keys.ensure("a")
    assert len(names(keys)) == 1
    KeyFile(keys.path).rotate(DAY)
    assert len(names(keys)) == 2


def test_what_can_not_be_is_refused(keys: KeyFile) -> None:
    """Two first keys, a rotation of nothing, an overlap or a name that is none: nothing is changed."""
    with pytest.raises(InvalidInput, match="no key to rotate"):
        keys.rotate(DAY)
    with pytest.raises(InvalidInput, match="invalid key name"):
        keys.create("two words")
    keys.create("a")
    before = keys.path.read_bytes()
    with pytest.raises(InvalidInput, match="already has keys"):
        keys.create("b")
    for overlap in (-1.0, (KEY_OVERLAP_MAX_DAYS + 1) * DAY, float("nan")):
        with pytest.raises(InvalidInput, match="overlap"):
            keys.rotate(overlap)
    assert keys.path.read_bytes() == before


def test_the_file_has_room_for_so_many_keys(keys: KeyFile) -> None:
    """The named limit, and one more."""
    keys.create("a")
    for _ in range(AUDIT_KEYS_MAX - 1):
        keys.rotate(0)
    with pytest.raises(InvalidInput, match="64 keys, the maximum"):
        keys.rotate(0)
    assert len(keys.records()) == AUDIT_KEYS_MAX


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: text.replace('"format": 1', '"format": 2'),
        lambda text: text.replace("example.com", "example.org"),
        lambda text: text.replace('"created": "2', '"created": "x'),
        lambda text: text.replace('Z"', '"'),
        lambda _: "[]",
        lambda text: text.replace('"seed": "', '"seed": "AAAA'),
    ],
)
def test_a_damaged_file_is_refused_without_telling_it(keys: KeyFile, change: object) -> None:
    """Cut off, of a newer release, another name: the error names the file, and tells nothing of it."""
    keys.create("example.com/jobs")
    text = keys.path.read_text()
    seed = msgspec.json.decode(text)["keys"][0]["seed"]
    keys.path.write_text(change(text))  # type: ignore[operator]
    with pytest.raises(InvalidSettings, match=r"keys\.json (is damaged|has format)") as error:
        KeyFile(keys.path).signers()
    assert seed not in str(error.value)


def test_a_private_key_of_another_is_refused(keys: KeyFile, tmp_path: Path) -> None:
    """A seed that is not the one of the public key beside it would make seals that nobody can check."""
    other = KeyFile(tmp_path / "other.json")
    mine, theirs = keys.create("a"), other.create("a")
    assert mine.seed is not None
    assert theirs.seed is not None
    text = keys.path.read_text()
    encoded = [msgspec.json.encode(each.seed).decode() for each in (mine, theirs)]
    keys.path.write_text(text.replace(encoded[0], encoded[1]))
    with pytest.raises(InvalidSettings, match="belongs to another key"):
        KeyFile(keys.path).signers()


def test_no_secret_is_shown() -> None:
    """A key in a log or a traceback tells its public half."""
    shown = repr(AuditKey(key="a+b+c", created="now", seed=b"secret"))
    assert "secret" not in shown
    assert "a+b+c" in shown


@pytest.mark.parametrize("name", ["a\x00b", "a\x1fb", "a\x7fb", "a\u200bb", "a\udc80b", "a b", "a+b", ""])
def test_a_name_that_no_seal_could_be_read_with_is_refused(keys: KeyFile, name: str) -> None:
    """Seals are never deleted: one that can't be read would stop the sealing for good."""
    with pytest.raises(InvalidInput, match="invalid key name"):
        keys.create(name)
    assert not keys.path.exists()


def test_a_seal_with_all_the_keys_that_there_can_be_fits_into_a_bundle(keys: KeyFile) -> None:
    """Also if each has the longest name; a longer one is refused."""
    name = "\N{GRINNING FACE}" * AUDIT_KEY_NAME_MAX_CHARACTERS
    with pytest.raises(InvalidInput, match="got 129"):
        keys.create(f"{name}a")
    keys.create(name)
    for _ in range(AUDIT_KEYS_MAX - 1):
        keys.rotate(DAY)
    seal = make_seal("jobledger/3f9c0a7b51de", INT_MAX, bytes(32), keys.signers())
    assert len(named_keys(seal.note)) == AUDIT_KEYS_MAX
    assert read_seal(seal.note).size == INT_MAX
    assert len(seal.note) <= BUNDLE_TEXT_MAX_CHARACTERS
