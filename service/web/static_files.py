"""The style sheets, scripts and icons of the UI, from memory. Their URL has the hash of all of them.

A page names the files of its own release, so a browser may keep them forever, and scripts that import each
other never mix releases.
"""

import hashlib
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
    """All static files by name, and a hash of them."""

    digest: str
    files: dict[str, bytes]


@cache
def bundle() -> Bundle:
    """The files of this release; vendored ones are named without their folder."""
    folder = files("jobledger.service.web") / "static"
    found = {each.name: each.read_bytes() for each in _walk(folder) if _media_type(each.name)}
    whole = hashlib.sha256()
    for name, content in sorted(found.items()):
        whole.update(b"%b\0%d\0%b" % (name.encode(), len(content), content))
    return Bundle(whole.hexdigest()[:_DIGEST_CHARACTERS], found)


def static_url(name: str) -> str:
    """The path of a file.

    Raises:
        KeyError: if there is none of that name.
    """
    digest, content = bundle()
    if name not in content:
        raise KeyError(name)
    return paths.expand(paths.UI_STATIC, digest=digest, file=name)


@operations.declare("GET", paths.UI_STATIC, "uiStatic", Permission.PUBLIC, response="text/css")
async def get_static(request: Request[Any]) -> Response:
    """Get a static file of the UI."""
    digest, content = bundle()
    name = request.values["file"]
    if request.values["digest"] != digest or name not in content:
        raise RouteNotFound(request.path)
    tag = f'"{digest}"'.encode()
    headers = [(b"etag", tag), (b"cache-control", _FOREVER)]
    if request.header(b"if-none-match") == tag.decode():
        return Response(b"", headers, status=304)
    return Response(content[name], headers, media_type=_media_type(name))


def _walk(folder: Traversable) -> list[Traversable]:
    found: list[Traversable] = []
    for each in folder.iterdir():
        found += _walk(each) if each.is_dir() else [each]
    return found


def _media_type(name: str) -> str:
    return next((kind for suffix, kind in _TYPES.items() if name.endswith(suffix)), "")
