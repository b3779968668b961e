"""The time zone of a page, which is in its URL: `?tz=Europe/Berlin`. Without one, times are in UTC.

The zone holds for every time that the page shows and for the times that its forms send. So that it holds for
the next page as well, `keep_zone` adds it to each link and form of the page that leads to another page.
"""

import re
from contextvars import ContextVar
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo

from jobledger.service.api.query import Query
from jobledger.service.wire import paths
from jobledger.store.model.errors import InvalidInput
from jobledger.store.timestamps import NANOSECONDS_PER_SECOND, format_rfc3339

PARAMETER: Final = "tz"
_UTC: Final = "UTC"
_NAME: Final = re.compile(r"[A-Za-z0-9_+\-]{1,32}(?:/[A-Za-z0-9_+\-]{1,32}){0,2}", re.ASCII)
_STATIC: Final = paths.UI_STATIC.partition("{")[0].removeprefix(f"{paths.UI}/")
# Texts of users are escaped, so that no quotation mark of theirs ends an attribute, or begins one.
_LINK: Final = re.compile(
    rf'(?:href|formaction|data-url|data-page)="{re.escape(paths.UI)}/(?!{re.escape(_STATIC)})[^"#]*'
)
_FORM: Final = re.compile(rf'<form\b[^>]*action="{re.escape(paths.UI)}/[^"]*"[^>]*>')


class Zone(NamedTuple):
    """A time zone.

    Attributes:
        name: in the database of time zones.
        utc_url: the page in UTC, relative to itself.
    """

    name: str = _UTC
    info: tzinfo = UTC
    utc_url: str = "?"

    @property
    def is_utc(self) -> bool:
        """Whether it is the default."""
        return self.name == _UTC


CURRENT: Final[ContextVar[Zone]] = ContextVar("zone")
"""The zone of the page that is being made; see `current`."""


def current() -> Zone:
    """The zone of the page that is being made; UTC outside of one."""
    return CURRENT.get(Zone())


def zone_of(query: Query) -> Zone:
    """The zone that a URL names.

    Raises:
        InvalidInput: it is not a time zone.
    """
    name = query.text(PARAMETER)
    return Zone(name, zone_info(name), f"?{urlencode(query.others(PARAMETER))}") if name else Zone()


@lru_cache(maxsize=64)
def zone_info(name: str) -> tzinfo:
    """A time zone by its name; UTC if that is empty.

    Raises:
        InvalidInput: it is not a time zone.
    """
    if name in {"", _UTC}:
        return UTC
    try:
        if _NAME.fullmatch(name):
            return ZoneInfo(name)
    except (ValueError, OSError, KeyError):  # not in the database, or a folder of it
        pass
    raise InvalidInput(
        f"{PARAMETER} must be a time zone that this server knows, such as UTC or Europe/Berlin, got"
        f" {name!r:.60}"
    )


def in_zone(time_ns: int, zone: Zone) -> str:
    """A time to read, to the second, without its zone."""
    if not zone.is_utc:
        try:
            found = datetime.fromtimestamp(time_ns // NANOSECONDS_PER_SECOND, zone.info)
            return found.strftime("%Y-%m-%d %H:%M:%S")
        except (ValueError, OverflowError):  # outside the calendar of Python
            pass
    return format_rfc3339(time_ns, digits=0).replace("T", " ").removesuffix("Z")


def read_local(text: str, name: str) -> str:
    """A time of a form as RFC 3339: without an offset, which its control lacks, it is in the zone."""
    has_zone = text[-1:] in "Zz" or text.isdecimal() or "+" in text[10:] or "-" in text[10:]
    if not text or has_zone:
        return text
    if zone_info(name) is not UTC:
        try:
            return datetime.fromisoformat(text).replace(tzinfo=zone_info(name)).isoformat()
        except (ValueError, OverflowError):
            pass  # refused by the operation, which explains what it expects
    return f"{text}Z"


def keep_zone(page: str, zone: Zone) -> str:
    """A page whose links and forms lead to pages in the same zone."""
    if zone.is_utc:
        return page
    parameter = _parameter(zone)

    def linked(found: re.Match[str]) -> str:
        return _with(found[0], "&amp;", parameter)

    def sent(found: re.Match[str]) -> str:
        form = found[0]
        if 'method="post"' in form:
            return re.sub(r'action="([^"#]*)', lambda each: _with(each[0], "&amp;", parameter), form)
        return f'{form}<input type="hidden" name="{PARAMETER}" value="{zone.name}">'

    return _FORM.sub(sent, _LINK.sub(linked, page))


def keep_zone_in(target: str, zone: Zone) -> str:
    """The URL of a redirection to a page, which is then in the same zone."""
    if zone.is_utc or not target.startswith(f"{paths.UI}/"):
        return target
    place, mark, part = target.partition("#")
    return _with(place, "&", _parameter(zone)) + mark + part


def _parameter(zone: Zone) -> str:
    return f"{PARAMETER}={quote(zone.name, safe='')}"


def _with(url: str, separator: str, parameter: str) -> str:
    return url if f"{PARAMETER}=" in url else f"{url}{separator if '?' in url else '?'}{parameter}"
