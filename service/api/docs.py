"""The API's own documents: `/openapi.json`, `/asyncapi.json` and `/docs`."""

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import Final

from litestar import Response, get

from jobledger.service import asyncapi
from jobledger.service.api import openapi
from jobledger.service.api.answers import JSON
from jobledger.service.api.page import render

_STYLE: Final = "docs.css"


@get("/openapi.json", sync_to_thread=False)
def openapi_document() -> Response[bytes]:
    """This API, for programs."""
    return Response(openapi.document_bytes(), media_type=JSON)


@get("/asyncapi.json", sync_to_thread=False)
def asyncapi_document() -> Response[bytes]:
    """The events, for programs."""
    return Response(asyncapi.document_bytes(), media_type=JSON)


@get("/docs", sync_to_thread=False)
def docs() -> Response[bytes]:
    """This API, for people. The policy lets the page use its own style sheet, and nothing else."""
    body, policy = _page()
    # Litestar adds the charset to text.
    return Response(body, media_type="text/html", headers={"Content-Security-Policy": policy})


@cache
def _page() -> tuple[bytes, str]:
    """The page and the policy that fits it."""
    style = (files("jobledger.service.api") / _STYLE).read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    )
    return render(openapi.document(), style).encode(), policy


HANDLERS: Final = (openapi_document, asyncapi_document, docs)
