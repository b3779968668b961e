"""What can be asked about a job's versions: which there are, how they differ, their tags, and blame."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from jobledger.service.client.answers import (
    BlameAnswer,
    JobPage,
    TagsAnswer,
    VersionsDiffAnswer,
    WriteAnswer,
    read_answer,
    read_blame,
    read_jobs,
)
from jobledger.service.limits import CLIENT_PAGE_JOBS


class VersionCalls(ABC):
    """This part of `Client`. A version is named by its number or by a tag; an empty name is the latest."""

    def rerun(self, ref: str, *, namespace: str = "", version: str = "", reason: str = "") -> WriteAnswer:
        """Begin a job again, with the spec of one of its versions."""
        return self._change("PUT", ref, "/rerun", namespace, version=version, reason=reason)

    def revert(
        self, ref: str, version: str, *, namespace: str = "", reason: str = "", revision: int | None = None
    ) -> WriteAnswer:
        """Give a job the spec of an earlier version; with a revision, only if it is still at that one."""
        return self._change(
            "PUT", ref, "/revert", namespace, version=version, reason=reason, revision=revision
        )

    def tag(
        self,
        ref: str,
        version: str,
        tag: str,
        *,
        namespace: str = "",
        reason: str = "",
        revision: int | None = None,
    ) -> WriteAnswer:
        """Let a tag name a version."""
        end = f"/tags/{quote(tag, safe='')}"
        return self._change("PUT", ref, end, namespace, version=version, reason=reason, revision=revision)

    def untag(
        self, ref: str, tag: str, *, namespace: str = "", reason: str = "", revision: int | None = None
    ) -> WriteAnswer:
        """Take a tag away."""
        end = f"/tags/{quote(tag, safe='')}"
        return self._change("DELETE", ref, end, namespace, reason=reason, revision=revision)

    def accept_unreadable(
        self, ref: str, sequence: int, *, namespace: str = "", reason: str = ""
    ) -> WriteAnswer:
        """Accept that an event which froze a job can't be read; for admins."""
        body = {"Sequence": sequence, "Reason": reason, "Namespace": namespace}
        path = self._path(ref, "/accept-unreadable", namespace=namespace)
        return self._write("POST", path, body=body, namespace=namespace)

    def versions(self, ref: str, *, namespace: str = "") -> Iterator[JobPage]:
        """Pages of a job's versions, ascending: the job as it was with each of its specs."""
        token = ""
        while True:
            query = {"namespace": namespace, "next_token": token, "limit": CLIENT_PAGE_JOBS}
            page = read_jobs(self._ask("GET", self._path(ref, "/versions", namespace=namespace), query=query))
            yield page
            token = page.next_token
            if not token:
                return

    def tags(self, ref: str, *, namespace: str = "", at: str = "") -> TagsAnswer:
        """The tags of a job, or those that it had at a point."""
        path = self._path(ref, "/tags", namespace=namespace)
        return read_answer(self._ask("GET", path, query={"namespace": namespace, "at": at}), TagsAnswer)

    def diff_versions(self, ref: str, old: str, new: str = "", *, namespace: str = "") -> VersionsDiffAnswer:
        """How two versions of a job's spec differ."""
        query = {"namespace": namespace, "from": old, "to": new}
        path = self._path(ref, "/diff", namespace=namespace)
        return read_answer(self._ask("GET", path, query=query), VersionsDiffAnswer)

    def blame(self, ref: str, *, namespace: str = "", at: str = "", path: str = "") -> BlameAnswer:
        """For each field of a job, or of a part of it, the event that it has its value from."""
        query = {"namespace": namespace, "at": at, "path": path}
        return read_blame(self._ask("GET", self._path(ref, "/blame", namespace=namespace), query=query))

    def _change(
        self,
        method: str,
        ref: str,
        end: str,
        namespace: str,
        *,
        version: str = "",
        reason: str,
        revision: int | None = None,
    ) -> WriteAnswer:
        body: dict[str, object] = {"Reason": reason, "Namespace": namespace}
        if version:
            body["JobVersion"] = int(version) if version.isdecimal() else version
        path = self._path(ref, end, namespace=namespace)
        return self._write(method, path, body=body, namespace=namespace, revision=revision)

    @abstractmethod
    def _ask(self, method: str, path: str, **how: Any) -> Any: ...

    @abstractmethod
    def _path(self, ref: str, end: str = "", *, namespace: str = "") -> str: ...

    @abstractmethod
    def _write(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, object],
        namespace: str = "",
        revision: int | None = None,
        headers: Mapping[str, str] | None = None,
        key: str = "",
    ) -> WriteAnswer: ...
