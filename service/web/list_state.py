"""The state of the list of jobs, as its URL has it: filters, order, page, point and columns. Pure."""

from typing import Final, NamedTuple
from urllib.parse import urlencode

from jobledger.service.api.query import Query
from jobledger.service.web.zones import PARAMETER, read_local
from jobledger.service.wire import paths

COLUMNS: Final = {
    "state": "State",
    "namespace": "Namespace",
    "type": "Type",
    "version": "Version",
    "revision": "Revision",
    "created": "Created",
    "modified": "Modified",
    "labels": "Labels",
    "id": "ID",
}
DEFAULT_COLUMNS: Final = ("state", "namespace", "type", "version", "revision", "modified", "labels")
PAGE_SIZES: Final = (25, 50, 100, 200)
DEFAULT_PAGE_SIZE: Final = 50
_TIMES: Final = ("created_from", "created_to", "modified_from", "modified_to")
_PREVIOUS_MAX: Final = 20  # pages that "Newer" can return to; the URL grows by a token for each


class Chip(NamedTuple):
    """An active filter: its text, and the URL without it."""

    text: str
    url: str


class ListState(NamedTuple):
    """What the URL of the list says.

    Attributes:
        order: `created_at` or `modified_at`.
        zone: of the times in the filters; the page keeps it in its links (see `zones`).
        previous: the tokens of the pages before this one, oldest first; an empty text is the first page.
    """

    name: str = ""
    namespace: str = ""
    states: tuple[str, ...] = ()
    types: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    created_from: str = ""
    created_to: str = ""
    modified_from: str = ""
    modified_to: str = ""
    order: str = "created_at"
    is_ascending: bool = False
    limit: int = DEFAULT_PAGE_SIZE
    at: str = ""
    token: str = ""
    previous: tuple[str, ...] = ()
    columns: tuple[str, ...] = DEFAULT_COLUMNS
    zone: str = ""

    def api_query(self) -> list[tuple[str, str]]:
        """The parameters of `listJobs`; also of the link to the JSON of the page."""
        bounded = ("bounded", "true" if self.chips() else "")
        return [*self.api_filters(), ("state", ",".join(self.states)), bounded, *self._order_and_page()]

    def api_filters(self) -> list[tuple[str, str]]:
        """The filters without the states, which are counted."""
        return [
            ("name", self.name),
            ("namespace", self.namespace),
            ("type", ",".join(self.types)),
            *(("labels", each) for each in self.labels),
            *((each, read_local(getattr(self, each), self.zone)) for each in _TIMES),
            ("at", self.at),
        ]

    def _order_and_page(self) -> list[tuple[str, str]]:
        return [
            ("order_by", self.order),
            ("reverse", "false" if self.is_ascending else "true"),
            ("limit", str(self.limit)),
            ("next_token", self.token),
        ]

    def pairs(self) -> list[tuple[str, str]]:
        """The parameters of the page's URL, without those that have their default."""
        return [
            *((name, value) for name, value in self.hidden() if value),
            *((("next_token", self.token),) if self.token else ()),
            *(("previous", each or "-") for each in self.previous),
        ]

    def hidden(self, *without: str) -> list[tuple[str, str]]:
        """As `pairs`, without the page: a form that changes the list begins at the first page."""
        default = ListState()
        found = [
            ("name", self.name),
            ("namespace", self.namespace),
            *(("state", each) for each in self.states),
            *(("type", each) for each in self.types),
            *(("labels", each) for each in self.labels),
            *((each, getattr(self, each)) for each in _TIMES),
            ("order_by", self.order if self.order != default.order else ""),
            ("reverse", "false" if self.is_ascending else ""),
            ("limit", str(self.limit) if self.limit != default.limit else ""),
            ("at", self.at),
            *((("columns", each) for each in self.columns) if self.columns != default.columns else ()),
        ]
        return [(name, value) for name, value in found if value and name not in without]

    def url(self, **changes: object) -> str:
        """The URL of the list with some changes; it begins at the first page."""
        changed = self._replace(**{"token": "", "previous": (), **changes})  # type: ignore[arg-type]
        query = urlencode(changed.pairs())
        return f"{paths.UI_JOBS}?{query}" if query else paths.UI_JOBS

    def here(self) -> str:
        """The URL of this page."""
        return self.url(token=self.token, previous=self.previous)

    def older(self, next_token: str) -> str:
        """The URL of the next page."""
        return self.url(token=next_token, previous=(*self.previous, self.token)[-_PREVIOUS_MAX:])

    def newer(self) -> str:
        """The URL of the page before this one; empty on the first page."""
        if not self.token:
            return ""
        *rest, last = self.previous or ("",)
        return self.url(token=last, previous=tuple(rest))

    def toggled(self, field: str, value: str) -> str:
        """The URL with a value added to a filter, or removed from it."""
        values = getattr(self, field)
        kept = tuple(each for each in values if each != value)
        return self.url(**{field: kept if len(kept) < len(values) else (*values, value)})

    def sorted_by(self, order: str) -> str:
        """The URL sorted by a time: newest first, or the other way round if it is already."""
        return self.url(order=order, is_ascending=self.order == order and not self.is_ascending)

    def chips(self) -> list[Chip]:
        """The active filters, each with the URL that removes it."""
        found = [
            *(
                (f"{field}: {each}", self.toggled(f"{field}s", each))
                for field in ("state", "type")
                for each in getattr(self, f"{field}s")
            ),
            *((f"labels: {each}", self.toggled("labels", each)) for each in self.labels),
        ]
        for field in ("name", "namespace", *_TIMES):
            if value := getattr(self, field):
                words = field.replace("_from", " from").replace("_to", " before")
                found.append((f"{words}: {value}", self.url(**{field: ""})))
        return [Chip(*each) for each in found]


def read_state(query: Query) -> ListState:
    """The state that a URL has.

    Raises:
        InvalidInput: if a number or a flag cannot be read; the operation checks the rest.
    """
    columns = tuple(each for each in COLUMNS if each in query.texts("columns"))
    return ListState(
        name=query.text("name"),
        namespace=query.text("namespace"),
        states=tuple(dict.fromkeys(map(str, query.states()))),
        types=tuple(dict.fromkeys(query.texts("type"))),
        labels=query.all_of("labels"),
        created_from=query.text("created_from"),
        created_to=query.text("created_to"),
        modified_from=query.text("modified_from"),
        modified_to=query.text("modified_to"),
        order=query.text("order_by") or "created_at",
        is_ascending=bool(query.text("reverse")) and not query.flag("reverse"),
        limit=query.integer("limit", DEFAULT_PAGE_SIZE, least=1, most=max(PAGE_SIZES)),
        at=query.text("at"),
        token=query.text("next_token"),
        previous=tuple("" if each == "-" else each for each in query.all_of("previous")[-_PREVIOUS_MAX:]),
        columns=columns or DEFAULT_COLUMNS,
        zone=query.text(PARAMETER),
    )
