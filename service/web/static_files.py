"""The style sheets, scripts and icons of the UI, from memory, compressed for browsers that accept that.

Their URL has the hash of all of them. A page names the files of its own release, so a browser may keep them
forever, and scripts that import each other never mix releases.
"""

import gzip
import hashlib
import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

from jobledger.service.api.operation import OperationGroup, Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.errors import RouteNotFound
from jobledger.service.wire import paths

_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FOREVER: Final = b"public, max-age=31536000, immutable"
_DIGEST_CHARACTERS: Final = 16

operations = OperationGroup("UI")


class Bundle(NamedTuple):
    """All static files by name, as they are and compressed, and a hash of them."""

    digest: str
    files: dict[str, bytes]
    compressed: dict[str, bytes]


@cache
def bundle() -> Bundle:
    """The files of this release; vendored ones are named without their folder."""
    folder = files("jobledger.service.web") / "static"
    found = {each.name: each.read_bytes() for each in _walk(folder) if _media_type(each.name)}
    whole = hashlib.sha256()
    for name, content in sorted(found.items()):
        whole.update(b"%b\0%d\0%b" % (name.encode(), len(content), content))
    compressed = {name: gzip.compress(content, mtime=0) for name, content in found.items()}
    return Bundle(whole.hexdigest()[:_DIGEST_CHARACTERS], found, compressed)


def static_url(name: str) -> str:
    """The path of a file.

    Raises:
        KeyError: if there is none of that name.
    """
    found = bundle()
    if name not in found.files:
        raise KeyError(name)
    return paths.expand(paths.UI_STATIC, digest=found.digest, file=name)


@operations.declare("GET", paths.UI_STATIC, "uiStatic", Permission.PUBLIC, response="text/css")
async def get_static(request: Request[Any]) -> Response:
    """Get a static file of the UI."""
    found = bundle()
    name = request.values["file"]
    if request.values["digest"] != found.digest or name not in found.files:
        raise RouteNotFound(request.path)
    is_compressed = accepts_gzip(request.header(b"accept-encoding"))
    tag = f'"{found.digest}{"-gzip" if is_compressed else ""}"'
    headers = [(b"etag", tag.encode()), (b"cache-control", _FOREVER), (b"vary", b"Accept-Encoding")]
    if request.header(b"if-none-match") == tag:
        return Response(b"", headers, status=304)
    if is_compressed:
        headers.append((b"content-encoding", b"gzip"))
    content = found.compressed if is_compressed else found.files
    return Response(content[name], headers, media_type=_media_type(name))


def accepts_gzip(header: str) -> bool:
    """Whether a client accepts gzip; one that names it with a weight of 0 does not (RFC 9110, 12.5.3)."""
    for each in header.lower().split(","):
        coding, _, weight = each.partition(";")
        if coding.strip() == "gzip":
            return not re.fullmatch(r"q=0(\.0*)?", weight.replace(" ", ""))
    return False


def _walk(folder: Traversable) -> list[Traversable]:
    found: list[Traversable] = []
    for each in folder.iterdir():
        found += _walk(each) if each.is_dir() else [each]
    return found


def _media_type(name: str) -> str:
    return next((kind for suffix, kind in _TYPES.items() if name.endswith(suffix)), "")
