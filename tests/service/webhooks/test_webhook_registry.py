"""Webhooks are records that every replica reads: written conditionally, with secrets shown once."""

import asyncio
import time

import msgspec
import pytest

from jobledger import InvalidInput, JetStreamLog
from jobledger.service import limits
from jobledger.service.errors import TargetRefused, WebhookExists, WebhookNotFound
from jobledger.service.webhooks.message import parse_secret
from jobledger.service.webhooks.records import (
    Secret,
    Webhook,
    WebhookState,
    decode_webhook,
    encode_webhook,
    name_of,
)
from jobledger.service.webhooks.registry import NewWebhook, Webhooks, Written
from jobledger.service.webhooks.targets import Targets, parse_url
from jobledger.store.model.errors import LogUnfit
from tests.support.webhooks import LOCAL, SECRET, make_webhook, registry, shared_keys

URL = "http://127.0.0.1:9/hook?token=hush"


def new(name: str = "", **fields: object) -> NewWebhook:
    """A webhook to add; pass only the fields that the test is about."""
    return NewWebhook(**{"url": URL, "after": 5, "name": name, **fields})  # type: ignore[arg-type]


async def test_a_webhook_is_the_same_on_every_replica(jetstream_log: JetStreamLog) -> None:
    """Added on one, listed and changed on another, deleted on a third."""
    one, two, three = [await registry(jetstream_log) for _ in range(3)]
    added = await one.add(new("hook", types=("t",), states=("Failed",), labels=("a=b",), created_by="alice"))
    assert await two.all() == [added.webhook]
    paused = await two.set_state("hook", WebhookState.PAUSED, "holidays")
    assert await three.get("hook") == paused
    assert (paused.state, paused.reason, paused.after) == (WebhookState.PAUSED, "holidays", 5)
    await three.remove("hook")
    assert await one.all() == []
    for gone in (one.get("hook"), one.remove("hook"), one.set_state("hook", WebhookState.PAUSED)):
        with pytest.raises(WebhookNotFound, match="'hook'"):
            await gone
    assert (await one.add(new("hook"))).webhook.name == "hook"  # the name is free again


async def test_a_name_is_unique(jetstream_log: JetStreamLog) -> None:
    """Of two admins who add it one gets an error; a generated name gets a number."""
    one, two = [await registry(jetstream_log) for _ in range(2)]
    await one.add(new("hook"))
    with pytest.raises(WebhookExists, match="another name"):
        await two.add(new("hook"))
    names = [(await two.add(new())).webhook.name for _ in range(3)]
    assert names == ["127-0-0-1", "127-0-0-1-2", "127-0-0-1-3"]
    both = await asyncio.gather(one.add(new("race")), two.add(new("race")), return_exceptions=True)
    assert [type(each) for each in both if isinstance(each, Exception)] == [WebhookExists]
    assert [each.name for each in await one.all()].count("race") == 1
    with pytest.raises(WebhookExists):
        await one.add(new("race"))


async def test_a_concurrent_change_is_refused(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No change is lost silently."""
    one, two = [await registry(jetstream_log) for _ in range(2)]
    await one.add(new("hook"))
    stale = await one._one("hook")
    await two.rotate("hook")

    async def before(_: str) -> tuple[Webhook, int]:
        return stale

    monkeypatch.setattr(one, "_one", before)
    for change in (one.set_state("hook", WebhookState.PAUSED), one.rotate("hook"), one.remove("hook")):
        with pytest.raises(WebhookExists, match="changed in the meantime"):
            await change


async def test_a_generated_secret_is_shown_once_and_a_provided_one_never(
    jetstream_log: JetStreamLog,
) -> None:
    """Each is unique and of full strength; no representation contains it."""
    webhooks = await registry(jetstream_log)
    made = [await webhooks.add(new(f"made-{number}")) for number in range(2)]
    assert len({each.secret for each in made}) == 2
    for each in made:
        assert parse_secret(each.secret) == each.secret == each.webhook.secrets[0].text
    brought = await webhooks.add(new("brought", secret=SECRET))
    assert (brought.secret, brought.webhook.secrets) == ("", (Secret(SECRET),))
    asked = new("x", secret=SECRET)
    for text in map(
        repr, (*made, brought, brought.webhook, brought.webhook.secrets, asked, Written(made[0][0]))
    ):
        for hidden in (SECRET, made[0].secret, "hush"):
            assert hidden not in text


async def test_a_new_secret_and_the_old_one_sign_during_the_overlap(jetstream_log: JetStreamLog) -> None:
    """With an overlap of 0 the old one ends at once."""
    now = time.time_ns()
    webhooks = Webhooks(
        await jetstream_log.key_value("SUBSCRIPTIONS"), Targets(LOCAL), shared_keys(), clock=lambda: now
    )
    old = (await webhooks.add(new("hook"))).secret
    rotated = await webhooks.rotate("hook", overlap_seconds=60)
    assert rotated.webhook.signing(now + 59 * 10**9) == [rotated.secret, old]
    assert rotated.webhook.signing(now + 61 * 10**9) == [rotated.secret]
    last = await webhooks.rotate("hook", SECRET, overlap_seconds=0)
    assert (last.secret, last.webhook.signing(now)) == ("", [SECRET])
    for _ in range(limits.WEBHOOK_SECRETS_MAX_COUNT - 1):
        await webhooks.rotate("hook")
    with pytest.raises(WebhookExists, match="4 secrets"):
        await webhooks.rotate("hook")
    await webhooks.rotate("hook", overlap_seconds=0)
    assert await webhooks.rotate("hook", overlap_seconds=limits.WEBHOOK_OVERLAP_MAX_SECONDS)
    with pytest.raises(InvalidInput, match="overlap"):
        await webhooks.rotate("hook", overlap_seconds=limits.WEBHOOK_OVERLAP_MAX_SECONDS + 1)


async def test_an_invalid_webhook_is_refused_at_once(jetstream_log: JetStreamLog) -> None:
    """An address that is not allowed, an invalid URL, secret or name; nothing is written."""
    webhooks = await registry(jetstream_log, "10.0.0.0/8")
    with pytest.raises(TargetRefused, match="webhook_allow"):
        await webhooks.add(new("hook"))
    for wrong in (
        new("hook", url="ftp://10.0.0.1/"),
        new("hook", url="https://10.0.0.1/", secret="hunter2"),
        new("Hook.1", url="https://10.0.0.1/"),
        new("-hook", url="https://10.0.0.1/"),
        new("1of4", url="https://10.0.0.1/"),  # its subscription would be named like a part of another one
        new("h" * (limits.WEBHOOK_NAME_MAX_CHARACTERS + 1), url="https://10.0.0.1/"),
    ):
        with pytest.raises(InvalidInput):
            await webhooks.add(wrong)
    assert await webhooks.all() == []
    longest = "h" * limits.WEBHOOK_NAME_MAX_CHARACTERS
    assert (await webhooks.add(new(longest, url="https://10.0.0.1/"))).webhook.name == longest
    assert name_of(parse_url("https://1of4/")) == "webhook"
    added = await webhooks.add(new("later", url="https://no-such-host.invalid/"))
    assert "cannot be resolved" in added.warnings[0]


async def test_there_are_no_more_webhooks_than_the_limit(
    jetstream_log: JetStreamLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deleting one allows another."""
    monkeypatch.setattr("jobledger.service.webhooks.registry.WEBHOOKS_MAX_COUNT", 2)
    webhooks = await registry(jetstream_log)
    await webhooks.add(new("one"))
    await webhooks.add(new("two"))
    with pytest.raises(WebhookExists, match="delete one first"):
        await webhooks.add(new("three"))
    await webhooks.remove("one")
    await webhooks.add(new("three"))


def test_a_record_is_read_by_every_release() -> None:
    """The stored bytes stay readable; unknown fields are ignored, and no error contains a record."""
    golden = (
        b'{"name":"hook","url":"https://a.example/","secrets":[{"text":"whsec_x","expires":9}],"after":5,'
        b'"types":["t"],"states":["Failed"],"namespace":"n","labels":["a=b"],"created":7,"created_by":"alice",'
        b'"state":"paused","reason":"r"}'
    )
    keys = shared_keys()
    webhook = decode_webhook(golden, keys)
    written = encode_webhook(webhook, keys)
    assert b"whsec" not in written
    sealed = msgspec.json.decode(written)["secrets"][0].pop("sealed")
    assert written == golden.replace(
        b'"text":"whsec_x","expires":9', b'"expires":9,"sealed":"%b"' % sealed.encode()
    )
    found = decode_webhook(written, keys)
    assert [(each.text, each.expires) for each in found.secrets] == [("whsec_x", 9)]
    assert webhook.subscription == "webhook-hook"
    assert decode_webhook(golden[:-1] + b',"later":1}', keys) == webhook
    with pytest.raises(LogUnfit) as caught:
        decode_webhook(b'{"secret":"whsec_hush"', keys)
    assert "hush" not in str(caught.value)
    assert make_webhook("https://a.example/").state is WebhookState.ENABLED
