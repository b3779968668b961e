"""The OpenAPI 3.1 document, made of the catalogue and the Structs of `schemas`. Pure.

Litestar could derive a document from typed handlers; here bodies are read forgivingly (keys in any case,
every problem at once) and answers are written as bytes, so there would be little in it. Tests hold this one
against the routes, against what handlers read, and against real answers.
"""

from collections import defaultdict
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec

from jobledger import __version__
from jobledger.service.api import schemas
from jobledger.service.api.catalogue import OPERATIONS, Operation, Parameter
from jobledger.service.api.catalogue.parts import JSON, NOT_MODIFIED
from jobledger.service.api.portable import portable
from jobledger.service.api.problems import KINDS, MEDIA_TYPE

TEXT_MEDIA: Final = "text/plain"
_REF: Final = "#/components/schemas/{name}"
_INTRODUCTION: Final = """\
An event-sourced store for the state of jobs. Every write is an event in an append-only log; every read comes
from a view that is folded from it. A write answers with its `Sequence`; `wait_for` makes any read, on any
replica, show it.

Errors are RFC 9457 problems that also carry the fields of Bacalhau's. More: docs/API.md in the repository."""
_REQUEST_ID: Final = Parameter(
    "X-Request-ID",
    {"type": "string", "pattern": r"^[A-Za-z0-9._\-]{1,128}$"},
    "comes back in the answer and in problems; made if absent",
    "header",
)
# What a client may do next with what a write answered.
_LINKS: Final = {
    "job": {"operationId": "getJob", "parameters": {"id": "$response.body#/JobID"}},
    "history": {"operationId": "jobHistory", "parameters": {"id": "$response.body#/JobID"}},
    "versions": {"operationId": "jobVersions", "parameters": {"id": "$response.body#/JobID"}},
    "state": {"operationId": "setJobState", "parameters": {"id": "$response.body#/JobID"}},
    "stop": {"operationId": "stopJob", "parameters": {"id": "$response.body#/JobID"}},
}
_LINKED: Final = frozenset({"putJob", "postJob"})


@cache
def document_bytes() -> bytes:
    """The document as JSON; made once, since nothing in it depends on the request."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=1)


def document() -> dict[str, Any]:
    """The document as plain values."""
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in OPERATIONS:
        paths[operation.path][operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Jobledger",
            "version": __version__,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": group} for group in dict.fromkeys(operation.group for operation in OPERATIONS)],
        # Nothing, in open mode on loopback; a token otherwise.
        "security": [{}, {"token": []}],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(),
            "responses": {f"Problem{status}": _problem(status) for status in _codes()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "from `jobledger token create`; needed unless the service has no tokens",
                }
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.group],
        "summary": operation.summary,
        "parameters": [_parameter(parameter) for parameter in (*operation.parameters, _REQUEST_ID)],
        "responses": {"200": _answer(operation)} if operation.answer else {},
    }
    if operation.text:
        described["description"] = operation.text
    if operation.body:
        content = {"schema": _ref(operation.body), "example": operation.example}
        described["requestBody"] = {"content": {JSON: content}, "required": operation.method != "DELETE"}
    responses = described["responses"]
    if NOT_MODIFIED in operation.parameters:
        responses["304"] = {"description": "The job still has that ETag", "headers": _headers(operation)}
    for status in operation.errors:
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    if operation.answer == TEXT_MEDIA and "503" in responses:  # a probe's answer is text in either case
        responses["503"] = _answer(operation)
    return described


def _answer(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.answer, str):
        text = portable({"type": "object"}) if operation.answer == JSON else {"type": "string"}
        return {"description": operation.summary, "content": {operation.answer: {"schema": text}}}
    answer: dict[str, Any] = {
        "description": _first_line(operation.answer),
        "content": {JSON: {"schema": _ref(operation.answer)}},
    }
    if operation.headers:
        answer["headers"] = _headers(operation)
    if operation.name in _LINKED:
        answer["links"] = _LINKS
    return answer


def _headers(operation: Operation) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in operation.headers}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    described: dict[str, Any] = {
        "name": parameter.name,
        "in": parameter.place,
        "description": parameter.description,
        "schema": portable(parameter.schema),
    }
    if parameter.needed:
        described["required"] = True
    return described


def _schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components((*schemas.BODIES, *schemas.ANSWERS), ref_template=_REF)
    found["Job"]["required"] = [*schemas.ALWAYS_IN_A_JOB, *found["Job"]["required"]]
    for name, fields in schemas.RULES.items():
        for field, rule in fields.items():
            found[name]["properties"][field] |= rule
    for name, needed in schemas.NEEDED.items():
        found[name]["required"] = list(needed)
    for name in schemas.OPEN:
        found[name]["additionalProperties"] = True
    return {name: portable(schema) for name, schema in found.items()}


def _codes() -> dict[int, list[str]]:
    """The codes that problems of each status can have."""
    codes: dict[int, list[str]] = defaultdict(list)
    for _, kind in KINDS:
        if kind.code not in codes[kind.status]:
            codes[kind.status].append(kind.code)
    codes[HTTPStatus.METHOD_NOT_ALLOWED].append("MethodNotAllowed")
    return dict(sorted(codes.items()))


def _problem(status: int) -> dict[str, Any]:
    codes = ", ".join(f"`{code}`" for code in _codes()[status])
    answer: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {codes}",
        "content": {MEDIA_TYPE: {"schema": _ref(schemas.Problem)}},
    }
    if status in {429, 503}:
        answer["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return answer


def _ref(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=struct.__name__)}


def _first_line(struct: type[msgspec.Struct]) -> str:
    return (struct.__doc__ or struct.__name__).splitlines()[0]
