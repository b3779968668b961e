"""Rendering templates. Everything is escaped, and a name that a template misspells is an error."""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader, StrictUndefined

from jobledger.service.limits import UI_SHOWN_CHANGES
from jobledger.service.web import texts
from jobledger.service.web.static_files import static_url
from jobledger.service.web.zones import current, in_zone
from jobledger.service.wire import paths
from jobledger.store.timestamps import parse_rfc3339

FILTERS: Final[Mapping[str, Callable[..., Any]]] = {
    "clock": lambda time_ns: f"{in_zone(time_ns, current())} {current().name}",
    "clock_short": lambda time_ns: in_zone(time_ns, current()),
    "nanoseconds": parse_rfc3339,
    "rfc3339": texts.rfc3339,
    "age": texts.age,
    "span": texts.span,
    "count": texts.count,
    "plural": texts.plural,
    "json_text": texts.json_text,
    "urlquery": urlencode,
    "state_class": texts.state_class,
}


@cache
def environment() -> Environment:
    """The templates of this release."""
    found = Environment(
        loader=PackageLoader("jobledger.service.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        extensions=["jinja2.ext.do"],
    )
    found.filters.update(FILTERS)
    found.globals.update(
        static=static_url,
        paths=paths,
        path=paths.expand,
        shown_changes=UI_SHOWN_CHANGES,
        zone=current,
    )
    return found


def render_text(name: str, **context: Any) -> str:
    """A template as text."""
    return environment().get_template(name).render(**context)
