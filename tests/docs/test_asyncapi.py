"""The AsyncAPI document is valid and has every event; `test_docs.py` checks that the file is current."""

import gzip
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jobledger.service import asyncapi
from jobledger.store.model.events import EVENT_TYPES, event_type
from tests.clients.environments import HERE, python_of

ROOT = Path(__file__).parents[2]
DOCUMENT = asyncapi.document()
SCHEMA = HERE / "asyncapi-3.0.0.schema.json.gz"
VALIDATE = """
import gzip, json, sys, jsonschema_rs
validator = jsonschema_rs.validator_for(json.loads(gzip.open(sys.argv[1]).read()))
for error in validator.iter_errors(json.load(open(sys.argv[2]))):
    print(error.instance_path, error.message)
"""


def references(value: Any) -> Iterator[str]:
    """Yield every `$ref` in a document."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_every_event_is_a_message_of_both_channels() -> None:
    """The subjects and the feed have each type; the feed also its last message."""
    messages = DOCUMENT["components"]["messages"]
    types = {event_type(kind) for kind in EVENT_TYPES}
    named = {
        channel: {messages[item["$ref"].rpartition("/")[2]]["name"] for item in told["messages"].values()}
        for channel, told in DOCUMENT["channels"].items()
    }
    assert named == {"subjects": types, "feed": types | {"close"}}


def test_references_lead_somewhere() -> None:
    """Every `$ref` resolves in the document."""
    found = list(references(DOCUMENT))
    assert found
    for reference in found:
        target: Any = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=event_type)
def test_the_schema_of_an_event_has_the_fields_of_the_golden_ones(kind: Any) -> None:
    """Each field ever written is in the schema, and the required ones are in the smallest event."""
    schema = DOCUMENT["components"]["schemas"][kind.__name__]
    word = event_type(kind).split(".")[2]
    full, small = (
        json.loads((ROOT / "tests" / "golden" / f"{word}-{size}.json").read_bytes())
        for size in ("full", "minimal")
    )
    assert full.keys() <= schema["properties"].keys()
    assert set(schema["required"]) <= small.keys()
    assert {field.encode_name for field in msgspec.structs.fields(kind)} <= schema["properties"].keys()


@pytest.mark.slow
@pytest.mark.timeout(900)  # a fresh machine installs the validator first
def test_it_is_a_valid_asyncapi_3_document(request: pytest.FixtureRequest) -> None:
    """The AsyncAPI 3.0.0 JSON Schema accepts the document, and rejects a broken one."""
    python = python_of("schemathesis.txt", Path(request.config.cache.mkdir("environments")))
    broken = Path(request.config.cache.mkdir("asyncapi")) / "broken.json"
    broken.write_text(json.dumps(DOCUMENT | {"operations": {"append": {"action": "shout"}}}))
    found = [
        subprocess.run(
            [str(python), "-c", VALIDATE, str(SCHEMA), str(document)],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for document in (ROOT / "docs" / "asyncapi.json", broken)
    ]
    assert found[0] == ""
    assert found[1]
    assert json.loads(gzip.decompress(SCHEMA.read_bytes()))["title"].startswith("AsyncAPI 3.0.0")
