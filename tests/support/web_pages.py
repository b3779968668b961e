"""Pages of the web UI in the test's process, and the rules that every page keeps.

async with running_ui(tmp_path) as (service, client):
    page = checked_page(await client.get("/ui/"))
    assert page.texts("h1") == ["Jobs"]
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx

from jobledger.service.access.principal import Role
from jobledger.service.api.app import create_app
from jobledger.service.settings import Settings
from jobledger.service.web.site import POLICY
from jobledger.service.wire import paths
from jobledger.service.wiring import Service, open_service

MISTAKE = "?labels=("
"""A filter that cannot be read: so cannot those of the links of its page."""
SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}
_VOID = {"meta", "link", "img", "input", "br", "hr", "wbr", "source", "col"}
_VOID_SVG = {"rect", "path", "line", "circle"}  # written `<rect …/>`


@asynccontextmanager
async def running_ui(directory: Path, **settings: Any) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """Run a service in this directory; yields it and a browser that sends forms from its pages."""
    directory.mkdir(exist_ok=True)
    settings.setdefault("tokens_file", directory / "tokens.json")
    async with (
        open_service(Settings(data_dir=directory, **settings)) as service,
        browser_of(service) as client,
    ):
        yield service, client


def browser_of(service: Service) -> httpx.AsyncClient:
    """Return a client with cookies of its own, as a browser has them."""
    transport = httpx.ASGITransport(create_app(service))
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=SAME_ORIGIN)


async def sign_in(
    service: Service, client: httpx.AsyncClient, name: str, role: Role, namespaces: list[str] | None = None
) -> str:
    """Create a token and sign in with it; returns the token."""
    _, token = service.tokens.create(name, role, namespaces)
    answer = await client.post(paths.UI_SIGN_IN, data={"token": token})
    assert answer.status_code == 303, answer.text
    return token


class Element:
    """An element of a page with its text."""

    def __init__(self, tag: str, attributes: dict[str, str]) -> None:
        self.tag = tag
        self.attributes = attributes
        self.text = ""
        self.is_labeled = False

    def __getitem__(self, name: str) -> str:
        return self.attributes.get(name, "")


class Page(HTMLParser):
    """A page as its elements; `problems` are the rules that it breaks."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[Element] = []
        self.problems: list[str] = []
        self._open: list[Element] = []
        self.feed(text)
        self.close()
        self.problems += [f"<{each.tag}> is not closed" for each in self._open]
        self.problems += self._broken_rules()

    def all(self, tag: str, fits: Callable[[Element], bool] = lambda _: True) -> list[Element]:
        """All elements with a tag."""
        return [each for each in self.elements if each.tag == tag and fits(each)]

    def texts(self, tag: str) -> list[str]:
        """The texts of all elements with a tag."""
        return [" ".join(each.text.split()) for each in self.all(tag)]

    def links(self) -> list[str]:
        """The targets of all links, files, and forms that read."""
        names = {"a": "href", "link": "href", "script": "src", "img": "src", "form": "action"}
        return [
            each[names[each.tag]]
            for each in self.elements
            if each[names.get(each.tag, "")] and each["method"] != "post"
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if repeated := [name for name, count in Counter(name for name, _ in attrs).items() if count > 1]:
            self.problems.append(f"<{tag}> has {repeated} twice")
        element = Element(tag, {name: value or "" for name, value in attrs})
        element.is_labeled = any(each.tag == "label" for each in self._open)
        self.elements.append(element)
        if tag not in _VOID | _VOID_SVG:
            self._open.append(element)

    def handle_endtag(self, tag: str) -> None:
        if tag in _VOID_SVG:
            return
        if not self._open or self._open[-1].tag != tag:
            self.problems.append(f"</{tag}> does not close {[each.tag for each in self._open[-3:]]}")
            return
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for each in self._open:
            each.text += data

    def _broken_rules(self) -> list[str]:
        found = [
            f"the id {name!r} is used {count} times"
            for name, count in Counter(each["id"] for each in self.elements if each["id"]).items()
            if count > 1
        ]
        ids = {each["id"] for each in self.elements}
        for each in self.elements:
            found += [
                f"<{each.tag} {name}>" for name in each.attributes if name == "style" or name[:2] == "on"
            ]
            if each.tag in {"style", "script"} and each.text.strip():
                found.append(f"an inline <{each.tag}>")
            for name in ("for", "aria-labelledby", "aria-describedby"):
                found += [f"{name}={word!r} names nothing" for word in each[name].split() if word not in ids]
            if each.tag == "th" and not each["scope"]:
                found.append(f"<th>{each.text} has no scope")
            if each.tag == "img" and "alt" not in each.attributes:
                found.append("an <img> has no alt")
            if each["href"].startswith(("http:", "https:", "//")) or each["src"].startswith(("http", "//")):
                found.append(f"{each['href'] or each['src']} is of another site")
        return found + self._unlabeled()

    def _unlabeled(self) -> list[str]:
        named = {each["for"] for each in self.all("label")}
        fields = {"input", "select", "textarea"}
        return [
            f"<{each.tag} name={each['name']!r}> has no label"
            for each in self.elements
            if each.tag in fields
            and each["type"] not in {"hidden", "submit"}
            and not (each["aria-label"] or each["id"] in named or each.is_labeled)
        ]


def parse_page(text: str) -> Page:
    """Parse a page or a part of one."""
    return Page(text)


def checked_page(answer: httpx.Response, status: int = 200) -> Page:
    """The page of a response; it keeps all rules, and has the headers of all pages."""
    assert answer.status_code == status, answer.text[-2000:]
    assert answer.headers["content-security-policy"] == POLICY
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text.startswith("<!DOCTYPE html>")
    page = parse_page(answer.text)
    assert page.problems == [], page.problems
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert page.all("title")[0].text.endswith(" · Jobledger")
    assert page.all("html")[0]["lang"] == "en"
    return page


def all_pages(job_id: str) -> tuple[str, ...]:
    """Every page in every state that looks different, for checks of all of them; a new page is added here.

    Args:
        job_id: a job with at least two versions, in a log with at least ten events, a seal, and the
            subscription `billing`.
    """
    job = paths.expand(paths.UI_JOB, id=job_id)
    return (
        paths.UI_JOBS,
        f"{paths.UI_JOBS}?at=5&state=Running&state=Pending&labels=!none&type=batch&modified_from=2026-01-01T00:00",
        f"{paths.UI_JOBS}?name=no-job-has-this-name",
        f"{paths.UI_JOBS}{MISTAKE}",
        job,
        f"{job}?timeline=full",
        f"{job}?timeline=json",
        f"{job}?at=r1",
        f"{job}?tab=spec",
        f"{job}?tab=spec&format=json",
        f"{job}?tab=versions",
        f"{job}?tab=versions&layout=unified",
        *(f"{job}/change?do={do}&version=1" for do in ("stop", "rerun", "revert", "state", "tag", "untag")),
        f"{job}/nothing",
        paths.expand(paths.UI_JOB, id="no-job-has-this-name"),
        paths.UI_SUBMIT,
        f"{paths.UI_SUBMIT}?job={job_id}&version=1",
        f"{paths.UI_CHANGES}?from=1",
        f"{paths.UI_STOP}?state=Pending",
        paths.UI_SIGN_IN,
        paths.expand(paths.UI_JOB_PROOF, id=job_id),
        paths.DOCS,
        paths.expand(paths.UI_GUIDE, name="audit"),
        paths.expand(paths.UI_GUIDE, name="operations"),
        paths.UI_PROOF,
        paths.UI_EVENTS,
        f"{paths.UI_EVENTS}?type=state&state=Failed&after=0",
        f"{paths.UI_EVENTS}?after=nonsense",
        paths.UI_SUBSCRIPTIONS,
        paths.expand(paths.UI_SUBSCRIPTION, name="billing"),
        f"{paths.expand(paths.UI_SUBSCRIPTION_CHANGE, name='billing')}?do=reset",
        paths.UI_WEBHOOKS,
        paths.UI_AUDIT,
        f"{paths.UI_AUDIT}?from=1&to=5",
        paths.UI_HEALTH,
    )
