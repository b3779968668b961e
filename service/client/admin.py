"""The operations of operators: subscriptions, webhooks, seals and proofs, and the state of the view.

Most results are plain values: they are only shown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from jobledger.projections.errors import SubscriptionNotFound
from jobledger.projections.limits import LIST_MAX_LIMIT
from jobledger.service.client.client import Client
from jobledger.service.errors import RemoteError, WebhookNotFound
from jobledger.service.limits import SEALS_MAX_LIMIT
from jobledger.service.webhooks.records import SUBSCRIPTION_PREFIX
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput
from jobledger.store.spec.values import is_utf8

UNCOVERED_HEADER = "jobledger-uncovered"
Wire = dict[str, Any]


class ProofBundle(msgspec.Struct, frozen=True):
    """A proof bundle; `uncovered` counts the job's events after its seal."""

    content: bytes
    uncovered: int


class ConsistencyProof(msgspec.Struct, frozen=True, rename="pascal"):
    """The roots of two sizes of the tree, and the proof that one extends the other. Not verified here."""

    from_root: bytes
    to_root: bytes
    proof: tuple[bytes, ...]


class AdminClient:
    """Raises what `Transport.request` raises."""

    def __init__(self, client: Client) -> None:
        self._transport = client.transport

    # --- webhooks -----------------------------------------------------------------------------------------

    def webhooks(self) -> list[Wire]:
        """All webhooks."""
        return _items(self._request("GET", paths.WEBHOOKS))

    def webhook(self, name: str) -> Wire:
        """One webhook."""
        return _part(self._webhook("GET", paths.WEBHOOK, name), "Webhook")

    def add_webhook(self, body: Mapping[str, object]) -> Wire:
        """Add a webhook; the response contains a generated secret."""
        return self._request("POST", paths.WEBHOOKS, body)

    def delete_webhook(self, name: str) -> Wire:
        """Delete a webhook."""
        return self._webhook("DELETE", paths.WEBHOOK, name)

    def set_webhook_state(self, name: str, state: str) -> Wire:
        """Set the state: `enabled` or `paused`."""
        return self._webhook("PUT", paths.WEBHOOK_STATE, name, {"State": state})

    def rotate_webhook_secret(self, name: str, secret: str, overlap_seconds: float | None) -> Wire:
        """Set a new secret; the response contains a generated one."""
        body = {"Secret": secret, "OverlapSeconds": None if overlap_seconds is None else int(overlap_seconds)}
        return self._webhook("PUT", paths.WEBHOOK_SECRET, name, body)

    def test_webhook(self, name: str) -> Wire:
        """Send a test event; returns its result."""
        return self._webhook("POST", paths.WEBHOOK_TEST, name)

    # --- subscriptions ------------------------------------------------------------------------------------

    def subscriptions(self) -> list[Wire]:
        """All durable subscriptions."""
        return _items(self._request("GET", paths.SUBSCRIPTIONS))

    def subscription(self, name: str) -> Wire:
        """One subscription."""
        return _part(self._subscription("GET", paths.SUBSCRIPTION, name), "Subscription")

    def find_subscription(self, name: str) -> Wire | None:
        """One subscription; None if it does not exist."""
        try:
            return self.subscription(name)
        except SubscriptionNotFound:
            return None

    def create_subscription(self, body: Mapping[str, object]) -> Wire:
        """Create a subscription; repeating it changes nothing."""
        return _part(self._request("POST", paths.SUBSCRIPTIONS, body), "Subscription")

    def parked(self, name: str, limit: int) -> Wire:
        """The retrying and parked jobs: `Items`, and their number: `Total`."""
        return self._subscription("GET", paths.SUBSCRIPTION_PARKED, name, query={"limit": limit})

    def retry(self, name: str, job: str, namespace: str) -> int:
        """Retry the failed event of a job, or of all jobs if `job` is empty; returns the number of jobs."""
        body = {"JobID": job, "Namespace": namespace}
        return _count(self._subscription("POST", paths.SUBSCRIPTION_RETRY, name, body))

    def skip(self, name: str, job: str, namespace: str) -> int:
        """Skip the failed event of a job."""
        body = {"JobID": job, "Namespace": namespace}
        return _count(self._subscription("POST", paths.SUBSCRIPTION_SKIP, name, body))

    def reset(self, name: str, after: str) -> Wire:
        """Restart a subscription after a point."""
        wire = self._subscription("PUT", paths.SUBSCRIPTION_POSITION, name, {"After": after})
        return _part(wire, "Subscription")

    def delete(self, name: str) -> int:
        """Delete a subscription; returns the number of its retrying and parked jobs."""
        return _count(self._subscription("DELETE", paths.SUBSCRIPTION, name))

    # --- audit --------------------------------------------------------------------------------------------

    def keys(self) -> list[Wire]:
        """The public keys, oldest first."""
        return _items(self._request("GET", paths.AUDIT_KEYS))

    def seal(self) -> Wire:
        """Seal the log now; requires an admin token."""
        return self._request("POST", paths.AUDIT_SEALS, {})

    def seals(self, limit: int | None) -> Iterator[Wire]:
        """The seals, newest first, at most `limit`."""
        for page in self._pages(paths.AUDIT_SEALS, SEALS_MAX_LIMIT, limit):
            yield from _items(page)

    def proof(self, job: str, *, namespace: str = "") -> ProofBundle:
        """The proof bundle of a job, by the newest seal."""
        query = {"job": job, "namespace": namespace}
        content, headers = self._transport.fetch(paths.AUDIT_PROOF, query=query)
        count = headers.get(UNCOVERED_HEADER, "0")
        return ProofBundle(content, int(count) if count.isdecimal() else 0)

    def consistency(self, old_size: int, new_size: int) -> ConsistencyProof:
        """The proof that the tree of one size extends that of another."""
        wire = self._request("GET", paths.AUDIT_CONSISTENCY, query={"from": old_size, "to": new_size})
        try:
            return msgspec.convert(wire, ConsistencyProof)
        except msgspec.ValidationError as error:
            raise RemoteError(f"the response is not a consistency proof: {error}") from None

    # --- the view -----------------------------------------------------------------------------------------

    def quarantined(self) -> Iterator[Wire]:
        """The jobs in quarantine."""
        for page in self._pages(paths.VIEW_QUARANTINE, LIST_MAX_LIMIT):
            yield from _items(page)

    def damage(self) -> Iterator[Wire]:
        """Pages of the ranges of events that are missing from the log."""
        return self._pages(paths.VIEW_DAMAGE, LIST_MAX_LIMIT)

    def heal(self) -> Wire:
        """Fold the jobs in quarantine again; requires an admin token."""
        return self._request("POST", paths.VIEW_HEAL, {})

    # --- requests -----------------------------------------------------------------------------------------

    def _webhook(self, method: str, template: str, name: str, body: object = None) -> Wire:
        """A request for a webhook by its name, or by the name of its subscription."""
        try:
            return self._request(method, _path(template, name), body)
        except WebhookNotFound:
            bare = name.removeprefix(SUBSCRIPTION_PREFIX)
            if bare in {"", name}:
                raise
            return self._request(method, _path(template, bare), body)

    def _subscription(
        self,
        method: str,
        template: str,
        name: str,
        body: object = None,
        query: Mapping[str, Any] | None = None,
    ) -> Wire:
        """A request for a subscription by its name, or by the name of its webhook."""
        try:
            return self._request(method, _path(template, name), body, query)
        except SubscriptionNotFound as missing:
            if name.startswith(SUBSCRIPTION_PREFIX):
                raise
            try:
                return self._request(method, _path(template, SUBSCRIPTION_PREFIX + name), body, query)
            except (SubscriptionNotFound, InvalidInput):
                raise missing from None

    def _pages(self, path: str, page_size: int, limit: int | None = None) -> Iterator[Wire]:
        token = ""
        while limit is None or limit > 0:
            count = page_size if limit is None else min(limit, page_size)
            page = self._request("GET", path, query={"limit": count, "next_token": token})
            items = _items(page)
            yield page
            if limit is not None:
                limit -= len(items)
            token = str(page.get("NextToken") or "")
            if not token:
                return

    def _request(
        self, method: str, path: str, body: object = None, query: Mapping[str, Any] | None = None
    ) -> Wire:
        wire = self._transport.request(method, path, body=body, query=query)
        if not isinstance(wire, dict):
            raise _unexpected()
        return wire


def _path(template: str, name: str) -> str:
    if not name or "/" in name or name in {".", ".."} or "\0" in name or not is_utf8(name):
        raise InvalidInput(f"invalid name {name!r:.80}: use the name of a webhook or subscription")
    return paths.expand(template, name=name)


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
        "the response is not what this release expects; `jobledger version` compares client and service"
    )
