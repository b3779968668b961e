"""Log lines: text with a time zone or JSON, an access line per request, and no secrets."""

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobledger.service.access.principal import Role
from jobledger.service.limits import ACCESS_PATH_MAX_CHARACTERS, REQUESTS_KEPT_FOR_WRITES_PER_CLIENT
from jobledger.service.logs import FORMATS, LEVELS, configure_logs, write_access
from jobledger.service.settings import SETTINGS
from tests.support.middleware import Guarded
from tests.support.service_process import running_service

SECRET = "jl-secret-in-a-query"


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """What is logged; the loggers are afterwards as they were."""
    root, ours = logging.getLogger(), logging.getLogger("jobledger")
    before = (root.handlers[:], root.level, ours.level)
    yield io.StringIO()
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """The lines of JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def guarded(directory: Path, **more: str) -> tuple[Guarded, str]:
    """A gate with a token of `alice`, and the token."""
    gate = Guarded(directory, **more)  # type: ignore[arg-type]
    _, text = gate.tokens.create("alice", Role.READER, None)
    return gate, text


async def test_each_request_has_an_access_line(tmp_path: Path, stream: io.StringIO) -> None:
    """With the request id of the response, without token and query."""
    configure_logs("info", "json", stream)
    gate, token = guarded(tmp_path)
    header = {"authorization": f"Bearer {token}", "x-request-id": "id-1"}
    answer = await gate.ask(f"/api/v1/orchestrator/jobs?token={SECRET}", header)
    (line,) = lines(stream)
    assert answer.headers["x-request-id"] == line["request_id"] == "id-1"
    assert (line["principal"], line["method"], line["status"]) == ("alice", "GET", 200)
    assert line["path"] == "/api/v1/orchestrator/jobs"
    assert isinstance(line["duration_ms"], float)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", str(line["time"]))
    assert SECRET not in stream.getvalue()
    assert token not in stream.getvalue()


@pytest.mark.parametrize("access_log", ["on", "off"])
async def test_refusals_are_logged_even_without_access_log(
    tmp_path: Path, stream: io.StringIO, access_log: str
) -> None:
    """401 and 403 as warnings; other requests only with access lines."""
    configure_logs("info", "json", stream)
    gate, token = guarded(tmp_path, access_log=access_log)
    await gate.ask(headers={"authorization": f"Bearer {SECRET}"})
    _, narrow = gate.tokens.create("bob", Role.READER, ["team"])
    await gate.ask("/metrics", {"authorization": f"Bearer {narrow}"})
    await gate.ask(headers={"authorization": f"Bearer {token}"})
    found = [(line["level"], line["status"]) for line in lines(stream)]
    assert found == [("warning", 401), ("warning", 403), *([("info", 200)] if access_log == "on" else [])]
    assert SECRET not in stream.getvalue()


async def test_too_many_requests_are_logged_as_a_warning(
    tmp_path: Path, stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429, with the name of the client."""
    monkeypatch.setattr(
        "jobledger.service.limits.REQUESTS_MAX_PER_CLIENT", REQUESTS_KEPT_FOR_WRITES_PER_CLIENT
    )
    configure_logs("warning", "json", stream)
    gate, token = guarded(tmp_path, access_log="off")
    await gate.ask(headers={"authorization": f"Bearer {token}"})
    assert [(line["status"], line["principal"]) for line in lines(stream)] == [(429, "alice")]


async def test_a_text_line_has_the_zone_and_cannot_be_forged(tmp_path: Path, stream: io.StringIO) -> None:
    """A path with a newline stays on its line; a long one is truncated."""
    configure_logs("info", "text", stream)
    gate, token = guarded(tmp_path)
    header = {"authorization": f"Bearer {token}"}
    await gate.ask("/a b\n2026 ERROR forged\x1b[2J", header)
    await gate.ask("/" + "x" * 5_000, header)
    first, second = stream.getvalue().splitlines()
    zone = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [+-]\d{4}"
    assert re.match(rf"{zone} INFO jobledger\.access: GET '/a\\x20b\\n2026", first)
    assert "\x1b" not in first
    assert "principal=alice" in first
    assert len(second) < ACCESS_PATH_MAX_CHARACTERS + 300


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("worker", [0, 3])
@pytest.mark.parametrize(
    "facts",
    [("/api/v1/x", 200, "alice"), ('/a b%\n"é\ud800', 404, ""), ("/x", 429, "a=b %s"), ("/livez", 200, "p")],
)
def test_an_access_line_is_the_same_with_a_record_and_without(
    stream: io.StringIO, form: str, worker: int, facts: tuple[str, int, str]
) -> None:
    """Other handlers need a record; without them, none is made."""
    path, status, principal = facts
    configure_logs("debug", form, stream, worker=worker)
    if form == "json":
        path = path.replace("\ud800", "")
    records: list[logging.LogRecord] = []
    other = logging.Handler()
    other.emit = records.append  # type: ignore[assignment]
    for _ in range(2):
        write_access(
            request_id="id-1",
            principal=principal,
            client="::1",
            method="GET",
            path=path,
            status=status,
            seconds=0.0125,
            is_enabled=True,
        )
        logging.getLogger().addHandler(other)
    without, with_record = (
        re.sub(r"\d{4}-\d\d-\d\d[T ][\d:.]+", "~", line) for line in stream.getvalue().splitlines()
    )
    assert without == with_record
    assert len(records) == 1
    assert ("access[worker 3]" in without or '"worker":3' in without) is bool(worker)


async def test_successful_probes_are_logged_at_debug(tmp_path: Path, stream: io.StringIO) -> None:
    """They arrive every few seconds."""
    gate, _ = guarded(tmp_path)
    for level, count in (("info", 0), ("debug", 1)):
        configure_logs(level, "text", stream)
        await gate.ask("/livez")
        assert len(stream.getvalue().splitlines()) == count


def test_an_exception_is_part_of_its_json_line(stream: io.StringIO) -> None:
    """One line is one object."""
    configure_logs("error", "json", stream)
    try:
        raise ValueError("first\nsecond")  # noqa: TRY301 - its traceback is what is tested
    except ValueError:
        logging.getLogger("jobledger.service").exception("it failed")
    logging.getLogger("jobledger.service").warning("not of this level")
    (line,) = lines(stream)
    assert line["message"] == "it failed"
    assert "ValueError: first\nsecond" in str(line["exception"])


def test_the_settings_accept_the_levels_and_formats_of_the_logs() -> None:
    """Each is declared once."""
    assert SETTINGS["log_level"].words == LEVELS
    assert SETTINGS["log_format"].words == FORMATS


@pytest.mark.slow
def test_a_service_logs_according_to_its_settings(tmp_path: Path) -> None:
    """All log lines are JSON; the banner is text."""
    with running_service(tmp_path, "--log-format", "json", env={"JOBLEDGER_LOG_LEVEL": "DEBUG"}) as service:
        pass
    found = [json.loads(line) for line in service.output if line.startswith("{")]
    assert any(line["message"].startswith("ready for requests") for line in found)
    assert any(line.get("path") == "/readyz" and line["level"] == "debug" for line in found)
