"""What the API answers with: jobs, receipts, pages, as JSON bytes."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from litestar import Response
from litestar.types import Receive, Scope, Send

from jobledger.projections.results import JobVersion
from jobledger.service.cursor import format_cursor
from jobledger.service.versions import VersionSpan
from jobledger.store.command import Receipt
from jobledger.store.model.job import Job, State

JSON = "application/json"
_JSON_TYPE = (b"content-type", JSON.encode())
NO_EXECUTIONS: dict[str, Any] = {"Items": [], "NextToken": ""}

encode = msgspec.json.Encoder().encode
"""Plain values as JSON."""


class RawJSON:
    """JSON that is there already, for the routes that are asked most: an ASGI app by itself.

    The framework's own response costs as much as all the rest of reading a job. A handler's return type must
    be this class alone, or the framework does not know it for an app.

    Args:
        body: a JSON document; empty for an answer without a body.
        headers: more of them, with names in lower case.
        status: of the answer.
    """

    __slots__ = ("_body", "_headers", "_status")

    def __init__(
        self, body: bytes, headers: Iterable[tuple[bytes, bytes]] = (), *, status: int = 200
    ) -> None:
        self._body = body
        self._status = status
        self._headers = [*headers]
        if body:
            self._headers += [_JSON_TYPE, (b"content-length", b"%d" % len(body))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI says
        """Send it."""
        await send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await send({"type": "http.response.body", "body": self._body, "more_body": False})


def json_answer(content: object, headers: dict[str, str] | None = None) -> Response[bytes]:
    """A 200 with this as JSON."""
    return Response(encode(content), media_type=JSON, headers=headers)


def etag(revision: int) -> str:
    """The strong entity tag of a job at a revision."""
    return f'"{revision}"'


def job_raw(job: Job) -> msgspec.Raw:
    """The job's JSON, to stand inside an answer."""
    return msgspec.Raw(job.to_json())


def receipt_wire(
    receipt: Receipt, mark: str, warnings: Iterable[str] = (), **more: object
) -> dict[str, object]:
    """What every write answers.

    Args:
        receipt: what the command did.
        mark: of the stream.
        warnings: what was dropped, or did not happen.
        more: what this route tells besides.
    """
    told = list(warnings)
    return {
        "JobID": receipt.job_id,
        # Nothing is scheduled here: the event is what a caller can ask for later.
        "EvaluationID": receipt.event_id if receipt.changed else "",
        "Warnings": told or None,
        "Version": receipt.version,
        "Revision": receipt.revision,
        "Sequence": receipt.sequence,
        "Cursor": format_cursor(mark, receipt.sequence),
        **more,
    }


def version_wires(
    job: Job, versions: Sequence[JobVersion], spans: dict[int, VersionSpan]
) -> list[msgspec.Raw]:
    """Versions of a job as jobs: each with its spec, and the state in which it was left.

    Args:
        job: the job as it is.
        versions: of its spec.
        spans: the life of each version, by version.
    """
    wires = []
    for version in versions:
        span = spans.get(version.version)
        if span is None:  # the view is ahead of the history that was read
            continue
        item = span.last
        status = msgspec.structs.replace(
            job.status,
            version=version.version,
            revision=item.revision,
            state=item.state or State(job.status.state.state_type),
            modify_time=min(max(item.time, version.time), job.status.modify_time),
        )
        wires.append(job_raw(Job(status=status, spec=version.spec)))
    return wires
