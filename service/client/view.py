"""What of the log a service's view could not read, asked of the service."""

from collections.abc import Iterator
from typing import Any, Final

from jobledger.projections.limits import LIST_MAX_LIMIT
from jobledger.service.client.client import Client
from jobledger.service.errors import RemoteError

_VIEW: Final = "/api/v1/view"
Wire = dict[str, Any]


class ViewCalls:
    """Asks by way of a client; raises what `Transport.ask` raises."""

    def __init__(self, client: Client) -> None:
        self._transport = client.transport

    def quarantined(self) -> Iterator[Wire]:
        """The jobs in quarantine."""
        for page in self._pages("/quarantine"):
            yield from _items(page)

    def damage(self) -> Iterator[Wire]:
        """Pages of the ranges of events that are missing from the log."""
        return self._pages("/damage")

    def heal(self) -> Wire:
        """Fold the jobs in quarantine again; for admins."""
        answer = self._transport.ask("POST", f"{_VIEW}/heal", body={})
        if not isinstance(answer, dict):
            raise _unexpected()
        return answer

    def _pages(self, end: str) -> Iterator[Wire]:
        token = ""
        while True:
            query = {"limit": LIST_MAX_LIMIT, "next_token": token}
            page = self._transport.ask("GET", f"{_VIEW}{end}", query=query)
            if not isinstance(page, dict):
                raise _unexpected()
            _items(page)
            yield page
            token = str(page.get("NextToken") or "")
            if not token:
                return


def _items(page: Wire) -> list[Wire]:
    items = page.get("Items")
    if not isinstance(items, list) or not all(isinstance(each, dict) for each in items):
        raise _unexpected()
    return items


def _unexpected() -> RemoteError:
    return RemoteError("the answer is not what this release expects; is this a Jobledger service?")
