"""Schemas in the part of JSON Schema that generators of clients compile in every language. Pure.

OpenAPI 3.1 allows all of JSON Schema 2020-12; generators take less of it, and some write code that does not
compile for the rest. This changes how a shape is described, never what the service accepts or answers:

- A default that is an object or a list is left out: generators write it as an invalid literal, or validators
  refuse it beside `minItems`. So is a default beside a reference or a choice.
- An object without named fields says that it may have any (`additionalProperties: true`); otherwise
  generators make it an empty class and lose its content.
- An integer has 64 bits; generators for Java, C#, Kotlin and Go take 32 otherwise, which is not enough for
  times in nanoseconds.
- "A value or null" is one schema with two types instead of a choice between two schemas.
"""

from typing import Any, Final

_CHOICES: Final = ("anyOf", "oneOf")


def portable(schema: Any) -> Any:
    """A copy of a schema, or of anything that contains schemas, in that part."""
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
    """Below `properties` every key is the name of a field, and no keyword."""
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
