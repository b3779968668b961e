"""A direct path from the socket to our own inboxes, past most of the client library.

    socket ─► client's reading task ─► parse ─┬─ message for one of our inboxes ─► its handler, at once
                                              └─ anything else ──────────────────► the library's parser

The library matches a message by regular expressions, and passes it through an object, a queue and a task.
`DirectParser` passes everything that is not ours on to the library's parser, one line or one content at a
time, so both always agree where the next message begins. `docs/decisions/` has the reasons and the gain.
"""

import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from typing import Any, Final, Protocol

Handler = Callable[[str, str, bytes, bytes], None]
"""Called for each message of an inbox, in order, on the event loop; must not block.

Its arguments: subject, reply subject, payload, and the header block as received (empty: no headers).
"""

_CRLF: Final = b"\r\n"
_log = logging.getLogger("jobledger.store")


class Parser(Protocol):
    """What is used of the library's parser.

    Attributes:
        buf: bytes that it has not used yet.
        state: differs from that of a new parser while it waits for the content of a message.
        needed: the size of that content, without the line end after it.
    """

    buf: bytearray
    state: int
    needed: int

    def parse(self, data: bytes = b"") -> Coroutine[Any, Any, None]:
        """Processes bytes from the server."""

    def reset(self) -> None:
        """Forgets all bytes: a new connection begins."""


class DirectParser:
    """Takes the place of the library's parser, and uses it for what is not ours.

    Args:
        parser: the library's, new.
        on_error: called if a handler raises.
    """

    def __init__(self, parser: Parser, on_error: Callable[[Exception], None]) -> None:
        self._parser = parser
        self._between = parser.state  # between two messages
        self._on_error = on_error
        self._handlers: dict[bytes, Handler] = {}  # by subscription id as the server writes it
        self._rest = bytearray()  # the beginning of a line, or of one of our messages
        self._needed = 0  # size of that message; 0: not known yet
        self._resets = 0

    def add(self, sid: int, handler: Handler) -> None:
        """Delivers the messages of a subscription to `handler`."""
        self._handlers[b"%d" % sid] = handler

    def remove(self, sid: int) -> None:
        """Leaves the messages of a subscription to the library."""
        self._handlers.pop(b"%d" % sid, None)

    def reset(self) -> None:
        """Forgets all bytes: called by the library for each new connection."""
        self._resets += 1
        self._rest = bytearray()
        self._needed = 0
        self._parser.reset()

    def deliver(self, sid: int, subject: bytes, reply: bytes, payload: bytes, header: bytes) -> bool:
        """Delivers a message that the library's parser has read; False if it is for another subscription."""
        handler = self._handlers.get(b"%d" % sid)
        if handler is None:
            return False
        try:
            # The server accepts a subject that is not UTF-8 from any writer.
            handler(subject.decode("utf-8", "replace"), reply.decode("utf-8", "replace"), payload, header)
        except Exception as error:  # noqa: BLE001 - like the library, which reports it and goes on
            self._on_error(error)
        return True

    async def parse(self, data: bytes = b"") -> None:
        """Processes bytes from the server: called by the library.

        Raises:
            nats.errors.ProtocolError: they are not the NATS protocol.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:
                return
            data, self._rest = bytes(self._rest), bytearray()
        parser, resets = self._parser, self._resets
        position, size = 0, len(data)
        while position < size:
            if parser.state != self._between:
                end = position + parser.needed + len(_CRLF) - len(parser.buf)
            elif parser.buf:  # a line that it neither understands nor refuses
                end = size
            else:
                position = self._deliver(data, position)
                end = data.find(_CRLF, position) + len(_CRLF)
                if self._needed or end < len(_CRLF):  # incomplete
                    self._rest += data[position:]
                    return
            await parser.parse(data[position:end])
            if self._resets != resets:  # the rest is from a connection that has ended
                return
            position = end

    def _deliver(self, data: bytes, position: int) -> int:
        """Delivers messages from a position on; returns that of the first one that is not ours or incomplete.

        `HMSG <subject> <sid> [reply] <size of headers> <size>`, or `MSG <subject> <sid> [reply] <size>`; then
        headers, payload and a line end. A line in any other form is left to the library.
        """
        find, handlers, size = data.find, self._handlers, len(data)
        self._needed = 0
        while (end := find(_CRLF, position)) >= 0:
            fields = data[position:end].split(b" ")
            count = len(fields)
            if count < 4 or (handler := handlers.get(fields[2])) is None:
                break
            operation, total = fields[0], fields[-1]
            start = body = end + 2
            if operation == b"HMSG" and count in {5, 6}:
                if not fields[-2].isdigit():
                    break
                body += int(fields[-2])
                has_reply = count == 6
            elif operation == b"MSG" and count < 6:
                has_reply = count == 5
            else:
                break
            if not total.isdigit():
                break
            stop = start + int(total)
            if stop + 2 > size:
                self._needed = stop + 2 - position
                break
            position = stop + 2
            try:
                handler(
                    fields[1].decode("utf-8", "replace"),
                    fields[3].decode("utf-8", "replace") if has_reply else "",
                    data[body:stop],
                    data[start:body],
                )
            except Exception as error:  # noqa: BLE001 - as in `deliver`
                self._on_error(error)
        return position


@cache
def is_supported(kind: Callable[[None], Any]) -> bool:
    """Whether parsers of the library behave as `DirectParser` needs it; logs a warning once if they do not.

    One is tried with the first line of a message. Nothing else is relied on: if a later release of the
    library has no use for the attribute, its subscriptions deliver as they would without a `DirectParser`.
    """
    try:
        parser = kind(None)
        between = parser.state
        with suppress(StopIteration):
            parser.parse(b"MSG a 1 2" + _CRLF).send(None)
        is_waiting = (parser.needed, parser.buf, parser.state != between) == (2, b"", True)
        parser.reset()
        if is_waiting and (parser.buf, parser.state) == (b"", between):
            return True
    except Exception:  # noqa: BLE001 - whatever is different, the library's own path works
        _log.debug("the parser of nats-py is not as expected", exc_info=True)
    _log.warning(
        "nats-py %s has another parser than expected: receiving events takes more CPU; install a version that"
        " Jobledger was tested with",
        version("nats-py"),
    )
    return False
