"""Webhooks are signed as Standard Webhooks specifies: its own library verifies them."""

import secrets
import time

import pytest
from hypothesis import given, strategies as st
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from jobledger.service.limits import WEBHOOK_SECRET_MAX_BYTES, WEBHOOK_SECRET_MIN_BYTES
from jobledger.service.webhooks.message import format_secret, parse_secret, sign
from jobledger.store.model.errors import InvalidInput


def headers(
    secret: list[str], body: bytes, *, message_id: str = "id-1", at: int | None = None
) -> dict[str, str]:
    """The headers of a signed body."""
    timestamp = int(time.time()) if at is None else at
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, message_id, timestamp, body),
    }


@given(
    key=st.binary(min_size=WEBHOOK_SECRET_MIN_BYTES, max_size=WEBHOOK_SECRET_MAX_BYTES),
    message_id=st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True),
    text=st.text(),
)
def test_the_reference_library_verifies_our_signatures(key: bytes, message_id: str, text: str) -> None:
    """For any secret, id and body."""
    secret, body = format_secret(key), text.encode(errors="replace")
    Webhook(secret).verify(body, headers([secret], body, message_id=message_id), json_parse=False)


def test_a_changed_body_id_or_time_is_not_verified() -> None:
    """All three are signed, and another secret verifies none of it."""
    secret, body = format_secret(secrets.token_bytes(32)), b'{"a":1}'
    good = headers([secret], body)
    later = str(int(good["webhook-timestamp"]) + 1)
    for changed, sent in (
        (b'{"a":2}', good),
        (body, {**good, "webhook-id": "id-2"}),
        (body, {**good, "webhook-timestamp": later}),
        (body, headers([format_secret(secrets.token_bytes(32))], body)),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(changed, sent)


def test_while_a_secret_is_replaced_both_verify() -> None:
    """The header has one signature for each."""
    old, new = (format_secret(secrets.token_bytes(32)) for _ in range(2))
    body = b"{}"
    sent = headers([new, old], body)
    for secret in (old, new):
        Webhook(secret).verify(body, sent)
    assert sent["webhook-signature"].count("v1,") == 2


def test_the_signature_is_the_one_of_the_standard() -> None:
    """The example of the standard's own libraries, byte for byte."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    body = b'{"test": 2432232314}'
    assert (
        sign([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body)
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_a_secret_is_accepted_in_any_spelling_of_base64() -> None:
    """With and without padding, of every allowed length; an error does not contain it."""
    key = secrets.token_bytes(WEBHOOK_SECRET_MIN_BYTES + 1)
    whole = format_secret(key)
    assert whole.endswith("=")
    assert parse_secret(f" {whole.rstrip('=')}\n") == parse_secret(whole) == whole
    for size in (WEBHOOK_SECRET_MIN_BYTES, WEBHOOK_SECRET_MAX_BYTES):
        secret = format_secret(bytes(size))
        assert parse_secret(secret) == secret
    for wrong in (
        "",
        "whsec_",
        "hunter2hunter2hunter2hunter2hunter2hunter2",
        whole.removeprefix("whsec_"),
        format_secret(bytes(WEBHOOK_SECRET_MIN_BYTES - 1)),
        format_secret(bytes(WEBHOOK_SECRET_MAX_BYTES + 1)),
        f"whsec_{'ü' * 40}",
        f"whsec_{'A' * 33}",
        whole[:10] + " " + whole[10:],
    ):
        with pytest.raises(InvalidInput) as caught:
            parse_secret(wrong)
        assert not wrong.strip() or wrong == "whsec_" or wrong not in str(caught.value)
