"""Check that a response is described by `/openapi.json`: route, status, media type, and every key.

A schema validator would also check types; schemathesis does that in the slow tests. It does not detect
undocumented keys, which are what gets forgotten.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx

from jobledger.service.api.app import OPERATIONS
from jobledger.service.api.openapi import document


def undocumented(response: httpx.Response) -> list[str]:
    """Return what the document does not describe about this response."""
    method, path = response.request.method, response.request.url.raw_path.decode().partition("?")[0]
    operation = _operation(method.lower(), path)
    if operation is None:
        return []  # an unknown route: a 404 or a 405, the same everywhere
    answer = operation["responses"].get(str(response.status_code))
    if answer is None:
        return [f"{method} {path}: status {response.status_code}"]
    answer = _resolve(answer)
    media = response.headers.get("content-type", "").partition(";")[0]
    if not response.content:
        return []
    if media not in answer.get("content", {}):
        return [f"{method} {path}: media type {media!r}"]
    if not media.endswith("json"):
        return []
    return list(_unknown(json.loads(response.content), answer["content"][media]["schema"], "$"))


@cache
def _document() -> dict[str, Any]:
    return document(OPERATIONS)


def _operation(method: str, path: str) -> dict[str, Any] | None:
    # A path without parameters takes precedence: `/jobs/diff` before `/jobs/{id}`.
    for template in sorted(_document()["paths"], key=lambda each: each.count("{")):
        if (
            re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path)
            and method in _document()["paths"][template]
        ):
            operation: dict[str, Any] = _document()["paths"][template][method]
            return operation
    return None


def _resolve(schema: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        target: Any = _document()
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = target
    return schema


def _unknown(value: Any, schema: dict[str, Any], where: str) -> Iterator[str]:
    schema = _resolve(schema)
    if "anyOf" in schema:
        kinds = [_resolve(each) for each in schema["anyOf"]]
        schema = next((each for each in kinds if each.get("type") != "null"), {}) if value is not None else {}
    if isinstance(value, dict) and "properties" in schema:
        for name in set(schema.get("required", ())) - value.keys():
            yield f"{where}.{name} is missing"
        for name, item in value.items():
            if name == "Status" and "status" in schema["properties"]:
                continue  # of a problem: Bacalhau's name for `status`; generators cannot handle both
            if name in schema["properties"]:
                yield from _unknown(item, schema["properties"][name], f"{where}.{name}")
            else:
                yield f"{where}.{name} is not documented"
    elif isinstance(value, list) and "items" in schema:
        for item in value[:3]:
            yield from _unknown(item, schema["items"], f"{where}[]")
