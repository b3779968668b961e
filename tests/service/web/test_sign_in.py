"""Signing in: a token becomes a session of the browser, which has the token's rights and ends with it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from jobledger.service.access.principal import Role
from jobledger.service.access.tokens import TokenFile
from jobledger.service.web.sign_in import next_path
from jobledger.service.web.visitor import session_cookie
from jobledger.service.wire import paths
from jobledger.service.wiring import Service
from tests.support.api import job_body
from tests.support.service_process import running_service
from tests.support.web_pages import SAME_ORIGIN, browser_of, checked_page, parse_page, running_ui, sign_in


@pytest.fixture
async def ui(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running_ui(tmp_path) as (service, client):
        service.tokens.create("root", Role.ADMIN)
        yield service, client


async def test_a_stranger_is_sent_to_the_form_and_then_back(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """After the sign-in, the browser is at the page that it wanted."""
    service, client = ui
    answer = await client.get("/ui/", params={"name": "a b"})
    assert answer.status_code == 303
    assert answer.headers["location"] == "/ui/sign-in?next=%2Fui%2F%3Fname%3Da%2Bb"
    form = checked_page(await client.get(answer.headers["location"]))
    _, token = service.tokens.create("alice", Role.READER)
    target = next(each["value"] for each in form.all("input") if each["name"] == "next")
    answer = await client.post(paths.UI_SIGN_IN, data={"token": f" {token}\n", "next": target})
    assert (answer.status_code, answer.headers["location"]) == (303, "/ui/?name=a+b")
    assert checked_page(await client.get("/ui/")).texts("h1") == ["Jobs"]


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """HttpOnly and SameSite; over TLS also Secure, with the prefix that binds it to the host."""
    service, client = ui
    _, token = service.tokens.create("alice", Role.READER)
    plain = (await client.post(paths.UI_SIGN_IN, data={"token": token})).headers["set-cookie"]
    assert plain.startswith("jobledger=")
    assert "; Path=/; HttpOnly; SameSite=Lax; Max-Age=" in plain
    assert "Secure" not in plain
    secure = await client.post(
        paths.UI_SIGN_IN, data={"token": token}, headers={"Origin": "https://127.0.0.1"}
    )
    assert secure.headers["set-cookie"].startswith("__Host-jobledger=")
    assert secure.headers["set-cookie"].endswith("; Secure")
    assert token.encode() not in (service.settings.data_dir / "sessions.json").read_bytes()


async def test_a_wrong_token_is_refused_next_to_the_form(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The page does not repeat the token."""
    _, client = ui
    answer = await client.post(paths.UI_SIGN_IN, data={"token": "jlt_" + "x" * 52})
    checked_page(answer, 401)
    assert "xxxx" not in answer.text
    assert "set-cookie" not in answer.headers


async def test_a_session_is_no_token_of_the_api(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The cookie opens pages only, and a token opens no page."""
    service, client = ui
    token = await sign_in(service, client, "alice", Role.ADMIN)
    assert (await client.get(paths.JOBS)).status_code == 401
    async with browser_of(service) as other:
        answer = await other.get("/ui/", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 303


async def test_a_session_ends_at_the_sign_out(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The cookie that was copied before is worth nothing."""
    service, client = ui
    await sign_in(service, client, "alice", Role.READER)
    copied = client.cookies["jobledger"]
    answer = await client.post(paths.UI_SIGN_OUT)
    ended = answer.headers.get_list("set-cookie")
    assert [each.partition(";")[0] for each in ended] == ["jobledger=", "__Host-jobledger="]
    assert all("Max-Age=0" in each for each in ended)
    async with browser_of(service) as other:
        other.cookies["jobledger"] = copied
        assert (await other.get("/ui/")).status_code == 303


async def test_a_session_ends_with_its_token(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """A revocation takes effect on the next request."""
    service, client = ui
    await sign_in(service, client, "alice", Role.READER)
    assert (await client.get("/ui/")).status_code == 200
    service.tokens.revoke("alice")
    assert (await client.get("/ui/")).status_code == 303
    part = await client.get("/ui/", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-redirect"][:15]) == (401, "/ui/sign-in?nex")


async def test_a_foreign_namespace_is_neither_shown_nor_accepted(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """A reader of one namespace sees its jobs only, no form that writes, and no page of the installation."""
    service, client = ui
    _, admin = service.tokens.create("admin", Role.ADMIN)
    headers = {"Authorization": f"Bearer {admin}"}
    for name, namespace in (("mine", "team-a"), ("theirs", "team-b")):
        body = job_body(name, Namespace=namespace)
        (await client.put(paths.JOBS, json=body, headers=headers)).raise_for_status()
    await sign_in(service, client, "alice", Role.READER, ["team-a"])
    answer = await client.get("/ui/")
    page = checked_page(answer)
    assert "mine" in answer.text
    assert "theirs" not in answer.text
    assert not [each for each in page.all("form") if each["action"] == paths.UI_STOP and "Stop" in each.text]
    checked_page(await client.get("/ui/", params={"namespace": "team-b"}), 400)


async def test_the_api_reference_has_the_navigation_of_who_signed_in(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """It is public; a visitor sees no pages that need a sign-in."""
    service, client = ui
    assert "Jobs" not in checked_page(await client.get(paths.DOCS)).texts("a")
    await sign_in(service, client, "alice", Role.READER)
    links = checked_page(await client.get(paths.DOCS)).texts("a")
    assert {"Jobs", "Events"} <= set(links)
    assert set(links) >= {"Health", "Audit"}  # who reads all namespaces sees the service as well


@pytest.mark.parametrize(
    "text",
    [
        "",
        "//[",
        "//evil",
        "https://evil/ui/",
        "/api/v1/events",
        "/ui\\@evil",
        "/ui/sign-in",
        "/uix",
        "/ui/\n",
    ],
)
def test_the_sign_in_leads_to_no_other_site(text: str) -> None:
    """Only a page of the UI is a target."""
    assert next_path(text) == "/ui/"
    assert next_path("/ui/?state=Failed") == "/ui/?state=Failed"


@pytest.mark.parametrize("host", ["[", "[::1", "a]:1"])
async def test_a_host_that_is_no_host_is_no_failure(ui: tuple[Service, httpx.AsyncClient], host: str) -> None:
    """The form is shown."""
    _, client = ui
    checked_page(await client.get(paths.UI_SIGN_IN, headers={"Host": host}))


async def test_a_page_is_shown_although_the_use_of_its_session_cannot_be_recorded(
    ui: tuple[Service, httpx.AsyncClient], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And a write that was done is not reported as an error."""
    service, client = ui
    await sign_in(service, client, "alice", Role.ADMIN)
    monkeypatch.setattr("jobledger.service.access.sessions.SESSION_SEEN_SECONDS", 0)

    def refuse(_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(service.sessions._changed_file, "update", refuse)
    assert (await client.get("/ui/")).status_code == 200
    assert "the disk is full" in caplog.text


@pytest.mark.parametrize(
    ("cookies", "plain", "secure"),
    [
        (["jobledger=a"], "a", ""),
        (["__Host-jobledger=b"], "b", "b"),
        (["jobledger=a; __Host-jobledger=b"], "b", "b"),
        (["jobledger=a; jobledger=c"], "", ""),
        (["jobledger=a", "jobledger=a"], "", ""),
        (["jobledger=a; jobledger=c; __Host-jobledger=b"], "b", "b"),
        (["__Host-jobledger=b; __Host-jobledger=c; jobledger=a"], "", ""),
        (["jobledger=; x=y"], "", ""),
        (["jobledger=" + "a" * 129], "", ""),
    ],
)
def test_a_cookie_of_a_neighbor_is_not_taken_for_ours(cookies: list[str], plain: str, secure: str) -> None:
    """Over TLS only the name counts that only this host can set; two of one name count as none."""
    headers = [(b"cookie", each.encode()) for each in cookies]
    assert session_cookie(headers, is_secure=False) == plain
    assert session_cookie(headers, is_secure=True) == secure


async def test_a_form_over_tls_needs_the_cookie_of_tls(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The other one may be of a neighbor."""
    service, client = ui
    await sign_in(service, client, "alice", Role.ADMIN)
    answer = await client.post(paths.UI_STOP, data={"reason": "x"}, headers={"Origin": "https://127.0.0.1"})
    assert (answer.status_code, answer.headers["location"][:11]) == (303, "/ui/sign-in")


async def test_a_session_that_ends_while_a_form_arrives_writes_nothing(
    ui: tuple[Service, httpx.AsyncClient],
) -> None:
    """A body may take half a minute."""
    service, client = ui
    await sign_in(service, client, "alice", Role.ADMIN)
    secret = client.cookies["jobledger"]

    async def slow_form() -> AsyncIterator[bytes]:
        yield b"spec="
        await service.sessions.sign_out(secret)
        yield b"x"

    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await client.post(paths.UI_SUBMIT_CHECK, content=slow_form(), headers=headers)).status_code == 401


async def test_a_reader_is_not_asked_which_jobs_to_stop(ui: tuple[Service, httpx.AsyncClient]) -> None:
    """The page is for those who may stop some."""
    service, _ = ui
    for name, role, namespaces, status in (
        ("all", Role.READER, None, 403),
        ("one", Role.READER, ["a"], 403),
        ("admin", Role.ADMIN, None, 200),
    ):
        async with browser_of(service) as other:
            await sign_in(service, other, name, role, namespaces)
            assert (await other.get(paths.UI_STOP)).status_code == status


@pytest.mark.slow
def test_every_worker_accepts_a_session(tmp_path: Path) -> None:
    """Pages, parts of the past and changes are answered by whichever process gets the request."""
    tokens = tmp_path / "tokens.json"
    _, token = TokenFile(tokens).create("alice", Role.ADMIN)
    with (
        running_service(tmp_path, "--workers", "2", "--tokens-file", str(tokens)) as service,
        httpx.Client(base_url=service.url, headers=SAME_ORIGIN) as client,
    ):
        cookie = client.post(paths.UI_SIGN_IN, data={"token": token}).headers["set-cookie"].partition(";")[0]
        headers = {**SAME_ORIGIN, "Cookie": cookie}
        for number in range(12):  # each on a connection of its own, which the kernel gives to some worker
            body = {
                "spec": f"Name: job-{number}\nType: batch\nTasks: [{{Name: main, Engine: {{Type: noop}}}}]\n"
            }
            shown = httpx.post(service.url + paths.UI_SUBMIT, data=body, headers=headers)
            seen = next(
                each["value"] for each in parse_page(shown.text).all("input") if each["name"] == "seen"
            )
            written = httpx.post(service.url + paths.UI_SUBMIT, data={**body, "seen": seen}, headers=headers)
            assert written.status_code == 303, written.text
            listed = httpx.get(f"{service.url}/ui/", headers=headers)
            assert f"job-{number}<" in listed.text
            past = httpx.get(f"{service.url}/ui/?at={number}", headers=headers)
            assert past.status_code == 200
            assert f"job-{number}<" not in past.text
