"""Versions as people name them: by number, or by tag. Pure."""

import re
from typing import Final

import msgspec

from jobledger.store.model.errors import InvalidInput, VersionNotFound
from jobledger.store.model.fold import is_tag
from jobledger.store.model.history import HistoryItem
from jobledger.store.model.job import JobStatus
from jobledger.store.model.limits import INT_MAX

_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


class VersionSpan(msgspec.Struct, frozen=True):
    """A version's life: the event that brought it, and the last one that changed the job in it."""

    first: HistoryItem
    last: HistoryItem


def version_of(text: str, status: JobStatus, field: str = "job_version") -> int:
    """The version that a text names; 0 for none: the present one.

    A number is not looked up: whoever reads the version tells that it is not there.

    Args:
        text: a number, a tag of the job, or nothing.
        status: of the job, with its tags.
        field: what to call it in an error.

    Raises:
        InvalidInput: if it can be neither.
        VersionNotFound: if the job has no such tag.
    """
    check_version_text(text, field)
    if not text or text.isdecimal():
        return int(text or 0)
    version = status.tags.get(text)
    if version is None:
        known = ", ".join(status.tags) or "none"
        raise VersionNotFound(f"job {status.id} has no tag {text!r:.80}; its tags: {known}")
    return version


def check_version_text(text: str, field: str) -> None:
    """Refuse what can be neither a version nor a tag.

    Raises:
        InvalidInput: naming the field.
    """
    is_number = _NUMBER.fullmatch(text) is not None and int(text) <= INT_MAX
    if text and not is_number and not is_tag(text):
        raise InvalidInput(f"{field} is {text!r:.60}; use the number of a version, or a tag")


def tags_by_version(status: JobStatus) -> dict[int, list[str]]:
    """The tags of each version that has any."""
    found: dict[int, list[str]] = {}
    for tag, version in status.tags.items():
        found.setdefault(version, []).append(tag)
    return found


class VersionSpans:
    """Gathers the spans of a job's versions from its history, item by item."""

    def __init__(self) -> None:
        self.spans: dict[int, VersionSpan] = {}

    def add(self, item: HistoryItem) -> None:
        """The next item. A tag's is left aside: it changes no version, whichever one it names."""
        if item.anomaly or item.tag:
            return
        known = self.spans.get(item.version)
        self.spans[item.version] = VersionSpan(known.first if known is not None else item, item)
