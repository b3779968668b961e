"""The API's own documents: the index, `/openapi.json`, `/asyncapi.json`, and `/docs` as one HTML page.

The page has the look and the policy of the web UI, and a form per operation that sends its request: both are
derived from the same declarations. It loads files of this service only: a page that documents an API that can
stop jobs must not run code from elsewhere.
"""

import json
from functools import cache
from html import escape
from typing import Any

from markupsafe import Markup

from jobledger import __version__
from jobledger.service import asyncapi
from jobledger.service.api import openapi
from jobledger.service.api.operation import Operation, OperationGroup, Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response, encode
from jobledger.service.web import site
from jobledger.service.wire import paths

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
    """Get this API as a page to read, with a form per operation to try it."""
    return site.render(request, "docs.html", **content(request.operations))


@cache
def content(operations: tuple[Operation, ...]) -> dict[str, Any]:
    """What the page shows of these operations."""
    return content_of(openapi.document(operations))


def content_of(api: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of an OpenAPI document: marked up here, so every text of it is escaped here."""
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
    menu += '<h2>Reference</h2><ul><li><a href="#problems">Problems</a></li>'
    menu += '<li><a href="#shapes">Schemas</a></li></ul>'
    body += f'<h2 id="problems">Problems</h2>{_table(("status", "codes"), problems)}'
    body += f'<h2 id="shapes">Schemas</h2>{shapes}'
    info = api["info"]
    return {
        "title": info["title"],
        "version": info["version"],
        "introduction": Markup(_paragraphs(info["description"])),  # noqa: S704 - escaped
        "menu": Markup(menu),  # noqa: S704
        "body": Markup(body),  # noqa: S704
    }


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
        parts.append(f'<h4>Body: {_kind(content["schema"])}</h4><pre tabindex="0">{escape(example)}</pre>')
    rows = "".join(_response(status, response) for status, response in call["responses"].items())
    parts.append(f"<h4>Responses</h4>{_table(('status', 'what'), rows)}{_form(path, method, call)}</section>")
    return "".join(parts)


def _form(path: str, method: str, call: dict[str, Any]) -> str:
    """The form that sends a request of the operation; a script does."""
    fields = "".join(_field(each) for each in call["parameters"] if each["name"] != "X-Request-ID")
    if "requestBody" in call:
        content = next(iter(call["requestBody"]["content"].values()))
        example = escape(json.dumps(content["example"], indent=2, ensure_ascii=False))
        area = f'<textarea rows="8" spellcheck="false">{example}</textarea>'
        fields += f'<label class="field">Body {area}</label>'
    kind = "danger" if method == "delete" else "primary"
    button = f'<p class="buttons"><button class="{kind}">Send {method.upper()}</button></p>'
    return (
        '<details class="js-only"><summary>Try it</summary>'
        f'<form class="try change" data-method="{method.upper()}" data-path="{escape(path)}">'
        f'{fields}{button}<pre class="code" hidden tabindex="0"></pre></form></details>'
    )


def _field(parameter: dict[str, Any]) -> str:
    name, required = escape(parameter["name"]), " required" if parameter.get("required") else ""
    field = f'<input type="text" data-in="{parameter["in"]}" data-name="{name}"{required} spellcheck="false">'
    return f'<label class="field">{name} {field}</label>'


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
        f"<td>{'always' if field in required else 'may be absent'}</td>"
        f"<td>{_text(kind.get('description', ''))}</td></tr>"
        for field, kind in schema.get("properties", {}).items()
    )
    return f"{title}{_table(('field', 'type', 'presence', 'meaning'), rows)}</section>"


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
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f'<div class="table-wrap" tabindex="0">{table}</div>'


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in text.split("\n\n") if part.strip())


def _text(text: str) -> str:
    """Text with its `code` marked up."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if place % 2 else piece for place, piece in enumerate(pieces))


def _short(path: str) -> str:
    return path.removeprefix("/api/v1").removeprefix("/orchestrator")
