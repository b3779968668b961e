"""The guides of `docs/`, rendered: HTML in them is text, and a link leads to another guide or nowhere."""

import re
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, NamedTuple

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

import jobledger
from jobledger.service.api.operation import Permission
from jobledger.service.api.request import Request
from jobledger.service.api.response import Response
from jobledger.service.errors import RouteNotFound
from jobledger.service.web.site import page, render
from jobledger.service.wire import paths

GUIDES: Final = {
    "ui": "Web UI",
    "operations": "Operations",
    "reliability": "Reliability",
    "security": "Security",
    "audit": "Audit",
    "api": "HTTP API",
    "cli": "Command line",
    "events": "Events",
    "subscribe": "Subscriptions",
    "library": "Library",
    "deploy": "Deployment",
    "performance": "Performance",
    "architecture": "Architecture",
}
"""The guides by their names in URLs, in the order of the menu."""

_LINK: Final = re.compile(r"([A-Z]+)\.md(#[\w-]+)?")
_NOT_IN_ANCHORS: Final = re.compile(r"[^\w\- ]")


class Guide(NamedTuple):
    """A guide: its second-level headings with their anchors, and its HTML."""

    headings: list[tuple[str, str]]
    html: Markup


@page("GET", paths.UI_GUIDE, "uiGuide", requires=Permission.PUBLIC)
async def show_guide(request: Request[Any]) -> Response:
    """A guide."""
    name = request.values["name"]
    if name not in GUIDES:
        raise RouteNotFound(request.path)
    return render(request, "guide.html", guide=guide(name), guides=GUIDES, current=name, title=GUIDES[name])


@cache
def guide(name: str) -> Guide:
    """A guide of this release."""
    return rendered((_folder() / f"{name.upper()}.md").read_text())


def rendered(text: str) -> Guide:
    """Markdown as a part of a page; all of it is escaped."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(text)
    headings: list[tuple[str, str]] = []
    anchors: set[str] = set()
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            title = _plain(tokens[index + 1])
            anchor = _unused(_anchor(title), anchors)
            token.attrSet("id", anchor)
            if token.tag == "h2":
                headings.append((anchor, title))
        elif token.type == "th_open":
            if tokens[index + 1].content:
                token.attrSet("scope", "col")
            else:  # the corner of a table
                token.tag = tokens[index + 2].tag = "td"
        if token.children:
            if all(each.type == "image" for each in token.children):  # the package has no pictures
                tokens[index - 1].hidden = tokens[index + 1].hidden = True
            _resolve_links(token.children)
        if "style" in token.attrs:  # the alignment of a column
            del token.attrs["style"]
    html = parser.renderer.render(tokens, parser.options, {})
    for tag in ("pre", "table"):  # with the keyboard, too, what is wider than the window can be scrolled
        html = html.replace(f"<{tag}>", f'<{tag} tabindex="0">')
    return Guide(headings, Markup(html))  # noqa: S704 - escaped


def _folder() -> Traversable:
    """Where the guides are: in an installed package, or in the clone."""
    packaged = files(jobledger) / "guides"
    return packaged if packaged.is_dir() else Path(jobledger.__file__).parent.parent / "docs"


def _resolve_links(tokens: list[Token]) -> None:
    """Let links lead to other guides; those to other sites and files become plain text."""
    kept: list[bool] = []
    for token in tokens:
        if token.type == "link_open":
            target = _target(str(token.attrs["href"]))
            kept.append(bool(target))
            token.attrs = {"href": target} if target else {}
            token.tag = "a" if target else "span"
        elif token.type == "link_close":
            token.tag = "a" if kept.pop() else "span"
        elif token.type == "image":
            token.type, token.tag, token.content = "text", "", ""


def _target(link: str) -> str:
    if link.startswith("#"):
        return link
    found = _LINK.fullmatch(link)
    name = found[1].lower() if found else ""
    return f"{paths.expand(paths.UI_GUIDE, name=name)}{found[2] or ''}" if found and name in GUIDES else ""


def _plain(token: Token) -> str:
    return "".join(each.content for each in token.children or ())


def _anchor(title: str) -> str:
    """As GitHub makes it, so that links between guides fit."""
    return _NOT_IN_ANCHORS.sub("", title.lower()).replace(" ", "-")


def _unused(anchor: str, known: set[str]) -> str:
    found, number = anchor, 0
    while found in known:
        number += 1
        found = f"{anchor}-{number}"
    known.add(found)
    return found
