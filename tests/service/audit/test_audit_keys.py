"""The keys of seals: private, rotated with an overlap, and listed after they retire."""

import stat
from pathlib import Path

import msgspec
import pytest

from jobledger.service.audit.keys import AuditKey, KeyFile
from jobledger.service.audit.model.checkpoint import make_seal, named_keys, read_seal
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


def test_the_key_file_is_created_once_and_is_private(keys: KeyFile) -> None:
    """Mode 600 in a directory of mode 700; a second start finds the first key."""
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
def test_a_key_file_that_others_can_read_is_rejected(keys: KeyFile, mode: int) -> None:
    """Any right of group or others: no signature, and the remedy."""
    keys.ensure("a")
    keys.path.chmod(mode)
    with pytest.raises(InvalidSettings, match="chmod 600"):
        KeyFile(keys.path).signers()
    with pytest.raises(InvalidSettings, match="chmod 600"):
        KeyFile(keys.path).ensure("a")


def test_rotation_overlaps(keys: KeyFile, clock: Clock) -> None:
    """Both keys sign until the end of the overlap, the newest first; then the old one is only listed."""
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


def test_a_rotation_without_overlap_takes_effect_immediately(keys: KeyFile) -> None:
    """The old key no longer signs, and its private half is deleted."""
    old = keys.create("a")
    assert old.seed is not None
    new = keys.rotate(0, "b")
    assert names(keys) == [new.public.short]
    assert new.public.name == "b"
    assert keys.path.read_text().count('"seed"') == 1


def test_a_second_rotation_does_not_change_when_the_first_key_retires(keys: KeyFile, clock: Clock) -> None:
    """The end of the first overlap stays."""
    keys.create("a")
    keys.rotate(2 * DAY)
    clock.wait(DAY)
    keys.rotate(5 * DAY)
    assert len(names(keys)) == 3
    clock.wait(DAY)
    assert len(names(keys)) == 2


def test_a_running_service_sees_a_rotation(keys: KeyFile) -> None:
    """Another process changes the file: the new key signs the next seal as well."""
    keys.ensure("a")
    assert len(names(keys)) == 1
    KeyFile(keys.path).rotate(DAY)
    assert len(names(keys)) == 2


def test_invalid_key_operations_are_rejected(keys: KeyFile) -> None:
    """Two first keys, a rotation without a key, an invalid overlap or name: nothing changes."""
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


def test_the_number_of_keys_is_limited(keys: KeyFile) -> None:
    """At the limit, and one more."""
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
def test_a_damaged_key_file_is_rejected_without_quoting_it(keys: KeyFile, change: object) -> None:
    """Truncated, of a newer release, of another name: the message has the path but not the content."""
    keys.create("example.com/jobs")
    text = keys.path.read_text()
    seed = msgspec.json.decode(text)["keys"][0]["seed"]
    keys.path.write_text(change(text))  # type: ignore[operator]
    with pytest.raises(InvalidSettings, match=r"keys\.json (is damaged|has format)") as error:
        KeyFile(keys.path).signers()
    assert seed not in str(error.value)


def test_a_mismatched_private_key_is_rejected(keys: KeyFile, tmp_path: Path) -> None:
    """Its seals could not be verified with the stored public key."""
    other = KeyFile(tmp_path / "other.json")
    mine, theirs = keys.create("a"), other.create("a")
    assert mine.seed is not None
    assert theirs.seed is not None
    text = keys.path.read_text()
    encoded = [msgspec.json.encode(each.seed).decode() for each in (mine, theirs)]
    keys.path.write_text(text.replace(encoded[0], encoded[1]))
    with pytest.raises(InvalidSettings, match="belongs to another key"):
        KeyFile(keys.path).signers()


def test_no_private_key_is_shown() -> None:
    """In logs and tracebacks a key shows its public half."""
    shown = repr(AuditKey(key="a+b+c", created="now", seed=b"secret"))
    assert "secret" not in shown
    assert "a+b+c" in shown


@pytest.mark.parametrize("name", ["a\x00b", "a\x1fb", "a\x7fb", "a\u200bb", "a\udc80b", "a b", "a+b", ""])
def test_a_key_name_that_makes_seals_unreadable_is_rejected(keys: KeyFile, name: str) -> None:
    """Seals are never deleted, so an unreadable one would stop sealing permanently."""
    with pytest.raises(InvalidInput, match="invalid key name"):
        keys.create(name)
    assert not keys.path.exists()


def test_a_seal_with_the_maximum_of_keys_fits_into_a_bundle(keys: KeyFile) -> None:
    """Even with the longest names; a longer name is rejected."""
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
