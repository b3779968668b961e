"""The log lines on standard error: text with a time zone, or one JSON object per line.

The logger `jobledger.access` writes a line for each request. It contains the path without its query and no
header, so it can't contain a token or a secret.
"""

import logging
import sys
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final, TextIO

import msgspec

from jobledger.service.limits import ACCESS_PATH_MAX_CHARACTERS
from jobledger.store.timestamps import format_rfc3339

LEVELS: Final = ("debug", "info", "warning", "error")
FORMATS: Final = ("text", "json")
_MILLISECONDS: Final = 1_000
_FIELDS: Final = "fields"  # attribute of a record: the fields of the JSON line
_REFUSALS: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
# Probes arrive every few seconds; their successes are only logged at level debug.
_PROBES: Final = frozenset({"/livez", "/readyz", "/metrics", "/api/v1/agent/alive"})

_ACCESS_LINE: Final = "%s %s %d %.1fms principal=%s client=%s request_id=%s"

_access = logging.getLogger("jobledger.access")


class TextFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 +0100 INFO jobledger.service: message`, in the time zone of the process."""

    def __init__(self, worker: int = 0) -> None:
        name = f"%(name)s[worker {worker}]" if worker else "%(name)s"
        super().__init__(f"%(asctime)s %(levelname)s {name}: %(message)s")
        self._second, self._text, self._zone = -1, "", ""  # the last second; formatting one takes long

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time with milliseconds and zone."""
        moment = round(record.created * 1e6)
        second, microseconds = divmod(moment, 1_000_000)
        if second != self._second:
            local = datetime.fromtimestamp(second, UTC).astimezone()
            self._second, self._text, self._zone = second, f"{local:%Y-%m-%d %H:%M:%S}", f"{local:%z}"
        return f"{self._text}.{microseconds // _MILLISECONDS:03d} {self._zone}"


class JsonFormatter(logging.Formatter):
    """`{"time": RFC 3339 in UTC, "level": …, "logger": …, "message": …}` and the fields of access lines."""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        """Return one object on one line."""
        line: dict[str, Any] = {
            "time": format_rfc3339(round(record.created * 1e6) * 1_000),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._worker,
            "message": record.getMessage(),
            **getattr(record, _FIELDS, {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def configure_logs(level: str, form: str, stream: TextIO | None = None, *, worker: int = 0) -> None:
    """Log this level and above; for other libraries, at least warnings.

    Args:
        level: one of `LEVELS`.
        form: one of `FORMATS`.
        stream: to write to; None: standard error.
        worker: the number of this worker, for its lines; 0: not a worker.
    """
    # No format has them, and collecting them takes a third of the time of a record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(worker) if form == "json" else TextFormatter(worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, level_number(level)))
    logging.getLogger("jobledger").setLevel(level_number(level))


def level_number(level: str) -> int:
    """Return the number of a level in `logging`."""
    return logging.getLevelNamesMapping()[level.upper()]


def write_access(  # the facts of one request
    *,
    request_id: str,
    principal: str,
    client: str,
    method: str,
    path: str,
    status: int,
    seconds: float,
    is_enabled: bool,
) -> None:
    """Log the access line of a request.

    Refusals (401, 403, 429) are always logged, as warnings, so that an attack is visible.

    Args:
        request_id: as in the response.
        principal: the name of the token, or the stated actor without tokens; empty if unknown.
        client: address of the client.
        method: the HTTP method.
        path: without the query.
        status: of the response.
        seconds: from the first byte of the request to the end of the response.
        is_enabled: whether requests that were not refused are logged.
    """
    level = logging.INFO
    if status in _REFUSALS:
        level = logging.WARNING
    elif not is_enabled:
        return
    elif path in _PROBES and status == HTTPStatus.OK:
        level = logging.DEBUG
    if not _access.isEnabledFor(level):
        return
    path = path if len(path) <= ACCESS_PATH_MAX_CHARACTERS else f"{path[:ACCESS_PATH_MAX_CHARACTERS]}…"
    milliseconds = round(seconds * _MILLISECONDS, 3)
    fields = {
        "request_id": request_id,
        "principal": principal,
        "client": client,
        "method": method,
        "path": path,
        "status": status,
        "duration_ms": milliseconds,
    }
    words = (
        _word(method),
        _word(path),
        status,
        milliseconds,
        _word(principal),
        client or "-",
        request_id,
    )
    # Not `_access.log`, which walks the stack for a line number that no format has.
    _access.handle(
        _access.makeRecord(_access.name, level, "", 0, _ACCESS_LINE, words, None, extra={_FIELDS: fields})
    )


def _word(text: str) -> str:
    """Return a text as one word, quoted and escaped if necessary."""
    if not text:
        return "-"
    is_plain = text.isascii() and text.isprintable() and " " not in text and '"' not in text
    return text if is_plain else ascii(text).replace(" ", "\\x20")
