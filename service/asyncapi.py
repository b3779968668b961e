"""The AsyncAPI 3.0 document of the events, derived from the Structs of `store.model.events`. Pure.

It describes the events on NATS subjects and on `GET /api/v1/events`. `make docs` writes it to
docs/asyncapi.json; the service serves it at `/asyncapi.json`.
"""

from functools import cache
from typing import Any, Final

import msgspec

from jobledger import __version__
from jobledger.projections.subscriptions.filters import Match
from jobledger.store.model.events import EVENT_TYPES, JobEvent, event_type
from jobledger.store.model.subjects import SHARD_COUNT, STREAM_NAME, job_subject, named_job_id
from jobledger.store.spec.spec import JobSpec

VERSION: Final = "3.0.0"
JSON: Final = "application/json"
_REF: Final = "#/components/schemas/{name}"
_EXAMPLE: Final = job_subject("default", named_job_id("default", "hello"))
_TEXT: Final = {"type": "string"}
_INFO: Final = f"""\
Every change of a job is one CloudEvents 1.0 JSON document. It is appended to the NATS JetStream stream
`{STREAM_NAME}`, and sent to the readers of the HTTP feed. Order, sequence and time are those of the stream.
Two deliveries with the same sequence are the same event."""
# Added to a delivered event: the job's name, and its position in the stream.
_PLACE: Final = {
    "name": {"type": "string", "description": "the job's name"},
    "sequence": {
        "type": "string",
        "pattern": "^[0-9]{20}$",
        "description": "the position in the stream: decimal, padded with zeros, so that strings sort like"
        " numbers (the CloudEvents extension `sequence`)",
    },
    "revision": {"type": "integer", "description": "the job's revision after the event"},
    "version": {"type": "integer", "description": "the job's version after the event"},
    "streamtime": {"type": "string", "description": "when the event was appended to the stream"},
}

_MATCHES: Final = {
    "type": "string",
    "enum": [*Match],
    "description": "only in requests with labels: whether the job matched them before the event (which"
    " removed it from the selection), after it (which added it), or both",
}

DELIVERED: Final = {**_PLACE, "matches": _MATCHES}
"""The fields of a delivered event that are not in the log; docs/EVENTS.md lists them."""


def document_bytes() -> bytes:
    """Return the document as JSON, as in docs/asyncapi.json."""
    return _bytes()


@cache
def _bytes() -> bytes:
    return msgspec.json.format(msgspec.json.encode(document()), indent=2) + b"\n"


def document() -> dict[str, Any]:
    """Return the document as plain values."""
    names = [kind.__name__ for kind in EVENT_TYPES]
    return {
        "asyncapi": VERSION,
        "info": {
            "title": "Jobledger events",
            "version": __version__,
            "description": _INFO,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": JSON,
        "servers": {
            "nats": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "the NATS server or cluster",
            },
            "http": {"host": "127.0.0.1:1234", "protocol": "http", "description": "`jobledger serve`"},
        },
        "channels": {"subjects": _subjects(names), "feed": _feed(names)},
        "operations": {
            "append": {
                "action": "send",
                "channel": {"$ref": "#/channels/subjects"},
                "summary": "Each event is appended once to the subject of its job",
                "messages": [{"$ref": f"#/channels/subjects/messages/{name}"} for name in names],
            },
            "follow": {
                "action": "send",
                "channel": {"$ref": "#/channels/feed"},
                "summary": "Each event is sent, in the order of the stream, to every feed that requests it",
                "messages": [{"$ref": f"#/channels/feed/messages/{name}"} for name in (*names, "Close")],
            },
        },
        "components": {"messages": _messages(), "schemas": _schemas()},
    }


def _subjects(names: list[str]) -> dict[str, Any]:
    return {
        "address": "jobs.{namespace}.{shard}.{jobId}",
        "description": f"One NATS subject for each job, for example `{_EXAMPLE}`",
        "servers": [{"$ref": "#/servers/nats"}],
        "parameters": {
            "namespace": {"description": "percent-encoded where NATS forbids a character"},
            "shard": {"description": f"the first byte of the SHA-256 of the job id, modulo {SHARD_COUNT}"},
            "jobId": {"description": "the job's id"},
        },
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
    }


def _feed(names: list[str]) -> dict[str, Any]:
    return {
        "address": "/api/v1/events",
        "description": (
            "Server-Sent Events: `id` is the cursor, `event` the type, `data` the document. Its parameters"
            " are in /openapi.json; `Last-Event-ID` resumes"
        ),
        "servers": [{"$ref": "#/servers/http"}],
        "messages": {
            **{name: {"$ref": f"#/components/messages/Sent{name}"} for name in names},
            "Close": {"$ref": "#/components/messages/Close"},
        },
    }


def _messages() -> dict[str, Any]:
    messages: dict[str, Any] = {}
    for kind in EVENT_TYPES:
        message: dict[str, Any] = {
            "name": event_type(kind),
            "title": _summary(kind),
            "contentType": JSON,
            "payload": {"$ref": _REF.format(name=kind.__name__)},
        }
        messages[kind.__name__] = {**message, "headers": {"$ref": _REF.format(name="Headers")}}
        messages[f"Sent{kind.__name__}"] = {
            **message,
            "payload": {"allOf": [message["payload"], {"$ref": _REF.format(name="Place")}]},
        }
    messages["Close"] = {
        "name": "close",
        "title": "The last message of a feed that the service closes; reconnect with the cursor",
        "contentType": JSON,
        "payload": {"$ref": _REF.format(name="Close")},
    }
    return messages


def _schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components((*EVENT_TYPES, JobSpec), ref_template=_REF)
    # The type of the field is Raw, which has no schema.
    found["SpecData"]["properties"]["Spec"] = {"$ref": _REF.format(name="JobSpec")}
    found["Headers"] = {
        "type": "object",
        "properties": {
            "Nats-Msg-Id": {**_TEXT, "description": "the event's `id`"},
            "Nats-Expected-Last-Subject-Sequence": {
                **_TEXT,
                "description": "the last sequence of this job that the writer saw; 0: none",
            },
        },
        "required": ["Nats-Msg-Id"],
    }
    found["Place"] = {
        "type": "object",
        "properties": DELIVERED,
        "required": list(_PLACE),
    }
    found["Close"] = {
        "type": "object",
        "properties": {
            "reason": {**_TEXT, "description": "why the service closes the feed"},
            "cursor": {**_TEXT, "description": "where to resume: `Last-Event-ID` or `after`"},
        },
        "required": ["reason", "cursor"],
    }
    return found


def _summary(kind: type[JobEvent]) -> str:
    return (kind.__doc__ or "").partition("\n\n")[0].replace("\n", " ").rstrip(".")
