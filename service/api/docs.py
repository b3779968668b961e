"""The API's own documents: the index, `/openapi.json`, `/asyncapi.json`, and `/docs` as one HTML page.

The page has no script and fetches nothing, so it works offline and under the strictest policy: a page that
documents an API that can stop jobs must not run code from elsewhere.
"""

import base64
import hashlib
import json
from functools import cache
from html import escape
from importlib.resources import files
from typing import Any, Final

from jobledger import __version__
from jobledger.service import asyncapi
from jobledger.service.api import openapi
from jobledger.service.api.operation import Operation, OperationGroup, Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import HTML, Response, encode
from jobledger.service.wire import paths

_STYLE: Final = "docs.css"

operations = OperationGroup("Service")


@operations.declare("GET", paths.INDEX, "index", Permission.PUBLIC)
async def index(request: Request[None]) -> Response:
    """List the starting points of this API.

    A browser (`Accept: text/html`) is sent to the web UI instead: 303.
    """
    if "text/html" in request.header(b"accept"):
        location = (b"location", paths.UI_JOBS.encode())
        return Response(b"", [location, (b"vary", b"Accept")], status=303)
    return Response(
        encode(
            {
                "Product": "Jobledger",
                "Version": __version__,
                "UI": paths.UI_JOBS,
                "Docs": paths.DOCS,
                "OpenAPI": paths.OPENAPI,
                "AsyncAPI": paths.ASYNCAPI,
                "Jobs": paths.JOBS,
                "Events": paths.EVENTS,
                "Ready": f"{paths.READYZ}?verbose",
                "Metrics": paths.METRICS,
            }
        ),
        [(b"vary", b"Accept")],
    )


@operations.declare("GET", paths.OPENAPI, "openapi", Permission.PUBLIC)
async def openapi_document(request: Request[None]) -> Response:
    """Get this API as an OpenAPI 3.1 document."""
    return Response(openapi.document_bytes(request.operations))


@operations.declare("GET", paths.ASYNCAPI, "asyncapi", Permission.PUBLIC)
async def asyncapi_document(_: Request[None]) -> Response:
    """Get the events as an AsyncAPI 3.0 document."""
    return Response(asyncapi.document_bytes())


@operations.declare("GET", paths.DOCS, "docs", Permission.PUBLIC, response="text/html")
async def docs(request: Request[None]) -> Response:
    """Get this API as a page to read."""
    body, policy = page(request.operations)
    return Response(body, [(b"content-security-policy", policy.encode())], media_type=HTML)


@cache
def page(operations: tuple[Operation, ...]) -> tuple[bytes, str]:
    """The page, and the policy that allows its own style sheet and nothing else."""
    style = (files("jobledger.service.api") / _STYLE).read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return render(openapi.document(operations), style).encode(), policy


def render(api: dict[str, Any], style: str) -> str:
    """An OpenAPI document as HTML, with the style sheet in the page."""
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
        '<h2>Reference</h2><ul><li><a href="#problems">Problems</a></li>'
        '<li><a href="#shapes">Schemas</a></li>'
        '<li><a href="/openapi.json">openapi.json</a></li>'
        '<li><a href="/asyncapi.json">asyncapi.json</a></li></ul>'
        f'</nav><main id="top"><h1>{escape(info["title"])} API</h1>{_paragraphs(info["description"])}{body}'
        f'<h2 id="problems">Problems</h2>{_table(("status", "codes"), problems)}'
        f'<h2 id="shapes">Schemas</h2>{shapes}</main></body></html>'
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
    rows = "".join(_response(status, response) for status, response in call["responses"].items())
    parts.append(f"<h4>Responses</h4>{_table(('status', 'what'), rows)}</section>")
    return "".join(parts)


def _parameters(parameters: list[dict[str, Any]]) -> str:
    rows = "".join(
        f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{parameter['in']}</td>"
        f"<td>{_kind(parameter['schema'])}</td><td>{_text(parameter['description'])}</td></tr>"
        for parameter in parameters
    )
    return f"<h4>Parameters</h4>{_table(('name', 'in', 'type', 'meaning'), rows)}"


def _response(status: str, response: dict[str, Any]) -> str:
    if "$ref" in response:
        return f'<tr><td>{status}</td><td><a href="#problems">a problem</a></td></tr>'
    shapes = [
        f"{_kind(content['schema'])} <small>{escape(media)}</small>"
        for media, content in response.get("content", {}).items()
    ]
    headers = [f"header <code>{escape(name)}</code>" for name in response.get("headers", {})]
    described = ", ".join([_text(response["description"].rstrip(".")), *shapes, *headers])
    return f"<tr><td>{status}</td><td>{described}</td></tr>"


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
    """A type in words; a named schema as a link."""
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
    return path.removeprefix("/api/v1/orchestrator")
