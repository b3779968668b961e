"""What operators ask of the service: webhooks and durable subscriptions. One method per route.

Answers are plain values as they came: they are shown, and nothing here decides by them.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from jobledger.projections.errors import SubscriptionNotFound
from jobledger.service.client.client import Client
from jobledger.service.errors import RemoteError, WebhookNotFound
from jobledger.service.webhooks.records import SUBSCRIPTION_PREFIX
from jobledger.store.model.errors import InvalidInput
from jobledger.store.spec.values import is_utf8

_WEBHOOKS: Final = "/api/v1/webhooks"
_SUBSCRIPTIONS: Final = "/api/v1/subscriptions"
Wire = dict[str, Any]


class Operators:
    """Asks by way of a client; raises what `Transport.ask` raises."""

    def __init__(self, client: Client) -> None:
        self._transport = client.transport

    # --- webhooks -----------------------------------------------------------------------------------------

    def webhooks(self) -> list[Wire]:
        """All of them."""
        return _items(self._ask("GET", _WEBHOOKS))

    def webhook(self, name: str) -> Wire:
        """One of them."""
        return _part(self._ask_webhook("GET", name, ""), "Webhook")

    def add_webhook(self, body: Mapping[str, object]) -> Wire:
        """Add one; the answer has the secret, if one was made."""
        return self._ask("POST", _WEBHOOKS, body)

    def delete_webhook(self, name: str) -> Wire:
        """Remove one."""
        return self._ask_webhook("DELETE", name, "")

    def set_webhook_state(self, name: str, state: str) -> Wire:
        """`enabled` or `paused`."""
        return self._ask_webhook("PUT", name, "/state", {"State": state})

    def rotate_webhook_secret(self, name: str, secret: str, overlap_seconds: float | None) -> Wire:
        """A new secret; the answer has it, if it was made."""
        body = {"Secret": secret, "OverlapSeconds": None if overlap_seconds is None else int(overlap_seconds)}
        return self._ask_webhook("PUT", name, "/secret", body)

    def test_webhook(self, name: str) -> Wire:
        """Send a test event; what became of it."""
        return self._ask_webhook("POST", name, "/test")

    # --- subscriptions ------------------------------------------------------------------------------------

    def subscriptions(self) -> list[Wire]:
        """All durable ones."""
        return _items(self._ask("GET", _SUBSCRIPTIONS))

    def subscription(self, name: str) -> Wire:
        """One of them."""
        return _part(self._ask_subscription("GET", name, ""), "Subscription")

    def create_subscription(self, body: Mapping[str, object]) -> Wire:
        """Create one; the same again changes nothing."""
        return _part(self._ask("POST", _SUBSCRIPTIONS, body), "Subscription")

    def find_subscription(self, name: str) -> Wire | None:
        """One of them; None if there is none."""
        try:
            return self.subscription(name)
        except SubscriptionNotFound:
            return None

    def parked(self, name: str, limit: int) -> Wire:
        """The jobs that one has set aside: `Items`, and how many there are: `Total`."""
        return self._ask_subscription("GET", name, "/parked", query={"limit": limit})

    def retry(self, name: str, job: str, namespace: str) -> int:
        """Let a job's failed event be handled again now, or those of all jobs; how many."""
        body = {"JobID": job, "Namespace": namespace}
        return _count(self._ask_subscription("POST", name, "/retry", body))

    def skip(self, name: str, job: str, namespace: str) -> int:
        """Give up a job's failed event."""
        body = {"JobID": job, "Namespace": namespace}
        return _count(self._ask_subscription("POST", name, "/skip", body))

    def reset(self, name: str, after: str) -> Wire:
        """Make one begin anew behind a point."""
        return _part(self._ask_subscription("PUT", name, "/position", {"After": after}), "Subscription")

    def delete(self, name: str) -> int:
        """Delete one; how many jobs it had set aside."""
        return _count(self._ask_subscription("DELETE", name, ""))

    def _ask_webhook(self, method: str, name: str, end: str, body: object = None) -> Wire:
        """Ask about a webhook by its name, or by that of its subscription."""
        try:
            return self._ask(method, _path(_WEBHOOKS, name, end), body)
        except WebhookNotFound:
            bare = name.removeprefix(SUBSCRIPTION_PREFIX)
            if bare in {"", name}:
                raise
            return self._ask(method, _path(_WEBHOOKS, bare, end), body)

    def _ask_subscription(
        self, method: str, name: str, end: str, body: object = None, query: Mapping[str, Any] | None = None
    ) -> Wire:
        """Ask about a subscription by its name, or by that of the webhook that it belongs to."""
        try:
            return self._ask(method, _path(_SUBSCRIPTIONS, name, end), body, query)
        except SubscriptionNotFound as missing:
            if name.startswith(SUBSCRIPTION_PREFIX):
                raise
            try:
                path = _path(_SUBSCRIPTIONS, SUBSCRIPTION_PREFIX + name, end)
                return self._ask(method, path, body, query)
            except (SubscriptionNotFound, InvalidInput):
                raise missing from None

    def _ask(
        self, method: str, path: str, body: object = None, query: Mapping[str, Any] | None = None
    ) -> Wire:
        wire = self._transport.ask(method, path, body=body, query=query)
        if not isinstance(wire, dict):
            raise _unexpected()
        return wire


def _path(base: str, name: str, end: str = "") -> str:
    """Where one of them is asked for.

    Raises:
        InvalidInput: there is none of such a name.
    """
    if not name or "/" in name or name in {".", ".."} or "\0" in name or not is_utf8(name):
        raise InvalidInput(f"{name!r:.80} is no name")
    return f"{base}/{quote(name, safe='')}{end}"


def _items(wire: Wire) -> list[Wire]:
    try:
        return msgspec.convert(wire.get("Items"), list[Wire])
    except msgspec.ValidationError:
        raise _unexpected() from None


def _part(wire: Wire, name: str) -> Wire:
    part = wire.get(name)
    if not isinstance(part, dict):
        raise _unexpected()
    return part


def _count(wire: Wire) -> int:
    jobs = wire.get("Jobs")
    return jobs if isinstance(jobs, int) else 0


def _unexpected() -> RemoteError:
    return RemoteError(
        "the service's answer is not what this release expects of it; `jobledger version` compares the two"
    )
