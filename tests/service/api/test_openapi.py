"""`/openapi.json` is complete and valid, and client generators can use it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from jobledger.service.api import docs, openapi, problems
from jobledger.service.api.app import OPERATIONS
from jobledger.service.api.openapi import portable
from tests.support.api import running_api

DOCUMENT = json.loads(openapi.document_bytes(OPERATIONS))


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


def test_the_document_is_openapi_3_1_and_consistent() -> None:
    """Operation ids are unique, path parameters are declared, references resolve."""
    assert DOCUMENT["openapi"].startswith("3.1.")
    assert len({operation.id for operation in OPERATIONS}) == len(OPERATIONS)
    for operation in OPERATIONS:
        in_path = {parameter.name for parameter in operation.parameters if parameter.place == "path"}
        assert in_path == set(re.findall(r"\{(\w+)\}", operation.path)), operation.id
    for reference in references(DOCUMENT):
        target: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]
    assert json.loads(openapi.document_bytes(OPERATIONS)) == json.loads(json.dumps(DOCUMENT))


def test_every_operation_is_in_the_document_and_no_other() -> None:
    """The app routes the operations; the document has their methods and paths with their ids."""
    documented = {
        (method.upper(), path, item["operationId"])
        for path, methods in DOCUMENT["paths"].items()
        for method, item in methods.items()
    }
    assert documented == {(each.method, each.path, each.id) for each in OPERATIONS}


def test_every_status_of_an_error_is_documented_somewhere() -> None:
    """Each kind of problem is a response of at least one operation."""
    documented = {status for operation in OPERATIONS for status in operation.errors}
    assert {kind.status for kind in problems.KINDS} - {405} <= documented  # of a method that has no operation


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each.body is not None], ids=lambda each: each.id
)
def test_handlers_read_every_field_of_a_body(operation: Any) -> None:
    """A documented field that no handler reads would be ignored without a warning."""
    handlers = "".join(path.read_text() for path in Path(docs.__file__).parent.glob("*.py"))
    for field in operation.body.__struct_fields__:
        assert re.search(rf"\.{field}\b", handlers), f"no handler reads {field}"


def test_every_problem_has_the_fields_of_both_standards() -> None:
    """The schema of a problem requires RFC 9457's members and Bacalhau's."""
    required = set(DOCUMENT["components"]["schemas"]["Problem"]["required"])
    assert required == {
        *("type", "title", "status", "detail", "instance"),
        *("Message", "RequestID", "Code", "Component"),
    }
    # `Status` is in every problem too (tests/service/api/test_http_problems.py), see `schemas.Problem`.
    assert DOCUMENT["components"]["schemas"]["Problem"]["additionalProperties"] is True


def test_the_page_shows_everything_and_loads_nothing_from_elsewhere() -> None:
    """`/docs` has each operation, parameter and shape, and a form per operation with the same parameters."""
    found = docs.content(OPERATIONS)
    page = found["menu"] + found["body"]
    for operation in OPERATIONS:
        assert f'id="{operation.id}"' in page
        assert f'data-method="{operation.method}" data-path="{operation.path}"' in page
        for parameter in operation.parameters:
            assert f"<code>{parameter.name}</code>" in page
            assert f'data-in="{parameter.place}" data-name="{parameter.name}"' in page
    for name in DOCUMENT["components"]["schemas"]:
        assert f'id="shape-{name}"' in page
    assert "<script" not in page
    assert not re.search(r'(?:src|href)="(?!#)', page)


def test_the_page_escapes_what_it_shows() -> None:
    """Text of the document can't become markup."""
    evil = json.loads(openapi.document_bytes(OPERATIONS).replace(b"List jobs", b"<script>alert(1)</script>"))
    assert "<script>" not in "".join(map(str, docs.content_of(evil).values()))


def schemas_in(value: Any, path: str = "#") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of the document, with its place: of components, parameters, bodies, answers, headers."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from schemas_in(item, f"{path}/{index}")
    elif isinstance(value, dict):
        for key, item in value.items():
            here = f"{path}/{key}"
            if key == "schema":
                yield here, item
                yield from schemas_below(item, here)
            elif key == "schemas":
                for name, schema in item.items():
                    yield f"{here}/{name}", schema
                    yield from schemas_below(schema, f"{here}/{name}")
            else:
                yield from schemas_in(item, here)


def schemas_below(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The schemas inside of one."""
    inside = {f"properties/{name}": field for name, field in schema.get("properties", {}).items()}
    inside |= {
        key: schema[key] for key in ("items", "additionalProperties") if isinstance(schema.get(key), dict)
    }
    for key in ("anyOf", "oneOf", "allOf"):
        inside |= {f"{key}/{index}": choice for index, choice in enumerate(schema.get(key, ()))}
    for key, found in inside.items():
        yield f"{path}/{key}", found
        yield from schemas_below(found, f"{path}/{key}")


def accepts(schema: dict[str, Any], value: Any) -> bool:
    """Whether a value is valid by a schema that may refer to the document's components."""
    whole = {**schema, "components": DOCUMENT["components"]}
    return bool(OAS31Validator(whole).is_valid(value))


@pytest.mark.slow
def test_openapi_spec_validator_accepts_the_document() -> None:
    """With every default and example; two more validators are in the slow suite."""
    assert [error.message for error in OpenAPIV31SpecValidator(DOCUMENT).iter_errors()] == []


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.body], ids=lambda each: each.id)
def test_the_example_of_a_body_is_valid_and_names_only_declared_fields(operation: Any) -> None:
    """A key in another case is read as well, but a typed client does not have it."""
    media = DOCUMENT["paths"][operation.path][operation.method.lower()]["requestBody"]["content"]
    [content] = media.values()
    assert accepts(content["schema"], content["example"])
    declared = DOCUMENT["components"]["schemas"][operation.body.__name__]["properties"]
    assert content["example"].keys() <= declared.keys()


def test_every_example_and_default_of_a_schema_is_valid() -> None:
    """Of parameters, fields and headers."""
    seen = 0
    for path, schema in schemas_in(DOCUMENT):
        values = [*schema.get("examples", ()), *([schema["default"]] if "default" in schema else [])]
        seen += len(values)
        for value in values:
            assert accepts(schema, value), (path, value)
    assert seen > 20


def test_no_schema_has_what_generators_of_clients_do_not_compile() -> None:
    """Defaults that are objects, lists or next to a choice; objects without `additionalProperties`."""
    for path, schema in schemas_in(DOCUMENT):
        default = schema.get("default")
        assert not isinstance(default, (dict, list)), path
        assert default is None or not schema.keys() & {"$ref", "anyOf", "oneOf"}, path
        if "object" in schema.get("type", ()) and "properties" not in schema:
            assert "additionalProperties" in schema, path
        if "array" in schema.get("type", ()):
            assert "items" in schema, path


def test_no_two_names_differ_only_in_case() -> None:
    """Fields of one schema, parameters of one operation, schemas and operations."""
    groups = {
        path: [name.replace("_", "") for name in schema.get("properties", ())]
        for path, schema in schemas_in(DOCUMENT)
    }
    groups["schemas"] = [*DOCUMENT["components"]["schemas"]]
    groups["operations"] = [operation.id for operation in OPERATIONS]
    for operation in OPERATIONS:
        names = [re.sub(r"[-_]", "", parameter.name) for parameter in operation.parameters]
        groups[operation.id] = names
    for where, found in groups.items():
        twice = [name for name, count in Counter(map(str.lower, found)).items() if count > 1]
        assert not twice, (where, twice)


@pytest.mark.parametrize(
    ("schema", "same"),
    [
        (
            {"type": "array", "items": {"type": "string"}, "default": ()},
            {"type": "array", "items": {"type": "string"}},
        ),
        ({"$ref": "#/x", "default": 0}, {"$ref": "#/x"}),
        ({"type": "integer", "default": 0}, {"type": "integer", "format": "int64", "default": 0}),
        ({"type": "object"}, {"type": "object", "additionalProperties": True}),
        (
            {"anyOf": [{"type": "string"}, {"type": "null"}], "description": "d"},
            {"type": ["string", "null"], "description": "d"},
        ),
        (
            {"type": "object", "properties": {"default": {"type": "object", "default": {}}}},
            {
                "type": "object",
                "properties": {"default": {"type": "object", "additionalProperties": True}},
            },
        ),
    ],
)
def test_a_schema_becomes_portable(schema: dict[str, Any], same: dict[str, Any]) -> None:
    """A field may have the name of a keyword."""
    assert portable(schema) == same


@pytest.mark.parametrize(
    "path", ["/docs", "/livez", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json"]
)
async def test_a_media_type_is_sent_with_one_charset(tmp_path: Path, path: str) -> None:
    """Including those that are text."""
    async with running_api(tmp_path / "data") as (_, client):
        answer = await client.get(f"http://127.0.0.1{path}")
        assert answer.headers["content-type"].count("charset") <= 1
        assert len(answer.headers.get_list("content-type")) == 1
