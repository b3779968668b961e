"""Keys and seals, asked of a service. Nothing that comes back is believed here: that is for who has a key."""

from collections.abc import Iterator
from typing import Any, Final

from jobledger.service.client.client import Client
from jobledger.service.errors import RemoteError
from jobledger.service.limits import SEALS_MAX_LIMIT

_KEYS: Final = "/api/v1/audit/keys"
_SEALS: Final = "/api/v1/audit/seals"
Wire = dict[str, Any]


class Seals:
    """Asks by way of a client; raises what `Transport.ask` raises."""

    def __init__(self, client: Client) -> None:
        self._transport = client.transport

    def keys(self) -> list[Wire]:
        """The keys that seals are signed with, oldest first."""
        return _items(self._transport.ask("GET", _KEYS))

    def seal(self) -> Wire:
        """Seal what there is now; for admins."""
        answer = self._transport.ask("POST", _SEALS, body={})
        if not isinstance(answer, dict):
            raise RemoteError("the answer is no seal; is this a Jobledger service?")
        return answer

    def seals(self, limit: int | None) -> Iterator[Wire]:
        """The seals, newest first: so many of them, or all."""
        token = ""
        while limit is None or limit > 0:
            count = min(limit or SEALS_MAX_LIMIT, SEALS_MAX_LIMIT)
            page = self._transport.ask("GET", _SEALS, query={"limit": count, "next_token": token})
            items = _items(page)
            yield from items
            if limit is not None:
                limit -= len(items)
            token = str(page.get("NextToken") or "")
            if not token:
                return


def _items(wire: Wire) -> list[Wire]:
    items = wire.get("Items")
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise RemoteError("the answer is no list of keys or seals; is this a Jobledger service?")
    return items
