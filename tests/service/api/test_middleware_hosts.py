"""Against DNS rebinding and cross-site requests: the accepted host names and origins."""

from pathlib import Path

import pytest

from jobledger.service.access.principal import Role
from tests.support.middleware import JSON, Guarded

GOOD_HOSTS = (
    "localhost",
    "localhost:1234",
    "LOCALHOST:1",
    "localhost.",
    "127.0.0.1",
    "127.0.0.1:65535",
    "[::1]",
    "[::1]:1234",
    "[0:0:0:0:0:0:0:1]:80",
)
BAD_HOSTS = (
    None,
    "",
    "evil.example",
    "evil.example:1234",
    "localhost.evil.example",
    "localhost.evil.example:1234",
    "127.0.0.1.evil.example",
    "evil.example.localhost",
    "localhost@evil.example",
    "evil.example@localhost",
    "localhost, evil.example",
    "localhost evil.example",
    "localhost:1234:1234",
    "localhost:port",
    "localhost:",
    "[::1",
    "::1",
    "[::2]",
    "[localhost]",
    "0.0.0.0",
    "127.1",
    "2130706433",
    "0x7f.1",
    "127.0.0.2",
    "localhost..",
    ".",
    "[]",
    "localhost/",
    "http://localhost",
    "locälhost",
    "[::ffff:127.0.0.1]",
    "localhost\t",
)


@pytest.mark.parametrize("host", GOOD_HOSTS)
async def test_a_service_without_tokens_accepts_the_names_of_the_loopback(tmp_path: Path, host: str) -> None:
    """With any port: it may be forwarded."""
    guarded = Guarded(tmp_path)
    for _ in range(2):
        assert (await guarded.ask(host=host)).status == 200


@pytest.mark.parametrize("host", BAD_HOSTS)
async def test_a_service_without_tokens_accepts_no_other_name(tmp_path: Path, host: str | None) -> None:
    """Not even for probes, nor after a valid request."""
    guarded = Guarded(tmp_path)
    await guarded.ask()
    for path in ("/api/v1/orchestrator/jobs", "/livez", "/docs"):
        answer = await guarded.ask(path, host=host)
        if host is None:  # RFC 9112, 3.2
            assert (answer.status, answer.problem["Code"]) == (400, "BadRequest")
            continue
        assert (answer.status, answer.problem["Code"]) == (403, "Forbidden")
        assert "allowed_hosts" in answer.problem["detail"]
    assert len(guarded.scopes) == 1


async def test_a_request_has_one_host(tmp_path: Path) -> None:
    """Missing or repeated in HTTP/1.1 is 400; probes over HTTP/1.0 need none."""
    guarded = Guarded(tmp_path)
    twice = await guarded.ask("/livez", headers=[("host", "127.0.0.1")])
    assert twice.status == 400
    old = await guarded.ask("/livez", host=None, http_version="1.0")
    assert old.status == 200
    assert (await guarded.ask("/docs", host=None, http_version="1.0")).status == 403


async def test_the_address_that_it_listens_on_and_allowed_names_are_its_own(tmp_path: Path) -> None:
    """As in the settings; case and a trailing dot do not matter."""
    guarded = Guarded(tmp_path, host="127.0.0.9", allowed_hosts=("Jobs.Example.", "::5"))
    for host in ("127.0.0.9:1", "jobs.example:443", "JOBS.example", "[::5]:1"):
        assert (await guarded.ask(host=host)).status == 200
    assert (await guarded.ask(host="x.jobs.example")).status == 403


async def test_with_tokens_any_name_is_accepted_unless_names_are_configured(tmp_path: Path) -> None:
    """Probes are answered under any name: they use addresses."""
    guarded = Guarded(tmp_path)
    _, text = guarded.tokens.create("ci", Role.ADMIN)
    header = {"authorization": f"Bearer {text}"}
    page = {**header, "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert (await guarded.ask(host="evil.example", headers=page)).status == 200
    named = Guarded(tmp_path, allowed_hosts=("jobs.example",))
    assert (await named.ask(host="jobs.example", headers=header)).status == 200
    assert (await named.ask(host="evil.example", headers=header)).status == 403
    assert (await named.ask("/livez", host="10.1.2.3:1234")).status == 200


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("localhost:1234", "http://localhost:1234"),
        ("LOCALHOST:1234", "http://localhost:1234"),
        ("localhost", "http://localhost"),
        ("localhost:80", "http://localhost"),
        ("localhost:443", "https://localhost"),
        ("[::1]:1234", "http://[::1]:1234"),
    ],
)
async def test_pages_of_the_same_origin_are_served(tmp_path: Path, host: str, origin: str) -> None:
    """The same origin: name and port."""
    headers = {"origin": origin, "sec-fetch-site": "same-origin", **JSON}
    assert (await Guarded(tmp_path).ask(method="PUT", body=b"{}", host=host, headers=headers)).status == 200


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "http://localhost",
        "http://localhost:8080",
        "http://127.0.0.1:1234",
        "http://localhost:1234.evil.example",
        "http://localhost.evil.example:1234",
        "http://evil.example@localhost:1234",
        "http://localhost:1234/",
        "ftp://localhost:1234",
        "localhost:1234",
        "https://localhost",
        "chrome-extension://abc",
        "http://localhost:1234, http://evil.example",
    ],
)
async def test_pages_of_other_origins_are_refused(tmp_path: Path, origin: str) -> None:
    """Neither writes nor reads; another port of this machine is another origin."""
    guarded = Guarded(tmp_path)
    for method in ("GET", "PUT"):
        answer = await guarded.ask(method=method, host="localhost:1234", headers={"origin": origin, **JSON})
        assert answer.status == 403
    assert guarded.scopes == []


@pytest.mark.parametrize(
    ("site", "status"),
    [("same-origin", 200), ("none", 200), ("cross-site", 403), ("same-site", 403), ("x", 403)],
)
async def test_a_cross_site_request_is_refused(tmp_path: Path, site: str, status: int) -> None:
    """Also without an Origin, as for an image; what a person typed or opened comes from no site."""
    assert (await Guarded(tmp_path).ask(headers={"sec-fetch-site": site})).status == status


async def test_no_other_page_is_ever_allowed_by_cors(tmp_path: Path) -> None:
    """A CORS preflight gets no permission."""
    guarded = Guarded(tmp_path)
    asked = {"origin": "http://evil.example", "access-control-request-method": "PUT"}
    answer = await guarded.ask(method="OPTIONS", headers=asked)
    assert answer.status == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
