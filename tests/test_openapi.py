"""`/openapi.json` is whole: every route, parameter, body, answer and error of the service is in it."""

import inspect
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from litestar.routes import HTTPRoute

from jobledger.service.http import app as app_module
from jobledger.service.http import bodies, openapi, problems
from jobledger.service.http.catalogue import OPERATIONS
from jobledger.service.http.docs import docs
from jobledger.service.http.page import render

DOCUMENT = openapi.document()


def routes_of_the_app() -> set[tuple[str, str]]:
    """Method and path, with parameters as `{}`, of every route."""
    service: Any = None  # only handlers look at it
    app = app_module._routes(service)
    return {
        (method, re.sub(r"\{[^}]*\}", "{}", route.path_format))
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for method in route.methods
        if method != "OPTIONS"  # Litestar answers that by itself
    } | {("PUT", "/api/v1/orchestrator/jobs/diff")}  # as `is_comparison` decides


def references(value: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_route_is_in_the_document_and_no_other() -> None:
    """Method and path are compared with those that the app has."""
    told = {
        (method.upper(), re.sub(r"\{[^}]*\}", "{}", path))
        for path, methods in DOCUMENT["paths"].items()
        for method in methods
    }
    assert told == routes_of_the_app()


def test_the_document_is_openapi_3_1_and_hangs_together() -> None:
    """Operation ids are unique, path parameters are told, references lead somewhere."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    for operation in OPERATIONS:
        in_path = {parameter.name for parameter in operation.parameters if parameter.place == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", operation.path)), operation.name
    for reference in references(DOCUMENT):
        target: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    assert json.loads(openapi.document_bytes()) == json.loads(json.dumps(DOCUMENT))


def test_every_status_of_an_error_is_documented_somewhere() -> None:
    """Each kind of problem that the service makes is an answer of at least one operation."""
    told = {status for operation in OPERATIONS for status in operation.errors}
    assert {kind.status for _, kind in problems.KINDS} <= told


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.body], ids=lambda each: each.name)
def test_a_body_in_the_document_names_what_handlers_read(operation: Any) -> None:
    """The schema's fields are those that the handler (and what is common to writes) asks the body for."""
    schema = DOCUMENT["components"]["schemas"][operation.body.__name__]
    from jobledger.service.http import compare, subscriptions, versions, webhooks, writes

    modules = (bodies, compare, subscriptions, versions, webhooks, writes)
    source = "".join(inspect.getsource(module) for module in modules)
    for field in schema["properties"]:
        assert re.search(rf"""["']{field}["']""", source, re.IGNORECASE), f"nobody reads {field}"


def test_every_problem_has_the_fields_of_both_standards() -> None:
    """The schema of a problem requires RFC 9457's members and Bacalhau's."""
    required = set(DOCUMENT["components"]["schemas"]["Problem"]["required"])
    assert required == {
        *("type", "title", "status", "detail", "instance"),
        *("Status", "Message", "RequestID", "Code", "Component"),
    }


def test_the_page_tells_everything_and_fetches_nothing() -> None:
    """`/docs` has each operation, parameter and shape; no script, no other host, a strict policy."""
    response: Any = docs.fn()
    page = response.content.decode()
    for operation in OPERATIONS:
        assert f'id="{operation.name}"' in page
        for parameter in operation.parameters:
            assert f"<code>{parameter.name}</code>" in page
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="shape-{name}"' in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#|/openapi\.json|/asyncapi\.json)', page)
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy


def test_the_page_escapes_what_it_shows() -> None:
    """Text of the document can't become markup."""
    evil = json.loads(openapi.document_bytes().replace(b"List jobs", b"<script>alert(1)</script>"))
    assert "<script>" not in render(evil, "")
