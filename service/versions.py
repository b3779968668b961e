"""Versions of a job, by number or by tag. Pure."""

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
    """The first event of a version, and the last event that changed the job in it."""

    first: HistoryItem
    last: HistoryItem


def version_of(text: str, status: JobStatus, field: str = "job_version") -> int:
    """Resolve a version number or a tag; 0 for an empty text: the current version.

    A number is not looked up; reading the version reports that it does not exist.

    Args:
        text: a number, a tag of the job, or empty.
        status: of the job, with its tags.
        field: the name in errors.

    Raises:
        InvalidInput: it can be neither.
        VersionNotFound: the job has no such tag.
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
    """Check that a text can be a version number or a tag.

    Raises:
        InvalidInput: it can be neither.
    """
    is_number = _NUMBER.fullmatch(text) is not None and int(text) <= INT_MAX
    if text and not is_number and not is_tag(text):
        raise InvalidInput(f"invalid {field} {text!r:.60}: use the number of a version, or a tag")


def tags_by_version(status: JobStatus) -> dict[int, list[str]]:
    """Return the tags of each version that has any."""
    found: dict[int, list[str]] = {}
    for tag, version in status.tags.items():
        found.setdefault(version, []).append(tag)
    return found


class VersionSpans:
    """Collects the spans of a job's versions from its history."""

    def __init__(self) -> None:
        self.spans: dict[int, VersionSpan] = {}

    def add(self, item: HistoryItem) -> None:
        """Add the next item. Items of tags are ignored: they do not change the version that they name."""
        if item.anomaly or item.tag:
            return
        known = self.spans.get(item.version)
        self.spans[item.version] = VersionSpan(known.first if known is not None else item, item)
