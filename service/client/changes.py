"""What changed between two points of the log, page by page."""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import field

from jobledger.service.client.answers import Answer, ChangeAnswer, read_answer
from jobledger.service.client.client import Client
from jobledger.service.limits import CLIENT_PAGE_CHANGES
from jobledger.store.model.job import State


class JobThen(msgspec.Struct, frozen=True, rename="pascal"):
    """What a job was at a point; `tags` are the versions that they name."""

    version: int
    revision: int
    state: State
    tags: dict[str, int] = {}


class EventAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """An event of a job in between; `time` is RFC 3339, and a tag's event names its tag and version."""

    time: str
    event_type: str
    version: int
    revision: int
    state: State
    actor: str = ""
    reason: str = ""
    tag: str = ""
    tag_version: int = 0


class ChangedJob(msgspec.Struct, frozen=True, rename="pascal"):
    """What became of one job; `before` is None if it was created in between."""

    job_id: str = field(name="JobID")
    name: str
    namespace: str
    before: JobThen | None = field(name="From")
    after: JobThen = field(name="To")
    states: tuple[str, ...]
    changes: tuple[ChangeAnswer, ...]
    more_changes: int
    is_compared: bool
    events: tuple[EventAnswer, ...]
    more_events: int


class PointAnswer(msgspec.Struct, frozen=True, rename="pascal"):
    """A point in the log."""

    sequence: int
    cursor: str


class ChangesPage(Answer, frozen=True, kw_only=True):
    """A page of changed jobs; `next_token` is empty on the last one."""

    first: PointAnswer = field(name="From")
    second: PointAnswer = field(name="To")
    items: tuple[ChangedJob, ...]
    next_token: str = ""


def change_pages(client: Client, query: Mapping[str, Any], *, limit: int | None) -> Iterator[ChangesPage]:
    """Pages of changed jobs until there are no more, or as many jobs as the limit says.

    Args:
        client: whom to ask.
        query: the API's.
        limit: of jobs; None: all.

    Raises:
        JobledgerError: as `Transport.ask`.
    """
    token, left = query.get("next_token", ""), limit
    while left is None or left > 0:
        size = CLIENT_PAGE_CHANGES if left is None else min(left, CLIENT_PAGE_CHANGES)
        wire = client.transport.ask(
            "GET",
            "/api/v1/diff",
            query={**query, "limit": size, "next_token": token},
        )
        page = read_answer(wire, ChangesPage)
        yield page
        token = page.next_token
        left = left - len(page.items) if left is not None else None
        if not token:
            return
