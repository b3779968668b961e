"""An OpenAPI document as one HTML page to read. Pure.

No script, and nothing that is fetched: the page works offline and under the strictest policy. A page that
explains an API that can stop jobs should not run code from elsewhere.
"""

import json
from html import escape
from typing import Any

from jobledger.service.api.catalogue.parts import API


def render(api: dict[str, Any], style: str) -> str:
    """The page.

    Args:
        api: the OpenAPI document, as `openapi.document` makes it.
        style: the style sheet, which stands in the page.
    """
    groups = [tag["name"] for tag in api["tags"]]
    calls = [
        (path, method, call) for path, methods in api["paths"].items() for method, call in methods.items()
    ]
    menu = body = ""
    for group in groups:
        own = [call for call in calls if group in call[2]["tags"]]
        menu += f"<h2>{escape(group)}</h2><ul>{''.join(_menu(*call) for call in own)}</ul>"
        body += f"<h2>{escape(group)}</h2>{''.join(_call(*call) for call in own)}"
    shapes = "".join(_shape(name, schema) for name, schema in api["components"]["schemas"].items())
    problems = "".join(
        f"<tr><td>{name.removeprefix('Problem')}</td><td>{_text(problem['description'])}</td></tr>"
        for name, problem in api["components"]["responses"].items()
    )
    info = api["info"]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{style}</style></head><body>"
        f'<nav><p><a href="#top">{escape(info["title"])} {escape(info["version"])}</a></p>{menu}'
        '<h2>Reference</h2><ul><li><a href="#problems">Problems</a></li><li><a href="#shapes">Shapes</a></li>'
        '<li><a href="/openapi.json">openapi.json</a></li>'
        '<li><a href="/asyncapi.json">asyncapi.json</a></li></ul>'
        f'</nav><main id="top"><h1>{escape(info["title"])} API</h1>{_paragraphs(info["description"])}{body}'
        f'<h2 id="problems">Problems</h2>{_table(("status", "codes"), problems)}'
        f'<h2 id="shapes">Shapes</h2>{shapes}</main></body></html>'
    )


def _menu(path: str, method: str, call: dict[str, Any]) -> str:
    verb = f'<b class="{method}">{method.upper()}</b>'
    return f'<li><a href="#{call["operationId"]}">{verb} {escape(_short(path))}</a></li>'


def _call(path: str, method: str, call: dict[str, Any]) -> str:
    verb = f'<b class="{method}">{method.upper()}</b>'
    parts = [
        f'<section id="{call["operationId"]}"><h3>{verb} <code>{escape(path)}</code></h3>',
        f"<p><strong>{_text(call['summary'])}.</strong></p>",
        _paragraphs(call.get("description", "")),
        _parameters(call["parameters"]),
    ]
    if "requestBody" in call:
        content = next(iter(call["requestBody"]["content"].values()))
        example = json.dumps(content["example"], indent=2, ensure_ascii=False)
        parts.append(f"<h4>Body: {_kind(content['schema'])}</h4><pre>{escape(example)}</pre>")
    rows = "".join(_answer(status, answer) for status, answer in call["responses"].items())
    parts.append(f"<h4>Answers</h4>{_table(('status', 'what'), rows)}</section>")
    return "".join(parts)


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
        f"<td>{_kind(parameter['schema'])}</td><td>{_text(parameter['description'])}</td></tr>"
        for parameter in parameters
    )
    return f"<h4>Parameters</h4>{_table(('name', 'in', 'type', 'meaning'), rows)}"


def _answer(status: str, answer: dict[str, Any]) -> str:
    if "$ref" in answer:
        return f'<tr><td>{status}</td><td><a href="#problems">a problem</a></td></tr>'
    shapes = [
        f"{_kind(content['schema'])} <small>{escape(media)}</small>"
        for media, content in answer.get("content", {}).items()
    ]
    headers = [f"header <code>{escape(name)}</code>" for name in answer.get("headers", {})]
    told = ", ".join([_text(answer["description"].rstrip(".")), *shapes, *headers])
    return f"<tr><td>{status}</td><td>{told}</td></tr>"


def _shape(name: str, schema: dict[str, Any]) -> str:
    title = f'<section id="shape-{escape(name)}"><h3>{escape(name)}</h3>'
    title += _paragraphs(schema.get("description", ""))
    if "enum" in schema:
        values = ", ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
        return f"{title}<p>One of {values}.</p></section>"
    required = set(schema.get("required", ()))
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td><td>{_kind(kind)}</td>"
        f"<td>{'' if field in required else 'may be absent'}</td>"
        f"<td>{_text(kind.get('description', ''))}</td></tr>"
        for field, kind in schema.get("properties", {}).items()
    )
    return f"{title}{_table(('field', 'type', '', 'meaning'), rows)}</section>"


def _kind(schema: dict[str, Any]) -> str:
    """A type in words, with a link to a shape that has a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#shape-{name}">{name}</a>'
    kind = schema.get("type", "anything")
    choices = schema.get("anyOf") or (
        [{**schema, "type": each} for each in kind] if isinstance(kind, list) else []
    )
    if choices:
        return " or ".join(_kind(choice) for choice in choices)
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if kind == "array":
        return f"list of {_kind(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_kind(schema['additionalProperties'])}"
    default = f", default {escape(json.dumps(schema['default']))}" if schema.get("default") else ""
    return f"{escape(str(kind))}{default}"


def _table(heads: tuple[str, ...], rows: str) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return f"<div><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>" if rows else ""


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part.strip())


def _text(text: str) -> str:
    """Text with its `code` marked up."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces))


def _short(path: str) -> str:
    return path.removeprefix(API)
