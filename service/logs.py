"""The log lines on standard error: text with a time zone, or one JSON object per line.

The logger `jobledger.access` writes a line for each request. It contains the path without its query and no
header, so it can't contain a token or a secret.
"""

import logging
import sys
import time
from contextlib import nullcontext
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
        self._last = (-1, "", "")  # the last second, and how it is written: formatting one takes long
        self._access = name % {"name": _access.name}

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802
        """Return the time with milliseconds and zone."""
        return self._time(record.created)

    def access_line(self, created: float, level: int, message: str, fields: dict[str, Any]) -> str:  # noqa: ARG002
        """Return what `format` returns for an access line, without a record."""
        return f"{self._time(created)} {logging.getLevelName(level)} {self._access}: {message}"

    def _time(self, created: float) -> str:
        moment = round(created * 1e6)
        second, microseconds = divmod(moment, 1_000_000)
        last = self._last  # read and written at once: the event loop and the server's thread write lines
        if second != last[0]:
            local = datetime.fromtimestamp(second, UTC).astimezone()
            self._last = last = (second, f"{local:%Y-%m-%d %H:%M:%S}", f"{local:%z}")
        return f"{last[1]}.{microseconds // _MILLISECONDS:03d} {last[2]}"


class JsonFormatter(logging.Formatter):
    """`{"time": RFC 3339 in UTC, "level": …, "logger": …, "message": …}` and the fields of access lines."""

    def __init__(self, worker: int = 0) -> None:
        super().__init__()
        self._worker = {"worker": worker} if worker else {}

    def format(self, record: logging.LogRecord) -> str:
        """Return one object on one line."""
        line = self._line(
            record.created, record.levelname, record.name, record.getMessage(), getattr(record, _FIELDS, {})
        )
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()

    def access_line(self, created: float, level: int, message: str, fields: dict[str, Any]) -> str:
        """Return what `format` returns for an access line, without a record."""
        line = self._line(created, logging.getLevelName(level), _access.name, message, fields)
        return msgspec.json.encode(line).decode()

    def _line(
        self, created: float, level: str, logger: str, message: str, fields: dict[str, Any]
    ) -> dict[str, Any]:
        return {
            "time": format_rfc3339(round(created * 1e6) * 1_000),
            "level": level.lower(),
            "logger": logger,
            **self._worker,
            "message": message,
            **fields,
        }


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes lines to a stream; access lines without a record, which takes most of the time of one."""

    def __init__(self, stream: TextIO, formatter: TextFormatter | JsonFormatter) -> None:
        super().__init__(stream)
        self.setFormatter(formatter)
        self._lines = formatter

    def write_access(self, level: int, message: str, fields: dict[str, Any]) -> None:
        """Do what `handle` does with the record of an access line."""
        try:
            line = self._lines.access_line(time.time(), level, message, fields)
            with self.lock or nullcontext():
                self.stream.write(line + self.terminator)
                self.flush()
        except Exception:  # noqa: BLE001 - as `logging` does
            self.handleError(_record(level, message, (), fields))


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
    formatter = JsonFormatter(worker) if form == "json" else TextFormatter(worker)
    handler = LineHandler(stream or sys.stderr, formatter)
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
    handler = _only_handler(level)
    if handler is not None:
        handler.write_access(level, _ACCESS_LINE % words, fields)
    else:
        _access.handle(_record(level, _ACCESS_LINE, words, fields))


def _record(level: int, message: str, words: tuple[Any, ...], fields: dict[str, Any]) -> logging.LogRecord:
    # Not `_access.log`, which walks the stack for a line number that no format has.
    return _access.makeRecord(_access.name, level, "", 0, message, words, None, extra={_FIELDS: fields})


def _only_handler(level: int) -> LineHandler | None:
    """The handler of access lines of this level, if nothing else wants their records."""
    if _access.filters or _access.disabled:
        return None
    found: logging.Handler | None = None
    logger: logging.Logger | None = _access
    while logger is not None:
        for handler in logger.handlers:
            if level < handler.level:
                continue
            if found is not None or handler.filters:
                return None
            found = handler
        logger = logger.parent if logger.propagate else None
    return found if isinstance(found, LineHandler) else None


def _word(text: str) -> str:
    """Return a text as one word, quoted and escaped if necessary."""
    if not text:
        return "-"
    is_plain = text.isascii() and text.isprintable() and " " not in text and '"' not in text
    return text if is_plain else ascii(text).replace(" ", "\\x20")
