"""The OpenAPI 3.1 document, derived from the operations and their Structs. Pure.

OpenAPI 3.1 allows all of JSON Schema 2020-12; client generators support less of it, and some write code that
does not compile for the rest. `portable` changes how a schema is described, never what the service accepts or
returns:

- A default that is an object or a list is omitted: generators write it as an invalid literal, or validators
  refuse it next to `minItems`. So is a default next to a reference or a choice.
- An object without named fields gets `additionalProperties: true`; otherwise generators make it an empty
  class and lose its content.
- An integer gets `format: int64`; otherwise generators for Java, C#, Kotlin and Go use 32 bits, which is not
  enough for times in nanoseconds.
- "A value or null" becomes one schema with two types instead of a choice between two schemas.
"""

from collections import defaultdict
from functools import cache
from http import HTTPStatus
from typing import Any, Final

import msgspec

from jobledger import __version__
from jobledger.service.api.operation import Operation, Parameter, Permission
from jobledger.service.api.parameters import NOT_MODIFIED
from jobledger.service.api.problems import KINDS, MEDIA_TYPE
from jobledger.service.api.response import JSON
from jobledger.service.wire.health import Problem
from jobledger.store.spec.spec import JOB_TYPES, NETWORK_TYPES, OPERATORS

TEXT_MEDIA: Final = "text/plain"
_REF: Final = "#/components/schemas/{name}"
_INTRODUCTION: Final = """\
An event-sourced store for the state of jobs. Every write is an event in an append-only log; every read comes
from a view that is folded from it. A write returns its `Sequence`; with `wait_for`, any read on any replica
reflects it.

Errors are RFC 9457 problems that also have the fields of Bacalhau's errors. More: docs/API.md in the
repository."""
_REQUEST_ID: Final = Parameter(
    "X-Request-ID",
    {"type": "string", "pattern": r"^[A-Za-z0-9._\-]{1,128}$"},
    "returned in the response and in problems; generated if absent",
    "header",
)
_REQUIREMENTS: Final = {
    Permission.OBSERVE: "Requires a token for all namespaces.",
    Permission.ADMIN: "Requires an admin's token.",
}
# What a client may do next with the response to a submission.
_LINKS: Final = {
    "job": {"operationId": "getJob", "parameters": {"id": "$response.body#/JobID"}},
    "history": {"operationId": "jobHistory", "parameters": {"id": "$response.body#/JobID"}},
    "versions": {"operationId": "jobVersions", "parameters": {"id": "$response.body#/JobID"}},
    "state": {"operationId": "setJobState", "parameters": {"id": "$response.body#/JobID"}},
    "stop": {"operationId": "stopJob", "parameters": {"id": "$response.body#/JobID"}},
}
_LINKED: Final = frozenset({"putJob", "postJob"})

# The rules of `store.spec.validate` that a schema can express.
_COUNT: Final = {"minimum": 0}
_RULES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "JobSpec": {"Type": {"enum": list(JOB_TYPES)}, "Tasks": {"minItems": 1}, "Count": _COUNT},
    "Task": {"Name": {"minLength": 1}},
    "Constraint": {"Key": {"minLength": 1}, "Operator": {"enum": list(OPERATORS)}},
    "Network": {"Type": {"enum": list(NETWORK_TYPES)}},
    "Timeouts": dict.fromkeys(("ExecutionTimeout", "QueueTimeout", "TotalTimeout"), _COUNT),
}
_REQUIRED: Final = {
    "JobSpec": ("Type", "Tasks"),
    "Task": ("Name", "Engine"),
    "SpecConfig": ("Type",),
    "Constraint": ("Key", "Operator"),
    "InputSource": ("Source", "Target"),
    "ResultPath": ("Name", "Path"),
    "Port": ("Name",),
}
# Always in a job, although the spec's own Struct may omit them.
_ALWAYS_IN_A_JOB: Final = ("Name", "Namespace", "Type", "Meta", "Labels", "Tasks")
_CHOICES: Final = ("anyOf", "oneOf")


@cache
def document_bytes(operations: tuple[Operation, ...]) -> bytes:
    """The document as JSON."""
    return msgspec.json.format(msgspec.json.encode(document(operations)), indent=1)


def document(operations: tuple[Operation, ...]) -> dict[str, Any]:
    """The document as plain values."""
    paths: dict[str, dict[str, Any]] = defaultdict(dict)
    for operation in operations:
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
        "tags": [{"name": group} for group in dict.fromkeys(operation.group for operation in operations)],
        # Nothing, in open mode on loopback; a token otherwise.
        "security": [{}, {"token": []}],
        "paths": dict(paths),
        "components": {
            "schemas": _schemas(operations),
            "responses": {f"Problem{status}": _problem(status) for status in _codes()},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "from `jobledger token create`; required unless the service has no tokens",
                }
            },
        },
    }


def description_of(operation: Operation) -> str:
    """The operation's description, with the permission that it requires."""
    requirement = _REQUIREMENTS.get(operation.permission, "")
    return "\n\n".join(filter(None, (operation.description, requirement)))


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": operation.id,
        "tags": [operation.group],
        "summary": operation.summary,
        "parameters": [_parameter(parameter) for parameter in (*operation.parameters, _REQUEST_ID)],
        "responses": {"200": _answer(operation)} if operation.response else {},
    }
    if description := description_of(operation):
        described["description"] = description
    if operation.body:
        content = {"schema": _ref(operation.body), "example": operation.example}
        described["requestBody"] = {"content": {JSON: content}, "required": operation.method != "DELETE"}
    responses = described["responses"]
    if NOT_MODIFIED in operation.parameters:
        responses["304"] = {"description": "The job still has that ETag", "headers": _headers(operation)}
    for status in operation.errors:
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    if operation.response == TEXT_MEDIA and "503" in responses:  # a probe's response is text in either case
        responses["503"] = _answer(operation)
    return described


def _answer(operation: Operation) -> dict[str, Any]:
    if isinstance(operation.response, str):
        schema = portable({"type": "object"}) if operation.response == JSON else {"type": "string"}
        return {"description": operation.summary, "content": {operation.response: {"schema": schema}}}
    answer: dict[str, Any] = {
        "description": (operation.response.__doc__ or operation.response.__name__).splitlines()[0],
        "content": {JSON: {"schema": _ref(operation.response)}},
    }
    if operation.headers:
        answer["headers"] = _headers(operation)
    if operation.id in _LINKED:
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
    if parameter.required:
        described["required"] = True
    return described


def _schemas(operations: tuple[Operation, ...]) -> dict[str, Any]:
    structs = dict.fromkeys(
        struct
        for operation in operations
        for struct in (operation.body, operation.response)
        if isinstance(struct, type)
    )
    _, found = msgspec.json.schema_components((*structs, Problem), ref_template=_REF)
    found["Job"]["required"] = [*_ALWAYS_IN_A_JOB, *found["Job"]["required"]]
    for name, fields in _RULES.items():
        for field, rule in fields.items():
            found[name]["properties"][field] |= rule
    for name, required in _REQUIRED.items():
        found[name]["required"] = list(required)
    found["Problem"]["additionalProperties"] = True  # `Status`, see `wire.health.Problem`
    return {name: portable(schema) for name, schema in found.items()}


def _codes() -> dict[int, list[str]]:
    """The codes that problems of each status can have."""
    codes: dict[int, list[str]] = defaultdict(list)
    for kind in KINDS:
        if kind.code not in codes[kind.status]:
            codes[kind.status].append(kind.code)
    return dict(sorted(codes.items()))


def _problem(status: int) -> dict[str, Any]:
    codes = ", ".join(f"`{code}`" for code in _codes()[status])
    answer: dict[str, Any] = {
        "description": f"{HTTPStatus(status).phrase}: {codes}",
        "content": {MEDIA_TYPE: {"schema": _ref(Problem)}},
    }
    if status in {429, 503}:
        answer["headers"] = {"Retry-After": {"description": "seconds", "schema": {"type": "integer"}}}
    return answer


def _ref(struct: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REF.format(name=struct.__name__)}


def portable(schema: Any) -> Any:
    """A copy of a schema, or of anything that contains schemas, that client generators support."""
    if isinstance(schema, (list, tuple)):
        return [portable(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: _inside(key, value) for key, value in schema.items() if key != "default"}
    if "default" in schema and not _unportable_default(schema):
        kept["default"] = schema["default"]
    if kept.get("type") == "integer":
        kept.setdefault("format", "int64")
    if kept.get("type") == "object" and not kept.keys() & {"properties", "additionalProperties"}:
        kept["additionalProperties"] = True
    return _nullable(kept)


def _inside(key: str, value: Any) -> Any:
    """Below `properties` every key is the name of a field, not a keyword."""
    if key in {"properties", "$defs"}:
        return {name: portable(field) for name, field in value.items()}
    return value if key in {"example", "examples", "enum"} else portable(value)


def _unportable_default(schema: dict[str, Any]) -> bool:
    return isinstance(schema["default"], (dict, list, tuple)) or bool(schema.keys() & {"$ref", *_CHOICES})


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """`anyOf: [X, null]` as X with two types, if X has a type of its own."""
    choices = schema.get("anyOf", [])
    others = [choice for choice in choices if choice != {"type": "null"}]
    if len(choices) == 2 and len(others) == 1 and isinstance(others[0].get("type"), str):
        rest = {key: value for key, value in schema.items() if key != "anyOf"}
        return {**rest, **others[0], "type": [others[0]["type"], "null"]}
    return schema
