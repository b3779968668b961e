"""Webhook secrets are stored encrypted; a replica without the key reports it, and sends nothing unsigned."""

import stat
from pathlib import Path

import msgspec
import pytest

from jobledger import JetStreamLog
from jobledger.service.errors import InvalidSettings
from jobledger.service.limits import WEBHOOK_KEYS_MAX_COUNT
from jobledger.service.webhooks.records import Webhook
from jobledger.service.webhooks.registry import NewWebhook, Webhooks
from jobledger.service.webhooks.secret_keys import WebhookKeys
from jobledger.service.webhooks.targets import Targets
from tests.support.webhooks import LOCAL, SECRET, make_webhook


def keys_in(folder: Path) -> WebhookKeys:
    keys = WebhookKeys(folder / "webhook-keys.json")
    keys.ensure()
    return keys


async def stored(log: JetStreamLog) -> bytes:
    """The record of the webhook, as stored."""
    entry = await (await log.key_value("SUBSCRIPTIONS")).get("webhooks.hook")
    assert entry is not None
    return entry.value


async def test_no_secret_is_stored_in_clear_text(jetstream_log: JetStreamLog, tmp_path: Path) -> None:
    """Added, rotated with an overlap, and written by an earlier release: all are encrypted, and readable."""
    records = await jetstream_log.key_value("SUBSCRIPTIONS")
    webhooks = Webhooks(records, Targets(LOCAL), keys_in(tmp_path))
    added = await webhooks.add(NewWebhook(name="hook", url="http://127.0.0.1:1/", after=0))
    rotated = await webhooks.rotate("hook", SECRET, overlap_seconds=60)
    value = await stored(jetstream_log)
    assert b"whsec" not in value
    assert SECRET.removeprefix("whsec_").encode() not in value
    assert (await webhooks.get("hook")).signing(0) == [SECRET, added.secret]
    assert rotated.webhook.signing(0) == [SECRET, added.secret]
    entry = await records.get("webhooks.hook")
    assert entry is not None
    clear = msgspec.json.encode(make_webhook("http://127.0.0.1:1/"))
    assert b"whsec" in clear
    await records.put("webhooks.hook", clear, expect=entry.revision)
    assert (await webhooks.get("hook")).signing(0) == [SECRET]
    assert await webhooks.encrypt() == 1
    assert b"whsec" not in await stored(jetstream_log)
    assert (await webhooks.get("hook")).signing(0) == [SECRET]
    assert await webhooks.encrypt() == 0


async def test_a_new_key_encrypts_existing_secrets_again(jetstream_log: JetStreamLog, tmp_path: Path) -> None:
    """The old key decrypts until then; afterwards it is not needed."""
    keys = keys_in(tmp_path)
    webhooks = Webhooks(await jetstream_log.key_value("SUBSCRIPTIONS"), Targets(LOCAL), keys)
    await webhooks.add(NewWebhook(name="hook", url="http://127.0.0.1:1/", after=0, secret=SECRET))
    old = keys.records()[0].id
    new = WebhookKeys(keys.path).rotate().id  # by the command, in another process
    assert (await webhooks.get("hook")).signing(0) == [SECRET]
    assert await webhooks.encrypt() == 1
    value = (await stored(jetstream_log)).decode()
    assert (old in value, new in value) == (False, True)
    assert (await webhooks.get("hook")).signing(0) == [SECRET]


async def test_a_replica_without_the_key_signs_nothing_and_names_the_remedy(
    jetstream_log: JetStreamLog, tmp_path: Path
) -> None:
    """It leaves the secret unchanged for the others; a new secret also helps."""
    (tmp_path / "other").mkdir()
    records = await jetstream_log.key_value("SUBSCRIPTIONS")
    webhooks = Webhooks(records, Targets(LOCAL), keys_in(tmp_path))
    other = Webhooks(records, Targets(LOCAL), keys_in(tmp_path / "other"))
    await webhooks.add(NewWebhook(name="hook", url="http://127.0.0.1:1/", after=0, secret=SECRET))
    found = await other.get("hook")
    assert found.signing(0) == []
    assert keys_in(tmp_path).records()[0].id in found.locked
    assert "copy that file" in found.locked
    assert await other.encrypt() == 0
    assert (await webhooks.get("hook")).signing(0) == [SECRET]
    made = await other.rotate("hook")
    assert (made.webhook.locked, made.webhook.signing(0)) == ("", [made.secret])


def test_a_secret_is_decrypted_for_its_webhook_only(tmp_path: Path) -> None:
    """Copied to another webhook's record, changed, or not a secret: it is not decrypted."""
    keys = keys_in(tmp_path)
    sealed = keys.encrypt(SECRET, "hook")
    assert keys.decrypt(sealed, "hook") == SECRET
    assert keys.encrypt(SECRET, "hook") != sealed
    changed = sealed[:-4] + ("AAA=" if not sealed.endswith("AAA=") else "BBB=")
    for text, name in (
        (sealed, "other"),
        (changed, "hook"),
        ("v2" + sealed[2:], "hook"),
        ("", "hook"),
        ("v1.x.", "h"),
    ):
        assert keys.decrypt(text, name) is None


def test_the_file_of_keys_is_private_and_bounded(tmp_path: Path) -> None:
    """Mode 600; the oldest of too many keys is deleted; a damaged file is an error without its content."""
    keys = keys_in(tmp_path)
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    first = keys.records()[0]
    for _ in range(WEBHOOK_KEYS_MAX_COUNT - 1):
        keys.rotate()
    assert (len(keys.records()), keys.records()[0]) == (WEBHOOK_KEYS_MAX_COUNT, first)
    keys.rotate()
    assert (len(keys.records()), first in keys.records()) == (WEBHOOK_KEYS_MAX_COUNT, False)
    assert str(keys.records()[0].key) not in repr(keys.records())
    keys.path.write_bytes(b'{"format":1,"keys":[{"key":"aHVzaA==","created":"x"}]}')
    with pytest.raises(InvalidSettings, match=r"webhook-keys\.json is damaged") as caught:
        keys.records()
    assert "aHVzaA" not in str(caught.value)
    keys.path.unlink()
    with pytest.raises(InvalidSettings, match="is missing"):
        WebhookKeys(keys.path).encrypt(SECRET, "hook")


def test_a_webhook_without_a_readable_secret_never_signs() -> None:
    """An empty list of signatures would be an unsigned delivery."""
    webhook: Webhook = make_webhook("http://127.0.0.1:1/", secrets=())
    assert webhook.locked
